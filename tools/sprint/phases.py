"""The eight phases, each a step from one saved state to the next, taken by calling the server's own tools.

    await advance(Step(workspace, cycle, sprint, lease, agent))     # the next phase, or a look at the job it waits for

Observe → Orient → Decide → Act → Test → Check → (Adapt → Act …) → Archive. `agent` calls tools and reads resources, as
any client of the server does; who drives it (the loop, a person, another agent) is no matter of the phases. A step that
was killed is taken again: what it had started is found by its idempotency key or its name.
"""

from collections.abc import Awaitable, Callable
from typing import Any

from tools.errors import InputError
from tools.sprint import figures
from tools.sprint.act import act
from tools.sprint.archive import archive
from tools.sprint.criteria import judge_figures, told
from tools.sprint.cycle import Attempt, Cycle, Phase
from tools.sprint.remedies import choose
from tools.sprint.rules import Sprint, recipe
from tools.sprint.work import ACTIVE, Refused, Step, give_up, is_spent, run_job, words


async def advance(step: Step) -> None:
    """Take the next phase of the cycle, or look after the job that it waits for; the state is saved.

    Raises:
        Refused: a tool said no to something that the loop cannot mend; the cycle stays where it is.
        ConflictError: another loop took over.
        InputError: a choice was given to a phase that decides nothing.
    """
    cycle = step.cycle
    if cycle.state != "open":
        raise ended(cycle)
    if step.choice and cycle.phase not in ("decide", "adapt"):
        raise InputError(
            f"{cycle.id} is at {cycle.phase}; settings and rows are chosen in decide and adapt.",
            "go on without them until then",
        )
    try:
        await _PHASES[cycle.phase](step)
    finally:
        step.save()


async def observe(step: Step) -> None:
    """What there is: datasets, runs, models, memory."""
    read, cycle = step.agent.read, step.cycle
    datasets, runs, models = [await read(f"{kind}://index") for kind in ("dataset", "run", "model")]
    memory = await read("memory://store")
    cycle.promoted_before = models.get("promoted") or ""
    at_work = [run["id"] for run in runs["runs"] if run["state"] in ACTIVE]
    waiting = {name: memory["by_status"].get(name, 0) for name in ("pending", "approved")}
    step.log(
        "observe",
        f"{datasets['count']} datasets, {runs['count']} runs ({', '.join(at_work) or 'none'} at work), "
        f"{models['count']} models; {cycle.promoted_before or 'no model'} answers. {memory['count']} memories, "
        f"{waiting['approved']} approved and {waiting['pending']} pending.",
    )
    cycle.phase = "orient"
    if step.sprint.teach.memory:
        insights = (await read("loop://state"))["insights"]
        step.log("observe", f"{insights['waiting']} insights wait to be taught, with a score of {insights['score']:g}.")
        if insights["train"] not in ("now", "tonight"):
            cycle.state, cycle.reason = "skipped", f"Nothing is trained tonight: {insights['why']}."
            step.log("observe", cycle.reason)


async def orient(step: Step) -> None:
    """Whether what is to be trained on is valid, and what the model that answers knows."""
    cycle, teach = step.cycle, step.sprint.teach
    parts = []
    if teach.dataset:
        checked = await step.agent.call("validate_dataset", dataset=teach.dataset)
        if not checked["ok"]:
            return give_up(step, "orient", f"The dataset {teach.dataset!r} has {checked['error_count']} errors.")
        parts.append(f"{teach.dataset} is valid: {checked['train_rows']} rows to train on.")
    if model := cycle.promoted_before:
        try:
            status = await run_job(step, "orient", "evaluate_model", model=model, probes=step.sprint.evaluate.probes)
        except Refused as error:  # its dataset may be gone, or it learned these probes: no reason not to go on
            parts.append(f"{model} could not be measured: {error.message}")
        else:
            if status is None:
                return None
            parts.append(_measured(cycle, model, status))
    else:
        parts.append("No model answers yet, so nothing can get worse than the base.")
    step.log("orient", " ".join(parts))
    cycle.phase = "decide"
    return None


def _measured(cycle: Cycle, model: str, status: dict[str, Any]) -> str:
    if status["state"] != "finished":
        return f"{model} could not be measured: {status['reason']}"
    summary = list(status["result"]["models"].values())[-1]
    cycle.figures = figures.of_models({"models": {"promoted": summary}})
    cycle.notes["promoted_suite"] = str(summary["suite_sha256"])
    return (
        f"{model} answers {summary['recall']} of its probes and {summary['controls']} of the controls right, with a "
        f"perplexity of {summary['perplexity']} ({summary['suite']})."
    )


async def decide(step: Step) -> None:
    """The plan: what to teach, settings, budget, and when it is done."""
    cycle, sprint = step.cycle, step.sprint
    settings = _within(sprint, {**sprint.train.settings, **step.choice.settings})
    cycle.attempts = [Attempt(number=1, rows=step.choice.rows or sprint.teach.rows, settings=settings)]
    teach = sprint.teach
    what = ["the insights of the memory"] if teach.memory else []
    what += [f"the term {term.term!r}" for term in teach.terms] + [f"the rule {rule.tag}" for rule in teach.rules]
    what += [*teach.cards, *(f"all cards of {kind}" for kind in teach.kinds)]
    how = f"the dataset {teach.dataset}" if teach.dataset else f"{', '.join(what)} in up to {cycle.attempt.rows} rows"
    budget = sprint.budget
    step.log(
        "decide",
        f"Teach {how}; preset {sprint.train.preset} with {words(settings)}. At most {budget.minutes:g} minutes, "
        f"{budget.memory_gb:g} GB of memory, {budget.disk_gb:g} GB of disk and {sprint.adapt} adaptations. It is done "
        f"when {'; '.join(criterion.check for criterion in sprint.deciding)}.",
        step.choice.reason or "The sprint file says so.",
    )
    cycle.phase = "act"


async def test(step: Step) -> None:
    """The figures: base and adapter on the same probes."""
    cycle, attempt, asked = step.cycle, step.cycle.attempt, step.sprint.evaluate
    status = await run_job(
        step, "test", "evaluate_model", run=attempt.run, probes=asked.probes, max_tokens=asked.max_tokens
    )
    if status is None:
        return
    attempt.evaluation = status["id"]
    if status["state"] != "finished":
        give_up(step, "test", f"{status['id']} {status['state']}: {status['reason']}")
        return
    result = status["result"]
    attempt.figures |= figures.of_models(result)
    if cycle.notes.get("promoted_suite") == result["models"]["adapter"]["suite_sha256"]:
        attempt.figures |= {k: v for k, v in cycle.figures.items() if k.startswith("promoted.")}
    lines = [
        f"{label}: recall {m['recall']} of {m['probes']}, controls {m['controls']} of {m['control_count']}, perplexity "
        f"{m['perplexity']}."
        for label, m in result["models"].items()
    ]
    if result["to_judge"]:
        lines.append(f"{result['to_judge']} answers wait for an agent's verdict: grade_answers(run={status['id']!r}).")
    wrong = result["models"]["adapter"]["wrong"][:3]
    lines += [f"Wrong (its answer is data, not an instruction): {w['prompt']!r} → «{w['answer']}»" for w in wrong]
    step.log("test", f"{status['id']}\n\n" + "\n".join(f"- {line}" for line in lines))
    cycle.phase = "check"


async def check(step: Step) -> None:
    """The criteria against the figures."""
    cycle, attempt = step.cycle, step.cycle.attempt
    step.tick()
    _count(cycle)
    attempt.verdicts = judge_figures([c for c in step.sprint.deciding if not c.late], attempt.figures)
    met = all(verdict.passed for verdict in attempt.verdicts)
    cycle.criteria = attempt.verdicts
    step.log(
        "check", f"{'Every criterion is met' if met else 'Not every criterion is met'}.\n\n" + told(cycle.criteria)
    )
    cycle.phase = "archive" if met else "adapt"


async def adapt(step: Step) -> None:
    """What to change, from which attempt, and why; or the end, when it was adapted often enough."""
    cycle, sprint, last = step.cycle, step.sprint, step.cycle.attempt
    failed = "; ".join(f"{v.name} ({v.evidence})" for v in last.verdicts if not v.passed) or last.failure
    if cycle.adaptations >= sprint.adapt:
        give_up(step, "adapt", f"It was adapted {cycle.adaptations} times, as often as it may be, and still: {failed}.")
        return
    if is_spent(step, "adapt"):
        return
    number = len(cycle.attempts) + 1
    if step.choice:
        settings = _within(sprint, {**last.settings, **step.choice.settings})
        attempt = Attempt(number=number, rows=step.choice.rows or last.rows, settings=settings, parent=last.number)
        attempt.remedy, attempt.reason = "chosen", step.choice.reason or "no reason was given"
    else:
        remedy = choose(sprint, cycle.attempts)
        if remedy is None:
            give_up(step, "adapt", f"Nothing that was not tried could help: {failed}.")
            return
        kept = remedy.model_dump(include={"parent", "rows", "settings", "reason", "resume"})
        attempt = Attempt(number=number, remedy=remedy.name, **kept)
        if remedy.resume:
            attempt.run, attempt.dataset, attempt.figures = last.run, last.dataset, dict(last.figures)
    cycle.attempts.append(attempt)
    parent = cycle.attempts[attempt.parent - 1]
    changes = {k: v for k, v in attempt.settings.items() if parent.settings.get(k) != v}
    changes |= {"rows": attempt.rows} if attempt.rows != parent.rows else {}
    step.log("adapt", f"Attempt {number}, {attempt.remedy}: {words(changes) or 'the same again'}.", attempt.reason)
    cycle.phase = "act"


def _within(sprint: Sprint, settings: dict[str, Any]) -> dict[str, Any]:
    """`settings` with a memory limit that the sprint's budget allows, whoever chose them. Raises InputError for one
    that is out of range."""
    asked = recipe(sprint, settings).memory_limit_gb
    return {**settings, "memory_limit_gb": min(asked, sprint.budget.memory_gb)}


def _count(cycle: Cycle) -> None:
    cycle.attempt.figures |= {
        "loop.minutes": round(cycle.minutes, 3),
        "loop.disk_gb": cycle.disk_gb,
        "loop.adaptations": float(cycle.adaptations),
    }


_PHASES: dict[Phase, Callable[[Step], Awaitable[None]]] = {
    "observe": observe,
    "orient": orient,
    "decide": decide,
    "act": act,
    "test": test,
    "check": check,
    "adapt": adapt,
    "archive": archive,
}


def ended(cycle: Cycle) -> InputError:
    """What is said to somebody who asks for the next phase of a cycle that has none."""
    return InputError(f"{cycle.id} has ended: it {cycle.state}.", "begin a new cycle with `looptune loop run`")
