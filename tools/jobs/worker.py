"""The process that does one job.

    python -P -m tools.jobs.worker RUN_FOLDER

It takes its turn (one heavy job at a time, since memory is what is short), does the job, and writes how it ended.
"""

import faulthandler
import importlib
import signal
import sys
import traceback
from pathlib import Path
from types import FrameType
from typing import Any

from filelock import FileLock, Timeout

from tools.files import sweep, write_text
from tools.jobs.record import Cancelled, Job, failed, now
from tools.settings import Settings
from tools.workspace import Workspace

# Which function does which kind of job; named, so that only what is needed is imported.
_DOERS = {
    "train": "tools.training.loop:run_job",
    "evaluate": "tools.evaluation.compare:run_job",
    "quantize": "tools.export.quantize:run_job",
    "gate": "tools.export.gate:run_job",
}


def main(folder: Path) -> int:
    """Do the job in `folder`; returns 0 when it finished."""
    job = Job(folder)
    workspace = Workspace.open(Settings())
    faulthandler.enable()

    def stop(_signal: int, _frame: FrameType | None) -> None:
        write_text(folder / "cancel", now())

    signal.signal(signal.SIGTERM, stop)
    try:
        turn = _take_turn(workspace, job)
        try:
            sweep(workspace.models)  # what a killed export left behind; nobody else writes there now
            job.save(state="running", started=now(), message="starting", reason="", next_step="", finished="")
            module, _, function = _DOERS[job.state.kind].partition(":")
            result: dict[str, Any] = getattr(importlib.import_module(module), function)(workspace, job)
            job.save(state="finished", result=result, message="finished", finished=now())
        finally:
            turn.release()
    except BaseException as error:
        if not isinstance(error, Cancelled):
            traceback.print_exc()
        failed(job, error)
        return 1
    return 0


def _take_turn(workspace: Workspace, job: Job) -> FileLock:
    lock = FileLock(workspace.home / ".worker.lock")
    while True:
        try:
            lock.acquire(timeout=0.5)
            return lock
        except Timeout:
            job.report(message="waiting for another job to end")


if __name__ == "__main__":
    sys.exit(main(Path(sys.argv[1])))
