"""Cards and templates: the hand-written material in `datasets/`, read and checked.

    card = read_card(path)            # datasets/cards/<kind>/<name>.yaml
    phrasings = read_phrasings()      # datasets/templates/definition.yaml

A broken card is refused with its file, line and reason.
"""

import json
from collections.abc import Callable
from pathlib import Path
from typing import Annotated, Any, Literal, TypeVar

import yaml
from pydantic import BaseModel, ConfigDict, Field, ValidationError
from yaml.constructor import ConstructorError
from yaml.error import MarkedYAMLError
from yaml.reader import ReaderError

from tools.data.kinds import Difficulty, Kind, Language
from tools.errors import InputError, NotFoundError
from tools.policy.levels import ModificationPolicy, PreservationLevel
from tools.settings import shipped_data

Text = Annotated[str, Field(min_length=1, max_length=2000)]
Lines = Callable[..., int]
_Model = TypeVar("_Model", bound=BaseModel)


class Exchange(BaseModel):
    """One question and its answer, written by hand."""

    model_config = ConfigDict(extra="forbid")

    id: Text
    ask: Text
    say: Text
    language: Language = "text"
    difficulty: Difficulty = "basic"


class DefinitionCard(BaseModel):
    """A term with the meaning it has in this project, and what guards it against overshooting."""

    model_config = ConfigDict(extra="forbid")

    kind: Kind = "definition"
    term: Annotated[str, Field(min_length=1, max_length=80, description="the term, as people write it")]
    meaning: Annotated[
        str,
        Field(
            min_length=3,
            max_length=400,
            description="what it means here, so that 'TERM is MEANING' is a sentence",
        ),
    ]
    aliases: Annotated[list[Text], Field(description="other spellings of the term")] = []
    is_not: Annotated[
        list[Text],
        Field(description="what it must not be taken for; makes rows where no `negatives` say that by hand"),
    ] = []
    code: Annotated[list[Language], Field(description="languages in which code explains it, as a row")] = []
    rule_compliance: list[str] = ["definition:domain_term"]
    preservation_level: PreservationLevel = "strict"
    modification_policy: ModificationPolicy = "preserve_exact"
    near_misses: Annotated[list[Text], Field(description="other terms that keep their ordinary meaning")] = []
    other_projects: Annotated[list[Text], Field(description="places where the term is nothing special")] = []
    examples: list[Exchange] = []
    negatives: list[Exchange] = []


def is_symbol(term: str) -> bool:
    """Whether a term stands for something, as 42 does, and names no thing itself: it has a digit in it."""
    return any(letter.isdigit() for letter in term)


class Phrasing(BaseModel):
    """One Jinja2 template with an id of its own; the language of the code it is about, how hard it is, and the sort of
    term it is only for."""

    model_config = ConfigDict(extra="forbid")

    id: Text
    text: Text
    language: Language = "text"
    difficulty: Difficulty = "basic"
    only: Literal["symbol", "word"] | None = None


class CodePhrasing(Phrasing):
    """A request for code in which a term is explained, and the code."""

    say: Text


class Defaults(BaseModel):
    """Near misses and other projects for a term that comes without a card."""

    model_config = ConfigDict(extra="forbid")

    numbers: list[Text]
    words: list[Text]
    other_projects: list[Text]


class Phrasings(BaseModel):
    """How people ask for a definition, and how it is answered."""

    model_config = ConfigDict(extra="forbid")

    defaults: Defaults

    questions: list[Phrasing]
    answers: list[Phrasing]
    mistaken_questions: list[Phrasing]
    mistaken_answers: list[Phrasing]
    code: list[CodePhrasing]
    plain_meanings: list[Text]
    other_project_questions: list[Phrasing]
    other_project_answers: list[Phrasing]

    def questions_of(self, term: str) -> list[Phrasing]:
        """The questions that fit `term`: one with a digit in it is a symbol, any other a word."""
        unfit = "word" if is_symbol(term) else "symbol"
        return [question for question in self.questions if question.only != unfit]


class GeneralRows(BaseModel):
    """Ordinary questions that keep the model what it was."""

    model_config = ConfigDict(extra="forbid")

    rows: list[Exchange]


def card_names() -> list[str]:
    """The shipped cards, as `<kind>/<name>`."""
    cards = shipped_data() / "cards"
    return sorted(path.relative_to(cards).with_suffix("").as_posix() for path in cards.glob("*/*.yaml"))


def read_card(name: str) -> DefinitionCard:
    """The shipped card `name`, such as `definition/forty-two`.

    Raises:
        NotFoundError: there is none of that name.
        InputError: it is broken; file, line and reason are said.
    """
    if name not in card_names():
        raise NotFoundError.named("card", name, card_names(), "name one of these, or give `terms` of your own")
    return read_yaml(shipped_data() / "cards" / f"{name}.yaml", DefinitionCard)


def read_phrasings() -> Phrasings:
    """The phrasings of definitions. Raises InputError when the file is broken."""
    return read_yaml(shipped_data() / "templates" / "definition.yaml", Phrasings)


def read_general() -> GeneralRows:
    """The general rows. Raises InputError when the file is broken."""
    return read_yaml(shipped_data() / "templates" / "general.yaml", GeneralRows)


def held_out() -> list[str]:
    """The prompts of every shipped probe, which no generated row may come near."""
    return [
        json.loads(line)["prompt"]
        for path in sorted((shipped_data() / "probes").glob("*.jsonl"))
        for line in path.read_text(encoding="utf-8").splitlines()
        if '"prompt"' in line
    ]


def card_text(path: Path) -> str:
    """The text of a card. Raises InputError with file, line and reason when there is none to read."""
    try:
        data = path.read_bytes()
    except OSError as error:
        raise InputError(f"{path.name} cannot be read: {error.strerror}.", "name a YAML file") from error
    try:
        return data.decode("utf-8-sig")
    except UnicodeDecodeError as error:
        line = data.count(b"\n", 0, error.start) + 1
        raise InputError(
            f"{path.name}, line {line}: expected UTF-8, got the byte 0x{data[error.start]:02X}.",
            "save the file as UTF-8",
        ) from error


def read_yaml(path: Path, model: type[_Model]) -> _Model:
    """The YAML file `path` as a `model`. Raises InputError with file, line and reason when it is none."""
    return read_with_lines(path, model)[0]


def read_with_lines(path: Path, model: type[_Model]) -> tuple[_Model, Lines]:
    """`read_yaml`, and what says on which line of the file a value stands: `lines("exchanges", 0, "say")`."""
    node, value = _parsed(path)

    def lines(*location: int | str) -> int:
        return _line_of(node, location)

    try:
        return model.model_validate(value), lines
    except ValidationError as error:
        problems = [
            f"line {lines(*problem['loc'])}, {'.'.join(map(str, problem['loc'])) or 'the card'}: {problem['msg']}"
            for problem in error.errors(include_url=False)[:5]
        ]
        raise InputError(f"{path.name} is not a valid card: {'; '.join(problems)}.", "mend the file") from error


class _Loader(yaml.SafeLoader):
    """YAML without surprises: a key that comes twice is refused, where PyYAML would keep the last and say nothing."""

    def construct_mapping(self, node: yaml.MappingNode, deep: bool = False) -> dict[Any, Any]:
        seen: set[tuple[str, str]] = set()
        for key, _ in node.value:
            if isinstance(key, yaml.ScalarNode):
                if (key.tag, key.value) in seen:
                    raise ConstructorError(None, None, f"the key {key.value!r} comes twice", key.start_mark)
                seen.add((key.tag, key.value))
        return super().construct_mapping(node, deep)


def _parsed(path: Path) -> tuple[Any, Any]:
    """The YAML document in `path`: its node, which knows its lines, and its value. Raises InputError."""
    text = card_text(path)
    try:
        loader = _Loader(text)
        node = loader.get_single_node()
        return node, None if node is None else loader.construct_document(node)
    except MarkedYAMLError as error:
        mark = error.problem_mark or error.context_mark
        at, reason = f", line {mark.line + 1}" if mark else "", error.problem or error.context
    except ReaderError as error:
        at, reason = f", line {text.count(chr(10), 0, error.position) + 1}", str(error).partition("\n")[0]
    except RecursionError:
        at, reason = "", "it is nested too deeply"
    except (yaml.YAMLError, ValueError) as error:  # ValueError: a date or a number that cannot be
        at, reason = "", str(error)
    raise InputError(f"{path.name}{at}: not valid YAML: {reason}.", "mend the file")


def _line_of(node: Any, location: tuple[Any, ...]) -> int:
    """The line of a YAML document on which the value at `location` stands; its first when there is none."""
    for part in location:
        if isinstance(node, yaml.MappingNode):
            found = next((value for key, value in node.value if key.value == str(part)), None)
        elif isinstance(node, yaml.SequenceNode) and isinstance(part, int) and part < len(node.value):
            found = node.value[part]
        else:
            found = None
        if found is None:
            break
        node = found
    return 1 if node is None else int(node.start_mark.line) + 1
