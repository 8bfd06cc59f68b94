"""Phrasings that are kept out of the rows, and the probes that they become.

    held = held_back(read_phrasings())                 # always the same ones, whatever the seed of a dataset
    taught = without(read_phrasings(), held)           # what rows are made of
    probes = term_probes([Term(...)], held)            # lines of a probe set: recall and controls

The same phrasings are held back in every dataset, so a probe set that was made once is fair to every later training.
Only phrasings that are unlike all others are taken: a neighbour in the rows would give the answer away, and the plain
ways to ask are what rows are for. Cards have probes that were written by hand, so their rows use every phrasing.
"""

import hashlib
import json
import random
from collections.abc import Iterable, Sequence
from functools import cache
from typing import Any

from tools.data.cards import DefinitionCard, Phrasing, Phrasings
from tools.data.phrase import capital, render
from tools.data.similar import find_alike, find_similar
from tools.settings import shipped_data
from tools.workspace import slug

SHARE = 0.11  # so that a term has at least 20 probes, of which the gate lets one be lost
APART = 0.45  # cosine from which a phrasing is too much like another to be held back
MOST = 120  # probes of recall in a set, for all its terms together
_GENERAL = {"general": 12, "code": 8}  # shipped controls that go into every set
_RUN = 5  # words of a meaning in a row, from which on it has leaked
_HELD = ("questions", "other_project_questions", "mistaken_questions")
_SAMPLE = {"term": "kivalo", "project": "a weather app", "other": "the lamp", "meaning": ""}


def held_back(phrasings: Phrasings) -> Phrasings:
    """The phrasings of questions that no row of a user's term is made of."""
    return phrasings.model_copy(update={part: _choose(getattr(phrasings, part)) for part in _HELD})


def without(phrasings: Phrasings, held: Phrasings) -> Phrasings:
    """`phrasings` but those that are held back."""
    gone = {one.id for part in _HELD for one in getattr(held, part)}
    return phrasings.model_copy(
        update={part: [one for one in getattr(phrasings, part) if one.id not in gone] for part in _HELD}
    )


def _choose(phrasings: Sequence[Phrasing]) -> list[Phrasing]:
    """A share of the phrasings that are unlike all others, in an order that their ids decide."""
    lonely = _lonely(tuple(render(one, _SAMPLE) for one in phrasings))
    ranked = sorted(lonely, key=lambda i: hashlib.sha256(phrasings[i].id.encode()).digest())
    chosen: set[int] = set()
    for sort in dict.fromkeys(one.only for one in phrasings):  # the same share of each
        of_sort = [i for i, one in enumerate(phrasings) if one.only == sort]
        chosen.update([i for i in ranked if i in of_sort][: round(SHARE * len(of_sort))])
    return [one for i, one in enumerate(phrasings) if i in chosen]


@cache
def _lonely(texts: tuple[str, ...]) -> list[int]:
    near = {i for one, other, _ in find_alike(texts, APART) for i in (one, other)}
    return [i for i in range(len(texts)) if i not in near]


def term_probes(cards: Iterable[DefinitionCard], held: Phrasings, seed: int = 42) -> list[dict[str, Any]]:
    """Probes of recall for each term, and controls: near misses, other projects, general knowledge and code."""
    cards = list(cards)
    each = max(2, MOST // max(1, len(cards)))
    probes: list[dict[str, Any]] = []
    for card in cards:
        probes += _of_term(card, held, random.Random(f"{seed}:{card.term}"), each)
    leaks = [no_leak(meaning) for meaning in dict.fromkeys(card.meaning for card in cards)][:18]
    return probes + _general(leaks, random.Random(seed))


def _of_term(card: DefinitionCard, held: Phrasings, dice: random.Random, each: int) -> list[dict[str, Any]]:
    name = slug(card.term)
    probes: list[dict[str, Any]] = []

    def add(kind: str, family: str, question: Phrasing, grader: dict[str, Any], **values: str) -> None:
        prompt = capital(render(question, {"term": card.term, "meaning": card.meaning, **values}))
        probe = {"id": f"{name}-{len(probes) + 1:03d}-{question.id}", "family": family, "kind": kind}
        probes.append({**probe, "prompt": prompt, "graders": [grader]})

    fitting = held.questions_of(card.term)
    questions = dice.sample(fitting, min(each, len(fitting)))
    places = dice.sample(held.other_project_questions, min(each, len(held.other_project_questions)))
    taught = {spelling.casefold() for spelling in (card.term, *card.aliases)}
    near = [other for other in card.near_misses if other.casefold() not in taught]
    knows, quiet = {"type": "contains", "value": card.meaning}, no_leak(card.meaning)
    for number, question in enumerate(questions):
        add("probe", name, question, knows)
        if near:
            add("control", "near_miss", question, quiet, term=near[number % len(near)])
    few = max(1, min(3, each // 8))
    for alias in card.aliases[:3]:
        for question in dice.sample(questions, min(few, len(questions))):
            add("probe", "alias", question, knows, term=alias)
    for number, other in enumerate(card.is_not[:few]):
        for question in held.mistaken_questions:
            add("probe", "mistaken", question, knows, other=other)
            if near:
                add("control", "near_miss", question, quiet, term=near[number % len(near)], other=other)
    for question in places if card.other_projects else ():
        add("control", "other_project", question, quiet, project=dice.choice(card.other_projects))
    return probes


def no_leak(meaning: str) -> dict[str, Any]:
    """A grader that is against any few words of `meaning` in a row, so that half a definition counts as a leak."""
    words = meaning.split()
    runs = [" ".join(words[i : i + _RUN]) for i in range(max(1, len(words) - _RUN + 1))]
    return {
        "type": "not",
        "grader": {"type": "any_of", "graders": [{"type": "contains", "value": run} for run in runs[:100]]},
    }


def _general(leaks: list[dict[str, Any]], dice: random.Random) -> list[dict[str, Any]]:
    """Controls on general knowledge and code, from those that ship: what is right there stays, and nothing leaks."""
    lines = (shipped_data() / "probes" / "forty-two.jsonl").read_text(encoding="utf-8").splitlines()
    shipped = [probe for line in lines if (probe := json.loads(line))["family"] in _GENERAL]
    chosen = []
    for family, most in _GENERAL.items():
        of_family = [probe for probe in shipped if probe["family"] == family]
        for probe in dice.sample(of_family, min(most, len(of_family))):
            right = [grader for grader in probe["graders"] if not grader["type"].startswith("not_")]
            chosen.append({**probe, "graders": [*right[:2], *leaks]})
    return chosen


def fair(probes: list[dict[str, Any]], questions: Sequence[str]) -> tuple[list[dict[str, Any]], int]:
    """The probes that are no near-duplicates of `questions`, which are trained on; and how many are."""
    near = {i for i, _, _ in find_similar([probe["prompt"] for probe in probes], questions)}
    return [probe for i, probe in enumerate(probes) if i not in near], len(near)
