"""What a change is, and finding where two lists of words, lines or tokens differ.

    opcodes(["a", "b"], ["a", "c"])      # [(1, 2, 1, 2)]

Places are characters of the original and of the modified text, unless a name says bytes.
"""

import re
from collections.abc import Hashable, Sequence
from dataclasses import dataclass, replace
from difflib import SequenceMatcher
from typing import Literal

from tools.policy.facts import Fact
from tools.policy.levels import PreservationLevel
from tools.policy.tokens import Token

LONG = 1500  # tokens, words or lines in a changed stretch from which it is said as one change
ChangeKind = Literal[
    "content", "line_endings", "syntax", "structure", "words", "directive", "code", "tag",
    "signature", "error", "string", "constant", "number", "term", "negation", "meaning",
]  # fmt: skip


@dataclass(frozen=True)
class Change:
    """One change that a level forbids: `start` to `end` of the original became `other_start` to `other_end`."""

    kind: ChangeKind
    message: str
    start: int
    end: int
    other_start: int
    other_end: int

    def moved(self, by: int, other_by: int) -> "Change":
        """The same change in the texts that the two compared ones were cut from."""
        return replace(
            self,
            start=self.start + by,
            end=self.end + by,
            other_start=self.other_start + other_by,
            other_end=self.other_end + other_by,
        )


@dataclass(frozen=True)
class Span:
    """What one level holds for, in both texts; `exact`: at flexible, it is a tagged definition, whose words stay."""

    level: PreservationLevel
    place: tuple[int, int]
    other: tuple[int, int]
    exact: bool = False
    inner: tuple["Span", ...] = ()  # in Markdown: the tags inside fenced blocks, each closing code of its block


def opcodes(one: Sequence[Hashable], other: Sequence[Hashable]) -> list[tuple[int, int, int, int]]:
    """Where two lists differ, near differences as one."""
    start = 0
    while start < min(len(one), len(other)) and one[start] == other[start]:
        start += 1
    end = 0
    while end < min(len(one), len(other)) - start and one[-1 - end] == other[-1 - end]:
        end += 1
    a, b = one[start : len(one) - end], other[start : len(other) - end]
    if not a and not b:
        return []
    if len(a) > LONG or len(b) > LONG or not a or not b:
        return [(start, start + len(a), start, start + len(b))]
    found: list[tuple[int, int, int, int]] = []
    for kind, i, j, k, m in SequenceMatcher(None, a, b, autojunk=False).get_opcodes():
        if kind == "equal":
            continue
        if found and i + start - found[-1][1] <= 2:
            found[-1] = (found[-1][0], j + start, found[-1][2], m + start)
        else:
            found.append((i + start, j + start, k + start, m + start))
    return found


def stretches(
    kind: ChangeKind,
    one: Sequence[str],
    other: Sequence[str],
    spans: list[tuple[int, int]],
    length: int,
    other_spans: list[tuple[int, int]],
    other_length: int,
) -> list[Change]:
    """The changes between two lists of words or lines that stand at `spans`."""
    found = []
    for a, b, c, d in opcodes(one, other):
        was, now = " ".join(one[a:b]).strip(), " ".join(other[c:d]).strip()
        start = spans[a][0] if a < len(spans) else length
        other_start = other_spans[c][0] if c < len(other_spans) else other_length
        end = spans[b - 1][1] if b > a else start
        other_end = other_spans[d - 1][1] if d > c else other_start
        found.append(Change(kind, became(cut_short(was), cut_short(now)), start, end, other_start, other_end))
    return found


def reach(tokens: list[Token], first: int, last: int) -> tuple[int, int]:
    """The bytes from the first to the last of some tokens; the place where they would stand when there are none."""
    if last > first:
        return min(t.start for t in tokens[first:last]), max(t.end for t in tokens[first:last])
    place = tokens[first].start if first < len(tokens) else tokens[-1].end if tokens else 0
    return place, place


def became(was: str, now: str) -> str:
    if was and now:
        return f"{was!r} became {now!r}" if was != now else f"{was!r} has another place or structure"
    return f"{was!r} was removed" if was else f"{now!r} was added" if now else "white space or structure has changed"


def missing(fact: Fact) -> str:
    what = {"signature": "the public signature", "error": "the error", "string": "the string", "term": "the term",
            "constant": "the constant", "number": "the number", "negation": "the no in"}[fact.kind]  # fmt: skip
    if fact.value.endswith(" (new)"):
        return f"{what} {fact.name!r} is new"
    return f"{what} {cut_short(fact.value if fact.kind != 'negation' else fact.name)!r} was not kept"


def shown(data: bytes) -> str:
    return cut_short(" ".join(data.decode(errors="replace").split()))


def cut_short(text: str) -> str:
    return text if len(text) <= 80 else f"{text[:77]}…"


def cut(original: str, modified: str, span: Span) -> tuple[str, str]:
    return original[slice(*span.place)], modified[slice(*span.other)]


def newlines(text: str) -> list[str]:
    """Lines, all ending in `\\n`."""
    return re.sub(r"\r\n?", "\n", text).splitlines(keepends=True) if "\r" in text else text.splitlines(keepends=True)


def ends(text: str) -> str:
    kinds = {"\r\n": "CRLF", "\n": "LF", "\r": "CR"}
    found = {kinds[m] for m in re.findall(r"\r\n|\n|\r", text)}
    return " and ".join(sorted(found)) or "none"


def lines(text: str) -> tuple[list[tuple[int, int]], int]:
    """Where each line stands, and the length of all."""
    spans, place = [], 0
    for line in re.sub(r"\r(?!\n)", "\n", text).splitlines(keepends=True):
        spans.append((place, place + len(line)))
        place += len(line)
    return spans, len(text)


def byte(text: str, character: int) -> int:
    return len(text[:character].encode(errors="surrogatepass"))


def character(data: bytes, byte: int) -> int:
    return len(data[:byte].decode(errors="replace"))
