"""What the rows of a training come to, for a plan: tokens, packs, and what would be cut.

    rows = reckon(train, evaluated, folder, config, info, "cpu", assumptions)

With a tokenizer the rows are read and packed as training will pack them. Without one, or without rows, figures are
assumed, and `assumptions` says each.
"""

import math
from dataclasses import dataclass
from pathlib import Path

from tools.data.examples import Example
from tools.data.tokens import encode
from tools.models.bases import BaseInfo
from tools.models.load import load_tokenizer
from tools.training.config import TrainingConfig
from tools.training.estimate import Pass, largest_of, sampled_groups

_ROWS, _ROW_TOKENS, _TRAINED = 1000, 400, 0.5  # assumed of a dataset that is not there
_CHARACTERS = 3.5  # to a token, assumed where the base's tokenizer is not there


@dataclass
class Rows:
    """What the rows of a training come to, over all its epochs."""

    rows: int
    tokens: float  # of the rows
    trained: float
    read: float  # that pass through the model
    passes: float  # in so many groups of packs
    largest: Pass
    row_tokens: float
    longest: int
    evaluated: float = 0.0  # tokens that one evaluation reads
    padding: int = 0
    cut: tuple[int, ...] = ()
    dropped: int = 0


def reckon(
    train: list[Example],
    evaluated: list[Example],
    folder: Path | None,
    config: TrainingConfig,
    info: BaseInfo,
    where: str,
    assumptions: list[str],
) -> Rows:
    """What the rows `train` and those of an evaluation come to, by the tokenizer in `folder` where there is one."""
    if train and folder:
        return _packed(train, evaluated, folder, config, info, where)
    if train:
        lengths = [_length(row) for row in train]
        share = sum(len(row.answer) for row in train) / sum(len(row.question) + len(row.answer) for row in train)
        assumptions.append(f"Without the base's tokenizer, a token was taken to be {_CHARACTERS} characters.")
        cut = tuple(place for place, length in enumerate(lengths) if length > config.max_length)
        lengths = [min(length, config.max_length) for length in lengths]
    else:
        lengths, share, cut = [min(_ROW_TOKENS, config.max_length)] * _ROWS, _TRAINED, ()
        assumptions.append(
            f"Without a dataset, {_ROWS} rows of {lengths[0]} tokens were taken, of which {_TRAINED:.0%} are answers; "
            f"for memory, packs full to {config.pack_tokens} tokens with rows of {config.max_length}."
        )
    tokens = sum(lengths) * config.epochs
    longest = max(lengths) if train else config.max_length
    return Rows(
        rows=len(lengths),
        tokens=tokens,
        trained=tokens * share,
        read=tokens,
        passes=tokens / min(config.pack_tokens, config.batch_size * sum(lengths) / len(lengths)),
        largest=Pass.full(config.pack_tokens, longest, share),
        row_tokens=sum(lengths) / len(lengths),
        longest=longest,
        evaluated=sum(min(_length(row), config.max_length) for row in evaluated),
        cut=cut,
    )


def _length(row: Example) -> int:
    return math.ceil((len(row.question) + len(row.answer)) / _CHARACTERS) + 30


def _packed(
    train: list[Example], evaluated: list[Example], folder: Path, config: TrainingConfig, info: BaseInfo, where: str
) -> Rows:
    """The rows as training will pack them: their largest pack decides the memory, their sum the time."""
    tokenizer = load_tokenizer(folder)
    encoded = encode(tokenizer, train, config.max_length)
    groups, times = sampled_groups(info, config, encoded.rows, where)
    packs = [pack for group in groups for pack in group]
    return Rows(
        rows=len(encoded.rows),
        tokens=encoded.tokens * config.epochs,
        trained=encoded.trained_tokens * config.epochs,
        read=sum(len(pack.tokens) for pack in packs) * times,
        passes=len(groups) * times,
        largest=largest_of(info, config, groups, where)[0],
        row_tokens=encoded.tokens / len(encoded.rows),
        longest=max(len(row.ids) for row in encoded.rows),
        evaluated=encode(tokenizer, evaluated, config.max_length).tokens if evaluated else 0,
        padding=sum(pack.padding for pack in packs),
        cut=tuple(encoded.cut),
        dropped=encoded.dropped,
    )
