"""What a phase works with: the agent that calls the tools, the cycle's state, the jobs it waits for, and giving up.

step = Step(workspace, cycle, sprint, lease, agent)
status = await run_job(step, "test", "evaluate_model", run="run-soft-hold-0001")     # None while it is at work
"""

import time
from collections.abc import Callable
from dataclasses import dataclass, field
from typing import Any, Protocol

from tools.errors import LooptuneError
from tools.sprint.criteria import judge_figures
from tools.sprint.cycle import Cycle, Phase, save
from tools.sprint.lease import Lease
from tools.sprint.rules import Sprint
from tools.workspace import Workspace

ACTIVE = ("queued", "running", "stopping")
_TRIES = 2  # of an evaluation or export whose worker was lost


class Refused(LooptuneError):
    """A tool said no; the message is the tool's own."""


class Agent(Protocol):
    """Whoever calls the tools for a phase."""

    async def call(self, tool: str, **arguments: Any) -> dict[str, Any]:
        """A tool's structured answer. Raises Refused."""

    async def read(self, uri: str) -> Any:
        """A resource's JSON value. Raises Refused."""

    async def has(self, tool: str) -> bool:
        """Whether the server has this tool."""


@dataclass
class Choice:
    """What whoever drives the loop decided instead of the rules: settings over the plan's, rows, and why."""

    settings: dict[str, Any] = field(default_factory=dict)
    rows: int | None = None
    reason: str = ""

    def __bool__(self) -> bool:
        return bool(self.settings or self.rows)


@dataclass
class Step:
    """What a phase works with."""

    workspace: Workspace
    cycle: Cycle
    sprint: Sprint
    lease: Lease
    agent: Agent
    wait_seconds: float = 10.0
    choice: Choice = field(default_factory=Choice)
    progress: Callable[[dict[str, Any]], None] = lambda status: None

    def __post_init__(self) -> None:
        self._since = time.monotonic()

    def tick(self) -> None:
        """Count the time since the last look as the cycle's."""
        self.cycle.minutes += (time.monotonic() - self._since) / 60
        self._since = time.monotonic()

    def save(self) -> None:
        self.tick()
        self.cycle.disk_gb = round(disk_gb(self.workspace, self.cycle), 4)
        save(self.workspace, self.cycle, self.lease)

    def log(self, phase: Phase, said: str, reason: str = "") -> None:
        self.tick()
        self.cycle.log(phase, said, reason)

    @property
    def minutes_left(self) -> float:
        self.tick()
        return self.sprint.budget.minutes - self.cycle.minutes

    async def follow(self, job: str) -> dict[str, Any] | None:
        """A job's status once it has ended; None while it is at work, after `wait_seconds`."""
        status = await self.agent.call("training_status", run=job, wait_seconds=self.wait_seconds)
        self.progress(status)
        self.cycle.waiting = job if status["state"] in ACTIVE else ""
        if self.cycle.waiting:
            return None
        if status["kind"] == "train":  # of which a full answer has no more figures, but a picture
            return status
        return await self.agent.call("training_status", run=job, detail="full")


async def run_job(step: Step, name: str, tool: str, /, **arguments: Any) -> dict[str, Any] | None:
    """Start a job once and follow it: its status when it has ended, None while it is at work. A worker that was lost
    is replaced once."""
    cycle = step.cycle
    tries = cycle.attempt.tries if cycle.attempts else {}
    key = _key(cycle, name) + (f"-again-{tries[name]}" if tries.get(name) else "")
    if key not in cycle.jobs:
        cycle.jobs[key] = (await step.agent.call(tool, **arguments, idempotency_key=key))["id"]
        step.save()
    status = await step.follow(cycle.jobs[key])
    lost = status is not None and status["state"] == "failed" and "without a word" in status["reason"]
    if lost and cycle.attempts and tries.get(name, 0) < _TRIES - 1:
        tries[name] = tries.get(name, 0) + 1
        step.log(cycle.phase, f"{cycle.jobs[key]} is started once more.", status["reason"] if status else "")
        return None
    return status


def is_started(cycle: Cycle, name: str) -> bool:
    """Whether `run_job` has started this job for the attempt at hand."""
    return _key(cycle, name) in cycle.jobs


def _key(cycle: Cycle, name: str) -> str:
    """What a job is asked for under, so that a repeated call finds it."""
    return f"{cycle.id}-{name}" + (f"-{len(cycle.attempts)}" if cycle.attempts else "")


def give_up(step: Step, phase: Phase, why: str) -> None:
    """End the cycle without promoting anything."""
    cycle = step.cycle
    cycle.state, cycle.reason, cycle.waiting = "gave up", why, ""
    if cycle.attempts:
        cycle.criteria = judge_figures(step.sprint.deciding, cycle.attempt.figures)
    answers = cycle.promoted_before or "the base"
    step.log(phase, f"Gave up; nothing is promoted, and {answers} answers as before.", why)


def is_spent(step: Step, phase: Phase) -> bool:
    """Whether the budget is spent; the cycle is then given up."""
    budget, cycle = step.sprint.budget, step.cycle
    if step.minutes_left <= 0:
        give_up(step, phase, f"The {budget.minutes:g} minutes of the budget are spent.")
    elif cycle.disk_gb > budget.disk_gb:
        give_up(step, phase, f"{cycle.disk_gb:.2f} GB were written, and the budget allows {budget.disk_gb:g} GB.")
    return cycle.state != "open"


def disk_gb(workspace: Workspace, cycle: Cycle) -> float:
    """What the cycle's datasets, jobs and models take, in GB of 10⁹ bytes."""
    folders = set()
    for attempt in cycle.attempts:
        folders |= {workspace.datasets / attempt.dataset} if attempt.dataset.startswith(cycle.id) else set()
        folders |= {
            workspace.runs / job for job in (attempt.run, attempt.evaluation, attempt.export, attempt.gate) if job
        }
        folders |= {workspace.models / attempt.model} if attempt.model else set()
    return sum(path.stat().st_size for folder in folders for path in folder.rglob("*") if path.is_file()) / 1e9


def words(values: dict[str, Any]) -> str:
    return ", ".join(f"{k} {v:g}" if isinstance(v, float) else f"{k} {v}" for k, v in values.items())
