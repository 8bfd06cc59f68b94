"""What an agent is told of a job's state, and what to call next."""

from datetime import UTC, datetime
from pathlib import Path
from typing import Any

from mcp.types import CallToolResult

from server.answers import Started, Status, answered
from tools.jobs import record

# Of each model that was evaluated: how each family of questions went, intervals, perplexity of prose and of code.
_DETAILS = ("families", "scores", "perplexities", "kept", "wrong_listed")


def started(job: record.Job, new: bool, note: str = "") -> CallToolResult:
    """The answer of a tool that started a job; `note`: what is to be said of what it works on."""
    said = f"{job.id} is {job.state.state}." if new else f"{job.id} had been started before: it is {job.state.state}."
    return answered(
        f"{said}{note} Next: training_status(run={job.id!r}, wait_seconds=45).",
        Started(id=job.id, state=job.state.state, new=new),
        links=[f"run://{job.id}"],
    )


def status(state: record.State, log: list[str]) -> Status:
    """Where a job stands, for programs: with the figures and the next step that the text names."""
    said = {"metrics": _metrics(state), "next_step": _step(state), "log": log}
    return Status(**{**state.model_dump(include=set(Status.model_fields)), **said})


def line(state: record.State) -> str:
    """What a job does right now."""
    figures = ", ".join(f"{name} {value:g}" for name, value in _metrics(state).items())
    doing = " ".join([*([state.message] if state.message else []), *([f"({figures})"] if figures else [])])
    return f"{state.state}: {doing}" if doing else state.state


def _metrics(state: record.State) -> dict[str, float]:
    """The latest figures; of a job that does not say so itself, the seconds left if it goes on as it did."""
    if state.state != "running" or "seconds_left" in state.metrics or not 0 < state.step < state.total:
        return state.metrics
    spent = (datetime.now(UTC) - datetime.fromisoformat(state.started)).total_seconds() if state.started else 0.0
    return {**state.metrics, "seconds_left": round(spent * (state.total - state.step) / state.step)}


def told_state(state: record.State, log: list[str]) -> str:
    """Where a job stands, the end of its log, and last what to call next."""
    where = f", {state.step} of {state.total}" if state.total else ""
    doing = line(state).removeprefix(state.state) if state.state in record.ACTIVE else ""
    parts = [f"{state.id} is {state.state}{where}{doing}."]
    if state.reason not in ("", state.result.get("reason")) and state.state != "running":
        parts.append(state.reason)
    if state.state == "finished":
        parts.append(_told_result(state))
    step = _step(state)
    return "\n".join([" ".join(parts), *log, *([f"Next: {step}."] if step else [])])


def concise(result: dict[str, Any]) -> dict[str, Any]:
    """A job's result without answers and lists of ids, of which their counts stay; run://ID holds them all."""
    found: dict[str, Any] = {}
    for key, value in result.items():
        if isinstance(value, list):
            found.setdefault(f"{key}_count", len(value))  # of a list that is cut, the result says it itself
        elif key not in _DETAILS and not key.endswith("_sha256"):
            found[key] = concise(value) if isinstance(value, dict) else value
    return found


def curves(folder: Path, state: record.State) -> bytes:
    from tools.training.charts import curves_png
    from tools.training.metrics import read_metrics

    limit = float(record.Job(folder).config["memory_limit_gb"])
    title = f"{state.id}, {state.state} at step {state.step} of {state.total}"
    return curves_png(read_metrics(folder), title, limit)


def _step(state: record.State) -> str:
    """What to call next; after an evaluation that depends on its figures."""
    if state.state in record.ACTIVE:  # whatever its worker wrote
        return f"training_status(run={state.id!r}, wait_seconds=45)"
    if state.state != "finished" or state.kind not in ("evaluate", "gate"):
        return state.next_step
    result = state.result
    if result["to_judge"]:
        return f"grade_answers(run={state.id!r})"
    only = "broken" if any(change["broken"] for change in result["matrix"].values()) else "wrong"
    look = f"show(name={state.id!r}, query='only={only}')"
    return _after_gate(result, look) if "passed" in result else _after_evaluation(result, look)


def _after_gate(result: dict[str, Any], look: str) -> str:
    if result["promoted"]:
        return "ask_model(prompt=…), which it answers from now on"
    if result["passed"]:
        return f"evaluate_model(model={result.get('model') or '…'!r}, promote=true)"
    return f"{look}; then mend what failed (the prompt `adapt`), train again, evaluate"


def _after_evaluation(result: dict[str, Any], look: str) -> str:
    from tools.export.judge import Bars

    bars, before, now = Bars(), result["models"][result["against"]], list(result["models"].values())[-1]
    if now["controls"] is not None and now["controls"] < bars.controls:
        return f"{look}; then more rows and negatives (generate_examples with count=960), or the prompt `adapt`"
    if (now["recall"] or 0) <= min(before["recall"] or 0, bars.recall):
        return f"{look}; then more epochs, or rows in more phrasings (the prompt `adapt`)"
    return f"quantize(run={result.get('run') or '…'!r}); {look} has the answers"


def _told_result(state: record.State) -> str:
    """The figures that matter of a finished job."""
    result = state.result
    if state.kind == "train":
        return (
            f"Validation loss {result['valid_loss_before']} → {result['valid_loss']}, {result['tokens_per_second']} "
            f"tokens/s, {result['peak_memory_gb']} GB."
        )
    if state.kind == "quantize":
        lines = [f"Model {result['model']!r}.", *(_told_file(*file) for file in result["files"].items())]
        return "\n".join(lines)
    if state.kind == "integrate":
        lines = [f"{o['verdict']}: {o['id']} ({o['why']}), now {o['status']}" for o in result["insights"]]
        return "\n".join([", ".join(f"{n} {verdict}" for verdict, n in result["counts"].items()), *lines])
    lines = [
        f"{label}: recall {m['recall']}, controls {m['controls']}, perplexity {m['perplexity']}, {m['size_mb']} MB, "
        f"{m['tokens_per_second']} tokens/s"
        for label, m in result["models"].items()
    ]
    lines += [
        f"{label} against {result['against']}: {len(c['fixed'])} fixed, {len(c['broken'])} broken "
        f"({c['controls_broken']} controls{_worst(c)}), sign test p {c['p']:.2g}"
        for label, c in result["matrix"].items()
    ]
    if result["to_judge"]:
        lines.append(f"{result['to_judge']} answers wait for your verdict.")
    lines += result.get("notes", [])
    if "passed" in result:
        lines.append(f"Gate: {'passed' if result['passed'] else 'NOT passed: ' + result['reason']}.")
        lines.append("It answers from now on." if result["promoted"] else "Not promoted.")
        held = [f"{check['name']} {check['bar']}" for check in result["checks"] if check["passed"]]
        lines += [f"Its other bars held: {', '.join(held)}."] if held and not result["passed"] else []
    return "\n".join(lines)


def _worst(change: dict[str, Any]) -> str:
    return f", worst in {change['worst_controls']}" if change.get("worst_controls") else ""


def _told_file(name: str, file: dict[str, Any]) -> str:
    types = ", ".join(f"{count} {kind}" for kind, count in file["types"].items())
    said = f"{name}: {file['size_mb']} MB, {file['bits_per_weight']} bits a weight, tensors: {types}."
    return f"{said} {file['note']}" if file["note"] else said
