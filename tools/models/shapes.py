"""The shapes of bases that one may want to plan for before they are here.

    shape = known_shape("qwen2.5-coder-7b-instruct-4bit")     # a BaseInfo, or None

Taken from the models' own config.json; parameters and size follow from them. A test holds those of the embedded base
and of the tiny one against the bases themselves.
"""

from tools.models.bases import EMBEDDED, TINY, BaseInfo

_PACKED_BITS = 4.5  # 4-bit weights with a 16-bit scale and bias for each group of 64
# layers, width, inner, heads, kv heads, vocabulary, whether the output layer is the embedding; bits of a weight
_QWEN2 = {
    "qwen2.5-coder-7b-instruct": (28, 3584, 18944, 28, 4, 152064, False, 16),
    "qwen2.5-coder-1.5b-instruct": (28, 1536, 8960, 12, 2, 151936, True, 16),
    "qwen2.5-coder-0.5b-instruct": (24, 896, 4864, 14, 2, 151936, True, 16),
}
_LLAMA = {
    EMBEDDED: (30, 576, 1536, 9, 3, 49152, True, 32),
    TINY: (2, 64, 128, 4, 2, 49152, True, 32),
}


def known_shape(name: str) -> BaseInfo | None:
    """What the base `name`, or its 4-bit form `name-4bit`, is, when its shape is known here."""
    full = name.removesuffix("-4bit")
    if full not in _QWEN2 | _LLAMA:
        return None
    qwen = full in _QWEN2
    layers, width, inner, heads, kv_heads, vocabulary, tied, full_bits = (_QWEN2 | _LLAMA)[full]
    kv = kv_heads * width // heads
    matrices = layers * (2 * width * width + 2 * width * kv + 3 * width * inner) + vocabulary * width * (2 - tied)
    vectors = layers * ((width + 2 * kv) * qwen + 2 * width) + width  # Qwen2's biases of attention, and the norms
    bits = 4 if name != full else None
    return BaseInfo(
        name=name,
        architecture="Qwen2ForCausalLM" if qwen else "LlamaForCausalLM",
        parameters=matrices + vectors,
        layers=layers,
        hidden_size=width,
        intermediate_size=inner,
        vocab_size=vocabulary,
        heads=heads,
        kv_size=kv,
        quantization_bits=bits,
        size_bytes=round(matrices * (_PACKED_BITS if bits else full_bits) / 8) + vectors * full_bits // 8,
        sha256="",
    )
