"""A dataset from memory: rows of approved insights with their probes, mixed with rows of what was learned before.

    manifest = generate_from_memory(workspace, count=400, replay=0.3)
    manifest.sources      # ['memory/mem-…', …]: what it teaches

What waits to be taught is what holds (approved, not contradicted) and belongs into weights (`placement`). An adapter is
trained from the base anew each time, so what earlier trainings taught has to come along, or it is lost: a share of the
rows (`replay`, recorded in the manifest) is of verified insights, taken from the datasets they were taught from or else
made again, and of the dataset behind the model that answers now.
"""

import random
from collections.abc import Sequence

from tools.data.cards import read_phrasings
from tools.data.datasets import GENERATOR, Manifest, create, shipped_material
from tools.data.examples import Example, read_rows
from tools.data.held_back import fair
from tools.errors import InputError, NotFoundError
from tools.export.promotion import promoted
from tools.files import read_json
from tools.learning.placement import place
from tools.learning.rows import subject_probes, subject_rows
from tools.learning.subjects import Subject, subjects
from tools.memory.entries import MAX_LINKS, Entry
from tools.memory.kinds import EntryKind
from tools.memory.store import MAX_PAGE, MemoryStore
from tools.workspace import Workspace

REPLAY = 0.3  # the share of rows that belongs to what was learned before
PREFIX = "memory/"
TAUGHT: tuple[EntryKind, ...] = ("definition", "rule", "pattern", "correction", "insight")


def waiting(workspace: Workspace) -> list[Entry]:
    """The insights that are to be taught: they hold, belong into weights, and no model is known to know them."""
    memory = MemoryStore(workspace)
    changes = memory.changes()
    held = _all(memory, ["approved", "trained", "verified"])
    return [e for e in held if place(e, changes.get(e.id, 0)).where == "weights"]


def verified(workspace: Workspace) -> list[Entry]:
    """The insights that a model answered right and that are archived for that."""
    archived = _all(MemoryStore(workspace), ["archived"])
    return [entry for entry in archived if entry.verified_by and not entry.superseded_by]


def taught_kinds(*statuses: str) -> dict[str, list[str]]:
    """A filter for the entries that may be taught and have one of `statuses`."""
    return {"statuses": list(statuses), "kinds": list(TAUGHT)}


def _all(memory: MemoryStore, statuses: list[str]) -> list[Entry]:
    found: list[Entry] = []
    while page := memory.entries(MAX_PAGE, len(found), chosen=taught_kinds(*statuses)):
        found += page
    return sorted(found, key=lambda entry: (entry.created, entry.id))


def generate_from_memory(
    workspace: Workspace, count: int = 400, seed: int = 42, name: str | None = None, replay: float = REPLAY
) -> Manifest:
    """Write a draft dataset of up to `count` rows that teaches what waits, each insight by its weight, with probes.

    Args:
        replay: the share of rows, from 0 to 0.9, for what was learned before; less when there is less.

    Raises:
        InputError: nothing waits to be taught, or an argument is out of range.
        ConflictError: the name is taken by other rows.
    """
    if not 10 <= count <= 20_000 or not 0 <= replay <= 0.9:
        raise InputError(
            f"Expected a count of 10 to 20000 rows and a replay share of 0 to 0.9; got {count} and {replay}.",
            "ask for about 100 rows an insight, and a replay share of 0.3",
        )
    phrasings = read_phrasings()
    new, notes = subjects(waiting(workspace), phrasings)
    if not new:
        raise InputError(
            "Nothing in memory waits to be taught: no approved definition, rule, pattern, correction or insight that "
            "is short and stable.",
            "remember some, approve pending ones (query_memory(status='pending')), or read loop://state",
        )
    old, _ = subjects(verified(workspace), phrasings)
    spellings = [one.card.term for one in [*new, *old] if one.card]
    earlier = _unique(_replayed(workspace, old, spellings, round(replay * count), seed))
    rows = _unique([*earlier, *_by_weight(new, spellings, count - len(earlier), seed)])
    random.Random(f"{seed}:order").shuffle(rows)
    width = len(str(len(rows)))
    rows = [
        row.model_copy(
            update={
                "id": f"row-{number:0{width}d}",
                "provenance": row.provenance.model_copy(update={"generator": GENERATOR, "seed": seed}),
            }
        )
        for number, row in enumerate(rows, start=1)
    ]
    probes, near = fair(subject_probes([*new, *old], seed), [row.question for row in rows])
    if near:
        notes.append(f"{near} probes came too near to rows and were left out.")
    if len(rows) < 0.95 * count:  # a few fewer are general rows that two insights share
        notes.append(
            f"What waits in memory carries {len(rows)} distinct rows, not the {count} asked for; "
            "remember more, or add rows of your own rather than repeats."
        )
    if len(rows) < 60 * len(new):
        notes.append(f"{len(rows)} rows are few for {len(new)} insights; about 100 each teach them.")
    manifest = create(
        workspace,
        name,
        rows,
        title="insights",
        seed=seed,
        sources=[one.source for one in new],
        notes=notes,
        terms={one.card.term: one.card.meaning for one in [*new, *old] if one.card},
        probes=probes,
        replay_share=replay,
        replayed=len(earlier),
        material=shipped_material([], ["definition", "general", "rule"]),
    )
    _link(workspace, new, rows, manifest.name)
    return manifest


def taught_by(manifest: Manifest) -> list[str]:
    """The ids of the insights that a dataset was made to teach."""
    return [source.removeprefix(PREFIX) for source in manifest.sources if source.startswith(PREFIX)]


def _by_weight(new: Sequence[Subject], spellings: list[str], count: int, seed: int) -> list[Example]:
    """Rows of each subject, as many as its weight says."""
    whole = sum(one.weight for one in new)
    rows: list[Example] = []
    for number, one in enumerate(new):
        rows += subject_rows(one, round(count * one.weight / whole), seed + number, spellings)
    return rows


def _replayed(
    workspace: Workspace, old: Sequence[Subject], spellings: list[str], count: int, seed: int
) -> list[Example]:
    """Up to `count` rows of what was learned before: as many of each verified insight, and of the promoted model's
    dataset, as of the others."""
    dice = random.Random(f"{seed}:replay")
    pools = [_earlier_rows(workspace, one) or subject_rows(one, 100, seed, spellings) for one in old]
    pools.append(_promoted_rows(workspace))
    for pool in pools:
        dice.shuffle(pool)
    rows: list[Example] = []
    while len(rows) < count and any(pools):
        for pool in pools:
            if pool and len(rows) < count:
                rows.append(pool.pop())
    return rows


def _earlier_rows(workspace: Workspace, one: Subject) -> list[Example]:
    """The rows that taught a verified insight, from the last dataset that is still there."""
    for link in reversed(one.entry.examples):
        name, _, _ = link.partition("/")
        try:
            folder = workspace.dataset(name)
        except (NotFoundError, InputError):
            continue
        rows = [row for _, row in read_rows(folder / "rows.jsonl") if isinstance(row, Example)]
        if found := [row for row in rows if row.provenance.card == one.source]:
            return found
    return []


def _promoted_rows(workspace: Workspace) -> list[Example]:
    """The rows behind the model that answers now, but those that come from memory."""
    try:
        made_from = read_json(workspace.model(promoted(workspace) or "none") / "manifest.json")["made_from"]
        folder = workspace.dataset(made_from["dataset"])
    except (NotFoundError, InputError):
        return []
    rows = [row for _, row in read_rows(folder / "rows.jsonl") if isinstance(row, Example)]
    return [row for row in rows if not row.provenance.card.startswith((PREFIX, "general"))]


def _link(workspace: Workspace, new: Sequence[Subject], rows: list[Example], dataset: str) -> None:
    """Let each entry name the rows that were made from it: the newest, as many as an entry has room for."""
    memory = MemoryStore(workspace)
    for one in new:
        made = [f"{dataset}/{row.id}" for row in rows if row.provenance.card == one.source]
        kept = [link for link in one.entry.examples if link not in made]
        memory.change(one.entry.id, examples=[*kept, *made][-MAX_LINKS:])


def _unique(rows: Sequence[Example]) -> list[Example]:
    """`rows` without those that ask what an earlier one asks."""
    return list({row.question.casefold(): row for row in reversed(rows)}.values())[::-1]
