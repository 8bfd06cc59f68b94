"""Find memories: by meaning (the nearest vectors) and by words (BM25), in one score that says why.

    found = search(db, index, "how do we store prices?", Filter(), limit=5)
    found.hits[0].why       # 'meaning 0.61; words: prices'

The score is the cosine and BM25, weighted (`MEANING`); BM25, which has no upper end, is brought into 0 to 1 by
b / (b + 10). benchmarks/memory.py compares this with each of the two alone on questions over the cards: with weights
of 0.5 to 0.7 and 5 to 20 in place of 10 it is better than both, so that nothing hangs on these two numbers.
"""

import sqlite3
from typing import Literal

from pydantic import BaseModel, Field

from tools.memory import ledger
from tools.memory.embedder import count_tokens, embed
from tools.memory.entries import Entry, Filter
from tools.memory.index import Index

Ways = Literal["hybrid", "meaning", "words"]
MEANING = 0.65  # the cosine's weight in the score; the words have the rest
_HALF = 10.0  # the BM25 score that counts half

_NEAREST = 200  # what Chroma is asked for first; a filter may leave less
_BY_WORDS = 100
_LOSES = 0.5  # an entry that another contradicts and wins over counts this much


class Hit(Entry):
    """An entry that was found."""

    score: float = Field(description="0 to 1, more is better")
    similarity: float = Field(ge=-1, le=1, description="cosine; 1 is the same meaning")
    words: list[str] = Field(description="the words of the query that it holds")
    why: str


class Found(BaseModel):
    """What a query found, best first."""

    hits: list[Hit]
    left_out: int = Field(description="hits that the token budget had no room for")
    tokens: int = Field(description="of the hits' texts together, in word pieces")


def search(
    db: sqlite3.Connection,
    index: Index,
    query: str,
    chosen: Filter,
    limit: int,
    min_similarity: float | None = None,
    max_tokens: int | None = None,
    ways: Ways = "hybrid",
) -> Found:
    """The entries that `chosen` lets through and that are most alike to `query`, `limit` of them at most."""
    if ledger.empty(db):
        return Found(hits=[], left_out=0, tokens=0)
    vector = embed([query])[0]
    by_meaning = nearest(db, index, vector, chosen, max(limit, 50)) if ways != "words" else {}
    by_words = dict(ledger.words(db, query, chosen, _BY_WORDS)) if ways != "meaning" else {}
    missing = [id for id in by_words if id not in by_meaning]
    similarity = by_meaning | (ledger.cosines(db, vector, chosen, ids=missing) if missing else {})
    weight = {"hybrid": MEANING, "meaning": 1.0, "words": 0.0}[ways]
    score = {
        id: weight * max(0.0, cosine) + (1 - weight) * by_words.get(id, 0.0) / (by_words.get(id, 0.0) + _HALF)
        for id, cosine in similarity.items()
        if min_similarity is None or cosine >= min_similarity
    }
    ranked = sorted(score, key=lambda id: (-score[id], id))[: limit * 2]
    entries = ledger.read(db, ranked)
    for id, entry in entries.items():
        score[id] *= _LOSES if entry.superseded_by else 1.0
    ranked = sorted(entries, key=lambda id: (-score[id], id))[:limit]
    return _told(query, [entries[id] for id in ranked], score, similarity, max_tokens)


def nearest(db: sqlite3.Connection, index: Index, vector: list[float], chosen: Filter, want: int) -> dict[str, float]:
    """The cosines of at least `want` entries (if there are as many) nearest to `vector` that `chosen` lets through."""
    most = max(_NEAREST, want)
    near = dict(index.nearest(db, vector, most))
    allowed = ledger.passing(db, list(near), chosen)
    found = {id: cosine for id, cosine in near.items() if id in allowed}
    if len(near) == most and len(found) < want:  # the filter is narrow: look at everything it lets through
        return ledger.cosines(db, vector, chosen)
    return found | ledger.cosines(db, vector, chosen, waiting=True)


def _told(
    query: str, entries: list[Entry], score: dict[str, float], similarity: dict[str, float], max_tokens: int | None
) -> Found:
    """`entries` with their scores and reasons, as far as the budget goes."""
    texts = {entry.id: f"{entry.text} {' '.join(entry.tags).replace('_', ' ')}" for entry in entries}
    words = ledger.matched(query, texts)
    sizes = count_tokens([entry.text for entry in entries]) if entries else []
    hits: list[Hit] = []
    used = 0
    for entry, size in zip(entries, sizes, strict=True):
        if max_tokens is not None and used + size > max_tokens:
            continue
        used += size
        cosine = max(-1.0, min(1.0, similarity[entry.id]))
        why = f"meaning {cosine:.2f}" + (f"; words: {', '.join(words[entry.id][:8])}" if words[entry.id] else "")
        if entry.superseded_by:
            why += f"; contradicted by {entry.superseded_by}, which holds"
        hits.append(
            Hit(
                **entry.model_dump(),
                score=round(score[entry.id], 4),
                similarity=cosine,
                words=words[entry.id],
                why=why,
            )
        )
    return Found(hits=hits, left_out=len(entries) - len(hits), tokens=used)
