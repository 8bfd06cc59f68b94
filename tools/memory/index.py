"""Chroma, as the index of the ledger: which vectors are nearest to one (HNSW, cosine).

    index = index_of(workspace)           # one for each store and process, kept open
    index.nearest(db, vector, 100)        # [(id, cosine)]
    index.catch_up(db)                    # what waits in the ledger goes into Chroma

In the workspace (the default) Chroma's embedded client is used. It is not safe across processes: it keeps the graph in
memory, does not notice what others wrote, and saves its own over theirs. So every use of it holds the workspace's lock
"memory", and whoever writes first raises the ledger's `generation`; a client of an older generation is closed and
opened again before it is used for anything. Opening takes 20 ms at 10,000 entries, but seconds at 100,000; therefore
up to one in twenty entries may wait in the ledger, where they are searched exactly, and are written in one go. A graph
that a killed process left half saved, or one that holds less than it was given, is thrown away and made again from the
ledger.

With LOOPTUNE_MEMORY_URL a Chroma server does the work, each write goes there at once, and the ledger in the workspace
follows it (`_follow`), since other machines write there too.
"""

import shutil
import sqlite3
import threading
import time
from collections import OrderedDict
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any
from urllib.parse import urlsplit

from tools.errors import ConflictError, InputError, LimitError, LooptuneError, MissingError
from tools.memory import embedder
from tools.memory.entries import Entry
from tools.memory.ledger import close_idle, count, drop, meta, note, put, transaction
from tools.workspace import Workspace

COLLECTION = "looptune-memory"
DATABASE = "chroma.sqlite3"
# Measured on real sentences (benchmarks/memory.py): recall@10 of 0.99 and more, at 2 to 5 ms a query.
HNSW = {"space": "cosine", "ef_construction": 200, "ef_search": 300, "max_neighbors": 24}

_MAY_WAIT = 20  # one in so many entries,
_MOST_WAIT = 2000  # and no more than so many
_BATCH = 500  # rows that go to Chroma in one call
_AT_ONCE = 2000  # rows that one caller works off before it lets others at the lock
_LOOK_EVERY = 0.5  # seconds for which what a server said about its state is believed
_OVERLAP = 60.0  # seconds by which the clocks of machines that share a server may differ
_KEPT_OPEN = 3

_open: "OrderedDict[str, Index]" = OrderedDict()
_registry = threading.Lock()


def index_of(workspace: Workspace) -> "Index":
    """The index of this workspace's memory, kept open by this process (the last few of them)."""
    url = workspace.settings.memory_url.rstrip("/")
    key = url or str(workspace.memory)
    with _registry:
        index = _open.pop(key, None)
        if index is not None and index.workspace.settings != workspace.settings:
            index.close()
            index = None
        if index is None:
            index = Server(workspace, url) if url else Index(workspace)
        _open[key] = index
        while len(_open) > _KEPT_OPEN:
            _open.popitem(last=False)[1].close()
        return index


class Index:
    """Chroma's embedded client in the workspace."""

    def __init__(self, workspace: Workspace) -> None:
        self.workspace = workspace
        self.ledger = workspace.memory / "entries.sqlite3"
        self._folder = workspace.memory
        self._client: Any = None
        self._collection: Any = None
        self._generation = -1
        self._turn = threading.RLock()

    def exists(self) -> bool:
        """Whether anything has been remembered here."""
        return self.ledger.exists() or (self._folder / DATABASE).exists()

    def close(self) -> None:
        """Let go of the files; the next use opens them again."""
        with self._turn:
            self._close_chroma()
            close_idle(self.ledger)

    def _close_chroma(self) -> None:
        client, self._client, self._collection = self._client, None, None
        if client is not None:
            client.close()

    def prepare(self, db: sqlite3.Connection) -> None:
        """Check what the store was made with; a ledger that is new is filled with what Chroma has.

        Raises:
            InputError: the vectors are another model's.
        """
        if not meta(db, "model"):
            with self._held(db):
                if not meta(db, "model"):
                    if (self._folder / DATABASE).exists():
                        collection = self._ready(db)
                        check_vectors(collection, self._folder)
                        _fetch(db, collection, None)
                    with transaction(db):
                        note(db, model=embedder.MODEL, dimensions=embedder.DIMENSIONS)
        check_made_with(meta(db, "model"), int(meta(db, "dimensions")), self._folder)

    def nearest(self, db: sqlite3.Connection, vector: list[float], most: int) -> list[tuple[str, float]]:
        """The ids of the vectors nearest to `vector` with their cosine, of those that Chroma has."""
        try:
            with self._held(db):
                return _query(self._sound(db), vector, most)
        except DamagedIndex:
            self.reset(db)
            return []

    def catch_up(self, db: sqlite3.Connection, everything: bool = False) -> None:
        """Bring what waits in the ledger into Chroma, when it is more than may wait, or when `everything` is asked."""
        while (waiting := _waiting(db)) and (everything or waiting > self._may_wait(db)):
            try:
                with self._held(db):
                    self._write(db)
            except DamagedIndex:
                self.reset(db)
            if not everything:
                return

    def _may_wait(self, db: sqlite3.Connection) -> int:
        return min(count(db) // _MAY_WAIT, _MOST_WAIT)

    def reset(self, db: sqlite3.Connection) -> None:
        """Throw the index away; everything waits in the ledger, and is searched there, until it is written anew."""
        with self._held(db):
            self._throw_away(db)

    def pull_everything(self, db: sqlite3.Connection) -> None:
        """Take over what Chroma has, whatever model its vectors are from."""
        with self._held(db):
            _fetch(db, self._ready(db), None)

    def _write(self, db: sqlite3.Connection) -> None:
        self._sound(db)
        generation = self._generation + 1
        with transaction(db):  # before Chroma changes, so that no other client goes on with what it has
            note(db, generation=generation)
        self._generation = generation
        _bring(db, self._collection)

    def _sound(self, db: sqlite3.Connection) -> Any:
        """The collection, when its vectors are from the ledger's model."""
        collection = self._ready(db)
        if (collection.metadata or {}).get("embedding_model") != meta(db, "model"):
            raise DamagedIndex("Chroma's vectors are not from the model of the ledger.", "looptune memory reindex")
        return collection

    def _ready(self, db: sqlite3.Connection) -> Any:
        generation = int(meta(db, "generation", "0"))
        if self._client is None or self._generation != generation:
            self._close_chroma()
            import chromadb
            from chromadb.config import Settings

            # no .env: the folder in which the server was started may hold one, and it is not Chroma's
            options = Settings(_env_file=None, anonymized_telemetry=False)
            self._client = chromadb.PersistentClient(str(self._folder), settings=options)
            self._collection = _collection(self._client)
            self._generation = generation
            sql = "SELECT count(*) FROM entries WHERE waiting = 0"
            there, given = self._collection.count(), int(db.execute(sql).fetchone()[0])
            if there < given:
                raise DamagedIndex(f"Chroma holds {there} of {given} entries it was given.", "looptune memory reindex")
        return self._collection

    @contextmanager
    def _held(self, db: sqlite3.Connection) -> Iterator[None]:
        """The lock, and what Chroma's errors mean: a broken index is made again, if the ledger has what it needs."""
        with self._turn, self.workspace.lock("memory", timeout=30):
            try:
                yield
            except (LooptuneError, sqlite3.Error):
                raise
            except BaseException as error:  # Chroma's core is Rust: what it did not foresee is no Exception
                if isinstance(error, (KeyboardInterrupt, SystemExit, GeneratorExit)):
                    raise
                self._give_up()
                raise _chroma_error(self._folder, error) from error

    def _give_up(self) -> None:
        from chromadb.api.client import SharedSystemClient

        self._client = self._collection = None
        SharedSystemClient.clear_system_cache()  # Chroma keeps a client that could not be opened

    def _throw_away(self, db: sqlite3.Connection) -> None:
        self._close_chroma()
        for path in self._folder.iterdir():
            if path.name.startswith(DATABASE) and not path.is_dir():
                path.unlink()
            elif path.is_dir() and (path.name == DATABASE or len(path.name) == 36):
                shutil.rmtree(path)
        with transaction(db):
            db.execute("UPDATE entries SET waiting = 1")
            db.execute("DELETE FROM dropped")
            note(db, generation=int(meta(db, "generation", "0")) + 1)


class Server(Index):
    """A Chroma server, which other machines may use as well; the ledger follows it."""

    def __init__(self, workspace: Workspace, url: str) -> None:
        import hashlib

        super().__init__(workspace)
        self._url = url
        self.ledger = workspace.memory / f"entries-{hashlib.sha256(url.encode()).hexdigest()[:8]}.sqlite3"
        self._looked = 0.0

    def exists(self) -> bool:
        return True

    def _may_wait(self, db: sqlite3.Connection) -> int:
        return 0

    def prepare(self, db: sqlite3.Connection) -> None:
        with self._held(db):
            new = self._client is None or not meta(db, "model")
            if new or time.monotonic() - self._looked > _LOOK_EVERY:
                collection = self._connect()
                check_vectors(collection, self._url)
                if not meta(db, "model"):
                    with transaction(db):
                        note(db, model=embedder.MODEL, dimensions=embedder.DIMENSIONS)
                _follow(db, collection)
                self._looked = time.monotonic()
        check_made_with(meta(db, "model"), int(meta(db, "dimensions")), self._url)

    def reset(self, db: sqlite3.Connection) -> None:
        with self._held(db):
            self._connect()
            self._client.delete_collection(COLLECTION)
            self._collection = _collection(self._client)
            with transaction(db):
                db.execute("UPDATE entries SET waiting = 1")
                db.execute("DELETE FROM dropped")

    def _write(self, db: sqlite3.Connection) -> None:
        import uuid

        collection = self._ready(db)
        _bring(db, collection)
        collection.modify(metadata={**(collection.metadata or {}), "token": uuid.uuid4().hex})

    def _ready(self, db: sqlite3.Connection) -> Any:
        return self._collection if self._collection is not None else self._connect()

    def _connect(self) -> Any:
        if self._client is None:
            import chromadb
            from chromadb.config import Settings

            place = urlsplit(self._url)
            if place.scheme not in ("http", "https") or not place.hostname:
                raise InputError(
                    f"Expected LOOPTUNE_MEMORY_URL to be like http://127.0.0.1:8000; got {self._url!r}.", "correct it"
                )
            secure = place.scheme == "https"
            self._client = chromadb.HttpClient(
                host=place.hostname,
                port=place.port or (443 if secure else 8000),
                ssl=secure,
                settings=Settings(_env_file=None, anonymized_telemetry=False),
            )
        self._collection = _collection(self._client)
        return self._collection

    @contextmanager
    def _held(self, db: sqlite3.Connection) -> Iterator[None]:
        with self._turn:
            try:
                yield
            except (LooptuneError, sqlite3.Error):
                raise
            except Exception as error:
                self._give_up()
                raise MissingError(
                    f"The Chroma server at {self._url} does not do what was asked: {type(error).__name__}: "
                    f"{str(error)[:200]}.",
                    "start it (`chroma run --path FOLDER --port PORT`), or unset LOOPTUNE_MEMORY_URL to use the "
                    "workspace's own store",
                ) from error


def check_made_with(model: str, dimensions: int, place: Path | str) -> None:
    """Raises InputError when vectors of `model` cannot be compared with ours."""
    if (model, dimensions) != (embedder.MODEL, embedder.DIMENSIONS):
        raise InputError(
            f"The memory in {place} was made with {model or 'an unknown model'} ({dimensions} dimensions); this "
            f"looptune embeds with {embedder.MODEL} ({embedder.DIMENSIONS}), and such vectors cannot be compared.",
            "looptune memory reindex (it embeds every text anew; nothing is lost)",
        )


def check_vectors(collection: Any, place: Path | str) -> None:
    """Raises InputError when what Chroma holds is another model's."""
    made_with = collection.metadata or {}
    check_made_with(str(made_with.get("embedding_model", "")), int(made_with.get("dimensions", 0)), place)


def _collection(client: Any) -> Any:
    return client.get_or_create_collection(
        COLLECTION,
        metadata={"embedding_model": embedder.MODEL, "dimensions": embedder.DIMENSIONS},
        configuration={"hnsw": HNSW},
        embedding_function=None,
    )


def _query(collection: Any, vector: list[float], most: int) -> list[tuple[str, float]]:
    found = collection.query(query_embeddings=[vector], n_results=most, include=["distances"])
    return [(id, 1.0 - distance) for id, distance in zip(found["ids"][0], found["distances"][0], strict=True)]


def _waiting(db: sqlite3.Connection) -> int:
    sql = "SELECT (SELECT count(*) FROM entries WHERE waiting = 1) + (SELECT count(*) FROM dropped)"
    return int(db.execute(sql).fetchone()[0])


def _bring(db: sqlite3.Connection, collection: Any) -> None:
    """Write what waits into Chroma, `_AT_ONCE` rows at most; each row says `waiting` until Chroma has it."""
    import numpy as np

    gone = [row[0] for row in db.execute("SELECT id FROM dropped LIMIT ?", (_AT_ONCE,))]
    if gone:
        collection.delete(ids=gone)
        with transaction(db):
            db.executemany("DELETE FROM dropped WHERE id = ?", [(id,) for id in gone])
    done = 0
    while done < _AT_ONCE:
        rows = db.execute("SELECT id, entry, vector FROM entries WHERE waiting = 1 LIMIT ?", (_BATCH,)).fetchall()
        if not rows:
            return
        entries = [Entry.model_validate_json(row[1]) for row in rows]
        collection.upsert(
            ids=[row[0] for row in rows],
            embeddings=np.stack([np.frombuffer(row[2], np.float32) for row in rows]),
            documents=[entry.text for entry in entries],
            metadatas=[_metadata(entry) for entry in entries],
        )
        with transaction(db):  # unless it was changed again meanwhile
            db.executemany("UPDATE entries SET waiting = 0 WHERE id = ? AND entry = ?", [row[:2] for row in rows])
        done += len(rows)


def _metadata(entry: Entry) -> dict[str, Any]:
    plain = entry.model_dump(include={"kind", "level", "source", "status", "confidence", "priority", "created"})
    return {**plain, "changed": time.time(), "entry": entry.model_dump_json()}


def _follow(db: sqlite3.Connection, collection: Any) -> None:
    """Take over what others wrote to the server since the last look; its token says whether there is anything."""
    token = str((collection.metadata or {}).get("token", ""))
    if token == meta(db, "token"):
        return
    cursor = float(meta(db, "cursor", "0"))
    newest = _fetch(db, collection, cursor - _OVERLAP if cursor else None)
    if collection.count() != count(db):
        there = set(collection.get(include=[])["ids"])
        here = {row[0] for row in db.execute("SELECT id FROM entries WHERE waiting = 0")}
        with transaction(db):
            drop(db, list(here - there))
            db.executemany("DELETE FROM dropped WHERE id = ?", [(id,) for id in here - there])
        missing = sorted(there - here)
        for begin in range(0, len(missing), _BATCH):
            _take(db, collection.get(ids=missing[begin : begin + _BATCH], include=_WHOLE))
    with transaction(db):
        note(db, token=token, cursor=max(cursor, newest))


_WHOLE = ["documents", "metadatas", "embeddings"]


def _fetch(db: sqlite3.Connection, collection: Any, since: float | None) -> float:
    """Take over what Chroma holds, or what changed there since a time. Returns the time of the newest change."""
    newest, offset = 0.0, 0
    where = None if since is None else {"changed": {"$gt": since}}
    while True:
        page = collection.get(where=where, limit=_BATCH, offset=offset, include=_WHOLE)
        if not page["ids"]:
            return newest
        newest = max(newest, _take(db, page))
        offset += len(page["ids"])


def _take(db: sqlite3.Connection, page: Any) -> float:
    """Put the entries of `page` into the ledger, but for those that wait here with a change of our own."""
    own = {row[0] for row in db.execute("SELECT id FROM entries WHERE waiting = 1 UNION SELECT id FROM dropped")}
    newest = 0.0
    entries, vectors = [], []
    for id, metadata, vector in zip(page["ids"], page["metadatas"], page["embeddings"], strict=True):
        if "entry" in (metadata or {}) and id not in own:
            entries.append(Entry.model_validate_json(metadata["entry"]))
            vectors.append(vector)
            newest = max(newest, float(metadata["changed"]))
    with transaction(db):
        put(db, entries, vectors, waiting=False)
    return newest


def _chroma_error(folder: Path, error: BaseException) -> LooptuneError:
    """What Chroma's `error` means for the reader."""
    reason = f"{type(error).__name__}: {str(error)[:300]}"
    if "disk is full" in reason or "No space left" in reason or "disk I/O" in reason:
        return LimitError(
            f"No space left on the disk of {folder}; the index was not written ({reason}).",
            "free some space, then repeat the call",
        )
    if "database is locked" in reason:
        return ConflictError(f"Another program has the memory in {folder} open ({reason}).", "close it, and try again")
    return DamagedIndex(
        f"The index of the memory in {folder} is broken: {DATABASE} or what lies beside it cannot be read ({reason}).",
        "looptune memory reindex",
    )


class DamagedIndex(InputError):
    """Chroma's files cannot be read; the ledger can."""
