"""A model run layer by layer: each layer's weights are read when it is its turn, and let go after it.

    states, head = run_layers(folder, adapter, ids)       # the last hidden states of each text, and what makes logits

So a model needs the memory of one layer and of its embedding, whatever its size. Works for models that compute what
Llama does (tools.training.ways); of another type it would compute something else, so that is refused.
"""

import io
from collections.abc import Callable, Sequence
from contextlib import redirect_stdout
from pathlib import Path
from typing import Any

from tools.errors import InputError
from tools.models.load import device
from tools.training.ways import PACKED

Prepare = Callable[[int, Any], None]  # given a layer's number and the layer, before it runs
Head = Callable[[Any], Any]


def run_layers(
    folder: Path, adapter: Path | None, ids: Sequence[Sequence[int]], prepare: Prepare | None = None
) -> tuple[list[Any], Head]:
    """The normed hidden states of each text, (tokens, width), and the function that makes numpy logits of them.

    Raises:
        InputError: the model is of a type that is not known here.
    """
    device()
    import mlx.core as mx
    import numpy as np
    from mlx_lm.models.base import create_attention_mask
    from mlx_lm.utils import dequantize_model, load_adapters, load_model

    from tools.training.packed import fits

    with redirect_stdout(io.StringIO()):
        model, config = load_model(folder, lazy=True)
        if not fits(model):
            raise InputError(
                f"{folder.name} is of type {model.model_type}; exports are checked of {', '.join(sorted(PACKED))}.",
                "use the adapter as it is, with mlx_lm.generate --adapter-path, or train a base of one of these types",
            )
        if config.get("quantization"):
            model = dequantize_model(model)
        model.set_dtype(mx.float32)  # on every device, so that only the stored weights can differ
        if adapter is not None:
            model = load_adapters(model, str(adapter))
    model.eval()
    inner = model.model
    states = [inner.embed_tokens(mx.array(list(text))[None]) for text in ids]
    mx.eval(states)
    for number in range(len(inner.layers)):
        layer, inner.layers[number] = inner.layers[number], None
        if prepare:
            prepare(number, layer)
        states = [layer(h, create_attention_mask(h, None), None) for h in states]
        mx.eval(states)
        del layer
        mx.clear_cache()
    states = [inner.norm(h)[0] for h in states]
    mx.eval(states)
    head = inner.embed_tokens.as_linear if model.args.tie_word_embeddings else model.lm_head
    return states, lambda h: np.asarray(head(h).astype(mx.float32))
