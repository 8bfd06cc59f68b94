"""One row of training data, and reading and writing rows.

    for line, row in read_rows(path):     # JSONL, or a JSON list; one row at a time, an Example or its errors
    rows = read_examples(path)            # all of them, when there are no errors
    write_examples(path, rows)            # JSONL with Alpaca's fields
    write_messages(path, rows)            # JSONL for chat trainers
    write_alpaca(path, rows)              # JSONL for trainers that know Alpaca's fields only
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
from tools.data.window import ContextOutput
from tools.errors import InputError
from tools.files import write_text
from tools.policy.levels import ModificationPolicy, PreservationLevel
from tools.policy.tags import check_rule

MAX_FIELD = 100_000
MAX_NAME = 200  # characters of an id, a tag, or a word of where a row comes from
MAX_TURNS = 1000
MAX_TAGS = 100
_ERRORS_A_ROW = 20
_KEYS_A_ROW = 100  # with more keys an object is no row, and would cost an error for each


class _Published:
    """Any object is read, so that what is wrong with it is said part by part; what is published is the whole form."""

    def __get_pydantic_json_schema__(self, _: Any, handler: Any) -> Any:
        return handler(ContextOutput.__pydantic_core_schema__)


Output = Annotated[
    Annotated[str, Field(min_length=1, max_length=MAX_FIELD), Tag("text")]
    | Annotated[dict[str, Any], Field(min_length=1), _Published(), Tag("object")],
    Discriminator(lambda value: "object" if isinstance(value, dict) else "text"),  # one error, not one for each type
]
Turn = Annotated[str, Field(min_length=1, max_length=MAX_FIELD)]
Name = Annotated[str, Field(max_length=MAX_NAME)]


class Metadata(BaseModel):
    """How far others may change the answer, and which rules it rests on."""

    model_config = ConfigDict(extra="forbid")

    preservation_level: Annotated[PreservationLevel, Field(description="how far a client may change the answer")] = (
        "moderate"
    )
    # lists fail fast: a line of 4 MB holds two million wrong items, and each would be an error of its own
    rule_compliance: list[Name] = Field(
        default_factory=list,
        max_length=MAX_TAGS,
        fail_fast=True,
        json_schema_extra={"default": []},
        description="tags of the rules that it rests on, e.g. 'business:refund_window'",
    )
    modification_policy: Annotated[
        ModificationPolicy, Field(description="what has to be kept when it is changed; goes with the level")
    ] = "preserve_structure"
    source: Annotated[Name, Field(description="who is speaking, for the client that reads the tag")] = (
        "local_trained_model"
    )
    confidence: Annotated[float, Field(ge=0, le=1, strict=True, description="how sure the answer is")] = 0.9

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

    card: Annotated[Name, Field(description="the card, e.g. 'definition/forty-two'")] = ""
    template: Annotated[Name, Field(description="the form of question or answer that was filled in")] = ""
    generator: Annotated[
        Name, Field(description="the generator that wrote it, with its version; empty for rows that were sent")
    ] = ""
    seed: Annotated[int, Field(strict=True)] | None = Field(default=None, description="of the dataset's making")
    language: Annotated[Name, Field(description="of the code in the row, e.g. 'python'")] = ""
    difficulty: Annotated[Name, Field(description="basic, intermediate or advanced")] = ""


class Example(BaseModel):
    """One row: a request and its answer, what may be done with the answer, and where the row comes from."""

    model_config = ConfigDict(extra="forbid")

    id: Annotated[Name, Field(description="of the row in its dataset")] = ""
    kind: Annotated[Kind, Field(description="what is taught")] = "definition"
    instruction: Annotated[str, Field(min_length=1, max_length=MAX_FIELD, description="the request")]
    input: Annotated[str, Field(max_length=MAX_FIELD, description="what it is about, put below it")] = ""
    output: Annotated[Output, Field(description="the answer that is trained; a context window may be an object")]
    system: Annotated[
        str, Field(max_length=MAX_FIELD, exclude_if=lambda value: not value, description="the system prompt")
    ] = ""
    # these are made anew for each row: pydantic would copy a default deeply, which takes longer than all other checks
    history: list[tuple[Turn, Turn]] = Field(
        default_factory=list,
        max_length=MAX_TURNS,
        fail_fast=True,
        exclude_if=lambda value: not value,
        json_schema_extra={"default": []},
        description="earlier turns of the conversation, each a question with its answer; their answers are trained too",
    )
    metadata: Metadata = Field(
        default_factory=Metadata,
        json_schema_extra={"default": Metadata().model_dump()},
        description="what a client may do with the answer",
    )
    provenance: Provenance = Field(
        default_factory=Provenance,
        json_schema_extra={"default": Provenance().model_dump()},
        description="where the row comes from",
    )

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
        form = alpaca(value)
        for field, part in (("", form), ("metadata", form.get("metadata"))):
            if isinstance(part, dict) and len(part) > _KEYS_A_ROW:
                raise FormError(field, "too_long", f"expected at most {_KEYS_A_ROW} fields, got {len(part)}")
        return Example.model_validate(form)
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


def write_alpaca(path: Path, rows: Iterable[Example]) -> None:
    """Write rows as JSONL of Alpaca's plain fields, `system` and `history`, atomically. Each row has each of them, and
    the first four are texts: trainers make columns of them, and leave out an answer that is an object."""
    write_text(
        path,
        (
            json.dumps(
                {
                    "instruction": row.instruction,
                    "input": row.input,
                    "output": row.answer,
                    "system": row.system,
                    "history": row.history,
                },
                ensure_ascii=False,
            )
            + "\n"
            for row in rows
        ),
    )


def write_messages(path: Path, rows: Iterable[Example]) -> None:
    """Write rows as JSONL of chat messages, as mlx-lm, TRL, LLaMA-Factory and axolotl read them, atomically."""
    write_text(path, (json.dumps({"messages": messages(row)}, ensure_ascii=False) + "\n" for row in rows))
