"""Corrections in what a user says, and which of them were made three times.

    repeated(["grams, not kilograms", "again: grams, not kg", "grams instead of kg, please"])    # [('grams', 'kg', 3)]

A correction names what is right and what is wrong: "A, not B", "A instead of B", "not B but A", "don't use B, use A".
One that comes once is about the task at hand; the third time it is about the project.
"""

import re
from collections import defaultdict
from collections.abc import Sequence

OFTEN = 3

_SENTENCE = re.compile(r"(?<=[.!?])\s+|\n+|(?<=:)\s+")
_NOT = re.compile(
    r"^(?P<right>.+?)[,;]?\s+(?:(?:and\s+)?not|instead\s+of|rather\s+than)\s+(?P<wrong>.+)$", re.IGNORECASE
)
_DONT = re.compile(
    r"^.*?\b(?:don't|do\s+not|not)\s+(?:use\s+)?(?P<wrong>[^,;]+?)(?:,|;|\s+but)\s+(?:use\s+|but\s+)?(?P<right>.+)$",
    re.IGNORECASE,
)
_FILLINGS = """
a again always an and are as at be but called change column correct field file function here i in is it it's its
just leave make means must need no now of ok okay once one please prefer put raise returns said same should so still
that that's the then there they this time to use uses want was we with write you third second
"""
_FILLING = frozenset(_FILLINGS.split())
_WORD = re.compile(r"[\w$@/-]+(?:[.][\w$-]+)*(?:\(\w*\))?")


def repeated(turns: Sequence[str]) -> list[tuple[str, str, int]]:
    """(right, wrong, times) for each correction that was made in at least three turns."""
    made: dict[str, list[tuple[int, str]]] = defaultdict(list)
    shown: dict[str, str] = {}
    for number, turn in enumerate(turns):
        for right, wrong in _corrections(turn):
            made[right.casefold()].append((number, wrong))
            shown.setdefault(right.casefold(), right)
    found = []
    for key, times in made.items():
        count = len({number for number, _ in times})
        wrongs = [wrong for _, wrong in times]
        if count >= OFTEN:
            found.append((shown[key], max(wrongs, key=wrongs.count), count))
    return found


def _corrections(turn: str) -> list[tuple[str, str]]:
    """(right, wrong), a word each, for the corrections in one turn."""
    found = []
    for sentence in _SENTENCE.split(turn):
        match = _DONT.match(sentence) if re.match(r"(?i).*\b(?:don't|do not)\b", sentence) else None
        match = match or _NOT.match(sentence)
        if match is None:
            continue
        right, wrong = _words(match["right"]), _words(match["wrong"])
        if right and wrong and right[-1].casefold() != wrong[0].casefold():
            found.append((right[-1], wrong[0]))
    return found


def _words(text: str) -> list[str]:
    return [word for word in _WORD.findall(text) if word.casefold() not in _FILLING and word.casefold() != "s"]
