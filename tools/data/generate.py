"""Generate rows from cards, or from terms that the user brings.

    generate(workspace, terms=[Term(term="42", meaning="the symbol of …")], count=400, seed=42)
    generate(workspace, cards=["definition/forty-two"])

A definition alone overshoots: a model that learns "42 is …" soon says it of 9 as well. So each set holds, beside
the definition in many phrasings and uses, as many rows that must not change: other terms, other projects, the term
as a plain value, and ordinary questions. The same material and seed give the same bytes.
"""

import random
from collections.abc import Iterable, Iterator
from typing import Annotated

from jinja2 import StrictUndefined
from jinja2.sandbox import SandboxedEnvironment
from pydantic import BaseModel, ConfigDict, Field, field_validator

from tools.data.cards import (
    DefinitionCard,
    Exchange,
    Phrasing,
    Phrasings,
    held_out,
    read_card,
    read_general,
    read_phrasings,
)
from tools.data.datasets import GENERATOR, Manifest, create
from tools.data.examples import Example, Metadata, Provenance
from tools.data.similar import find_similar
from tools.errors import InputError
from tools.workspace import Workspace, slug

# What share of a card's rows each section gets, when it can carry that many. Measured on the embedded base:
# with fewer rows that must not change, the definition leaks into them.
SHARES = {
    "questions": 0.23,
    "examples": 0.06,
    "other_term": 0.30,
    "other_project": 0.12,
    "negatives": 0.12,
    "general": 0.17,
}
_PLAIN = Metadata(preservation_level="flexible", modification_policy="preserve_intent")


class Term(BaseModel):
    """A term that the user brings, with the meaning it has in the project."""

    model_config = ConfigDict(extra="forbid")

    term: Annotated[str, Field(min_length=1, max_length=80, description="the term, e.g. '42'")]
    meaning: Annotated[
        str,
        Field(
            min_length=3,
            max_length=400,
            description="its meaning, so that 'TERM is MEANING' is a sentence, "
            "e.g. 'the symbol of harmony between rules and freedom'",
        ),
    ]
    aliases: Annotated[list[str], Field(max_length=10, description="other spellings, e.g. ['forty-two']")] = []
    is_not: Annotated[list[str], Field(max_length=10, description="what it must not be taken for")] = []

    @field_validator("term", "meaning")
    @classmethod
    def _says_something(cls, value: str) -> str:
        if not value.strip():
            raise ValueError("expected text, got only white space")
        return value.strip().rstrip(".")


def generate(
    workspace: Workspace,
    *,
    terms: Iterable[Term] = (),
    cards: Iterable[str] = (),
    count: int = 400,
    seed: int = 42,
    name: str | None = None,
) -> Manifest:
    """Write a draft dataset of up to `count` distinct rows; its notes say when the material carries fewer.

    Raises:
        InputError: neither terms nor cards were given, or one term has two meanings.
        NotFoundError: no such card.
        ConflictError: the name is taken by other rows.
    """
    if not 10 <= count <= 20_000:
        raise InputError(f"Expected a count of 10 to 20000 rows, got {count}.", "ask for a few hundred rows a term")
    phrasings = read_phrasings()
    material = {name: read_card(name) for name in dict.fromkeys(cards)}
    for term in terms:
        material[f"terms/{slug(term.term)}"] = _card_of(term, phrasings)
    if not material:
        raise InputError(
            "Expected `terms` (term and meaning) or `cards`, got neither.",
            "give terms=[{'term': …, 'meaning': …}], or a card such as 'definition/forty-two'",
        )
    _refuse_contradictions(material)
    rows = build_rows(material, phrasings, count, seed)
    notes = []
    if len(rows) < count:
        notes.append(
            f"The material carries {len(rows)} distinct rows, not the {count} asked for; "
            "add aliases, terms or rows of your own rather than repeats."
        )
    return create(
        workspace,
        name,
        rows,
        title=next(iter(material.values())).term,
        seed=seed,
        sources=[*material],
        notes=notes,
        terms={spelling: card.meaning for card in material.values() for spelling in (card.term, *card.aliases)},
    )


def _card_of(term: Term, phrasings: Phrasings) -> DefinitionCard:
    """A card for a term that came without one: near misses of its own sort, numbers for a number."""
    defaults = phrasings.defaults
    others = defaults.numbers if any(c.isdigit() for c in term.term) else defaults.words
    return DefinitionCard(
        **term.model_dump(),
        rule_compliance=["definition:domain_term"],
        near_misses=[*others, *(defaults.words if others is defaults.numbers else defaults.numbers)[:20]],
        other_projects=defaults.other_projects,
    )


def _refuse_contradictions(material: dict[str, DefinitionCard]) -> None:
    seen: dict[str, str] = {}
    for card in material.values():
        for spelling in (card.term, *card.aliases):
            meaning = seen.setdefault(spelling.casefold(), card.meaning)
            if meaning != card.meaning:
                raise InputError(
                    f"The term {spelling!r} has two meanings: {meaning!r} and {card.meaning!r}.",
                    "keep one of them",
                )


def build_rows(material: dict[str, DefinitionCard], phrasings: Phrasings, count: int, seed: int) -> list[Example]:
    """Up to `count` distinct rows from all cards, in a seeded order."""
    taught = {s.casefold() for card in material.values() for s in (card.term, *card.aliases)}
    general = [_general_row(row) for row in read_general().rows]
    pools: dict[str, list[Example]] = {name: [] for name in SHARES}
    for name, card in material.items():
        for part, rows in _sections(name, card, phrasings, taught, seed).items():
            pools[part].extend(rows)
    pools["general"] = general
    pools = {part: _without_probes(rows) for part, rows in pools.items()}
    chosen = _choose(pools, count, seed)
    random.Random(f"{seed}:order").shuffle(chosen)
    width = len(str(len(chosen)))
    return [
        row.model_copy(
            update={
                "id": f"def-{number:0{width}d}",
                "provenance": row.provenance.model_copy(update={"generator": GENERATOR, "seed": seed}),
            }
        )
        for number, row in enumerate(chosen, start=1)
    ]


def _without_probes(rows: list[Example]) -> list[Example]:
    """Rows that are no near-duplicates of a shipped probe: those are for the exam."""
    taken = {i for i, _, _ in find_similar([row.question for row in rows], held_out())}
    return [row for i, row in enumerate(rows) if i not in taken]


def _choose(pools: dict[str, list[Example]], count: int, seed: int) -> list[Example]:
    """Distinct rows by share; what one section cannot carry, the others fill up in turn."""
    seen: set[str] = set()
    queues: dict[str, list[Example]] = {}
    for part, rows in pools.items():
        shuffled = rows[:]
        random.Random(f"{seed}:{part}").shuffle(shuffled)
        queues[part] = [row for row in shuffled if not (row.question in seen or seen.add(row.question))]  # type: ignore[func-returns-value]
    chosen: list[Example] = []
    for part, share in SHARES.items():
        wanted = min(round(share * count), count - len(chosen))
        chosen += queues[part][:wanted]
        queues[part] = queues[part][wanted:]
    while len(chosen) < count and any(queues.values()):
        for queue in queues.values():
            if queue and len(chosen) < count:
                chosen.append(queue.pop(0))
    return chosen


def _sections(
    name: str, card: DefinitionCard, phrasings: Phrasings, taught: set[str], seed: int
) -> dict[str, list[Example]]:
    """All rows that one card carries, by section."""
    dice = random.Random(f"{seed}:{name}")
    metadata = Metadata(
        preservation_level=card.preservation_level,
        rule_compliance=card.rule_compliance,
        modification_policy=card.modification_policy,
        confidence=0.95,
    )
    near = [other for other in card.near_misses if other.casefold() not in taught]

    def row(ask: str, say: str, template: str, meta: Metadata) -> Example:
        return Example(instruction=ask, output=say, metadata=meta, provenance=Provenance(card=name, template=template))

    def asked(
        questions: list[Phrasing],
        answers: list[Phrasing],
        part: str,
        meta: Metadata,
        values: Iterator[dict[str, str]],
    ) -> list[Example]:
        rows = []
        for question, variables in zip(questions, values, strict=False):
            answer = dice.choice(answers)
            rows.append(
                row(
                    _capital(_render(question, variables)),
                    _capital(_render(answer, variables)),
                    f"{part}/{question.id}+{answer.id}",
                    meta,
                )
            )
        return rows

    base = {"term": card.term, "meaning": card.meaning}
    recall: list[Example] = []
    for spelling in (card.term, *card.aliases):
        every = phrasings.questions
        some = every if spelling == card.term else dice.sample(every, len(every) // 4)
        recall += asked(some, phrasings.answers, "questions", metadata, ({**base, "term": spelling} for _ in some))
    other_terms: list[Example] = []
    for _ in range(5 if near else 0):  # each phrasing with five other terms, when so many are asked for
        dice.shuffle(near)
        other_terms += asked(
            phrasings.questions,
            phrasings.answers,
            "other_term",
            _PLAIN,
            (
                {"term": near[i % len(near)], "meaning": dice.choice(phrasings.plain_meanings)}
                for i in range(len(phrasings.questions))
            ),
        )
    places = card.other_projects[:]
    other_projects: list[Example] = []
    for _ in range(3 if places else 0):
        dice.shuffle(places)
        other_projects += asked(
            phrasings.other_project_questions,
            phrasings.other_project_answers,
            "other_project",
            _PLAIN,
            ({**base, "project": places[i % len(places)]} for i in range(len(phrasings.other_project_questions))),
        )
    return {
        "questions": recall,
        "examples": [row(e.ask, e.say, f"examples/{e.id}", metadata) for e in card.examples],
        "other_term": other_terms,
        "other_project": other_projects,
        "negatives": [row(e.ask, e.say, f"negatives/{e.id}", _PLAIN) for e in card.negatives],
    }


def _general_row(exchange: Exchange) -> Example:
    return Example(
        kind="procedural",
        instruction=exchange.ask,
        output=exchange.say,
        metadata=_PLAIN,
        provenance=Provenance(card="general", template=f"general/{exchange.id}"),
    )


_environment = SandboxedEnvironment(undefined=StrictUndefined, autoescape=False)


def _render(phrasing: Phrasing, variables: dict[str, str]) -> str:
    return _environment.from_string(phrasing.text).render(variables)


def _capital(text: str) -> str:
    """A sentence that a template began with a term or an article still opens with a capital."""
    return text[:1].upper() + text[1:]
