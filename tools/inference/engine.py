"""What answers a question: one interface over MLX and llama.cpp.

    with open_engine("mlx", folder, adapter) as engine: engine.answer(["What does 42 mean?"])

Decoding is greedy everywhere, so that an answer is a property of the weights. `tools.inference.mlx_engine` and
`tools.inference.gguf_engine` implement it.
"""

from collections.abc import Callable, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Protocol

Said = Callable[[int], None]  # told how many answers there are so far; may raise to stop


@dataclass(frozen=True)
class Model:
    """What is to be opened: a base with or without an adapter, or a GGUF file."""

    name: str
    folder: Path | None = None
    adapter: Path | None = None
    gguf: Path | None = None

    @property
    def size_bytes(self) -> int:
        """Bytes of weights on disk: base and adapter, or the GGUF."""
        if self.gguf is not None:
            return self.gguf.stat().st_size
        from tools.models.bases import weight_files

        assert self.folder is not None
        size = sum(path.stat().st_size for path in weight_files(self.folder))
        return size + ((self.adapter / "adapters.safetensors").stat().st_size if self.adapter else 0)


class Engine(Protocol):
    """A loaded model."""

    def answer(self, prompts: Sequence[str], max_tokens: int, said: Said | None = None) -> list[str]:
        """The greedy answer to each prompt, each a conversation of its own, under the model's chat template."""

    def perplexity(self, texts: Sequence[str]) -> float:
        """exp of the mean negative log-likelihood, in nats, of all tokens but the first of each text."""

    def tokens_per_second(self) -> float:
        """Measured speed of generating one answer alone, the prompt not counted."""

    def close(self) -> None:
        """Free the memory."""


SPEED_PROMPT = "Write a few sentences about how a river is formed."
SPEED_TOKENS = 32


def open_engine(model: Model) -> Engine:
    """Load `model`.

    Raises:
        InputError: its files cannot be read.
    """
    if model.gguf is not None:
        from tools.inference.gguf_engine import GgufEngine

        return GgufEngine(model.gguf)
    from tools.inference.mlx_engine import MlxEngine

    assert model.folder is not None
    return MlxEngine(model.folder, model.adapter)
