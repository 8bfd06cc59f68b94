"""Semantic memory: what the agent was told or found out, kept in a Chroma collection and found by its meaning.

    memory = MemoryStore(Workspace.open(Settings()))
    memory.remember("Amounts are kept in cents.", kind="rule", tags=["money"])
    memory.query("how do we store prices?")[0].text

Each call opens the store under the workspace's lock "memory" and closes it again (about 10 ms). Chroma keeps its
index in the memory of a process and would not notice what another process wrote; so that no process works with an
old index, none keeps one. For the same reason readers take the lock too, once there is a store.
"""

import hashlib
import json
import re
import threading
import unicodedata
from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from datetime import UTC, datetime
from pathlib import Path
from typing import Any, get_args

from pydantic import BaseModel, Field

from tools.errors import ConflictError, InputError, LimitError, LooptuneError, NotFoundError
from tools.files import require_space
from tools.memory.embedder import DIMENSIONS, MODEL, embed
from tools.memory.kinds import EntryKind
from tools.workspace import Workspace

MAX_ENTRIES = 100_000
MAX_CHARACTERS = 8000
MAX_TAGS = 20
MAX_TAG_CHARACTERS = 64
MAX_SOURCE_CHARACTERS = 200
MAX_HITS = 50
MAX_PAGE = 1000

_ID = re.compile(r"mem-[0-9a-f]{12}")
_COLLECTION = "memory"
_DATABASE = "chroma.sqlite3"
_WRITE_BYTES = 10_000_000  # an entry takes a few KB; now and then Chroma writes its index anew

# Chroma keeps a registry of open stores for the whole process, and does not guard it.
_registry = threading.Lock()


class Entry(BaseModel):
    """One thing remembered."""

    id: str
    text: str
    kind: EntryKind
    tags: list[str]
    source: str
    created: str = Field(description="ISO-8601, UTC")


class Hit(Entry):
    """An entry that was found, and how near its meaning is to the query."""

    similarity: float = Field(ge=-1, le=1, description="cosine; 1 is the same meaning")


class StoreInfo(BaseModel):
    """What the store is made of and how much is in it."""

    embedding_model: str
    dimensions: int
    count: int
    path: str


class MemoryStore:
    """The memory of a workspace; it holds no open files between calls, and may be shared by threads."""

    def __init__(self, workspace: Workspace) -> None:
        self._workspace = workspace
        self._path = workspace.memory

    def remember(
        self, text: str, kind: EntryKind = "fact", tags: Sequence[str] = (), source: str = "agent"
    ) -> tuple[Entry, bool]:
        """Keep `text`. Returns the entry, and whether it is new.

        The same kind and text, but for white space, is the same entry: it stays as it was first written.

        Raises:
            InputError: an argument is not as expected, or the store on disk is broken.
            LimitError: the store is full, or the disk is.
            ConflictError: another process holds the store.
            MissingError: the embedding model is not installed.
        """
        text = _check_text(text, "text", MAX_CHARACTERS)
        entry = Entry(
            id=_id(_check_kind(kind), text),
            text=text,
            kind=kind,
            tags=_check_tags(tags),
            source=_check_text(source, "source", MAX_SOURCE_CHARACTERS),
            created="",
        )
        known = self._find(entry.id)
        if known:
            return known, False
        vector = embed([text])  # before the lock: loading the model may take longer than others would wait
        with self._open(needed_bytes=_WRITE_BYTES) as collection:
            known = _read(collection, [entry.id]).get(entry.id)
            if known:
                return known, False
            self._check_room(collection.count())
            entry.created = datetime.now(UTC).isoformat(timespec="microseconds")
            collection.add(ids=[entry.id], embeddings=vector, documents=[entry.text], metadatas=[_metadata(entry)])
        return entry, True

    def query(
        self, text: str, limit: int = 5, kind: EntryKind | None = None, min_similarity: float | None = None
    ) -> list[Hit]:
        """The entries whose meaning is nearest to `text`, best first; [] when nothing is remembered.

        Raises:
            InputError: an argument is not as expected, or the store on disk is broken.
            ConflictError: another process holds the store.
            MissingError: the embedding model is not installed.
        """
        text = _check_text(text, "query", MAX_CHARACTERS)
        _check_between("limit", limit, 1, MAX_HITS)
        if min_similarity is not None:
            _check_between("min_similarity", min_similarity, -1, 1)
        where = _where(kind)
        if not self._exists():
            return []
        vector = embed([text])
        with self._open() as collection:
            found = collection.query(query_embeddings=vector, n_results=limit, where=where)
            columns = (found[name][0] for name in ("ids", "documents", "metadatas", "distances"))
            hits = [_hit(_entry(*row), distance) for *row, distance in zip(*columns, strict=True)]
        hits.sort(key=lambda hit: -hit.similarity)
        return [hit for hit in hits if min_similarity is None or hit.similarity >= min_similarity]

    def get(self, id: str) -> Entry:
        """The entry `id`.

        Raises:
            NotFoundError: there is none.
            InputError: the store on disk is broken.
            ConflictError: another process holds the store.
        """
        if not self._exists():
            raise _unknown(id, 0)
        with self._open() as collection:
            return _known(collection, id)

    def forget(self, id: str) -> Entry:
        """Remove the entry `id` for good, and return what it was.

        Raises:
            NotFoundError: there is none.
            InputError: the store on disk is broken.
            ConflictError: another process holds the store.
        """
        if not self._exists():
            raise _unknown(id, 0)
        with self._open() as collection:
            entry = _known(collection, id)
            collection.delete(ids=[id])
        return entry

    def entries(self, limit: int = 100, offset: int = 0, kind: EntryKind | None = None) -> list[Entry]:
        """The entries from `offset` on, newest first, `limit` of them at most.

        Raises:
            InputError: an argument is not as expected, or the store on disk is broken.
            ConflictError: another process holds the store.
        """
        _check_between("limit", limit, 1, MAX_PAGE)
        _check_between("offset", offset, 0, MAX_ENTRIES)
        where = _where(kind)
        if not self._exists():
            return []
        with self._open() as collection:
            found = collection.get(include=["metadatas"], where=where)
            created = [metadata["created"] for metadata in found["metadatas"]]
            newest = sorted(zip(created, range(len(created)), found["ids"], strict=True), reverse=True)
            page = [id for _, _, id in newest[offset : offset + limit]]
            entries = _read(collection, page)
            return [entries[id] for id in page]

    def describe(self) -> StoreInfo:
        """What the store is and how many entries it holds; loads no model, and makes nothing on disk.

        Raises:
            InputError: the store on disk is broken.
            ConflictError: another process holds the store.
        """
        count = 0
        if self._exists():
            with self._open() as collection:
                count = collection.count()
        return StoreInfo(embedding_model=MODEL, dimensions=DIMENSIONS, count=count, path=str(self._path))

    def _exists(self) -> bool:
        return (self._path / _DATABASE).exists()

    def _find(self, id: str) -> Entry | None:
        if not self._exists():
            return None
        with self._open() as collection:
            return _read(collection, [id]).get(id)

    def _check_room(self, count: int) -> None:
        if count >= MAX_ENTRIES:
            raise LimitError(
                f"The memory holds {count} entries, and no more than {MAX_ENTRIES} fit.",
                "forget some that are no longer true (forget)",
            )

    @contextmanager
    def _open(self, needed_bytes: int = 0) -> Iterator[Any]:
        """The Chroma collection, held by this caller alone; it is made if there is none."""
        import chromadb
        from chromadb.api.client import SharedSystemClient
        from chromadb.config import Settings
        from chromadb.errors import ChromaError

        with self._workspace.lock("memory"), _registry:
            try:
                if needed_bytes:
                    reserve = self._workspace.settings.min_free_gb
                    require_space(self._path, needed_bytes, reserve, "The memory")
                # no .env: the folder in which the server was started may hold one, and it is not Chroma's
                options = Settings(_env_file=None, anonymized_telemetry=False)
                with chromadb.PersistentClient(str(self._path), settings=options) as client:
                    yield _collection(client)
            except (ChromaError, OSError, ValueError, TypeError, KeyError, AttributeError) as error:
                SharedSystemClient.clear_system_cache()  # Chroma keeps a client that could not be opened
                raise _broken(self._path, error) from error


def _collection(client: Any) -> Any:
    collection = client.get_or_create_collection(
        _COLLECTION,
        metadata={"embedding_model": MODEL},
        configuration={"hnsw": {"space": "cosine"}},
        embedding_function=None,
    )
    made_with = (collection.metadata or {}).get("embedding_model")
    if made_with != MODEL:
        raise ValueError(f"its vectors were made with {made_with}, not with {MODEL}")
    return collection


def _read(collection: Any, ids: list[str]) -> dict[str, Entry]:
    found = collection.get(ids=ids, include=["documents", "metadatas"])
    rows = zip(found["ids"], found["documents"], found["metadatas"], strict=True)
    return {id: _entry(id, text, metadata) for id, text, metadata in rows}


def _known(collection: Any, id: str) -> Entry:
    found = _read(collection, [id]) if _ID.fullmatch(id) else {}
    if id not in found:
        raise _unknown(id, collection.count())
    return found[id]


def _metadata(entry: Entry) -> dict[str, str]:
    return {
        "kind": entry.kind,
        "tags": json.dumps(entry.tags, ensure_ascii=False),
        "source": entry.source,
        "created": entry.created,
    }


def _entry(id: str, text: str, metadata: dict[str, Any]) -> Entry:
    return Entry.model_validate({**metadata, "id": id, "text": text, "tags": json.loads(metadata["tags"])})


def _hit(entry: Entry, distance: float) -> Hit:
    return Hit(**entry.model_dump(), similarity=max(-1.0, min(1.0, 1.0 - distance)))


def _id(kind: str, text: str) -> str:
    normalized = " ".join(unicodedata.normalize("NFC", text).split())
    return "mem-" + hashlib.sha256(f"{kind}\n{normalized}".encode()).hexdigest()[:12]


def _where(kind: EntryKind | None) -> dict[str, str] | None:
    return None if kind is None else {"kind": _check_kind(kind)}


def _check_kind(kind: EntryKind) -> EntryKind:
    if kind not in get_args(EntryKind):
        raise InputError(
            f"Expected a kind of {', '.join(get_args(EntryKind))}; got {str(kind)[:80]!r}.",
            "use 'fact' when none of the others fits",
        )
    return kind


def _check_text(text: str, what: str, most: int) -> str:
    """`text` without the white space around it. Raises InputError."""
    text = text.strip()
    if not 1 <= len(text) <= most:
        raise InputError(
            f"A {what} has 1 to {most} characters; this one has {len(text)}.",
            f"give a {what} that is shorter" if text else f"give a {what}",
        )
    if "\0" in text or any("\ud800" <= character <= "\udfff" for character in text):
        raise InputError(
            f"A {what} is Unicode text; this one holds a NUL character or half of a surrogate pair.",
            "leave these characters out",
        )
    return text


def _check_tags(tags: Sequence[str]) -> list[str]:
    """The tags, each once. Raises InputError."""
    if isinstance(tags, str):
        raise InputError(f"Expected a list of tags; got the text {tags[:80]!r}.", f"write [{tags[:64]!r}]")
    if len(tags) > MAX_TAGS:
        raise InputError(f"An entry has {MAX_TAGS} tags at most; got {len(tags)}.", "keep the most telling ones")
    return list(dict.fromkeys(_check_text(tag, "tag", MAX_TAG_CHARACTERS) for tag in tags))


def _check_between(what: str, value: float, least: int, most: int) -> None:
    if not least <= value <= most:
        raise InputError(f"Expected a {what} from {least} to {most}; got {value}.", f"choose a {what} between them")


def _unknown(id: str, count: int) -> NotFoundError:
    holds = "1 entry" if count == 1 else f"{count} entries"
    return NotFoundError(
        f"There is no memory entry {id[:80]!r}; the memory holds {holds}.",
        "call query_memory to find the id of an entry",
    )


def _broken(path: Path, error: Exception) -> LooptuneError:
    """What Chroma's `error` means for the reader."""
    reason = f"{type(error).__name__}: {str(error)[:300]}"
    if "disk is full" in reason or "No space left" in reason:
        return LimitError(
            f"No space left on the disk of {path}; the entry was not kept ({reason}).",
            "free some space, then repeat the call",
        )
    if "database is locked" in reason:
        return ConflictError(f"Another program has the memory in {path} open ({reason}).", "close it, and try again")
    return InputError(
        f"The memory in {path} is broken: {_DATABASE} and the index beside it cannot be read ({reason}).",
        f"put a backup in the place of {path}, or move it away: the next `remember` makes an empty memory",
    )
