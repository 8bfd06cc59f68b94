"""How well insights are found in what an agent passes, on the labelled snippets of datasets/insights.

    .venv/bin/python -P benchmarks/insights.py [--json] [--quick] [--wrong] [--part tuning] [--write docs/memory.md]

Three sets: `tuning`, on which the rules were made, `unseen` and `later`, which they were not. A candidate is right when
it holds the words of an expected insight; precision is the share of candidates that are, recall the share of the
expected that were found. `approved` counts only those that would be kept without a question (confidence 0.8 or more).
`whole` is the share of snippets of which everything was found and nothing else. It takes a second, so --quick changes
nothing. --wrong shows what went wrong in `tuning`; the other sets are not shown, so that nobody tunes on them. --write
puts the table between the marks of a file; tests/test_insights.py compares what stands there.
"""

import argparse
import json
import sys
from pathlib import Path
from typing import Any

from tools.learning.snippets import PARTS, Snippet, judge, read_snippets

BEGIN, END = "<!-- snippets: benchmarks/insights.py --write -->", "<!-- end of snippets -->"


def measure(part: str) -> dict[str, Any]:
    """Counts, precision and recall over one part."""
    snippets = read_snippets(part)
    outcomes = [judge(snippet) for snippet in snippets]
    right, found = sum(o.right for o in outcomes), sum(o.found for o in outcomes)
    expected = sum(len(s.expect) for s in snippets)
    sure_right, sure = sum(o.sure_right for o in outcomes), sum(o.sure for o in outcomes)
    return {
        "snippets": len(snippets),
        "with_insights": sum(bool(s.expect) for s in snippets),
        "expected": expected,
        "candidates": found,
        "precision": round(right / max(1, found), 4),
        "recall": round(right / max(1, expected), 4),
        "approved": sure,
        "approved_precision": round(sure_right / max(1, sure), 4),
        "approved_recall": round(sure_right / max(1, expected), 4),
        "whole": round(sum(o.whole for o in outcomes) / len(snippets), 4),
    }


def table(result: dict[str, dict[str, Any]]) -> str:
    """The figures of all parts, as Markdown."""
    lines = [
        "| part | snippets | expected | candidates | precision | recall | approved | precision of approved |",
        "|---|---|---|---|---|---|---|---|",
    ]
    lines += [
        f"| {part} | {f['snippets']} | {f['expected']} | {f['candidates']} | {f['precision']:.2f} | {f['recall']:.2f} "
        f"| {f['approved']} | {f['approved_precision']:.2f} |"
        for part, f in result.items()
    ]
    return "\n".join(lines)


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--json", action="store_true", help="print one JSON value")
    parser.add_argument("--quick", action="store_true", help="the same: it takes a second anyway")
    parser.add_argument("--wrong", action="store_true", help="show the snippets of `tuning` that went wrong")
    parser.add_argument("--part", choices=PARTS, help="only this part")
    parser.add_argument("--write", type=Path, help="the document whose table is replaced")
    arguments = parser.parse_args()
    result = {part: measure(part) for part in PARTS if arguments.part in (None, part)}
    if arguments.write:
        text = arguments.write.read_text(encoding="utf-8")
        whole = table({part: measure(part) for part in PARTS})
        before, after = text.split(BEGIN)[0], text.split(END)[1]
        arguments.write.write_text(f"{before}{BEGIN}\n\n{whole}\n\n{END}{after}", encoding="utf-8")
    if arguments.json:
        sys.stdout.write(json.dumps(result) + "\n")
        return
    for part, figures in result.items():
        sys.stdout.write(f"{part}: " + ", ".join(f"{name} {value}" for name, value in figures.items()) + "\n")
    if arguments.wrong:
        for snippet in read_snippets("tuning"):
            outcome = judge(snippet)
            if not outcome.whole:
                sys.stdout.write(_shown(snippet, outcome.told) + "\n")


def _shown(snippet: Snippet, told: list[str]) -> str:
    return f"\n{snippet.id}: {snippet.text[:300]}\n  expected {snippet.expect}\n  found    {told}"


if __name__ == "__main__":
    main()
