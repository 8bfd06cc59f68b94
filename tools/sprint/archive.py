"""Archive: quantize, gate, promote, integrate insights, close the cycle. One phase of tools/sprint/phases.py."""

from typing import Any

from tools.learning.material import PREFIX
from tools.sprint import figures
from tools.sprint.criteria import gate_verdicts, judge_figures, told
from tools.sprint.cycle import Verdict
from tools.sprint.work import Step, give_up, is_started, run_job, words


async def archive(step: Step) -> None:
    """Quantize, gate, promote, integrate insights, and close the cycle."""
    cycle, attempt, sprint = step.cycle, step.cycle.attempt, step.sprint
    if not attempt.export:
        attempt.model = cycle.id if attempt.number == 1 else f"{cycle.id}-{attempt.number}"
        status = await run_job(
            step, "export", "quantize", run=attempt.run, name=attempt.model, type=sprint.archive.quantize
        )
        if status is None:
            return
        if status["state"] != "finished":
            give_up(step, "archive", f"{status['id']} {status['state']}: {status['reason']}")
            return
        attempt.export = status["id"]
        step.log("archive", f"{attempt.export} made the model {attempt.model} ({sprint.archive.quantize}).")
        return
    late = [criterion for criterion in sprint.deciding if criterion.late]
    if not attempt.gate:
        promote = sprint.archive.promote and not late
        if not await _gate(step, "gate", promote=promote):
            return
    judged = judge_figures(late, attempt.figures)
    if late and not all(verdict.passed for verdict in judged):
        _to_adapt(step, judged, f"The exported model {attempt.model} does not meet:\n\n{told(judged)}")
        return
    attempt.verdicts = [v for v in attempt.verdicts if not v.name.startswith("gate:")] + judged
    if sprint.archive.promote and late and cycle.promoted != attempt.model and not await _gate(step, "promote", True):
        return
    if not await _insights(step):
        return
    cycle.criteria = judge_figures(sprint.deciding, attempt.figures)
    cycle.state, cycle.reason = (
        "passed",
        "Every criterion is met" + (f", and {attempt.model} answers from now on." if cycle.promoted else "."),
    )
    step.log("archive", cycle.reason)


async def _gate(step: Step, name: str, promote: bool) -> bool:
    """Put the exported model through the gate; False while it is at work, or when it said no."""
    cycle, attempt, asked = step.cycle, step.cycle.attempt, step.sprint.evaluate
    arguments: dict[str, Any] = {"probes": asked.probes, "max_tokens": asked.max_tokens, "promote": promote}
    status = await run_job(step, name, "evaluate_model", model=attempt.model, **arguments)
    if status is None:
        return False
    if status["state"] != "finished":
        give_up(step, "archive", f"{status['id']} {status['state']}: {status['reason']}")
        return False
    result = status["result"]
    attempt.gate = status["id"]
    attempt.figures |= figures.of_gate(result)
    if promote and result["promoted"]:
        cycle.promoted = attempt.model
    if step.sprint.archive.promote and not result["passed"]:
        failed = [check for check in result["checks"] if not check["passed"]]
        verdicts = gate_verdicts(failed)
        _to_adapt(step, verdicts, f"{status['id']}: the gate says no: {result['reason']}.")
        return False
    last = list(result["models"].values())[-1]
    said = "passed" if result["passed"] else f"did NOT pass ({result['reason']})"
    step.log(
        "archive",
        f"{status['id']}: the gate {said}; {last['label']} recall "
        f"{last['recall']}, controls {last['controls']}, perplexity {last['perplexity']}, {last['size_mb']} MB"
        f"{', promoted' if result['promoted'] else ''}.",
    )
    return True


async def _insights(step: Step) -> bool:
    """Let the memory know what the model that answers knows now; False while that is at work. What the tool refuses is
    raised, as in every phase: the model goes on answering, and the cycle waits here until it is mended."""
    cycle, attempt = step.cycle, step.cycle.attempt
    if not (step.sprint.archive.integrate_insights and cycle.promoted) or "insights" in cycle.notes:
        return True
    if not await step.agent.has("integrate_insights"):
        said = "This server has no tool that integrates insights."
    elif not is_started(cycle, "insights") and not await _is_anything_to_ask(step):  # what it found changes the answer
        said = "Nothing was taught from memory and no insight is verified, so there is none to integrate."
    else:
        status = await run_job(step, "insights", "integrate_insights", run=attempt.model)
        if status is None:
            return False
        finished = status["state"] == "finished"
        counts = words(status["result"]["counts"]) if finished else status["reason"]
        said = f"{status['id']} {status['state']}: {counts}."
    cycle.notes["insights"] = said
    step.log("archive", said)
    return True


async def _is_anything_to_ask(step: Step) -> bool:
    """Whether the attempt was taught from memory, or an insight is verified and has to be asked again."""
    manifest = (await step.agent.read(f"dataset://{step.cycle.attempt.dataset}"))["manifest"]
    taught = any(source.startswith(PREFIX) for source in manifest["sources"])
    return taught or (await step.agent.read("loop://state"))["insights"]["verified"] > 0


def _to_adapt(step: Step, verdicts: list[Verdict], said: str) -> None:
    """Back from the archive to adapting."""
    attempt = step.cycle.attempt
    attempt.verdicts = [*attempt.verdicts, *verdicts]
    step.cycle.criteria = attempt.verdicts
    step.log("archive", said)
    step.cycle.phase = "adapt"
