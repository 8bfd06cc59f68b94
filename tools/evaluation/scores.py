"""Shares with their uncertainty, and two tests of whether a difference means anything.

score(45, 50)                       # Score(right=45, total=50, share=0.9, low=0.786, high=0.9565)
sign_test(fixed=12, broken=1)       # 0.0034: chance alone seldom mends 12 and breaks 1
dealt_test(rights)                  # the chance that answers dealt at random would do as well

Nothing heavy is imported here, since the tools' signatures are: the server has them when it starts.
"""

import math
import random
from collections.abc import Sequence
from statistics import NormalDist
from typing import Literal

from pydantic import BaseModel, Field

# Which probes to look at, by what became of them.
Only = Literal["changed", "fixed", "broken", "wrong", "all"]
_DEALS = 2000


class Verdict(BaseModel):
    """An agent's judgement of the answer of model `label` to probe `id`."""

    id: str = Field(max_length=200)
    label: str = Field(max_length=64)
    right: bool
    reason: str = Field(default="", max_length=500)


class Score(BaseModel):
    """How many of how many were right, as a share with its 95 % interval; None where nothing was asked."""

    right: int
    total: int
    share: float | None
    low: float
    high: float


def score(right: int, total: int) -> Score:
    """The share of `right` among `total`, with Wilson's interval."""
    low, high = wilson(right, total)
    share = round(right / total, 4) if total else None
    return Score(right=right, total=total, share=share, low=round(low, 4), high=round(high, 4))


def wilson(right: int, total: int, confidence: float = 0.95) -> tuple[float, float]:
    """The score interval of a share: (p + z²/2n ± z √(p(1-p)/n + z²/4n²)) / (1 + z²/n).

    E. B. Wilson, "Probable inference, the law of succession, and statistical inference", Journal of the American
    Statistical Association 22 (1927), 209-212. Unlike p ± z·√(p(1-p)/n) it stays within 0 and 1, and says something
    when all or none were right.
    """
    if not total:
        return 0.0, 1.0
    z, p = NormalDist().inv_cdf(0.5 + confidence / 2), right / total
    middle = p + z * z / (2 * total)
    reach = z * math.sqrt(p * (1 - p) / total + z * z / (4 * total * total))
    divisor = 1 + z * z / total
    low, high = (middle - reach) / divisor, (middle + reach) / divisor
    return (0.0 if right == 0 else max(0.0, low)), (1.0 if right == total else min(1.0, high))


def sign_test(fixed: int, broken: int) -> float:
    """The two-sided exact probability of a split at least as uneven when a change mends or breaks with even chances.

    Q. McNemar, "Note on the sampling error of the difference between correlated proportions or percentages",
    Psychometrika 12 (1947), 153-157, in its exact (binomial) form; the probes that stayed as they were say nothing.
    """
    changed = fixed + broken
    tail = sum(math.comb(changed, k) for k in range(min(fixed, broken) + 1))
    return float(min(1.0, 2 * tail / 2**changed))


def dealt_test(rights: Sequence[Sequence[bool]], seed: int = 0) -> float:
    """The probability that answers dealt to the questions at random would be right as often as they are.

    A permutation test (R. A. Fisher, The Design of Experiments, 1935, §21; p = (1 + as good) / (1 + deals), so that
    it is never 0). A model that says one thing to everything, or labels that were shuffled, give a p near 1.

    Args:
        rights: `rights[question][answer]`, whether that question's graders let that question's answer pass.
    """
    count = len(rights)
    if count < 2:
        return 1.0
    dice = random.Random(seed)
    observed = sum(rights[i][i] for i in range(count))
    as_good, order = 0, list(range(count))
    for _ in range(_DEALS):
        dice.shuffle(order)
        as_good += sum(rights[i][j] for i, j in enumerate(order)) >= observed
    return round((1 + as_good) / (1 + _DEALS), 4)
