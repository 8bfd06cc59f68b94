"""What a training takes of memory and disk, from shapes alone: nothing is loaded.

    parts = memory_parts(info, config, Pass.of(pack), "cpu")     # GB by what takes them
    largest_pass(info, config, rows, "cpu")                      # of the packs that these rows will make
    fitting_settings(info, config, rows, used_gb, limit_gb, "cpu")

Memory is a sum that can be checked: weights as they are loaded, LoRA's parameters with their gradient (2 × 4 bytes),
the optimizer's two moments (2 × 4 bytes), what the backward pass keeps of each token with attention's scores, the
logits, freed buffers that MLX keeps, and the process itself. benchmarks/planner.py holds it against measured peaks.
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
from tools.training.group import parts
from tools.training.memory import CACHE_GB
from tools.training.schedule import batch_places, step_count
from tools.training.ways import Way, way_for

# Fitted to the peaks of fifteen configurations on a Linux CPU (benchmarks/planner.py measures others as well):
PROCESS_GB = 0.42  # Python, MLX, and the tokenizer's libraries
_FREED_BYTES = 10  # kept of freed buffers for each trained token's logit, up to CACHE_GB
# by autodiff
_KEPT = 0.65  # of a block's intermediate values, the share that MLX keeps for the way back
_SCORES = 1.15  # copies of attention's scores
_LOGITS = {"cpu": 8, "gpu": 12}  # bytes for each logit: in f32 themselves, their gradient; on a GPU their softmax too
# by hand (tools.training.fast), where what is kept can be counted
_HEAD_ROWS = 256  # whose logits are there at a time, 128 in each of two lanes; of a packed base 512 in one
_HEAD_BYTES = 20  # for each of those: in f32 themselves, and what their exponentials go through
_LATE_ROWS, _LATE_BYTES = 1280, 3.5  # rows whose logits are let go late, and bytes for each of those logits
_INSIDE = 1.5  # of a layer that is being passed back through: what it keeps, and gradients beside that


@dataclass(frozen=True)
class Pass:
    """What one pack puts through the model: tokens, those of them with a loss, and pairs that attend to each other."""

    tokens: int
    trained: int
    pairs: int

    @classmethod
    def of(cls, group: Sequence[Any]) -> "Pass":
        """The pass of a group of `tools.training.packed.Pack`, which go through the model side by side."""
        pairs = sum(
            pack.prefix**2 + sum((end - begin) * (end - begin + pack.prefix) for begin, end in pack.spans)
            for pack in group
        )
        return cls(sum(len(pack.tokens) for pack in group), sum(len(pack.target) for pack in group), pairs)

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


_SAMPLED_STEPS = 500
_PACKED_BITS = 5  # 4-bit weights on a CPU, with a scale and a bias in f32 for each group of 64


def way_of(info: BaseInfo, config: TrainingConfig, device_name: str) -> Way:
    """By which way the training goes, as far as a base's description says: "Qwen2ForCausalLM" is of type qwen2."""
    return way_for(info.architecture.removesuffix("ForCausalLM").lower(), device_name, config.dropout)


def unpacks(info: BaseInfo, config: TrainingConfig, device_name: str = "cpu") -> bool:
    """Whether 4-bit weights stay packed on a CPU, and are unpacked as they are used."""
    return info.quantization_bits is not None and way_of(info, config, device_name) == "by hand"


def sampled_groups(
    info: BaseInfo, config: TrainingConfig, rows: Sequence[EncodedRow], device_name: str
) -> tuple[list[list[Any]], float]:
    """The groups of packs that an epoch's steps, at most 500 of them, pass through the model in all processes, and how
    often the whole training has so many steps."""
    from tools.training.packed import groups_of, lanes

    count, alone = len(rows), way_of(info, config, device_name) == "autodiff, row by row"
    steps = step_count(count, config)
    sampled = min(steps, -(-count // config.batch_size), _SAMPLED_STEPS)
    side_by_side = lanes(device_name, unpacks(info, config, device_name))
    groups = [
        group
        for step in range(sampled)
        for part in parts([rows[place] for place in batch_places(count, config, step)], config.processes)
        for group in groups_of(part, config.pack_tokens, side_by_side, alone)
    ]
    return groups, steps / sampled


def largest_pass(
    info: BaseInfo, config: TrainingConfig, rows: Sequence[EncodedRow], device_name: str
) -> tuple[Pass, float]:
    """Of the packs of a training on `rows`, what the one that takes most memory puts through the model, and the GB
    that a process comes to with it."""
    return largest_of(info, config, sampled_groups(info, config, rows, device_name)[0], device_name)


def largest_of(
    info: BaseInfo, config: TrainingConfig, groups: Sequence[Sequence[Any]], device_name: str
) -> tuple[Pass, float]:
    """The same of these groups of packs."""
    shapes = sorted({Pass.of(group) for group in groups}, key=lambda shape: shape.tokens)
    found = [(shape, peak_gb(info, config, shape, device_name)) for shape in shapes]
    return max(found, key=lambda each: each[1])


def memory_parts(info: BaseInfo, config: TrainingConfig, shape: Pass, device_name: str) -> dict[str, float]:
    """GB by what takes them, while the largest group of packs is passed back through the model."""
    d, f, kv, layers, rank = info.hidden_size, info.intermediate_size, info.kv_size, info.layers, config.rank
    way = way_of(info, config, device_name)
    width = 4 if device_name == "cpu" else 2  # bytes of an activation
    if way == "by hand":
        # of each token in a layer: the inputs of norms and matrices, q k v, attention's output, gate, up, their product
        kept = width * (6 * d + 2 * kv + 3 * f)
        scores, inside = width * info.heads * shape.pairs, _INSIDE
        rows = min(shape.trained, _HEAD_ROWS * (2 if unpacks(info, config, device_name) else 1))
        late = min(shape.trained, _LATE_ROWS)
        logits = (_HEAD_BYTES * rows + _LATE_BYTES * late) * info.vocab_size
    else:
        # both norms' and matrices' inputs, q k v, attention's output, the gate's four
        kept = round(_KEPT * width * (6 * d + 2 * (d + kv) + 4 * f + 2 * len(config.targets) * rank))
        if config.dropout:  # what it leaves of each adapted matrix's input, and which of it
            kept += 2 * width * sum(matrices(info)[name][0] for name in config.targets)
        scores, inside = round(_SCORES * width * info.heads * shape.pairs), 1.0
        # row by row the model itself gives those of every token
        with_logits = shape.tokens if way == "autodiff, row by row" else shape.trained
        logits = _LOGITS["cpu" if device_name == "cpu" else "gpu"] * with_logits * info.vocab_size
    layer = shape.tokens * kept + scores
    between = layers * width * d * shape.tokens
    weights = info.parameters * 4 if device_name == "cpu" else info.size_bytes
    if unpacks(info, config, device_name):
        weights = round(info.parameters * _PACKED_BITS / 8) + _unpacked(info)
    return {
        "weights": weights / 1e9,
        "lora": 8 * lora_parameters(info, config) / 1e9,
        "optimizer": 8 * lora_parameters(info, config) / 1e9,
        "activations": (between + inside * layer if config.gradient_checkpointing else layers * layer) / 1e9,
        "logits": logits / 1e9,
        "cache": min(CACHE_GB, _FREED_BYTES * shape.trained * info.vocab_size / 1e9),
        "process": PROCESS_GB,
    }


def activations_gb(info: BaseInfo, config: TrainingConfig, shape: Pass, device_name: str) -> dict[str, float]:
    """What the backward pass keeps of the pack, without gradient checkpointing and with it."""
    both = {"without_checkpointing": False, "with_checkpointing": True}
    return {
        name: memory_parts(
            info, config.model_copy(update={"gradient_checkpointing": checkpointing}), shape, device_name
        )["activations"]
        for name, checkpointing in both.items()
    }


def _unpacked(info: BaseInfo) -> int:
    """Bytes of the largest matrices that are unpacked at a time: a layer's gate and up, or a piece of the output
    layer."""
    return 4 * info.hidden_size * max(2 * info.intermediate_size, min(16384, info.vocab_size))


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

    longest = most(lambda tokens: tokens)
    if way_of(info, config, device_name) == "autodiff, row by row":
        return {"pack_tokens": longest, "rows_at_once": min(longest, 1), "max_length": longest}
    pack = most(lambda tokens: row_tokens)
    return {"pack_tokens": pack, "rows_at_once": int(pack // max(1.0, row_tokens)), "max_length": longest}


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

    alone = way_of(info, config, device_name) == "autodiff, row by row"

    def estimate(changed: TrainingConfig) -> float:
        shapes = [Pass(len(longest.ids), longest.trained, len(longest.ids) ** 2)]
        if not alone:
            shapes.append(Pass.full(max(changed.pack_tokens, len(longest.ids)), average, share))
        found = largest_pass(info, changed, rows, device_name)[1]
        return max(found, *(peak_gb(info, changed, shape, device_name) for shape in shapes))

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
    if config.processes > 1:
        what += [config.nproc, len(config.hosts)]
    return fingerprint([*what, device(), platform.node()])
