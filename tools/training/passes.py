"""Packs through a model, side by side: their loss, and the gradients of its adapter.

    passes = Passes(model, config)
    for group in passes.groups(rows):      # one group at a time is in memory
        loss, gradients = passes.gradients(group, trained)

By hand where that fits (tools.training.fast), by MLX's autodiff everywhere else (tools.training.ways).
"""

from collections.abc import Callable, Sequence
from pathlib import Path
from typing import Any

import mlx.core as mx
import mlx.nn as nn
from mlx.utils import tree_map

from tools.data.tokens import EncodedRow
from tools.models.blas import shared_by
from tools.models.load import device, load
from tools.training import fast, packed, plain
from tools.training.config import TrainingConfig
from tools.training.packed import Pack
from tools.training.ways import Way


def load_for_training(base: Path, config: TrainingConfig) -> tuple[Any, Any]:
    """The base and its tokenizer. On a CPU a 4-bit base stays packed when the fast path unpacks it as it goes, and is
    unpacked as a whole otherwise."""
    model, tokenizer = load(base, packed=True)
    return (model, tokenizer) if device() != "cpu" or fast.fits(model, config.dropout) else load(base)


class Passes:
    """How a model's packs pass through it on this device: by which way, and how many side by side (`lanes`)."""

    def __init__(self, model: Any, config: TrainingConfig) -> None:
        self.model, self.checkpointing = model, config.gradient_checkpointing
        self.pack_tokens = config.pack_tokens
        self.way: Way = "autodiff, row by row"
        self._loss: Callable[..., mx.array] = plain.pack_loss
        if device() == "cpu" and fast.fits(model, config.dropout):
            self.way, self._loss = "by hand", fast.pack_loss
        elif packed.fits(model):
            self.way, self._loss = "autodiff, packed", packed.pack_loss
        self.fast = self.way == "by hand"
        self._alone = self._loss is plain.pack_loss
        unpacks = any("scales" in part for part in model.modules())
        self.lanes = 1 if self._alone else packed.lanes(device(), unpacks)
        self._streams = [mx.new_stream(mx.default_device()) for _ in range(self.lanes)]

    def groups(self, rows: Sequence[EncodedRow]) -> list[list[Pack]]:
        """The rows of one step as they pass through the model."""
        return packed.groups_of(rows, self.pack_tokens, self.lanes, self._alone)

    def _each(self, group: list[Pack], do: Callable[[Pack], Any]) -> list[Any]:
        """What `do` gives for each pack, still to be evaluated, each on a stream of its own."""
        found = []
        for pack, stream in zip(group, self._streams, strict=False):
            with mx.stream(stream):
                found.append(do(pack))
        return found

    def gradients(self, group: list[Pack], trained: int) -> tuple[float, Any]:
        """The loss of a group, its share of the mean over `trained` tokens, and the gradients of that."""
        function = nn.value_and_grad(
            self.model, lambda pack: self._loss(self.model, pack, self.checkpointing) / trained
        )
        (loss, gradients), *others = self._each(group, function)
        for other, more in others:
            loss, gradients = loss + other, tree_map(mx.add, gradients, more)
        with shared_by(len(group)):
            mx.eval(loss, gradients)
        return float(loss.item()), gradients

    def loss(self, group: list[Pack]) -> float:
        """The summed loss of a group."""
        found = self._each(group, lambda pack: self._loss(self.model, pack))
        with shared_by(len(group)):
            mx.eval(found)
        return sum(float(loss.item()) for loss in found)
