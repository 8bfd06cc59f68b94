"""The eight phases against an agent that answers from a script: each way through a sprint, without a training.

.venv/bin/python -P -m pytest tests/test_phases.py

What the phases call is held against the tools' own schemas, so that a call that the server would refuse fails here.
"""

from collections.abc import Callable
from typing import Any

import anyio
import jsonschema
import pytest
import yaml

from server.app import build_server
from tools.errors import InputError
from tools.sprint.cycle import Cycle, open_cycle
from tools.sprint.lease import held
from tools.sprint.phases import advance
from tools.sprint.rules import parse_sprint
from tools.sprint.work import Agent, Choice, Refused, Step
from tools.workspace import Workspace

TOOLS = {tool.name: tool.input_schema for tool in anyio.run(build_server().list_tools)}
RULES: dict[str, Any] = {
    "name": "holds",
    "teach": {"terms": [{"term": "soft hold", "meaning": "a reservation that lapses by itself"}], "rows": 40},
    "train": {"preset": "tiny"},
    "budget": {"minutes": 10, "memory_gb": 2, "disk_gb": 1},
    "criteria": [{"name": "recall", "check": "adapter.recall >= 0.9"}],
    "adapt": 1,
}
TRAINED = {"steps": 4, "valid_loss_before": 3.0, "valid_loss": 1.0, "peak_memory_gb": 1.0, "tokens_per_second": 9.0}
AT_WORK = None


def report(recall: float, suite: str = "one") -> dict[str, Any]:
    return {
        "label": "x", "recall": recall, "controls": 1.0, "probes": 5, "control_count": 10, "perplexity": 20.0,
        "suite": "few", "suite_sha256": suite, "size_mb": 9.0, "tokens_per_second": 9.0, "wrong": [],
    }  # fmt: skip


def evaluated(recall: float) -> dict[str, Any]:
    change = {"fixed": ["a"], "broken": [], "controls_broken": 0}
    return {"models": {"base": report(0), "adapter": report(recall)}, "matrix": {"adapter": change}, "to_judge": 0}


def gated(recall: float = 1.0, failed: str = "", promoted: bool = True) -> dict[str, Any]:
    models = {name: report(recall) for name in ("base", "adapter", "f16", "q4_k_m")}
    check = {"name": failed or "recall", "value": recall, "bar": ">= 0.9", "passed": not failed}
    said = f"{failed} is {recall} (has to be >= 0.9)" if failed else ""
    verdict = {"checks": [check], "passed": not failed, "reason": said, "promoted": promoted and not failed}
    return {"models": models, "matrix": {}, "to_judge": 0, "likeness": {"kl": 0.01, "same_best": 0.99}, **verdict}


class Scripted(Agent):
    """Answers as the server would. `results` are what its jobs come to, by kind, in order: a result, the reason of a
    failure, or AT_WORK for one that does not end."""

    def __init__(self, workspace: Workspace, promoted: str = "", sources: tuple[str, ...] = (), **results: Any) -> None:
        self.workspace, self.promoted, self.sources, self.results = workspace, promoted, sources, results
        self.calls: list[tuple[str, dict[str, Any]]] = []
        self.refusals: dict[str, str] = {}
        self.jobs: dict[str, dict[str, Any]] = {}
        self.keys: dict[str, str] = {}
        self.plan = {"seconds": 60.0, "disk_gb": 0.01}
        self.rows_bytes, self.verified = 10, 0

    async def call(self, tool: str, **arguments: Any) -> dict[str, Any]:
        assert set(arguments) <= set(TOOLS[tool]["properties"]), f"{tool} would refuse {sorted(arguments)}"
        jsonschema.validate(arguments, TOOLS[tool])
        self.calls.append((tool, arguments))
        if tool in self.refusals:
            raise Refused(f"{tool}: {self.refusals[tool]}")
        if tool == "generate_examples":
            folder = self.workspace.datasets / arguments["name"]
            folder.mkdir(parents=True)
            (folder / "rows.jsonl").write_bytes(b" " * self.rows_bytes)
            return {"dataset": arguments["name"], "rows": arguments["count"], "sections": {"questions": 9}, "notes": []}
        if tool == "validate_dataset":
            return {"ok": True, "rows": 40, "train_rows": 32, "valid_rows": 8, "error_count": 0, "errors": []}
        if tool == "plan_training":
            settings = {"epochs": 1.0, "pack_tokens": 512, "max_length": 512, **arguments["settings"]}
            said = {"verdict": "It fits.", "advice": "", "steps": 4, "basis": "measured", "settings": settings}
            return {"fits": True, **self.plan, **said}
        if tool in ("training_status", "cancel_training"):
            return self.jobs[arguments["run"]]
        return self._job(self._kind(tool, arguments), arguments["idempotency_key"])

    def _kind(self, tool: str, arguments: dict[str, Any]) -> str:
        if tool == "evaluate_model":
            return "gate" if "model" in arguments else "evaluate"
        return {"start_training": "train", "quantize": "quantize", "integrate_insights": "integrate"}[tool]

    def _job(self, kind: str, key: str) -> dict[str, Any]:
        if key in self.keys:
            return {"id": self.keys[key], "new": False}
        self.keys[key] = id = f"{kind}-{len(self.jobs) + 1}"
        result = self.results[kind].pop(0)
        state = {"id": id, "kind": kind, "state": "running", "reason": "", "result": {}}
        if isinstance(result, str):
            state |= {"state": "failed", "reason": result}
        elif result is not AT_WORK:
            state |= {"state": "finished", "result": result}
        self.jobs[id] = state
        return {"id": id, "new": True}

    async def read(self, uri: str) -> Any:
        return {
            "dataset://index": {"count": 0},
            "run://index": {"count": 0, "runs": []},
            "model://index": {"count": 0, "promoted": self.promoted or None},
            "memory://store": {"count": 0, "by_status": {}},
            "loop://state": {
                "insights": {"waiting": 9, "score": 6.0, "train": "now", "why": "", "verified": self.verified}
            },
        }.get(uri, {"manifest": {"sources": list(self.sources)}})

    async def has(self, tool: str) -> bool:
        return tool in TOOLS

    def asked(self, tool: str) -> list[dict[str, Any]]:
        """The arguments of each call of a tool."""
        return [arguments for name, arguments in self.calls if name == tool]


Until = Callable[[Cycle], bool]


def drive(agent: Scripted, until: Until = lambda cycle: False, choice: Choice | None = None, **changes: Any) -> Cycle:
    """Take phases until the cycle ends, or `until` says so; the next call with the same rules goes on."""
    text = yaml.safe_dump({**RULES, **changes})
    cycle, _ = open_cycle(agent.workspace, parse_sprint(text), text)

    async def run() -> None:
        with held(agent.workspace, cycle.id) as lease:
            step = Step(agent.workspace, cycle, parse_sprint(text), lease, agent, wait_seconds=0)
            step.choice = choice or Choice()
            for _ in range(40):
                await advance(step)
                step.choice = Choice()
                if cycle.state != "open" or until(cycle):
                    return
            raise AssertionError(f"it does not end: {cycle.entries[-3:]}")

    anyio.run(run)
    return cycle


def said(cycle: Cycle, phase: str) -> str:
    return "\n".join(f"{entry.said} {entry.reason}" for entry in cycle.entries if entry.phase == phase)


def test_a_model_that_was_taught_from_memory_is_promoted_and_its_insights_are_integrated(workspace: Workspace) -> None:
    counted = {"counts": {"verified": 2, "not known": 1}}
    agent = Scripted(
        workspace, sources=("memory/mem-1",),
        train=[TRAINED], evaluate=[evaluated(1)], quantize=[{}], gate=[gated()], integrate=[counted],
    )  # fmt: skip
    cycle = drive(agent, teach={"memory": True, "rows": 40})
    assert cycle.state == "passed" and cycle.promoted == "holds-0001", cycle.reason
    assert agent.asked("evaluate_model")[-1]["promote"] is True
    (asked,) = agent.asked("integrate_insights")
    assert asked == {"run": "holds-0001", "idempotency_key": "holds-0001-insights-1"}
    assert "verified 2, not known 1" in cycle.notes["insights"] and cycle.notes["insights"] in said(cycle, "archive")


def test_a_refused_integration_is_raised_and_the_cycle_goes_on_there_when_it_is_mended(workspace: Workspace) -> None:
    agent = Scripted(
        workspace, sources=("memory/mem-1",),
        train=[TRAINED], evaluate=[evaluated(1)], quantize=[{}], gate=[gated()], integrate=[{"counts": {}}],
    )  # fmt: skip
    agent.refusals["integrate_insights"] = "the disk is full"
    with pytest.raises(Refused, match="the disk is full"):
        drive(agent)
    jobs = len(agent.jobs)
    agent.refusals.clear()
    cycle = drive(agent)
    assert cycle.state == "passed" and cycle.promoted == "holds-0001"
    assert len(agent.jobs) == jobs + 1, "only the integration was still to do"


def test_nothing_is_integrated_where_nothing_came_from_memory(workspace: Workspace) -> None:
    agent = Scripted(workspace, train=[TRAINED], evaluate=[evaluated(1)], quantize=[{}], gate=[gated()])
    cycle = drive(agent)
    assert cycle.state == "passed" and not agent.asked("integrate_insights")
    assert "no insight is verified" in cycle.notes["insights"]


def test_what_an_earlier_model_knew_is_asked_again_after_any_training(workspace: Workspace) -> None:
    agent = Scripted(
        workspace, train=[TRAINED], evaluate=[evaluated(1)], quantize=[{}], gate=[gated()],
        integrate=[{"counts": {"lost": 1}}],
    )  # fmt: skip
    agent.verified = 3
    assert "lost 1" in drive(agent).notes["insights"]


def test_a_gate_that_says_no_leads_back_to_adapting(workspace: Workspace) -> None:
    agent = Scripted(
        workspace, promoted="before",
        train=[TRAINED, TRAINED], evaluate=[evaluated(1), evaluated(1)], quantize=[{}, {}],
        gate=[gated(promoted=False), gated(0.5, "recall"), gated()],
    )  # fmt: skip
    cycle = drive(agent)
    assert cycle.state == "passed" and cycle.adaptations == 1
    assert "the gate says no: recall is 0.5" in said(cycle, "archive")
    assert "more steps" in said(cycle, "adapt") and "gate: recall (0.5, has to be >= 0.9)" in said(cycle, "adapt")
    assert [asked["name"] for asked in agent.asked("quantize")] == ["holds-0001", "holds-0001-2"]
    assert cycle.promoted == "holds-0001-2"


def test_a_gate_that_never_says_yes_promotes_nothing(workspace: Workspace) -> None:
    agent = Scripted(
        workspace, promoted="before",
        train=[TRAINED, TRAINED], evaluate=[evaluated(1), evaluated(1)], quantize=[{}, {}],
        gate=[gated(promoted=False), gated(0.5, "recall"), gated(0.6, "recall")],
    )  # fmt: skip
    cycle = drive(agent)
    assert cycle.state == "gave up" and not cycle.promoted and "adapted 1 times" in cycle.reason
    assert "before answers as before" in said(cycle, "adapt")


LATE = [*RULES["criteria"], {"name": "survives", "check": "quantized.recall >= 0.9"}]


def test_a_criterion_over_the_exported_model_is_met_before_anything_is_promoted(workspace: Workspace) -> None:
    agent = Scripted(
        workspace, train=[TRAINED, TRAINED], evaluate=[evaluated(1), evaluated(1)], quantize=[{}, {}],
        gate=[gated(0.8, promoted=False), gated(promoted=False), gated()],
    )  # fmt: skip
    cycle = drive(agent, criteria=LATE)
    assert [asked["promote"] for asked in agent.asked("evaluate_model") if "model" in asked] == [False, False, True]
    assert cycle.state == "passed" and cycle.promoted == "holds-0001-2"
    assert "does not meet" in said(cycle, "archive") and "survives" in said(cycle, "adapt")
    assert [(v.name, v.status) for v in cycle.criteria] == [("recall", "met"), ("survives", "met")]


def test_orient_measures_the_model_that_answers_and_criteria_may_compare_with_it(workspace: Workspace) -> None:
    criteria = [{"name": "better", "check": "adapter.recall > promoted.recall"}]
    agent = Scripted(
        workspace, promoted="before", train=[TRAINED], evaluate=[evaluated(0.9)], quantize=[{}],
        gate=[gated(0.4, promoted=False), gated()],
    )  # fmt: skip
    cycle = drive(agent, criteria=criteria)
    assert cycle.state == "passed" and "before answers 0.4 of its probes" in said(cycle, "orient")
    assert agent.asked("evaluate_model")[0]["model"] == "before"


def test_a_model_that_cannot_be_measured_any_more_does_not_end_the_sprint(workspace: Workspace) -> None:
    agent = Scripted(workspace, promoted="before")
    agent.refusals["evaluate_model"] = "its dataset is gone"
    cycle = drive(agent, until=lambda cycle: cycle.phase == "decide")
    assert "before could not be measured: evaluate_model: its dataset is gone" in said(cycle, "orient")


def test_a_training_is_stopped_when_the_minutes_run_out(workspace: Workspace) -> None:
    agent = Scripted(workspace, train=[AT_WORK])

    def spent(cycle: Cycle) -> bool:
        cycle.minutes += 11 if cycle.waiting else 0
        return False

    cycle = drive(agent, until=spent)
    assert cycle.state == "gave up" and agent.asked("cancel_training") == [{"run": "train-1"}]
    assert cycle.reason == "The 10 minutes are spent; train-1 was stopped." and not cycle.waiting


def test_a_training_that_would_not_fit_the_disk_budget_is_not_started(workspace: Workspace) -> None:
    agent = Scripted(workspace)
    agent.plan["disk_gb"] = 1.5
    cycle = drive(agent)
    assert cycle.state == "gave up" and "needs 1.50 GB of disk" in cycle.reason and not agent.asked("start_training")


def test_a_cycle_that_wrote_more_than_its_disk_budget_does_not_adapt(workspace: Workspace) -> None:
    agent = Scripted(workspace, train=[TRAINED], evaluate=[evaluated(0.1)])
    agent.rows_bytes, agent.plan["disk_gb"] = 2_000_000, 0.0
    cycle = drive(agent, budget={"minutes": 10, "memory_gb": 2, "disk_gb": 0.001})
    assert cycle.state == "gave up" and cycle.reason == "0.00 GB were written, and the budget allows 0.001 GB."


def test_a_training_that_would_take_too_long_is_shortened_and_one_far_too_long_is_not_begun(
    workspace: Workspace,
) -> None:
    agent = Scripted(workspace, train=[TRAINED], evaluate=[evaluated(1)])
    agent.plan["seconds"] = 1000.0
    cycle = drive(agent, until=lambda cycle: cycle.phase == "check")
    assert 0.5 < agent.asked("start_training")[0]["settings"]["epochs"] <= 0.54
    assert "As planned it would take 16.7 minutes" in said(cycle, "act")
    slow = Scripted(workspace)
    slow.plan["seconds"] = 100_000.0
    assert "would take 1666.7 minutes" in drive(slow, name="longer").reason


def test_the_memory_budget_holds_for_what_an_agent_chooses_in_decide_and_in_adapt(workspace: Workspace) -> None:
    agent = Scripted(workspace, train=[TRAINED, TRAINED], evaluate=[evaluated(0.1), evaluated(1)])
    greedy = Choice({"memory_limit_gb": 64, "epochs": 3}, None, "more is better")
    drive(agent, until=lambda cycle: cycle.phase == "decide")
    drive(agent, until=lambda cycle: cycle.phase == "adapt", choice=greedy)
    cycle = drive(agent, until=lambda cycle: cycle.phase == "check", choice=greedy)
    asked = [one["settings"] for one in agent.asked("start_training")]
    assert [one["memory_limit_gb"] for one in asked] == [2, 2] and [one["epochs"] for one in asked] == [3, 3]
    assert cycle.attempt.reason == "more is better"


@pytest.mark.parametrize("wrong", [{"dataset": "other"}, {"memory_limit_gb": "much"}, {"rank": 0}, {"nope": 1}])
def test_a_choice_that_no_recipe_takes_is_refused_and_nothing_moves(
    wrong: dict[str, Any], workspace: Workspace
) -> None:
    agent = Scripted(workspace)
    drive(agent, until=lambda cycle: cycle.phase == "decide")
    with pytest.raises(InputError):
        drive(agent, choice=Choice(wrong, None, "try"))
    assert drive(agent, until=lambda cycle: True).phase == "act", "decide was still to do"


def test_a_worker_that_was_lost_is_replaced_once(workspace: Workspace) -> None:
    lost = "The worker (process 9) ended without a word: it was killed"
    agent = Scripted(workspace, train=[TRAINED], evaluate=[lost, evaluated(1)], quantize=[lost, lost])
    cycle = drive(agent)
    assert cycle.state == "gave up" and "without a word" in cycle.reason
    keys = [key for key in agent.keys if "export" in key]
    assert keys == ["holds-0001-export-1", "holds-0001-export-1-again-1"]
