"""What the normal form of code is made of (see canonical.py)."""

from dataclasses import dataclass, field
from typing import Any, Protocol

Key = tuple[str, ...]


@dataclass(frozen=True)
class Token:
    """A leaf of the tree, or where a node opens or closes; `start` and `end` are bytes of the text."""

    key: Key
    start: int
    end: int


@dataclass(frozen=True)
class Directive:
    """A comment with an effect, the number of leaves before it, and whether code stands before it on its line."""

    said: str
    after: int
    trailing: bool
    start: int
    end: int


@dataclass
class Form:
    """The normal form of a text; `broken` says where it does not parse."""

    tokens: list[Token] = field(default_factory=list)
    directives: list[Directive] = field(default_factory=list)
    broken: str = ""


class Writer(Protocol):
    """What a language's own rules need of the writer of the form."""

    data: bytes

    def text(self, node: Any) -> str:
        """The text of a node, with `\\n` for line ends."""

    def comment(self, node: Any) -> None:
        """Take note of a comment when it has an effect."""
