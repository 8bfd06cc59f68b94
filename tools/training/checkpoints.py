"""Checkpoints from which a training goes on exactly: adapter, optimizer, step and best loss.

    save(run_folder, step, model, optimizer, progress)
    latest(run_folder)                 # the newest whole checkpoint, or None
    restore(folder, model, optimizer)

A checkpoint is a folder that appears whole. The data order is a pure function of (seed, step) and dropout is seeded
per step, so nothing else has to be kept.
"""

import shutil
from pathlib import Path
from typing import Any

import mlx.core as mx
from mlx.utils import tree_flatten, tree_unflatten

from tools.files import read_json, whole_folder, write_json
from tools.training.config import TrainingConfig

KEPT = 2


def adapter_config(config: TrainingConfig, base: Path) -> dict[str, Any]:
    """What mlx-lm reads beside adapters.safetensors; its `scale` multiplies B·A directly."""
    return {
        "fine_tune_type": "lora",
        "num_layers": -1,
        "lora_parameters": {"rank": config.rank, "scale": config.scale, "dropout": config.dropout},
        "model": base.name,
    }


def save_adapter(folder: Path, model: Any, config: TrainingConfig, base: Path) -> None:
    """Write adapters.safetensors and adapter_config.json, as mlx-lm loads them."""
    mx.save_safetensors(
        str(folder / "adapters.safetensors"),
        dict(tree_flatten(model.trainable_parameters())),
        {"format": "mlx"},
    )
    write_json(folder / "adapter_config.json", adapter_config(config, base))


def save(
    run: Path,
    step: int,
    model: Any,
    optimizer: Any,
    progress: dict[str, Any],
    config: TrainingConfig,
    base: Path,
) -> Path:
    """Write the checkpoint after `step` steps, and let older ones go."""
    target = run / "checkpoints" / f"step-{step:06d}"
    if target.exists():
        return target
    with whole_folder(target) as folder:
        save_adapter(folder, model, config, base)
        mx.save_safetensors(str(folder / "optimizer.safetensors"), dict(tree_flatten(optimizer.state)))
        write_json(folder / "progress.json", {**progress, "step": step})
    for old in _all(run)[:-KEPT]:
        shutil.rmtree(old, ignore_errors=True)
    return target


def _all(run: Path) -> list[Path]:
    return sorted(path for path in (run / "checkpoints").glob("step-*") if (path / "progress.json").is_file())


def latest(run: Path) -> Path | None:
    """The newest checkpoint of a run."""
    found = _all(run)
    return found[-1] if found else None


def restore(folder: Path, model: Any, optimizer: Any) -> dict[str, Any]:
    """Load adapter and optimizer from a checkpoint; returns its progress."""
    model.load_weights(str(folder / "adapters.safetensors"), strict=False)
    state: dict[str, Any] = mx.load(str(folder / "optimizer.safetensors"))  # type: ignore[assignment]
    optimizer.state = tree_unflatten(list(state.items()))
    mx.eval(model.parameters(), optimizer.state)
    return dict(read_json(folder / "progress.json"))
