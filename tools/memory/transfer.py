"""Memories as lines of JSON, out and in, with nothing lost; and all of them embedded anew.

    export_entries(workspace, Path("memory.jsonl"))
    import_entries(workspace, Path("memory.jsonl"))    # Imported(added=…, updated=…, unchanged=…)
    reindex(workspace)                                 # after a change of the embedding model, or of an index lost

A line is an entry as tools/memory/entries.py defines it. Vectors are not exported: they follow from the text.
"""

import json
from collections.abc import Callable
from pathlib import Path
from typing import Any

from pydantic import BaseModel

from tools.errors import InputError
from tools.files import write_text
from tools.memory import embedder, ledger
from tools.memory.embedder import embed
from tools.memory.entries import EVERYTHING, Entry, Filter, check_links, check_tags, check_text, entry_id, parsed
from tools.memory.index import index_of
from tools.memory.store import MAX_ENTRIES, MemoryStore
from tools.workspace import Workspace

_BATCH = 512
Progress = Callable[[int, int], None]


class Imported(BaseModel):
    """What became of the lines of an import."""

    added: int
    updated: int
    unchanged: int


def export_entries(workspace: Workspace, path: Path, chosen: Filter = EVERYTHING) -> int:
    """Write the entries that `chosen` lets through to `path`, oldest first. Returns how many."""
    lines: list[str] = []
    if index_of(workspace).exists():
        with MemoryStore(workspace)._open() as (db, _):
            lines = [json.dumps(e.model_dump(), ensure_ascii=False) + "\n" for e in ledger.select(db, chosen)[::-1]]
    write_text(path, lines)
    return len(lines)


def import_entries(workspace: Workspace, path: Path, progress: Progress = lambda done, of: None) -> Imported:
    """Take over the entries in `path`, every field as it stands. Of one that is known, the one updated last stays.

    Raises:
        InputError: the file cannot be read, or a line is no entry; then nothing is imported.
    """
    entries = list(_read(path).values())
    result = Imported(added=0, updated=0, unchanged=0)
    if not entries:
        return result
    store = MemoryStore(workspace)
    store._check_space()
    with store._open() as (db, index):
        known = ledger.read(db, [entry.id for entry in entries])
        store._check_room(ledger.count(db) + len(entries) - len(known) - 1)
        later = [e for e in entries if e.id in known and e.updated > known[e.id].updated]
        fresh = [e for e in entries if e.id not in known]
        with ledger.transaction(db):
            ledger.put(db, later, None)
        for begin in range(0, len(fresh), _BATCH):
            batch = fresh[begin : begin + _BATCH]
            vectors = embed([entry.text for entry in batch])
            with ledger.transaction(db):
                ledger.put(db, batch, vectors)
            progress(begin + len(batch), len(fresh))
        index.catch_up(db, everything=True)
    result.added, result.updated = len(fresh), len(later)
    result.unchanged = len(entries) - len(fresh) - len(later)
    return result


def reindex(workspace: Workspace, progress: Progress = lambda done, of: None) -> int:
    """Embed every text anew, and make Chroma's index from that. Returns the number of entries.

    When it is interrupted, the store is as it was, or is refused until reindex is called again.
    """
    index = index_of(workspace)
    if not index.exists():
        return 0
    with ledger.ledger(index.ledger) as db:
        if not ledger.meta(db, "model") or workspace.settings.memory_url:
            index.pull_everything(db)
        texts: dict[str, str] = dict(db.execute("SELECT id, text FROM entries").fetchall())
        ids = list(texts)
        with ledger.transaction(db):
            for begin in range(0, len(ids), _BATCH):
                batch = ids[begin : begin + _BATCH]
                rows = zip(_bytes(embed([texts[id] for id in batch])), batch, strict=True)
                db.executemany("UPDATE entries SET vector = ?, waiting = 1 WHERE id = ?", rows)
                progress(begin + len(batch), len(ids))
            ledger.note(db, model=embedder.MODEL, dimensions=embedder.DIMENSIONS)
        index.reset(db)
        index.catch_up(db, everything=True)
    return len(ids)


def _bytes(vectors: list[list[float]]) -> list[bytes]:
    import numpy as np

    return [np.asarray(vector, np.float32).tobytes() for vector in vectors]


def _read(path: Path) -> dict[str, Entry]:
    """The entries in `path` by their ids; of one that stands there twice, the one updated last."""
    entries: dict[str, Entry] = {}
    try:
        lines = path.read_text(encoding="utf-8").split("\n")
    except (OSError, UnicodeDecodeError) as error:
        raise InputError(f"Expected a JSONL file of memories in {path}: {error}", "name one of `export`") from error
    for number, line in enumerate(lines, start=1):
        if not line.strip():
            continue
        try:
            entry = _entry(json.loads(line))
        except (ValueError, TypeError) as error:
            raise InputError(f"Line {number} of {path} is no JSON object: {error}", "mend the line") from error
        except InputError as error:
            raise InputError(f"Line {number} of {path}: {error.message}", error.next_step) from error
        if entry.id not in entries or entries[entry.id].updated < entry.updated:
            entries[entry.id] = entry
    if len(entries) > MAX_ENTRIES:
        raise InputError(f"{path} holds {len(entries)} entries, more than {MAX_ENTRIES} fit.", "import a part of them")
    return entries


def _entry(values: dict[str, Any]) -> Entry:
    entry = parsed(Entry, {key: value for key, value in dict(values).items() if key != "forgotten"})
    check_text(entry.text, "text", 8000)
    check_text(entry.source, "source", 200)
    check_tags(entry.tags)
    check_links(entry.examples)
    check_links(entry.runs)
    expected = entry_id(entry.kind, entry.text)
    if entry.id != expected:
        raise InputError(
            f"Expected the id {expected}, which follows from kind and text; got {entry.id[:80]!r}.",
            "correct the id, or leave kind and text as they were exported",
        )
    return entry
