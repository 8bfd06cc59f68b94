"""One row of training data, and reading and writing rows.

    rows = read_examples(path)            # JSONL, or a JSON list, of Alpaca-like objects
    write_examples(path, rows)
    messages(row)                         # what a chat template takes

A row is Alpaca's three fields (instruction, input, output) with what looptune adds: kind, metadata, provenance.
"""

import json
from collections.abc import Iterable
from pathlib import Path
from typing import Annotated, Any, Literal

from pydantic import BaseModel, ConfigDict, Field, ValidationError, field_validator

from tools.errors import InputError
from tools.files import write_text
from tools.policy.levels import ModificationPolicy, PreservationLevel
from tools.policy.tags import check_rule

Kind = Literal[
    "procedural",
    "definition",
    "context_window",
    "metadata_tagging",
    "rule_compliance",
    "oodatcaa",
    "memory_operation",
]
MAX_LINE_BYTES = 4_000_000
MAX_FIELD = 100_000


class Metadata(BaseModel):
    """How far others may change the answer, and which rules it rests on."""

    model_config = ConfigDict(extra="forbid")

    preservation_level: PreservationLevel = "moderate"
    rule_compliance: list[str] = []
    modification_policy: ModificationPolicy = "preserve_structure"
    source: str = "local_trained_model"
    confidence: Annotated[float, Field(ge=0, le=1)] = 0.9

    @field_validator("rule_compliance")
    @classmethod
    def _known_families(cls, tags: list[str]) -> list[str]:
        for tag in tags:
            try:
                check_rule(tag)
            except InputError as error:
                raise ValueError(error.message) from error
        return tags


class Provenance(BaseModel):
    """Which card and template made the row, with which seed."""

    card: str = ""
    template: str = ""
    generator: str = ""
    seed: int | None = None


class Example(BaseModel):
    """One row. `role` says whether it teaches the card or guards against overshooting."""

    model_config = ConfigDict(extra="forbid")

    id: str = ""
    kind: Kind = "definition"
    instruction: Annotated[str, Field(min_length=1, max_length=MAX_FIELD)]
    input: Annotated[str, Field(max_length=MAX_FIELD)] = ""
    output: Annotated[str | dict[str, Any], Field(min_length=1)]
    metadata: Metadata = Metadata()
    provenance: Provenance = Provenance()

    @field_validator("instruction", "output")
    @classmethod
    def _says_something(cls, value: Any) -> Any:
        if isinstance(value, str) and not value.strip():
            raise ValueError("expected text, got only white space")
        if isinstance(value, str) and len(value) > MAX_FIELD:
            raise ValueError(f"expected at most {MAX_FIELD} characters, got {len(value)}")
        return value

    @property
    def answer(self) -> str:
        """The output as the text that is trained: itself, or the JSON of a context window."""
        return self.output if isinstance(self.output, str) else json.dumps(self.output, ensure_ascii=False)

    @property
    def question(self) -> str:
        """Instruction and input as one user message."""
        return f"{self.instruction}\n\n{self.input}" if self.input else self.instruction


class RowError(BaseModel):
    """What is wrong with one line of a file (lines from 1)."""

    line: int
    field: str
    code: str
    message: str


def messages(row: Example) -> list[dict[str, str]]:
    """The row as chat messages: one of the user, one of the assistant."""
    return [{"role": "user", "content": row.question}, {"role": "assistant", "content": row.answer}]


def parse_row(value: Any, line: int) -> Example | list[RowError]:
    """The Example in `value`, or what keeps it from being one."""
    if not isinstance(value, dict):
        return [RowError(line=line, field="", code="type", message=f"expected an object, got {type(value).__name__}")]
    try:
        return Example.model_validate(value)
    except ValidationError as error:
        return [
            RowError(
                line=line,
                field=".".join(str(part) for part in problem["loc"][:3]),
                code=problem["type"],
                message=problem["msg"],
            )
            for problem in error.errors(include_url=False, include_input=False)
        ]


def scan(path: Path) -> tuple[list[tuple[int, Example]], list[RowError]]:
    """Every row of a JSONL or JSON file with its line, and every problem by line and field.

    Raises:
        InputError: not a regular file, empty, not UTF-8, or a line longer than 4 MB.
    """
    if not path.is_file():
        raise InputError(f"Expected a JSON or JSONL file, {path.name!r} is none.", "give the path of a data file")
    rows: list[tuple[int, Example]] = []
    errors: list[RowError] = []
    with path.open("rb") as stream:
        line = 0
        while raw := stream.readline(MAX_LINE_BYTES + 1):
            line += 1
            if len(raw) > MAX_LINE_BYTES:
                raise InputError(
                    f"Line {line} of {path.name} is longer than {MAX_LINE_BYTES // 1_000_000} MB.",
                    "split the file into one row a line",
                )
            text = _decode(raw, path, line)
            if not text.strip():
                continue
            if line == 1 and text.lstrip().startswith("["):
                return _scan_list(path)
            try:
                value = json.loads(text)
            except (ValueError, RecursionError) as error:
                errors.append(RowError(line=line, field="", code="json", message=f"not valid JSON: {error}"))
                continue
            _sort(parse_row(value, line), line, rows, errors)
    if not rows and not errors:
        raise InputError(f"{path.name} is empty: expected one JSON row a line, got none.", "add rows to it")
    return rows, errors


def _decode(raw: bytes, path: Path, line: int) -> str:
    try:
        return raw.decode("utf-8-sig" if line == 1 else "utf-8")
    except UnicodeDecodeError as error:
        raise InputError(
            f"Line {line} of {path.name} is not UTF-8 (byte {error.start}).", "save the file as UTF-8"
        ) from error


def _scan_list(path: Path) -> tuple[list[tuple[int, Example]], list[RowError]]:
    rows: list[tuple[int, Example]] = []
    errors: list[RowError] = []
    try:
        values = json.loads(path.read_text(encoding="utf-8-sig"))
    except (ValueError, RecursionError) as error:
        raise InputError(f"{path.name} is not valid JSON: {error}", "mend it, or write one row a line") from error
    for number, value in enumerate(values, start=1):
        _sort(parse_row(value, number), number, rows, errors)
    if not values:
        raise InputError(f"{path.name} is empty: expected a list of rows, got [].", "add rows to it")
    return rows, errors


def _sort(found: Example | list[RowError], line: int, rows: list[tuple[int, Example]], errors: list[RowError]) -> None:
    if isinstance(found, Example):
        rows.append((line, found))
    else:
        errors.extend(found)


def read_examples(path: Path) -> list[Example]:
    """The rows of a file that has no errors.

    Raises:
        InputError: it has; the first three are named by line and field.
    """
    rows, errors = scan(path)
    if errors:
        first = "; ".join(f"line {e.line} {e.field}: {e.message}" for e in errors[:3])
        raise InputError(
            f"{path.name} has {len(errors)} errors: {first}.",
            "call validate_dataset to see them all, and mend them",
        )
    return [row for _, row in rows]


def write_examples(path: Path, rows: Iterable[Example]) -> None:
    """Write rows as JSONL, atomically."""
    write_text(path, "".join(row.model_dump_json() + "\n" for row in rows))
