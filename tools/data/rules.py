"""Rows that teach the rules a user brings: stating them, mending what breaks them, approving what keeps them.

rows = rule_rows([Rule(tag="business:money_in_cents", rule="Amounts are whole cents", bad=…, good=…)], seed=42)
"""

import random
from collections.abc import Iterable

from pydantic import BaseModel, ConfigDict

from tools.data.cards import Phrasing, read_yaml
from tools.data.examples import Example, Metadata, Provenance
from tools.data.phrase import capital, render
from tools.data.terms import Rule
from tools.errors import InputError
from tools.policy.levels import LEVELS, level_of
from tools.settings import shipped_data
from tools.syntax import guess_language, known_language


class RulePhrasings(BaseModel):
    """How people ask about a rule, and how it is answered."""

    model_config = ConfigDict(extra="forbid")

    state: list[Phrasing]
    answers: list[Phrasing]
    correct: list[Phrasing]
    corrections: list[Phrasing]
    approve: list[Phrasing]
    approvals: list[Phrasing]


def rule_rows(rules: Iterable[Rule], seed: int) -> list[Example]:
    """Every distinct row that `rules` carry; the same rules and seed give the same rows.

    Raises:
        InputError: one tag has two rules.
    """
    phrasings = read_yaml(shipped_data() / "templates" / "rule.yaml", RulePhrasings)
    known: dict[str, Rule] = {}
    for rule in rules:
        if known.setdefault(rule.tag, rule).rule != rule.rule:
            raise InputError(
                f"The tag {rule.tag!r} has two rules: {known[rule.tag].rule!r} and {rule.rule!r}.", "keep one of them"
            )
    return [row for rule in known.values() for row in _rows(rule, phrasings, random.Random(f"{seed}:{rule.tag}"))]


def _rows(rule: Rule, phrasings: RulePhrasings, dice: random.Random) -> list[Example]:
    level = level_of("moderate", [rule.tag])
    metadata = Metadata(
        preservation_level=level,
        rule_compliance=[rule.tag],
        modification_policy=LEVELS[level].policies[0],
    )
    values = {
        "topic": rule.topic,
        "rule": capital(rule.rule),
        "rule_lower": rule.rule[:1].lower() + rule.rule[1:],
        "tag": rule.tag,
        "good": rule.good,
    }
    language = known_language(rule.language) or guess_language(rule.good) or "text"
    parts = [("state", phrasings.state, phrasings.answers, "")]
    if rule.bad:
        parts += [
            ("correct", phrasings.correct, phrasings.corrections, rule.bad),
            ("approve", phrasings.approve, phrasings.approvals, rule.good),
        ]
    rows = []
    for part, questions, answers, code in parts:
        for question in questions:
            answer = dice.choice(answers)
            rows.append(
                Example(
                    kind="rule_compliance",
                    instruction=capital(render(question, values)),
                    input=code,
                    output=capital(render(answer, values)),
                    metadata=metadata,
                    provenance=Provenance(
                        card=f"rules/{rule.tag}",
                        template=f"{part}/{question.id}+{answer.id}",
                        language=language if code else question.language,
                        difficulty=question.difficulty,
                    ),
                )
            )
    return rows
