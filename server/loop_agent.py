"""The loop's own MCP client: the phases of a sprint, driven over stdio as an agent would drive them.

cycle = run_loop(workspace, cycle, sprint, say)     # to its end; `looptune loop run`
cycle = run_loop(workspace, cycle, sprint, say, one_phase=True)
"""

import json
import os
import sys
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from typing import Any

import anyio
from mcp import Client, StdioServerParameters
from mcp.shared.dispatcher import ProgressFnT
from mcp.shared.exceptions import MCPError

from tools.errors import LooptuneError
from tools.sprint.cycle import Cycle, Entry
from tools.sprint.lease import held
from tools.sprint.rules import Sprint
from tools.sprint.work import Agent, Choice, Refused, Step
from tools.workspace import Workspace

Say = Callable[[Entry | dict[str, Any]], None]


class McpAgent(Agent):
    """Calls the tools of a connected server; `heard` gets their progress."""

    def __init__(self, client: Client, heard: ProgressFnT | None = None) -> None:
        self._client, self._heard = client, heard
        self._tools: set[str] = set()

    async def call(self, tool: str, **arguments: Any) -> dict[str, Any]:
        """A tool's structured answer. Raises Refused with the tool's own words."""
        try:
            result = await self._client.call_tool(tool, arguments, progress_callback=self._heard)
        except MCPError as error:
            raise Refused(f"{tool}: {error}", "look at the server's log on stderr") from error
        if result.is_error:
            said = " ".join(part.text for part in result.content if part.type == "text")
            raise Refused(f"{tool}: {said}")
        return dict(result.structured_content or {})

    async def read(self, uri: str) -> Any:
        """A resource's JSON value. Raises Refused."""
        try:
            found = await self._client.read_resource(uri)
        except MCPError as error:
            raise Refused(f"{uri}: {error}") from error
        return json.loads("".join(part.text for part in found.contents if hasattr(part, "text")))

    async def has(self, tool: str) -> bool:
        """Whether the server has this tool."""
        if not self._tools:
            self._tools = {listed.name for listed in (await self._client.list_tools()).tools}
        return tool in self._tools


def run_loop(
    workspace: Workspace,
    cycle: Cycle,
    sprint: Sprint,
    say: Say,
    one_phase: bool = False,
    choice: Choice | None = None,
) -> Cycle:
    """Take phase after phase of `cycle`, over a stdio session with a server of its own, until it ends.

    Args:
        say: hears each entry of the log, and the status of the job that is waited for.
        one_phase: only the next phase.
        choice: settings and rows chosen instead of the rules, when the next phase is decide or adapt.

    Raises:
        ConflictError: another loop holds the lease, or took it over.
        Refused: a tool said no to something that the loop cannot mend.
    """
    own = {key: value for key, value in os.environ.items() if key.startswith("LOOPTUNE_")}
    own["LOOPTUNE_HOME"] = str(workspace.home)
    parameters = StdioServerParameters(command=sys.executable, args=["-P", "-m", "server"], env=own)

    async def run() -> None:
        from tools.sprint.phases import advance

        with held(workspace, cycle.id) as lease:
            async with Client(parameters) as client:
                step = Step(workspace, cycle, sprint, lease, McpAgent(client), progress=say)
                step.choice = choice or Choice()
                first, told = cycle.phase, len(cycle.entries)
                while cycle.state == "open" and not (one_phase and cycle.phase != first):
                    try:
                        await advance(step)
                    finally:
                        for entry in cycle.entries[told:]:
                            say(entry)
                        told = len(cycle.entries)
                    step.choice = Choice()

    with unwrapped():
        anyio.run(run)
    return cycle


@contextmanager
def unwrapped(kind: type[Exception] = LooptuneError) -> Iterator[None]:
    """An error of this kind as itself: a client's task group wraps what is raised within it."""
    try:
        yield
    except* kind as group:
        first: BaseException = group
        while isinstance(first, BaseExceptionGroup):
            first = first.exceptions[0]
        raise first from None
