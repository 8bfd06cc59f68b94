"""The SDK's server as looptune needs it: definitions that cost less, and refusals that say what would be right.

    server = Server("looptune", …)

What names no tool, prompt or resource, an argument that there is not, or a value out of range, is answered with the
names and the values there are; the SDK alone would take an unknown argument for nothing at all, and a prompt without an
argument for a crash.
"""

import asyncio
import difflib
import inspect
import time
from collections.abc import Callable, Coroutine, Iterable
from functools import cached_property
from typing import Any, TypeVar

import anyio.to_thread
from mcp.server import MCPServer
from mcp.server.lowlevel.helper_types import ReadResourceContents
from mcp.server.mcpserver import Context
from mcp.server.mcpserver.exceptions import ResourceNotFoundError, ToolError, UnexpectedToolError
from mcp.shared.exceptions import MCPError
from mcp.types import INVALID_PARAMS, CallToolResult, GetPromptResult, InputRequiredResult, Resource, Tool
from pydantic import AnyUrl, ValidationError

from server.definitions import lean
from server.errors import what_was_wrong
from tools.errors import LooptuneError

SECONDS = 43.0  # what a call may take; the bounds of heavy.py come before it
_Reply = TypeVar("_Reply")


class Server(MCPServer[Any]):
    """An MCPServer whose tools are listed lean and whose refusals can be acted on."""

    # The things that resources/list names besides the fixed views; resources.py sets it.
    things: Callable[[], list[Resource]] = staticmethod(list)

    def add_tool(self, fn: Callable[..., Any], name: str | None = None, **more: Any) -> None:  # type: ignore[override]
        """Register a tool; one that is no coroutine has its progress told by the server."""
        super().add_tool(fn, name, **more)
        name = name or fn.__name__
        if not inspect.iscoroutinefunction(fn):
            self._silent.add(name)
        if "consent" in inspect.signature(fn).parameters:
            self._patient.add(name)

    @cached_property
    def _silent(self) -> set[str]:
        return set()

    @cached_property
    def _patient(self) -> set[str]:
        """Tools that may take longer than SECONDS: they wait for a person, or as long as they were asked to."""
        return {"training_status"}

    async def list_resources(self) -> list[Resource]:
        """The fixed views, and the newest datasets, runs and models by name."""
        return [*await super().list_resources(), *await anyio.to_thread.run_sync(self.things)]

    async def read_resource(
        self, uri: AnyUrl | str, context: Context[Any, Any] | None = None
    ) -> Iterable[ReadResourceContents] | InputRequiredResult:
        """Read a resource. Raises ResourceNotFoundError: there is no such view, or no such thing."""
        try:
            return await super().read_resource(uri, context)
        except ResourceNotFoundError as error:
            if not str(error).startswith("Unknown resource"):  # a view said it, with the names it knows
                raise
            known = [resource.uri for resource in await super().list_resources()]
            known += [template.uri_template for template in await self.list_resource_templates()]
            listed = f"{_near(str(uri), known)} Known: {', '.join(known)}. Next: read one of these."
            raise ResourceNotFoundError(f"There is no resource {str(uri)[:200]!r}.{listed}") from error

    async def get_prompt(
        self, name: str, arguments: dict[str, Any] | None = None, context: Context[Any, Any] | None = None
    ) -> GetPromptResult | InputRequiredResult:
        """A prompt's text. Raises MCPError: there is no such prompt, or its arguments are not what it takes."""
        prompts = {prompt.name: prompt for prompt in await self.list_prompts()}
        if name not in prompts:
            listed = f"{_near(name, prompts)} Known: {', '.join(prompts)}. Next: get one of these."
            raise MCPError(INVALID_PARAMS, f"There is no prompt named {name[:80]!r}.{listed}")
        takes, given = prompts[name].arguments or [], arguments or {}
        known = [argument.name for argument in takes]
        wrong = [f"{one.name} is missing." for one in takes if one.required and one.name not in given]
        wrong += [f"There is no argument {key[:80]!r}.{_near(key, known)}" for key in given if key not in known]
        try:
            if not wrong:
                return await super().get_prompt(name, arguments, context)
        except ValueError as error:
            wrong = [_foreseen(error)]
        listed = ", ".join(f"{one.name}{'' if one.required else ' (may be left out)'}" for one in takes) or "nothing"
        raise MCPError(INVALID_PARAMS, f"{name}: {' '.join(wrong)} It takes: {listed}. Next: mend it and get it again.")

    @cached_property
    def _lean(self) -> dict[str, Tool]:
        return {}

    async def list_tools(self) -> list[Tool]:
        """Every tool, without what says nothing; made once for each, since clients ask often."""
        kept = self._lean
        tools = await super().list_tools()
        for tool in tools:
            if tool.name not in kept:
                kept[tool.name] = lean(tool)
        return [kept[tool.name] for tool in tools]

    async def call_tool(
        self, name: str, arguments: dict[str, Any], context: Context[Any, Any] | None = None
    ) -> CallToolResult | InputRequiredResult:
        """Call a tool.

        Raises:
            ToolError: there is no such tool or argument, a value is not what was expected, or the tool says no.
            UnexpectedToolError: the tool crashed; its traceback is on stderr.
        """
        if name not in self._lean:
            await self.list_tools()
        tools = self._lean
        if name not in tools:
            raise ToolError(f"There is no tool named {name[:80]!r}.{_near(name, tools)} Known: {', '.join(tools)}.")
        known = tools[name].input_schema.get("properties", {})
        for argument, value in arguments.items():
            if isinstance(value, bool) and known.get(argument, {}).get("type") in ("integer", "number"):
                raise ToolError(f"{argument}: Expected a number, got {value}. Next: mend it and call {name} again.")
            if argument not in known:
                raise ToolError(
                    f"{name} has no argument {argument[:80]!r}.{_near(argument, known)} It takes: {', '.join(known)}. "
                    f"Next: call {name} again with these."
                )
        word = asyncio.create_task(_say_so(context, name)) if context and name in self._silent else None
        try:
            call = super().call_tool(name, arguments, context)
            return await (call if name in self._patient else _in_time(call, name))
        except UnexpectedToolError as error:
            raise UnexpectedToolError(
                f"{name} failed in a way nobody foresaw; the server's log on stderr says how. Next: try once more, or "
                f"let a person run `looptune doctor`."
            ) from error.__cause__
        except ToolError as error:
            cause = error.__cause__
            if isinstance(cause, ValidationError):
                raise ToolError(f"{what_was_wrong(cause)} Next: mend it and call {name} again.") from cause
            raise ToolError(str(cause or error)) from cause
        finally:
            if word is not None:
                word.cancel()


async def _in_time(call: Coroutine[Any, Any, _Reply], name: str) -> _Reply:
    """The reply of a call, or a refusal after SECONDS: a host that waits in vain knows less than one that is told."""
    task = asyncio.create_task(call)
    try:
        if (await asyncio.wait({task}, timeout=SECONDS))[0]:
            return task.result()
        raise ToolError(
            f"{name} has not ended within {SECONDS:.0f} s; what it began may still end by itself. Next: look whether "
            f"it did (dataset://index, run://index, memory://store), or call {name} with less at a time."
        )
    finally:
        task.cancel()  # a thread goes on, and nobody hears of it


async def _say_so(context: Context[Any, Any], name: str) -> None:
    """Progress once a second, for a tool that works in a thread and cannot say so itself."""
    began = time.monotonic()
    while True:
        await asyncio.sleep(1)
        seconds = time.monotonic() - began
        await context.report_progress(round(seconds, 1), None, f"{name} is at work, {seconds:.0f} s")


def _foreseen(error: ValueError) -> str:
    """What a prompt was not made for; raises `error` when nobody foresaw it. The SDK wraps what happened twice."""
    cause: BaseException | None = error
    while cause is not None:
        if isinstance(cause, ValidationError):
            return what_was_wrong(cause)
        if isinstance(cause, LooptuneError):
            return str(cause)
        cause = cause.__cause__
    raise error


def _near(name: str, known: Any) -> str:
    near = difflib.get_close_matches(name, list(known), 1)
    return f" Did you mean {near[0]}?" if near else ""
