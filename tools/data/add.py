"""Rows from a teacher: an agent or a person adds examples of its own to a dataset.

    added = add_examples(workspace, "holds", [{"instruction": "…", "output": "…"}])

Each row is accepted or refused with the reason. A row that is there already changes nothing, so the same batch may be
sent again; a row that asks almost what another asks, or gives its long answer again, is accepted, and the other is
named. A dataset that does not exist is made. Its status falls back to draft: it has to be validated again before a
training.
"""

import hashlib
from collections import Counter
from pathlib import Path
from typing import Any, Literal

from pydantic import BaseModel

from tools.data.datasets import create, read_manifest, section, write_manifest
from tools.data.examples import Example, Provenance, parse_row, read_examples, write_examples
from tools.data.similar import find_earlier
from tools.data.validate import row_errors
from tools.errors import InputError
from tools.files import sha256
from tools.syntax import known_language
from tools.workspace import Workspace, check_name

MAX_ROWS = 500
LONG = 120  # characters from which on an answer is compared: short ones are alike by chance


class Outcome(BaseModel):
    """What became of one row of a batch. `near` is the id of a row whose question or long answer, as `alike` says, is
    almost the same."""

    index: int
    outcome: Literal["added", "known", "refused"]
    id: str = ""
    reason: str = ""
    near: str = ""
    alike: Literal["", "question", "answer"] = ""
    similarity: float = 0.0


class Added(BaseModel):
    """What became of a batch."""

    dataset: str
    rows: int
    outcomes: list[Outcome]

    def count(self, outcome: str) -> int:
        """How many rows had this outcome."""
        return sum(o.outcome == outcome for o in self.outcomes)


def add_examples(workspace: Workspace, name: str, batch: list[dict[str, Any]]) -> Added:
    """Add the good rows of `batch` to the dataset `name`.

    Raises:
        InputError: the batch is empty or too large, or the dataset's own rows have errors.
        LimitError: the disk is full; the dataset is as it was.
    """
    check_name(name, "dataset name")
    if not 1 <= len(batch) <= MAX_ROWS:
        raise InputError(f"Expected 1 to {MAX_ROWS} rows, got {len(batch)}.", "send them in batches")
    folder = workspace.datasets / name
    if not (folder / "dataset.json").is_file():
        fresh, outcomes = _sorted([], batch)
        if fresh:
            create(workspace, name, fresh, title=name, seed=None, sources=["added"], notes=[], terms={})
        return Added(dataset=name, rows=len(fresh), outcomes=outcomes)
    with workspace.lock("datasets"):
        known = read_examples(folder / "rows.jsonl")
        fresh, outcomes = _sorted(known, batch)
        if fresh:
            _append(folder, known, fresh)
    return Added(dataset=name, rows=len(known) + len(fresh), outcomes=outcomes)


def _append(folder: Path, known: list[Example], fresh: list[Example]) -> None:
    manifest = read_manifest(folder)
    # a draft first: were we killed between the two files, nobody trains on rows that were never validated
    manifest.status = "draft"
    write_manifest(folder, manifest)
    rows = [*known, *fresh]
    write_examples(folder / "rows.jsonl", rows)
    manifest.rows, manifest.rows_sha256 = len(rows), sha256(folder / "rows.jsonl")
    manifest.kinds = dict(Counter(row.kind for row in rows))
    manifest.sections = dict(Counter(section(row) for row in rows))
    write_manifest(folder, manifest)


def _sorted(known: list[Example], batch: list[dict[str, Any]]) -> tuple[list[Example], list[Outcome]]:
    """The rows that are new, and what became of each."""
    answers = {_normal(row.question): row for row in known}
    fresh: list[Example] = []
    outcomes: list[Outcome] = []
    for index, value in enumerate(batch):
        row = parse_row(value, index)
        problems = row if isinstance(row, list) else row_errors(index, row)
        if isinstance(row, list) or problems:
            reason = "; ".join(f"{p.field or 'row'}: {p.message}" for p in problems[:3])
            outcomes.append(Outcome(index=index, outcome="refused", reason=reason))
            continue
        same = answers.get(_normal(row.question))
        if same is not None and _normal(same.answer) == _normal(row.answer):
            outcomes.append(Outcome(index=index, outcome="known", id=same.id))
            continue
        if same is not None:
            reason = f"{same.id} asks the same and is answered differently: {same.answer[:160]!r}"
            outcomes.append(Outcome(index=index, outcome="refused", reason=reason))
            continue
        made = row.model_copy(
            update={
                "id": "add-" + hashlib.sha256(f"{row.question}\n{row.answer}".encode()).hexdigest()[:12],
                "provenance": _stamped(row),
            }
        )
        answers[_normal(row.question)] = made
        fresh.append(made)
        outcomes.append(Outcome(index=index, outcome="added", id=made.id))
    _name_near(known, fresh, outcomes)
    return fresh, outcomes


def _stamped(row: Example) -> Provenance:
    """Where an added row comes from; the language, difficulty and seed that its teacher gave stay with it."""
    told = row.provenance
    return told.model_copy(
        update={
            "card": "added",
            "template": f"added/{_normal(row.question)[:60]}",
            "generator": "",
            "language": known_language(told.language)[:30],
            "difficulty": told.difficulty.strip().casefold()[:30],
        }
    )


def _name_near(known: list[Example], fresh: list[Example], outcomes: list[Outcome]) -> None:
    """Name, for each new row, one before it that asks almost the same, or else answers at length almost the same."""
    by_id = {outcome.id: outcome for outcome in outcomes if outcome.outcome == "added"}

    def name(said: Literal["question", "answer"], old: list[Example], new: list[Example]) -> None:
        rows = [*old, *new]
        texts = [row.question if said == "question" else row.answer for row in rows]
        for i, j, similarity in find_earlier(texts, len(old)):
            outcome = by_id[rows[i].id]
            if not outcome.near:
                outcome.near, outcome.alike, outcome.similarity = rows[j].id, said, round(similarity, 3)

    name("question", known, fresh)
    name("answer", *([row for row in rows if len(row.answer) >= LONG] for rows in (known, fresh)))


def _normal(text: str) -> str:
    return " ".join(text.casefold().split())
