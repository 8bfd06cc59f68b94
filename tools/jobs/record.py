"""Jobs: trainings, evaluations and quantizations, each a folder under `runs/` that is its own record.

job = create(workspace, "train", "forty-two", config.model_dump())
start(job)                       # a process of its own, which outlives whoever started it
read(workspace.run(job.id))      # its state; a worker that died is recognised here

runs/ID/  job.json     what was asked for          pid.json   which process does it
          state.json   where it stands             log        what it printed
          cancel       exists once someone asked it to stop
"""

import hashlib
import json
import os
import subprocess
import sys
import time
from datetime import UTC, datetime
from pathlib import Path
from typing import Any, Literal

import psutil
from pydantic import BaseModel

from tools.errors import ConflictError, LooptuneError
from tools.files import read_json, require_space, whole_folder, write_json, write_text
from tools.workspace import Workspace, slug

JobKind = Literal["train", "evaluate", "quantize", "gate"]
JobState = Literal["queued", "running", "stopping", "stopped", "finished", "failed"]
ACTIVE = ("queued", "running", "stopping")
_PREFIX: dict[str, str] = {"train": "run", "evaluate": "eval", "quantize": "quant", "gate": "gate"}
_SPAWN_SECONDS = 60  # a queued job without a process after this long was never started


class Cancelled(Exception):
    """Someone asked the job to stop."""


class State(BaseModel):
    """Where a job stands. Times are ISO 8601 in UTC; `metrics` hold the latest figures."""

    id: str
    kind: JobKind
    state: JobState = "queued"
    message: str = ""
    reason: str = ""
    next_step: str = ""
    step: int = 0
    total: int = 0
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
        """What was asked for."""
        return dict(read_json(self.folder / "job.json")["config"])

    def report(self, step: int | None = None, total: int | None = None, message: str = "", **metrics: float) -> None:
        """Say where the job stands, and stop here when someone asked for that.

        Raises:
            Cancelled: the job is to stop.
        """
        if step is not None:
            self.state.step = step
        if total is not None:
            self.state.total = total
        self.state.message = message or self.state.message
        self.state.metrics.update(metrics)
        # a state a second is enough to follow, and spares the disk
        if time.monotonic() - self._written > 0.7 or step == total:
            self.save()
        if (self.folder / "cancel").exists():
            raise Cancelled

    def save(self, **changes: Any) -> None:
        """Write the state, with `changes`."""
        self.state = self.state.model_copy(update={**changes, "updated": now()})
        write_json(self.folder / "state.json", self.state.model_dump())
        self._written = time.monotonic()

    def log(self, text: str) -> None:
        """A line for the job's log; a worker's stderr goes there."""
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
            write_json(temporary / "state.json", State(id=folder.name, kind=kind, created=now()).model_dump())
    return Job(folder), True


def find(workspace: Workspace, idempotency_key: str) -> Job | None:
    """The job that was made with this key, if there is one."""
    if idempotency_key:
        for name in workspace.names(workspace.runs, "state.json"):
            if read_json(workspace.runs / name / "job.json")["idempotency_key"] == idempotency_key:
                return Job(workspace.runs / name)
    return None


def start(workspace: Workspace, job: Job) -> None:
    """Start the job's worker, detached: it survives the process that started it.

    A client that exits kills its server's process group, so the worker gets a session of its own.
    """
    environment = {
        **os.environ,
        "LOOPTUNE_HOME": str(workspace.home),
        "LOOPTUNE_ALLOW_DOWNLOADS": str(int(workspace.settings.allow_downloads)),
        "PYTHONUNBUFFERED": "1",
    }
    (job.folder / "cancel").unlink(missing_ok=True)
    with (job.folder / "log").open("ab") as log:
        process = subprocess.Popen(
            [sys.executable, "-P", "-m", "tools.jobs.worker", str(job.folder)],
            stdin=subprocess.DEVNULL,
            stdout=log,
            stderr=log,
            start_new_session=True,
            env=environment,
            cwd=workspace.home,
        )
    write_json(job.folder / "pid.json", {"pid": process.pid, "created": _created(process.pid)})
    _children.append(process)


_children: list["subprocess.Popen[bytes]"] = []


def _created(pid: int) -> float:
    try:
        return psutil.Process(pid).create_time()
    except psutil.Error:
        return 0.0


def _alive(folder: Path) -> bool:
    """Whether the process of pid.json is still that process."""
    for child in _children:  # reap our own, or they stay as zombies that look alive
        child.poll()
    pid_file = folder / "pid.json"
    if not pid_file.exists():
        return time.time() - (folder / "state.json").stat().st_mtime < _SPAWN_SECONDS
    recorded = read_json(pid_file)
    try:
        process = psutil.Process(recorded["pid"])
        return process.status() != psutil.STATUS_ZOMBIE and abs(process.create_time() - recorded["created"]) < 2
    except psutil.Error:
        return False


def read(folder: Path) -> State:
    """The state of the job in `folder`; a worker that is gone without a word makes it failed."""
    state = State.model_validate(read_json(folder / "state.json"))
    if state.state in ACTIVE and not _alive(folder):
        # it may have finished between the two looks
        state = State.model_validate(read_json(folder / "state.json"))
        if state.state in ACTIVE:
            state = state.model_copy(
                update={
                    "state": "failed",
                    "reason": "The worker ended without a word: it was killed, ran out of memory, or the machine "
                    "went down.",
                    "next_step": (
                        f"start_training(resume={state.id!r}) goes on from its last checkpoint"
                        if state.kind == "train"
                        else "call the same tool again"
                    ),
                    "finished": now(),
                }
            )
            write_json(folder / "state.json", state.model_dump())
    elif state.state in ("queued", "running") and (folder / "cancel").exists():
        state = state.model_copy(update={"state": "stopping"})
    return state


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


def failed(job: Job, error: BaseException) -> None:
    """Record why the job ended."""
    if isinstance(error, Cancelled):
        job.save(
            state="stopped",
            reason="It was asked to stop.",
            next_step=f"start_training(resume={job.id!r})" if job.state.kind == "train" else "",
            finished=now(),
        )
    elif isinstance(error, LooptuneError):
        job.save(state="failed", reason=error.message, next_step=error.next_step, finished=now())
    else:
        job.save(
            state="failed",
            reason=f"{type(error).__name__}: {str(error)[:500]}",
            next_step=f"read the end of {job.folder / 'log'}",
            finished=now(),
        )
