"""What a training takes of memory and disk, from shapes alone: nothing is loaded.

    parts = memory_parts(info, config, Pass.of(pack), "cpu")     # GB by what takes them
    fitting_settings(info, config, rows, used_gb, limit_gb, "cpu")

Memory is a sum that can be checked: weights as they are loaded, LoRA's parameters with gradient and Adam's two moments
(4 × 4 bytes), what the backward pass keeps of each token, attention's scores, the logits, and the process itself.
benchmarks/planner.py holds it against measured peaks.
"""

import platform
from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any

from tools.data.tokens import EncodedRow
from tools.jobs.record import fingerprint
from tools.models.bases import BaseInfo
from tools.models.load import device
from tools.training.config import TrainingConfig

# Python, MLX, the tokenizer's libraries, and MLX's cache: measured on Linux (benchmarks/planner.py).
PROCESS_GB = 0.55
CACHE_GB = 0.256
_LOGITS = 12  # bytes for each logit: in f32 themselves, their softmax, their gradient


@dataclass(frozen=True)
class Pass:
    """What one pack puts through the model: tokens, those of them with a loss, and pairs that attend to each other."""

    tokens: int
    trained: int
    pairs: int

    @classmethod
    def of(cls, pack: Any) -> "Pass":
        """The pass of a `tools.training.packed.Pack`."""
        lengths = [end - begin for begin, end in pack.spans]
        pairs = pack.prefix**2 + sum(length * (length + pack.prefix) for length in lengths)
        return cls(len(pack.tokens), len(pack.target), pairs)

    @classmethod
    def full(cls, pack_tokens: int, row_tokens: float, trained_share: float) -> "Pass":
        """A pack filled with rows of one length."""
        length = min(pack_tokens, max(1.0, row_tokens))
        return cls(pack_tokens, round(pack_tokens * trained_share), round(pack_tokens * length))


def matrices(info: BaseInfo) -> dict[str, tuple[int, int]]:
    """The inputs and outputs of each linear of a layer."""
    d, f, kv = info.hidden_size, info.intermediate_size, info.kv_size
    return {
        "q_proj": (d, d),
        "k_proj": (d, kv),
        "v_proj": (d, kv),
        "o_proj": (d, d),
        "gate_proj": (d, f),
        "up_proj": (d, f),
        "down_proj": (f, d),
    }


def lora_parameters(info: BaseInfo, config: TrainingConfig) -> int:
    """Parameters of the adapter: rank · (in + out) for each matrix that gets one."""
    shapes = matrices(info)
    return info.layers * config.rank * sum(sum(shapes[name]) for name in config.targets)


def size_bytes(trainable_parameters: int) -> int:
    """Of one checkpoint: the adapter, and Adam's two moments, in f32."""
    return 3 * 4 * trainable_parameters + 100_000


def memory_parts(info: BaseInfo, config: TrainingConfig, shape: Pass, device_name: str) -> dict[str, float]:
    """GB by what takes them, while the largest pack is passed back through the model."""
    d, f, kv, layers = info.hidden_size, info.intermediate_size, info.kv_size, info.layers
    on_cpu = device_name == "cpu"
    width = 4 if on_cpu else 2  # bytes of an activation
    # kept of each token in a layer: both norms' and matrices' inputs, q k v, attention's output, the gate's four
    kept = width * (6 * d + 2 * (d + kv) + 4 * f + 2 * len(config.targets) * config.rank)
    scores = 2 * width * info.heads * shape.pairs
    inside = shape.tokens * kept + scores
    between = layers * width * d * shape.tokens
    return {
        "weights": (info.parameters * 4 if on_cpu else info.size_bytes) / 1e9,
        "lora": 16 * lora_parameters(info, config) / 1e9,
        "activations": (between + inside if config.gradient_checkpointing else layers * inside) / 1e9,
        "logits": _LOGITS * shape.trained * info.vocab_size / 1e9,
        "cache": CACHE_GB,
        "process": PROCESS_GB,
    }


def peak_gb(info: BaseInfo, config: TrainingConfig, shape: Pass, device_name: str) -> float:
    """The sum of `memory_parts`."""
    return sum(memory_parts(info, config, shape, device_name).values())


def largest(
    info: BaseInfo, config: TrainingConfig, row_tokens: float, trained_share: float, limit_gb: float, device_name: str
) -> dict[str, int]:
    """The largest pack, the rows of this length that it holds, and the longest single row that fit `limit_gb`; zeros
    when nothing does. A batch has no bound of its own: it is passed through in packs."""

    def most(length_of: Any) -> int:
        low, high = 0, 32768
        while low < high:
            middle = (low + high + 1) // 2
            shape = Pass.full(middle, length_of(middle), trained_share)
            low, high = (middle, high) if peak_gb(info, config, shape, device_name) <= limit_gb else (low, middle - 1)
        return low

    pack = most(lambda tokens: row_tokens)
    return {
        "pack_tokens": pack,
        "rows_at_once": int(pack // max(1.0, row_tokens)),
        "max_length": most(lambda tokens: tokens),
    }


def fitting_settings(
    info: BaseInfo,
    config: TrainingConfig,
    rows: Sequence[EncodedRow],
    used_gb: float,
    limit_gb: float,
    device_name: str,
) -> dict[str, int | bool]:
    """Settings with which a training that came to `used_gb` stays below nine tenths of `limit_gb`, and goes on with
    the same rows and numbers; nothing when there are none. The estimate is scaled to what was measured."""
    longest = max(rows, key=lambda row: len(row.ids))
    average = sum(len(row.ids) for row in rows) / len(rows)
    share = sum(row.trained for row in rows) / sum(len(row.ids) for row in rows)

    def estimate(changed: TrainingConfig) -> float:
        shapes = (
            Pass.full(max(changed.pack_tokens, len(longest.ids)), average, share),
            Pass(len(longest.ids), longest.trained, len(longest.ids) ** 2),
        )
        return max(peak_gb(info, changed, shape, device_name) for shape in shapes)

    scale = max(1.0, used_gb / estimate(config))
    smallest = max(config.max_length, 16)
    for checkpointing in sorted({config.gradient_checkpointing, True}):
        tokens = config.pack_tokens
        while tokens >= smallest:
            changes: dict[str, int | bool] = {}
            if checkpointing != config.gradient_checkpointing:
                changes["gradient_checkpointing"] = True
            if tokens != config.pack_tokens:
                changes["pack_tokens"] = tokens
            if changes and scale * estimate(config.model_copy(update=changes)) <= 0.9 * limit_gb:
                return changes
            tokens = max(tokens // 2, smallest) if tokens > smallest else 0
    return {}


def speed_key(info: BaseInfo, config: TrainingConfig) -> str:
    """Under which earlier speeds are kept: what decides them."""
    what: list[Any] = [info.sha256, config.rank, config.gradient_checkpointing, config.batch_size, config.pack_tokens]
    if len(config.targets) < len(matrices(info)):
        what.append(sorted(config.targets))
    return fingerprint([*what, device(), platform.node()])
