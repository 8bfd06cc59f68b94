"""Plan a training before it starts: memory, steps, tokens, time, and what would be cut off.

    plan = plan_training(workspace, config)     # a few seconds; nothing is trained

Memory is a sum that can be checked: weights as they are loaded, LoRA's parameters with gradient and Adam's two
moments (4 × 4 bytes), what the backward pass keeps of each token, the logits, and the process itself. Time comes from
earlier runs of the same base on this machine, or else from a matrix product measured now: training reads
4 · parameters operations a token (forward, and back through the activations; frozen weights need no gradient), and
2 · parameters more when layers are computed twice.
"""

import platform
from typing import Any

import psutil
from pydantic import BaseModel

from tools.data.datasets import read_split
from tools.data.tokens import encode
from tools.files import read_json
from tools.jobs.record import fingerprint
from tools.models.bases import BaseInfo, base_folder, describe
from tools.models.blas import matmul_gflops
from tools.models.load import device, load_tokenizer
from tools.training.config import TrainingConfig
from tools.workspace import Workspace

# Of the machine's measured matrix speed, the share a training reaches (SmolLM2-135M on 2 cores, packs of 400 tokens).
_EFFICIENCY = {"cpu": 0.45, "metal": 0.5, "cuda": 0.4}
_PROCESS_GB = 0.75  # Python, MLX, the tokenizer, and MLX's cache at its bound
_LOAD_SECONDS = 8.0


class Plan(BaseModel):
    """What a training will take. `basis` says where the time comes from; GB are 10⁹ bytes."""

    preset: str
    base: str
    dataset: str
    device: str
    fits: bool
    peak_memory_gb: float
    limit_gb: float
    available_gb: float
    memory_parts_gb: dict[str, float]
    steps: int
    rows: int
    tokens: int
    trained_tokens: int
    longest_row: int
    truncated_rows: int
    dropped_rows: int
    trainable_parameters: int
    seconds: float
    tokens_per_second: float
    basis: str
    advice: str = ""
    config: TrainingConfig


def plan_training(workspace: Workspace, config: TrainingConfig) -> Plan:
    """What `config` will take on this machine.

    Raises:
        NotFoundError, MissingError: no such dataset or base.
        CheckError: the dataset is not valid.
        InputError: nothing is left to train on.
    """
    where = device()  # before anything imports MLX
    from tools.training.loop import batch, step_count
    from tools.training.packed import packs_of

    train, _, _ = read_split(workspace, config.dataset)
    base = base_folder(workspace, config.base)
    info = describe(base)
    encoded = encode(load_tokenizer(base), train, config.max_length)
    steps = step_count(len(encoded.rows), config)
    # an epoch's packs, as training will make them: their largest decides the memory, their sum the time
    sampled = min(steps, -(-len(encoded.rows) // config.batch_size), 500)
    packs = [
        pack for step in range(sampled) for pack in packs_of(batch(encoded.rows, config, step), config.pack_tokens)
    ]
    parts = memory_parts(info, config, max(len(p.tokens) for p in packs), max(len(p.target) for p in packs), where)
    peak = sum(parts.values())
    read = sum(len(p.tokens) for p in packs) * steps / sampled
    speed, basis = _speed(workspace, info, config)
    seconds = read / speed + _LOAD_SECONDS + info.size_bytes / 1e9
    limit = min(config.memory_limit_gb, psutil.virtual_memory().total / 1e9)
    available = psutil.virtual_memory().available / 1e9
    return Plan(
        preset=config.preset,
        base=config.base,
        dataset=config.dataset,
        device=where,
        fits=peak <= limit,
        peak_memory_gb=round(peak, 2),
        limit_gb=round(limit, 2),
        available_gb=round(available, 2),
        memory_parts_gb={name: round(value, 3) for name, value in parts.items()},
        steps=steps,
        rows=len(encoded.rows),
        tokens=round(encoded.tokens * config.epochs),
        trained_tokens=round(encoded.trained_tokens * config.epochs),
        longest_row=max(len(row.ids) for row in encoded.rows),
        truncated_rows=encoded.truncated,
        dropped_rows=encoded.dropped,
        trainable_parameters=lora_parameters(info, config.rank),
        seconds=round(seconds, 1),
        tokens_per_second=round(encoded.tokens * config.epochs / (read / speed), 1),
        basis=basis,
        advice=_advice(config, peak, limit, available),
        config=config,
    )


def lora_parameters(info: BaseInfo, rank: int) -> int:
    """Parameters of LoRA on all seven matrices of each block: rank · (in + out) a matrix."""
    d, f, kv = info.hidden_size, info.intermediate_size, info.kv_size
    return info.layers * rank * (2 * (d + d) + 2 * (d + kv) + 3 * (d + f))


def memory_parts(
    info: BaseInfo, config: TrainingConfig, tokens: int, trained: int, device_name: str
) -> dict[str, float]:
    """GB by what takes them, for a pass of `tokens` tokens of which `trained` have a loss."""
    d, f, kv, vocab = info.hidden_size, info.intermediate_size, info.kv_size, info.vocab_size
    on_cpu = device_name == "cpu"
    width = 4 if on_cpu else 2  # bytes of an activation
    weights = info.parameters * 4 if on_cpu else info.size_bytes
    # kept of each token and layer: both norms' and matrices' inputs, q k v, attention's output, the gate's four
    kept = width * (6 * d + 2 * (d + kv) + 4 * f + 14 * config.rank)
    layers = info.layers
    activations = tokens * (layers * width * d + kept if config.gradient_checkpointing else layers * kept)
    return {
        "weights": weights / 1e9,
        "lora": 16 * lora_parameters(info, config.rank) / 1e9,
        "activations": activations / 1e9,
        "logits": 12 * trained * vocab / 1e9,
        "process": _PROCESS_GB,
    }


def _speed(workspace: Workspace, info: BaseInfo, config: TrainingConfig) -> tuple[float, str]:
    """Tokens a second through the model, and where the figure comes from."""
    kept = workspace.home / "cache" / "speeds.json"
    earlier = read_json(kept).get(speed_key(info, config)) if kept.is_file() else None
    if earlier:
        return float(earlier["tokens_per_second"]), f"measured by {earlier['run']}"
    operations = (6 if config.gradient_checkpointing else 4) * info.parameters
    gflops = matmul_gflops()
    share = _EFFICIENCY[device()]
    return (
        gflops * 1e9 * share / operations,
        f"{gflops:.0f} GFLOP/s measured now, of which training reaches {share:.0%}",
    )


def speed_key(info: BaseInfo, config: TrainingConfig) -> str:
    """Under which earlier speeds are kept: what decides them."""
    what: list[Any] = [info.sha256, config.rank, config.gradient_checkpointing, config.batch_size, config.pack_tokens]
    return fingerprint([*what, device(), platform.node()])


def _advice(config: TrainingConfig, peak: float, limit: float, available: float) -> str:
    if peak <= limit and peak <= available:
        return ""
    if peak > limit:
        what = f"It needs {peak:.1f} GB, more than the limit of {limit:.1f} GB"
    else:
        what = f"It needs {peak:.1f} GB, and {available:.1f} GB are free now"
    ways = ["set gradient_checkpointing=true"] if not config.gradient_checkpointing else []
    return f"{what}: {', or '.join([*ways, 'lower pack_tokens, max_length or batch_size', 'close other programs'])}."
