"""Validate a dataset or a file, and split a valid dataset 80/20.

    report = validate_file(path)
    report = validate_dataset(workspace, "forty-two")     # also writes train.jsonl, valid.jsonl, report.*
    report = validate_file(path, tokenizer, 512)          # also what a base sees of the rows (`token_report`)
    reports = validate_split(folder)                      # of a train.jsonl and a valid.jsonl, with what leaks

Errors stop training: broken rows, exact duplicates, one question with two answers, placeholders left in. Warnings
say what a careful person would look at. A file passes by once, row by row (`checks` looks at each, `profile` and
`repeats` keep a few hundred bytes of it); lines that repeat each other are then read again, to be measured and shown.
"""

from collections import Counter
from collections.abc import Callable, Iterable
from pathlib import Path
from typing import Any

from pydantic import BaseModel

from tools.data.checks import row_doubts
from tools.data.checks import row_errors as row_errors
from tools.data.datasets import Manifest, read_manifest, section, write_manifest
from tools.data.examples import Example, RowError, read_rows, scan, write_examples
from tools.data.profile import Profile
from tools.data.repeats import Contradiction, Duplicate, Leak, Prints, exact_duplicates, find_leaks, near_duplicates
from tools.data.report import write_reports
from tools.data.split import kept_split, split
from tools.data.token_report import TokenReport, token_report
from tools.errors import InputError
from tools.files import sha256
from tools.policy.rules import lookalikes, read_rules, shipped_rules
from tools.workspace import Workspace

Watch = Callable[[int], None]
SPLIT = ("train.jsonl", "valid.jsonl")
_WATCHED = 1000
LISTED = 10_000  # errors, duplicates and contradictions that a report lists; all are counted
TOKENIZED = 20_000  # rows whose tokens are counted, since a tokenizer takes about a millisecond for each


class Report(BaseModel):
    """What validation found; lines count from 1 (in a JSON list: rows)."""

    rows: int
    errors: list[RowError]
    warnings: list[str]
    duplicates: list[Duplicate]
    contradictions: list[Contradiction]
    leaks: list[Leak] = []
    statistics: dict[str, Any]
    tokens: TokenReport | None = None

    @property
    def error_count(self) -> int:
        """All errors, listed or not."""
        return sum(self.statistics["errors"].values())

    @property
    def ok(self) -> bool:
        return not self.errors and not self.contradictions and not any(d.kind == "exact" for d in self.duplicates)


def validate_file(
    path: Path,
    tokenizer: Any = None,
    max_length: int = 512,
    watch: Watch | None = None,
    rules: Iterable[str] | None = None,
) -> Report:
    """Check every row of a JSON or JSONL file.

    Args:
        tokenizer: of a base (`tools.models.load.load_tokenizer`): its tokens are counted too, in the first 20,000 rows.
        max_length: tokens that a row may have before it is cut off.
        watch: is told the number of rows so far, every thousand; what it raises ends the validation.
        rules: the tags that have a meaning (`tools.policy.rules`); else those that ship.

    Raises:
        InputError: the file as a whole cannot be read (empty, packed, not text, not a file).
    """
    errors: list[RowError] = []
    codes: Counter[str] = Counter()
    doubts: list[str] = []
    doubted = 0
    profile, prints = Profile(), Prints()
    for passed, (line, found) in enumerate(read_rows(path)):
        if watch and passed % _WATCHED == 0:
            watch(passed)
        if isinstance(found, Example):
            problems = row_errors(line, found)
            if said := row_doubts(found):
                doubted += 1
                doubts += [f"line {line}, {said[0]}"][: 3 - len(doubts)]
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
    tokens = token_report(tokenizer, path, max_length, limit=TOKENIZED) if tokenizer and profile.rows else None
    return Report(
        rows=profile.rows,
        errors=errors,
        warnings=[
            *_warnings(statistics, profile.rows),
            *_doubts(doubts, doubted),
            *_mistyped(profile.tags, shipped_rules() if rules is None else rules),
            *(tokens.warnings() if tokens else []),
        ],
        duplicates=duplicates[:LISTED],
        contradictions=contradictions[:LISTED],
        statistics=statistics,
        tokens=tokens,
    )


def validate_split(folder: Path, tokenizer: Any = None, max_length: int = 512) -> dict[str, Report]:
    """Check the train.jsonl and the valid.jsonl in `folder` (see `validate_file`), and name the rows of the second that
    the first has too; they stand in its report. By the names of the files.

    Raises:
        InputError: one of the two is not there, or cannot be read.
    """
    if missing := [part for part in SPLIT if not (folder / part).is_file()]:
        raise InputError(
            f"Expected a file, or a folder with {' and '.join(SPLIT)}; {folder.name!r} has no {missing[0]}.",
            "name one of its files",
        )
    reports = {part: validate_file(folder / part, tokenizer, max_length) for part in SPLIT}
    _add_leaks(reports[SPLIT[1]], folder)
    return reports


def _add_leaks(report: Report, folder: Path) -> None:
    """Say in `report` which rows of the valid.jsonl in `folder` training has seen."""
    report.leaks = find_leaks(folder / SPLIT[0], folder / SPLIT[1])
    report.statistics["leaks"] = dict(Counter(leak.kind for leak in report.leaks))
    if report.leaks:
        report.warnings.append(
            f"{len(report.leaks)} held-out rows are near a training row: the loss on them is partly remembered. "
            "Recall and controls are measured on probes, not on these."
        )


def validate_dataset(
    workspace: Workspace, name: str, tokenizer: Any = None, max_length: int = 512, watch: Watch | None = None
) -> tuple[Report, Manifest]:
    """Check the rows of dataset `name` (see `validate_file`); when they are right, split them 80/20 and mark it valid.

    A split that is there is kept while the rows are the same, so what was held back once stays so.

    Raises:
        NotFoundError: no such dataset.
        InputError: fewer than 5 rows, or all of one phrasing, which cannot be split.
    """
    folder = workspace.dataset(name)
    with workspace.lock("datasets"):
        manifest = read_manifest(folder)
        rules, unread = _known_rules(workspace)
        report = validate_file(folder / "rows.jsonl", tokenizer, max_length, watch, rules)
        report.warnings += unread
        manifest.rows, manifest.rows_sha256 = report.rows, sha256(folder / "rows.jsonl")
        if report.ok:
            rows = [row for _, row in scan(folder / "rows.jsonl")[0]]
            if len(rows) < 5:
                raise InputError(f"Expected at least 5 rows to split 80/20, got {len(rows)}.", "add rows")
            train, valid = kept_split(folder, manifest) or split(rows, manifest.seed or 0)
            write_examples(folder / "train.jsonl", train)
            write_examples(folder / "valid.jsonl", valid)
            manifest.train_rows, manifest.valid_rows = len(train), len(valid)
            manifest.train_sha256 = sha256(folder / "train.jsonl")
            manifest.valid_sha256 = sha256(folder / "valid.jsonl")
            manifest.kinds = dict(Counter(row.kind for row in rows))
            manifest.sections = dict(Counter(section(row) for row in rows))
            _add_leaks(report, folder)
        manifest.status = "valid" if report.ok else "invalid"
        write_reports(folder, report, name)
        write_manifest(folder, manifest)
    return report, manifest


def _known_rules(workspace: Workspace) -> tuple[Iterable[str], list[str]]:
    """The tags that have a meaning, and a warning when the user's own could not be read."""
    try:
        return read_rules(workspace).meanings(), []
    except InputError as error:
        return shipped_rules(), [f"Your own rules were not looked at: {error.message}"]


def _mistyped(tags: Iterable[str], rules: Iterable[str]) -> list[str]:
    return [
        f"The rule tag {tag!r} has no meaning, and {known!r} has one; a model would learn them as two."
        for tag, known in lookalikes(tags, rules).items()
    ]


def _doubts(said: list[str], rows: int) -> list[str]:
    """SQL that is a dialect's, or wrong."""
    if not rows:
        return []
    return [f"{rows} rows hold SQL that does not parse. If it is not a dialect's, mend it: {'; '.join(said)}."]


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
        found.append(
            f"{near} of {rows} rows are near-duplicates of another: they cost time, and teach little unless they are "
            "phrasings of one term."
        )
    return found
