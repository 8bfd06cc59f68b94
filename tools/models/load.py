"""Load a base, with or without an adapter, into MLX.

    model, tokenizer = load(folder, adapter=None)

On Metal and CUDA the weights stay as they are. MLX's CPU kernels for f16, bf16 and packed 4-bit weights are naive
loops, so on a CPU everything becomes f32 and the matrix products go to a real BLAS.
"""

import io
import os
from contextlib import redirect_stdout
from pathlib import Path
from typing import Any

from tools.errors import InputError, MissingError
from tools.models.blas import use_fast_blas
from tools.models.templates import require_harmless_each


def device() -> str:
    """What MLX computes on: `metal`, `cuda` or `cpu`."""
    use_fast_blas()
    import mlx.core as mx

    if mx.default_device() == mx.cpu:
        return "cpu"
    return "metal" if mx.metal.is_available() else "cuda"


def load_tokenizer(folder: Path) -> Any:
    """The base's own tokenizer, wrapped by mlx-lm (adds `eos_token_ids`).

    Raises:
        InputError: there is none, it cannot be read, or it has no chat template, or a hostile one.
    """
    os.environ.setdefault("HF_HUB_OFFLINE", "1")
    os.environ.setdefault("TOKENIZERS_PARALLELISM", "false")
    os.environ.setdefault("TRANSFORMERS_VERBOSITY", "error")
    use_fast_blas()
    from mlx_lm.utils import load_tokenizer as mlx_load_tokenizer

    try:
        tokenizer = mlx_load_tokenizer(folder, eos_token_ids=_eos(folder))
    except (OSError, ValueError, KeyError) as error:
        raise InputError(
            f"The tokenizer in {folder} cannot be read: {error}", "copy the complete base folder again"
        ) from error
    if not tokenizer.has_chat_template:
        raise InputError(f"The tokenizer in {folder} has no chat template.", "use an instruct model as base")
    require_harmless_each(tokenizer.chat_template, folder.name)
    return tokenizer


def _eos(folder: Path) -> list[int]:
    import json

    found: list[int] = []
    for name in ("config.json", "generation_config.json"):
        if (folder / name).is_file():
            value = json.loads((folder / name).read_text()).get("eos_token_id")
            found += value if isinstance(value, list) else [value] if value is not None else []
    return found


def load(folder: Path, adapter: Path | None = None, packed: bool = False) -> tuple[Any, Any]:
    """The model of `folder` in evaluation mode, with `adapter` applied when given, and its tokenizer.

    Args:
        packed: on a CPU, leave 4-bit weights as they are, for a caller that unpacks them itself.

    Raises:
        InputError: the folder or the adapter cannot be loaded.
    """
    on_cpu = device() == "cpu"
    import mlx.core as mx
    from mlx_lm.utils import dequantize_model, load_adapters, load_model

    try:
        with redirect_stdout(io.StringIO()):
            model, config = load_model(folder, lazy=True)
    except (FileNotFoundError, ValueError, KeyError, RuntimeError) as error:
        raise InputError(f"{folder} cannot be loaded: {error}", "copy the complete base folder again") from error
    if on_cpu:
        if config.get("quantization") and not packed:
            model = dequantize_model(model)
        model.set_dtype(mx.float32)
    tokenizer = load_tokenizer(folder)
    if adapter is not None:
        if not (adapter / "adapters.safetensors").is_file():
            raise MissingError(f"{adapter} holds no adapter yet.", "wait until its run is finished")
        with redirect_stdout(io.StringIO()):
            model = load_adapters(model, str(adapter))
    model.eval()
    mx.eval(model.parameters())
    return model, tokenizer
