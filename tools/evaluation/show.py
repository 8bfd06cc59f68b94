"""An evaluation for people: Markdown, one self-contained HTML page with plots, and a picture.

    comparison = read_comparison(workspace.run("eval-holds-0001"))
    markdown(comparison)            # text
    html(comparison)                # light and dark; nothing is loaded from elsewhere
    png(comparison)                 # bytes

Prompts and answers are somebody else's, so they are escaped wherever they stand.
"""

import io
from html import escape
from typing import TYPE_CHECKING, Any

from tools.evaluation.matrix import Comparison
from tools.evaluation.page import PAGE
from tools.evaluation.scores import Score

if TYPE_CHECKING:
    from matplotlib.figure import Figure

_SAMPLES = 24
_BLUE, _GREEN, _RED, _INK, _PALE = "#3b6fb6", "#2e8b57", "#c0392b", "#3a4250", "#d5dae1"


def markdown(comparison: Comparison, samples: int = 8) -> str:
    """The evaluation as Markdown: scores with intervals, what was fixed and broken, samples side by side."""
    parts = [f"# {comparison.run}: {comparison.suite}", verdict(comparison), _table(*_figures(comparison))]
    parts += ["## By family", _table(*_families(comparison))]
    if comparison.changes:
        parts += [f"## Against {comparison.against}", _table(*_changes(comparison))]
    for label, change in comparison.changes.items():
        for name, ids in (("fixed", change.fixed), ("broken", change.broken)):
            if ids:
                more = f" and {len(ids) - 30} more" if len(ids) > 30 else ""
                parts.append(f"{_cell(label)} {name}: {', '.join(map(_cell, ids[:30]))}{more}.")
    chosen = _chosen(comparison)[:samples]
    if chosen:
        parts.append("## Samples side by side")
    for index in chosen:
        first = comparison.reports[comparison.against].answers[index]
        rows = [
            [label, _word(comparison, label, index), " ".join(report.answers[index].answer.split())[:300]]
            for label, report in comparison.reports.items()
        ]
        parts += [f"**{_cell(' '.join(first.prompt.split())[:400])}**", _table(["model", "", "answer"], rows)]
    return "\n\n".join(parts) + "\n"


def html(comparison: Comparison) -> str:
    """The evaluation as one HTML page."""
    from jinja2 import Environment

    answers = comparison.reports[comparison.against].answers
    probes = [
        {
            "id": answer.id,
            "kind": "recall" if answer.kind == "probe" else answer.kind,
            "family": answer.family,
            "prompt": answer.prompt,
            "cells": [_word(comparison, label, i) for label in comparison.reports],
        }
        for i, answer in enumerate(answers)
    ]
    samples = [
        {
            "prompt": answers[index].prompt,
            "answers": [
                (label, _word(comparison, label, index), report.answers[index])
                for label, report in comparison.reports.items()
            ],
        }
        for index in _chosen(comparison)[:_SAMPLES]
    ]
    template = Environment(autoescape=True, trim_blocks=True, lstrip_blocks=True).from_string(PAGE)
    return template.render(
        comparison=comparison,
        verdict=verdict(comparison),
        tables=[
            ("Scores", *_figures(comparison)),
            ("By family", *_families(comparison)),
            *([(f"Against {comparison.against}", *_changes(comparison))] if comparison.changes else []),
        ],
        plot=_svg(comparison),
        probes=probes,
        samples=samples,
    )


def png(comparison: Comparison) -> bytes:
    """The plots as a picture."""
    stream = io.BytesIO()
    _figure(comparison).savefig(stream, format="png", metadata={"Software": None})
    return stream.getvalue()


def _svg(comparison: Comparison) -> str:
    import matplotlib

    stream = io.StringIO()
    with matplotlib.rc_context({"svg.hashsalt": comparison.run, "svg.fonttype": "none"}):
        _figure(comparison).savefig(stream, format="svg", metadata={"Date": None, "Creator": None}, transparent=True)
    return stream.getvalue().partition("<svg")[1] + stream.getvalue().partition("<svg")[2]


def verdict(comparison: Comparison) -> str:
    """What the evaluation found, in a few sentences."""
    said = []
    for label, change in comparison.changes.items():
        report = comparison.reports[label]
        sentence = (
            f"{label} against {comparison.against}: {len(change.fixed)} fixed, {len(change.broken)} broken "
            f"({change.controls_broken} of them controls), {change.same_right + change.same_wrong} the same"
        )
        if change.fixed or change.broken:
            sentence += f" (sign test p = {change.p:.2g})"
        said.append(f"{sentence}. {_dealt(report.dealt_p)}".strip())
    waiting = sum(report.pending for report in comparison.reports.values())
    if waiting:
        said.append(f"{waiting} answers wait for an agent's verdict and are not counted.")
    return " ".join(said) or "One model was evaluated; there is nothing to compare it with."


def _dealt(p: float | None) -> str:
    if p is None:
        return ""
    if p > 0.05:
        return (
            f"Its answers dealt to the questions at random would be right as often (p = {p:.2g}): they prove nothing."
        )
    return f"Its answers depend on the questions (p = {p:.2g})."


def interval(score: Score) -> str:
    """A share with its 95 % interval: '93.3 % (82–98, 42 of 45)'."""
    if score.share is None:
        return "–"
    return f"{score.share:.1%} ({score.low:.0%}–{score.high:.0%}, {score.right} of {score.total})"


def _figures(comparison: Comparison) -> tuple[list[str], list[list[str]]]:
    reports = comparison.reports
    rows = [
        [kind, *(interval(r.scores[kind]) if kind in r.scores else "–" for r in reports.values())]
        for kind in ("recall", "control")
    ]
    for name, key in (("perplexity, all", ""), ("perplexity, prose", "prose"), ("perplexity, code", "code")):
        values = [r.perplexities.get(key) if key else r.perplexity for r in reports.values()]
        rows.append([name, *(f"{value:.2f}" if value is not None else "–" for value in values)])
    rows.append(["size, MB", *(f"{r.size_mb:.1f}" for r in reports.values())])
    rows.append(["tokens per second", *(f"{r.tokens_per_second:.1f}" for r in reports.values())])
    rows.append(["p, dealt at random", *("–" if r.dealt_p is None else f"{r.dealt_p:.2g}" for r in reports.values())])
    if any(n for _, n in comparison.agreement.values()):
        rows.append(
            ["agent agrees with rules", *(f"{a} of {n}" if n else "–" for a, n in comparison.agreement.values())]
        )
    return ["", *reports], rows


def _families(comparison: Comparison) -> tuple[list[str], list[list[str]]]:
    rows = []
    for kind in ("recall", "control"):
        families = dict.fromkeys(f for r in comparison.reports.values() for f in r.family_scores.get(kind, {}))
        for family in families:
            found = [r.family_scores.get(kind, {}).get(family) for r in comparison.reports.values()]
            rows.append([f"{kind}: {family}", *(interval(one) if one else "–" for one in found)])
    return ["", *comparison.reports], rows


def _changes(comparison: Comparison) -> tuple[list[str], list[list[str]]]:
    rows = [
        [label, str(len(c.fixed)), str(len(c.broken)), str(c.same_right), str(c.same_wrong), f"{c.p:.2g}"]
        for label, c in comparison.changes.items()
    ]
    return ["", "fixed", "broken", "still right", "still wrong", "sign test p"], rows


def _word(comparison: Comparison, label: str, index: int) -> str:
    """What became of an answer: fixed, broken, right, wrong, or to judge; and that an agent said so."""
    answer = comparison.reports[label].answers[index]
    if answer.right is None:
        return "to judge"
    change = comparison.change(label, index) if label != comparison.against else None
    word = change if change in ("fixed", "broken") else ("right" if answer.right else "wrong")
    return f"{word} (agent)" if answer.by == "agent" else word


def _chosen(comparison: Comparison) -> list[int]:
    """Which probes to show: what the last model broke, then fixed, then has wrong, then some that it has right."""
    last = list(comparison.reports)[-1]
    order = ("broken", "fixed", "wrong", "right")
    places: dict[str, list[int]] = {word: [] for word in order}
    for index in range(len(comparison.reports[last].answers)):
        word = _word(comparison, last, index).partition(" ")[0]
        places.get(word, places["wrong"]).append(index)
    return [index for word in order for index in places[word][:8]]


def _figure(comparison: Comparison) -> "Figure":
    from matplotlib.backends.backend_agg import FigureCanvasAgg
    from matplotlib.figure import Figure

    reports, labels = comparison.reports, [_plain(label) for label in comparison.reports]
    figure = Figure(figsize=(12, 8), dpi=100, layout="constrained")
    FigureCanvasAgg(figure)
    figure.suptitle(_plain(f"{comparison.run}: {comparison.suite}"), fontsize=12)
    axes: Any = figure.subplots(2, 2)
    width = 0.38
    for place, (kind, colour) in enumerate((("recall", _BLUE), ("control", _GREEN))):
        scores = [report.scores.get(kind) for report in reports.values()]
        shares = [s.share or 0.0 if s else 0.0 for s in scores]
        below = [share - (s.low if s else 0.0) for s, share in zip(scores, shares, strict=True)]
        above = [(s.high if s else 0.0) - share for s, share in zip(scores, shares, strict=True)]
        xs = [x + (place - 0.5) * width for x in range(len(labels))]
        reach = [[max(0.0, v) for v in below], [max(0.0, v) for v in above]]
        axes[0, 0].bar(xs, shares, width, yerr=reach, capsize=3, color=colour, ecolor=_INK, label=kind)
    axes[0, 0].set_xticks(range(len(labels)), labels)
    axes[0, 0].set(ylim=(0, 1.05), title="Share right, with Wilson's 95 % interval")
    _draw_families(axes[0, 1], comparison)
    left = [0] * len(comparison.changes)
    names = [_plain(label) for label in comparison.changes]
    for name, colour, counts in (
        ("fixed", _GREEN, [len(c.fixed) for c in comparison.changes.values()]),
        ("still right", _BLUE, [c.same_right for c in comparison.changes.values()]),
        ("still wrong", _PALE, [c.same_wrong for c in comparison.changes.values()]),
        ("broken", _RED, [len(c.broken) for c in comparison.changes.values()]),
    ):
        if names:
            axes[1, 0].barh(names, counts, left=left, color=colour, label=name)
        left = [a + b for a, b in zip(left, counts, strict=True)]
    axes[1, 0].set_title(_plain(f"Probes against {comparison.against}"))
    axes[1, 0].invert_yaxis()
    for place, (key, colour) in enumerate((("prose", _BLUE), ("code", _GREEN))):
        values = [report.perplexities.get(key, report.perplexity) for report in reports.values()]
        xs = [x + (place - 0.5) * width for x in range(len(labels))]
        axes[1, 1].bar_label(axes[1, 1].bar(xs, values, width, color=colour, label=key), fmt="%.1f", fontsize=8)
    axes[1, 1].set_xticks(range(len(labels)), labels)
    axes[1, 1].set_title("Retention: perplexity of general text (lower is better)")
    for one in axes.flat:
        if one.get_legend_handles_labels()[1]:  # below, where it hides nothing
            one.legend(frameon=False, ncols=4, fontsize=8, loc="upper center", bbox_to_anchor=(0.5, -0.07))
        one.spines[["top", "right"]].set_visible(False)
        one.tick_params(labelsize=8)
        one.title.set_fontsize(10)
    return figure


def _draw_families(axes: Any, comparison: Comparison) -> None:
    """The last model's share of each family, and where the first one stood."""
    first, last = comparison.reports[comparison.against], list(comparison.reports.values())[-1]
    pairs = [(kind, family) for kind, found in last.family_scores.items() for family in found][:16][::-1]
    names = [_plain(f"{kind}: {family}")[:34] for kind, family in pairs]
    axes.barh(names, [last.family_scores[k][f].share or 0.0 for k, f in pairs], color=_BLUE, label=_plain(last.label))
    before = [first.family_scores.get(k, {}).get(f) for k, f in pairs]
    axes.plot([s.share or 0.0 if s else 0.0 for s in before], names, "o", color=_RED, label=_plain(first.label))
    axes.set(xlim=(0, 1.05), title="Share right by family")


def _plain(text: str) -> str:
    """`text` without what matplotlib would read as a formula."""
    return text.replace("$", r"\$")


def _table(heads: list[str], rows: list[list[str]]) -> str:
    lines = [heads, ["---"] * len(heads), *rows]
    return "\n".join(f"| {' | '.join(_cell(c) if c != '---' else c for c in line)} |" for line in lines)


def _cell(value: str) -> str:
    """A value on one line, with nothing that Markdown or HTML would act on."""
    text = escape(" ".join(str(value).split()), quote=False)
    return "".join(f"\\{sign}" if sign in "\\`*_{}[]|!" else sign for sign in text)
