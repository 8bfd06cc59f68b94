"""loop.md: a cycle as a person or an agent reads it, made anew from its state each time.

text = loop_md(cycle)
"""

from tools.sprint.cycle import Cycle, Entry, Verdict

_MARKS = {"met": "met", "failed": "**failed**", "open": "open"}


def loop_md(cycle: Cycle) -> str:
    """The whole log as Markdown."""
    lines = [f"# Sprint {cycle.sprint}, cycle {cycle.id}", ""]
    if cycle.goal:
        lines += [cycle.goal, ""]
    outcome = f"under way, next: {cycle.phase}" if cycle.state == "open" else cycle.state
    waits = f" It waits for {cycle.waiting}." if cycle.waiting else ""
    lines += [
        f"- State: **{outcome}**.{waits}{f' {cycle.reason}' if cycle.reason else ''}",
        f"- {len(cycle.attempts)} attempts, {cycle.minutes:.1f} minutes at work, {cycle.disk_gb:.2f} GB of disk.",
        f"- Began {cycle.created}, last written {cycle.updated}.",
        "",
        "## What was done, and why",
        "",
    ]
    for entry in cycle.entries:
        lines += [_heading(entry), "", entry.said, ""]
        if entry.reason:
            lines += [f"*Reason:* {entry.reason}", ""]
    if len(cycle.attempts) > 1:
        lines += ["## Attempts", "", *_attempts(cycle), ""]
    if cycle.criteria:
        lines += ["## Acceptance criteria", "", *criteria_table(cycle.criteria), ""]
    return "\n".join(lines)


def criteria_table(criteria: list[Verdict]) -> list[str]:
    """The criteria with their evidence, as lines of a Markdown table, and a line that counts them."""
    counts = {status: sum(verdict.status == status for verdict in criteria) for status in _MARKS}
    lines = [f"{counts['met']} met, {counts['failed']} failed, {counts['open']} open.", ""]
    lines += ["| criterion | | evidence |", "|---|---|---|"]
    for verdict in criteria:
        named = f"{verdict.name}: {verdict.text}" if verdict.text else verdict.name
        lines.append(f"| {_cell(named)} | {_MARKS[verdict.status]} | {_cell(verdict.evidence)} |")
    return lines


def _attempts(cycle: Cycle) -> list[str]:
    keys = ("base.recall", "adapter.recall", "adapter.controls", "adapter.perplexity", "train.steps")
    lines = [f"| | remedy | rows | settings | {' | '.join(keys)} |", "|---|---|---|---|" + "---|" * len(keys)]
    for attempt in cycle.attempts:
        figures = " | ".join(f"{attempt.figures[key]:g}" if key in attempt.figures else "" for key in keys)
        settings = ", ".join(f"{key} {value:g}" if isinstance(value, float) else f"{key} {value}"
                             for key, value in attempt.settings.items())  # fmt: skip
        remedy = f"{attempt.remedy} (from {attempt.parent})" if attempt.remedy else "the plan"
        lines.append(f"| {attempt.number} | {remedy} | {attempt.rows} | {_cell(settings)} | {figures} |")
    return lines


def _heading(entry: Entry) -> str:
    at = entry.at[11:19]
    attempt = f", attempt {entry.attempt}" if entry.attempt else ""
    return f"### {at} {entry.phase.capitalize()}{attempt} ({entry.minutes:.1f} min)"


def _cell(text: str) -> str:
    return " ".join(text.split()).replace("|", "\\|")
