"""The ledger: every entry with its vector and its words, in one SQLite file. It is the memory; Chroma is its index.

    with ledger(path) as db:
        put(db, [entry], [vector])
        words(db, "cents prices", Filter(), 50)      # [(id, score)], by BM25

A commit here is what makes a write hold (WAL, synchronous=FULL): it survives kill -9, and every process sees it at
once. `waiting` marks the rows whose last state Chroma does not have yet, `dropped` the ids that it has still to lose;
`tools/memory/index.py` works them off. Words are found by FTS5 with Porter's stemmer.
"""

import json
import re
import sqlite3
import threading
import time
from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from pathlib import Path
from typing import Any

from tools.errors import ConflictError, InputError, LimitError, LooptuneError
from tools.memory.entries import Entry, Filter

# One open transaction at most waits this long for another process's, in seconds.
_PATIENCE = 10.0
_VERSION = 1
_SCHEMA = """
CREATE TABLE meta (key TEXT PRIMARY KEY, value TEXT NOT NULL) WITHOUT ROWID;
CREATE TABLE entries (
    seq INTEGER PRIMARY KEY, id TEXT NOT NULL UNIQUE, text TEXT NOT NULL, tagged TEXT NOT NULL, kind TEXT NOT NULL,
    level TEXT NOT NULL, source TEXT NOT NULL, status TEXT NOT NULL, created TEXT NOT NULL, entry TEXT NOT NULL,
    vector BLOB NOT NULL, waiting INTEGER NOT NULL
);
CREATE INDEX by_created ON entries (created, id);
CREATE INDEX by_status ON entries (status, kind);
CREATE INDEX by_waiting ON entries (seq) WHERE waiting = 1;
CREATE TABLE tags (tag TEXT NOT NULL, seq INTEGER NOT NULL, PRIMARY KEY (tag, seq)) WITHOUT ROWID;
CREATE INDEX tags_of ON tags (seq);
CREATE TABLE dropped (id TEXT PRIMARY KEY) WITHOUT ROWID;
CREATE VIRTUAL TABLE words USING fts5 (
    text, tagged, content='entries', content_rowid='seq', tokenize='porter unicode61 remove_diacritics 2'
);
CREATE TRIGGER word_added AFTER INSERT ON entries BEGIN
    INSERT INTO words (rowid, text, tagged) VALUES (new.seq, new.text, new.tagged);
END;
CREATE TRIGGER word_removed AFTER DELETE ON entries BEGIN
    INSERT INTO words (words, rowid, text, tagged) VALUES ('delete', old.seq, old.text, old.tagged);
    DELETE FROM tags WHERE seq = old.seq;
END;
CREATE TRIGGER word_changed AFTER UPDATE OF text, tagged ON entries BEGIN
    INSERT INTO words (words, rowid, text, tagged) VALUES ('delete', old.seq, old.text, old.tagged);
    INSERT INTO words (rowid, text, tagged) VALUES (new.seq, new.text, new.tagged);
END;
"""
# Words that say nothing about what is asked. BM25 gives them next to no weight, but has to walk all their places.
_STOP_WORDS = """
a about all am an and any are as at be been but by can could did do does done else for from get had has have how i if
in into is it its may me more most must my no not of on one or our own please s shall she should so some such t than
that the their them then there these they this those to too us use used very was we were what when where which who whom
why will with would you your
"""
_STOP = frozenset(_STOP_WORDS.split())


# Connections that nobody uses just now. Were each call to open and close its own, the last one to close would write the
# WAL back into the file every time, which costs more than the call.
_idle: dict[Path, list[tuple[int, sqlite3.Connection]]] = {}  # each with the inode of the file that it has open
_pool = threading.Lock()
_KEPT_IDLE = 4


@contextmanager
def ledger(path: Path) -> Iterator[sqlite3.Connection]:
    """A connection to the ledger in `path`, for this caller alone; the ledger is made when there is none.

    Raises:
        InputError: the file is broken.
        LimitError: the disk is full.
        ConflictError: another process kept a transaction open.
    """
    db = None
    try:
        db = _take_idle(path) or _connect(path)
        inode = path.stat().st_ino
        yield db
    except BaseException as error:
        if db is not None:
            db.close()
        if isinstance(error, (sqlite3.Error, OSError)):
            raise _broken(path, error) from error
        raise
    with _pool:
        idle = _idle.setdefault(path, [])
        idle.append((inode, db))
        spare = idle[_KEPT_IDLE:]
        del idle[_KEPT_IDLE:]
    for _, connection in spare:
        connection.close()


def close_idle(path: Path) -> None:
    """Let go of the ledger in `path`; the next use opens it again."""
    with _pool:
        idle = _idle.pop(path, [])
    for _, connection in idle:
        connection.close()


def _take_idle(path: Path) -> sqlite3.Connection | None:
    """An idle connection, if the file that it has open is still the one in `path`."""
    with _pool:
        if not _idle.get(path):
            return None
        inode, db = _idle[path].pop()
    if path.exists() and path.stat().st_ino == inode:
        return db
    db.close()
    close_idle(path)
    return None


def _connect(path: Path) -> sqlite3.Connection:
    path.parent.mkdir(parents=True, exist_ok=True)
    db = sqlite3.connect(path, timeout=_PATIENCE, isolation_level=None, check_same_thread=False)
    try:
        db.execute("PRAGMA synchronous = FULL")
        if db.execute("PRAGMA user_version").fetchone()[0] < _VERSION:
            _make(db)
    except BaseException:
        db.close()
        raise
    return db


def _make(db: sqlite3.Connection) -> None:
    patience = time.monotonic() + _PATIENCE
    while True:  # two that make it at once: SQLite waits for another's transaction, but not for its change of the mode
        try:
            db.execute("PRAGMA journal_mode = WAL")
            break
        except sqlite3.OperationalError as error:
            if "locked" not in str(error) or time.monotonic() > patience:
                raise
            time.sleep(0.01)
    with transaction(db):
        if db.execute("PRAGMA user_version").fetchone()[0] < _VERSION:  # another process may have been quicker
            for statement in re.split(r";\n(?!    |END)", _SCHEMA):
                db.execute(statement)
            db.execute(f"PRAGMA user_version = {_VERSION}")


@contextmanager
def transaction(db: sqlite3.Connection) -> Iterator[None]:
    """What happens in the block holds as a whole, or not at all."""
    db.execute("BEGIN IMMEDIATE")
    try:
        yield
    except BaseException:
        db.execute("ROLLBACK")
        raise
    db.execute("COMMIT")


def meta(db: sqlite3.Connection, key: str, default: str = "") -> str:
    """What is noted under `key`."""
    row = db.execute("SELECT value FROM meta WHERE key = ?", (key,)).fetchone()
    return str(row[0]) if row else default


def note(db: sqlite3.Connection, **values: Any) -> None:
    """Note `values` under their names."""
    db.executemany("INSERT OR REPLACE INTO meta VALUES (?, ?)", [(key, str(value)) for key, value in values.items()])


def put(db: sqlite3.Connection, entries: Sequence[Entry], vectors: Sequence[Any] | None, waiting: bool = True) -> None:
    """Add `entries`, or replace those of their ids; without `vectors` (of float32) the known ones stay."""
    import numpy as np

    for number, entry in enumerate(entries):
        # `rule:test_first` is found by its words as well
        tagged = " ".join(re.sub(r"[:_]", " ", tag) for tag in entry.tags)
        plain = (entry.text, tagged, entry.kind, entry.level, entry.source, entry.status, entry.created)
        row = (*plain, entry.model_dump_json(), int(waiting), entry.id)
        if vectors is not None:
            vector = np.asarray(vectors[number], np.float32).tobytes()
            db.execute(
                "INSERT INTO entries (text, tagged, kind, level, source, status, created, entry, waiting, id, vector) "
                "VALUES (?, ?, ?, ?, ?, ?, ?, ?, ?, ?, ?) ON CONFLICT (id) DO UPDATE SET text = excluded.text, "
                "tagged = excluded.tagged, kind = excluded.kind, level = excluded.level, source = excluded.source, "
                "status = excluded.status, created = excluded.created, entry = excluded.entry, "
                "waiting = excluded.waiting, vector = excluded.vector",
                (*row, vector),
            )
        else:
            db.execute(
                "UPDATE entries SET text = ?, tagged = ?, kind = ?, level = ?, source = ?, status = ?, created = ?, "
                "entry = ?, waiting = ? WHERE id = ?",
                row,
            )
        (seq,) = db.execute("SELECT seq FROM entries WHERE id = ?", (entry.id,)).fetchone()
        db.execute("DELETE FROM tags WHERE seq = ?", (seq,))
        db.executemany("INSERT OR IGNORE INTO tags VALUES (?, ?)", [(tag, seq) for tag in entry.tags])
        db.execute("DELETE FROM dropped WHERE id = ?", (entry.id,))


def drop(db: sqlite3.Connection, ids: Sequence[str]) -> None:
    """Remove the entries `ids`, and note that Chroma has still to lose them."""
    db.executemany("DELETE FROM entries WHERE id = ?", [(id,) for id in ids])
    db.executemany("INSERT OR IGNORE INTO dropped VALUES (?)", [(id,) for id in ids])


def losers(db: sqlite3.Connection, winners: Sequence[str]) -> list[Entry]:
    """The entries that say that one of `winners` holds in their place."""
    sql = "SELECT entry FROM entries WHERE json_extract(entry, '$.superseded_by') IN (SELECT value FROM json_each(?))"
    return [Entry.model_validate_json(row[0]) for row in db.execute(sql, (json.dumps(list(winners)),))]


def replaced(db: sqlite3.Connection) -> dict[str, str]:
    """Each entry that another one contradicts and wins over, and that other one."""
    sql = "SELECT id, json_extract(entry, '$.superseded_by') AS winner FROM entries WHERE winner <> ''"
    return dict(db.execute(sql))


def read(db: sqlite3.Connection, ids: Sequence[str]) -> dict[str, Entry]:
    """The entries of these ids that there are."""
    rows = db.execute("SELECT entry FROM entries WHERE id IN (SELECT value FROM json_each(?))", (json.dumps(ids),))
    return {entry.id: entry for entry in (Entry.model_validate_json(row[0]) for row in rows)}


def select(db: sqlite3.Connection, chosen: Filter, limit: int = -1, offset: int = 0) -> list[Entry]:
    """The entries that `chosen` lets through, newest first."""
    where, values = _where(chosen)
    rows = db.execute(
        f"SELECT entry FROM entries WHERE {where} ORDER BY created DESC, id DESC LIMIT ? OFFSET ?",  # noqa: S608
        (*values, limit, offset),
    )
    return [Entry.model_validate_json(row[0]) for row in rows]


def count(db: sqlite3.Connection, chosen: Filter | None = None) -> int:
    """How many entries `chosen` lets through; without it, all there are."""
    where, values = _where(chosen) if chosen else ("1", [])
    return int(db.execute(f"SELECT count(*) FROM entries WHERE {where}", values).fetchone()[0])  # noqa: S608


def empty(db: sqlite3.Connection) -> bool:
    """Whether nothing is remembered."""
    return db.execute("SELECT 1 FROM entries LIMIT 1").fetchone() is None


def passing(db: sqlite3.Connection, ids: Sequence[str], chosen: Filter) -> set[str]:
    """Those of `ids` that `chosen` lets through."""
    where, values = _where(chosen)
    sql = f"SELECT id FROM entries WHERE id IN (SELECT value FROM json_each(?)) AND {where}"  # noqa: S608
    return {row[0] for row in db.execute(sql, (json.dumps(list(ids)), *values))}


def cosines(
    db: sqlite3.Connection, vector: Any, chosen: Filter, waiting: bool = False, ids: Sequence[str] | None = None
) -> dict[str, float]:
    """The exact cosine of `vector` (unit length) with each entry that `chosen` lets through: of all of them, of those
    that wait for Chroma, or of `ids`."""
    import numpy as np

    where, values = _where(chosen)
    if waiting:
        where += " AND waiting = 1"
    if ids is not None:
        where += " AND id IN (SELECT value FROM json_each(?))"
        values.append(json.dumps(list(ids)))
    rows = db.execute(f"SELECT id, vector FROM entries WHERE {where}", values).fetchall()  # noqa: S608
    if not rows:
        return {}
    matrix = np.frombuffer(b"".join(row[1] for row in rows), np.float32).reshape(len(rows), -1)
    return dict(zip((row[0] for row in rows), (matrix @ np.asarray(vector, np.float32)).tolist(), strict=True))


def terms(query: str) -> list[str]:
    """The words of `query` that count, as FTS5 strings: 'D-17' stays one term, stop words go unless all are."""
    found = re.findall(r"[^\W_]+(?:[-_.:/'’][^\W_]+)*", query.casefold())
    telling = [word for word in found if word not in _STOP] or found
    return [f'"{word}"' for word in dict.fromkeys(telling)][:64]


def words(db: sqlite3.Connection, query: str, chosen: Filter, limit: int) -> list[tuple[str, float]]:
    """The ids of the entries that hold words of `query`, best first, with their BM25 score (more is better)."""
    wanted = terms(query)
    if not wanted:
        return []
    where, values = _where(chosen)
    sql = (
        "WITH found AS MATERIALIZED (SELECT rowid AS place, bm25(words, 1.0, 0.5) AS score FROM words "  # noqa: S608
        "WHERE words MATCH ? ORDER BY score LIMIT ?) SELECT id, score, (SELECT count(*) FROM found) "
        f"FROM found JOIN entries ON seq = place WHERE {where} ORDER BY score LIMIT ?"
    )
    for most in (4 * limit, -1):  # as a rule enough of the best pass the filter; if not, every match is looked at
        rows = db.execute(sql, (" OR ".join(wanted), most, *values, limit)).fetchall()
        if len(rows) == limit or (rows and rows[0][2] < most):
            break
    return [(id, -score) for id, score, _ in rows]


def matched(query: str, texts: dict[str, str]) -> dict[str, list[str]]:
    """Which words of `query` each of `texts` holds, by FTS5's own idea of a word."""
    found: dict[str, list[str]] = {key: [] for key in texts}
    keys = list(texts)
    db = sqlite3.connect(":memory:")
    try:
        db.execute("CREATE VIRTUAL TABLE words USING fts5 (text, tokenize='porter unicode61 remove_diacritics 2')")
        db.executemany("INSERT INTO words (rowid, text) VALUES (?, ?)", list(enumerate(texts.values())))
        for term in terms(query):
            for (row,) in db.execute("SELECT rowid FROM words WHERE words MATCH ?", (term,)):
                found[keys[row]].append(term.strip('"'))
    finally:
        db.close()
    return found


def _where(chosen: Filter) -> tuple[str, list[Any]]:
    """`chosen` as a condition on the table `entries`, and its values."""
    parts: list[str] = []
    values: list[Any] = []
    for column, allowed in (("kind", chosen.kinds), ("level", chosen.levels), ("status", chosen.statuses)):
        if allowed:
            parts.append(f"{column} IN ({', '.join('?' * len(allowed))})")
            values += allowed
    if not chosen.statuses:
        parts.append("status <> 'archived'")
    for tag in chosen.tags:
        first, last = (tag[:-1], tag[:-1] + "\U0010ffff") if tag.endswith("*") else (tag, tag)
        parts.append("seq IN (SELECT seq FROM tags WHERE tag BETWEEN ? AND ?)")
        values += [first, last]
    if chosen.source:
        parts.append("source = ?")
        values.append(chosen.source)
    for sign, moment in ((">=", chosen.since), ("<", chosen.until)):
        if moment is not None:
            parts.append(f"created {sign} ?")
            values.append(moment.isoformat(timespec="microseconds"))
    return " AND ".join(parts) or "1", values


def _broken(path: Path, error: Exception) -> LooptuneError:
    """What SQLite's `error` means for the reader."""
    reason = f"{type(error).__name__}: {str(error)[:300]}"
    if "is full" in reason or "No space left" in reason:
        return LimitError(
            f"No space left on the disk of {path}; nothing was kept ({reason}).", "free some space, then repeat"
        )
    if "locked" in reason:
        return ConflictError(f"Another program has the memory in {path} open ({reason}).", "close it, and try again")
    return InputError(
        f"The memory in {path.parent} is broken: {path.name} cannot be read ({reason}).",
        f"put a backup in its place, or move {path.name} (with its -wal and -shm) away: what the index beside it "
        "holds is then read back by `looptune memory reindex`",
    )
