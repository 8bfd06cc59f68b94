"""One row of training data, and reading and writing rows.

    for line, row in read_rows(path):     # JSONL, or a JSON list; one row at a time, an Example or its errors
    rows = read_examples(path)            # all of them, when there are no errors
    write_examples(path, rows)            # JSONL with Alpaca's fields
    write_messages(path, rows)            # JSONL for chat trainers
    messages(row)                         # what a chat template takes

A row is Alpaca's three fields (instruction, input, output) with what looptune adds: kind, metadata, provenance; for a
conversation also `system` and `history`, as LLaMA-Factory names them. docs/dataset-format.md shows every form.
"""

import json
from collections.abc import Collection, Iterable, Iterator
from pathlib import Path
from typing import Annotated, Any

from pydantic import BaseModel, ConfigDict, Discriminator, Field, Tag, ValidationError, field_validator

from tools.data.forms import FormError, alpaca
from tools.data.kinds import Kind as Kind
from tools.data.lines import RowError as RowError
from tools.data.lines import json_values
from tools.errors import InputError
from tools.files import write_text
from tools.policy.levels import ModificationPolicy, PreservationLevel
from tools.policy.tags import check_rule

MAX_FIELD = 100_000
_ERRORS_A_ROW = 20
Output = Annotated[
    Annotated[str, Field(min_length=1, max_length=MAX_FIELD), Tag("text")]
    | Annotated[dict[str, Any], Field(min_length=1), Tag("object")],
    Discriminator(lambda value: "object" if isinstance(value, dict) else "text"),  # one error, not one for each type
]
Turn = Annotated[str, Field(min_length=1, max_length=MAX_FIELD)]


class Metadata(BaseModel):
    """How far others may change the answer, and which rules it rests on."""

    model_config = ConfigDict(extra="forbid")

    preservation_level: PreservationLevel = "moderate"
    rule_compliance: list[str] = []
    modification_policy: ModificationPolicy = "preserve_structure"
    source: str = "local_trained_model"
    confidence: Annotated[float, Field(ge=0, le=1, strict=True)] = 0.9

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
    """Which card and template made the row, with which seed; the language of its code, and how hard it is."""

    card: str = ""
    template: str = ""
    generator: str = ""
    seed: Annotated[int, Field(strict=True)] | None = None
    language: str = ""
    difficulty: str = ""


class Example(BaseModel):
    """One row: a request and its answer, what may be done with the answer, and where the row comes from."""

    model_config = ConfigDict(extra="forbid")

    id: str = ""
    kind: Kind = "definition"
    instruction: Annotated[str, Field(min_length=1, max_length=MAX_FIELD)]
    input: Annotated[str, Field(max_length=MAX_FIELD)] = ""
    output: Output
    system: Annotated[str, Field(max_length=MAX_FIELD, exclude_if=lambda value: not value)] = ""
    history: Annotated[list[tuple[Turn, Turn]], Field(exclude_if=lambda value: not value)] = []
    metadata: Metadata = Metadata()
    provenance: Provenance = Provenance()

    @field_validator("instruction", "output")
    @classmethod
    def _says_something(cls, value: Any) -> Any:
        if isinstance(value, str) and not value.strip():
            raise ValueError("expected text, got only white space")
        return value

    @property
    def answer(self) -> str:
        """The output as the text that is trained: itself, or the JSON of a context window."""
        return self.output if isinstance(self.output, str) else json.dumps(self.output, ensure_ascii=False)

    @property
    def text(self) -> str:
        """What a person reads of the output: itself, or the content of a context window."""
        return self.output if isinstance(self.output, str) else str(self.output.get("content", ""))

    @property
    def question(self) -> str:
        """Instruction and input as one user message."""
        return f"{self.instruction}\n\n{self.input}" if self.input else self.instruction


def messages(row: Example) -> list[dict[str, str]]:
    """The row as chat messages: the system's, what was said before, one of the user, one of the assistant."""
    turns = [{"role": "system", "content": row.system}] if row.system else []
    for question, answer in [*row.history, (row.question, row.answer)]:
        turns += [{"role": "user", "content": question}, {"role": "assistant", "content": answer}]
    return turns


def parse_row(value: Any, line: int) -> Example | list[RowError]:
    """The Example in `value`, or what keeps it from being one."""
    if isinstance(value, RowError):
        return [value]
    if not isinstance(value, dict):
        return [RowError(line=line, field="", code="type", message=f"expected an object, got {type(value).__name__}")]
    try:
        return Example.model_validate(alpaca(value))
    except FormError as error:
        return [RowError(line=line, field=error.field, code=error.code, message=error.message)]
    except ValidationError as error:
        return [
            RowError(
                line=line,
                field=".".join(str(part) for part in problem["loc"][:3] if part not in ("text", "object"))[:100],
                code=problem["type"],
                message=problem["msg"],
            )
            for problem in error.errors(include_url=False, include_input=False)[:_ERRORS_A_ROW]
        ]


def read_rows(path: Path, only: Collection[int] | None = None) -> Iterator[tuple[int, Example | list[RowError]]]:
    """Each row of a JSONL or JSON file with its line, or its errors; nothing is held. With `only`, those lines.

    Raises:
        InputError: the file as a whole is not what was expected (see `tools.data.lines`).
    """
    for line, value in json_values(path, only):
        yield line, parse_row(value, line)


def scan(path: Path) -> tuple[list[tuple[int, Example]], list[RowError]]:
    """Every row of a file with its line, and every problem by line and field, in memory (see `read_rows`)."""
    rows: list[tuple[int, Example]] = []
    errors: list[RowError] = []
    for line, found in read_rows(path):
        if isinstance(found, Example):
            rows.append((line, found))
        else:
            errors.extend(found)
    return rows, errors


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
    """Write rows as JSONL with Alpaca's fields, atomically."""
    write_text(path, (row.model_dump_json() + "\n" for row in rows))


def write_messages(path: Path, rows: Iterable[Example]) -> None:
    """Write rows as JSONL of chat messages, as mlx-lm, TRL, LLaMA-Factory and axolotl read them, atomically."""
    write_text(path, (json.dumps({"messages": messages(row)}, ensure_ascii=False) + "\n" for row in rows))
