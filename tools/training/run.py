"""A training as a job: what its worker calls, and how a run's folder fills.

run_job(workspace, job)          # job.config is a TrainingConfig

runs/ID/  setup.json             settings, versions, device, hashes of what went in
          metrics.jsonl          a line a step; tensorboard/ holds the same
          checkpoints/step-N/    from which the run goes on exactly; best.json names the best
          adapter/               the adapter of the best validation loss; loads in mlx-lm as it is
          profile.json           what it took of the machine
          written.json           the hash of each of these files when the training ended
          bad-step.json          the rows of the step whose loss was not a number

With `nproc` or `hosts` the worker starts several processes, each of which trains (tools.training.parallel).
"""

from pathlib import Path
from typing import Any

from tools.data.datasets import read_split
from tools.errors import MissingError
from tools.files import read_json, sha256, write_json
from tools.jobs.record import Job, fingerprint
from tools.models.bases import base_folder, describe
from tools.models.load import device
from tools.training.config import TrainingConfig
from tools.training.endings import foresee
from tools.training.estimate import speed_key, unpacks, way_of
from tools.training.group import Group
from tools.training.loop import Trainer
from tools.training.memory import Footprint, keep_blocks
from tools.training.metrics import Clock, profile
from tools.training.setup import describe_setup, keep_setup
from tools.workspace import Workspace

WRITTEN = "written.json"
_EVIDENCE = ("setup.json", "metrics.jsonl", "profile.json", "adapter/*", "checkpoints/**/*")


def run_job(workspace: Workspace, job: Job) -> dict[str, Any]:
    """Train as `job.config` says, in this process or in several; see `train`.

    Raises:
        WorkerDied: one of several processes ended unasked.
    """
    config = TrainingConfig.model_validate(job.config)
    if config.processes > 1:
        from tools.training.parallel import launch

        return launch(workspace, job, config)
    return train(workspace, job, config)


def train(workspace: Workspace, job: Job, config: TrainingConfig) -> dict[str, Any]:
    """Train as `config` says, from the last checkpoint when there is one; of several processes each calls this.

    Returns:
        steps, seconds, losses, trained tokens, tokens per second, peak memory (GB), hashes of what went in.

    Raises:
        Stopped: it was asked to stop, or came near its memory limit; a checkpoint was written first.
        LimitError: the disk has no room for a checkpoint.
        CheckError: the loss is not a number, or a resumed run would find other data.
        MissingError: the recipe is for another device.
    """
    clock, where = Clock(), device()
    if config.device not in ("any", where):
        raise MissingError(
            f"This recipe is for {config.device}, and this machine computes on {where}.",
            "run it there, or set device='any' and plan it again",
        )
    group = Group.of(config)
    job.report(message="loading the base")
    with Footprint(where) as memory, clock("load"):
        base = base_folder(workspace, config.base)
        train_rows, valid_rows, manifest = read_split(workspace, config.dataset)
        info = describe(base)
        if way_of(info, config, where) == "by hand" and not unpacks(info, config, where):
            keep_blocks()  # elsewhere arrays of so many sizes come and go that it takes up to 0.4 GB more
        trainer = Trainer(config, base, job, train_rows, valid_rows, workspace.settings.min_free_gb, group)
        if group.lead:
            setup = describe_setup(config, info, base, manifest, where, trainer.passes)
            for change in keep_setup(job.folder, setup):
                job.log(f"since this run began, {change}")
    with Footprint(where) as running:
        trainer.memory, trainer.clock, trainer.info = running, clock, info
        running.peak = memory.peak
        foresee(trainer)
        result = trainer.train()
    if not group.lead:
        return result
    took = profile(job.folder, clock, result["peak_memory_gb"])
    write_json(job.folder / "profile.json", took)
    _remember_speed(workspace, job, speed_key(info, config), result["read_tokens"] / result["training_seconds"])
    return {
        **result,
        "dataset": config.dataset,
        "dataset_sha256": manifest.rows_sha256,
        "train_sha256": manifest.train_sha256,
        "base": config.base,
        "base_sha256": info.sha256,
        "config": fingerprint(config.model_dump()),
        "profile": took,
        "written_sha256": write_hashes(job.folder),
    }


def write_hashes(run: Path) -> str:
    """Write down the hash of every file that a training leaves, so that later damage is not taken for its result;
    returns the hash of what was written down."""
    paths = sorted({path for pattern in _EVIDENCE for path in run.glob(pattern) if path.is_file()})
    write_json(run / WRITTEN, {path.relative_to(run).as_posix(): sha256(path) for path in paths})
    return sha256(run / WRITTEN)


def _remember_speed(workspace: Workspace, job: Job, key: str, tokens_per_second: float) -> None:
    """Keep the measured speed for the next plan."""
    kept = workspace.home / "cache" / "speeds.json"
    with workspace.lock("cache"):
        speeds = read_json(kept) if kept.is_file() else {}
        speeds[key] = {"tokens_per_second": round(tokens_per_second, 1), "run": job.id}
        write_json(kept, speeds)
