"""Rows that repeat each other: exact and near duplicates, contradictions, and leaks across a split.

    prints = Prints()
    for line, row in …: prints.add(line, row)      # about 300 bytes a row stay in memory
    prints.exact(); prints.near(path); prints.contradictions()

Rows are the same when request and answer are, but for case, white space and a closing mark. They are near-duplicates
when the sets of their words and pairs of words have a Jaccard index of at least `NEAR`. MinHash signatures (rensa, 125
permutations) are cut into 25 bands of 5 (Leskovec et al., "Mining of Massive Datasets", 3.4): rows that agree in a band
are compared. So 99 % of pairs at 0.7 are found, without comparing all with all. The bands are sorted with numpy: the
indexes of rensa and datasketch find the same pairs, but return every pair of a large cluster, which for rows made from
one template is the square of their number (`benchmarks/validate.py` measures all three).
"""

import unicodedata
from array import array
from collections.abc import Iterator
from difflib import SequenceMatcher
from hashlib import blake2b
from itertools import pairwise
from pathlib import Path
from typing import Any
from zlib import crc32

from pydantic import BaseModel

from tools.data.examples import Example, messages, read_rows

NEAR = 0.7
BANDS, ROWS_A_BAND = 25, 5
SHOWN = 1000  # clusters that are read again, measured exactly and shown
_TEXTS = 100  # clusters of which the shared text is shown
_MEMBERS = 50  # members of one cluster that are read again
_BATCH = 1000
_DOUBT = 0.05  # an estimate may be so far below the truth; what is read again is measured exactly


class Duplicate(BaseModel):
    """Lines that say the same, how alike they are (1 is the same), and a piece of what they share."""

    lines: list[int]
    similarity: float
    kind: str
    text: str = ""


class Contradiction(BaseModel):
    """Lines that answer one question differently."""

    lines: list[int]


class Leak(BaseModel):
    """A held-out row that training has seen."""

    train_line: int
    valid_line: int
    similarity: float
    kind: str


class Prints:
    """Fingerprints of rows: a hash of the request, one of the answer, and (when asked for) a MinHash signature."""

    def __init__(self, signatures: bool = True) -> None:
        self._signing = signatures
        self.lines = array("Q")
        self.asked = array("Q")
        self.answered = array("Q")
        self._signatures: list[Any] = []
        self._words: list[list[str]] = []

    def add(self, line: int, row: Example) -> None:
        """Take one row."""
        asked, answer = _asked(row), row.answer
        self.lines.append(line)
        self.asked.append(_hash(_normal(asked)))
        self.answered.append(_hash(_normal(answer)))
        if self._signing:
            self._words.append(f"{asked}\n{answer}".casefold().split())
        if len(self._words) == _BATCH:
            self._sign()

    def _sign(self) -> None:
        if self._words:
            self._signatures.append(_signatures(self._words))
            self._words = []

    def signatures(self) -> Any:
        """The signatures of all rows so far, one numpy row each."""
        import numpy as np

        self._sign()
        self._signatures = [np.concatenate(self._signatures)]
        return self._signatures[0]

    def exact(self) -> Iterator[list[int]]:
        """The lines of rows whose request and answer are the same, a list for each group."""
        groups: dict[tuple[int, int], list[int]] = {}
        for row in self._repeated():
            groups.setdefault((self.asked[row], self.answered[row]), []).append(self.lines[row])
        yield from (lines for lines in groups.values() if len(lines) > 1)

    def contradictions(self) -> Iterator[list[int]]:
        """The lines of rows that ask the same and answer differently, a list for each question."""
        groups: dict[int, list[int]] = {}
        for row in self._repeated():
            groups.setdefault(self.asked[row], []).append(row)
        for rows in groups.values():
            if len({self.answered[row] for row in rows}) > 1:
                yield [self.lines[row] for row in rows]

    def _repeated(self) -> list[int]:
        """The rows whose request stands more than once, in their order."""
        import numpy as np

        asked = np.frombuffer(self.asked, dtype=np.uint64)
        _, where, times = np.unique(asked, return_inverse=True, return_counts=True)
        return [int(row) for row in np.flatnonzero(times[where] > 1)]

    def near(self) -> list[list[int]]:
        """Clusters of rows (their places, not their lines) that are nearly the same; exact ones count once."""
        import numpy as np

        if len(self.lines) < 2:
            return []
        both = np.frombuffer(self.asked, dtype=np.uint64) ^ (np.frombuffer(self.answered, dtype=np.uint64) << 1)
        _, first = np.unique(both, return_index=True)
        first.sort()
        signatures = self.signatures()
        if len(first) < len(signatures):
            signatures = signatures[first]
        return [[int(first[i]) for i in cluster] for cluster in _clusters(signatures)]


def near_duplicates(path: Path, prints: Prints) -> list[Duplicate]:
    """The near-duplicates of the file behind `prints`, the largest clusters first. Up to 1,000 of them are read again
    and measured exactly; the others are as the signatures estimate them."""
    clusters = sorted(([prints.lines[i] for i in c] for c in prints.near()), key=lambda lines: (-len(lines), lines))
    wanted = {line for lines in clusters[:SHOWN] for line in lines[:_MEMBERS]}
    rows = {line: row for line, row in read_rows(path, wanted) if isinstance(row, Example)} if wanted else {}
    found: list[Duplicate] = []
    for lines in clusters[:SHOWN]:
        words = {line: _words(rows[line]) for line in lines[:_MEMBERS]}
        for members, similarity in _confirmed(words):
            text = _shared(words[members[0]], words[members[1]]) if len(found) < _TEXTS else ""
            kept = members + (lines[_MEMBERS:] if members[0] == lines[0] else [])
            found.append(Duplicate(lines=kept, similarity=similarity, kind="near", text=text))
    return found + [Duplicate(lines=lines, similarity=NEAR, kind="near") for lines in clusters[SHOWN:]]


def exact_duplicates(path: Path, prints: Prints) -> list[Duplicate]:
    """The rows of `path` that stand more than once, with what they ask."""
    groups = list(prints.exact())
    wanted = {lines[0] for lines in groups[:_TEXTS]}
    texts = {line: row.question[:200] for line, row in read_rows(path, wanted) if isinstance(row, Example)}
    return [Duplicate(lines=lines, similarity=1.0, kind="exact", text=texts.get(lines[0], "")) for lines in groups]


def find_leaks(train: Path, valid: Path) -> list[Leak]:
    """Held-out rows that ask what training asks, or are near-duplicates of a row there; one leak a held-out row."""
    prints = Prints()
    sides = []
    for side in (train, valid):
        for line, row in read_rows(side):
            if isinstance(row, Example):
                prints.add(line, row)
        sides.append(len(prints.lines))
    trained = {prints.asked[i]: prints.lines[i] for i in reversed(range(sides[0]))}
    found: dict[int, Leak] = {}
    for i in range(sides[0], sides[1]):
        if prints.asked[i] in trained:
            seen_at, line = trained[prints.asked[i]], prints.lines[i]
            found[line] = Leak(train_line=seen_at, valid_line=line, similarity=1.0, kind="exact")
    pairs = []
    for cluster in prints.near():
        seen = [prints.lines[i] for i in cluster if i < sides[0]][:_MEMBERS]
        pairs += [(prints.lines[i], seen) for i in cluster if i >= sides[0] and prints.lines[i] not in found and seen]
    pairs = pairs[:SHOWN]
    mine = {line: row for line, row in read_rows(valid, {v for v, _ in pairs}) if isinstance(row, Example)}
    theirs = {line: row for line, row in read_rows(train, {t for _, s in pairs for t in s}) if isinstance(row, Example)}
    for line, seen in pairs:
        own = _shingles(_words(mine[line]))
        similarity, nearest = max((_jaccard(own, _shingles(_words(theirs[t]))), -t) for t in seen)
        if similarity >= NEAR:
            found[line] = Leak(train_line=-nearest, valid_line=line, similarity=round(similarity, 3), kind="near")
    return [found[line] for line in sorted(found)]


def _asked(row: Example) -> str:
    """All that stands before the answer."""
    return "\n".join(turn["content"] for turn in messages(row)[:-1]) if row.system or row.history else row.question


def _normal(text: str) -> str:
    """`text` without what makes no difference: case, white space, the forms of one character, a closing mark."""
    text = text if text.isascii() else unicodedata.normalize("NFKC", text)
    return " ".join(text.casefold().split()).rstrip(".!?: ") or text


def _hash(text: str) -> int:
    return int.from_bytes(blake2b(text.encode(), digest_size=8).digest(), "big")


def _words(row: Example) -> list[str]:
    return f"{_asked(row)}\n{row.answer}".casefold().split()


def _shingles(words: list[str]) -> set[Any]:
    """Words and pairs of words."""
    return {*words, *pairwise(words)}


def _jaccard(one: set[Any], other: set[Any]) -> float:
    shared = len(one & other)
    return shared / (len(one) + len(other) - shared)


def _signatures(batch: list[list[str]]) -> Any:
    """MinHash signatures of word lists: 16 bits of each minimum are enough to tell equal from different."""
    import numpy as np
    from rensa import RMinHash

    tokens, ends = [], [0]
    for said in batch:
        words = np.fromiter(map(crc32, map(str.encode, said)), np.uint64, len(said))
        pairs = (words[:-1] * np.uint64(0x9E3779B97F4A7C15)) ^ (words[1:] + np.uint64(0xD1B54A32D192ED03))
        tokens += [words, pairs]
        ends.append(ends[-1] + 2 * len(said) - 1)
    offsets = np.array(ends, np.uint64)
    matrix = RMinHash.digest_matrix_from_flat_token_hashes(np.concatenate(tokens), offsets, BANDS * ROWS_A_BAND, 42)
    return np.array(matrix.to_rows(), np.uint32).astype(np.uint16)


def _clusters(signatures: Any) -> list[list[int]]:
    """Rows joined by near neighbours. In each band equal rows are sorted together, and each is compared with the next
    four, so that even a million equal bands cost no more than four million comparisons."""
    import numpy as np

    count = len(signatures)
    labels = np.arange(count)
    for band in range(BANDS):
        keys = np.zeros(count, np.uint64)
        for column in range(band * ROWS_A_BAND, (band + 1) * ROWS_A_BAND):
            keys = (keys ^ signatures[:, column]) * np.uint64(0x100000001B3)
            keys ^= keys >> np.uint64(29)
        order = np.argsort(keys, kind="stable")
        keys = keys[order]
        for step in range(1, 5):
            same = np.flatnonzero(keys[step:] == keys[:-step])
            one, other = order[same], order[same + step]
            apart = labels[one] != labels[other]
            one, other = one[apart], other[apart]
            for i in range(0, len(one), 65536):
                left, right = one[i : i + 65536], other[i : i + 65536]
                alike = (signatures[left] == signatures[right]).mean(axis=1) >= NEAR - _DOUBT
                labels = _joined(labels, left[alike], right[alike])
    order = np.argsort(labels, kind="stable")
    starts = np.flatnonzero(np.diff(labels[order], prepend=-1))
    sizes = np.diff(np.append(starts, count))
    return [order[s : s + n].tolist() for s, n in zip(starts[sizes > 1], sizes[sizes > 1], strict=True)]


def _joined(labels: Any, one: Any, other: Any) -> Any:
    """`labels` with the clusters of each pair joined. A label is a row of its cluster that is its own label; the higher
    of two is hung on the lower, and then every row takes the label of its label, until nothing changes."""
    import numpy as np

    while True:
        left, right = labels[one], labels[other]
        apart = left != right
        if not apart.any():
            return labels
        left, right = left[apart], right[apart]
        np.minimum.at(labels, np.maximum(left, right), np.minimum(left, right))
        while not np.array_equal(further := labels[labels], labels):
            labels = further


def _confirmed(words: dict[int, list[str]]) -> list[tuple[list[int], float]]:
    """The groups among these rows whose members really are near another member, with their least similarity."""
    shingles = {line: _shingles(said) for line, said in words.items()}
    groups: list[tuple[list[int], float]] = []
    for line in words:
        joined, least, apart = [line], 1.0, []
        for members, similarity in groups:
            best = max(_jaccard(shingles[line], shingles[member]) for member in members[:8])
            if best >= NEAR:
                joined, least = members + joined, min(least, similarity, best)
            else:
                apart.append((members, similarity))
        groups = [*apart, (joined, least)]
    return [(sorted(members), round(least, 3)) for members, least in groups if len(members) > 1]


def _shared(one: list[str], other: list[str]) -> str:
    """The longest run of words that both have, among the first 120."""
    one, other = one[:120], other[:120]
    match = SequenceMatcher(None, one, other, autojunk=False).find_longest_match()
    text = " ".join(one[match.a : match.a + match.size])
    return text if len(text) <= 200 else f"{text[:199]}…"
