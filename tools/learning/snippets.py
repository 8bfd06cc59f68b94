"""The labelled snippets of datasets/insights, and what is found in them.

outcome = judge(read_snippets("tuning")[0])     # how many candidates there were, and how many were expected
"""

import yaml
from pydantic import BaseModel, ConfigDict

from tools.learning.detect import find_candidates
from tools.memory.entries import SURE
from tools.settings import shipped_data

PARTS = ("tuning", "unseen", "later")


class Snippet(BaseModel):
    """What an agent might pass; `expect` has, for each insight in it, words that its text has to hold."""

    model_config = ConfigDict(extra="forbid")

    id: str
    text: str
    expect: list[list[str]]


class Outcome(BaseModel):
    """How many candidates were found and right, and of those that are kept without a question; `told` shows them."""

    found: int
    right: int
    sure: int
    sure_right: int
    whole: bool
    told: list[str]


def read_snippets(part: str) -> list[Snippet]:
    """The snippets of `tuning` or `unseen`."""
    path = shipped_data() / "insights" / f"{part}.yaml"
    return [Snippet.model_validate(value) for value in yaml.safe_load(path.read_text(encoding="utf-8"))]


def judge(snippet: Snippet) -> Outcome:
    """Compare what is found with what is expected; each expected insight counts once."""
    open_ones = [[word.casefold() for word in words] for words in snippet.expect]
    outcome = Outcome(found=0, right=0, sure=0, sure_right=0, whole=False, told=[])
    for candidate in find_candidates(snippet.text):
        text = candidate.text.casefold()
        hit = next((words for words in open_ones if all(word in text for word in words)), None)
        if hit is not None:
            open_ones.remove(hit)
        sure = candidate.confidence >= SURE
        outcome.found += 1
        outcome.right += hit is not None
        outcome.sure += sure
        outcome.sure_right += sure and hit is not None
        outcome.told.append(f"{candidate.confidence} {candidate.kind} {candidate.text!r} ({candidate.why})")
    outcome.whole = not open_ones and outcome.found == outcome.right
    return outcome
