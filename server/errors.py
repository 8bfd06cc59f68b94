"""Our one error, translated for the protocol, once.

The SDK shows an agent only the text of a ToolError; of any other exception it sees nothing but the tool's name. So
each foreseen failure passes through here, with what to do next.
"""

import errno
import functools
import inspect
from collections.abc import Callable
from typing import Any, TypeVar

from mcp.server.mcpserver.exceptions import ResourceError, ResourceNotFoundError, ToolError
from pydantic import ValidationError

from tools.errors import LooptuneError, NotFoundError

_Function = TypeVar("_Function", bound=Callable[..., Any])
# What a hostile or broken argument can cause beside our own errors.
_FORESEEN = (LooptuneError, ValidationError, OSError, RecursionError, MemoryError)


def told(function: _Function) -> _Function:
    """`function` as a tool whose foreseen failures reach the agent; works for sync and async functions."""
    if inspect.iscoroutinefunction(function):

        @functools.wraps(function)
        async def waiting(*args: Any, **kwargs: Any) -> Any:
            try:
                return await function(*args, **kwargs)
            except _FORESEEN as error:
                raise _tool_error(error) from error

        return waiting  # type: ignore[return-value]

    @functools.wraps(function)
    def calling(*args: Any, **kwargs: Any) -> Any:
        try:
            return function(*args, **kwargs)
        except _FORESEEN as error:
            raise _tool_error(error) from error

    return calling  # type: ignore[return-value]


def found(function: _Function) -> _Function:
    """`function` as a resource: a name that stands for nothing is 'not found', with the names there are."""

    @functools.wraps(function)
    def reading(*args: Any, **kwargs: Any) -> Any:
        try:
            return function(*args, **kwargs)
        except NotFoundError as error:
            raise ResourceNotFoundError(str(error)) from error
        except _FORESEEN as error:
            raise ResourceError(str(_tool_error(error))) from error

    return reading  # type: ignore[return-value]


def what_was_wrong(error: ValidationError) -> str:
    """The first three things that were wrong: where, what was expected, and what came."""
    wrong = error.errors(include_url=False, include_context=False)
    parts = []
    for one in wrong[:3]:
        where = ".".join(str(part) for part in one["loc"]) or "value"
        said = one["msg"].removeprefix("Value error, ")
        parts.append(f"{where}: {said}" + ("" if one["type"] == "missing" else f", got {one['input']!r:.120}") + ".")
    return " ".join([*parts, *([f"And {len(wrong) - 3} more."] if len(wrong) > 3 else [])])


def _tool_error(error: Exception) -> Exception:
    if isinstance(error, LooptuneError):
        return ToolError(str(error))
    if isinstance(error, ValidationError):
        return ToolError(f"{what_was_wrong(error)} Next: mend it and call again.")
    if isinstance(error, OSError) and error.errno in (errno.ENOSPC, errno.EDQUOT):
        return ToolError(f"No space left on the disk: {error.filename}. Next: free some space, then call again.")
    if isinstance(error, RecursionError):
        return ToolError("Something in the arguments is nested too deeply. Next: flatten it and call again.")
    if isinstance(error, MemoryError):
        return ToolError("There is not enough memory for that. Next: ask for less at a time.")
    return error
