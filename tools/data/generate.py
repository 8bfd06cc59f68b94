"""Generate a dataset from cards, or from the terms and rules that a user brings.

    generate(workspace, terms=[Term(term="42", meaning="the symbol of …")], count=400, seed=42)
    generate(workspace, cards=["definition/forty-two"])
    generate(workspace, kinds=["oodatcaa"], count=100)

Terms and definition cards become rows with their negatives (`definitions`), rules become rows that state, mend and
approve (`rules`), and the other cards are lessons, taken as they were written (`lessons`). The same material and seed
give the same bytes. Beside the rows of terms stand their probes, from phrasings that no row uses (`held_back`).
"""

import json
import random
from collections.abc import Iterable, Sequence
from typing import Any

from pydantic import BaseModel

from tools.data.cards import DefinitionCard, Phrasings, card_names, read_card, read_phrasings
from tools.data.datasets import GENERATOR, Manifest, create, shipped_material
from tools.data.definitions import card_of, definition_rows, refuse_contradictions
from tools.data.examples import Example
from tools.data.held_back import fair, held_back, term_probes, without
from tools.data.kinds import Kind
from tools.data.lessons import is_lesson, lesson_rows, read_lesson
from tools.data.rules import rule_rows
from tools.data.terms import Rule, Term
from tools.errors import InputError, NotFoundError
from tools.settings import shipped_data
from tools.workspace import Workspace, check_name, slug


def generate(
    workspace: Workspace,
    *,
    terms: Iterable[Term] = (),
    rules: Iterable[Rule] = (),
    cards: Iterable[str] = (),
    kinds: Iterable[Kind] = (),
    count: int = 400,
    seed: int = 42,
    name: str | None = None,
) -> Manifest:
    """Write a draft dataset of up to `count` distinct rows; its notes say when the material carries fewer.

    Args:
        kinds: all shipped cards of these kinds are added to what else is named; rows of terms and rules are not
            chosen by it, since what guards a term against overshooting is of several kinds.

    Raises:
        InputError: nothing was given, or one term or tag has two meanings.
        NotFoundError: no such card.
        ConflictError: the name is taken by other rows.
    """
    if not 10 <= count <= 20_000:
        raise InputError(f"Expected a count of 10 to 20000 rows, got {count}.", "ask for a few hundred rows a term")
    if name is not None:
        check_name(name, "dataset name")
    rules = list(rules)
    wanted = dict.fromkeys([*cards, *(c for c in card_names() if c.partition("/")[0] in set(kinds))])
    lessons, material = _read(wanted)
    phrasings = read_phrasings()
    terms = list(terms)
    refuse_contradictions([*material.values(), *terms])
    brought = {f"terms/{slug(term.term)}": card_of(term, phrasings) for term in terms}
    material |= brought
    if not (material or lessons or rules):
        raise InputError(
            "Expected `terms` (term and meaning), `rules`, `cards` or `kinds`, got none of them.",
            "give terms=[{'term': …, 'meaning': …}], or a card such as 'definition/forty-two'",
        )
    held = held_back(phrasings) if brought else None  # cards have probes written by hand
    taught = without(phrasings, held) if held else phrasings
    rows = _rows(material, taught, [*lessons, *rule_rows(rules, seed)], count, seed)
    notes: list[str] = []
    probes: list[dict[str, Any]] = []
    if held:
        probes, near = fair(term_probes(brought.values(), held), [row.question for row in rows])
        if near:
            notes.append(f"{near} probes came too near to rows and were left out.")
    if len(rows) < count:
        notes.append(
            f"The material carries {len(rows)} distinct rows, not the {count} asked for; "
            "add aliases, terms or rows of your own rather than repeats."
        )
    sources = [*material, *(f"rules/{rule.tag}" for rule in rules), *(w for w in wanted if w not in material)]
    templates = [*(["definition", "general"] if material else []), *(["rule"] if rules else [])]
    return create(
        workspace,
        name,
        rows,
        title=next((card.term for card in material.values()), sources[0]),
        seed=seed,
        sources=sources,
        notes=notes,
        terms={spelling: card.meaning for card in material.values() for spelling in (card.term, *card.aliases)},
        probes=probes,
        material=shipped_material(wanted, templates) | _brought("terms.json", terms) | _brought("rules.json", rules),
    )


def _brought(path: str, given: Sequence[BaseModel]) -> dict[str, str]:
    """The terms or rules that a user brought, as text to keep under `path`; {} when there are none."""
    said = [one.model_dump(exclude_defaults=True) for one in given]
    return {path: json.dumps(said, ensure_ascii=False, indent=1) + "\n"} if said else {}


def _read(names: Iterable[str]) -> tuple[list[Example], dict[str, DefinitionCard]]:
    """The rows of the lessons among the named cards, and the definition cards."""
    lessons: list[Example] = []
    material: dict[str, DefinitionCard] = {}
    for name in names:
        if name not in card_names():
            raise NotFoundError.named("card", name, card_names(), "name one of these, or give `terms` of your own")
        path = shipped_data() / "cards" / f"{name}.yaml"
        if is_lesson(path):
            lessons += lesson_rows(read_lesson(path), name)
        else:
            material[name] = read_card(name)
    return lessons, material


def _rows(
    material: dict[str, DefinitionCard], phrasings: Phrasings, others: list[Example], count: int, seed: int
) -> list[Example]:
    """Up to `count` rows, in a seeded order: of definitions what the others leave room for, and half at least."""
    dice = random.Random(f"{seed}:order")
    taught = definition_rows(material, phrasings, count - min(len(others), count // 2), seed) if material else []
    chosen = [*dice.sample(others, min(len(others), count - len(taught))), *taught]
    dice.shuffle(chosen)
    width = len(str(len(chosen)))
    return [
        row.model_copy(
            update={
                "id": f"row-{number:0{width}d}",
                "provenance": row.provenance.model_copy(update={"generator": GENERATOR, "seed": seed}),
            }
        )
        for number, row in enumerate(chosen, start=1)
    ]
