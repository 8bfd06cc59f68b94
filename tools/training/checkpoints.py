"""Checkpoints from which a training goes on exactly: adapter, optimizer, step, best loss, and the data's place.

    save(run, step, model, optimizer, progress, config, base)
    latest(run, log)                   # the newest whole checkpoint, or None; broken ones are set aside
    restore(folder, model, optimizer)
    keep_adapter(run, model, config, base)     # the best one, at its place

A checkpoint is a folder that appears whole, with the hash of each file, which is checked before it is used. The order
of the data, the rate and each step's dropout are pure functions of (seed, step), so step and seed say where they stand.
The newest `keep_checkpoints` stay, and the one of the best validation loss, which `best.json` marks.
"""

import errno
import os
import shutil
import tempfile
from collections.abc import Callable
from pathlib import Path
from typing import Any

import mlx.core as mx
from mlx.utils import tree_flatten, tree_unflatten

from tools.errors import CheckError
from tools.files import (
    fsync_folder,
    full_disk,
    read_json,
    require_space,
    sha256,
    sweep,
    whole_folder,
    write_json,
)
from tools.training.config import ALL_LINEARS, TrainingConfig
from tools.training.estimate import size_bytes

_FILES = ("adapters.safetensors", "optimizer.safetensors", "adapter_config.json")
_PARTS = {name: "self_attn" if name[0] in "qkvo" else "mlp" for name in ALL_LINEARS}


def lora_parameters(config: TrainingConfig) -> dict[str, Any]:
    """What mlx-lm calls so; its `scale` multiplies B·A directly. Without `keys`, every linear gets an adapter."""
    found: dict[str, Any] = {"rank": config.rank, "scale": config.scale, "dropout": config.dropout}
    if set(config.targets) != set(ALL_LINEARS):
        found["keys"] = [f"{_PARTS[name]}.{name}" for name in ALL_LINEARS if name in config.targets]
    return found


def save_adapter(folder: Path, model: Any, config: TrainingConfig, base: Path) -> None:
    """Write adapters.safetensors and adapter_config.json, as mlx-lm loads them."""
    _write_adapter(folder, model)
    write_json(
        folder / "adapter_config.json",
        {
            "fine_tune_type": "lora",
            "num_layers": -1,
            "lora_parameters": lora_parameters(config),
            "model": base.name,
        },
    )


def keep_adapter(run: Path, model: Any, config: TrainingConfig, base: Path) -> None:
    """Make the adapter as it is now that of `run`: whoever looks finds the one before or this one, whole.

    What adapter_config.json says is the same throughout a run, so one rename of the weights is enough.

    Raises:
        LimitError: the disk is full; the one before stays.
    """
    kept = run / "adapter"
    if not kept.exists():
        with whole_folder(kept) as folder:
            save_adapter(folder, model, config, base)
            _flush(folder / _FILES[0])
        return
    try:
        with tempfile.TemporaryDirectory(dir=run, prefix=".adapter.") as temporary:
            fresh = _write_adapter(Path(temporary), model)
            _flush(fresh)
            fresh.replace(kept / fresh.name)
        fsync_folder(kept)
    except OSError as error:
        raise full_disk(kept, error) from error


def _write_adapter(folder: Path, model: Any) -> Path:
    path = folder / "adapters.safetensors"
    _write(path, dict(tree_flatten(model.trainable_parameters())), {"format": "mlx"})
    return path


def _write(path: Path, arrays: dict[str, Any], metadata: dict[str, str] | None = None) -> None:
    """MLX says of a full disk only that it could not write."""
    try:
        # sorted: MLX writes in the order it is given, and a restored state has another than a fresh one
        mx.save_safetensors(str(path), dict(sorted(arrays.items())), metadata or {})
    except RuntimeError as error:
        raise OSError(errno.ENOSPC, f"{path.name} could not be written: {error}") from error


def save(
    run: Path,
    step: int,
    model: Any,
    optimizer: Any,
    progress: dict[str, Any],
    config: TrainingConfig,
    base: Path,
    min_free_gb: float = 0.0,
) -> Path:
    """Write the checkpoint after `step` steps, and let older ones go.

    Raises:
        LimitError: the disk has no room for it; the earlier ones are untouched.
    """
    target = at(run, step)
    if not target.exists():
        parameters = sum(value.size for _, value in tree_flatten(model.trainable_parameters()))
        require_space(target.parent, size_bytes(parameters), min_free_gb, f"The checkpoint after step {step}")
        with whole_folder(target) as folder:
            save_adapter(folder, model, config, base)
            _write(folder / "optimizer.safetensors", dict(tree_flatten(optimizer.state)))
            hashes = {}
            for name in _FILES:
                _flush(folder / name)
                hashes[name] = sha256(folder / name)
            write_json(
                folder / "progress.json",
                {
                    **progress,
                    "step": step,
                    "seed": config.seed,
                    "rows_read": step * config.batch_size,
                    "sha256": hashes,
                },
            )
    if progress["best_step"] == step and progress["best_loss"] is not None:
        write_json(
            run / "checkpoints" / "best.json",
            {"checkpoint": target.name, "step": step, "valid_loss": progress["best_loss"]},
        )
    kept = {path.name for path in _all(run)[-config.keep_checkpoints :]} | {best(run)}
    for old in _all(run):
        if old.name not in kept:
            shutil.rmtree(old, ignore_errors=True)
    return target


def _flush(path: Path) -> None:
    """MLX writes without waiting for the disk; a checkpoint has to outlive a power cut."""
    descriptor = os.open(path, os.O_RDONLY)
    try:
        os.fsync(descriptor)
    finally:
        os.close(descriptor)


def _all(run: Path) -> list[Path]:
    return sorted(path for path in (run / "checkpoints").glob("step-*") if (path / "progress.json").is_file())


def at(run: Path, step: int) -> Path:
    """Where the checkpoint after `step` steps lies, or would."""
    return run / "checkpoints" / f"step-{step:06d}"


def step_of(folder: Path) -> int:
    """The steps after which a checkpoint was taken."""
    return int(folder.name.removeprefix("step-"))


def best(run: Path) -> str:
    """The name of the checkpoint with the best validation loss, or nothing."""
    marker = run / "checkpoints" / "best.json"
    return str(read_json(marker)["checkpoint"]) if marker.is_file() else ""


def broken(folder: Path) -> str:
    """What is wrong with a checkpoint, or nothing: a file is missing, or has other bytes than were written."""
    try:
        for name, expected in read_json(folder / "progress.json")["sha256"].items():
            if sha256(folder / name) != expected:
                return f"{name} is not what was written"
    except (OSError, ValueError, KeyError, AttributeError) as error:
        return f"{type(error).__name__}: {error}"
    return ""


def latest(run: Path, log: Callable[[str], None] = lambda text: None) -> Path | None:
    """The newest checkpoint of a run that is whole; what a kill left unfinished is swept, what is damaged set aside.

    Call it only when nobody writes there.
    """
    sweep(run / "checkpoints")
    for folder in reversed(_all(run)):
        problem = broken(folder)
        if not problem:
            return folder
        log(f"{folder.name} cannot be used ({problem}); an earlier one is taken")
        aside = folder.with_name(f"broken-{folder.name}")
        shutil.rmtree(aside, ignore_errors=True)
        folder.rename(aside)
    return None


def restore(folder: Path, model: Any, optimizer: Any, config: TrainingConfig) -> dict[str, Any]:
    """Load adapter and optimizer from a checkpoint; returns its progress.

    Raises:
        CheckError: it belongs to a training with another seed or other matrices.
    """
    progress = dict(read_json(folder / "progress.json"))
    weights: dict[str, Any] = mx.load(str(folder / "adapters.safetensors"))  # type: ignore[assignment]
    wanted = {name: value.shape for name, value in tree_flatten(model.trainable_parameters())}
    if progress["seed"] != config.seed or {name: value.shape for name, value in weights.items()} != wanted:
        raise CheckError(
            f"{folder.name} belongs to a training with another seed, rank or choice of matrices.",
            "start a new training",
        )
    model.load_weights(list(weights.items()), strict=False)
    state: dict[str, Any] = mx.load(str(folder / "optimizer.safetensors"))  # type: ignore[assignment]
    optimizer.state = tree_unflatten(list(state.items()))
    mx.eval(model.parameters(), optimizer.state)
    return progress
