"""Rows as tokens, under the base's own tokenizer and chat template.

    encoded = encode(tokenizer, rows, max_length=512)
    encoded.rows[0].ids, encoded.rows[0].positions   # loss is taken of the tokens at these positions

Only answers are trained, their end tokens included: of a conversation every one of the assistant's. A template that
closes an answer with more than the end token (Qwen's writes a newline after it) is cut there, since a model never has
to produce that.
"""

from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any

from tools.data.examples import Example, messages
from tools.errors import InputError

_BYTES = 4  # of one character in UTF-8, at most


@dataclass(frozen=True)
class EncodedRow:
    """Token ids of one row; its first answer begins at `start`. `spans` are its answers when it has several."""

    ids: tuple[int, ...]
    start: int
    spans: tuple[tuple[int, int], ...] = ()

    @property
    def positions(self) -> list[int]:
        """The places of the tokens that the loss is taken of."""
        return [i for begin, end in self.spans or ((self.start, len(self.ids)),) for i in range(begin, end)]

    @property
    def trained(self) -> int:
        """How many tokens the loss is taken of."""
        return len(self.positions)

    def cut(self, length: int) -> "EncodedRow":
        """The row's first `length` tokens."""
        spans = tuple((begin, min(end, length)) for begin, end in self.spans if begin < length)
        return EncodedRow(self.ids[:length], self.start, spans)


@dataclass(frozen=True)
class Encoded:
    """The rows that are left, the place of each among the rows that were given, and what `max_length` cost: places of
    rows that were cut, rows left without an answer among them."""

    rows: list[EncodedRow]
    places: list[int]
    cut: list[int]

    @property
    def truncated(self) -> int:
        return len(self.cut)

    @property
    def dropped(self) -> int:
        return len(set(self.cut) - set(self.places))

    @property
    def tokens(self) -> int:
        return sum(len(row.ids) for row in self.rows)

    @property
    def trained_tokens(self) -> int:
        return sum(row.trained for row in self.rows)


def _templated(tokenizer: Any, turns: list[dict[str, Any]], **more: Any) -> list[int]:
    """The ids of a conversation under the base's chat template, which transformers renders in a sandbox.

    Raises:
        InputError: the template is broken, or tries what the sandbox forbids.
    """
    from jinja2 import TemplateError

    try:
        return list(tokenizer.apply_chat_template(turns, **more))
    except (TemplateError, OverflowError, TypeError, ValueError, KeyError, AttributeError) as error:
        raise InputError(
            f"The base's chat template cannot be rendered: {type(error).__name__}: {str(error)[:200]}",
            "use a base whose template is whole",
        ) from error


def encode_prompt(tokenizer: Any, question: str) -> list[int]:
    """The ids of one user message, up to where the answer begins."""
    return _templated(tokenizer, [{"role": "user", "content": question}], add_generation_prompt=True)


def encode_row(tokenizer: Any, row: Example) -> EncodedRow:
    """One row, in full.

    Raises:
        InputError: the template does not write the prompt as a prefix of the whole conversation.
    """
    turns = messages(row)
    ids = _templated(tokenizer, turns)
    spans = []
    for place in [i for i, turn in enumerate(turns) if turn["role"] == "assistant"]:
        prompt = _templated(tokenizer, turns[:place], add_generation_prompt=True)
        upto = ids if place == len(turns) - 1 else _templated(tokenizer, turns[: place + 1])
        if ids[: len(prompt)] != prompt or ids[: len(upto)] != upto:
            raise InputError(
                "The base's chat template changes the prompt once an answer follows, so answers cannot be told apart.",
                "use a base whose template appends",
            )
        last = max((i for i, token in enumerate(upto) if token in tokenizer.eos_token_ids), default=len(upto) - 1)
        spans.append((len(prompt), max(last, len(prompt)) + 1))
    several = tuple(spans) if len(spans) > 1 else ()
    return EncodedRow(tuple(ids[: spans[-1][1]]), spans[0][0], several)


def encode(tokenizer: Any, rows: list[Example], max_length: int) -> Encoded:
    """Every row cut to `max_length` tokens; a row whose prompt alone fills that is dropped. Both are counted.

    Raises:
        InputError: no row is left.
    """
    kept: list[EncodedRow] = []
    places: list[int] = []
    cut: list[int] = []
    for place, row in enumerate(rows):
        encoded = encode_row(tokenizer, row)
        if len(encoded.ids) > max_length:
            cut.append(place)
            if encoded.start >= max_length:
                continue
            encoded = encoded.cut(max_length)
        kept.append(encoded)
        places.append(place)
    if not kept:
        raise InputError(
            f"None of {len(rows)} rows has a trained token left within {max_length} tokens.",
            "raise max_length",
        )
    return Encoded(kept, places, cut)


def pieces(tokenizer: Any, ids: Sequence[int]) -> tuple[list[str], list[int]]:
    """The text of each token, and for each token (and the end) the place of its piece.

    Tokens that are parts of one character are one piece. Each is decoded after the one before it, since tokenizers
    that mark words by a leading blank drop it at the beginning of a text.
    """
    texts: list[str] = []
    places: list[int] = []
    begin = 0
    for end in range(1, len(ids) + 1):
        places.append(len(texts))
        before = ids[begin - 1 : begin] if begin else ()
        text = _decoded(tokenizer, [*before, *ids[begin:end]])[len(_decoded(tokenizer, before)) :]
        if text.endswith("\ufffd") and end - begin < _BYTES and end < len(ids):
            continue
        texts.append(text)
        begin = end
    return texts, [*places, len(texts)]


def _decoded(tokenizer: Any, ids: Sequence[int]) -> str:
    return str(tokenizer.decode(list(ids), clean_up_tokenization_spaces=False)) if ids else ""
