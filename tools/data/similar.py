"""Near-duplicates: questions that differ by little more than spelling.

    find_similar(["What does 42 mean?"], ["what does 42  mean"])     # [(0, 0, 1.0)]

The measure is the Jaccard index of the sets of character trigrams, in lower case and with single spaces (Broder 1997,
"On the resemblance and containment of documents"): shared trigrams / all trigrams.
"""

from collections.abc import Sequence

NEAR = 0.7  # from here on two questions count as near-duplicates


def find_similar(these: Sequence[str], those: Sequence[str], threshold: float = NEAR) -> list[tuple[int, int, float]]:
    """For each of `these` that is near one of `those`: its index, the index of the nearest, their similarity."""
    if not these or not those:
        return []
    import numpy as np
    from sklearn.feature_extraction.text import CountVectorizer

    def normal(text: str) -> str:
        return f" {' '.join(text.casefold().split())} "

    vectorizer = CountVectorizer(analyzer="char", ngram_range=(3, 3), binary=True, preprocessor=normal)
    vectorizer.fit([*these, *those])
    left, right = vectorizer.transform(these), vectorizer.transform(those)
    shared = np.asarray((left @ right.T).todense(), dtype=np.float64)
    sizes = np.asarray(left.sum(axis=1)) + np.asarray(right.sum(axis=1)).T
    similarity = shared / (sizes - shared)
    nearest = similarity.argmax(axis=1)
    return [(i, int(j), float(similarity[i, j])) for i, j in enumerate(nearest) if similarity[i, j] >= threshold]


def find_alike(texts: Sequence[str], threshold: float) -> list[tuple[int, int, float]]:
    """Pairs of `texts` whose TF-IDF vectors (words and pairs of words, scikit-learn's weighting) have at least this
    cosine: both indices, the smaller first, and the cosine."""
    if len(texts) < 2:
        return []
    import numpy as np
    from sklearn.feature_extraction.text import TfidfVectorizer

    words = r"(?u)\b\w+\b|[^\w\s]"  # code is made of signs as well as words
    vectors = TfidfVectorizer(ngram_range=(1, 2), token_pattern=words).fit_transform(texts)
    found: list[tuple[int, int, float]] = []
    for begin in range(0, len(texts), 1000):
        near = (vectors[begin : begin + 1000] @ vectors.T).tocoo()
        keep = (near.data >= threshold) & (near.row + begin < near.col)
        found += zip(
            (near.row[keep] + begin).tolist(),
            near.col[keep].tolist(),
            np.round(near.data[keep], 4).tolist(),
            strict=True,
        )
    return sorted(found)
