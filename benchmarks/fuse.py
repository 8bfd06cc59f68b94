"""Fuse an adapter into a base of the full shape of Qwen2.5-Coder-7B, and compare the logits: peak memory and time.

    .venv/bin/python -P benchmarks/fuse.py [--layers 28] [--folder DIR] [--json]

The base lies on the disk as packed 4-bit matrices with random contents (4.3 GB), so no download is needed; the adapter
is of rank 16 on every linear, the fused model in f16 takes 15.2 GB more, and all of it is removed at the end. Each step
is a process of its own, so that its largest memory is its own too. The exit status is 1 when fusing or comparing took
10 GB or more, or the fused model is not the tuned one. Run it on a disk: a folder in memory would count.
"""

import argparse
import json
import os
import platform
import shutil
import sys
import tempfile
import time
from collections.abc import Iterator
from concurrent.futures import ProcessPoolExecutor
from datetime import UTC, datetime
from multiprocessing import get_context
from pathlib import Path
from typing import Any

from tools.errors import CheckError
from tools.export.agreement import Agreement, compare, require_agreement
from tools.export.fuse import fuse
from tools.files import write_json
from tools.models.bases import TINY, base_folder
from tools.models.load import device
from tools.models.shapes import known_shape
from tools.settings import Settings
from tools.training.config import ALL_LINEARS
from tools.training.memory import high_water_gb
from tools.training.setup import versions
from tools.workspace import Workspace

LIMIT_GB, BASE, RANK, TOKENS, BITS, GROUP = 10.0, "qwen2.5-coder-7b-instruct-4bit", 16, 64, 4, 64
SHAPE = known_shape(BASE)
assert SHAPE is not None
SPREAD = 0.02  # of the adapter's B, so that fusing moves most matrices by a seventh of their spread


def linears() -> dict[str, tuple[int, int]]:
    """The linear matrices of a layer, (out, in)."""
    width, inner, kv = SHAPE.hidden_size, SHAPE.intermediate_size, SHAPE.kv_size
    sizes = {"q_proj": (width, width), "k_proj": (kv, width), "v_proj": (kv, width), "o_proj": (width, width)}
    sizes |= {"gate_proj": (inner, width), "up_proj": (inner, width), "down_proj": (width, inner)}
    assert sizes.keys() == set(ALL_LINEARS)
    return {f"{'self_attn' if name[0] in 'qkvo' else 'mlp'}.{name}": size for name, size in sizes.items()}


def tensors(layers: int) -> Iterator[dict[str, Any]]:
    """The base's tensors, a layer at a time, and those outside the layers."""
    import mlx.core as mx
    import numpy as np

    dice = np.random.default_rng(0)

    def packed(name: str, out: int, into: int) -> dict[str, Any]:
        words = dice.integers(0, 2**32, size=(out, into * BITS // 32), dtype=np.uint32)
        scales = mx.full((out, into // GROUP), 0.004, dtype=mx.float16)
        biases = mx.full((out, into // GROUP), -0.03, dtype=mx.float16)
        return {f"{name}.weight": mx.array(words), f"{name}.scales": scales, f"{name}.biases": biases}

    for number in range(layers):
        prefix = f"model.layers.{number}"
        layer: dict[str, Any] = {}
        for name, (out, into) in linears().items():
            layer |= packed(f"{prefix}.{name}", out, into)
            if name[-6:] in ("q_proj", "k_proj", "v_proj"):
                layer[f"{prefix}.{name}.bias"] = mx.zeros(out, dtype=mx.float16)
        for norm in ("input_layernorm", "post_attention_layernorm"):
            layer[f"{prefix}.{norm}.weight"] = mx.ones(SHAPE.hidden_size, dtype=mx.float16)
        yield layer
    yield packed("model.embed_tokens", SHAPE.vocab_size, SHAPE.hidden_size)
    yield packed("lm_head", SHAPE.vocab_size, SHAPE.hidden_size)
    yield {"model.norm.weight": mx.ones(SHAPE.hidden_size, dtype=mx.float16)}


def build(folder: Path, layers: int) -> None:
    """Write base and adapter; the tokenizer's files are the embedded base's, and are only copied."""
    device()
    import mlx.core as mx
    import numpy as np

    base, adapter = folder / "base", folder / "adapter"
    shutil.copytree(base_folder(Workspace.open(Settings(home=folder / "home")), TINY), base)
    (base / "model.safetensors").unlink()
    for number, part in enumerate(tensors(layers)):
        mx.save_safetensors(str(base / f"model-{number:05d}.safetensors"), part, {"format": "mlx"})
    config = {
        "architectures": ["Qwen2ForCausalLM"],
        "model_type": "qwen2",
        "hidden_size": SHAPE.hidden_size,
        "num_hidden_layers": layers,
        "intermediate_size": SHAPE.intermediate_size,
        "num_attention_heads": SHAPE.heads,
        "num_key_value_heads": SHAPE.kv_size * SHAPE.heads // SHAPE.hidden_size,
        "rms_norm_eps": 1e-6,
        "vocab_size": SHAPE.vocab_size,
        "max_position_embeddings": 32768,
        "rope_theta": 1e6,
        "tie_word_embeddings": False,
        "quantization": {"group_size": GROUP, "bits": BITS},
    }
    write_json(base / "config.json", config)
    dice = np.random.default_rng(1)
    lora: dict[str, Any] = {}
    for number in range(layers):
        for name, (out, into) in linears().items():
            stem = f"model.layers.{number}.{name}"
            lora[f"{stem}.lora_a"] = mx.array(dice.standard_normal((into, RANK), dtype=np.float32) / into**0.5)
            lora[f"{stem}.lora_b"] = mx.array(dice.standard_normal((RANK, out), dtype=np.float32) * SPREAD)
    adapter.mkdir()
    mx.save_safetensors(str(adapter / "adapters.safetensors"), lora)
    settings = {"rank": RANK, "scale": 2.0, "dropout": 0.0, "keys": list(linears())}
    write_json(
        adapter / "adapter_config.json",
        {"fine_tune_type": "lora", "num_layers": layers, "lora_parameters": settings},
    )


def fused(folder: Path) -> dict[str, Any]:
    """Fuse."""
    target = folder / "fused"
    target.mkdir()
    began = time.perf_counter()
    matrices = fuse(folder / "base", folder / "adapter", target)
    size = sum(path.stat().st_size for path in target.iterdir())
    return {
        "matrices": matrices,
        "fused_gb": round(size / 1e9, 2),
        "fuse_seconds": round(time.perf_counter() - began, 1),
        "fuse_peak_gb": round(high_water_gb(), 2),
    }


def compared(folder: Path, model: str) -> tuple[Agreement, dict[str, Any]]:
    """Compare the logits of base and adapter with those of `model`, on two rows of tokens."""
    import numpy as np

    rows = np.random.default_rng(2).integers(0, SHAPE.vocab_size, size=(2, TOKENS // 2)).tolist()
    began = time.perf_counter()
    found = compare(folder / "base", folder / "adapter", folder / model, [], rows)
    took = round(time.perf_counter() - began, 1)
    return found, {"compare_seconds": took, "compare_peak_gb": round(high_water_gb(), 2)}


def accepted(found: Agreement) -> bool:
    try:
        require_agreement(found)
    except CheckError:
        return False
    return True


def run(folder: Path, layers: int) -> dict[str, Any]:
    """All three, and the base without its adapter as a model that must not be taken for the tuned one."""

    def alone(step: Any, *arguments: Any) -> Any:
        with ProcessPoolExecutor(1, mp_context=get_context("spawn")) as pool:
            return pool.submit(step, *arguments).result()

    alone(build, folder, layers)
    found = alone(fused, folder)
    agreed, cost = alone(compared, folder, "fused")
    bare, _ = alone(compared, folder, "base")
    peak = max(found["fuse_peak_gb"], cost["compare_peak_gb"])
    return {
        "layers": layers,
        **found,
        **agreed.model_dump(),
        **cost,
        "same": accepted(agreed),
        "base_alone_refused": not accepted(bare),
        "limit_gb": LIMIT_GB,
        "passed": peak < LIMIT_GB and accepted(agreed) and not accepted(bare),
        "versions": versions(),
        "machine": f"{os.cpu_count()} × {platform.processor() or platform.machine()}, {platform.platform()}",
        "date": datetime.now(UTC).date().isoformat(),
    }


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--layers", type=int, default=28, help="of the base; 28 are all")
    parser.add_argument("--folder", type=Path, help="where to make a temporary folder: 20 GB of disk")
    parser.add_argument("--json", action="store_true", help="print one JSON value")
    options = parser.parse_args()
    with tempfile.TemporaryDirectory(dir=options.folder) as folder:
        found = run(Path(folder), options.layers)
    if options.json:
        print(json.dumps(found))
    else:
        best = f"same best token {found['same_best_without_ties']} ({found['ties']} ties)"
        print(
            f"{found['layers']} layers fused in {found['fuse_seconds']} s with {found['fuse_peak_gb']} GB, "
            f"{found['fused_gb']} GB written; compared on {found['tokens']} tokens in {found['compare_seconds']} s "
            f"with {found['compare_peak_gb']} GB: KL {found['kl']:.2g}, {best}, "
            f"mean difference {found['mean_difference']}"
        )
        print(found["machine"])
    sys.exit(0 if found["passed"] else 1)


if __name__ == "__main__":
    main()
