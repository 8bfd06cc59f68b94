"""Rows as tokens, under the base's own tokenizer and chat template.

    encoded = encode(tokenizer, rows, max_length=512)
    encoded.rows[0].ids, encoded.rows[0].start      # loss is taken from position `start` on

Only the answer is trained, its end token included. A template that closes an answer with more than the end token
(Qwen's writes a newline after it) is cut there, since a model never has to produce that.
"""

from dataclasses import dataclass
from typing import Any

from tools.data.examples import Example, messages
from tools.errors import InputError


@dataclass(frozen=True)
class EncodedRow:
    """Token ids of one row; the answer begins at `start`."""

    ids: tuple[int, ...]
    start: int

    @property
    def trained(self) -> int:
        """How many tokens the loss is taken of."""
        return len(self.ids) - self.start


@dataclass(frozen=True)
class Encoded:
    """All rows, and what `max_length` cost: rows that were cut, and rows left without an answer."""

    rows: list[EncodedRow]
    truncated: int
    dropped: int

    @property
    def tokens(self) -> int:
        return sum(len(row.ids) for row in self.rows)

    @property
    def trained_tokens(self) -> int:
        return sum(row.trained for row in self.rows)


def encode_prompt(tokenizer: Any, question: str) -> list[int]:
    """The ids of one user message, up to where the answer begins."""
    return list(tokenizer.apply_chat_template([{"role": "user", "content": question}], add_generation_prompt=True))


def encode_row(tokenizer: Any, row: Example) -> EncodedRow:
    """One row, in full.

    Raises:
        InputError: the template does not write the prompt as a prefix of the whole conversation.
    """
    turns = messages(row)
    prompt = list(tokenizer.apply_chat_template(turns[:-1], add_generation_prompt=True))
    ids = list(tokenizer.apply_chat_template(turns))
    if ids[: len(prompt)] != prompt:
        raise InputError(
            "The base's chat template changes the prompt once an answer follows, so answers cannot be told apart.",
            "use a base whose template appends",
        )
    last = max((i for i, token in enumerate(ids) if token in tokenizer.eos_token_ids), default=len(ids) - 1)
    return EncodedRow(tuple(ids[: max(last, len(prompt)) + 1]), len(prompt))


def encode(tokenizer: Any, rows: list[Example], max_length: int) -> Encoded:
    """Every row cut to `max_length` tokens; a row whose prompt alone fills that is dropped and counted.

    Raises:
        InputError: no row is left.
    """
    kept: list[EncodedRow] = []
    truncated = dropped = 0
    for row in rows:
        encoded = encode_row(tokenizer, row)
        if len(encoded.ids) > max_length:
            truncated += 1
            if encoded.start >= max_length:
                dropped += 1
                continue
            encoded = EncodedRow(encoded.ids[:max_length], encoded.start)
        kept.append(encoded)
    if not kept:
        raise InputError(
            f"None of {len(rows)} rows has a trained token left within {max_length} tokens.",
            "raise max_length",
        )
    return Encoded(kept, truncated, dropped)
