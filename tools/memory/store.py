"""Semantic memory: what the agent was told or found out, found again by its meaning and its words.

    memory = MemoryStore(Workspace.open(Settings()))
    memory.remember("Amounts are kept in cents.", kind="rule", tags=["business:money_in_cents"], source="user")
    memory.query("how do we store prices?")[0].text
    memory.forget([id])      # into memory/archive.jsonl first

Entries live in the ledger (tools/memory/ledger.py), an SQLite file that holds as soon as a call returns; Chroma is the
index over their vectors (tools/memory/index.py). Any number of threads and processes may use one store at once.
"""

import json
import os
from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from typing import Any

from tools.errors import InputError, LimitError, NotFoundError
from tools.files import require_space
from tools.memory import embedder, ledger
from tools.memory.conflicts import compare, newer_wins
from tools.memory.embedder import embed
from tools.memory.entries import (
    EVERYTHING,
    MAX_CHARACTERS,
    MAX_TAGS,
    Entry,
    Filter,
    check_between,
    check_text,
    is_id,
    is_user,
    new_entry,
    now,
    parsed,
    unique,
)
from tools.memory.index import Index, index_of
from tools.memory.kept import Alike, Conflict, Kept, StoreInfo
from tools.memory.kinds import EntryKind
from tools.memory.search import Found, Hit, Ways, nearest, search
from tools.workspace import Workspace

MAX_ENTRIES = 200_000
MAX_HITS = 50
MAX_PAGE = 1000
MAX_TOKENS = 100_000

_WRITE_BYTES = 10_000_000  # an entry takes a few KB; now and then Chroma writes its index anew
_COMPARED = 8  # of the nearest entries, those that a new one is compared with


class MemoryStore:
    """The memory of a workspace; it may be shared by threads."""

    def __init__(self, workspace: Workspace) -> None:
        self._workspace = workspace
        self._path = workspace.memory

    def remember(
        self,
        text: str,
        kind: EntryKind = "fact",
        tags: Sequence[str] = (),
        source: str = "agent",
        **fields: Any,
    ) -> Kept:
        """Keep `text`, and say what it repeats or contradicts. `fields` are level, confidence, priority, status,
        examples and runs (`Entry`).

        The same kind and text, but for white space, case and punctuation, is the same entry: it takes over new tags
        and links, comes back from the archive, and holds again if another text had taken its place. A near-duplicate
        is kept, and said. Of two that contradict each other both are kept, also when a model knows the earlier one by
        now; the one that loses says which holds, and counts less in queries.

        Raises:
            InputError: an argument is not as expected, or the store on disk is broken.
            LimitError: the store is full, or the disk is.
            ConflictError: another process holds the store.
            MissingError: the embedding model is not installed, or the Chroma server does not answer.
        """
        entry = new_entry(text, kind, tags, source=source, **fields)
        self._check_space()
        with self._open() as (db, index):
            known = ledger.read(db, [entry.id]).get(entry.id)
            if known:
                return self._merge(db, index, known, entry, fields)
            vector = embed([entry.text])[0]
            near = {} if ledger.empty(db) else nearest(db, index, vector, EVERYTHING, _COMPARED)
            closest = sorted(near, key=lambda id: -near[id])[:_COMPARED]
            kept = Kept(entry=entry, new=True, changed=False)
            losers: list[Entry] = []
            for id, other in sorted(ledger.read(db, closest).items(), key=lambda item: -near[item[0]]):
                relation = compare(entry, other, near[id])
                # what a model knows is archived and holds all the same; what somebody put away does not
                away = other.status == "archived" and not other.verified_by
                if relation is None or (away and relation.kind != "same"):
                    continue
                if relation.kind == "same":
                    return self._merge(db, index, other, entry, fields)
                if relation.kind == "near":
                    kept.near.append(Alike(id=id, text=other.text, similarity=round(near[id], 3)))
                    continue
                wins, rule = newer_wins(entry, other)
                winner, loser = (entry, other) if wins else (other, entry)
                loser.superseded_by = winner.id
                losers += [other] if wins else []
                kept.conflicts.append(Conflict.of(entry, other, relation.reason, winner, rule))
            with ledger.transaction(db):
                self._check_room(ledger.count(db))
                already = ledger.read(db, [entry.id]).get(entry.id)  # another process may have been quicker
                if already is None:
                    ledger.put(db, [entry], [vector])
                    ledger.put(db, [touched(loser) for loser in losers], None)
            if already:
                return self._merge(db, index, already, entry, fields)
            index.catch_up(db)
        return kept

    def query(self, text: str, limit: int = 5, kind: EntryKind | None = None, **more: Any) -> list[Hit]:
        """The hits of `search`, for one kind or all."""
        return self.search(text, {"kinds": [kind]} if kind else None, limit, **more).hits

    def search(
        self,
        text: str,
        chosen: Filter | dict[str, Any] | None = None,
        limit: int = 5,
        min_similarity: float | None = None,
        max_tokens: int | None = None,
        ways: Ways = "hybrid",
    ) -> Found:
        """The entries most alike to `text`, by meaning and words, best first; archived ones only when asked for.

        Raises:
            InputError: an argument is not as expected, or the store on disk is broken.
            ConflictError: another process holds the store.
            MissingError: the embedding model is not installed, or the Chroma server does not answer.
        """
        text = check_text(text, "query", MAX_CHARACTERS)
        check_between("limit", limit, 1, MAX_HITS)
        if min_similarity is not None:
            check_between("min_similarity", min_similarity, -1, 1)
        if max_tokens is not None:
            check_between("max_tokens", max_tokens, 1, MAX_TOKENS)
        wanted = _chosen(chosen)
        if not self._exists():
            return Found(hits=[], left_out=0, tokens=0)
        with self._open() as (db, index):
            return search(db, index, text, wanted, limit, min_similarity, max_tokens, ways)

    def get(self, id: str) -> Entry:
        """The entry `id`. Raises NotFoundError, and what `search` raises."""
        return self.get_all([id])[0]

    def get_all(self, ids: Sequence[str]) -> list[Entry]:
        """The entries `ids`, in this order. Raises NotFoundError, and what `search` raises."""
        if not self._exists():
            raise _unknown(ids[0], 0)
        with self._open() as (db, _):
            found = ledger.read(db, [id for id in ids if is_id(id)])
            for id in ids:
                if id not in found:
                    raise _unknown(id, ledger.count(db))
        return [found[id] for id in unique(ids)]

    def change(self, id: str, **fields: Any) -> Entry:
        """Set fields of an entry, e.g. status='trained', runs=[…]; its text, kind and origin stay.

        Raises:
            NotFoundError: there is none of this id.
            InputError: a field is not as expected, or may not be changed.
        """
        fixed = fields.keys() & {"id", "text", "kind", "created", "updated"}
        if fixed:
            raise InputError(
                f"The {', '.join(sorted(fixed))} of an entry cannot be changed.", "remember the new text, forget this"
            )
        with self._open() as (db, index):
            with ledger.transaction(db):
                known = ledger.read(db, [id]).get(id)
                if known is None:
                    raise _unknown(id, ledger.count(db))
                entry = touched(parsed(Entry, {**known.model_dump(), **fields}))
                ledger.put(db, [entry], None)
            index.catch_up(db)
        return entry

    def forget(self, ids: Sequence[str]) -> list[Entry]:
        """Remove entries, and return what they were. They are written to `memory/archive.jsonl` first, from where
        `import` brings them back. What one of them had contradicted and won over holds again.

        Raises:
            NotFoundError: one of them is not there; then none is removed.
            InputError, ConflictError, MissingError: as in `search`.
        """
        entries = self.get_all(ids)
        self._archive(entries)
        with self._open() as (db, index):
            with ledger.transaction(db):
                gone = [entry.id for entry in entries]
                ledger.drop(db, gone)
                freed = [loser.model_copy(update={"superseded_by": ""}) for loser in ledger.losers(db, gone)]
                ledger.put(db, [touched(entry) for entry in freed], None)
            index.catch_up(db)
        return entries

    def entries(
        self,
        limit: int = 100,
        offset: int = 0,
        kind: EntryKind | None = None,
        chosen: Filter | dict[str, Any] | None = None,
    ) -> list[Entry]:
        """The entries from `offset` on, newest first, `limit` of them at most.

        Raises:
            InputError: an argument is not as expected, or the store on disk is broken.
        """
        check_between("limit", limit, 1, MAX_PAGE)
        check_between("offset", offset, 0, MAX_ENTRIES)
        wanted = _chosen(chosen)
        if kind:
            wanted = parsed(Filter, {**wanted.model_dump(), "kinds": [kind]})
        if not self._exists():
            return []
        with self._open() as (db, _):
            return ledger.select(db, wanted, limit, offset)

    def count(self, chosen: Filter | dict[str, Any] | None = None) -> int:
        """How many entries a filter lets through."""
        if not self._exists():
            return 0
        with self._open() as (db, _):
            return ledger.count(db, _chosen(chosen))

    def changes(self) -> dict[str, int]:
        """How many earlier texts each entry that won over others replaced, one after the other."""
        if not self._exists():
            return {}
        with self._open() as (db, _):
            replaced_by = ledger.replaced(db)
        counts: dict[str, int] = {}
        for id in replaced_by:
            seen = {id}
            while (id := replaced_by.get(id, "")) and id not in seen:
                seen.add(id)
                counts[id] = counts.get(id, 0) + 1
        return counts

    def describe(self) -> StoreInfo:
        """What the store is and how many entries it holds; loads no model, and makes nothing on disk.

        Raises:
            InputError: the store on disk is broken.
        """
        info = StoreInfo(
            embedding_model=embedder.MODEL,
            dimensions=embedder.DIMENSIONS,
            count=0,
            by_status={},
            by_kind={},
            waiting=0,
            path=str(self._path),
            server=self._workspace.settings.memory_url,
        )
        if self._exists():
            with self._open() as (db, _):
                info.count = ledger.count(db)
                info.by_status = dict(db.execute("SELECT status, count(*) FROM entries GROUP BY status"))
                info.by_kind = dict(db.execute("SELECT kind, count(*) FROM entries GROUP BY kind"))
                info.waiting = db.execute("SELECT count(*) FROM entries WHERE waiting = 1").fetchone()[0]
        return info

    @contextmanager
    def _open(self) -> Iterator[tuple[Any, Index]]:
        index = index_of(self._workspace)
        with ledger.ledger(index.ledger) as db:
            index.prepare(db)
            yield db, index

    def _exists(self) -> bool:
        return index_of(self._workspace).exists()

    def _merge(self, db: Any, index: Index, known: Entry, again: Entry, given: dict[str, Any]) -> Kept:
        """`known` with what `again`, which says the same, brings."""
        brought = {
            "tags": unique([*known.tags, *again.tags])[:MAX_TAGS],
            "examples": unique([*known.examples, *again.examples]),
            "runs": unique([*known.runs, *again.runs]),
            "source": again.source if is_user(again.source) else known.source,
            "confidence": max(known.confidence, again.confidence) if "confidence" in given else known.confidence,
            "priority": max(known.priority, again.priority) if "priority" in given else known.priority,
            "level": again.level if given.get("level") else known.level,
        }
        merged = parsed(Entry, {**known.model_dump(), **brought})
        if "status" in given or known.status == "archived" or (known.status, again.status) == ("pending", "approved"):
            merged.status = again.status
            merged.verified_by = ""  # whoever says it again does not rely on the model's knowing it
        kept = Kept(entry=merged, new=False, changed=False)
        losers: list[Entry] = []
        if other := _in_its_place(db, known):
            wins, rule = newer_wins(again, other)
            if wins:
                merged.superseded_by, other.superseded_by = "", merged.id
                losers = [other]
            reason = f"{other.id} had taken its place"
            kept.conflicts.append(Conflict.of(merged, other, reason, merged if wins else other, rule))
        if merged != known:
            kept.changed = True
            with ledger.transaction(db):
                ledger.put(db, [touched(entry) for entry in (merged, *losers)], None)
            index.catch_up(db)
        return kept

    def _archive(self, entries: list[Entry]) -> None:
        """Append `entries` to the archive, and return when they are on the disk."""
        moment = now()
        lines = [json.dumps({**e.model_dump(), "forgotten": moment}, ensure_ascii=False) + "\n" for e in entries]
        self._path.mkdir(parents=True, exist_ok=True)
        with (self._path / "archive.jsonl").open("a", encoding="utf-8", newline="\n") as stream:
            stream.write("".join(lines))
            stream.flush()
            os.fsync(stream.fileno())

    def _check_space(self) -> None:
        if self._path.exists() and not self._path.is_dir():
            raise InputError(
                f"The memory in {self._path} is broken: a folder was expected, and it is a file.", "move it away"
            )
        require_space(self._path, _WRITE_BYTES, self._workspace.settings.min_free_gb, "The memory")

    def _check_room(self, held: int) -> None:
        if held >= MAX_ENTRIES:
            raise LimitError(
                f"The memory holds {held} entries, and no more than {MAX_ENTRIES} fit.",
                "forget some that are no longer true (forget)",
            )


def _in_its_place(db: Any, entry: Entry) -> Entry | None:
    """The entry that holds in place of `entry`, if it was contradicted; that one may have been contradicted as well."""
    holds: Entry | None = None
    seen = {entry.id}
    while (id := (holds or entry).superseded_by) not in seen and (found := ledger.read(db, [id]).get(id)):
        seen.add(id)
        holds = found
    return holds


def touched(entry: Entry) -> Entry:
    """`entry`, changed at this moment."""
    entry.updated = now()
    return entry


def _chosen(chosen: Filter | dict[str, Any] | None) -> Filter:
    return chosen if isinstance(chosen, Filter) else parsed(Filter, chosen or {})


def _unknown(id: str, count: int) -> NotFoundError:
    holds = "1 entry" if count == 1 else f"{count} entries"
    return NotFoundError(
        f"There is no memory entry {id[:80]!r}; the memory holds {holds}.",
        "call query_memory to find the id of an entry",
    )
