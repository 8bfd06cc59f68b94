"""Which rows a step and an evaluation take, and at which rate: pure functions of the config, the seed and the step.

batch_places(100, config, step=3)     # the places of step 3's rows among 100
valid_places(437, seed=42)            # those of the rows that the validation loss is measured on
learning_rate(config, step=3, steps=40)
"""

import math
import random

from tools.training.config import TrainingConfig

VALID_ROWS = 32  # the validation loss is measured on at most so many rows


def data_order(rows: int, seed: int, epoch: int) -> list[int]:
    """The order of rows in an epoch: a pure function of its arguments."""
    order = list(range(rows))
    random.Random(f"{seed}:{epoch}").shuffle(order)
    return order


def batch_places(rows: int, config: TrainingConfig, step: int) -> list[int]:
    """The places of the rows of step `step` (from 0); a batch may span two epochs, and no row is ever left out."""
    places = range(step * config.batch_size, (step + 1) * config.batch_size)
    orders = {epoch: data_order(rows, config.seed, epoch) for epoch in {p // rows for p in places}}
    return [orders[p // rows][p % rows] for p in places]


def valid_places(rows: int, seed: int) -> list[int]:
    """The places of at most VALID_ROWS rows, taken evenly over a split of `rows` from a beginning that the seed gives.

    A split stands in the order of its kinds, so its first rows would be of one kind.
    """
    count = min(rows, VALID_ROWS)
    begin = random.Random(f"{seed}:valid").randrange(max(rows, 1))
    return [(number * rows + begin) // count for number in range(count)]


def step_count(rows: int, config: TrainingConfig) -> int:
    """Optimizer steps of a whole training."""
    return max(1, math.ceil(rows * config.epochs / config.batch_size))


def learning_rate(config: TrainingConfig, step: int, steps: int) -> float:
    """The rate of step `step` (from 0): linear warm-up, then constant or a cosine down to a fiftieth."""
    warmup = min(config.warmup_steps, steps - 1)
    if step < warmup:
        return config.learning_rate * (step + 1) / (warmup + 1)
    if config.schedule == "constant":
        return config.learning_rate
    done = (step - warmup) / max(1, steps - warmup)
    return config.learning_rate * (0.02 + 0.98 * 0.5 * (1 + math.cos(math.pi * done)))
