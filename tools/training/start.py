"""Start a training, or go on with one that stopped: what can be checked is checked before a worker is started.

job, new = start_training(workspace, config, idempotency_key="nightly-0412")
job = resume_training(workspace, "run-forty-two-0001")
"""

from tools.data.datasets import read_split
from tools.errors import ConflictError, NotFoundError
from tools.jobs import record
from tools.models.bases import require_base
from tools.training.config import TrainingConfig
from tools.workspace import Workspace


def start_training(workspace: Workspace, config: TrainingConfig, idempotency_key: str = "") -> tuple[record.Job, bool]:
    """Queue a training and start its worker; whether it is new comes with it.

    Raises:
        NotFoundError, MissingError: no such dataset or base, or a base that may not be fetched.
        CheckError: the dataset is not valid.
        ConflictError: the key was used for something else.
        LimitError: the disk is full.
    """
    read_split(workspace, config.dataset)
    require_base(workspace, config.base)
    job, new = record.create(workspace, "train", config.dataset, config.model_dump(), idempotency_key)
    if new:
        record.start(workspace, job)
    return job, new


def resume_training(workspace: Workspace, run: str) -> record.Job:
    """Go on with a stopped or failed training from its last checkpoint.

    Raises:
        NotFoundError: no such run, or it is no training.
        ConflictError: it is running, or finished.
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
        job.save(state="queued", message="queued again", reason="", next_step="", finished="")
        (folder / "pid.json").unlink(missing_ok=True)
        record.start(workspace, job)
    return job
