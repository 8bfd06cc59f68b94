"""Texts that are alike: questions that differ by little more than spelling, and texts of the same words.

    find_similar(["What does 42 mean?"], ["what does 42  mean"])     # [(0, 0, 1.0)]
    find_earlier(["What does 42 mean?", "what does 42  mean"], 1)    # [(1, 0, 1.0)]
    find_alike(["return a + b", "return a + b;", "no"], 0.8)         # [(0, 1, 0.8…)]

The first measure is the Jaccard index of the sets of character trigrams, in lower case and with single spaces (Broder
1997, "On the resemblance and containment of documents"): shared trigrams / all trigrams. The second is the cosine of
TF-IDF vectors over words and pairs of words.
"""

import re
from collections.abc import Iterator, Sequence
from typing import Any
from zlib import crc32

_TOKEN = re.compile(r"\w+|[^\w\s]")
_COMMON = 50  # a term is common that more than one text in so many has
_CHUNK, _MANY = 500, 50_000  # rows at a time; pairs of them from which on all are multiplied with all
NEAR = 0.7  # from here on two questions count as near-duplicates


def find_similar(these: Sequence[str], those: Sequence[str], threshold: float = NEAR) -> list[tuple[int, int, float]]:
    """For each of `these` that is near one of `those`: its index, the index of the nearest, their similarity."""
    if not these or not those:
        return []
    return _nearest(_jaccard(these, those), threshold)


def find_earlier(texts: Sequence[str], start: int, threshold: float = NEAR) -> list[tuple[int, int, float]]:
    """For each of `texts` from `start` on that is near one before it: both indices, the earlier second, and their
    similarity."""
    if start >= len(texts):
        return []
    import numpy as np

    similarity = _jaccard(texts[start:], texts)
    similarity[np.triu_indices_from(similarity, k=start)] = -1  # itself, and what comes after it
    return [(i + start, j, s) for i, j, s in _nearest(similarity, threshold)]


def _jaccard(these: Sequence[str], those: Sequence[str]) -> Any:
    """The similarity of each of `these` with each of `those`, a row for each of `these`."""
    import numpy as np
    from sklearn.feature_extraction.text import CountVectorizer

    def normal(text: str) -> str:
        return f" {' '.join(text.casefold().split())} "

    vectorizer = CountVectorizer(analyzer="char", ngram_range=(3, 3), binary=True, preprocessor=normal)
    vectorizer.fit([*these, *those])
    left, right = vectorizer.transform(these), vectorizer.transform(those)
    shared = np.asarray((left @ right.T).todense(), dtype=np.float64)
    sizes = np.asarray(left.sum(axis=1)) + np.asarray(right.sum(axis=1)).T
    return shared / (sizes - shared)


def _nearest(similarity: Any, threshold: float) -> list[tuple[int, int, float]]:
    nearest = similarity.argmax(axis=1)
    return [(i, int(j), float(similarity[i, j])) for i, j in enumerate(nearest) if similarity[i, j] >= threshold]


def token_hashes(text: str) -> Any:
    """A hash of 32 bits for each word and sign of `text`, in lower case: code is made of signs as well as words."""
    import numpy as np

    words = _TOKEN.findall(text.lower())
    return np.fromiter(map(crc32, map(str.encode, words)), np.uint32, len(words))


def tf_idf(texts: Sequence[Any]) -> Any:
    """A sparse matrix with the TF-IDF vector of each text (its `token_hashes`), over words and pairs of words.

    The weighting is that of scikit-learn's TfidfVectorizer: count · (ln((1 + texts) / (1 + texts with it)) + 1), each
    vector of length 1. The columns are in the order of how many texts have them.
    """
    import numpy as np
    from scipy.sparse import csr_array

    count = len(texts)
    words = np.concatenate(texts).astype(np.uint64)
    rows = np.repeat(np.arange(count), [len(text) for text in texts])
    inside = rows[:-1] == rows[1:]
    pairs = ((words[:-1] * np.uint64(0x9E3779B97F4A7C15)) ^ (words[1:] + np.uint64(0xD1B54A32D192ED03)))[inside]
    _, terms = np.unique(np.concatenate([words, pairs]), return_inverse=True)
    places, times = np.unique(terms * count + np.concatenate([rows, rows[:-1][inside]]), return_counts=True)
    terms, rows = np.divmod(places, count)
    having = np.bincount(terms)
    weights = times * (np.log((1 + count) / (1 + having)) + 1)[terms]
    weights /= np.sqrt(np.bincount(rows, weights**2, count))[rows]
    rank = np.empty(len(having), np.int64)
    rank[np.argsort(having, kind="stable")] = np.arange(len(having))
    return csr_array((weights, (rows, rank[terms])), shape=(count, len(having)))


def alike(vectors: Any, threshold: float) -> Iterator[tuple[Any, Any, Any]]:
    """Every pair of rows of `vectors` (see `tf_idf`) whose cosine is at least `threshold`, as three arrays at a time:
    the first rows, the second rows (which are greater), and the cosines.

    A cosine is what the rare terms give, which few rows share, and what the common ones can give at most: the product
    of the lengths of both rows' common parts. Only pairs that can reach the threshold so are multiplied in full; the
    result is the same as that of all with all.
    """
    import numpy as np

    count = vectors.shape[0]
    having = np.bincount(vectors.indices, minlength=vectors.shape[1])
    cut = int(np.searchsorted(having, max(2, count // _COMMON), side="right"))
    rare, common = vectors[:, :cut], vectors[:, cut:]
    most = np.sqrt(common.multiply(common).sum(axis=1))
    plain = np.flatnonzero(most >= threshold)  # the common part alone may be enough
    by_rare, by_all = rare.T.tocsr(), vectors.T.tocsr()
    of_plain = by_all[:, plain]
    for begin in range(0, count, _CHUNK):
        own = plain[(plain >= begin) & (plain < begin + _CHUNK)]
        shared = (rare[begin : begin + _CHUNK] @ by_rare).tocoo()
        one, other = shared.coords[0] + begin, shared.coords[1]
        able = (one < other) & (shared.data >= threshold - most[one] * most[other])
        one, other = one[able], other[able]
        if len(one) + len(own) * len(plain) > _MANY:
            full = (vectors[begin : begin + _CHUNK] @ by_all).tocoo()
            one, other, cosines = full.coords[0] + begin, full.coords[1], full.data
        else:
            among = (vectors[own] @ of_plain).tocoo()
            cosines = np.concatenate([among.data, vectors[one].multiply(vectors[other]).sum(axis=1)])
            one = np.concatenate([own[among.coords[0]], one])
            other = np.concatenate([plain[among.coords[1]], other])
        near = (one < other) & (cosines >= threshold)
        places, first = np.unique(one[near] * count + other[near], return_index=True)
        yield places // count, places % count, cosines[near][first]


def find_alike(texts: Sequence[str], threshold: float) -> list[tuple[int, int, float]]:
    """Pairs of `texts` whose TF-IDF vectors (see `tf_idf`) have at least this cosine: both indices, the smaller first,
    and the cosine."""
    hashes = [token_hashes(text) for text in texts]
    if sum(map(len, hashes)) == 0:
        return []
    import numpy as np

    found: list[tuple[int, int, float]] = []
    for one, other, cosines in alike(tf_idf(hashes), threshold):
        found += zip(one.tolist(), other.tolist(), np.round(cosines, 4).tolist(), strict=True)
    return found


def nearest(hashes: Sequence[Any], threshold: float) -> Any:
    """For each text (its `token_hashes`) the cosine of its nearest neighbour, rounded to four
    places; 0 when that is below `threshold`."""
    import numpy as np

    best = np.zeros(len(hashes))
    if sum(map(len, hashes)):
        for one, other, cosines in alike(tf_idf(hashes), threshold):
            np.maximum.at(best, one, cosines)
            np.maximum.at(best, other, cosines)
    return np.round(best, 4)
