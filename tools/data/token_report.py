"""What a file's rows are as tokens of one base: lengths, what is cut off, and what the loss is taken of.

    report = token_report(tokenizer, path, max_length=512)
    print(report.samples[0].text)
    # <|im_start|>user\nWhat is 42?<|im_end|>\n<|im_start|>assistant\n⟦The symbol of harmony.<|im_end|>⟧

In a sample, what is trained stands in ⟦ ⟧ and what `max_length` cuts off is left out.
"""

from itertools import islice
from pathlib import Path
from typing import Any

from pydantic import BaseModel

from tools.data.examples import Example, read_rows
from tools.data.tokens import encode_row

_LISTED = 100


class Sample(BaseModel):
    """One row as the base sees it, with the trained part in ⟦ ⟧."""

    line: int
    tokens: int
    trained: int
    text: str


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


def token_report(
    tokenizer: Any, path: Path, max_length: int, samples: int = 3, limit: int | None = None
) -> TokenReport:
    """Encode the rows of `path` under the base's tokenizer and chat template, without holding them.

    Args:
        samples: how many rows to render with their mask.
        limit: only so many rows, since a tokenizer takes about a millisecond for each.

    Raises:
        InputError: the template changes a prompt once an answer follows.
    """
    whole: list[int] = []
    trained: list[int] = []
    cut: list[int] = []
    untrained: list[int] = []
    lost_ends = lost = 0
    shown: list[Sample] = []
    for line, row in islice(((n, r) for n, r in read_rows(path) if isinstance(r, Example)), limit):
        encoded = encode_row(tokenizer, row)
        kept = encoded.ids[:max_length]
        whole.append(len(encoded.ids))
        trained.append(encoded.cut(max_length).trained if encoded.start < max_length else 0)
        if len(kept) < len(encoded.ids):
            cut.append(line)
            lost += len(encoded.ids) - len(kept)
            lost_ends += encoded.ids[-1] in tokenizer.eos_token_ids
        if not trained[-1]:
            untrained.append(line)
        if len(shown) < samples:
            prompt, answer = (
                tokenizer.decode(list(kept[: encoded.start])),
                tokenizer.decode(list(kept[encoded.start :])),
            )
            shown.append(Sample(line=line, tokens=len(kept), trained=trained[-1], text=f"{prompt}⟦{answer}⟧"))
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
        samples=shown,
    )


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
