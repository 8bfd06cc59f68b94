"""Validate a dataset or a file, and split a valid dataset 80/20.

    report = validate_file(path)
    report = validate_dataset(workspace, "forty-two")     # also writes train.jsonl, valid.jsonl, report.*

Errors stop training: broken rows, exact duplicates, one question with two answers, placeholders left in. Warnings
say what a careful person would look at. A file passes by once, row by row (`checks` looks at each, `profile` and
`repeats` keep a few hundred bytes of it); lines that repeat each other are then read again, to be measured and shown.
"""

from collections import Counter
from pathlib import Path
from typing import Any

from pydantic import BaseModel

from tools.data.checks import row_errors as row_errors
from tools.data.datasets import Manifest, read_manifest, section, write_manifest
from tools.data.examples import Example, RowError, read_rows, scan, write_examples
from tools.data.profile import Profile
from tools.data.repeats import Contradiction, Duplicate, Leak, Prints, exact_duplicates, find_leaks, near_duplicates
from tools.data.report import write_reports
from tools.data.split import split
from tools.errors import InputError
from tools.files import sha256
from tools.workspace import Workspace

LISTED = 10_000  # errors, duplicates and contradictions that a report lists; all are counted


class Report(BaseModel):
    """What validation found; lines count from 1 (in a JSON list: rows)."""

    rows: int
    errors: list[RowError]
    warnings: list[str]
    duplicates: list[Duplicate]
    contradictions: list[Contradiction]
    leaks: list[Leak] = []
    statistics: dict[str, Any]

    @property
    def ok(self) -> bool:
        return not self.errors and not self.contradictions and not any(d.kind == "exact" for d in self.duplicates)


def validate_file(path: Path) -> Report:
    """Check every row of a JSON or JSONL file.

    Raises:
        InputError: the file as a whole cannot be read (empty, packed, not text, not a file).
    """
    errors: list[RowError] = []
    codes: Counter[str] = Counter()
    profile, prints = Profile(), Prints()
    for line, found in read_rows(path):
        if isinstance(found, Example):
            problems = row_errors(line, found)
            profile.add(found)
            prints.add(line, found)
        else:
            problems = found
        codes.update(problem.code for problem in problems)
        errors += problems[: LISTED - len(errors)]
    duplicates = [*exact_duplicates(path, prints), *near_duplicates(path, prints)]
    contradictions = [Contradiction(lines=lines) for lines in prints.contradictions()]
    repeated = Counter[str]()
    for duplicate in duplicates:
        repeated[duplicate.kind] += len(duplicate.lines) - 1
    statistics = profile.figures() | {
        "errors": dict(codes.most_common()),
        "duplicate_rows": {"exact": repeated["exact"], "near": repeated["near"]},
        "contradictory_questions": len(contradictions),
    }
    return Report(
        rows=profile.rows,
        errors=errors,
        warnings=_warnings(statistics, profile.rows),
        duplicates=duplicates[:LISTED],
        contradictions=contradictions[:LISTED],
        statistics=statistics,
    )


def validate_dataset(workspace: Workspace, name: str) -> tuple[Report, Manifest]:
    """Check the rows of dataset `name`; when they are right, split them 80/20 and mark the dataset valid.

    Raises:
        NotFoundError: no such dataset.
        InputError: fewer than 5 rows, which cannot be split.
    """
    folder = workspace.dataset(name)
    with workspace.lock("datasets"):
        manifest = read_manifest(folder)
        report = validate_file(folder / "rows.jsonl")
        manifest.rows, manifest.rows_sha256 = report.rows, sha256(folder / "rows.jsonl")
        if report.ok:
            rows = [row for _, row in scan(folder / "rows.jsonl")[0]]
            if len(rows) < 5:
                raise InputError(f"Expected at least 5 rows to split 80/20, got {len(rows)}.", "add rows")
            train, valid = split(rows, manifest.seed or 0)
            write_examples(folder / "train.jsonl", train)
            write_examples(folder / "valid.jsonl", valid)
            manifest.train_rows, manifest.valid_rows = len(train), len(valid)
            manifest.train_sha256 = sha256(folder / "train.jsonl")
            manifest.valid_sha256 = sha256(folder / "valid.jsonl")
            manifest.kinds = dict(Counter(row.kind for row in rows))
            manifest.sections = dict(Counter(section(row) for row in rows))
            report.leaks = find_leaks(folder / "train.jsonl", folder / "valid.jsonl")
            report.statistics["leaks"] = dict(Counter(leak.kind for leak in report.leaks))
            if report.leaks:
                report.warnings.append(
                    f"{len(report.leaks)} of {len(valid)} held-out rows are near a training row, so what is measured "
                    "on them is partly remembered."
                )
        manifest.status = "valid" if report.ok else "invalid"
        write_reports(folder, report, name)
        write_manifest(folder, manifest)
    return report, manifest


def _warnings(statistics: dict[str, Any], rows: int) -> list[str]:
    """What is no error and still worth a look."""
    if not rows:
        return []
    found = []
    strict = statistics["levels"].get("strict", 0)
    if strict > 0.6 * rows:
        found.append(
            f"{strict} of {rows} rows teach, few guard: a small model will overshoot. "
            "Add rows whose answer must not change."
        )
    opening = statistics["commonest_opening"]
    if rows >= 50 and opening["share"] > 0.1:
        found.append(f"{opening['rows']} of {rows} answers begin with {opening['text']!r}.")
    template = statistics["largest_template"]
    if rows >= 50 and template["share"] > 0.1:
        found.append(f"{template['rows']} of {rows} rows come from the template {template['text']!r}.")
    near = statistics["duplicate_rows"]["near"]
    if near > 0.2 * rows:
        found.append(f"{near} of {rows} rows are near-duplicates of another: they cost time and teach little.")
    return found
