"""Plan a training before it starts: memory, steps, tokens, time, disk, and what would be cut off.

    plan = plan_training(workspace, config)     # a few seconds; nothing is trained

The rows are read and packed as training will pack them; memory comes from the base's shapes (tools.training.estimate),
time from earlier runs of the same base on this machine, or else from a matrix product measured now: training reads
4 · parameters operations a token (forward, and back through the activations; frozen weights need no gradient), and
2 · parameters more when layers are computed twice.

What is not here yet is reckoned from what is known: a base from its published shape, rows from a stated assumption, a
device from figures that others reported. `assumptions` says each.
"""

import math
from dataclasses import dataclass
from pathlib import Path

import psutil
from pydantic import BaseModel

from tools.data.datasets import read_split
from tools.data.examples import Example
from tools.data.tokens import encode
from tools.files import read_json
from tools.models.bases import (
    EMBEDDED,
    TINY,
    BaseInfo,
    base_folder,
    base_names,
    describe,
    packed_from,
    require_base,
)
from tools.models.blas import matmul_gflops
from tools.models.load import device, load_tokenizer
from tools.models.shapes import known_shape
from tools.training.config import TrainingConfig
from tools.training.estimate import Pass, largest, lora_parameters, memory_parts, peak_gb, size_bytes, speed_key
from tools.training.schedule import batch_places, step_count
from tools.workspace import Workspace

# Of the machine's measured matrix speed, the share a training reaches (SmolLM2-135M on 2 cores, packs of 400 tokens).
_EFFICIENCY = {"cpu": 0.45, "metal": 0.5, "cuda": 0.4}
# Operations a second of devices that are not this one: an M1 Max trains an 8B model in 4 bits at 98 tokens/s with
# checkpointing, as reported for mlx-lm; for CUDA a tenth of an RTX 4090's 165 TFLOP/s, a guess.
_ELSEWHERE = {"metal": 4.8e12, "cuda": 16.5e12}
_LOAD_SECONDS = 8.0
_ROWS, _ROW_TOKENS, _TRAINED = 1000, 400, 0.5  # assumed of a dataset that is not there
_CHARACTERS = 3.5  # to a token, assumed where the base's tokenizer is not there
_LISTED = 100


class Plan(BaseModel):
    """What a training will take. `basis` says where the time comes from; GB are 10⁹ bytes."""

    preset: str
    base: str
    dataset: str
    device: str
    fits: bool
    verdict: str
    peak_memory_gb: float
    limit_gb: float
    headroom_gb: float
    available_gb: float
    memory_parts_gb: dict[str, float]
    fits_up_to: dict[str, int]
    disk_gb: float
    steps: int
    rows: int
    tokens: int
    trained_tokens: int
    padding_share: float
    longest_row: int
    truncated_rows: int
    truncated_lines: list[int]
    dropped_rows: int
    trainable_parameters: int
    seconds: float
    tokens_per_second: float
    basis: str
    advice: str = ""
    assumptions: list[str] = []
    config: TrainingConfig


@dataclass
class _Rows:
    """What the rows of a training come to, over all its epochs."""

    rows: int
    tokens: float  # of the rows
    trained: float
    read: float  # that pass through the model
    largest: Pass
    row_tokens: float
    longest: int
    padding: int = 0
    cut: tuple[int, ...] = ()
    dropped: int = 0


def plan_training(workspace: Workspace, config: TrainingConfig) -> Plan:
    """What `config` will take. Without a dataset, or where the base is only known by its shape, the plan says what it
    assumes.

    Raises:
        NotFoundError, MissingError: no such dataset, or a base that is neither here nor known by its shape.
        CheckError: the dataset is not valid.
        InputError: nothing is left to train on.
    """
    here = device()  # before anything imports MLX
    where = here if config.device == "any" else config.device
    assumptions: list[str] = []
    train = read_split(workspace, config.dataset)[0] if config.dataset else []
    info, folder = _base(workspace, config, assumptions)
    rows = _rows(train, folder, config, info, where, assumptions)
    steps = step_count(rows.rows, config)
    parts = memory_parts(info, config, rows.largest, where)
    peak = sum(parts.values())
    speed, basis = _speed(workspace, info, config, here, where)
    seconds = rows.read / speed + _LOAD_SECONDS + info.size_bytes / 1e9
    memory = psutil.virtual_memory()
    limit = min(config.memory_limit_gb, memory.total / 1e9) if where == here else config.memory_limit_gb
    if where != here:
        assumptions.append(f"It runs on {where}; this machine computes on {here}, whose memory was not looked at.")
    available = memory.available / 1e9 if where == here else limit
    share = rows.trained / rows.tokens
    trainable = lora_parameters(info, config)
    kept = (config.keep_checkpoints + 3) * size_bytes(trainable)
    return Plan(
        preset=config.preset,
        base=config.base,
        dataset=config.dataset,
        device=where,
        fits=peak <= limit,
        verdict=_verdict(peak, limit, seconds, rows, config),
        peak_memory_gb=round(peak, 2),
        limit_gb=round(limit, 2),
        headroom_gb=round(limit - peak, 2),
        available_gb=round(available, 2),
        memory_parts_gb={name: round(value, 3) for name, value in parts.items()},
        fits_up_to=largest(info, config, rows.row_tokens, share, limit, where),
        disk_gb=round((kept + (0 if folder else info.size_bytes)) / 1e9, 3),
        steps=steps,
        rows=rows.rows,
        tokens=round(rows.tokens),
        trained_tokens=round(rows.trained),
        padding_share=round(rows.padding / max(1.0, rows.read), 4),
        longest_row=rows.longest,
        truncated_rows=len(rows.cut),
        truncated_lines=[line + 1 for line in rows.cut[:_LISTED]],
        dropped_rows=rows.dropped,
        trainable_parameters=trainable,
        seconds=round(seconds, 1),
        tokens_per_second=round(rows.tokens / (rows.read / speed), 1),
        basis=basis,
        advice=_advice(info, config, rows, peak, limit, available, where),
        assumptions=assumptions,
        config=config,
    )


def _base(workspace: Workspace, config: TrainingConfig, assumptions: list[str]) -> tuple[BaseInfo, Path | None]:
    """What the base is, and its folder when it is on this machine; nothing is fetched or quantized for a plan."""
    name = config.base
    if base_names(workspace).get(name) == "ready" or name in (EMBEDDED, TINY):
        folder = base_folder(workspace, name)
        return describe(folder), folder
    if full := packed_from(workspace, name):
        folder = base_folder(workspace, full)
        info = describe(folder)
        assumptions.append(f"The base will be made from {full!r}, in 4 bits, when the training starts.")
        packed = round(info.parameters * 4.5 / 8)
        return info.model_copy(update={"name": name, "quantization_bits": 4, "size_bytes": packed}), folder
    if known := known_shape(name):
        assumptions.append(f"The base {name!r} is not here; its published shape was taken.")
        return known, None
    require_base(workspace, name)
    folder = base_folder(workspace, name)
    return describe(folder), folder


def _rows(
    train: list[Example],
    folder: Path | None,
    config: TrainingConfig,
    info: BaseInfo,
    where: str,
    assumptions: list[str],
) -> _Rows:
    if train and folder:
        return _packed(train, folder, config, info, where)
    if train:
        lengths = [math.ceil((len(row.question) + len(row.answer)) / _CHARACTERS) + 30 for row in train]
        share = sum(len(row.answer) for row in train) / sum(len(row.question) + len(row.answer) for row in train)
        assumptions.append(f"Without the base's tokenizer, a token was taken to be {_CHARACTERS} characters.")
        cut = tuple(place for place, length in enumerate(lengths) if length > config.max_length)
        lengths = [min(length, config.max_length) for length in lengths]
    else:
        lengths, share, cut = [min(_ROW_TOKENS, config.max_length)] * _ROWS, _TRAINED, ()
        assumptions.append(
            f"Without a dataset, {_ROWS} rows of {lengths[0]} tokens were taken, of which {_TRAINED:.0%} are answers; "
            f"for memory, packs full to {config.pack_tokens} tokens with rows of {config.max_length}."
        )
    tokens = sum(lengths) * config.epochs
    longest = max(lengths) if train else config.max_length
    return _Rows(
        rows=len(lengths),
        tokens=tokens,
        trained=tokens * share,
        read=tokens,
        largest=Pass.full(config.pack_tokens, longest, share),
        row_tokens=sum(lengths) / len(lengths),
        longest=longest,
        cut=cut,
    )


def _packed(train: list[Example], folder: Path, config: TrainingConfig, info: BaseInfo, where: str) -> _Rows:
    """The rows as training will pack them: their largest pack decides the memory, their sum the time."""
    from tools.training.packed import packs_of

    encoded = encode(load_tokenizer(folder), train, config.max_length)
    count = len(encoded.rows)
    steps = step_count(count, config)
    sampled = min(steps, -(-count // config.batch_size), 500)  # an epoch's
    packs = [
        pack
        for step in range(sampled)
        for pack in packs_of([encoded.rows[i] for i in batch_places(count, config, step)], config.pack_tokens)
    ]
    return _Rows(
        rows=count,
        tokens=encoded.tokens * config.epochs,
        trained=encoded.trained_tokens * config.epochs,
        read=sum(len(pack.tokens) for pack in packs) * steps / sampled,
        largest=max((Pass.of(pack) for pack in packs), key=lambda shape: peak_gb(info, config, shape, where)),
        row_tokens=encoded.tokens / count,
        longest=max(len(row.ids) for row in encoded.rows),
        padding=sum(pack.padding for pack in packs),
        cut=tuple(encoded.cut),
        dropped=encoded.dropped,
    )


def _speed(workspace: Workspace, info: BaseInfo, config: TrainingConfig, here: str, where: str) -> tuple[float, str]:
    """Tokens a second through the model, and where the figure comes from."""
    operations = (6 if config.gradient_checkpointing else 4) * info.parameters
    if where != here:
        speed = _ELSEWHERE[where] / operations if where in _ELSEWHERE else matmul_gflops() * 1e9 / operations
        return speed, f"assumed for {where}, not measured"
    kept = workspace.home / "cache" / "speeds.json"
    earlier = read_json(kept).get(speed_key(info, config)) if kept.is_file() and info.sha256 else None
    if earlier:
        return float(earlier["tokens_per_second"]), f"measured by {earlier['run']}"
    gflops = matmul_gflops()
    share = _EFFICIENCY[here]
    return (
        gflops * 1e9 * share / operations,
        f"{gflops:.0f} GFLOP/s measured now, of which training reaches {share:.0%}",
    )


def _verdict(peak: float, limit: float, seconds: float, rows: _Rows, config: TrainingConfig) -> str:
    time = f"{seconds / 3600:.1f} hours" if seconds > 7200 else f"{seconds / 60:.0f} minutes"
    cut = f" {len(rows.cut)} rows are longer than {config.max_length} tokens and would be cut." if rows.cut else ""
    if peak > limit:
        return f"It does not fit: {peak:.1f} GB are needed, {limit:.1f} GB are allowed.{cut}"
    return f"It fits: {peak:.1f} of {limit:.1f} GB, {limit - peak:.1f} GB to spare, in about {time}.{cut}"


def _advice(
    info: BaseInfo, config: TrainingConfig, rows: _Rows, peak: float, limit: float, available: float, where: str
) -> str:
    ways = []
    if rows.cut and peak <= limit:
        ways.append(f"raise max_length above {config.max_length}, or shorten the rows that the plan names")
    if peak > limit:
        checked = config.model_copy(update={"gradient_checkpointing": True})
        share = rows.trained / rows.tokens
        if not config.gradient_checkpointing and peak_gb(info, checked, rows.largest, where) <= limit:
            ways.append("set gradient_checkpointing=true, which fits")
        fitting = largest(info, checked, rows.row_tokens, share, limit, where)
        if fitting["pack_tokens"] >= 16:
            length = min(config.max_length, fitting["max_length"])
            ways.append(
                f"set gradient_checkpointing=true, pack_tokens={fitting['pack_tokens']} and max_length={length}"
            )
        else:
            ways.append("take a smaller base, or allow more memory")
    elif peak > available:
        ways.append(f"close other programs: {available:.1f} GB are free now")
    return f"{'; or '.join(ways).capitalize()}." if ways else ""
