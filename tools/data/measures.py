"""How diverse a set of rows is, as figures with bars.

    figures = measure(train, valid)
    missed(figures)                 # the bars that are not reached, in words

As a reference, 999 rows of Alpaca (LLaMA-Factory's alpaca_en_demo.json) score: distinct 4-grams 0.91, gzip ratio 2.7,
outputs with a neighbour above 0.8 in 3.5 % of rows. Similarity is the cosine of TF-IDF vectors over words and pairs of
words (scikit-learn's weighting).
"""

from collections.abc import Sequence

from tools.data.examples import Example
from tools.data.profile import Profile

# name → (the bar, whether the figure has to stay at or below it)
BARS: dict[str, tuple[float, bool]] = {
    "exact_duplicates": (0, True),
    "prompts_above_0.9": (0.01, True),
    "outputs_above_0.9": (0.02, True),
    "outputs_above_0.8": (0.08, True),
    "distinct_4grams": (0.55, False),
    "gzip_ratio": (4.0, True),
    "commonest_opening": (0.03, True),
    "largest_template": (0.02, True),
    "pairs_across_split_above_0.8": (0, True),
    "phrasings_on_both_sides": (0, True),
}


def measure(train: Sequence[Example], valid: Sequence[Example]) -> dict[str, float]:
    """The figures that `BARS` names; shares are of all rows, from 0 to 1. There has to be a row."""
    rows = [*train, *valid]
    questions, answers = [row.question for row in rows], [row.answer for row in rows]
    profile = Profile()
    for row in rows:
        profile.add(row)
    figures = profile.figures()
    sides = [{phrasing(row) for row in side} for side in (train, valid)]
    across = [p for texts in (questions, answers) for p in _alike(texts, 0.8) if p[0] < len(train) <= p[1]]
    return {
        "exact_duplicates": len(questions) - len(set(questions)),
        **{name: share for name, share in figures["neighbours"].items() if name in BARS},
        "distinct_4grams": figures["distinct_4grams"],
        "gzip_ratio": round(figures["gzip_ratio"], 1),  # zlib builds differ in the second decimal
        "commonest_opening": figures["commonest_opening"]["share"],
        "largest_template": figures["largest_template"]["share"],
        "pairs_across_split_above_0.8": len(across),
        "phrasings_on_both_sides": len(sides[0] & sides[1]),
    }


def missed(figures: dict[str, float]) -> list[str]:
    """The bars that `figures` do not reach."""
    return [
        f"{name} is {figures[name]:g}, it has to be at {'most' if at_most else 'least'} {bar:g}"
        for name, (bar, at_most) in BARS.items()
        if (figures[name] > bar if at_most else figures[name] < bar)
    ]


def phrasing(row: Example) -> tuple[str, str]:
    """What rows share that say the same in other words: the card and the exchange or question they were made of."""
    return row.provenance.card, row.provenance.template.partition("+")[0]


def _alike(texts: Sequence[str], threshold: float) -> list[tuple[int, int, float]]:
    from tools.data.similar import find_alike

    return find_alike(texts, threshold)
