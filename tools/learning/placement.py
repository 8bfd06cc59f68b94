"""What belongs into the weights of a model, and what into memory, from where it is looked up.

    place(entry)                 # Placement(where='weights', why='a rule, short and stable')
    place(entry, changed=2)      # Placement(where='memory', why='it has been changed 2 times')

Weights are for what is stable, small and tells how to work: definitions, rules, patterns, corrections. A model says it
without being given it, and a change costs a training. Memory is for what is volatile, large or often edited: it holds
at once, is quoted exactly, and a change costs nothing. docs/memory.md has the rule in full.
"""

import re
from typing import Literal

from pydantic import BaseModel, Field

from tools.memory.entries import Entry

LONGEST = 400  # characters that a small model can be expected to say back
MOST_CHANGES = 2  # how often a text may have been replaced before it counts as often edited

# Words and forms that say: this will be different before long.
_VOLATILE = re.compile(
    r"\b(?:currently|at\s+the\s+moment|right\s+now|for\s+now|for\s+the\s+time\s+being|temporar(?:y|ily)|today|tonight|tomorrow|"
    r"yesterday|this\s+(?:week|month|quarter|sprint|year)|next\s+(?:week|month|sprint)|until\s+(?:further\s+notice|\w+day|"
    r"\d|january|february|march|april|may|june|july|august|september|october|november|december)|latest|still\s+open)\b|"
    r"\b20\d\d-\d\d(?:-\d\d)?\b|\bv?\d+\.\d+\.\d+\b|https?://|\b\d{1,3}(?:\.\d{1,3}){3}\b|\b[0-9a-f]{7,40}\b(?<=[a-f])",
    re.IGNORECASE,
)
_LINES = 6  # a table, a schema, a listing: to be quoted, not learned


class Placement(BaseModel):
    """Where an entry belongs, and why."""

    where: Literal["weights", "memory"]
    why: str = Field(description="the first reason that decided")


def place(entry: Entry, changed: int = 0) -> Placement:
    """Where `entry` belongs.

    Args:
        changed: how many earlier texts it replaced, one after the other (`MemoryStore.changes`).
    """
    for reason in (
        entry.superseded_by and f"{entry.superseded_by} contradicts it and holds",
        entry.kind == "run_note" and "a note on one run is looked up, not known by heart",
        entry.kind == "fact" and "a fact is looked up; what is to be taught is a definition, rule, pattern or insight",
        changed >= MOST_CHANGES and f"it has been changed {changed} times, and would be again after a training",
        len(entry.text) > LONGEST and f"{len(entry.text)} characters are more than the {LONGEST} that weights keep",
        entry.text.count("\n") >= _LINES and "a listing is quoted, not learned",
        (found := _VOLATILE.search(entry.text)) and f"{found[0]!r} says that it will change",
    ):
        if reason:
            return Placement(where="memory", why=str(reason))
    return Placement(where="weights", why=f"{_article(entry.kind)} {entry.kind}, short and stable")


def _article(word: str) -> str:
    return "an" if word[0] in "aeiou" else "a"
