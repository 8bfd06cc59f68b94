"""The shapes of bases that one may want to plan for before they are here.

    shape = known_shape("qwen2.5-coder-7b-instruct-4bit")     # a BaseInfo, or None

Taken from the models' own config.json; parameters and size follow from them.
"""

from tools.models.bases import BaseInfo

_PACKED_BITS = 4.5  # 4-bit weights with a 16-bit scale and bias for each group of 64
# layers, width, inner, heads, kv heads, vocabulary, whether the output layer is the embedding
_QWEN = {
    "qwen2.5-coder-7b-instruct": (28, 3584, 18944, 28, 4, 152064, False),
    "qwen2.5-coder-1.5b-instruct": (28, 1536, 8960, 12, 2, 151936, True),
    "qwen2.5-coder-0.5b-instruct": (24, 896, 4864, 14, 2, 151936, True),
}


def known_shape(name: str) -> BaseInfo | None:
    """What the base `name`, or its 4-bit form `name-4bit`, is, when its shape is known here."""
    full = name.removesuffix("-4bit")
    if full not in _QWEN:
        return None
    layers, width, inner, heads, kv_heads, vocabulary, tied = _QWEN[full]
    kv = kv_heads * width // heads
    matrices = layers * (2 * width * width + 2 * width * kv + 3 * width * inner) + vocabulary * width * (2 - tied)
    vectors = layers * (width + 2 * kv + 2 * width) + width  # attention's biases, and the norms
    bits = 4 if name != full else None
    return BaseInfo(
        name=name,
        architecture="Qwen2ForCausalLM",
        parameters=matrices + vectors,
        layers=layers,
        hidden_size=width,
        intermediate_size=inner,
        vocab_size=vocabulary,
        heads=heads,
        kv_size=kv,
        quantization_bits=bits,
        size_bytes=round(matrices * (_PACKED_BITS if bits else 16) / 8) + 2 * vectors,
        sha256="",
    )
