"""The process that does one job.

    python -P -m tools.jobs.worker RUN_FOLDER

It takes its turn (one heavy job at a time, since memory is what is short; the others wait in the order they were
created), does the job, and writes how it ended. A SIGTERM, as at a shutdown, lets a queued job stay queued and a
training keep a checkpoint; with `auto_resume` it goes on by itself afterwards.
"""

import faulthandler
import importlib
import signal
import sys
import traceback
from contextlib import suppress
from pathlib import Path
from types import FrameType
from typing import Any

from tools.files import full_disk, sweep, write_text
from tools.jobs.queue import take_turn
from tools.jobs.record import SHUTDOWN, Cancelled, Job, Stopped, asked_to_stop, failed, finished, now
from tools.settings import Settings
from tools.workspace import Workspace

# Which function does which kind of job; named, so that only what is needed is imported.
_DOERS = {
    "train": "tools.training.run:run_job",
    "evaluate": "tools.evaluation.compare:run_job",
    "quantize": "tools.export.quantize:run_job",
    "gate": "tools.export.gate:run_job",
    "integrate": "tools.learning.integrate:run_job",
}


def main(folder: Path) -> int:
    """Do the job in `folder`; returns 0 when it finished."""
    job = Job(folder)
    workspace = Workspace.open(Settings())
    faulthandler.enable()

    def stop(_signal: int, _frame: FrameType | None) -> None:
        if not job.cancelled:
            write_text(folder / "cancel", SHUTDOWN)

    signal.signal(signal.SIGTERM, stop)
    try:
        turn = take_turn(workspace, job)
        try:
            sweep(workspace.models)  # what a killed export left behind; nobody else writes there now
            following = f"training_status(run={job.id!r}, wait_seconds=45)"
            job.save(
                state="running",
                started=now(),
                message="starting",
                reason="It is at work.",
                next_step=following,
                finished="",
                died=False,
                requeued=0,
            )
            module, _, function = _DOERS[job.state.kind].partition(":")
            result: dict[str, Any] = getattr(importlib.import_module(module), function)(workspace, job)
            finished(job, result)
        finally:
            turn.release()
    except BaseException as error:
        if isinstance(error, OSError):
            error = full_disk(folder, error)
        if not isinstance(error, Stopped):
            with suppress(OSError):
                traceback.print_exc()
        if isinstance(error, Cancelled) and not asked_to_stop(folder):
            _shut_down(job)
        else:
            failed(job, error)
        return 1
    return 0


def _shut_down(job: Job) -> None:
    """The system, not a client, asked this process to end."""
    (job.folder / "cancel").unlink()
    if job.state.state == "queued":
        job.save(reason="It waits for its turn; the machine or its worker went down.")
        return
    failed(job, Stopped("The system asked its worker to end, as at a shutdown."))
    job.save(died=bool(job.config.get("auto_resume")))


if __name__ == "__main__":
    sys.exit(main(Path(sys.argv[1])))
