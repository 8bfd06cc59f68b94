"""Rows and probes of insights, with the negatives that keep a model from overshooting.

    rows = subject_rows(subject, count=100, seed=42, also_taught=["ferry"])   # other terms that are taught beside it
    probes = subject_probes([subject], seed=42)      # lines of a probe set; the family of each is its entry's id

A term's rows are those of tools/data/definitions.py. A rule is stated in answer to forty phrasings, of which none is
asked in a probe; as many rows ask for topics that no rule is about, and the others are general. Its probes use
phrasings that no row uses (`exam` in datasets/insights/rules.yaml).
"""

import random
from collections.abc import Iterable, Sequence
from functools import cache
from typing import Any

from pydantic import BaseModel, ConfigDict

from tools.data.cards import Phrasing, Phrasings, read_phrasings, read_yaml
from tools.data.definitions import definition_rows, general_rows
from tools.data.examples import Example, Metadata, Provenance
from tools.data.held_back import held_back, no_leak, term_probes, without
from tools.data.phrase import capital, render
from tools.data.rules import RulePhrasings
from tools.learning.subjects import Subject
from tools.policy.levels import LEVELS, level_of
from tools.settings import shipped_data

PROBES, CONTROLS, GENERAL = 8, 6, 12  # probes and controls of one insight, and general controls of a set
_RULE_SHARES = {"state": 0.34, "other_topic": 0.33, "general": 0.33}
_PLAIN = Metadata(preservation_level="flexible", modification_policy="preserve_intent")
_SHORT, _LONG = 48, 112  # tokens of an answer to a probe: enough for the opening and the whole sentence
_SHORT_WORDS = 25


class _RuleMaterial(BaseModel):
    """What datasets/insights/rules.yaml holds."""

    model_config = ConfigDict(extra="forbid")

    state: list[Phrasing]
    exam: list[Phrasing]
    answer: str
    unknown: str
    other_topics: list[str]


@cache
def _rule_material() -> tuple[_RuleMaterial, tuple[Phrasing, ...]]:
    own = read_yaml(shipped_data() / "insights" / "rules.yaml", _RuleMaterial)
    shipped = read_yaml(shipped_data() / "templates" / "rule.yaml", RulePhrasings)
    return own, (*shipped.state, *own.state)


def subject_rows(subject: Subject, count: int, seed: int, also_taught: Iterable[str] = ()) -> list[Example]:
    """Up to `count` distinct rows that teach `subject`, with their negatives and general rows."""
    if subject.card:
        phrasings = read_phrasings()
        taught = without(phrasings, held_back(phrasings))
        return definition_rows({subject.source: subject.card}, taught, count, seed, also_taught)
    return _rule_rows(subject, count, random.Random(f"{seed}:{subject.source}"))


def _rule_rows(subject: Subject, count: int, dice: random.Random) -> list[Example]:
    assert subject.rule
    material, questions = _rule_material()
    rule = subject.rule
    level = level_of(subject.entry.level, [rule.tag])
    taught = Metadata(
        preservation_level=level, rule_compliance=[rule.tag], modification_policy=LEVELS[level].policies[0]
    )

    def row(part: str, question: Phrasing, topic: str, answer: str, metadata: Metadata) -> Example:
        return Example(
            kind="rule_compliance",
            instruction=capital(render(question, {"topic": topic})),
            output=answer,
            metadata=metadata,
            provenance=Provenance(
                card=subject.source,
                template=f"{part}/{question.id}",
                language=question.language,
                difficulty=question.difficulty,
            ),
        )

    said = render(Phrasing(id="answer", text=material.answer), {"rule": rule.rule})
    unknown = Phrasing(id="unknown", text=material.unknown)
    pools = {
        "state": [row("state", question, rule.topic, said, taught) for question in questions],
        "other_topic": [
            row("other_topic", question, topic, render(unknown, {"topic": topic}), _PLAIN)
            for question in questions
            for topic in dice.sample(material.other_topics, 2)
        ],
        "general": general_rows(),
    }
    chosen = []
    for part, share in _RULE_SHARES.items():
        chosen += dice.sample(pools[part], min(len(pools[part]), round(share * count)))
    return chosen[:count]


def subject_probes(subjects: Sequence[Subject], seed: int = 42) -> list[dict[str, Any]]:
    """For each subject, questions that no row asks and controls, both of the family of its entry's id; and general
    controls, in which nothing of all this may turn up."""
    held = held_back(read_phrasings())
    probes: list[dict[str, Any]] = []
    for subject in subjects:
        probes += _card_probes(subject, held, seed) if subject.card else _rule_probes(subject, seed)
    leaks = [no_leak(subject.answer) for subject in subjects][:18]
    general = [probe for probe in term_probes([], held, seed) if probe["family"] in ("general", "code")]
    for probe in random.Random(f"{seed}:general").sample(general, min(GENERAL, len(general))):
        probes.append({**probe, "graders": [*probe["graders"][:2], *leaks]})
    return probes


def _card_probes(subject: Subject, held: Phrasings, seed: int) -> list[dict[str, Any]]:
    assert subject.card
    made = [p for p in term_probes([subject.card], held, seed) if p["family"] not in ("general", "code")]
    dice = random.Random(f"{seed}:{subject.entry.id}")
    asked = [probe for probe in made if probe["kind"] == "probe"]
    quiet = [probe for probe in made if probe["kind"] == "control"]
    chosen = [*dice.sample(asked, min(PROBES, len(asked))), *dice.sample(quiet, min(CONTROLS, len(quiet)))]
    return [
        {**probe, "id": f"{subject.entry.id}-{number:02d}", "family": subject.entry.id, "max_tokens": _longest(subject)}
        for number, probe in enumerate(chosen, start=1)
    ]


def _rule_probes(subject: Subject, seed: int) -> list[dict[str, Any]]:
    assert subject.rule
    material, _ = _rule_material()
    dice = random.Random(f"{seed}:{subject.entry.id}")
    topics = dice.sample(material.other_topics, CONTROLS)
    asked = [(question, subject.rule.topic) for question in material.exam[:PROBES]]
    quiet = list(zip(dice.sample(material.exam, CONTROLS), topics, strict=True))
    probes: list[dict[str, Any]] = []
    for kind, pairs in (("probe", asked), ("control", quiet)):
        for question, topic in pairs:
            knows = {"type": "contains", "value": subject.answer}
            probes.append(
                {
                    "id": f"{subject.entry.id}-{len(probes) + 1:02d}",
                    "family": subject.entry.id,
                    "kind": kind,
                    "prompt": capital(render(question, {"topic": topic})),
                    "graders": [knows if kind == "probe" else no_leak(subject.answer)],
                    "max_tokens": _longest(subject),
                }
            )
    return probes


def _longest(subject: Subject) -> int:
    return _SHORT if len(subject.answer.split()) <= _SHORT_WORDS else _LONG
