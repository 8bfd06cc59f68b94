"""What answers a question: one interface over MLX and llama.cpp.

    engine = open_engine(Model("forty-two", gguf=path))
    engine.answer(["What does 42 mean?"], max_tokens=60)             # many, greedy: an answer is a property of weights
    engine.generate("What does 42 mean?", Options(temperature=0.7, seed=1), said)    # one, as it comes

`tools.inference.mlx_engine` and `tools.inference.gguf_engine` implement it.
"""

import math
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Literal, Protocol

Said = Callable[[int], None]  # told how many answers there are so far; may raise to stop
Heard = Callable[[str, int], None]  # told the answer so far, and its tokens; may raise to stop
MIN_P = 0.05  # when sampling, tokens less likely than this share of the best one are left out


@dataclass(frozen=True)
class Options:
    """How one answer is made. Temperature 0 is greedy; `stop` are texts before which the answer ends."""

    max_tokens: int = 200
    temperature: float = 0.0
    seed: int = 0
    stop: tuple[str, ...] = ()


@dataclass(frozen=True)
class Generated:
    """One answer, why it ended, and how long its first token and all of it took, in seconds."""

    text: str
    tokens: int
    finish: Literal["stop", "length", "time"]
    first_token_seconds: float
    seconds: float

    @property
    def tokens_per_second(self) -> float:
        """Speed after the first token."""
        return (self.tokens - 1) / max(self.seconds - self.first_token_seconds, 1e-9) if self.tokens > 1 else 0.0


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

    def generate(self, prompt: str, options: Options, heard: Heard | None = None) -> Generated:
        """The answer to one prompt, under the model's chat template. Raises InputError when the prompt is too long."""

    def losses(self, texts: Sequence[str]) -> list[tuple[float, int]]:
        """Of each text the negative log-likelihood, in nats, of all its tokens but the first, and how many they are."""

    def tokens_per_second(self) -> float:
        """Measured speed of generating one answer alone, the prompt not counted."""

    def close(self) -> None:
        """Free the memory."""


SPEED_PROMPT = "Write a few sentences about how a river is formed."
SPEED_TOKENS = 32


def perplexity(losses: Sequence[tuple[float, int]]) -> float:
    """exp of the mean negative log-likelihood of a token, over all texts that `losses` were measured of."""
    return math.exp(sum(loss for loss, _ in losses) / sum(tokens for _, tokens in losses))


def cut(text: str, stop: Sequence[str]) -> tuple[str, bool]:
    """`text` up to the first of the `stop` texts in it, and whether there was one."""
    places = [place for word in stop if (place := text.find(word)) >= 0]
    return (text[: min(places)], True) if places else (text, False)


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
