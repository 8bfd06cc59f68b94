"""Fuse an adapter into its base, and prove that the result is the same model.

    fuse(base, adapter, target)                 # an HF folder, dequantized
    agreement = compare(base, adapter, target, texts)

W' = W + scale · (A·B)ᵀ (Hu et al. 2021, arXiv:2106.09685). Fusing into packed 4-bit weights can round the tuning
away, so a quantized base is dequantized first. The base's own tokenizer files are copied as they are: transformers
rewrites some of them on saving, and llama.cpp's converter then no longer knows the pre-tokenizer.
"""

import shutil
from collections.abc import Sequence
from pathlib import Path
from typing import Any

from pydantic import BaseModel

from tools.errors import CheckError, InputError
from tools.files import read_json, write_json
from tools.models.bases import weight_files
from tools.models.load import device, load

_REWRITTEN = ("model.safetensors.index.json", "config.json")
# Fused matrices are stored as f16; these bounds are twenty times what that rounding was measured to do.
MAX_KL = 1e-3
MIN_AGREEMENT = 0.98


class Agreement(BaseModel):
    """How near two models are: Kullback-Leibler divergence (nats a token, mean), share of tokens with the same best
    next token, and the largest difference of any logit."""

    kl: float
    same_best: float
    max_difference: float
    tokens: int


def fuse(base: Path, adapter: Path, target: Path) -> int:
    """Write the fused model into the existing folder `target`, shard by shard; returns how many matrices changed.

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
    done: set[str] = set()
    index: dict[str, str] = {}
    for shard in weight_files(base):
        weights: dict[str, Any] = mx.load(str(shard))  # type: ignore[assignment]
        fused: dict[str, Any] = {}
        for name, value in weights.items():
            stem = name.removesuffix(".weight")
            if name.endswith((".scales", ".biases")) and f"{name.rpartition('.')[0]}.scales" in weights:
                continue
            if packing and f"{stem}.scales" in weights:
                value = _dequantized(weights, stem, packing)
            if stem in pairs:
                value = _added(value, lora[f"{stem}.lora_a"], lora[f"{stem}.lora_b"], scale, stem)
                done.add(stem)
            # vectors (norms, biases) are small and sensitive: they stay f32
            fused[name] = value.astype(mx.float16 if value.ndim > 1 else mx.float32)
        mx.save_safetensors(str(target / shard.name), fused, {"format": "pt"})
        index.update(dict.fromkeys(fused, shard.name))
        del weights, fused
    if done != pairs:
        raise InputError(
            f"The adapter holds {len(pairs - done)} matrices that the base has not, such as {min(pairs - done)}.",
            "fuse it into the base it was trained on",
        )
    if len(weight_files(base)) > 1:
        write_json(target / "model.safetensors.index.json", {"metadata": {}, "weight_map": index})
    config = {k: v for k, v in config.items() if k not in ("quantization", "quantization_config")}
    write_json(target / "config.json", {**config, "torch_dtype": "float16"})
    for path in base.iterdir():
        if path.suffix in (".json", ".txt", ".jinja", ".model") and path.name not in _REWRITTEN:
            shutil.copyfile(path, target / path.name)
    return len(done)


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


def compare(base: Path, adapter: Path, fused: Path, texts: Sequence[str]) -> Agreement:
    """The fused model against base plus adapter, on every token of `texts`."""
    import mlx.core as mx
    import mlx.nn as nn

    def logits(folder: Path, adapter: Path | None) -> list[Any]:
        model, tokenizer = load(folder, adapter)
        found = []
        for text in texts:
            out = model(mx.array(tokenizer.encode(text, add_special_tokens=False))[None])[0].astype(mx.float32)
            mx.eval(out)
            found.append(out)
        return found

    before, after = logits(base, adapter), logits(fused, None)
    kl, same, largest, tokens = 0.0, 0, 0.0, 0
    for p, q in zip(before, after, strict=True):
        log_p, log_q = nn.log_softmax(p, axis=-1), nn.log_softmax(q, axis=-1)
        kl += (mx.exp(log_p) * (log_p - log_q)).sum().item()
        same += (p.argmax(axis=-1) == q.argmax(axis=-1)).sum().item()
        difference: Any = mx.abs(p - q).max()
        largest = max(largest, difference.item())
        tokens += p.shape[0]
    mx.clear_cache()
    return Agreement(
        kl=round(kl / tokens, 8), same_best=round(same / tokens, 4), max_difference=round(largest, 5), tokens=tokens
    )


def require_agreement(found: Agreement) -> None:
    """Raises CheckError when fusing lost the tuning."""
    if not (found.kl <= MAX_KL and found.same_best >= MIN_AGREEMENT):
        raise CheckError(
            f"The fused model is not the trained one: KL {found.kl:.2g} (at most {MAX_KL}), same best token "
            f"{found.same_best:.3f} (at least {MIN_AGREEMENT}).",
            "this is a defect: keep the run and report it with its log",
        )
