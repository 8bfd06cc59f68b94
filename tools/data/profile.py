"""What the rows of a file are like as a whole: lengths, completeness, diversity, balance.

    profile = Profile()
    for row in …: profile.add(row)       # some 40 bytes a row stay in memory
    profile.figures()

4-grams are of words and signs in lower case, so that prose and code count alike. Distinct/total is exact up to a
million distinct ones; beyond that it is estimated from the million smallest hashes (Bar-Yossef et al. 2002), within
0.3 %. Shares are of all rows, from 0 to 1; but those of `neighbours` (TF-IDF, see `similar`) are of up to 3,500 rows,
drawn at random where there are more, so that of a larger file they say less than all with all would.
"""

import random
import re
import zlib
from array import array
from collections import Counter
from typing import Any

from tools.data.datasets import section
from tools.data.examples import Example
from tools.data.similar import nearest, token_hashes
from tools.syntax import blocks, known_language

_WRITTEN = re.compile(r"<tool:fs\.write path='[^']*\w\.([A-Za-z]\w*)'")
_KEPT = 1_000_000
_TALLIED = 200_000
_BATCH = 1000
_LISTED = 50
_SAMPLED = 3500  # rows that are compared with each other: as many as the core dataset may have
_COMPARED = 2000  # words and signs of each of their texts
_NAMED = 10_000  # languages and sections that are told apart


class Profile:
    """Figures over rows that pass by once."""

    def __init__(self) -> None:
        self.rows = 0
        self._balance: dict[str, Counter[str]] = {name: Counter() for name in ("kinds", "levels", "languages")}
        self._sections: Counter[str] = Counter()
        self._filled: Counter[str] = Counter()
        self.tags: set[str] = set()  # rule tags of metadata, up to ten thousand
        self._lengths = {name: array("I") for name in ("instruction", "input", "output")}
        self._openings = _Commonest()
        self._templates = _Commonest()
        self._cards = _Commonest()
        self._grams = _Distinct()
        self._sample: list[tuple[Any, Any]] = []  # of up to 3,500 rows the hashes of the question and of the answer
        self._dice = random.Random(42)
        self._packer = zlib.compressobj(6, zlib.DEFLATED, 31)  # gzip -6
        self._plain = self._packed = 0

    def add(self, row: Example) -> None:
        """Take one row."""
        self.rows += 1
        answer = row.answer
        provenance = row.provenance
        self._balance["kinds"][row.kind] += 1
        self._balance["levels"][row.metadata.preservation_level] += 1
        for counts, name in ((self._balance["languages"], language_of(row)), (self._sections, section(row))):
            if name in counts or len(counts) < _NAMED:
                counts[name] += 1
        if len(self.tags) < _NAMED:
            self.tags.update(row.metadata.rule_compliance)
        for part, text in (("instruction", row.instruction), ("input", row.input), ("output", answer)):
            self._lengths[part].append(len(text))
        self._filled.update(
            name
            for name, value in (
                ("id", row.id),
                ("input", row.input),
                ("system", row.system),
                ("history", row.history),
                ("rule_compliance", row.metadata.rule_compliance),
                ("card", provenance.card),
                ("language", provenance.language),
            )
            if value
        )
        words = answer.split()
        self._openings.add(" ".join(words[:3]))
        if provenance.template:
            self._templates.add(f"{provenance.card}: {provenance.template}")
        if provenance.card:
            self._cards.add(provenance.card)
        hashes = token_hashes(answer)
        self._grams.add(hashes)
        self._draw(row, hashes)
        data = (answer + "\n").encode()
        self._plain += len(data)
        self._packed += len(self._packer.compress(data))

    def _draw(self, row: Example, hashes: Any) -> None:
        """Keep the row in the sample so that each row that passed has the same chance (Vitter 1985, algorithm R)."""
        place = self.rows - 1 if self.rows <= _SAMPLED else self._dice.randrange(self.rows)
        if place < _SAMPLED:
            kept = token_hashes(row.question)[:_COMPARED].copy(), hashes[:_COMPARED].copy()
            self._sample[place : place + 1] = [kept]

    def _neighbours(self) -> dict[str, float]:
        """The shares of rows whose question, or whose answer, is like another's."""
        asked, answered = (nearest(texts, 0.8) for texts in zip(*self._sample, strict=True))
        return {
            "rows": len(self._sample),
            "prompts_above_0.9": round(float((asked > 0.9).mean()), 4),
            "outputs_above_0.9": round(float((answered > 0.9).mean()), 4),
            "outputs_above_0.8": round(float((answered > 0.8).mean()), 4),
        }

    def figures(self) -> dict[str, Any]:
        """Everything that was measured; {} without rows."""
        if not self.rows:
            return {}
        packed = self._packed + len(self._packer.copy().flush())
        distinct, total = self._grams.result()
        return {
            **{name: dict(counts.most_common(_LISTED)) for name, counts in self._balance.items()},
            "sections": dict(self._sections.most_common(_LISTED)),
            "instruction_characters": _spread(self._lengths["instruction"]),
            "input_characters": _spread(self._lengths["input"]),
            "output_characters": _spread(self._lengths["output"]),
            "output_histogram": _histogram(self._lengths["output"]),
            "completeness": {name: round(n / self.rows, 4) for name, n in sorted(self._filled.items())},
            "distinct_4grams": round(distinct / total, 4) if total else 1.0,
            "gzip_ratio": round(self._plain / packed, 3),
            "neighbours": self._neighbours(),
            "commonest_opening": self._openings.result(self.rows),
            "largest_template": self._templates.result(self.rows),
            "largest_card": self._cards.result(self.rows),
        }


class _Commonest:
    """The commonest text and its share. Texts are counted by hash; the first 200,000 different ones are."""

    def __init__(self) -> None:
        self._counts: dict[int, int] = {}
        self._best = (0, "")

    def add(self, text: str) -> None:
        key = hash(text)
        count = self._counts.get(key, 0) + 1
        if count > 1 or len(self._counts) < _TALLIED:
            self._counts[key] = count
            if count > self._best[0]:
                self._best = (count, text)

    def result(self, rows: int) -> dict[str, Any]:
        times, text = self._best
        return {"text": text[:100], "rows": times, "share": round(times / rows, 4)}


class _Distinct:
    """How many different 4-grams of words there are, and how many in all."""

    def __init__(self) -> None:
        self._total = 0
        self._pending: list[Any] = []
        self._smallest: Any = None
        self._full = False

    def add(self, hashes: Any) -> None:
        self._pending.append(hashes)
        if len(self._pending) == _BATCH:
            self._merge()

    def _merge(self) -> None:
        import numpy as np

        sizes = np.array([len(hashes) for hashes in self._pending], np.int64)
        hashes = np.concatenate(self._pending).astype(np.uint64)
        self._pending = []
        grams = np.zeros(max(0, len(hashes) - 3), np.uint64)
        for place in range(4 if len(grams) else 0):
            grams = (grams ^ hashes[place : place + len(grams)]) * np.uint64(0x9E3779B97F4A7C15)
            grams ^= grams >> np.uint64(32)
        within = np.ones(len(grams), bool)
        for end in np.cumsum(sizes)[:-1]:  # no 4-gram reaches from one answer into the next
            within[max(0, end - 3) : end] = False
        grams = grams[within]
        self._total += len(grams)
        if self._smallest is not None:
            if self._full:
                grams = grams[grams < self._smallest[-1]]
            grams = np.concatenate([self._smallest, grams])
        grams.sort()
        grams = grams[np.diff(grams, prepend=~grams[:1]) != 0]
        self._full = self._full or len(grams) > _KEPT
        self._smallest = grams[:_KEPT].copy()

    def result(self) -> tuple[float, int]:
        if self._pending:
            self._merge()
        if self._smallest is None or not self._full:
            return (0 if self._smallest is None else len(self._smallest)), self._total
        return (_KEPT - 1) / (float(self._smallest[-1]) / 2**64), self._total


def language_of(row: Example) -> str:
    """The language of the code that the answer holds, in its first fenced block or else in a file that it writes;
    `text` without any. What a card says of its language is not asked: many of its answers are prose."""
    text = row.text
    named = [block.language for block in blocks(text)] if "```" in text or "~~~" in text else []
    named += [known_language(suffix) for suffix in _WRITTEN.findall(text)]
    return next((language for language in named if language not in ("", "markdown")), "text")[:30]


def _spread(lengths: "array[int]") -> dict[str, int]:
    ordered = sorted(lengths)

    def at(share: float) -> int:
        return ordered[round(share * (len(ordered) - 1))]

    return {"min": ordered[0], "median": at(0.5), "p95": at(0.95), "max": ordered[-1]}


def _histogram(lengths: "array[int]") -> list[dict[str, int]]:
    """How many answers have up to so many characters, by powers of two."""
    counts = Counter(max(4, (length - 1).bit_length()) for length in lengths)
    return [{"up_to": 2**power, "rows": counts[power]} for power in range(min(counts), max(counts) + 1)]
