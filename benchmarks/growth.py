"""The arithmetic of docs/growth.md: memory, time and traffic of larger trainings, from the planner's own sum.

    .venv/bin/python -P benchmarks/growth.py            # tables in Markdown
    .venv/bin/python -P benchmarks/growth.py --json

Nothing is run: shapes go into `tools.training.estimate`, which benchmarks/planner.py holds against measured peaks up to
the sizes that this machine can train. Of the speeds the first was measured, the others are the plan's own assumptions;
--speed NAME=TOKENS_PER_SECOND adds one.
"""

import argparse
import json
from typing import Any

from tools.models.bases import BaseInfo
from tools.models.shapes import known_shape
from tools.training.config import preset
from tools.training.duration import ELSEWHERE
from tools.training.estimate import Pass, lora_parameters, memory_parts

MEASURED = 188.0  # tokens a second of the demo's training on two cores, as docs/images/demo.svg shows it
ROWS, TOKENS_A_ROW = (1_000, 1_000_000, 1_000_000_000), 207  # of the core dataset, 70 % of them in answers


def llama_70b() -> BaseInfo:
    """The published shape of Llama 3's 70B, in 4 bits with a scale and a bias for each 64 weights."""
    parameters = 70_553_706_496
    return BaseInfo(
        name="llama-70b-4bit",
        architecture="LlamaForCausalLM",
        parameters=parameters,
        layers=80,
        hidden_size=8192,
        intermediate_size=28672,
        vocab_size=128256,
        heads=64,
        kv_size=1024,
        quantization_bits=4,
        size_bytes=parameters * 9 // 16,
        sha256="",
    )


def figures(given: dict[str, float]) -> dict[str, Any]:
    """Memory in GB by part, adapter sizes, and hours for each speed and number of rows; `given` are further speeds."""
    config = preset("qwen2.5-coder-7b-m1max", dataset="any")
    shape = Pass.full(config.pack_tokens, TOKENS_A_ROW, 0.7)
    seven = known_shape(config.base)
    assert seven is not None
    assumed = {name: speed / (6 * seven.parameters) for name, speed in ELSEWHERE.items()}  # as the plan reckons it
    speeds = {
        "135M, two CPU cores, measured": MEASURED,
        "7B, M1 Max, assumed": assumed["metal"],
        "7B, an RTX 4090, assumed": assumed["cuda"],
        **given,
    }
    found: dict[str, Any] = {"memory_gb": {}, "adapter_mb": {}, "hours": {}}
    for name, info in {"7B": seven, "70B": llama_70b()}.items():
        parts = memory_parts(info, config, shape, "metal")
        found["memory_gb"][name] = {
            **{part: round(gb, 2) for part, gb in parts.items()},
            "together": sum(parts.values()),
        }
        found["adapter_mb"][name] = round(4 * lora_parameters(info, config) / 1e6)
    for name, speed in speeds.items():
        found["hours"][name] = {rows: rows * TOKENS_A_ROW / speed / 3600 for rows in ROWS}
    return found


def markdown(found: dict[str, Any]) -> str:
    """The tables."""
    memory = found["memory_gb"]
    lines = [
        "| GB, packs of 2,048 tokens, checkpointing | " + " | ".join(memory) + " |",
        "|---|" + "---|" * len(memory),
    ]
    lines += [
        f"| {part} | " + " | ".join(f"{memory[name][part]:.1f}" for name in memory) + " |" for part in memory["7B"]
    ]
    lines += ["", "| hours for one pass | " + " | ".join(f"{rows:,} rows" for rows in ROWS) + " |", "|---|---|---|---|"]
    for name, hours in found["hours"].items():
        lines.append(f"| {name} | " + " | ".join(f"{hours[rows]:,.1f}" for rows in ROWS) + " |")
    sizes = ", ".join(f"{name} {mb} MB" for name, mb in found["adapter_mb"].items())
    return "\n".join([*lines, "", f"Gradients of an adapter, in f32, all-reduced once a step: {sizes}."])


def main() -> None:
    """The command."""
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--json", action="store_true", help="print one JSON value")
    parser.add_argument("--speed", action="append", default=[], help="NAME=TOKENS_PER_SECOND")
    given = parser.parse_args()
    own = {name: float(value) for name, _, value in (word.rpartition("=") for word in given.speed)}
    found = figures(own)
    print(json.dumps(found) if given.json else markdown(found))


if __name__ == "__main__":
    main()
