"""What to change when criteria failed: more steps, more negatives, a lower rate, or back to an earlier attempt.

    remedy = choose(sprint, cycle.attempts)      # None when nothing that was not tried could help

Recall that is too low asks for more steps; answers that changed and should not have ask for more negatives and a lower
rate. An attempt that is further from the goal than an earlier one is rolled back: the next remedy starts from the
earlier one's settings. What was tried before, with the same rows and settings, is not tried again.
"""

from typing import Any, Literal

from pydantic import BaseModel

from tools.sprint.cycle import Attempt, Verdict
from tools.sprint.expressions import parse
from tools.sprint.rules import Sprint
from tools.training.config import preset

Role = Literal["recall", "kept", "other"]
_ROLES: dict[str, Role] = {
    **dict.fromkeys(("recall", "fixed", "valid_loss", "dealt_p", "recall_lost", "steps"), "recall"),
    **dict.fromkeys(("controls", "broken", "controls_broken", "perplexity", "perplexity_ratio"), "kept"),
    **dict.fromkeys(("perplexity_quantized", "kl", "same_best"), "kept"),
}
_ORDER: dict[frozenset[Role], tuple[str, ...]] = {
    frozenset({"recall"}): ("more steps", "more negatives", "higher rate"),
    frozenset({"kept"}): ("more negatives", "lower rate", "fewer steps"),
    frozenset({"recall", "kept"}): ("more steps", "more negatives", "lower rate"),
}
MORE_ROWS, MORE_STEPS, LOWER_RATE = 1.5, 2.0, 0.5


class Remedy(BaseModel):
    """What the next attempt does otherwise, and why. `parent` is the attempt whose settings it starts from."""

    name: str
    reason: str
    parent: int
    rows: int
    settings: dict[str, Any]
    resume: bool = False


def roles(failed: list[Verdict]) -> frozenset[Role]:
    """What the failed criteria are about."""
    found = {_ROLES.get(name.rpartition(".")[2], "other") for verdict in failed for name in parse(verdict.check).names}
    return frozenset(found - {"other"} or found)


def choose(sprint: Sprint, attempts: list[Attempt]) -> Remedy | None:
    """The next remedy; None when there is none left that could help."""
    last = attempts[-1]
    if last.failure:
        return _of_failure(sprint, last)
    best = max(attempts, key=_merit)
    failed = [verdict for verdict in best.verdicts if not verdict.passed]
    about = roles(failed)
    named = ", ".join(f"{v.name} ({v.evidence})" for v in failed)
    back = (
        f"Attempt {last.number} is further from the goal than attempt {best.number}, so it is rolled back. "
        if best is not last
        else ""
    )
    tried = {_key(attempt.rows, attempt.settings) for attempt in attempts}
    for name in _ORDER.get(about, ()):
        rows, settings = _changed(sprint, best, name)
        if _key(rows, settings) not in tried:
            why = f"{back}Not met: {named}. {_WHY[name]}"
            return Remedy(name=f"rolled back, {name}" if back else name, reason=why, parent=best.number, rows=rows,
                          settings=settings)  # fmt: skip
    return None


_WHY = {
    "more steps": "What was taught is not yet known, so the rows are seen twice as often.",
    "more negatives": "Half as many rows again, of which the greater part are answers that must not change.",
    "lower rate": "Smaller steps change less of what was known before.",
    "higher rate": "More steps were not enough, so each is made larger.",
    "fewer steps": "Fewer steps change less of what was known before.",
}


def _of_failure(sprint: Sprint, last: Attempt) -> Remedy | None:
    """What to do about a training that did not finish."""
    said, effective = last.failure, _effective(sprint, last)
    same: dict[str, Any] = {"parent": last.number, "rows": last.rows}
    if "memory limit" in said or "memory ran out" in said.replace("when memory ran out", ""):
        pack = max(int(effective["max_length"]), int(effective["pack_tokens"]) // 2)
        if pack < effective["pack_tokens"]:
            changed = {**last.settings, "pack_tokens": pack}
            return Remedy(name="smaller packs", reason=f"{said} Smaller packs take less.", settings=changed, **same)
        return None
    if "not a number" in said or "no number" in said:
        changed = {**last.settings, "learning_rate": effective["learning_rate"] * LOWER_RATE}
        return Remedy(name="lower rate", reason=f"{said} A lower rate may hold.", settings=changed, **same)
    if "without a word" in said or "asked to stop" in said:
        return Remedy(
            name="go on", reason=f"{said} It goes on from its last checkpoint.", settings=dict(last.settings),
            resume=True, **same,
        )  # fmt: skip
    return None


def _changed(sprint: Sprint, attempt: Attempt, name: str) -> tuple[int, dict[str, Any]]:
    effective, settings, rows = _effective(sprint, attempt), dict(attempt.settings), attempt.rows
    if name == "more steps":
        settings["epochs"] = min(100.0, round(effective["epochs"] * MORE_STEPS, 4))
    elif name == "fewer steps":
        settings["epochs"] = round(effective["epochs"] / MORE_STEPS, 4)
    elif name == "more negatives" and not sprint.teach.dataset:
        rows = min(20_000, round(rows * MORE_ROWS))
    elif name == "lower rate":
        settings["learning_rate"] = effective["learning_rate"] * LOWER_RATE
    elif name == "higher rate":
        settings["learning_rate"] = min(0.1, effective["learning_rate"] / LOWER_RATE)
    return rows, settings


def _effective(sprint: Sprint, attempt: Attempt) -> dict[str, Any]:
    return preset(sprint.train.preset, dataset="any", **attempt.settings).model_dump()


def _key(rows: int, settings: dict[str, Any]) -> str:
    return repr((rows, sorted((key, repr(value)) for key, value in settings.items())))


def _merit(attempt: Attempt) -> tuple[bool, float, int, int]:
    """Nearer to the goal is better: by the lesser of recall and controls, since a model that was taught nothing keeps
    all its controls; then by the criteria met; of equals the later."""
    figures = attempt.figures
    known = min(figures.get("adapter.recall", 0.0), figures.get("adapter.controls", 0.0))
    return not attempt.failure, known, sum(verdict.passed for verdict in attempt.verdicts), attempt.number
