"""How like a quantized file is to the f16 file: KL divergence and top-1 agreement under llama.cpp, token by token.

found = likeness(f16, q4_k_m, shipped_texts(), tokens=2200)
"""

from collections.abc import Callable, Sequence
from pathlib import Path

from pydantic import BaseModel

from tools.data.examples import read_examples
from tools.errors import InputError
from tools.evaluation.probes import read_retention
from tools.export.agreement import Tally
from tools.inference.gguf_engine import open_llama
from tools.settings import shipped_data

CONTEXT = 512  # tokens of one text; logits of every one are kept


class Likeness(BaseModel):
    """Over `tokens` tokens: mean KL divergence in nats, and the share of tokens with the same best next token."""

    kl: float
    same_best: float
    mean_difference: float
    tokens: int


def shipped_texts() -> list[str]:
    """The general passages, and after them the rows of the core dataset that are held back: a denser tokenizer makes
    fewer tokens of the passages, and has to reach as many."""
    rows = read_examples(shipped_data() / "core" / "valid.jsonl")
    return [*(passage.text for passage in read_retention()), *(f"{row.question}\n\n{row.answer}" for row in rows)]


def likeness(
    reference: Path, other: Path, texts: Sequence[str], tokens: int, told: Callable[[int, int], None] | None = None
) -> Likeness:
    """`other` against `reference`, on the first `tokens` tokens of `texts`, or as many as there are.

    Raises:
        InputError: a file cannot be loaded, or there is no text.
    """
    import numpy as np

    first, second = (open_llama(path, CONTEXT, logits_all=True) for path in (reference, other))
    found = Tally()
    try:
        for text in texts:
            ids = first.tokenize(text.encode(), add_bos=False, special=False)[: min(CONTEXT, tokens - found.tokens)]
            if not ids:
                break
            for llama in (first, second):
                llama.reset()
                llama.eval(ids)
            found.add(*(np.asarray(llama.scores[: len(ids)], dtype=np.float32) for llama in (first, second)))
            if told:
                told(found.tokens, tokens)
    finally:
        first.close()
        second.close()
    if not found.tokens:
        raise InputError("Expected texts to compare on, got none.", "give at least one text")
    result = found.agreement()
    return Likeness(
        kl=result.kl, same_best=result.same_best, mean_difference=result.mean_difference, tokens=result.tokens
    )
