"""Preservation levels, modification policies and rule families: how far others may change an answer.

LEVELS["strict"].others_may               # 'change nothing'
stricter("flexible", "moderate")          # 'moderate'
level_of("flexible", ["security:x"])      # 'strict': some families are never anything else

The one definition of each: the generator, the validator, the checker, the resources and the client rules read it here.
"""

from collections.abc import Iterable
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


POLICIES: dict[ModificationPolicy, str] = {
    "preserve_exact": "keep every byte",
    "preserve_structure": "keep the syntax tree, or the words of prose; spacing and comments are free",
    "preserve_intent": "keep behaviour, public signatures, errors, constants and tagged definitions",
    "allow_style_changes": "whatever the language's usual formatter changes is free",
}

# From the strictest on.
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

# See `is_always_strict`.
ALWAYS_STRICT = ("security", "business")


def stricter(one: PreservationLevel, other: PreservationLevel) -> PreservationLevel:
    """The one of two levels that allows less."""
    return min(one, other, key=list(LEVELS).index)


def is_always_strict(rule: str) -> bool:
    """Whether what rests on the rule of this tag is strict, whatever a tag or a caller says."""
    return rule.partition(":")[0] in ALWAYS_STRICT


def level_of(level: PreservationLevel, rules: Iterable[str]) -> PreservationLevel:
    """The level that holds for a text of `level` that rests on `rules`."""
    return "strict" if any(map(is_always_strict, rules)) else level
