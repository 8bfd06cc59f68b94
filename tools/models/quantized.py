"""A 4-bit base from a full one, by mlx-lm's own quantizer: what QLoRA trains on.

    quantize(full, folder)       # config.json, model.safetensors (4 bits, groups of 64), the full base's own tokenizer

The tokenizer's files are copied as they are, since transformers rewrites some on saving, and llama.cpp's converter
then no longer knows them. On Metal and CUDA the packed weights are multiplied as they are; on a CPU `load`
unpacks them.
"""

import io
import shutil
from contextlib import redirect_stdout
from pathlib import Path

from tools.errors import InputError
from tools.models.blas import use_fast_blas

BITS, GROUP = 4, 64
_TOKENIZER = ("tokenizer*", "vocab*", "merges*", "special_tokens_map.json", "added_tokens.json", "*.jinja")


def quantize(full: Path, folder: Path) -> None:
    """Write the base in `full` into the existing `folder`, with its matrices in 4 bits.

    Raises:
        InputError: it cannot be read, or is quantized already.
    """
    use_fast_blas()
    import mlx.core as mx
    from mlx_lm.utils import load_model, quantize_model, save_config, save_model

    with redirect_stdout(io.StringIO()):
        try:
            model, config = load_model(full, lazy=True)
        except (OSError, ValueError, KeyError, RuntimeError) as error:
            raise InputError(f"{full} cannot be loaded: {error}", "copy the complete base folder again") from error
        if config.get("quantization"):
            raise InputError(f"{full.name} is quantized already.", "use it as it is")
        model.set_dtype(mx.bfloat16)  # scales and biases take the weights' type; f32 would cost half a bit a weight
        model, config = quantize_model(model, config, GROUP, BITS)
        save_model(folder, model, donate_model=True)
        save_config(config, config_path=folder / "config.json")
    for pattern in (*_TOKENIZER, "generation_config.json"):
        for path in full.glob(pattern):
            shutil.copyfile(path, folder / path.name)
