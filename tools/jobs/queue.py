"""Whose turn it is: one heavy job at a time, the others in the order of their creation, whatever befalls their workers.

    lock = take_turn(workspace, job)      # what a worker waits for
    tend(workspace)                       # start again what should be going and is not

Each queued job has a worker that waits here. A worker that is gone (the machine was restarted) leaves its job queued;
`tend` gives it a new one. A training whose worker died goes on by itself as often as its `auto_resume` says. `tend` is
called when a server starts, by commands that look at runs, by waiting workers, and by the keeper while a run with
`auto_resume` is under way:

    python -P -m tools.jobs.queue HOME    # the keeper: ends when there is no such run any more
"""

import sys
import time
from pathlib import Path

from filelock import FileLock, Timeout

from tools.errors import ConflictError, LimitError
from tools.files import read_json
from tools.jobs import record
from tools.jobs.process import alive, detached, has_process, spawn
from tools.settings import Settings
from tools.workspace import Workspace

_POLL_SECONDS = 0.5
_TEND_SECONDS = 1.0
_REQUEUED = 3  # a worker that cannot even start is not replaced for ever
_seen: dict[Path, tuple[int, record.State]] = {}


def take_turn(workspace: Workspace, job: record.Job) -> FileLock:
    """Wait until no earlier job is waiting and none is at work; the lock that comes back is the turn.

    Raises:
        Cancelled: the job is to stop.
    """
    lock = FileLock(workspace.home / ".worker.lock")
    tended = time.monotonic()
    while True:
        before = ahead(workspace, job)
        if not before:
            try:
                lock.acquire(timeout=_POLL_SECONDS)
                if job.cancelled:  # while it slept: it has to end as a job that never began
                    lock.release()
                    raise record.Cancelled
                if not (before := ahead(workspace, job)):  # an earlier one may have come back meanwhile
                    return lock
                lock.release()
            except Timeout:
                before = ["another job"]
        job.state.reason = f"It waits for its turn: {before[0]} is before it."
        job.report(message=f"waiting for {', '.join(before[:3])} to end")
        time.sleep(_POLL_SECONDS)
        if time.monotonic() - tended > _TEND_SECONDS:
            tend(workspace)
            tended = time.monotonic()


def ahead(workspace: Workspace, job: record.Job) -> list[str]:
    """The jobs that are at work, and those that were created before `job` and wait, or will as soon as somebody tends
    them: a run that goes on by itself keeps its place."""
    mine = (job.state.created, job.id)
    found = []
    for state in _states(workspace):
        folder, earlier = workspace.runs / state.id, (state.created, state.id) < mine
        at_work = state.state in record.ACTIVE and (earlier or state.state != "queued") and has_process(folder)
        if state.id != job.id and (at_work or (earlier and _lost(folder, state))):
            found.append(state.id)
    return found


def _states(workspace: Workspace) -> list[record.State]:
    """Every job's state as written, oldest first; a file is read again only when it changed."""
    states = []
    for name in workspace.names(workspace.runs, "state.json"):
        path = workspace.runs / name / "state.json"
        changed = path.stat().st_mtime_ns
        if path not in _seen or _seen[path][0] != changed:
            _seen[path] = (changed, record.State.model_validate(read_json(path)))
        states.append(_seen[path][1])
    return sorted(states, key=lambda state: (state.created, state.id))


def tend(workspace: Workspace) -> list[str]:
    """Give a worker to each queued job that lost its own, and to each training that died and may go on by itself.

    Returns:
        The ids of the jobs that were set going.
    """
    started: list[str] = []
    lost = [state.id for state in _states(workspace) if _lost(workspace.runs / state.id, state)]
    if not lost:
        return started
    try:
        with workspace.lock("runs", timeout=2):
            for name in lost:
                if _revive(workspace, workspace.runs / name):
                    started.append(name)
    except (ConflictError, LimitError):
        return started  # somebody else is at it, or the disk is full: a later look does it
    return started


def _lost(folder: Path, state: record.State) -> bool:
    if state.state in record.ACTIVE:
        return (folder / "pid.json").exists() and not alive(folder)
    return state.died and state.restarts < allowed_restarts(folder)


def allowed_restarts(folder: Path) -> int:
    """How often the job in `folder` may go on by itself."""
    return int(record.Job(folder).config.get("auto_resume", 0))


def _revive(workspace: Workspace, folder: Path) -> bool:
    state = record.read(folder)
    with record.states_lock(folder):
        job = record.Job(folder)
        if state.state == "queued" and not alive(folder):
            if state.requeued >= _REQUEUED:
                job.save(
                    state="failed",
                    reason=f"{_REQUEUED + 1} workers ended before its turn came.",
                    next_step=f"read the end of {folder / 'log'}",
                )
                return False
            job.save(message="queued again", reason="It waits for its turn.", requeued=state.requeued + 1)
        elif state.died and state.restarts < allowed_restarts(folder):
            again = f"going on by itself after its worker died ({state.restarts + 1} of {allowed_restarts(folder)})"
            job.save(state="queued", died=False, restarts=state.restarts + 1, message=again, reason=again, finished="")
        else:
            return False
        spawn(workspace, folder)
    return True


def keep(workspace: Workspace) -> None:
    """Tend until no run under way may go on by itself; a second keeper ends at once."""
    try:
        with FileLock(workspace.home / ".keeper.lock", timeout=0):
            while any(
                state.state in record.ACTIVE and allowed_restarts(workspace.runs / state.id)
                for state in _states(workspace)
            ):
                time.sleep(1.0)
                tend(workspace)
    except Timeout:
        return


def start_keeper(workspace: Workspace) -> None:
    """Start the keeper, detached; it is light, and ends by itself."""
    detached(workspace, "tools.jobs.queue", workspace.home, log=workspace.home / "keeper.log")


if __name__ == "__main__":
    keep(Workspace.open(Settings(home=Path(sys.argv[1]))))
