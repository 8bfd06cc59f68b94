"""One pass through a sprint: its state in the workspace, whole after each phase, so that a killed loop goes on.

    cycle, new = open_cycle(workspace, sprint, text)    # the unfinished one of this sprint, or a new one
    cycle.log("observe", "2 datasets, no model answers yet.")
    save(workspace, cycle, lease)

    loop/ID/  sprint.yaml   the rules as they were when the cycle began
              state.json    this model          loop.md    the same, to read

A cycle's id is the sprint's name and a number, such as `soft-hold-0001`; its datasets, jobs and model are named after
it, and so are the idempotency keys, so that nothing is started twice.
"""

import hashlib
from datetime import UTC, datetime
from typing import Any, Literal, get_args

from pydantic import BaseModel

from tools.errors import ConflictError, NotFoundError
from tools.files import read_json, require_space, whole_folder, write_json, write_text
from tools.sprint.lease import Lease
from tools.sprint.rules import Sprint, parse_sprint
from tools.workspace import Workspace, check_name

Phase = Literal["observe", "orient", "decide", "act", "test", "check", "adapt", "archive"]
PHASES: tuple[Phase, ...] = get_args(Phase)


class Verdict(BaseModel):
    """What became of one acceptance criterion. `value` is the left side of its comparison."""

    name: str
    text: str = ""
    check: str = ""
    passed: bool
    status: Literal["met", "failed", "open"]
    value: float | None = None
    evidence: str = ""


class Attempt(BaseModel):
    """One training of a cycle: what was asked for, and which jobs it became. `remedy` and `reason` say why it differs
    from the attempt that it was made from."""

    number: int
    rows: int
    settings: dict[str, Any]
    remedy: str = ""
    reason: str = ""
    parent: int = 0
    dataset: str = ""
    planned: bool = False
    run: str = ""
    resume: bool = False
    evaluation: str = ""
    export: str = ""
    model: str = ""
    gate: str = ""
    tries: dict[str, int] = {}
    figures: dict[str, float] = {}
    verdicts: list[Verdict] = []
    failure: str = ""


class Entry(BaseModel):
    """A line of the log: what was done in a phase, and why."""

    at: str
    phase: Phase
    attempt: int
    said: str
    reason: str = ""
    minutes: float


class Cycle(BaseModel):
    """Where a cycle stands; `phase` is the one that comes next, `waiting` the job it waits for, `jobs`
    those that were started, by idempotency key."""

    id: str
    sprint: str
    goal: str = ""
    rules_sha256: str
    created: str
    updated: str = ""
    phase: Phase = "observe"
    state: Literal["open", "passed", "gave up", "skipped"] = "open"
    reason: str = ""
    waiting: str = ""
    minutes: float = 0.0
    disk_gb: float = 0.0
    promoted_before: str = ""
    promoted: str = ""
    jobs: dict[str, str] = {}
    notes: dict[str, str] = {}
    figures: dict[str, float] = {}
    attempts: list[Attempt] = []
    entries: list[Entry] = []
    criteria: list[Verdict] = []

    @property
    def attempt(self) -> Attempt:
        """The attempt that is under way."""
        return self.attempts[-1]

    @property
    def adaptations(self) -> int:
        return max(0, len(self.attempts) - 1)

    def log(self, phase: Phase, said: str, reason: str = "") -> None:
        """Add an entry."""
        self.entries.append(
            Entry(
                at=now(),
                phase=phase,
                attempt=len(self.attempts),
                said=said,
                reason=reason,
                minutes=round(self.minutes, 2),
            )
        )

    def summary(self) -> dict[str, Any]:
        """The state without its long parts, as lists show it."""
        keys = {"id", "sprint", "goal", "state", "phase", "waiting", "reason", "minutes", "created", "updated"}
        return {**self.model_dump(include=keys), "attempts": len(self.attempts)}


def now() -> str:
    """The time, as states hold it."""
    return datetime.now(UTC).isoformat(timespec="seconds")


def cycle_names(workspace: Workspace) -> list[str]:
    """The ids of all cycles, oldest first."""
    return workspace.names(workspace.home / "loop", "state.json")


def read_cycle(workspace: Workspace, name: str) -> Cycle:
    """The cycle `name`. Raises NotFoundError."""
    check_name(name, "cycle name")
    path = workspace.home / "loop" / name / "state.json"
    if not path.is_file():
        raise NotFoundError.named(
            "cycle",
            name,
            cycle_names(workspace),
            "read loop://state, or begin one with `looptune loop run SPRINT.yaml`",
        )
    return Cycle.model_validate(read_json(path))


def sprint_of(workspace: Workspace, cycle: Cycle) -> Sprint:
    """The rules that a cycle goes by."""
    return parse_sprint((workspace.home / "loop" / cycle.id / "sprint.yaml").read_text(encoding="utf-8"))


def newest(workspace: Workspace, sprint: str = "") -> Cycle | None:
    """The cycle that was begun last, of any sprint or of one."""
    found = [read_cycle(workspace, name) for name in cycle_names(workspace)]
    found = [cycle for cycle in found if not sprint or cycle.sprint == sprint]
    return max(found, key=lambda cycle: (cycle.created, cycle.id), default=None)


def open_cycle(workspace: Workspace, sprint: Sprint, text: str, anew: bool = False) -> tuple[Cycle, bool]:
    """The unfinished cycle of `sprint`, to go on with, or a new one; and whether it is new.

    Args:
        anew: give an unfinished one up, and begin again.

    Raises:
        ConflictError: the rules have changed since the unfinished one began.
        LimitError: the disk is full.
    """
    sha = hashlib.sha256(text.encode()).hexdigest()
    require_space(workspace.home, 10_000_000, workspace.settings.min_free_gb, "A sprint")
    with workspace.lock("loop"):
        last = newest(workspace, sprint.name)
        if last is not None and last.state == "open":
            if not anew and last.rules_sha256 == sha:
                return last, False
            if not anew:
                raise ConflictError(
                    f"{last.id} began with other rules than the file has now, and is not finished.",
                    f"`looptune loop next {last.id}` goes on by the old ones; --new gives it up and begins again",
                )
            last.state, last.reason = "gave up", "It was given up for a new cycle."
            _write(workspace, last)
        number = 1
        while (folder := workspace.home / "loop" / f"{sprint.name}-{number:04d}").exists():
            number += 1
        cycle = Cycle(
            id=folder.name,
            sprint=sprint.name,
            goal=sprint.goal,
            rules_sha256=sha,
            created=datetime.now(UTC).isoformat(timespec="milliseconds"),
        )
        with whole_folder(folder) as temporary:
            write_text(temporary / "sprint.yaml", text)
            write_json(temporary / "state.json", cycle.model_dump())
    return cycle, True


def save(workspace: Workspace, cycle: Cycle, lease: Lease) -> None:
    """Write the state and loop.md, whole or not at all, if `lease` is still ours.

    Raises:
        ConflictError: another loop has taken the lease over.
        LimitError: the disk is full.
    """
    with workspace.lock("loop"):
        lease.require()
        _write(workspace, cycle)


def _write(workspace: Workspace, cycle: Cycle) -> None:
    from tools.sprint.log import loop_md

    folder = workspace.home / "loop" / cycle.id
    cycle.updated = now()
    write_json(folder / "state.json", cycle.model_dump())
    write_text(folder / "loop.md", loop_md(cycle))
