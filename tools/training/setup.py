"""What a run was made of, written into it when it begins: settings, versions, device, and the hashes of what went in.

    runs/ID/setup.json

A resumed run has to find the same rows and the same base; versions may differ, which its log then says.
"""

import os
import platform
from importlib.metadata import PackageNotFoundError, version
from pathlib import Path
from typing import TYPE_CHECKING, Any

import psutil

from tools.data.datasets import Manifest
from tools.errors import CheckError
from tools.files import read_json, write_json
from tools.jobs.record import now
from tools.models.bases import BaseInfo, source
from tools.models.blas import use_fast_blas
from tools.training.config import TrainingConfig

if TYPE_CHECKING:  # it loads MLX
    from tools.training.passes import Passes

_PACKAGES = ("looptune", "mlx", "mlx-cpu", "mlx-lm", "numpy", "tokenizers", "transformers", "scipy-openblas32")
_SAME = ("dataset_sha256", "train_sha256", "valid_sha256", "base_sha256")


def versions() -> dict[str, str]:
    """The packages that decide a training's numbers, as far as they are installed."""
    found = {"python": platform.python_version()}
    for name in _PACKAGES:
        try:
            found[name] = version(name)
        except PackageNotFoundError:
            continue
    return found


def describe_setup(
    config: TrainingConfig, info: BaseInfo, base: Path, manifest: Manifest, device: str, passes: "Passes"
) -> dict[str, Any]:
    """All that decides the run, and by which way its packs pass through the model."""
    return {
        "config": config.model_dump(),
        "versions": versions(),
        "device": device,
        "way": passes.way,
        "lanes": passes.lanes,
        "blas": use_fast_blas(),
        "machine": {
            "system": platform.platform(),
            "processor": platform.processor() or platform.machine(),
            "cpus": os.cpu_count(),
            "memory_gb": round(psutil.virtual_memory().total / 1e9, 1),
        },
        "dataset": manifest.name,
        "dataset_sha256": manifest.rows_sha256,
        "train_sha256": manifest.train_sha256,
        "valid_sha256": manifest.valid_sha256,
        "base": info.name,
        "base_sha256": info.sha256,
        "base_source": source(base),
        "begun": now(),
    }


def keep_setup(run: Path, setup: dict[str, Any]) -> list[str]:
    """Write `setup` into the run, or hold it against what the run began with; returns what differs but may.

    Raises:
        CheckError: rows or base are not what the run began with.
    """
    path = run / "setup.json"
    if not path.is_file():
        write_json(path, setup)
        return []
    begun = read_json(path)
    if changed := [name for name in _SAME if begun.get(name) != setup[name]]:
        raise CheckError(
            f"{run.name} began with other data: {', '.join(changed)} changed since. Going on would be neither the old "
            "training nor a new one.",
            "start a new training",
        )
    write_json(path, {**setup, "begun": begun["begun"], "resumed": now()})
    packages = begun["versions"].keys() | setup["versions"].keys()
    return [
        f"{name} was {begun['versions'].get(name)} and is {setup['versions'].get(name)}"
        for name in sorted(packages)
        if begun["versions"].get(name) != setup["versions"].get(name)
    ] + [
        f"{name} was {begun.get(name)} and is {setup[name]}"
        for name in ("device", "blas", "way", "lanes")
        if begun.get(name) != setup[name]
    ]
