"""Validate a dataset or a file, and split a valid dataset 80/20.

    report = validate_file(path)
    report = validate_dataset(workspace, "forty-two")     # also writes train.jsonl, valid.jsonl, report.json

Errors stop training: broken rows, exact duplicates, one question with two answers, placeholders left in. Warnings
say what a careful person would look at.
"""

import re
from collections import Counter, defaultdict
from pathlib import Path
from typing import Any

from pydantic import BaseModel

from tools.data.datasets import Manifest, read_manifest, section, write_manifest
from tools.data.examples import Example, RowError, scan, write_examples
from tools.data.split import split
from tools.errors import InputError
from tools.files import sha256, write_json
from tools.policy.levels import LEVELS
from tools.workspace import Workspace

# Literal leftovers of templates and of other models' habits.
_PLACEHOLDER = re.compile(r"\{\{\s*\w+\s*\}\}|\b(?:TODO|FIXME):|(?i:as an ai language model)|\[INSERT ")
_SECRET = re.compile(
    r"-----BEGIN [A-Z ]*PRIVATE KEY-----|\bAKIA[0-9A-Z]{16}\b|\bghp_[A-Za-z0-9]{36}\b|\bsk-[A-Za-z0-9_-]{32,}\b"
)


class Duplicate(BaseModel):
    """Lines that say the same."""

    lines: list[int]
    similarity: float
    kind: str


class Contradiction(BaseModel):
    """Lines that answer one question differently."""

    lines: list[int]


class Report(BaseModel):
    """What validation found; lines count from 1."""

    rows: int
    errors: list[RowError]
    warnings: list[str]
    duplicates: list[Duplicate]
    contradictions: list[Contradiction]
    statistics: dict[str, Any]

    @property
    def ok(self) -> bool:
        return not self.errors and not self.contradictions and not any(d.kind == "exact" for d in self.duplicates)


def validate_file(path: Path) -> Report:
    """Check every row of a JSON or JSONL file.

    Raises:
        InputError: the file as a whole cannot be read (empty, not UTF-8, not a file).
    """
    numbered, errors = scan(path)
    for line, row in numbered:
        errors.extend(_row_errors(line, row))
    errors.sort(key=lambda error: error.line)
    duplicates, contradictions = _repeats(numbered)
    rows = [row for _, row in numbered]
    return Report(
        rows=len(numbered),
        errors=errors,
        warnings=_warnings(rows),
        duplicates=duplicates,
        contradictions=contradictions,
        statistics=_statistics(rows),
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
        manifest.status = "valid" if report.ok else "invalid"
        write_json(folder / "report.json", report.model_dump())
        write_manifest(folder, manifest)
    return report, manifest


def _row_errors(line: int, row: Example) -> list[RowError]:
    found = []
    for field, text in (("instruction", row.instruction), ("input", row.input), ("output", row.answer)):
        for code, pattern in (("placeholder", _PLACEHOLDER), ("secret", _SECRET)):
            if match := pattern.search(text):
                shown = match.group(0) if code == "placeholder" else match.group(0)[:8] + "…"
                found.append(RowError(line=line, field=field, code=code, message=f"{code} left in: {shown!r}"))
        if "\x00" in text:
            found.append(RowError(line=line, field=field, code="control", message="holds a NUL character"))
    level = LEVELS[row.metadata.preservation_level]
    if row.metadata.modification_policy not in level.policies:
        found.append(
            RowError(
                line=line,
                field="metadata.modification_policy",
                code="contradiction",
                message=f"{row.metadata.modification_policy} contradicts level {level.name}, which allows "
                f"{', '.join(level.policies)}",
            )
        )
    return found


def _normal(text: str) -> str:
    return " ".join(text.casefold().split())


def _repeats(numbered: list[tuple[int, Example]]) -> tuple[list[Duplicate], list[Contradiction]]:
    """Rows that ask the same: with the same answer they are duplicates, with different answers contradictions."""
    by_question: dict[str, dict[str, list[int]]] = defaultdict(lambda: defaultdict(list))
    for line, row in numbered:
        by_question[_normal(row.question)][_normal(row.answer)].append(line)
    duplicates, contradictions = [], []
    for answers in by_question.values():
        duplicates += [
            Duplicate(lines=lines, similarity=1.0, kind="exact") for lines in answers.values() if len(lines) > 1
        ]
        if len(answers) > 1:
            contradictions.append(Contradiction(lines=sorted(line for lines in answers.values() for line in lines)))
    return duplicates, contradictions


def _warnings(rows: list[Example]) -> list[str]:
    found = []
    definitions = [row for row in rows if row.metadata.preservation_level == "strict"]
    if rows and len(definitions) > 0.6 * len(rows):
        found.append(
            f"{len(definitions)} of {len(rows)} rows teach, few guard: a small model will overshoot. "
            "Add rows whose answer must not change."
        )
    openings = Counter(" ".join(row.answer.split()[:3]) for row in rows)
    if openings and len(rows) >= 50:
        opening, times = openings.most_common(1)[0]
        if times > 0.1 * len(rows):
            found.append(f"{times} of {len(rows)} answers begin with {opening!r}.")
    return found


def _statistics(rows: list[Example]) -> dict[str, Any]:
    """Lengths in characters, the balance of kinds and levels, and distinct/total 4-grams of words in outputs."""
    if not rows:
        return {}
    grams = [gram for row in rows for gram in zip(*(row.answer.split()[i:] for i in range(4)), strict=False)]
    lengths = sorted(len(row.answer) for row in rows)
    return {
        "kinds": dict(Counter(row.kind for row in rows)),
        "sections": dict(Counter(section(row) for row in rows)),
        "levels": dict(Counter(row.metadata.preservation_level for row in rows)),
        "output_characters": {"min": lengths[0], "median": lengths[len(lengths) // 2], "max": lengths[-1]},
        "distinct_4grams": round(len(set(grams)) / len(grams), 3) if grams else 1.0,
    }
