"""Jobs: trainings, evaluations and quantizations, each a folder under `runs/` that is its own record.

job, new = create(workspace, "train", "forty-two", config.model_dump())
start(workspace, job)            # a process of its own, which outlives whoever started it
read(workspace.run(job.id))      # its state; a worker that died is recognised here

runs/ID/  job.json     what was asked for          pid.json   which process does it
          state.json   where it stands             log        what it printed
          cancel       exists once someone asked it to stop
          changes.json what a resumed run was asked to do otherwise
          spare        space that is given up on a full disk, so that the state can say so

States: queued → running → (stopping) → stopped, finished or failed, each with its reason and the next step.
"""

import hashlib
import json
import sys
import time
from collections.abc import Callable
from contextlib import suppress
from datetime import UTC, datetime
from pathlib import Path
from typing import Any, Literal

from filelock import FileLock
from pydantic import BaseModel

from tools.errors import ConflictError, LimitError, LooptuneError
from tools.files import read_json, require_space, whole_folder, write_bytes, write_json, write_text
from tools.jobs.process import alive, ended_how, has_process, spawn
from tools.workspace import Workspace, slug

JobKind = Literal["train", "evaluate", "quantize", "gate", "integrate"]
JobState = Literal["queued", "running", "stopping", "stopped", "finished", "failed"]
SHUTDOWN = "SIGTERM"  # what `cancel` holds when the machine, not a client, ends the worker
SPARE_BYTES = 64_000
ACTIVE = ("queued", "running", "stopping")
_PREFIX: dict[str, str] = {
    "train": "run",
    "evaluate": "eval",
    "quantize": "quant",
    "gate": "gate",
    "integrate": "integrate",
}
NOUNS: dict[str, str] = {
    "train": "a training",
    "evaluate": "an evaluation",
    "quantize": "an export",
    "gate": "a gate",
    "integrate": "an integration",
}
# What to call once a job of a kind has finished.
_AFTER = {
    "train": "evaluate_model(run={id!r})",
    "evaluate": "training_status(run={id!r}) shows the figures",
    "quantize": "evaluate_model(model={model!r}, promote=true)",
    "gate": "ask_model, if it was promoted",
    "integrate": "loop://state says whether another training is worth it",
}


_TOOL = {
    "evaluate": "evaluate_model",
    "gate": "evaluate_model",
    "quantize": "quantize",
    "integrate": "integrate_insights",
}


class Stopped(Exception):
    """The job ends here on purpose, with what is finished kept."""

    def __init__(self, reason: str, next_step: str = "") -> None:
        super().__init__(reason)
        self.reason = reason
        self.next_step = next_step


class Cancelled(Stopped):
    """Someone asked the job to stop."""

    def __init__(self) -> None:
        super().__init__("It was asked to stop.")


class WorkerDied(LooptuneError):
    """A process that did part of the job ended unasked; with `auto_resume` the job goes on by itself."""


class State(BaseModel):
    """Where a job stands. Times are ISO 8601 in UTC; `metrics` hold the latest figures; `died` says that the worker
    ended unasked, `restarts` how often the job went on by itself after that, `requeued` how often a worker that was
    lost before its turn was replaced."""

    id: str
    kind: JobKind
    state: JobState = "queued"
    message: str = ""
    reason: str = ""
    next_step: str = ""
    step: int = 0
    total: int = 0
    restarts: int = 0
    died: bool = False
    requeued: int = 0
    metrics: dict[str, float] = {}
    result: dict[str, Any] = {}
    created: str
    started: str = ""
    updated: str = ""
    finished: str = ""


def now() -> str:
    """The time, as states hold it."""
    return datetime.now(UTC).isoformat(timespec="seconds")


class Job:
    """A job's folder, and what its worker writes there."""

    def __init__(self, folder: Path) -> None:
        self.folder = folder
        self.id = folder.name
        self._written = 0.0
        self.state = State.model_validate(read_json(folder / "state.json"))

    @property
    def config(self) -> dict[str, Any]:
        """What was asked for, with what a resumed run was asked to do otherwise."""
        changes = self.folder / "changes.json"
        return {**read_json(self.folder / "job.json")["config"], **(read_json(changes) if changes.is_file() else {})}

    @property
    def cancelled(self) -> bool:
        """Whether someone asked the job to stop."""
        return (self.folder / "cancel").exists()

    def report(self, step: int | None = None, total: int | None = None, message: str = "", **metrics: float) -> None:
        """Say where the job stands, and stop here when someone asked for that.

        Raises:
            Cancelled: the job is to stop.
        """
        self.show(step, total, message, **metrics)
        if self.cancelled:
            raise Cancelled

    def show(self, step: int | None = None, total: int | None = None, message: str = "", **metrics: float) -> None:
        """Say where the job stands."""
        if step is not None:
            self.state.step = step
        if total is not None:
            self.state.total = total
        self.state.message = message or self.state.message
        self.state.metrics.update(metrics)
        # a state a second is enough to follow, and spares the disk
        if time.monotonic() - self._written > 0.7 or (step is not None and step == total):
            self.save()

    def save(self, **changes: Any) -> None:
        """Write the state, with `changes`."""
        self.state = self.state.model_copy(update={**changes, "updated": now()})
        write_json(self.folder / "state.json", self.state.model_dump())
        self._written = time.monotonic()

    def log(self, text: str) -> None:
        """A line for the job's log; a worker's stderr goes there."""
        with suppress(OSError):  # a full disk ends a job where its results are written, not here
            sys.stderr.write(f"{now()} {text}\n")
            sys.stderr.flush()


def create(
    workspace: Workspace, kind: JobKind, title: str, config: dict[str, Any], idempotency_key: str = ""
) -> tuple[Job, bool]:
    """A new queued job, or the one that was made with the same `idempotency_key`; and whether it is new.

    Raises:
        LimitError: the disk is full.
        ConflictError: the key was used for something else.
    """
    require_space(workspace.runs, 50_000_000, workspace.settings.min_free_gb, f"A {kind} job")
    with workspace.lock("runs"):
        record = {"kind": kind, "config": config, "idempotency_key": idempotency_key}
        if earlier := find(workspace, idempotency_key):
            if read_json(earlier.folder / "job.json") != record:
                raise ConflictError(
                    f"The idempotency key {idempotency_key!r} belongs to {earlier.id}, which was asked for something "
                    "else.",
                    "use a new key for a new job",
                )
            return earlier, False
        stem = f"{_PREFIX[kind]}-{slug(title)}"
        number = 1
        while (folder := workspace.runs / f"{stem}-{number:04d}").exists():
            number += 1
        with whole_folder(folder) as temporary:
            write_json(temporary / "job.json", record)
            write_bytes(temporary / "spare", b"\0" * SPARE_BYTES)
            state = State(
                id=folder.name,
                kind=kind,
                created=datetime.now(UTC).isoformat(timespec="milliseconds"),  # the order of the queue
                reason="It waits for its turn.",
                next_step=f"training_status(run={folder.name!r}, wait_seconds=45)",
            )
            write_json(temporary / "state.json", state.model_dump())
    return Job(folder), True


def find(workspace: Workspace, idempotency_key: str) -> Job | None:
    """The job that was made with this key, if there is one."""
    if idempotency_key:
        for name in workspace.names(workspace.runs, "state.json"):
            if read_json(workspace.runs / name / "job.json")["idempotency_key"] == idempotency_key:
                return Job(workspace.runs / name)
    return None


def start(workspace: Workspace, job: Job) -> None:
    """Start the job's worker, unless it has one: two clients that ask for one job start it once."""
    with workspace.lock("runs"):
        if Job(job.folder).state.state == "queued" and not has_process(job.folder):
            spawn(workspace, job.folder)


def read(folder: Path) -> State:
    """The state of the job in `folder`; a worker that is gone without a word makes it failed, or, when the job was
    still queued, leaves it queued: `tools.jobs.queue.tend` starts it again."""
    state = _read(folder)
    if state.state in ACTIVE and not alive(folder):
        return _settle(folder)
    if state.state in ("queued", "running") and asked_to_stop(folder):
        return state.model_copy(update={"state": "stopping", "reason": "It was asked to stop."})
    return state


def asked_to_stop(folder: Path) -> bool:
    """Whether someone asked the job to stop; a shutdown of the machine is nobody's wish."""
    try:
        return (folder / "cancel").read_text() != SHUTDOWN
    except FileNotFoundError:
        return False


def _read(folder: Path) -> State:
    return State.model_validate(read_json(folder / "state.json"))


def states_lock(folder: Path) -> FileLock:
    """Held by whoever writes the state of a job that has no worker to do so."""
    return FileLock(folder.parent.parent / ".states.lock", timeout=10)


def _settle(folder: Path) -> State:
    """Record that the worker is gone."""
    with states_lock(folder):
        state = _read(folder)  # it may have ended, or been started again, between the two looks
        if state.state not in ACTIVE or alive(folder):
            return state
        asked = asked_to_stop(folder)
        if state.state == "queued" and (folder / "pid.json").exists() and not asked:
            return state.model_copy(
                update={
                    "reason": "Its worker is gone, with the machine or by hand, before its turn came.",
                    "next_step": "any looptune command, and a server that starts, sets it going again",
                }
            )
        on = f"{again(Job(folder))} goes on from its last checkpoint"
        changes: dict[str, Any] = {
            "state": "stopped" if asked else "failed",
            "died": not asked,
            "reason": f"It was asked to stop, and its worker{_named(folder)} ended before it could say so."
            if asked
            else f"The worker{_named(folder)} ended without a word: {ended_how(folder)}.",
            "message": "stopped" if asked else state.message,
            "next_step": on if state.kind == "train" else again(Job(folder)),
            "finished": now(),
        }
        state = state.model_copy(update=changes)
        with suppress(LimitError):  # on a full disk the answer is still right, and the next look tries again
            write_json(folder / "state.json", state.model_dump())
        return state


def _named(folder: Path) -> str:
    return f" (process {read_json(folder / 'pid.json')['pid']})" if (folder / "pid.json").exists() else ""


def cancel(folder: Path) -> State:
    """Ask the job to stop; it does so at its next step and keeps what is finished.

    Raises:
        ConflictError: it is not running.
    """
    state = read(folder)
    if state.state not in ACTIVE:
        raise ConflictError(
            f"{folder.name} is {state.state}; only a queued or running job can be stopped.",
            "read run://index",
        )
    write_text(folder / "cancel", now())
    if not alive(folder):
        _settle(folder)
    return read(folder)


def wait(folder: Path, seconds: float, poll: float = 0.2) -> State:
    """The state once the job has ended, or after `seconds`."""
    deadline = time.monotonic() + seconds
    while (state := read(folder)).state in ACTIVE and time.monotonic() < deadline:
        time.sleep(min(poll, max(0.0, deadline - time.monotonic())))
    return state


def log_tail(folder: Path, lines: int = 20) -> list[str]:
    """The last lines that the worker wrote."""
    path = folder / "log"
    if not path.exists():
        return []
    with path.open("rb") as stream:
        stream.seek(max(0, path.stat().st_size - 20_000))
        return stream.read().decode("utf-8", "replace").splitlines()[-lines:]


def fingerprint(value: Any) -> str:
    """A short hash of JSON data, for cache keys and records."""
    return hashlib.sha256(json.dumps(value, sort_keys=True, default=str).encode()).hexdigest()[:16]


def finished(job: Job, result: dict[str, Any]) -> None:
    """Record that the job did what was asked."""
    named = {"id": job.id, "model": result.get("model", "")}
    job.save(
        state="finished",
        result=result,
        message="finished",
        reason=str(result.get("reason") or "It did all that was asked."),
        next_step=_AFTER[job.state.kind].format(**named),
        finished=now(),
    )


def failed(job: Job, error: BaseException) -> None:
    """Record why the job ended."""
    ended: dict[str, Any]
    if isinstance(error, Stopped):
        on = error.next_step or again(job)
        ended = {"state": "stopped", "message": "stopped", "reason": error.reason, "next_step": on}
    elif isinstance(error, LooptuneError):
        died = isinstance(error, WorkerDied)
        ended = {"state": "failed", "reason": error.message, "next_step": error.next_step, "died": died}
    else:
        ended = {
            "state": "failed",
            "reason": f"{type(error).__name__}: {str(error)[:500]}",
            "next_step": f"read the end of {job.folder / 'log'}",
        }
    with_spare(job.folder, lambda: job.save(**ended, finished=now()))


def again(job: Job) -> str:
    """The call that goes on with a training, or that asks once more for what another job was to do."""
    kind, config = job.state.kind, job.config
    if kind == "train":
        return f"start_training(resume={job.id!r})"
    of = config.get("targets", [{}])[-1] if kind == "evaluate" else config
    argument = "model" if of.get("model") else "run"
    if not of.get(argument):
        return "call the same tool again"
    given = f"{'run' if kind == 'integrate' else argument}={of[argument]!r}"
    return f"{_TOOL[kind]}({given}{', promote=true' if config.get('promote') else ''})"


def with_spare(folder: Path, write: Callable[[], None]) -> None:
    """Call `write`, and once more, with the job's spare space given up, when the disk is full."""
    try:
        write()
    except LimitError:
        (folder / "spare").unlink(missing_ok=True)
        write()
