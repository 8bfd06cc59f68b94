"""Rows packed end to end, with one shared beginning: no token is computed twice, none is padding.

    pack = make_pack(rows)                 # rows: (ids, start); one pass over `pack.tokens`
    loss_sum = pack_loss(model, pack)

Instruction rows under one chat template begin alike (its system prompt): that beginning stands once in a pack, and
every row attends to it and to itself. Under a causal mask this is the same function as each row on its own, with the
same gradients, and for short rows nearly twice as fast. The linear layers see all tokens at once; attention is done
row by row, so there is no T×T mask either.

Works on the models of mlx-lm that compute what Llama does (`tools.training.ways.PACKED`).
"""

from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any

import mlx.core as mx
import mlx.nn as nn

from tools.data.tokens import EncodedRow
from tools.training.ways import PACKED


@dataclass(frozen=True)
class Pack:
    """One pass. `spans` are the rows' places after the shared prefix; `read` predicts `target`."""

    tokens: list[int]
    prefix: int
    spans: list[tuple[int, int]]
    read: list[int]
    target: list[int]

    @property
    def padding(self) -> int:
        """Tokens that belong to no row."""
        return len(self.tokens) - self.prefix - sum(end - begin for begin, end in self.spans)


def fits(model: Any) -> bool:
    """Whether `logits` computes what this model does: its type is known, and no layer looks back only so far."""
    return model.model_type in PACKED and not any(getattr(layer, "use_sliding", False) for layer in model.layers)


def common_prefix(rows: Sequence[EncodedRow]) -> int:
    """How many leading tokens all rows share, at most up to the last prompt token of each."""
    limit = min(row.start for row in rows) - 1
    first = rows[0].ids
    for i in range(limit):
        if any(row.ids[i] != first[i] for row in rows):
            return i
    return limit


def make_pack(rows: Sequence[EncodedRow]) -> Pack:
    """Pack rows behind their common prefix."""
    prefix = common_prefix(rows)
    tokens = list(rows[0].ids[:prefix])
    spans, read, target = [], [], []
    for row in rows:
        begin = len(tokens)
        # the last token of a row is only predicted, never read
        tokens += row.ids[prefix:-1]
        spans.append((begin, len(tokens)))
        for position in row.positions:
            read.append(begin + position - 1 - prefix)
            target.append(row.ids[position])
    return Pack(tokens, prefix, spans, read, target)


def lanes(device: str, unpacks: bool = False) -> int:
    """How many packs pass through a model side by side.

    MLX does a stream's elementwise work on one thread of a CPU, while its matrix products take all. Two packs on two
    streams, each with half of the threads, keep a small machine busy throughout. It is two whatever the machine, so
    that a result does not depend on its cores; one where weights are unpacked for each pack's products.
    """
    return 2 if device == "cpu" and not unpacks else 1


def groups_of(rows: Sequence[EncodedRow], pack_tokens: int, lanes: int = 1, alone: bool = False) -> list[list[Pack]]:
    """The rows of one step, in as few groups of at most `pack_tokens` tokens as their order allows. A group passes
    through the model at once, as up to `lanes` packs of about the same size; `alone` puts each row in a pack and group
    of its own, for models that are known to take nothing else."""
    if alone:
        return [[make_pack([row])] for row in rows]
    groups: list[list[EncodedRow]] = []
    size = 0
    for row in rows:
        if not groups or size + len(row.ids) > pack_tokens:
            groups.append([])
            size = 0
        groups[-1].append(row)
        size += len(row.ids)
    return [[make_pack(part) for part in _split(group, lanes)] for group in groups]


def _split(rows: list[EncodedRow], lanes: int) -> list[list[EncodedRow]]:
    """The rows in up to `lanes` parts: the longest first, each to the part that has fewest tokens."""
    if lanes == 1:
        return [rows]
    parts: list[list[EncodedRow]] = [[] for _ in range(min(lanes, len(rows)))]
    for row in sorted(rows, key=lambda row: -len(row.ids)):
        min(parts, key=lambda part: sum(len(other.ids) for other in part)).append(row)
    return parts


def _attention(attention: Any, x: mx.array, pack: Pack) -> mx.array:
    """Self-attention of a packed sequence; x is (1, T, D)."""
    length = x.shape[1]

    def heads(projected: mx.array, count: int) -> mx.array:
        return projected.reshape(1, length, count, -1)

    q = heads(attention.q_proj(x), attention.n_heads)
    k = heads(attention.k_proj(x), attention.n_kv_heads)
    v = heads(attention.v_proj(x), attention.n_kv_heads).transpose(0, 2, 1, 3)
    if "q_norm" in attention:
        q, k = attention.q_norm(q), attention.k_norm(k)
    q, k = q.transpose(0, 2, 1, 3), k.transpose(0, 2, 1, 3)
    p = pack.prefix
    outputs = []
    if p:
        prefix_k = attention.rope(k[:, :, :p])
        outputs.append(_attend(attention.rope(q[:, :, :p]), prefix_k, v[:, :, :p], attention.scale))
    for begin, end in pack.spans:
        row_q = attention.rope(q[:, :, begin:end], offset=p)
        row_k, row_v = attention.rope(k[:, :, begin:end], offset=p), v[:, :, begin:end]
        if p:
            row_k = mx.concatenate([prefix_k, row_k], axis=2)
            row_v = mx.concatenate([v[:, :, :p], row_v], axis=2)
        outputs.append(_attend(row_q, row_k, row_v, attention.scale))
    joined = mx.concatenate(outputs, axis=2).transpose(0, 2, 1, 3).reshape(1, length, -1)
    out: mx.array = attention.o_proj(joined)
    return out


def _attend(q: mx.array, k: mx.array, v: mx.array, scale: float) -> mx.array:
    return mx.fast.scaled_dot_product_attention(q, k, v, scale=scale, mask="causal")


def _block(layer: Any, h: mx.array, pack: Pack) -> mx.array:
    h = h + _attention(layer.self_attn, layer.input_layernorm(h), pack)
    out: mx.array = h + layer.mlp(layer.post_attention_layernorm(h))
    return out


def _checkpointed(layer: Any, h: mx.array, pack: Pack) -> mx.array:
    """One block whose insides are computed again in the backward pass instead of being kept."""

    def inner(parameters: Any, hidden: mx.array) -> mx.array:
        layer.update(parameters)
        return _block(layer, hidden, pack)

    result: mx.array = mx.checkpoint(inner)(layer.trainable_parameters(), h)
    return result


def logits(model: Any, pack: Pack, checkpointing: bool = False) -> mx.array:
    """Logits at the positions that predict a trained token: (len(pack.read), vocabulary)."""
    h = model.model.embed_tokens(mx.array(pack.tokens)[None])
    for layer in model.model.layers:
        h = _checkpointed(layer, h, pack) if checkpointing else _block(layer, h, pack)
    h = model.model.norm(h)[0, mx.array(pack.read)]
    head = getattr(model, "lm_head", None)
    out: mx.array = model.model.embed_tokens.as_linear(h) if head is None else head(h)
    return out


def pack_loss(model: Any, pack: Pack, checkpointing: bool = False) -> mx.array:
    """The sum of the cross-entropies of all trained tokens in the pack, in nats."""
    out = logits(model, pack, checkpointing).astype(mx.float32)
    loss: mx.array = nn.losses.cross_entropy(out, mx.array(pack.target), reduction="sum")
    return loss
