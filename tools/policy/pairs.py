"""Labelled pairs, `datasets/policy/pairs/*.yaml`: originals with changes that a level allows or forbids, by hand.

    pairs = read_pairs()
    results = judge(pairs, embed)
    matrix(results)     # {'python': {'strict': Counts(…), …}, …}

A group has one original and many changes; each change is a pair. It is told by `edits`, [what stands there once, what
takes its place], or by the whole `modified` text. Without a `level` the original's own tags decide, and `expect` says
which level the pair counts for. Run `benchmarks/policy.py` to see them judged.
"""

from dataclasses import dataclass
from pathlib import Path
from typing import Annotated

import yaml
from pydantic import BaseModel, ConfigDict, Field, ValidationError

from tools.errors import InputError
from tools.policy.levels import PreservationLevel
from tools.policy.meaning import Embed
from tools.policy.preserve import Verdict, check_preservation
from tools.settings import shipped_data

Edit = Annotated[list[str], Field(min_length=2, max_length=2)]


class _Labelled(BaseModel):
    model_config = ConfigDict(extra="forbid")

    allowed: bool
    why: Annotated[str, Field(min_length=3)]
    level: PreservationLevel | None = None
    expect: PreservationLevel | None = None
    edits: list[Edit] | None = None
    modified: str | None = None


class _Group(BaseModel):
    model_config = ConfigDict(extra="forbid")

    id: str
    language: str
    level: PreservationLevel | None
    original: str
    changes: list[_Labelled]


@dataclass(frozen=True)
class Pair:
    """An original, a change of it, and whether it should be allowed at `counts_for`; `level` None: the tags say."""

    id: str
    language: str
    level: PreservationLevel | None
    counts_for: PreservationLevel
    original: str
    modified: str
    allowed: bool
    why: str


@dataclass(frozen=True)
class Result:
    """A pair and what the checker says of it."""

    pair: Pair
    verdict: Verdict

    @property
    def right(self) -> bool:
        return self.pair.allowed == self.verdict.allowed


@dataclass
class Counts:
    """A confusion matrix; 'positive' is a change that is forbidden, which is what the checker is to find."""

    caught: int = 0
    missed: int = 0
    false_alarms: int = 0
    passed: int = 0

    @property
    def precision(self) -> float:
        return self.caught / (self.caught + self.false_alarms) if self.caught + self.false_alarms else 1.0

    @property
    def recall(self) -> float:
        return self.caught / (self.caught + self.missed) if self.caught + self.missed else 1.0

    def add(self, result: Result) -> None:
        """Count one result."""
        if result.pair.allowed:
            self.passed, self.false_alarms = (
                self.passed + result.verdict.allowed,
                self.false_alarms + (not result.right),
            )
        else:
            self.missed, self.caught = self.missed + result.verdict.allowed, self.caught + result.right


def read_pairs(folder: Path | None = None) -> list[Pair]:
    """Every labelled pair, in the order of the files.

    Raises:
        InputError: a file is not as expected, or an edit's text does not stand in its original exactly once.
    """
    found: list[Pair] = []
    for path in sorted((folder or shipped_data() / "policy" / "pairs").glob("*.yaml")):
        try:
            groups = [_Group.model_validate(group) for group in yaml.safe_load(path.read_text(encoding="utf-8"))]
        except (yaml.YAMLError, ValidationError, TypeError) as error:
            raise InputError(f"{path.name} is not a list of labelled groups: {error}", "mend it") from error
        for group in groups:
            for number, change in enumerate(group.changes, start=1):
                found.append(_pair(path.name, group, number, change))
    return found


def _pair(name: str, group: _Group, number: int, change: _Labelled) -> Pair:
    where = f"{name}, {group.id}, change {number} ({change.why})"
    modified = group.original if change.modified is None else change.modified
    for old, new in change.edits or []:
        if modified.count(old) != 1:
            raise InputError(f"{where}: {old!r} stands {modified.count(old)} times in the text.", "let it stand once")
        modified = modified.replace(old, new)
    level = change.level or group.level
    counts_for = change.expect or level
    if counts_for is None:
        raise InputError(f"{where}: no level is given, and none expected.", "write `expect`")
    return Pair(
        f"{group.id}-{number}", group.language, level, counts_for, group.original, modified, change.allowed, change.why
    )


def judge(pairs: list[Pair], embed: Embed | None) -> list[Result]:
    """What the checker says of each pair."""
    return [
        Result(pair, check_preservation(pair.original, pair.modified, pair.level, pair.language, embed=embed))
        for pair in pairs
    ]


def matrix(results: list[Result]) -> dict[str, dict[str, Counts]]:
    """Counts by level, and within it by language and for all of them ('all')."""
    found: dict[str, dict[str, Counts]] = {}
    for result in results:
        for language in (result.pair.language, "all"):
            found.setdefault(result.pair.counts_for, {}).setdefault(language, Counts()).add(result)
    return found
