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
from pydantic import BaseModel, ConfigDict, Field, model_validator

from tools.data.cards import read_yaml
from tools.data.examples import Example, Metadata, Provenance
from tools.data.kinds import Kind, Language
from tools.errors import InputError, LooptuneError
from tools.policy.levels import LEVELS, ModificationPolicy, PreservationLevel
from tools.policy.tags import check_rule, render

Difficulty = Literal["basic", "intermediate", "advanced"]
Id = Annotated[str, Field(pattern=r"^[a-z0-9][a-z0-9-]{0,40}$")]
Text = Annotated[str, Field(min_length=1, max_length=20_000)]
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
    """Whether the card is a lesson, or else a definition card with its templates."""
    return bool(re.search(r"^exchanges:", path.read_text(encoding="utf-8"), re.MULTILINE))


def read_lesson(path: Path) -> Lesson:
    """The card in `path`. Raises InputError with file, line and reason when it is broken."""
    lesson = read_yaml(path, Lesson)
    if path.parent.name != lesson.kind:
        raise InputError(f"{path.name} is of kind {lesson.kind} but lies in {path.parent.name}/.", "move it")
    return lesson


def lesson_rows(lesson: Lesson, card: str) -> list[Example]:
    """Every row that `lesson` makes; `card` is its name, `<kind>/<name>`.

    Raises:
        InputError: a slot cannot be filled.
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

    def filled(text: str) -> str:
        try:
            return _environment.from_string(text).render(tag=_tag, **values).strip("\n")
        except (TemplateError, TypeError) as error:
            raise InputError(f"{card}, {exchange.id}: a slot cannot be filled: {error}", "mend the card") from error

    output: str | dict[str, Any] = filled(exchange.say)
    if exchange.window is not None:
        output = {
            "content": output,
            "context_window": exchange.window.model_dump(),
            "metadata": metadata.model_dump(include={"preservation_level", "source", "rule_compliance"}),
        }
    return Example(
        id=f"{card.replace('/', '-')}-{exchange.id}{suffix}",
        kind=lesson.kind,
        instruction=filled(exchange.ask),
        input=filled(exchange.input),
        output=output,
        metadata=metadata,
        provenance=Provenance(
            card=card,
            template=exchange.id + suffix.replace("-", "+"),
            language=exchange.language or lesson.language,
            difficulty=exchange.difficulty or lesson.difficulty,
        ),
    )


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
    for path in paths:
        try:
            lesson = read_lesson(path)
            made = lesson_rows(lesson, f"{lesson.kind}/{path.stem}")
        except LooptuneError as error:
            problems.append(f"{path.name}: {error.message}")
            continue
        runs = {exchange.id: exchange.run for exchange in lesson.exchanges if exchange.run}
        for row in made:
            found = [e.message for e in row_errors(0, row)]
            if run := runs.get(row.provenance.template.partition("+")[0]):
                found += [f"run: {failure}" for failure in [run_after(row.text, run)] if failure]
            problems += [f"{row.id}: {message}" for message in found]
        rows += made
    for what, texts in (("request", [r.question for r in rows]), ("answer", [r.answer for r in rows])):
        problems += [
            f"{rows[i].id} and {rows[j].id}: the {what}s are {similarity:.2f} alike"
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
