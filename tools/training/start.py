"""Start a training, or go on with one that stopped: what can be checked is checked before a worker is started.

job, new = start_training(workspace, config, idempotency_key="nightly-0412")
job = resume_training(workspace, "run-forty-two-0001", {"pack_tokens": 512})
"""

from typing import Any

from tools.data.datasets import read_split
from tools.errors import ConflictError, NotFoundError
from tools.files import write_bytes, write_json
from tools.jobs import record
from tools.jobs.process import spawn
from tools.jobs.queue import start_keeper, tend
from tools.models.bases import require_base
from tools.training.config import RESUMABLE, TrainingConfig, resumed
from tools.training.parallel import check_hosts
from tools.workspace import Workspace


def start_training(workspace: Workspace, config: TrainingConfig, idempotency_key: str = "") -> tuple[record.Job, bool]:
    """Queue a training and start its worker; whether it is new comes with it. The same key starts one run, however
    many clients call at once.

    Raises:
        NotFoundError, MissingError: no such dataset or base, or a base or a machine that may not be used.
        CheckError: the dataset is not valid.
        ConflictError: the key was used for something else.
        LimitError: the disk is full.
    """
    read_split(workspace, config.dataset)
    require_base(workspace, config.base)
    check_hosts(workspace, config)
    job, new = record.create(workspace, "train", config.dataset, config.model_dump(), idempotency_key)
    if new or not (job.folder / "pid.json").exists():  # whoever made it may have died before it was started
        record.start(workspace, job)
    if config.auto_resume:
        start_keeper(workspace)
    tend(workspace)
    return job, new


def resume_training(workspace: Workspace, run: str, changes: dict[str, Any] | None = None) -> record.Job:
    """Go on with a stopped or failed training from its last checkpoint, exactly.

    Args:
        changes: settings that alter neither rows nor numbers (tools.training.config.RESUMABLE), such as a lower
            `pack_tokens` after a stop at the memory limit; or fewer `epochs`, with which it ends sooner, and at once
            where it is further already.

    Raises:
        NotFoundError: no such run, or it is no training.
        ConflictError: it is running, or finished.
        InputError: a change would make it another training.
    """
    with workspace.lock("runs"):
        folder = workspace.run(run)
        state = record.read(folder)
        if state.kind != "train":
            raise NotFoundError(f"{run} is no training but a {state.kind} job.", "call that tool again instead")
        if state.state not in ("stopped", "failed"):
            raise ConflictError(
                f"{run} is {state.state}; only a stopped or failed training can go on.",
                f"call training_status(run={run!r})",
            )
        job = record.Job(folder)
        config = TrainingConfig.model_validate(job.config)
        if changes:
            config = resumed(config, changes)
            write_json(folder / "changes.json", {name: getattr(config, name) for name in RESUMABLE})
        write_bytes(folder / "spare", b"\0" * record.SPARE_BYTES)
        job.save(
            state="queued",
            message="queued again",
            reason="It waits for its turn, to go on.",
            next_step=f"training_status(run={run!r}, wait_seconds=45)",
            finished="",
            died=False,
            restarts=0,
        )
        spawn(workspace, folder)
    if config.auto_resume:
        start_keeper(workspace)
    return job
