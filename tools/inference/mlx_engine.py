"""A base, with or without its adapter, answering through mlx-lm."""

import copy
import time
from collections.abc import Sequence
from pathlib import Path
from typing import Any

from tools.data.tokens import encode_prompt
from tools.inference.engine import MIN_P, SPEED_PROMPT, SPEED_TOKENS, Generated, Heard, Options, Said, cut
from tools.models.load import load

BATCH = 48  # prompts that are decoded together


class MlxEngine:
    """The model of an HF folder. Raises InputError or MissingError when it cannot be loaded."""

    def __init__(self, folder: Path, adapter: Path | None = None) -> None:
        self.model, self.tokenizer = load(folder, adapter)
        import mlx.core as mx

        mx.set_cache_limit(256_000_000)

    def answer(self, prompts: Sequence[str], max_tokens: int, said: Said | None = None) -> list[str]:
        """Greedy answers, `BATCH` at a time; prompts of like length go together, and what all of them begin with is
        computed once."""
        from mlx_lm import batch_generate

        encoded = [encode_prompt(self.tokenizer, prompt) for prompt in prompts]
        shared = _common_beginning(encoded)
        beginning = self._read(encoded[0][:shared]) if shared else None
        order = sorted(range(len(prompts)), key=lambda i: len(encoded[i]))
        answers = [""] * len(prompts)
        for begin in range(0, len(order), BATCH):
            group = order[begin : begin + BATCH]
            response = batch_generate(
                self.model,
                self.tokenizer,
                [encoded[i][shared:] for i in group],
                prompt_caches=[copy.deepcopy(beginning) for _ in group] if beginning else None,
                max_tokens=max_tokens,
                completion_batch_size=BATCH,
                prefill_batch_size=BATCH,
            )
            for i, text in zip(group, response.texts, strict=True):
                answers[i] = text.strip()
            if said:
                said(min(begin + BATCH, len(order)))
        return answers

    def _read(self, ids: list[int]) -> list[Any]:
        """The model's cache after `ids`."""
        import mlx.core as mx
        from mlx_lm.models.cache import make_prompt_cache

        cache: list[Any] = make_prompt_cache(self.model)
        self.model(mx.array(ids)[None], cache=cache)
        mx.eval([layer.state for layer in cache])
        return cache

    def generate(self, prompt: str, options: Options, heard: Heard | None = None) -> Generated:
        """One answer, token by token."""
        import mlx.core as mx
        from mlx_lm import stream_generate
        from mlx_lm.sample_utils import make_sampler

        mx.random.seed(options.seed)
        sampler = make_sampler(temp=options.temperature, min_p=MIN_P if options.temperature else 0.0)
        began = time.perf_counter()
        first, text, tokens, ended = 0.0, "", 0, False
        for part in stream_generate(
            self.model,
            self.tokenizer,
            encode_prompt(self.tokenizer, prompt),
            max_tokens=options.max_tokens,
            sampler=sampler,
        ):
            first = first or time.perf_counter() - began
            text, tokens = text + part.text, part.generation_tokens
            text, ended = cut(text, options.stop)
            if heard:
                heard(text, tokens)
            ended = ended or part.finish_reason == "stop"
            if ended:
                break
        seconds = time.perf_counter() - began
        return Generated(text.strip(), tokens, "stop" if ended else "length", first or seconds, seconds)

    def losses(self, texts: Sequence[str]) -> list[tuple[float, int]]:
        """One forward pass a text."""
        import mlx.core as mx
        import mlx.nn as nn

        found = []
        for text in texts:
            ids = mx.array(self.tokenizer.encode(text, add_special_tokens=False))[None]
            logits = self.model(ids[:, :-1]).astype(mx.float32)
            loss = nn.losses.cross_entropy(logits, ids[:, 1:], reduction="sum").item()
            found.append((float(loss), ids.shape[1] - 1))
        return found

    def tokens_per_second(self) -> float:
        """Speed of `SPEED_TOKENS` tokens after the first."""
        from mlx_lm import stream_generate

        prompt = encode_prompt(self.tokenizer, SPEED_PROMPT)
        times: list[float] = []
        for _ in stream_generate(self.model, self.tokenizer, prompt, max_tokens=SPEED_TOKENS):
            times.append(time.perf_counter())
        return (len(times) - 1) / max(times[-1] - times[0], 1e-9)

    def close(self) -> None:
        """Free the weights and MLX's cache."""
        import mlx.core as mx

        self.model = None
        mx.clear_cache()


def _common_beginning(prompts: list[list[int]]) -> int:
    """How many tokens all prompts begin with, the last token of each left to be read by itself."""
    if not prompts:
        return 0
    first, last = min(prompts), max(prompts)  # in the order of lists: what these two share, all between them do
    most = min(map(len, prompts)) - 1
    return next((i for i in range(most) if first[i] != last[i]), most)
