"""The errors that looptune foresees. `server/errors.py` turns each into an answer the agent can act on.

LooptuneError            anything foreseen
├── InputError           an argument, a row or a file is not what was expected
├── NotFoundError        a name that stands for nothing here
├── LimitError           disk, memory, size or time would be exceeded
├── ConflictError        another process holds it, or it exists already
├── MissingError         a package, model or permission that has to be provided first
└── CheckError           a check or a gate said no
"""

from collections.abc import Iterable


class LooptuneError(Exception):
    """What went wrong, and what to do next.

    Args:
        message: what was expected and what came.
        next_step: what the reader can do about it, as a command or a tool call.
    """

    def __init__(self, message: str, next_step: str = "") -> None:
        super().__init__(message)
        self.message = message
        self.next_step = next_step

    def __str__(self) -> str:
        return f"{self.message} Next: {self.next_step}" if self.next_step else self.message


class InputError(LooptuneError):
    """An argument, a row or a file is not what was expected."""


class NotFoundError(LooptuneError):
    """A name that stands for nothing here."""

    @classmethod
    def named(cls, what: str, name: str, known: Iterable[str], next_step: str) -> "NotFoundError":
        """Say what was looked for and which names there are (the first twelve of them)."""
        names = sorted(known)
        listed = ", ".join(names[:12]) + (f" and {len(names) - 12} more" if len(names) > 12 else "")
        return cls(f"There is no {what} named {name!r}. Known: {listed or 'none yet'}.", next_step)


class LimitError(LooptuneError):
    """Disk, memory, size or time would be exceeded."""


class ConflictError(LooptuneError):
    """Another process holds it, or it exists already."""


class MissingError(LooptuneError):
    """A package, a model or a permission that has to be provided first."""


class CheckError(LooptuneError):
    """A check or a gate said no."""
