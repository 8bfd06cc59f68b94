"""What a file's rows are as tokens of one base: lengths, what is cut off, and what the loss is taken of.

    report = token_report(tokenizer, path, max_length=512)
    print(report.samples[0].text)
    # <|im_start|>user\nWhat is 42?<|im_end|>\n<|im_start|>assistant\n⟦The symbol of harmony.<|im_end|>⟧

In a sample's text, what is trained stands in ⟦ ⟧, and what `max_length` cuts off is left out.
"""

from collections.abc import Sequence
from itertools import groupby, islice
from pathlib import Path
from typing import Any

from pydantic import BaseModel

from tools.data.examples import Example, read_rows
from tools.data.tokens import encode_row

_LISTED = 100
_LONG = 1500  # characters of one part of a sample, beyond which its middle is left out


class Part(BaseModel):
    """A piece of a row as the base sees it, and whether the loss is taken of it."""

    text: str
    trained: bool


class Sample(BaseModel):
    """One row as the base sees it, why it was chosen, and how many of its tokens are left, trained and cut off."""

    line: int
    why: str
    tokens: int
    trained: int
    cut: int
    parts: list[Part]

    @property
    def text(self) -> str:
        """All parts, the trained ones in ⟦ ⟧."""
        return "".join(f"⟦{part.text}⟧" if part.trained else part.text for part in self.parts)


class TokenReport(BaseModel):
    """Lengths in tokens, and what `max_length` costs. Lines are the first hundred."""

    rows: int
    max_length: int
    tokens: dict[str, int]
    trained_tokens: dict[str, int]
    truncated_rows: int
    truncated_lines: list[int]
    lost_end_tokens: int
    lost_tokens: int
    untrained_rows: int
    untrained_lines: list[int]
    samples: list[Sample]

    def summary(self) -> str:
        """The figures in a sentence."""
        return (
            f"{self.tokens['sum']:,} tokens in {self.rows:,} rows (median {self.tokens['median']}, longest "
            f"{self.tokens['max']}), {self.trained_tokens['sum']:,} of them trained."
        )

    def warnings(self) -> list[str]:
        """What `max_length` ruins, with a length that would not."""
        found = []
        if self.truncated_rows:
            found.append(
                f"{self.truncated_rows:,} of {self.rows:,} rows are longer than {self.max_length} tokens: they lose "
                f"{self.lost_tokens:,} tokens and {self.lost_end_tokens:,} end tokens, so a model learns not to stop "
                f"there. The longest has {self.tokens['max']:,}."
            )
        if self.untrained_rows:
            found.append(f"{self.untrained_rows:,} rows have no trained token left: training leaves them out.")
        return found


def token_report(tokenizer: Any, path: Path, max_length: int, limit: int | None = None) -> TokenReport:
    """Encode the rows of `path` under the base's tokenizer and chat template, without holding them.

    Args:
        limit: only so many rows, since a tokenizer takes about a millisecond for each.

    Raises:
        InputError: the template changes a prompt once an answer follows.
    """
    whole: list[int] = []
    trained: list[int] = []
    cut: list[int] = []
    untrained: list[int] = []
    lost_ends = lost = 0
    shown: dict[str, Sample] = {}
    for line, row in islice(((n, r) for n, r in read_rows(path) if isinstance(r, Example)), limit):
        encoded = encode_row(tokenizer, row)
        kept, loss = encoded.ids[:max_length], [i for i in encoded.positions if i < max_length]
        left = len(loss)
        whole.append(len(encoded.ids))
        trained.append(left)
        over = len(encoded.ids) - len(kept)
        if over:
            cut.append(line)
            lost += over
            lost_ends += encoded.ids[-1] in tokenizer.eos_token_ids
        if not left:
            untrained.append(line)
        why = "no trained token" if not left else "cut off" if over else "a conversation" if row.history else "a row"
        if why not in shown:
            parts = _parts(tokenizer, kept, set(loss))
            shown[why] = Sample(line=line, why=why, tokens=len(kept), trained=left, cut=over, parts=parts)
    return TokenReport(
        rows=len(whole),
        max_length=max_length,
        tokens=_spread(whole),
        trained_tokens=_spread(trained),
        truncated_rows=len(cut),
        truncated_lines=cut[:_LISTED],
        lost_end_tokens=lost_ends,
        lost_tokens=lost,
        untrained_rows=len(untrained),
        untrained_lines=untrained[:_LISTED],
        samples=list(shown.values()),
    )


def _parts(tokenizer: Any, ids: Sequence[int], loss: set[int]) -> list[Part]:
    """The text of `ids` in runs of tokens that are trained and tokens that are not."""
    parts = []
    for is_trained, run in groupby(range(len(ids)), key=loss.__contains__):
        text = str(tokenizer.decode([ids[i] for i in run]))
        if len(text) > _LONG:
            text = f"{text[: _LONG // 2]} […] {text[-_LONG // 2 :]}"
        parts.append(Part(text=text, trained=is_trained))
    return parts


def _spread(lengths: list[int]) -> dict[str, int]:
    ordered = sorted(lengths) or [0]
    last = len(ordered) - 1
    return {
        "min": ordered[0],
        "median": ordered[last // 2],
        "p95": ordered[round(0.95 * last)],
        "max": ordered[-1],
        "sum": sum(ordered),
    }
