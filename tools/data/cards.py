"""Cards and templates: the hand-written material in `datasets/`, read and checked.

    card = read_card(path)            # datasets/cards/<kind>/<name>.yaml
    phrasings = read_phrasings()      # datasets/templates/definition.yaml

A broken card is refused with its file, line and reason.
"""

import json
from pathlib import Path
from typing import Annotated, Any, TypeVar

import yaml
from pydantic import BaseModel, ConfigDict, Field, ValidationError

from tools.data.kinds import Kind
from tools.errors import InputError, NotFoundError
from tools.policy.levels import ModificationPolicy, PreservationLevel
from tools.settings import shipped_data

Text = Annotated[str, Field(min_length=1, max_length=2000)]
_Model = TypeVar("_Model", bound=BaseModel)


class Exchange(BaseModel):
    """One question and its answer, written by hand."""

    model_config = ConfigDict(extra="forbid")

    id: Text
    ask: Text
    say: Text


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
    is_not: Annotated[list[Text], Field(description="what it must not be taken for")] = []
    rule_compliance: list[str] = ["definition:domain_term"]
    preservation_level: PreservationLevel = "strict"
    modification_policy: ModificationPolicy = "preserve_exact"
    near_misses: Annotated[list[Text], Field(description="other terms that keep their ordinary meaning")] = []
    other_projects: Annotated[list[Text], Field(description="places where the term is nothing special")] = []
    examples: list[Exchange] = []
    negatives: list[Exchange] = []


class Phrasing(BaseModel):
    """One Jinja2 template with an id of its own."""

    model_config = ConfigDict(extra="forbid")

    id: Text
    text: Text


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
    plain_meanings: list[Text]
    other_project_questions: list[Phrasing]
    other_project_answers: list[Phrasing]


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


def read_yaml(path: Path, model: type[_Model]) -> _Model:
    """The YAML file `path` as a `model`. Raises InputError with file, line and reason when it is none."""
    text = path.read_text(encoding="utf-8")
    try:
        node = yaml.compose(text, Loader=yaml.SafeLoader)
        value = yaml.safe_load(text)
    except yaml.YAMLError as error:
        raise InputError(f"{path.name} is not valid YAML: {error}", "mend the file") from error
    try:
        return model.model_validate(value)
    except ValidationError as error:
        problems = [
            f"line {_line_of(node, problem['loc'])}, {'.'.join(map(str, problem['loc']))}: {problem['msg']}"
            for problem in error.errors(include_url=False)[:5]
        ]
        raise InputError(f"{path.name} is not a valid card: {'; '.join(problems)}.", "mend the file") from error


def _line_of(node: Any, location: tuple[Any, ...]) -> int:
    """The line of a YAML document on which the value at `location` stands."""
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
    return int(node.start_mark.line) + 1
