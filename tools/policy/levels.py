"""Preservation levels, modification policies and rule families: how far others may change an answer.

LEVELS["strict"].others_may    # 'change nothing'
"""

from typing import Literal

from pydantic import BaseModel

PreservationLevel = Literal["strict", "moderate", "flexible"]
ModificationPolicy = Literal["preserve_exact", "preserve_structure", "preserve_intent", "allow_style_changes"]


class Level(BaseModel):
    """One preservation level: what others may do, where it fits, and the policies that do not contradict it."""

    name: PreservationLevel
    others_may: str
    typical_for: str
    policies: list[ModificationPolicy]


LEVELS: dict[str, Level] = {
    "strict": Level(
        name="strict",
        others_may="change nothing",
        typical_for="definitions, security, business rules, core logic",
        policies=["preserve_exact"],
    ),
    "moderate": Level(
        name="moderate",
        others_may="format and comment; the logic stays",
        typical_for="most code",
        policies=["preserve_structure", "allow_style_changes"],
    ),
    "flexible": Level(
        name="flexible",
        others_may="refactor; the intent stays",
        typical_for="styling, examples, prose",
        policies=["preserve_intent", "allow_style_changes"],
    ),
}

RULE_FAMILIES: dict[str, str] = {
    "concept": "an idea with a meaning of its own here",
    "definition": "a domain term",
    "pattern": "a code or architecture pattern",
    "rule": "a project standard",
    "security": "never modified",
    "business": "kept exactly",
}
