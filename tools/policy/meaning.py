"""How near the meaning of a changed text is, by an embedder that the caller passes in.

    similarity("A hold lapses by itself.", "A hold ends on its own.", embed)     # 0.8…

A text longer than the embedder reads is compared by paragraphs: each of the original's with the nearest of the
modified ones, and the least near counts, so that a paragraph that went missing shows.
"""

import re
from collections.abc import Callable
from itertools import pairwise

from tools.errors import InputError

Embed = Callable[[list[str]], list[list[float]]]

# The cosine from which two texts, or two pieces of code, count as saying the same. `benchmarks/policy.py` prints what
# the labelled pairs give at other thresholds, and docs/policies.md says why it is these. Code has the higher one: two
# pieces of one language share its words, and a rewriting keeps its names.
THRESHOLD = 0.6
CODE_THRESHOLD = 0.85
_PARAGRAPH = 700  # characters; the shipped embedder reads about 1000


def similarity(original: str, modified: str, embed: Embed, code: bool = False) -> float:
    """The least cosine between a paragraph of `original` and the nearest of `modified`; 1.0 for equal words."""
    one, other = _pieces(original, code), _pieces(modified, code)
    if one == other:
        return 1.0
    if not one or not other:
        return 0.0
    candidates = other if len(one) == len(other) == 1 else [*other, *(f"{a} {b}" for a, b in pairwise(other))]
    vectors = embed([*one, *candidates])
    firsts, seconds = vectors[: len(one)], vectors[len(one) :]
    return round(min(max(_dot(a, b) for b in seconds) for a in firsts), 4)


def _dot(a: list[float], b: list[float]) -> float:
    return sum(x * y for x, y in zip(a, b, strict=True))


def _pieces(text: str, code: bool) -> list[str]:
    """Paragraphs of bounded length; of code, its words: names taken apart, without punctuation."""
    if code:
        words = re.findall(r"[A-Z]?[a-z]+|[A-Z]+(?![a-z])|\d+", text)
        text = " ".join(word.lower() for word in words)
    found: list[str] = []
    for paragraph in re.split(r"\n\s*\n", text):
        flat = " ".join(paragraph.split())
        if found and len(found[-1]) + len(flat) < _PARAGRAPH // 3:
            found[-1] = f"{found[-1]} {flat}".strip()
        else:
            found += [flat[i : i + _PARAGRAPH] for i in range(0, len(flat), _PARAGRAPH)]
    return found


class Meaning:
    """The embedder that flexible parts are measured with, and the least similarity so far."""

    def __init__(self, embed: Embed | None) -> None:
        self.embed = embed
        self.least: float | None = None

    def problem(self, original: str, modified: str, code: bool = False) -> str:
        """Why the two do not mean the same; '' when they do.

        Raises:
            InputError: there is no embedder.
        """
        if self.embed is None:
            raise InputError(
                "A flexible part has changed, and no embedder was given to compare its meaning with.",
                "pass embed=tools.memory.embedder.embed, or a stricter level",
            )
        near = similarity(original, modified, self.embed, code)
        self.least = near if self.least is None else min(self.least, near)
        least = CODE_THRESHOLD if code else THRESHOLD
        if near >= least:
            return ""
        return f"the meaning is too far from the original's: cosine {near:.2f}, expected at least {least}"
