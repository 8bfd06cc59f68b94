"""How well check_preservation tells allowed changes from forbidden ones, on the labelled pairs.

    .venv/bin/python -P benchmarks/policy.py [--quick] [--json] [--write docs/policies.md]

Prints the confusion matrix by level and language, and what other thresholds of meaning would give. "Caught" is a
forbidden change that was refused, "missed" one that was let through, "false alarm" an allowed change that was refused.
--quick leaves out what needs the embedder (the flexible level). --write puts the tables between the marks of a file;
tests/test_policy.py compares what stands there.
"""

import argparse
import json
import sys
import time
from pathlib import Path
from typing import Any

from tools.policy.levels import LEVELS
from tools.policy.meaning import CODE_THRESHOLD, THRESHOLD
from tools.policy.pairs import Result, judge, matrix, read_pairs

BEGIN, END = "<!-- matrix: benchmarks/policy.py --write -->", "<!-- end of matrix -->"


def measure(quick: bool = False) -> dict[str, Any]:
    """Judge the pairs: counts, precision and recall by level and language, thresholds, and milliseconds a pair."""
    from tools.memory.embedder import embed

    pairs = [pair for pair in read_pairs() if not (quick and pair.counts_for == "flexible")]
    began = time.perf_counter()
    results = judge(pairs, embed)
    return {**summary(results), "milliseconds_a_pair": round(1000 * (time.perf_counter() - began) / len(pairs), 2)}


def summary(results: list[Result]) -> dict[str, Any]:
    """What judged pairs say."""
    counted = matrix(results)
    return {
        "pairs": len(results),
        "wrong": [f"{r.pair.id}: {r.pair.why}" for r in results if not r.right],
        "levels": {
            level: {
                language: {
                    "caught": c.caught, "missed": c.missed, "false_alarms": c.false_alarms, "passed": c.passed,
                    "precision": round(c.precision, 4), "recall": round(c.recall, 4),
                }
                for language, c in sorted(counted[level].items(), key=lambda item: (item[0] == "all", item[0]))
            }
            for level in LEVELS if level in counted
        },
        "thresholds": {
            "prose": _thresholds([r for r in results if r.pair.language == "prose"], THRESHOLD),
            "code": _thresholds([r for r in results if r.pair.language != "prose"], CODE_THRESHOLD),
        },
    }  # fmt: skip


def _thresholds(results: list[Result], used: float) -> list[dict[str, float]]:
    """What the meaning alone would let through and refuse at `used` and other cosines, of what no fact tells."""
    judged = []
    for result in results:
        kinds = {violation.kind for violation in result.verdict.violations}
        by_facts = not result.pair.allowed and kinds - {"meaning"}  # near in meaning, and yet not the same
        if result.verdict.similarity is not None and not by_facts:
            judged.append(result)
    rows = []
    for threshold in sorted({0.3, 0.4, 0.5, 0.6, 0.7, 0.8, 0.9, used}):
        refused = [r for r in judged if (r.verdict.similarity or 0) < threshold]
        false_alarms = sum(r.pair.allowed for r in refused)
        missed = sum(not r.pair.allowed for r in judged) - (len(refused) - false_alarms)
        rows.append({"threshold": threshold, "missed": missed, "false_alarms": false_alarms, "pairs": len(judged)})
    return rows


def tables(found: dict[str, Any]) -> str:
    """The figures as Markdown."""
    lines = [
        f"{found['pairs']} pairs.",
        "",
        "| level | language | caught | missed | false alarms | passed | precision | recall |",
        "|---|---|---|---|---|---|---|---|",
    ]
    for level, languages in found["levels"].items():
        for language, c in languages.items():
            lines.append(
                f"| {level} | {language} | {c['caught']} | {c['missed']} | {c['false_alarms']} | {c['passed']} | "
                f"{c['precision']:.3f} | {c['recall']:.3f} |"
            )
    told = {
        "prose": ("rewordings that no number, term or no tells apart", THRESHOLD),
        "code": ("rewritings of code that no signature, error, text, constant or number tells apart", CODE_THRESHOLD),
    }
    for name, (which, used) in told.items():
        rows = found["thresholds"][name]
        lines += [
            "",
            f"Meaning alone, on {rows[0]['pairs']} {which}:",
            "",
            "| cosine at least | missed | false alarms |",
            "|---|---|---|",
        ]
        for row in rows:
            mark = " (used)" if row["threshold"] == used else ""
            lines.append(f"| {row['threshold']}{mark} | {row['missed']} | {row['false_alarms']} |")
    return "\n".join(lines)


def main() -> None:
    """Measure, print, and write when asked."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--quick", action="store_true", help="strict and moderate only")
    parser.add_argument("--json", action="store_true", help="one JSON value")
    parser.add_argument("--write", type=Path, help="the document whose tables are replaced")
    options = parser.parse_args()
    found = measure(options.quick)
    if options.write:
        text = options.write.read_text(encoding="utf-8")
        before, after = text.split(BEGIN)[0], text.split(END)[1]
        options.write.write_text(f"{before}{BEGIN}\n\n{tables(found)}\n\n{END}{after}", encoding="utf-8")
    print(json.dumps(found, indent=1, ensure_ascii=False) if options.json else tables(found))
    if not options.json:
        print(f"\n{found['milliseconds_a_pair']} ms a pair (Python {sys.version.split()[0]})")
        for wrong in found["wrong"]:
            print(f"wrong: {wrong}")


if __name__ == "__main__":
    main()
