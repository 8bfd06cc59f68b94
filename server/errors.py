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


def told(function: _Function) -> _Function:
    """`function` as a tool whose foreseen failures reach the agent; works for sync and async functions."""
    if inspect.iscoroutinefunction(function):

        @functools.wraps(function)
        async def waiting(*args: Any, **kwargs: Any) -> Any:
            try:
                return await function(*args, **kwargs)
            except (LooptuneError, ValidationError, OSError) as error:
                raise _tool_error(error) from error

        return waiting  # type: ignore[return-value]

    @functools.wraps(function)
    def calling(*args: Any, **kwargs: Any) -> Any:
        try:
            return function(*args, **kwargs)
        except (LooptuneError, ValidationError, OSError) as error:
            raise _tool_error(error) from error

    return calling  # type: ignore[return-value]


def found(function: _Function) -> _Function:
    """`function` as a resource: a name that stands for nothing is 'not found', with the names there are."""

    @functools.wraps(function)
    def reading(*args: Any, **kwargs: Any) -> Any:
        try:
            return function(*args, **kwargs)
        except LooptuneError as error:
            kind = ResourceNotFoundError if isinstance(error, NotFoundError) else ResourceError
            raise kind(str(error)) from error

    return reading  # type: ignore[return-value]


def _tool_error(error: Exception) -> Exception:
    if isinstance(error, LooptuneError):
        return ToolError(str(error))
    if isinstance(error, ValidationError):
        first = error.errors(include_url=False)[0]
        where = ".".join(str(part) for part in first["loc"]) or "value"
        return ToolError(f"{where}: {first['msg']}, got {first['input']!r:.120}. Next: mend it and call again")
    if isinstance(error, OSError) and error.errno in (errno.ENOSPC, errno.EDQUOT):
        return ToolError(f"No space left on the disk: {error.filename}. Next: free some space, then call again")
    return error
