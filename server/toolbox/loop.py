"""The loop for agents: where the sprints stand, and the tool that takes one phase, so that an agent can decide.

add_loop(server, workspace)      # registers loop://state, loop://log/{cycle} and the tool loop_next
"""

import itertools
import json
from typing import Annotated, Any

from mcp import Client
from mcp.server import MCPServer
from mcp.server.mcpserver import Context
from mcp.types import CallToolResult
from pydantic import BaseModel, Field

from server.answers import answered
from server.definitions import writes
from server.errors import found, told
from tools.errors import InputError
from tools.workspace import Workspace

_WAIT_SECONDS = 25.0


class LoopState(BaseModel):
    """Where a cycle stands; `phase` comes next, `waiting` is the job it waits for, entries are this call's."""

    cycle: str
    state: str
    phase: str
    waiting: str
    reason: str
    entries: list[dict[str, Any]]
    criteria: list[dict[str, Any]]


def add_loop(server: MCPServer[Any], workspace: Workspace) -> None:
    """Register the loop's resources and its tool on `server`."""

    @server.resource(
        "loop://state",
        name="loop_state",
        description="Whether what waits in memory is worth a training; the sprints: who is at work, the newest cycle "
        "with its phase, attempts, criteria and log.",
        mime_type="application/json",
    )
    @found
    def loop_state() -> str:
        from tools.learning.state import loop_state
        from tools.sprint.cycle import cycle_names, newest, read_cycle
        from tools.sprint.lease import holder

        names = cycle_names(workspace)
        last = newest(workspace)
        value = {
            "insights": loop_state(workspace).model_dump(),
            "count": len(names),
            "at_work": holder(workspace),
            "newest": last.model_dump() if last else None,
            "cycles": [read_cycle(workspace, name).summary() for name in names[::-1][:20]],
        }
        return json.dumps(value, ensure_ascii=False, indent=1)

    @server.resource(
        "loop://log/{cycle}",
        name="loop_log",
        description="What was done in a cycle and why, as Markdown, e.g. loop://log/soft-hold-0001.",
        mime_type="text/markdown",
    )
    @found
    def loop_log(cycle: str) -> str:
        from tools.sprint.cycle import read_cycle
        from tools.sprint.log import loop_md

        return loop_md(read_cycle(workspace, cycle))

    @server.tool(
        title="Next phase of a sprint",
        annotations=writes(),
    )
    @told
    async def loop_next(
        ctx: Context[Any],
        sprint: Annotated[
            str, Field(max_length=64, description="a cycle of loop://state, or a sprint's name, e.g. 'soft-hold'")
        ] = "",
        rules: Annotated[
            str,
            Field(max_length=20_000, description="instead: a sprint file's YAML, e.g. 'name: holds\nteach: …'"),
        ] = "",
        settings: Annotated[
            dict[str, Any],
            Field(max_length=24, description="in decide and adapt: yours over the rules', e.g. {'epochs': 2}"),
        ] = {},  # noqa: B006  (pydantic copies defaults)
        rows: Annotated[
            int, Field(ge=0, le=20_000, description="in decide and adapt: rows, e.g. 400; 0 leaves them")
        ] = 0,
        reason: Annotated[
            str, Field(max_length=500, description="why you chose so, e.g. 'recall was low'; kept in the log")
        ] = "",
    ) -> Annotated[CallToolResult, LoopState]:
        """Take one phase of a sprint (observe, orient, decide, act, test, check, adapt, archive), or wait up to 25 s
        for its job. Use it again and again to drive a sprint yourself; choose settings before decide and adapt."""
        from server.loop_agent import McpAgent, unwrapped
        from tools.sprint.cycle import open_cycle, read_cycle, sprint_of
        from tools.sprint.lease import held
        from tools.sprint.phases import advance
        from tools.sprint.rules import parse_sprint, sprint_text
        from tools.sprint.work import Choice, Step

        if bool(sprint) == bool(rules):
            raise InputError("Expected either `sprint` or `rules`.", "read loop://state, or give a sprint's YAML")
        if sprint and (workspace.home / "loop" / sprint / "state.json").is_file():
            cycle = read_cycle(workspace, sprint)
        else:
            text = rules or sprint_text(workspace, sprint)
            cycle, _ = open_cycle(workspace, parse_sprint(text), text)
        known, heard_before = len(cycle.entries), itertools.count(1)

        async def heard(progress: float, total: float | None, message: str | None) -> None:
            # several tools are heard here, each with a scale of its own, and progress may only grow
            await ctx.report_progress(next(heard_before), None, message)

        with unwrapped(), held(workspace, cycle.id) as lease:
            async with Client(server) as client:
                agent = McpAgent(client, heard)
                step = Step(workspace, cycle, sprint_of(workspace, cycle), lease, agent, _WAIT_SECONDS)
                step.choice = Choice(dict(settings), rows or None, reason)
                await advance(step)
        entries = cycle.entries[known:]
        said = [f"{e.phase}: {e.said}{f' Because: {e.reason}' if e.reason else ''}" for e in entries]
        if cycle.state != "open":
            end = f"{cycle.id} {cycle.state}. Read loop://log/{cycle.id}."
        elif cycle.waiting:
            end = f"{cycle.waiting} is at work. Next: loop_next(sprint={cycle.id!r}) waits for it."
        else:
            choose = " (you may choose settings and rows)" if cycle.phase in ("decide", "adapt") else ""
            end = f"Next: loop_next(sprint={cycle.id!r}) does {cycle.phase}{choose}."
        return answered(
            "\n".join([*said, end]),
            LoopState(
                cycle=cycle.id,
                state=cycle.state,
                phase=cycle.phase,
                waiting=cycle.waiting,
                reason=cycle.reason,
                entries=[entry.model_dump() for entry in entries],
                criteria=[verdict.model_dump() for verdict in cycle.criteria],
            ),
        )
