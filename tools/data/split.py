"""Split rows 80/20 so that no phrasing stands on both sides.

    train, valid = split(rows, seed=42)
    train, valid = split_lessons(rows, seed=42)      # rows that cards say word for word, such as the core dataset
    kept_split(folder, manifest)                     # the split that a dataset has, while it is still one of its rows

Twins go to the same side. Of rows that templates made, those of one phrasing of one section are twins, and each kind
and section is split on its own, so both sides have the same mixture. Rows of lessons have no sections: there, rows of
one exchange are twins, and rows whose requests or answers are alike, and each kind is split on its own.
"""

import random
from collections import defaultdict
from collections.abc import Sequence
from pathlib import Path

from tools.data.datasets import Manifest, section
from tools.data.examples import Example, read_examples
from tools.data.measures import phrasing
from tools.data.similar import find_alike
from tools.errors import InputError
from tools.files import sha256

TOGETHER = 0.7  # rows of lessons at least this much alike (TF-IDF cosine) stay on one side
Sides = tuple[list[Example], list[Example]]


def split(rows: Sequence[Example], seed: int, share: float = 0.2) -> Sides:
    """Training and validation rows, in their old order.

    Args:
        share: the part of rows that goes to validation, as near as whole groups allow.

    Raises:
        InputError: no row can be held back, since all say one thing.
    """
    lessons = [index for index, row in enumerate(rows) if _of_lesson(row)]
    others = [index for index, row in enumerate(rows) if not _of_lesson(row)]
    valid = {lessons[i] for i in _alike_held_back([rows[i] for i in lessons], seed, share)}
    valid |= {others[i] for i in _phrased_held_back([rows[i] for i in others], seed, share)}
    # a handful of rows, each of a kind of its own: then all of them are split together
    valid = valid or _phrased_held_back(rows, seed, share, apart=False)
    if not valid:
        raise InputError(
            f"Expected rows of which a fifth can be held back, but all {len(rows)} come from one phrasing.",
            "add rows that ask for other things (add_examples), or generate from more cards",
        )
    return _sides(rows, valid)


def split_lessons(rows: Sequence[Example], seed: int, share: float = 0.2) -> Sides:
    """Training and validation rows: each kind on its own, and what belongs together on one side."""
    return _sides(rows, _alike_held_back(rows, seed, share))


def kept_split(folder: Path, manifest: Manifest) -> Sides | None:
    """The split of the dataset in `folder` when there is one, unchanged and of just the rows that are there now.

    What was held back stays so when a dataset is validated again, and what ships with a split keeps that.
    """
    parts = {folder / "train.jsonl": manifest.train_sha256, folder / "valid.jsonl": manifest.valid_sha256}
    if not manifest.valid_rows or not all(path.is_file() and sha256(path) == sha for path, sha in parts.items()):
        return None
    lines = [line for path in parts for line in path.read_bytes().splitlines()]
    if sorted(lines) != sorted((folder / "rows.jsonl").read_bytes().splitlines()):
        return None
    train, valid = (read_examples(path) for path in parts)
    return train, valid


def _of_lesson(row: Example) -> bool:
    """Whether the row was made from an exchange of a lesson, whose ids stand alone: no section before a slash."""
    return bool(row.provenance.template) and "/" not in row.provenance.template


def _phrased_held_back(rows: Sequence[Example], seed: int, share: float, apart: bool = True) -> set[int]:
    """The places of the rows to hold back, each kind and section on its own; all in one when not `apart`."""
    strata: dict[tuple[str, str], dict[str, list[int]]] = defaultdict(lambda: defaultdict(list))
    for index, row in enumerate(rows):
        phrased = row.provenance.template.partition("+")[0] or row.question.casefold()
        strata[(row.kind, section(row)) if apart else ("", "")][phrased].append(index)
    valid: set[int] = set()
    owed = 0.0
    for stratum in sorted(strata):
        groups = strata[stratum]
        names = sorted(groups)
        random.Random(f"{seed}:{stratum}").shuffle(names)
        owed += share * sum(len(groups[name]) for name in names)
        # the last group always stays in training, so that nothing is only ever tested
        for name in names[:-1]:
            if len(groups[name]) <= owed + 0.5:
                valid.update(groups[name])
                owed -= len(groups[name])
            if owed < 0.5:
                break
    return valid


def _alike_held_back(rows: Sequence[Example], seed: int, share: float) -> set[int]:
    """The places of the rows to hold back, each kind on its own; rows of one exchange, or alike, go together."""
    parent = list(range(len(rows)))

    def root(i: int) -> int:
        while parent[i] != i:
            parent[i] = parent[parent[i]]
            i = parent[i]
        return i

    first: dict[tuple[str, str], int] = {}
    for i, row in enumerate(rows):
        parent[root(i)] = root(first.setdefault(phrasing(row), i))
    for texts in ([row.question for row in rows], [row.answer for row in rows]):
        for one, other, _ in find_alike(texts, TOGETHER):
            parent[root(one)] = root(other)
    kinds: dict[str, dict[int, list[int]]] = defaultdict(lambda: defaultdict(list))
    for i in range(len(rows)):
        kinds[rows[root(i)].kind][root(i)].append(i)
    valid: set[int] = set()
    for kind, groups in sorted(kinds.items()):
        order = sorted(groups, key=lambda i: rows[i].id)
        random.Random(f"{seed}:{kind}").shuffle(order)
        wanted = share * sum(map(len, groups.values()))
        for group in order:
            if len(groups[group]) <= wanted + 0.5:
                valid.update(groups[group])
                wanted -= len(groups[group])
            if wanted < 0.5:
                break
    return valid


def _sides(rows: Sequence[Example], valid: set[int]) -> Sides:
    return (
        [row for index, row in enumerate(rows) if index not in valid],
        [row for index, row in enumerate(rows) if index in valid],
    )
