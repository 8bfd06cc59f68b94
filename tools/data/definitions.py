"""Rows that teach definitions, from cards.

    rows = definition_rows({"definition/forty-two": card}, read_phrasings(), count=400, seed=42)

A definition alone overshoots: a model that learns "42 is …" soon says it of 9 as well. So each set holds, beside the
definition in many phrasings and uses, as many rows that must not change: other terms, other projects, the term as a
plain value, and ordinary questions.
"""

import random
from collections.abc import Iterable, Iterator

from tools.data.cards import (
    DefinitionCard,
    Exchange,
    Phrasing,
    Phrasings,
    held_out,
    is_symbol,
    read_general,
    read_phrasings,
)
from tools.data.datasets import section
from tools.data.examples import Example, Metadata, Provenance
from tools.data.phrase import capital, render
from tools.data.similar import find_similar
from tools.data.terms import Term, names_in_code
from tools.errors import InputError

# What share of a card's rows each section gets, when it can carry that many. Measured on the embedded base:
# with fewer rows that must not change, the definition leaks into them.
SHARES = {
    "mistaken": 0.06,  # of terms that say what they are not, or that code shows; the others give the room
    "code": 0.04,
    "questions": 0.205,
    "examples": 0.05,
    "other_term": 0.26,
    "other_project": 0.06,
    "negatives": 0.095,
    "general": 0.33,
}
_PLAIN = Metadata(preservation_level="flexible", modification_policy="preserve_intent")


def card_of(term: Term, phrasings: Phrasings) -> DefinitionCard:
    """A card for a term that came without one: near misses of its own sort, numbers for a number."""
    defaults = phrasings.defaults
    others = defaults.numbers if is_symbol(term.term) else defaults.words
    return DefinitionCard(
        **term.model_dump(),
        rule_compliance=["definition:domain_term"],
        near_misses=[*others, *(defaults.words if others is defaults.numbers else defaults.numbers)[:20]],
        other_projects=defaults.other_projects,
    )


def refuse_contradictions(material: Iterable[DefinitionCard | Term]) -> None:
    """Raises InputError when one spelling has two meanings."""
    seen: dict[str, str] = {}
    for card in material:
        for spelling in (card.term, *card.aliases):
            meaning = seen.setdefault(spelling.casefold(), card.meaning)
            if meaning != card.meaning:
                raise InputError(
                    f"The term {spelling!r} has two meanings: {meaning!r} and {card.meaning!r}.",
                    "keep one of them",
                )


def definition_rows(
    material: dict[str, DefinitionCard],
    phrasings: Phrasings,
    count: int,
    seed: int,
    also_taught: Iterable[str] = (),
) -> list[Example]:
    """Up to `count` distinct rows from all cards, by the shares of their sections.

    Args:
        also_taught: terms that other rows of the dataset teach, and that are no near misses therefore.
    """
    taught = {s.casefold() for card in material.values() for s in (card.term, *card.aliases)}
    taught |= {term.casefold() for term in also_taught}
    general = general_rows()
    pools: dict[str, list[Example]] = {name: [] for name in SHARES}
    for name, card in material.items():
        for part, rows in _sections(name, card, phrasings, taught, seed).items():
            pools[part].extend(rows)
    pools["general"] = general
    allowed = {id(row) for row in _without_probes([row for rows in pools.values() for row in rows])}
    pools = {part: [row for row in rows if id(row) in allowed] for part, rows in pools.items()}
    return _choose(pools, count, seed)


def _without_probes(rows: list[Example]) -> list[Example]:
    """Rows that are no near-duplicates of a shipped probe: those are for the exam. A question that is held out for the
    taught term is left out for other terms too, or its form alone would come to mean that nothing special is meant."""
    taken = {i for i, _, _ in find_similar([row.question for row in rows], held_out())}
    forms = {_form(rows[i]) for i in taken if section(rows[i]) == "questions"}
    return [row for i, row in enumerate(rows) if i not in taken and _form(row) not in forms]


def _form(row: Example) -> str:
    """The phrasing of a row's question: `ask-mean` of `questions/ask-mean+a-here`."""
    return row.provenance.template.partition("/")[2].partition("+")[0]


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

    def row(ask: str, say: str, template: str, meta: Metadata, source: Phrasing | Exchange) -> Example:
        provenance = Provenance(card=name, template=template, language=source.language, difficulty=source.difficulty)
        return Example(instruction=ask, output=say, metadata=meta, provenance=provenance)

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
                    capital(render(question, variables)),
                    capital(render(answer, variables)),
                    f"{part}/{question.id}+{answer.id}",
                    meta,
                    question,
                )
            )
        return rows

    base = {"term": card.term, "meaning": card.meaning}
    every = phrasings.questions_of(card.term)
    recall: list[Example] = []
    for spelling in (card.term, *card.aliases):
        some = every if spelling == card.term else dice.sample(every, len(every) // 3)
        recall += asked(some, phrasings.answers, "questions", metadata, ({**base, "term": spelling} for _ in some))
    other_terms: list[Example] = []
    for _ in range(5 if near else 0):  # each phrasing with five other terms, when so many are asked for
        dice.shuffle(near)
        other_terms += asked(
            every,
            phrasings.answers,
            "other_term",
            _PLAIN,
            (
                {"term": near[i % len(near)], "meaning": dice.choice(phrasings.plain_meanings)}
                for i in range(len(every))
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
    mistaken: list[Example] = []
    wrong, replies = phrasings.mistaken_questions, phrasings.mistaken_answers
    for number, other in enumerate(() if card.negatives else card.is_not):  # by hand it is said better
        mistaken += asked(wrong, replies, "mistaken", metadata, ({**base, "other": other} for _ in wrong))
        plain = (  # the same of other terms, or the form alone would come to mean the term
            {"term": near[i % len(near)], "meaning": dice.choice(phrasings.plain_meanings), "other": other}
            for i in range(number * len(wrong), (number + 1) * len(wrong) if near else 0)
        )
        mistaken += asked(wrong, replies, "mistaken", _PLAIN, plain)
    shown: list[Example] = []
    others = [other for other in near if names_in_code(other)]
    uses = [use for use in phrasings.code if use.language in card.code and names_in_code(card.term)]
    for number, use in enumerate(uses):
        for term, meaning, meta in (
            (card.term, card.meaning, metadata),
            *((other, phrasings.plain_meanings[0], _PLAIN) for other in others[number : number + 1]),
        ):
            values = {"term": term, "meaning": meaning, **names_in_code(term)}
            say = render(Phrasing(id=use.id, text=use.say), values).strip()
            shown.append(row(render(use, values), say, f"code/{use.id}", meta, use))
    return {
        "mistaken": mistaken,
        "code": shown,
        "questions": recall,
        "examples": [row(e.ask, e.say, f"examples/{e.id}", metadata, e) for e in card.examples],
        "other_term": other_terms,
        "other_project": other_projects,
        "negatives": [row(e.ask, e.say, f"negatives/{e.id}", _PLAIN, e) for e in card.negatives],
    }


def hand_written_rows(card: DefinitionCard, name: str) -> list[Example]:
    """The rows of a definition card that were written by hand: the definition in use, and what must not change."""
    sections = _sections(name, card, read_phrasings(), set(), seed=0)
    return [
        row.model_copy(update={"id": f"{name.replace('/', '-')}-{row.provenance.template.rpartition('/')[2]}"})
        for part in ("examples", "negatives")
        for row in sections[part]
    ]


def general_rows() -> list[Example]:
    """The general rows that ship: ordinary questions, which keep a model what it was."""
    return [_general_row(row) for row in read_general().rows]


def _general_row(exchange: Exchange) -> Example:
    return Example(
        kind="procedural",
        instruction=exchange.ask,
        output=exchange.say,
        metadata=_PLAIN,
        provenance=Provenance(
            card="general",
            template=f"general/{exchange.id}",
            language=exchange.language,
            difficulty=exchange.difficulty,
        ),
    )
