"""A run's adapter as a GGUF, so that one base GGUF serves many adapters.

    convert_adapter(adapter, f16, path)         # llama-server -m BASE.gguf --lora path

llama.cpp's package has a converter for models only; the format of adapters is small: lora_a and lora_b of each matrix
under llama.cpp's names, with the row order that its converter gives q and k of Llama models, and alpha.
"""

from pathlib import Path
from typing import Any

from tools.export.names import TensorNames
from tools.files import read_json
from tools.models.load import device


def convert_adapter(adapter: Path, model: Path, target: Path) -> int:
    """Write the adapter in the folder `adapter` as f16 GGUF; returns how many matrices it changes.

    Args:
        model: a GGUF of the same model, fused or base, for names and heads.

    Raises:
        InputError: llama.cpp has no name for a matrix of the adapter.
    """
    device()
    import mlx.core as mx
    import numpy as np
    from gguf import GGUFType, GGUFWriter, Keys

    parameters = read_json(adapter / "adapter_config.json")["lora_parameters"]
    lora: dict[str, Any] = mx.load(str(adapter / "adapters.safetensors"))  # type: ignore[assignment]
    names = TensorNames(model)
    stems = sorted(name.removesuffix(".lora_a") for name in lora if name.endswith(".lora_a"))
    writer = GGUFWriter(target, names.architecture)
    writer.add_type(GGUFType.ADAPTER)
    writer.add_string(Keys.Adapter.TYPE, "lora")
    for stem in stems:
        # MLX: y += scale · (x A) B, with A (in, rank) and B (rank, out); llama.cpp: A (rank, in), B (out, rank)
        a, b = (np.array(lora[f"{stem}.{part}"].astype(mx.float32)).T for part in ("lora_a", "lora_b"))
        name = names.gguf(stem)
        writer.add_tensor(f"{name}.lora_a", np.ascontiguousarray(a, dtype=np.float16))
        writer.add_tensor(f"{name}.lora_b", np.ascontiguousarray(names.ordered(stem, b), dtype=np.float16))
    # llama.cpp scales by alpha / rank
    writer.add_float32(Keys.Adapter.LORA_ALPHA, float(parameters["scale"]) * int(parameters["rank"]))
    writer.write_header_to_file()
    writer.write_kv_data_to_file()
    writer.write_tensors_to_file()
    writer.close()
    return len(stems)
