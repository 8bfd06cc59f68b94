"""The packed pass on a CPU, with gradients by hand where MLX's own are slow.

    loss = pack_loss(model, pack, checkpointing)      # the same function and gradients as tools.training.packed

Llama and Qwen2 in f32, LoRA without dropout, the frozen weights in f32 or packed in 4 bits, which are unpacked one
matrix at a time. What makes it fast: exponentials from tools.training.kernels; one exponential of the logits, whose
gradient is taken with them and of which only a few rows are there at a time; matrices that share an input share LoRA's
A product; rotations for the whole pack at once; the heads of a group attend in one product. Nothing is computed for
frozen weights. A test holds loss and gradients against plain autodiff.
"""

import math
from collections.abc import Callable, Sequence
from functools import cache
from typing import Any

import mlx.core as mx

from tools.training import kernels, packed
from tools.training.ways import way_for

_LOG2E = math.log2(math.e)
_HEAD_ROWS = 128  # rows of logits that are there at a time; four times as many where the layer has to be unpacked
_HEAD_WORDS = 16384  # of a packed output layer, the words whose weights are unpacked at a time


def fits(model: Any, dropout: float) -> bool:
    """Whether this is the fast path's case."""
    if not packed.fits(model) or way_for(model.model_type, "cpu", dropout) != "by hand":
        return False
    return not getattr(model.layers[0].self_attn.rope, "traditional", False)


def weight(linear: Any, rows: Any = slice(None)) -> mx.array:
    """The matrix of a linear or embedding layer, or some of its rows: (out, in) in f32. Unpacking takes longer than a
    small pack's products, and one thread, so two streams share it."""
    found: mx.array = linear.weight[rows]
    if "scales" not in linear:
        return found
    scales, biases = linear.scales[rows], linear.biases[rows]
    middle, halves = found.shape[0] // 2, []
    for part, stream in ((slice(0, middle), _streams()[0]), (slice(middle, None), _streams()[1])):
        packed = found[part], scales[part], biases[part]
        how = {"group_size": linear.group_size, "bits": linear.bits, "mode": linear.mode, "stream": stream}
        halves.append(mx.dequantize(*packed, **how))
    return mx.concatenate(halves, axis=0)


@cache
def _streams() -> tuple[Any, Any]:
    return mx.new_stream(mx.cpu), mx.new_stream(mx.cpu)


def _with_gradient(function: Callable[..., Any], backward: Callable[..., Any]) -> Any:
    """`function` with `backward(primals, cotangents, outputs)` as its gradient."""
    custom = mx.custom_function(function)
    custom.vjp(backward)
    return custom


def linears(x: mx.array, modules: Sequence[Any]) -> list[mx.array]:
    """What each of `modules`, with LoRA or without, makes of the same x (tokens, in)."""
    bases = [module.linear if "lora_a" in module else module for module in modules]
    tuned = [i for i, module in enumerate(modules) if "lora_a" in module]
    ranks = [modules[i].lora_a.shape[1] for i in tuned]
    ends = [sum(ranks[: n + 1]) for n in range(len(ranks))]

    def columns(joined: mx.array) -> list[mx.array]:
        return [joined[:, end - rank : end] for rank, end in zip(ranks, ends, strict=True)]

    def forward(x: mx.array, *lora: mx.array) -> list[mx.array]:
        found = [x @ weight(base).T for base in bases]
        if tuned:
            a, b = lora[: len(tuned)], lora[len(tuned) :]
            for i, z, second in zip(tuned, columns(x @ mx.concatenate(list(a), axis=1)), b, strict=True):
                found[i] = mx.addmm(found[i], z, modules[i].scale * second)
        return [y + base.bias if "bias" in base else y for y, base in zip(found, bases, strict=True)]

    def backward(primals: Any, cotangents: Any, _outputs: Any) -> list[mx.array]:
        x, *lora = primals
        dx = cotangents[0] @ weight(bases[0])
        for d, base in zip(cotangents[1:], bases[1:], strict=True):
            dx = mx.addmm(dx, d, weight(base))
        if not tuned:
            return [dx]
        a, b = mx.concatenate(lora[: len(tuned)], axis=1), lora[len(tuned) :]
        scales = [modules[i].scale for i in tuned]
        dz = mx.concatenate(
            [cotangents[i] @ (scale * second).T for i, scale, second in zip(tuned, scales, b, strict=True)], axis=1
        )
        db = [(scale * z).T @ cotangents[i] for i, scale, z in zip(tuned, scales, columns(x @ a), strict=True)]
        return [mx.addmm(dx, dz, a.T), *columns(x.T @ dz), *db]

    lora = [modules[i].lora_a for i in tuned] + [modules[i].lora_b for i in tuned]
    return list(_with_gradient(forward, backward)(x, *lora))


_swiglu = _with_gradient(
    kernels.swiglu, lambda primals, cotangent, _: kernels.swiglu_gradients(primals[0], primals[1], cotangent)
)


class Places:
    """Where the rows of a pack stand: each token's rotary embedding, from the model's own, and each row's mask."""

    def __init__(self, attention: Any, pack: Any) -> None:
        key = attention.k_proj.linear if "lora_a" in attention.k_proj else attention.k_proj
        width = key.weight.shape[0] // attention.n_kv_heads
        half, prefix = width // 2, pack.prefix
        # begin, end, whether it sees the shared prefix, and the mask
        self.rows = [(0, prefix, False, _mask(prefix, 0))] if prefix else []
        self.rows += [(begin, end, prefix > 0, _mask(end - begin, prefix)) for begin, end in pack.spans if end > begin]
        # a vector that is one in its first half is rotated into cosines there and sines in the second
        longest = prefix + max((end - begin for begin, end in pack.spans), default=0)
        ones = mx.ones((1, 1, longest, half))
        table = attention.rope(mx.concatenate([ones, mx.zeros_like(ones)], axis=-1))[0, 0]
        table = table[mx.array([*range(prefix), *(prefix + i for a, b in pack.spans for i in range(b - a))])]
        self.cos = mx.concatenate([table[:, :half]] * 2, axis=-1)
        self.sin = mx.concatenate([table[:, half:]] * 2, axis=-1)
        self.turn = mx.eye(width, k=half) - mx.eye(width, k=-half)  # (a, b) → (−b, a), as a product

    def rotate(self, x: mx.array, back: bool = False) -> mx.array:
        """x (heads, tokens, width) rotated, or rotated back."""
        return x * self.cos + (x @ (self.turn.T if back else self.turn)) * self.sin


def _mask(length: int, before: int) -> mx.array:
    """0 where a token may look, else far below every score: (length, before + length)."""
    return mx.where(mx.arange(before + length) <= mx.arange(length)[:, None] + before, 0.0, -1e9)


def attend(attention: Any, q: mx.array, k: mx.array, v: mx.array, pack: Any, places: Places) -> mx.array:
    """Self-attention of each row, to the shared prefix and itself; q and the result are (tokens, heads · width)."""
    tokens, heads, groups = q.shape[0], attention.n_heads, attention.n_kv_heads
    width, many, prefix = q.shape[1] // heads, heads // groups, pack.prefix
    scale = attention.scale * _LOG2E

    def split(x: mx.array, count: int) -> mx.array:
        return x.reshape(tokens, count, width).transpose(1, 0, 2)

    def join(parts: list[mx.array]) -> mx.array:
        x = mx.concatenate(parts, axis=1)
        return x.transpose(1, 0, 2).reshape(tokens, -1)

    def grouped(x: mx.array, begin: int, end: int) -> mx.array:
        """The heads of a group under each other: (groups, heads of a group · row, width)."""
        return x[:, begin:end].reshape(groups, many * (end - begin), width)

    def seen(x: mx.array, begin: int, end: int, shared: bool) -> mx.array:
        return mx.concatenate([x[:, :prefix], x[:, begin:end]], axis=1) if shared else x[:, begin:end]

    def forward(q: mx.array, k: mx.array, v: mx.array) -> list[mx.array]:
        q, k, v = places.rotate(split(q, heads)) * scale, places.rotate(split(k, groups)), split(v, groups)
        outputs, shares = [], []
        for begin, end, shared, mask in places.rows:
            length = end - begin
            scores = grouped(q, begin, end) @ seen(k, begin, end, shared).swapaxes(1, 2)
            scores = scores.reshape(groups, many, length, -1) + mask
            share = kernels.exp2(scores - scores.max(axis=-1, keepdims=True))
            share = (share * (1.0 / share.sum(axis=-1, keepdims=True))).reshape(groups, many * length, -1)
            shares.append(share)
            outputs.append((share @ seen(v, begin, end, shared)).reshape(heads, length, width))
        return [join(outputs), *shares]

    def backward(primals: Any, cotangents: Any, outputs: Any) -> list[mx.array]:
        q, k, v = primals
        q, k, v = places.rotate(split(q, heads)), places.rotate(split(k, groups)), split(v, groups)
        out, d = split(outputs[0], heads), split(cotangents[0], heads)
        scaled = d * attention.scale
        inner = (out * scaled).sum(axis=-1, keepdims=True)
        dq, dk, dv = [], [], []
        first_k: Any = 0.0
        first_v: Any = 0.0
        for (begin, end, shared, _), share in zip(places.rows, outputs[1:], strict=True):
            dshare = grouped(scaled, begin, end) @ seen(v, begin, end, shared).swapaxes(1, 2)
            dscore = share * (dshare - inner[:, begin:end].reshape(groups, -1, 1))
            dq.append((dscore @ seen(k, begin, end, shared)).reshape(heads, end - begin, width))
            row_k = dscore.swapaxes(1, 2) @ grouped(q, begin, end)
            row_v = share.swapaxes(1, 2) @ grouped(d, begin, end)
            if shared:
                first_k, first_v = first_k + row_k[:, :prefix], first_v + row_v[:, :prefix]
                row_k, row_v = row_k[:, prefix:], row_v[:, prefix:]
            dk.append(row_k)
            dv.append(row_v)
        if prefix:
            dk[0], dv[0] = dk[0] + first_k, dv[0] + first_v

        def flat(parts: list[mx.array], turned: bool) -> mx.array:
            x = mx.concatenate(parts, axis=1)
            x = places.rotate(x, back=True) if turned else x
            return x.transpose(1, 0, 2).reshape(tokens, -1)

        return [flat(dq, True), flat(dk, True), flat(dv, False)]

    out: mx.array = _with_gradient(forward, backward)(q, k, v)[0]
    return out


def _block(layer: Any, h: mx.array, pack: Any, places: Places) -> mx.array:
    attention, mlp = layer.self_attn, layer.mlp
    q, k, v = linears(layer.input_layernorm(h), [attention.q_proj, attention.k_proj, attention.v_proj])
    h = h + linears(attend(attention, q, k, v, pack, places), [attention.o_proj])[0]
    g, u = linears(layer.post_attention_layernorm(h), [mlp.gate_proj, mlp.up_proj])
    return h + linears(_swiglu(g, u), [mlp.down_proj])[0]


def _checkpointed(layer: Any, h: mx.array, pack: Any, places: Places) -> mx.array:
    def inner(parameters: Any, hidden: mx.array) -> mx.array:
        layer.update(parameters)
        return _block(layer, hidden, pack, places)

    result: mx.array = mx.checkpoint(inner)(layer.trainable_parameters(), h)
    return result


def cross_entropy(h: mx.array, head: Any, target: Sequence[int], gradient: bool) -> mx.array:
    """The summed cross-entropy of `head`'s logits of h (tokens, width), in nats; its gradient is taken with it."""
    words, count = mx.array(list(target)), head.weight.shape[0]
    # a packed layer is unpacked in pieces
    size = _HEAD_WORDS if "scales" in head else count
    pieces = [slice(i, i + size) for i in range(0, count, size)]
    rows = _HEAD_ROWS * (4 if "scales" in head else 1)

    def some(h: mx.array, words: mx.array) -> tuple[mx.array, mx.array]:
        scaled = h * _LOG2E
        logits = mx.concatenate([scaled @ weight(head, piece).T for piece in pieces], axis=1)
        right = weight(head, words)
        most = logits.max(axis=-1, keepdims=True)
        share = kernels.exp2(logits - most)
        total = share.sum(axis=-1, keepdims=True)
        dh = share[:, pieces[0]] @ weight(head, pieces[0])
        for piece in pieces[1:]:
            dh = mx.addmm(dh, share[:, piece], weight(head, piece))
        losses = (mx.log2(total) + most)[:, 0] - (scaled * right).sum(axis=-1)
        return losses.sum() / _LOG2E, dh / total - right

    def forward(h: mx.array) -> list[mx.array]:
        found = [some(h[i : i + rows], words[i : i + rows]) for i in range(0, h.shape[0], rows)]
        loss = mx.stack([loss for loss, _ in found]).sum()
        return [loss, mx.concatenate([dh for _, dh in found], axis=0)] if gradient else [loss]

    def backward(_primals: Any, cotangents: Any, outputs: Any) -> mx.array:
        dh: mx.array = cotangents[0] * outputs[1]
        return dh

    loss: mx.array = _with_gradient(forward, backward)(h)[0]
    return loss


def pack_loss(model: Any, pack: Any, checkpointing: bool = False) -> mx.array:
    """The sum of the cross-entropies of all trained tokens in the pack, in nats."""
    places = Places(model.layers[0].self_attn, pack)
    h = model.model.embed_tokens(mx.array(pack.tokens))
    for layer in model.model.layers:
        h = _checkpointed(layer, h, pack, places) if checkpointing else _block(layer, h, pack, places)
    h = model.model.norm(h[mx.array(pack.read)])
    head = getattr(model, "lm_head", None)
    return cross_entropy(h, model.model.embed_tokens if head is None else head, pack.target, model.training)
