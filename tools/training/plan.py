"""Plan a training before it starts: memory, steps, tokens, time, disk, and what would be cut off.

    plan = plan_training(workspace, config)     # a few seconds; nothing is trained

The rows are read and packed as training will pack them (tools.training.rows); memory comes from the base's shapes
(tools.training.estimate), time from earlier runs of the same base on this machine, or else from a matrix product
measured now (tools.training.duration).

Nothing is fetched, unpacked or kept for a plan. What is not here yet is reckoned from what is known: a base from its
published shape, rows from a stated assumption, a device from figures that others reported. `assumptions` says each.
"""

from pathlib import Path
from tempfile import TemporaryDirectory

import psutil
from pydantic import BaseModel

from tools.data.datasets import read_split
from tools.errors import MissingError
from tools.models.bases import (
    EMBEDDED,
    HUB,
    TINY,
    BaseInfo,
    describe,
    packed_from,
    preview_embedded,
    ready_folder,
    require_base,
)
from tools.models.load import device
from tools.models.shapes import known_shape
from tools.training.config import TrainingConfig
from tools.training.duration import seconds_by, speed_of
from tools.training.estimate import activations_gb, largest, lora_parameters, memory_parts, peak_gb, size_bytes
from tools.training.memory import bound_gb
from tools.training.rows import Rows, reckon
from tools.training.schedule import step_count, valid_places
from tools.workspace import Workspace

_LISTED = 100


class Plan(BaseModel):
    """What a training will take. `basis` says where the time comes from. GB are 10⁹ bytes, of one machine; of several
    processes there, `process_gb` and `memory_parts_gb` are of one of them, and `fits_up_to` is what each may take."""

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
    processes: int
    process_gb: float
    memory_parts_gb: dict[str, float]
    fits_up_to: dict[str, int]
    disk_gb: float
    steps: int
    rows: int
    tokens: int
    trained_tokens: int
    padding_share: float
    longest_row: int
    activations_gb: dict[str, float]
    valid_rows: int
    evaluated_rows: int
    truncated_rows: int
    truncated_lines: list[int]
    dropped_rows: int
    trainable_parameters: int
    seconds: float
    seconds_by: dict[str, float]
    tokens_per_second: float
    basis: str
    advice: str = ""
    assumptions: list[str] = []
    config: TrainingConfig


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
    train, valid = read_split(workspace, config.dataset)[:2] if config.dataset else ([], [])
    evaluated = [valid[place] for place in valid_places(len(valid), config.seed)]
    with TemporaryDirectory() as scratch:
        info, folder = _base(workspace, config.base, Path(scratch), assumptions)
        rows = reckon(train, evaluated, folder, config, info, where, assumptions)
    steps = step_count(rows.rows, config)
    memory_by = memory_parts(info, config, rows.largest, where)
    each = sum(memory_by.values())
    peak = config.nproc * each
    speed = speed_of(workspace, info, config, here, where)
    _say_processes(config, assumptions)
    times = seconds_by(info, config, rows, steps, speed, where)
    seconds = sum(times.values())
    memory = psutil.virtual_memory()
    limit = bound_gb(config.memory_limit_gb) if where == here else config.memory_limit_gb
    if where != here:
        assumptions.append(f"It runs on {where}; this machine computes on {here}, whose memory was not looked at.")
    available = memory.available / 1e9 if where == here else limit
    if len(evaluated) < len(valid):
        assumptions.append(f"The validation loss is measured on {len(evaluated)} of {len(valid)} rows, taken evenly.")
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
        processes=config.processes,
        process_gb=round(each, 2),
        memory_parts_gb={name: round(value, 3) for name, value in memory_by.items()},
        fits_up_to=largest(info, config, rows.row_tokens, share, limit / config.nproc, where),
        disk_gb=round((kept + (0 if ready_folder(workspace, config.base) else info.size_bytes)) / 1e9, 3),
        steps=steps,
        rows=rows.rows,
        tokens=round(rows.tokens),
        trained_tokens=round(rows.trained),
        padding_share=round(rows.padding / max(1.0, rows.read), 4),
        longest_row=rows.longest,
        activations_gb={
            name: round(value, 3) for name, value in activations_gb(info, config, rows.largest, where).items()
        },
        valid_rows=len(valid),
        evaluated_rows=len(evaluated),
        truncated_rows=len(rows.cut),
        truncated_lines=[line + 1 for line in rows.cut[:_LISTED]],
        dropped_rows=rows.dropped,
        trainable_parameters=trainable,
        seconds=round(seconds, 1),
        seconds_by={name: round(value, 1) for name, value in times.items()},
        tokens_per_second=round(rows.tokens / (times["steps"] + times["unpacking"]), 1),
        basis=speed.basis,
        advice=_advice(info, config, rows, peak, limit, available, where),
        assumptions=assumptions,
        config=config,
    )


def _base(workspace: Workspace, name: str, scratch: Path, assumptions: list[str]) -> tuple[BaseInfo, Path | None]:
    """What the base is, and a folder with its tokenizer where there is one on this machine; nothing is fetched,
    quantized or unpacked for a plan. `scratch` is a folder that goes when the plan is made."""
    if folder := ready_folder(workspace, name):
        return describe(folder), folder
    if full := packed_from(workspace, name):
        info, tokenizer = _base(workspace, full, scratch, assumptions)
        assumptions.append(f"The base will be made from {full!r}, in 4 bits, when the training starts.")
        packed = round(info.parameters * 4.5 / 8)
        return info.model_copy(update={"name": name, "quantization_bits": 4, "size_bytes": packed}), tokenizer
    if (known := known_shape(name)) and name in (EMBEDDED, TINY):
        preview_embedded(scratch)
        assumptions.append(f"The base {name!r} will be unpacked when the training starts; its known shape was taken.")
        return known, scratch
    if known:
        fetched = f" To train, {HUB[name]} has to be fetched, {known.size_bytes / 1e9:.1f} GB." if name in HUB else ""
        assumptions.append(f"The base {name!r} is not here; its published shape was taken.{fetched}")
        return known, None
    require_base(workspace, name)
    raise MissingError(
        f"The base {name!r} is not here, and neither is its shape known; a plan fetches nothing.",
        f"fetch it and see that it answers (`looptune doctor --model {name}`), then plan",
    )


def _say_processes(config: TrainingConfig, assumptions: list[str]) -> None:
    """What the plan takes several processes to be worth; once they ran, their speed is known."""
    if config.nproc > 1:
        assumptions.append(
            f"{config.nproc} processes of a machine hold the base {config.nproc} times and share its cores, so they "
            "are reckoned to be no faster than one."
        )
    if len(config.hosts) > 1:
        assumptions.append(f"{len(config.hosts)} machines are reckoned to be alike, and their network to cost nothing.")


def _verdict(peak: float, limit: float, seconds: float, rows: Rows, config: TrainingConfig) -> str:
    time = f"{seconds / 3600:.1f} hours" if seconds > 7200 else f"{seconds / 60:.0f} minutes"
    time = f"{seconds:.0f} seconds" if seconds < 90 else time
    cut = f" {len(rows.cut)} rows are longer than {config.max_length} tokens and would be cut." if rows.cut else ""
    if peak > limit:
        return f"It does not fit: {peak:.1f} GB are needed, {limit:.1f} GB are allowed.{cut}"
    return f"It fits: {peak:.1f} of {limit:.1f} GB, {limit - peak:.1f} GB to spare, in about {time}.{cut}"


def _advice(
    info: BaseInfo, config: TrainingConfig, rows: Rows, peak: float, limit: float, available: float, where: str
) -> str:
    ways = []
    peak, limit = peak / config.nproc, limit / config.nproc  # of one process
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
    elif peak * config.nproc > available:
        ways.append(f"close other programs: {available:.1f} GB are free now")
    return f"{'; or '.join(ways).capitalize()}." if ways else ""
