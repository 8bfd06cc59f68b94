"""One training step in the full shape of Qwen2.5-Coder-7B on this machine: its peak memory and its time.

    .venv/bin/python -P benchmarks/seven_b.py [--tokens 256] [--quick] [--json]

28 layers, 3584 wide, every matrix packed in 4 bits with random contents, so no download is needed; rank 16 on every
linear, gradient checkpointing, AdamW: the preset `qwen2.5-coder-7b-m1max` but for its length. On a CPU a matrix is
unpacked when it is used. The exit status is 1 when the process came to more than 16 GB, or to a tenth more or less than
the plan says. `--quick` takes two layers.
"""

import argparse
import json
import math
import os
import platform
import sys
import time
from datetime import UTC, datetime
from typing import Any

from tools.data.tokens import EncodedRow
from tools.models.load import device
from tools.models.shapes import known_shape
from tools.training.config import preset
from tools.training.estimate import Pass, memory_parts
from tools.training.memory import high_water_gb
from tools.training.setup import versions

LIMIT_GB, BAR = 16.0, 0.10  # and how far the plan may be off
BASE = "qwen2.5-coder-7b-instruct-4bit"


def random_base(layers: int) -> Any:
    """The model with packed random matrices, made without ever being whole in full precision."""
    import mlx.core as mx
    import mlx.nn as nn
    import numpy as np
    from mlx_lm.models.qwen2 import Model, ModelArgs

    shape = known_shape(BASE)
    assert shape is not None
    model = Model(
        ModelArgs(
            model_type="qwen2",
            hidden_size=shape.hidden_size,
            num_hidden_layers=layers,
            intermediate_size=shape.intermediate_size,
            num_attention_heads=shape.heads,
            rms_norm_eps=1e-6,
            vocab_size=shape.vocab_size,
            num_key_value_heads=shape.kv_size * shape.heads // shape.hidden_size,
            max_position_embeddings=32768,
            rope_theta=1e6,
            tie_word_embeddings=False,
        )
    )
    nn.quantize(model, group_size=64, bits=4)  # nothing is computed yet
    dice = np.random.default_rng(0)
    for _, part in model.named_modules():
        if "scales" in part:
            words = dice.integers(0, 2**32, size=part.weight.shape, dtype=np.uint32)
            part.weight = mx.array(words)
            part.scales = mx.full(part.scales.shape, 0.004)
            part.biases = mx.full(part.biases.shape, -0.03)
            mx.eval(part.weight, part.scales, part.biases)
    model.set_dtype(mx.float32)
    mx.eval(model.parameters())
    return model


def run(layers: int, tokens: int) -> dict[str, Any]:
    """Build it, and take one step."""
    where = device()
    import mlx.core as mx
    import mlx.optimizers as optim
    import numpy as np
    from mlx_lm.tuner.utils import linear_to_lora_layers

    from tools.training.checkpoints import lora_parameters
    from tools.training.packed import groups_of
    from tools.training.passes import Passes

    mx.set_cache_limit(256_000_000)
    config = preset("qwen2.5-coder-7b-m1max", dataset="random", device="any", max_length=tokens, pack_tokens=tokens)
    began = time.perf_counter()
    model = random_base(layers)
    model.freeze()
    linear_to_lora_layers(model, -1, lora_parameters(config))
    model.train()
    optimizer = optim.AdamW(learning_rate=config.learning_rate, weight_decay=config.weight_decay)
    optimizer.init(model.trainable_parameters())
    mx.eval(model.parameters(), optimizer.state)
    built = time.perf_counter() - began
    passes = Passes(model, config)
    ids = tuple(np.random.default_rng(1).integers(0, 150_000, size=tokens).tolist())
    row = EncodedRow(ids, tokens // 2)
    (group,) = groups_of([row], tokens, passes.lanes)
    began = time.perf_counter()
    loss, gradients = passes.gradients(group, row.trained)
    gradients, norm = optim.clip_grad_norm(gradients, config.clip_norm)
    optimizer.update(model, gradients)
    mx.eval(model.trainable_parameters(), optimizer.state, norm)
    seconds = time.perf_counter() - began
    info = known_shape(BASE)
    assert info is not None
    parts = memory_parts(info.model_copy(update={"layers": layers}), config, Pass.of(group), where)
    peak = high_water_gb()
    planned = sum(parts.values())
    return {
        "layers": layers,
        "tokens": tokens,
        "loss": round(loss, 3),
        "gradient_norm": round(float(norm.item()), 4),
        "build_seconds": round(built, 1),
        "step_seconds": round(seconds, 1),
        "peak_memory_gb": round(peak, 2),
        "mlx_peak_gb": round(mx.get_peak_memory() / 1e9, 2),
        "planned_gb": round(planned, 2),
        "error": round(planned / peak - 1, 4),
        "planned_parts_gb": {name: round(value, 2) for name, value in parts.items()},
        "limit_gb": LIMIT_GB,
        "passed": peak <= LIMIT_GB and math.isfinite(loss) and abs(planned / peak - 1) <= BAR,
        "device": where,
        "way": "by hand" if passes.fast else "autodiff",
        "versions": versions(),
        "machine": f"{os.cpu_count()} × {platform.processor() or platform.machine()}, {platform.platform()}",
        "date": datetime.now(UTC).date().isoformat(),
    }


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--tokens", type=int, default=256, help="of the step's one row")
    parser.add_argument("--quick", action="store_true", help="two layers and 64 tokens")
    parser.add_argument("--json", action="store_true", help="print one JSON value")
    options = parser.parse_args()
    found = run(2, 64) if options.quick else run(28, options.tokens)
    if options.json:
        print(json.dumps(found))
    else:
        print(
            f"{found['layers']} layers, {found['tokens']} tokens: {found['step_seconds']} s a step, "
            f"{found['peak_memory_gb']} GB of at most {LIMIT_GB:.0f} "
            f"(planned {found['planned_gb']}, {found['error']:+.1%})"
        )
        print(found["machine"])
    sys.exit(0 if found["passed"] else 1)


if __name__ == "__main__":
    main()
