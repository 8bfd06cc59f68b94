"""Which model answers: promoted, rolled back, and the history of both.

    promote(workspace, "forty-two", checks)                       # refuses when a check failed
    promote(workspace, "forty-two", checks, force="demo on Monday, known gap in rules")
    promote_anew(workspace, "forty-two")                          # by what was measured last, and its hashes now
    rollback(workspace)                                           # the one before answers again
    withdraw(workspace)                                           # none is promoted any more
    list_models(workspace)                                        # looptune models

models/promoted.json   the model, since when, its checks; `before`: the stack of those it took over from; `log`: every
                       change
"""

from collections.abc import Sequence
from typing import Any

from pydantic import BaseModel

from tools.errors import CheckError, MissingError
from tools.export.verify import EVALUATION, require_intact, verify
from tools.files import read_json, write_json
from tools.jobs.record import now
from tools.workspace import Workspace


class Check(BaseModel):
    """One comparison of a measured value with its bar."""

    name: str
    value: float
    bar: str
    passed: bool
    detail: str = ""


class ModelLine(BaseModel):
    """An exported model, as lists show it."""

    name: str
    promoted: bool
    created: str
    run: str
    file: str
    size_mb: float
    bits_per_weight: float
    passed: bool | None
    forced: str = ""  # why it was promoted although a check had failed


def reason(checks: Sequence[Check]) -> str:
    """What failed, in a sentence; empty when nothing did."""
    return ", ".join(
        f"{c.name} is {c.value:g} (has to be {c.bar}{f'; {c.detail}' if c.detail else ''})"
        for c in checks
        if not c.passed
    )


def promote(workspace: Workspace, model: str, checks: Sequence[Check], force: str = "") -> str:
    """Make `model` the one that answers. With `force`, a reason, failed checks are recorded and do not hold it back.

    Returns:
        what failed and was overruled, in a sentence; empty when nothing was.

    Raises:
        CheckError: a check failed; the model that answered before goes on answering.
        NotFoundError: no such model.
    """
    workspace.model(model)
    failed = reason(checks) if checks else "it has not been evaluated"
    if failed and not force.strip():
        raise CheckError(
            f"The model {model!r} is not promoted: {failed}.",
            "add examples of what was wrong, train again, and evaluate; or force it, with a reason",
        )
    entry = {
        "model": model,
        "promoted": now(),
        "checks": [check.model_dump() for check in checks],
        "failed": failed,
        "forced": force.strip(),
    }
    with workspace.lock("models"):
        record = _record(workspace)
        before = [*record["before"], _entry(record)] if record.get("model") else record["before"]
        _write(workspace, entry, before, [*record["log"], {"action": "promote", **_short(entry)}])
    return failed


def promote_anew(workspace: Workspace, model: str, force: str = "") -> str:
    """Promote by the checks of the model's newest evaluation and by its hashes, computed now: what was intact at the
    gate may not be any more. Forced or not, what is broken stands in the record as a failed check.

    Returns and raises what `promote` does.
    """
    checks = [check for check in last_checks(workspace, model) if check.name != "intact"]
    if not checks:
        detail = "it has not been evaluated"
        checks.append(Check(name="evaluations", value=0, bar=">= 1", passed=False, detail=detail))
    found = verify(workspace, model)
    detail = "; ".join(f"{part.path} {part.problem}" for part in found.broken[:3])
    checks.append(Check(name="intact", value=float(found.ok), bar="= 1", passed=found.ok, detail=detail))
    return promote(workspace, model, checks, force)


def rollback(workspace: Workspace) -> str:
    """Let the model that answered before answer again; returns its name.

    Raises:
        MissingError: there was none, or it is gone.
        CheckError: its files are not what was exported.
    """
    with workspace.lock("models"):
        record = _record(workspace)
        left = list(record["before"])
        while left:
            entry = left.pop()
            name = str(entry["model"])
            if name != record.get("model") and (workspace.models / name / "manifest.json").is_file():
                break
        else:
            raise MissingError(
                "No other model has answered before that is still there.",
                "`looptune rollback --none` leaves no model promoted; `looptune models` shows what there is",
            )
        require_intact(workspace, name)
        log = {"action": "rollback", "from": record.get("model"), "model": name, "at": now()}
        _write(workspace, entry, left, [*record["log"], log])
    return name


def withdraw(workspace: Workspace) -> str:
    """Leave no model promoted, which is how it was before the first; returns the one that was.

    Raises:
        MissingError: none is promoted.
    """
    with workspace.lock("models"):
        record = _record(workspace)
        name = str(record.get("model", ""))
        if not name:
            raise MissingError("No model is promoted.", "`looptune models` shows what there is")
        log = {"action": "withdraw", "from": name, "model": "", "at": now()}
        _write(workspace, {"model": ""}, record["before"], [*record["log"], log])
    return name


def promoted(workspace: Workspace) -> str | None:
    """The name of the model that answers, if there is one."""
    name = str(_record(workspace).get("model", ""))
    return name if name and (workspace.models / name / "manifest.json").is_file() else None


def list_models(workspace: Workspace) -> list[ModelLine]:
    """Every exported model, oldest first, and which of them answers."""
    current, record = promoted(workspace), _record(workspace)
    forced = str(record["forced"]) if record.get("failed") else ""
    lines = []
    for name in workspace.names(workspace.models, "manifest.json"):
        manifest = read_json(workspace.models / name / "manifest.json")
        file, described = next(reversed(manifest["files"].items()))
        lines.append(
            ModelLine(
                name=name,
                promoted=name == current,
                created=manifest["created"],
                run=manifest["made_from"]["run"],
                file=file,
                size_mb=described["size_mb"],
                bits_per_weight=described["bits_per_weight"],
                passed=_passed(workspace, name),
                forced=forced if name == current else "",
            )
        )
    return lines


def last_checks(workspace: Workspace, model: str) -> list[Check]:
    """The checks of the newest evaluation of `model`; none when it has not been evaluated."""
    path = workspace.model(model) / EVALUATION
    if not path.is_file():
        return []
    return [Check.model_validate(check) for check in read_json(path)["chain"][-1]["values"]["checks"]]


def _passed(workspace: Workspace, model: str) -> bool | None:
    checks = last_checks(workspace, model)
    return all(check.passed for check in checks) if checks else None


def _record(workspace: Workspace) -> dict[str, Any]:
    path = workspace.models / "promoted.json"
    return {"before": [], "log": [], **(read_json(path) if path.is_file() else {})}


def _entry(record: dict[str, Any]) -> dict[str, Any]:
    return {key: value for key, value in record.items() if key not in ("before", "log")}


def _short(entry: dict[str, Any]) -> dict[str, Any]:
    return {"model": entry["model"], "at": entry["promoted"], "forced": entry["forced"], "failed": entry["failed"]}


def _write(workspace: Workspace, entry: dict[str, Any], before: list[Any], log: list[Any]) -> None:
    write_json(workspace.models / "promoted.json", {**entry, "before": before, "log": log})
