"""The processes that train together, and what they tell each other. A group of one says nothing.

    group = Group.of(config)                 # in each process that mlx.launch started (tools.training.parallel)
    mine = parts(rows, group.size)[group.rank]
    gradients = group.sum(gradients)         # a tree of arrays; the same bits in every process
    group.most(len(packs)), group.total(3)   # of one number

Each process passes its part of a step's rows through the model, with the loss divided by the trained tokens of the
whole step, so the sum of the gradients is the gradient of the whole step, however unlike the parts are. The first
process leads: it alone writes.
"""

from collections.abc import Sequence
from typing import Any

from tools.data.tokens import EncodedRow
from tools.training.config import TrainingConfig


class Group:
    """Ranks 0 to size - 1; `lead` is true in the one that writes."""

    def __init__(self, size: int = 1) -> None:
        """Raises RuntimeError when the other processes cannot be reached."""
        self.rank, self.size = 0, size
        self._group: Any = None
        if size > 1:
            import mlx.core as mx

            self._group = mx.distributed.init(strict=True, backend="ring")
            self.rank, self.size = self._group.rank(), self._group.size()

    @classmethod
    def of(cls, config: TrainingConfig) -> "Group":
        """The group of a training's processes."""
        return cls(config.processes)

    @property
    def lead(self) -> bool:
        return self.rank == 0

    def sum(self, tree: Any) -> Any:
        """The sum of every process's `tree`, in one message."""
        if self._group is None:
            return tree
        import mlx.core as mx
        from mlx.utils import tree_flatten, tree_unflatten

        leaves = tree_flatten(tree)
        joined = mx.concatenate([leaf.astype(mx.float32).flatten() for _, leaf in leaves])
        summed = mx.distributed.all_sum(joined, group=self._group)
        mx.eval(summed)
        found, begin = [], 0
        for name, leaf in leaves:
            found.append((name, summed[begin : begin + leaf.size].reshape(leaf.shape).astype(leaf.dtype)))
            begin += leaf.size
        return tree_unflatten(found)

    def total(self, number: float) -> float:
        """The sum of every process's number, in f32."""
        return self._reduced("all_sum", number)

    def most(self, number: float) -> float:
        """The largest of every process's numbers, in f32."""
        return self._reduced("all_max", number)

    def _reduced(self, how: str, number: float) -> float:
        if self._group is None:
            return number
        import mlx.core as mx

        return float(getattr(mx.distributed, how)(mx.array([number], mx.float32), group=self._group).item())


def parts(rows: Sequence[EncodedRow], size: int) -> list[list[EncodedRow]]:
    """The rows of a step dealt out to `size` processes, about equally many tokens to each, in their order."""
    if size == 1:
        return [list(rows)]
    places: list[list[int]] = [[] for _ in range(size)]
    tokens = [0] * size
    for place in sorted(range(len(rows)), key=lambda i: (-len(rows[i].ids), i)):
        least = tokens.index(min(tokens))
        places[least].append(place)
        tokens[least] += len(rows[place].ids)
    return [[rows[place] for place in sorted(part)] for part in places]
