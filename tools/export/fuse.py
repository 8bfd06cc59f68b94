"""Fuse an adapter into its base, layer by layer.

    fuse(base, adapter, target)                 # an HF folder, dequantized, f16

W' = W + scale · (A·B)ᵀ (Hu et al. 2021, arXiv:2106.09685). Fusing into packed 4-bit weights can round the tuning
away, so a quantized base is dequantized first. Each layer is read, fused, written as a file of its own and let go, so
memory holds one layer, or the embedding, whatever the model's size. The base's own tokenizer files are copied as they
are: transformers rewrites some of them on saving, and llama.cpp's converter then no longer knows the pre-tokenizer.
`tools.export.agreement` proves that the result is the same model.
"""

import re
import shutil
from collections.abc import Callable
from pathlib import Path
from typing import Any

from tools.errors import InputError
from tools.files import read_json, write_json
from tools.models.bases import weight_files
from tools.models.load import device

_REWRITTEN = ("model.safetensors.index.json", "config.json")
_LAYER = re.compile(r"\.layers\.(\d+)\.")
Fused = Callable[[int, int], None]  # told how many groups of tensors are written, and of how many; may raise to stop


def fuse(base: Path, adapter: Path, target: Path, told: Fused | None = None) -> int:
    """Write the fused model into the existing folder `target`; returns how many matrices changed.

    Raises:
        InputError: the adapter does not fit the base.
    """
    device()
    import mlx.core as mx

    config = read_json(base / "config.json")
    scale = read_json(adapter / "adapter_config.json")["lora_parameters"]["scale"]
    lora: dict[str, Any] = mx.load(str(adapter / "adapters.safetensors"))  # type: ignore[assignment]
    pairs = {name.removesuffix(".lora_a") for name in lora if name.endswith(".lora_a")}
    packing = config.get("quantization")
    groups = _groups(base)
    done: set[str] = set()
    index: dict[str, str] = {}
    mx.clear_cache()
    for number, (names, files) in enumerate(groups, start=1):
        weights = _read(files, names)
        fused: dict[str, Any] = {}
        for name in names:
            stem = name.removesuffix(".weight")
            if name.endswith((".scales", ".biases")) and f"{name.rpartition('.')[0]}.scales" in weights:
                continue
            value = weights[name]
            if packing and f"{stem}.scales" in weights:
                value = _dequantized(weights, stem, packing)
            if stem in pairs:
                value = _added(value, lora[f"{stem}.lora_a"], lora[f"{stem}.lora_b"], scale, stem)
                done.add(stem)
            # vectors (norms, biases) are small and sensitive: they stay f32
            fused[name] = value.astype(mx.float16 if value.ndim > 1 else mx.float32)
            mx.eval(fused[name])  # one matrix at a time, or every f32 sum of the layer would be alive at once
            del value
        shard = f"model-{number:05d}-of-{len(groups):05d}.safetensors"
        mx.save_safetensors(str(target / shard), fused, {"format": "pt"})
        index.update(dict.fromkeys(fused, shard))
        del weights, fused
        mx.clear_cache()
        if told:
            told(number, len(groups))
    if done != pairs:
        raise InputError(
            f"The adapter holds {len(pairs - done)} matrices that the base has not, such as {min(pairs - done)}.",
            "fuse it into the base it was trained on",
        )
    write_json(target / "model.safetensors.index.json", {"metadata": {}, "weight_map": index})
    config = {k: v for k, v in config.items() if k not in ("quantization", "quantization_config")}
    write_json(target / "config.json", {**config, "torch_dtype": "float16"})
    for path in base.iterdir():
        if path.suffix in (".json", ".txt", ".jinja", ".model") and path.name not in _REWRITTEN:
            shutil.copyfile(path, target / path.name)
    return len(done)


def _groups(base: Path) -> list[tuple[list[str], list[Path]]]:
    """The base's tensors, a layer a group, and each of those outside the layers with its scales; with their files."""
    from safetensors import safe_open

    names: dict[str, list[str]] = {}
    files: dict[str, dict[Path, None]] = {}
    for path in weight_files(base):
        with safe_open(path, framework="numpy") as weights:
            for name in weights.keys():  # noqa: SIM118  (not a dict)
                layer = _LAYER.search(name)
                key = f"layer {int(layer.group(1)):05d}" if layer else name.rpartition(".")[0]
                names.setdefault(key, []).append(name)
                files.setdefault(key, {})[path] = None
    return [(sorted(names[key]), list(files[key])) for key in sorted(names)]


def _read(files: list[Path], names: list[str]) -> dict[str, Any]:
    """The tensors `names`, from the files they lie in; MLX reads a tensor only when it is used."""
    import mlx.core as mx

    found: dict[str, Any] = {}
    for path in files:
        weights: dict[str, Any] = mx.load(str(path))  # type: ignore[assignment]
        found.update({name: weights[name] for name in names if name in weights})
    return found


def _dequantized(weights: dict[str, Any], stem: str, packing: dict[str, Any]) -> Any:
    import mlx.core as mx

    own = packing.get(stem)
    options = own if isinstance(own, dict) else packing
    return mx.dequantize(
        weights[f"{stem}.weight"],
        weights[f"{stem}.scales"],
        weights.get(f"{stem}.biases"),
        group_size=options["group_size"],
        bits=options["bits"],
        mode=options.get("mode", "affine"),
    )


def _added(weight: Any, a: Any, b: Any, scale: float, name: str) -> Any:
    """weight is (out, in), a is (in, rank), b is (rank, out)."""
    import mlx.core as mx

    if weight.shape != (b.shape[1], a.shape[0]):
        raise InputError(
            f"The adapter's {name} is for a matrix of {(b.shape[1], a.shape[0])}, the base's is {weight.shape}.",
            "fuse it into the base it was trained on",
        )
    delta = (b.T.astype(mx.float32) @ a.T.astype(mx.float32)) * scale
    return weight.astype(mx.float32) + delta
