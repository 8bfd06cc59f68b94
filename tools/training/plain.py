"""One row at a time through any model that mlx-lm can train, by MLX's autodiff: nothing is known of its insides.

loss = pack_loss(model, pack, checkpointing)      # a pack of one row
"""

from collections.abc import Iterator
from contextlib import contextmanager
from functools import cache
from typing import Any

import mlx.core as mx
import mlx.nn as nn

from tools.training.packed import Pack


def pack_loss(model: Any, pack: Pack, checkpointing: bool = False) -> mx.array:
    """The sum of the cross-entropies of the trained tokens of a pack that holds one row, in nats."""
    ids = mx.array(pack.tokens)[None]
    if checkpointing:
        with _recomputed(model.layers):
            logits = model(ids)
    else:
        logits = model(ids)
    read = logits[0, mx.array(pack.read)].astype(mx.float32)
    loss: mx.array = nn.losses.cross_entropy(read, mx.array(pack.target), reduction="sum")
    return loss


@contextmanager
def _recomputed(layers: list[Any]) -> Iterator[None]:
    """Within it a call of a layer keeps its input only; its insides are computed again in the backward pass."""
    kinds: list[Any] = [type(layer) for layer in layers]
    for layer, kind in zip(layers, kinds, strict=True):
        layer.__class__ = _recomputing(kind)
    try:
        yield
    finally:
        for layer, kind in zip(layers, kinds, strict=True):
            layer.__class__ = kind


@cache
def _recomputing(kind: Any) -> type:
    def call(layer: Any, *given: Any, **named: Any) -> Any:
        def inner(parameters: Any, *given: Any, **named: Any) -> Any:
            layer.update(parameters)
            return kind.__call__(layer, *given, **named)

        return mx.checkpoint(inner)(layer.trainable_parameters(), *given, **named)

    return type(kind.__name__, (kind,), {"__call__": call})
