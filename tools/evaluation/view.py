"""An evaluation as data for a picture: the models in order, what each step fixed and broke, probes with every answer.

    evaluation_view(workspace.run("eval-holds-0001"), only="changed", first=0, count=12)

Words of an answer (fixed, broken, right, wrong) are against the first model; `steps` are each model against the one
before it, so that what quantizing broke does not hide behind what training fixed.
"""

from itertools import pairwise
from pathlib import Path
from typing import Any, get_args

from tools.errors import InputError
from tools.evaluation.compare import ModelReport
from tools.evaluation.matrix import Comparison, compare_reports, read_comparison
from tools.evaluation.scores import Only
from tools.evaluation.show import verdict
from tools.files import read_json
from tools.jobs.record import read

_SHOWN = 600  # characters of a question, an answer or a reason
_TOLD = 160  # of these, of an answer among the worst
_WORST = 6
_ROOM = 1250, 300  # characters of the text, of which so many are for answers whatever else there is
_ORDER = ("broken", "wrong", "fixed")


def evaluation_view(folder: Path, only: Only = "changed", first: int = 0, count: int | None = None) -> dict[str, Any]:
    """Everything that the evaluation view draws, as JSON data.

    Args:
        only: which probes: fixed or broken by some model, or wrong with the last one.
        first, count: which of these probes; without `count` all of them.

    Raises:
        NotFoundError: the job in `folder` is no evaluation, or has not finished.
        InputError: `only` is none of these.
    """
    if only not in get_args(Only):
        raise InputError(f"Expected only to be one of {', '.join(get_args(Only))}; got {only!r}.", "name one of these")
    comparison, others = _whole(folder)
    result = read(folder).result
    rows = [_row(comparison, place) for place in range(len(comparison.reports[comparison.against].answers))]
    chosen = [row for row in rows if is_among(row, only)]
    page = chosen[first:] if count is None else chosen[first : first + count]
    return {
        "name": comparison.run,
        "suite": comparison.suite,
        "others": others,
        "verdict": verdict(comparison),
        "passed": result.get("passed"),
        "promoted": bool(result.get("promoted")),
        "reason": str(result.get("reason", "")),
        "models": [_model(report) for report in comparison.reports.values()],
        "steps": _steps(comparison),
        "families": _families(comparison),
        "worst": worst(rows),
        "counts": {name: sum(is_among(row, name) for row in rows) for name in get_args(Only)},
        "page": {"only": only, "first": first, "count": count or len(page), "total": len(chosen), "rows": page},
    }


def is_among(row: dict[str, Any], only: str) -> bool:
    """Whether a probe belongs to those that `only` names."""
    words = [cell["word"] for cell in row["cells"][1:]]
    if only == "changed":
        return "fixed" in words or "broken" in words
    if only == "wrong":
        return row["cells"][-1]["word"] in ("wrong", "broken")
    return only == "all" or only in words


def worst(rows: list[dict[str, Any]]) -> list[dict[str, Any]]:
    """The first few answers of the last model: what it broke, then has wrong, then fixed."""
    found = [row for word in _ORDER for row in rows if row["cells"][-1]["word"] == word]
    return [_short(row) for row in found[:_WORST]]


def _short(row: dict[str, Any]) -> dict[str, Any]:
    last = row["cells"][-1]
    texts = {"prompt": row["prompt"], "answer": last["answer"], "why": last["why"]}
    named = {key: row[key] for key in ("id", "kind", "family")}
    return {**named, "word": last["word"], **{key: text[:_TOLD] for key, text in texts.items()}}


def told(view: dict[str, Any]) -> str:
    """The view in a few lines, for who cannot see it; of the answers those on its page, if it is not the first one."""
    lines = [view["verdict"]] if len(view["models"]) < 3 else []  # of more, each step says it
    for model in view["models"]:
        lines.append(
            f"{model['label']}: recall {_said(model['recall'])}, controls {_said(model['control'])}, perplexity "
            f"{model['perplexity']:.2f}, {model['size_mb']:.0f} MB"
        )
    lines += [f"{s['from']} → {s['to']}: {s['fixed']} fixed, {s['broken']} broken{_controls(s)}" for s in view["steps"]]
    if view["passed"] is not None:
        lines.append("Gate: passed." if view["passed"] else f"Gate: NOT passed: {view['reason']}")
    most, least = _ROOM
    return "\n".join([*lines, *_answers(view, max(least, most - sum(map(len, lines))))])


def _answers(view: dict[str, Any], room: int) -> list[str]:
    """As many answers as there is room for, under a line that says which and how many there are."""
    page, counts = view["page"], view["counts"]
    if page["only"] == "changed":
        said = f"{counts['broken']} broken, {counts['wrong']} wrong at the end, {counts['fixed']} fixed"
        rows, which = view["worst"], f"of {counts['all']}, {said}; the worst first"
    else:
        rows, which = [_short(row) for row in page["rows"]], f"{page['only']}, {page['total']} of {counts['all']}"
    lines: list[str] = []
    for row in rows:
        line = f"{row['word']}, {row['family']}: {row['prompt'][:80]!r} → {row['answer'][:80]!r}"
        if sum(map(len, lines)) + len(line) > room:
            break
        lines.append(line)
    return [f"Answers (data): {which}.", *lines]


def _controls(step: dict[str, Any]) -> str:
    return (
        f" ({step['controls_broken']} controls, worst in {step['worst_controls']})" if step["controls_broken"] else ""
    )


def _said(score: dict[str, Any] | None) -> str:
    return f"{score['share']:.1%}" if score and score["share"] is not None else "–"


def _whole(folder: Path) -> tuple[Comparison, dict[str, str]]:
    """The comparison in `folder`, with what other evaluations measured of the same training on the same probes put
    before it: the base and the adapter belong beside the files that were made of them. And from which each comes."""
    own = read_comparison(folder)
    trained, probes = _trained(folder), own.reports[own.against].suite_sha256
    if "base" in own.reports or not trained:
        return own, {}
    before: dict[str, ModelReport] = {}
    others: dict[str, str] = {}
    for other in sorted(folder.parent.glob("*/reports/comparison.json"), key=lambda p: p.stat().st_mtime):
        run = other.parent.parent
        if run == folder or _trained(run) != trained:
            continue
        for label, report in read_comparison(run).reports.items():
            if label in ("base", "adapter") and label not in own.reports and report.suite_sha256 == probes:
                before[label], others[label] = report, run.name
    if "base" not in before:
        return own, {}
    reports = [before[label] for label in ("base", "adapter") if label in before] + list(own.reports.values())
    return compare_reports(own.run, reports), others


def _trained(folder: Path) -> str:
    """The training that the targets of an evaluation came from; nothing when there is none, or several."""
    models = folder.parent.parent / "models"
    found = set()
    for target in read_json(folder / "job.json")["config"]["targets"]:
        manifest = models / target["model"] / "manifest.json" if target["model"] else None
        if target["run"]:
            found.add(target["run"])
        elif manifest and manifest.is_file():
            found.add(read_json(manifest)["made_from"]["run"])
    return found.pop() if len(found) == 1 else ""


def _model(report: ModelReport) -> dict[str, Any]:
    return {
        "label": report.label,
        "recall": report.scores["recall"].model_dump() if "recall" in report.scores else None,
        "control": report.scores["control"].model_dump() if "control" in report.scores else None,
        "perplexity": report.perplexity,
        "size_mb": report.size_mb,
        "tokens_per_second": report.tokens_per_second,
        "pending": report.pending,
    }


def _steps(comparison: Comparison) -> list[dict[str, Any]]:
    reports = list(comparison.reports.values())
    steps = []
    for before, after in pairwise(reports):
        change = compare_reports(comparison.run, [before, after]).changes[after.label]
        counts = change.model_dump(include={"controls_broken", "worst_controls"})
        counts |= {"fixed": len(change.fixed), "broken": len(change.broken)}
        steps.append({"from": before.label, "to": after.label, **counts})
    return steps


def _families(comparison: Comparison) -> list[dict[str, Any]]:
    found = []
    for kind in ("recall", "control"):
        scores = [report.family_scores.get(kind, {}) for report in comparison.reports.values()]
        for family in dict.fromkeys(name for one in scores for name in one):
            cells = [[one[family].right, one[family].total] if family in one else [0, 0] for one in scores]
            found.append({"kind": kind, "family": family, "cells": cells})
    return found


def _row(comparison: Comparison, place: int) -> dict[str, Any]:
    asked = comparison.reports[comparison.against].answers[place]
    return {
        "id": asked.id,
        "kind": "recall" if asked.kind == "probe" else asked.kind,
        "family": asked.family,
        "prompt": asked.prompt[:_SHOWN],
        "cells": [_cell(comparison, label, place) for label in comparison.reports],
    }


def _cell(comparison: Comparison, label: str, place: int) -> dict[str, str]:
    answer = comparison.reports[label].answers[place]
    word = "to judge" if answer.right is None else "right" if answer.right else "wrong"
    if label != comparison.against:
        word = comparison.change(label, place) or word
    return {"word": word, "answer": answer.answer[:_SHOWN], "why": answer.why[:_SHOWN], "by": answer.by}
