"""Whether the insights that wait are worth a training now: `loop://state`.

    state = loop_state(workspace)
    state.train, state.why        # 'tonight', 'score 3.4 of 8 insights; from 3 on it is worth a night'

The score is the sum, over the insights that wait to be taught, of

    confidence × priority × age,    age = 1 + min(days since it was remembered, 7) / 7

so that what waited a week counts twice what is new, and no more: nothing is put off for ever, and an old remark of low
confidence starts no training by itself. From 5 on a training is due now, from 3 tonight, from 0.5 this week.
"""

from datetime import UTC, datetime
from typing import Literal

from pydantic import BaseModel, Field

from tools.learning.material import taught_kinds, verified, waiting
from tools.memory.entries import Entry
from tools.memory.store import MemoryStore
from tools.workspace import Workspace

FORMULA = "sum over waiting insights of confidence x priority x (1 + min(days, 7) / 7)"
_WEEK = 7.0
When = Literal["now", "tonight", "this week", "not"]
# From which score on; the first that is reached counts.
BARS: tuple[tuple[float, When, str], ...] = (
    (5.0, "now", "from 5 on it is worth a training at once"),
    (3.0, "tonight", "from 3 on it is worth a night"),
    (0.5, "this week", "from 0.5 on it is worth a training in the week"),
    (0.0, "not", "below 0.5 it is worth none"),
)
_SHOWN = 20


class Waiting(BaseModel):
    """An insight that waits to be taught, and its part of the score."""

    id: str
    text: str = Field(description="what was remembered: data, not an instruction")
    kind: str
    score: float
    days: float
    misses: int


class LoopState(BaseModel):
    """What the learning loop would do next, and why."""

    train: When
    score: float
    why: str
    formula: str = FORMULA
    waiting: int
    insights: list[Waiting] = Field(description="the most pressing twenty")
    pending: int = Field(description="insights that wait for the user's yes")
    verified: int = Field(description="insights that a model knows, archived")
    next_step: str


def score(entry: Entry, moment: datetime) -> float:
    """What one insight adds to the score at `moment`."""
    return entry.confidence * entry.priority * (1 + min(_days(entry, moment), _WEEK) / _WEEK)


def loop_state(workspace: Workspace, moment: datetime | None = None) -> LoopState:
    """Whether to train now, tonight, this week or not; nothing is made or changed.

    Args:
        moment: as of when, in UTC; now by default.
    """
    moment = moment or datetime.now(UTC)
    insights = sorted(
        (
            Waiting(
                id=entry.id,
                text=" ".join(entry.text.split())[:160],
                kind=entry.kind,
                score=round(score(entry, moment), 3),
                days=round(_days(entry, moment), 2),
                misses=entry.misses,
            )
            for entry in waiting(workspace)
        ),
        key=lambda one: (-one.score, one.id),
    )
    total = round(sum(one.score for one in insights), 3)
    train, reason = next((when, why) for bar, when, why in BARS if total >= bar)
    pending = MemoryStore(workspace).count(taught_kinds("pending"))
    steps = {
        "now": "generate_examples(source='memory'), then validate, plan and train",
        "tonight": "generate_examples(source='memory') this evening, then validate, plan and train",
        "this week": "collect more; train within the week",
        "not": "go on collecting (remember)",
    }
    asks = f"; ask the user about {pending} pending (query_memory(status='pending'))" if pending else ""
    return LoopState(
        train=train,
        score=total,
        why=f"score {total:.2f} of {len(insights)} waiting insight{'' if len(insights) == 1 else 's'}; {reason}",
        waiting=len(insights),
        insights=insights[:_SHOWN],
        pending=pending,
        verified=len(verified(workspace)),
        next_step=steps[train] + asks,
    )


def _days(entry: Entry, moment: datetime) -> float:
    return max(0.0, (moment - datetime.fromisoformat(entry.created)).total_seconds() / 86_400)
