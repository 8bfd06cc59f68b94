"""Lessons: hand-written cards of every kind, `datasets/cards/<kind>/<name>.yaml`, and the rows they make.

    lesson = read_lesson(path)
    rows = lesson_rows(lesson, "procedural/wrap-file-read")

    python -P -m tools.data.lessons datasets/cards/procedural     # check cards: format, code, tags, markup, sameness

An exchange is one request with one answer. Its text may hold slots in `⟦ ⟧` (Jinja2): `⟦ tag('strict', 'security:x') ⟧`
writes a metadata tag, and the names of `variants` stand for what each variant says, so that one exchange makes
several rows. Everything else is literal. `datasets/cards/README.md` is the guide for those who write cards.
"""

import re
import sys
from pathlib import Path
from typing import Annotated, Any, Literal

from jinja2 import Environment, StrictUndefined
from jinja2.exceptions import TemplateError
from pydantic import BaseModel, ConfigDict, Field, PrivateAttr, ValidationError, model_validator

from tools.data.cards import card_text, read_with_lines
from tools.data.examples import Example, Metadata, Provenance
from tools.data.kinds import Difficulty, Kind, Language
from tools.errors import InputError, LooptuneError
from tools.policy.levels import LEVELS, ModificationPolicy, PreservationLevel
from tools.policy.tags import check_rule, render

Id = Annotated[str, Field(pattern=r"^[a-z0-9][a-z0-9-]{0,40}$")]
Text = Annotated[str, Field(min_length=1, max_length=20_000)]
_FILLED = ("ask", "input", "say")  # the texts of an exchange in which slots are filled
_WRITTEN = {"output": "say", "input": "input"}  # the text of an exchange that a field of its row was written in
_environment = Environment(
    undefined=StrictUndefined,
    autoescape=False,  # noqa: S701  (the answers are text and code, never served as HTML)
    keep_trailing_newline=False,
    variable_start_string="⟦",
    variable_end_string="⟧",
    block_start_string="⟦%",
    block_end_string="%⟧",
    comment_start_string="⟦#",
    comment_end_string="#⟧",
)


class Window(BaseModel):
    """A complete context that a client may adopt in place of its own."""

    model_config = ConfigDict(extra="forbid")

    system_prompt: Text
    conversation_history: list[dict[Literal["role", "content"], str]] = []
    active_rules: Annotated[list[str], Field(min_length=1)]
    project_context: Text
    role_expectations: Text
    knowledge_updates: dict[str, str] = {}


class Exchange(BaseModel):
    """One request and its answer; `variants` fill the slots of both."""

    model_config = ConfigDict(extra="forbid")

    id: Id
    ask: Text
    input: str = ""
    say: Text
    window: Window | None = None
    language: Language | None = None
    difficulty: Difficulty | None = None
    level: PreservationLevel | None = None
    policy: ModificationPolicy | None = None
    rules: list[str] | None = None
    confidence: Annotated[float, Field(ge=0, le=1)] = 0.9
    run: Annotated[str, Field(description="Python that is executed after the answer's Python blocks")] = ""
    variants: list[dict[str, str]] = []
    _lines: dict[str, int] = PrivateAttr(default_factory=dict)  # where its texts stand in the card's file

    def place(self, field: str = "ask") -> str:
        """', line 12' for a text of an exchange that was read from a file, else nothing."""
        return f", line {self._lines[field]}" if field in self._lines else ""


class Lesson(BaseModel):
    """One card: what it teaches, and the exchanges that teach it."""

    model_config = ConfigDict(extra="forbid")

    kind: Kind
    title: Annotated[str, Field(min_length=5, max_length=200)]
    term: str = ""
    meaning: str = ""
    language: Language = "text"
    difficulty: Difficulty = "basic"
    level: PreservationLevel
    rules: list[str] = []
    exchanges: Annotated[list[Exchange], Field(min_length=1)]

    @model_validator(mode="after")
    def _consistent(self) -> "Lesson":
        ids = [exchange.id for exchange in self.exchanges]
        if len(set(ids)) < len(ids):
            raise ValueError(f"exchange ids have to differ, got {sorted(i for i in set(ids) if ids.count(i) > 1)}")
        if (self.kind == "definition") != bool(self.term and self.meaning):
            raise ValueError("a definition, and nothing else, has `term` and `meaning`")
        for exchange in self.exchanges:
            if (self.kind == "context_window") != (exchange.window is not None):
                raise ValueError(f"{exchange.id}: an exchange of a context_window, and no other, has a `window`")
        try:
            for tag in self._tags():
                check_rule(tag)
        except InputError as error:
            raise ValueError(error.message) from error
        return self

    def _tags(self) -> list[str]:
        tags = [*self.rules]
        for exchange in self.exchanges:
            tags += exchange.rules or []
            tags += exchange.window.active_rules if exchange.window else []
        return tags


def is_lesson(path: Path) -> bool:
    """Whether the card is a lesson, or else a definition card with its templates. Raises InputError: not UTF-8."""
    return bool(re.search(r"^exchanges:", card_text(path), re.MULTILINE))


def read_lesson(path: Path) -> Lesson:
    """The card in `path`. Raises InputError with file, line and reason when it is broken."""
    lesson, lines = read_with_lines(path, Lesson)
    if path.parent.name != lesson.kind:
        raise InputError(
            f"{path.name}, line {lines('kind')}: it is of kind {lesson.kind} but lies in {path.parent.name}/.",
            "move it",
        )
    for number, exchange in enumerate(lesson.exchanges):
        exchange._lines = {name: lines("exchanges", number, name) for name in (*_FILLED, "run")}
    return lesson


def lesson_rows(lesson: Lesson, card: str) -> list[Example]:
    """Every row that `lesson` makes; `card` is its name, `<kind>/<name>`.

    Raises:
        InputError: a slot cannot be filled, or what fills it leaves no row; card, line and exchange are said.
    """
    rows = []
    for exchange in lesson.exchanges:
        for number, values in enumerate(exchange.variants or [{}], start=1):
            suffix = f"-{number}" if exchange.variants else ""
            rows.append(_row(lesson, card, exchange, values, suffix))
    return rows


def _row(lesson: Lesson, card: str, exchange: Exchange, values: dict[str, str], suffix: str) -> Example:
    level = exchange.level or lesson.level
    rules = lesson.rules if exchange.rules is None else exchange.rules
    metadata = Metadata(
        preservation_level=level,
        rule_compliance=rules,
        modification_policy=exchange.policy or LEVELS[level].policies[0],
        confidence=exchange.confidence,
    )

    def filled(field: str) -> str:
        try:
            return _environment.from_string(getattr(exchange, field)).render(tag=_tag, **values).strip("\n")
        except (TemplateError, TypeError, InputError) as error:
            reason = error.message if isinstance(error, InputError) else error
            raise InputError(
                f"{card}.yaml{exchange.place(field)}, {exchange.id}.{field}: a slot cannot be filled: {reason}",
                "mend the card",
            ) from error

    ask, given, say = (filled(field) for field in _FILLED)
    output: str | dict[str, Any] = say
    if exchange.window is not None:
        output = {
            "content": output,
            "context_window": exchange.window.model_dump(),
            "metadata": metadata.model_dump(include={"preservation_level", "source", "rule_compliance"}),
        }
    try:
        return Example(
            id=f"{card.replace('/', '-')}-{exchange.id}{suffix}",
            kind=lesson.kind,
            instruction=ask,
            input=given,
            output=output,
            metadata=metadata,
            provenance=Provenance(
                card=card,
                template=exchange.id + suffix.replace("-", "+"),
                language=exchange.language or lesson.language,
                difficulty=exchange.difficulty or lesson.difficulty,
            ),
        )
    except ValidationError as error:
        first = error.errors(include_url=False)[0]
        raise InputError(
            f"{card}.yaml{exchange.place()}, {exchange.id}: {first['loc'][0]}: {first['msg']}", "mend the card"
        ) from error


def _tag(level: PreservationLevel, *rules: str) -> str:
    if level not in LEVELS:
        raise TypeError(f"{level!r} is no preservation level")
    return render(level, [check_rule(rule) for rule in rules])


def check_lessons(paths: list[Path]) -> list[str]:
    """Everything that is wrong with the cards in `paths`, a line each; [] when nothing is."""
    from tools.data.code import run_after
    from tools.data.similar import find_alike
    from tools.data.validate import row_errors

    problems: list[str] = []
    rows: list[Example] = []
    at: list[str] = []  # file, line and id of each row
    for path in paths:
        try:
            lesson = read_lesson(path)
            made = lesson_rows(lesson, f"{lesson.kind}/{path.stem}")
        except LooptuneError as error:
            problems.append(error.message if path.name in error.message else f"{path.name}: {error.message}")
            continue
        exchanges = {exchange.id: exchange for exchange in lesson.exchanges}
        for row in made:
            exchange = exchanges[row.provenance.template.partition("+")[0]]
            at.append(f"{path.name}{exchange.place()}, {row.id}")
            problems += [
                f"{path.name}{exchange.place(_WRITTEN.get(e.field, 'ask'))}, {row.id}: {e.message}"
                for e in row_errors(0, row)
            ]
            if exchange.run and (failure := run_after(row.text, exchange.run)):
                problems.append(f"{path.name}{exchange.place('run')}, {row.id}: run: {failure}")
        rows += made
    for what, texts in (("request", [r.question for r in rows]), ("answer", [r.answer for r in rows])):
        problems += [
            f"{at[i]} and {at[j]}: the {what}s are {similarity:.2f} alike"
            for i, j, similarity in find_alike(texts, 0.8)
        ]
    return problems


if __name__ == "__main__":
    places = [Path(argument) for argument in sys.argv[1:]]
    cards = sorted(p for place in places for p in (place.glob("**/*.yaml") if place.is_dir() else [place]))
    complaints = check_lessons(cards)
    made = 0
    for card in cards:
        try:
            made += len(lesson_rows(read_lesson(card), card.stem))
        except LooptuneError:
            continue
    sys.stdout.write("\n".join([*complaints, f"{len(cards)} cards, {made} rows, {len(complaints)} complaints", ""]))
    sys.exit(bool(complaints))
