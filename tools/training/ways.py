"""By which way a base's packs pass through it: decided by what the base is, not by what its parts are called.

    way_for("qwen2", "cpu", dropout=0.0)      # "by hand"

by hand                   tools.training.fast: on a CPU, without dropout
autodiff, packed          tools.training.packed: rows end to end, on any device
autodiff, row by row      tools.training.plain: any other model that mlx-lm can train

Models whose parts are called like Llama's may multiply embeddings, residuals or logits, gate otherwise, or leave rotary
embeddings out of some layers (Gemma, Granite, MiniCPM, SmolLM3): the packed passes would compute another function.
"""

from typing import Literal

Way = Literal["by hand", "autodiff, packed", "autodiff, row by row"]
# mlx-lm's model types whose function the passes compute; a test holds each against the model itself
BY_HAND = frozenset({"llama", "mistral", "qwen2"})
PACKED = BY_HAND | {"qwen3"}


def way_for(model_type: str, device: str, dropout: float) -> Way:
    """The way of a model of this type on `device`; a single model may still have layers that only `plain` knows."""
    if model_type not in PACKED:
        return "autodiff, row by row"
    return "by hand" if device == "cpu" and dropout == 0 and model_type in BY_HAND else "autodiff, packed"
