"""The Tasks extension (`io.modelcontextprotocol/tasks`, SEP-2663) as a view over the runs: a task's id is a run's id.

    Server(…, extensions=[Tasks([Runs(workspace)])])

A client that declared the extension gets a task from the tools that start a job, and follows it with `tasks/get` and
`tasks/cancel`; every other client gets the job's id and follows it with training_status. Nothing is kept here: the
runs are the record, so a task is still there when the server is not.
"""

from collections.abc import Sequence
from typing import Any, Protocol

import anyio.to_thread
from mcp.server import ServerRequestContext
from mcp.server.context import CallNext, HandlerResult
from mcp.server.extension import Extension, MethodBinding
from mcp.server.mcpserver import require_client_extension
from mcp.shared.exceptions import MCPError
from mcp.types import INVALID_PARAMS, CallToolRequestParams, CallToolResult, RequestParams, TextContent
from mcp_types import HEADER_MISMATCH
from mcp_types.version import MODERN_PROTOCOL_VERSIONS
from pydantic import ConfigDict, Field
from pydantic.alias_generators import to_camel

from server.answers import Started, shortened
from server.states import status, told_state
from tools.errors import ConflictError, LooptuneError
from tools.jobs import record
from tools.workspace import Workspace

TASKS = "io.modelcontextprotocol/tasks"
POLL_MS = 2000
_STATUS = {"finished": "completed", "failed": "completed", "stopped": "cancelled"}


class TaskParams(RequestParams):
    """Which task."""

    model_config = ConfigDict(alias_generator=to_camel, populate_by_name=True, extra="ignore")

    task_id: str = Field(max_length=200)


class UpdateParams(TaskParams):
    """Which task, and what its questions were answered."""

    input_responses: dict[str, Any] = Field(default_factory=dict)


class TaskSource(Protocol):
    """Where tasks come from."""

    async def call(
        self, params: CallToolRequestParams, ctx: ServerRequestContext[Any, Any], call_next: CallNext, declared: bool
    ) -> HandlerResult:
        """The answer to a tool's call: a task's state when it became one, else the tool's own result."""
        ...

    async def state(self, task_id: str) -> dict[str, Any] | None:
        """The task as `tasks/get` shows it, or None when it is none of these."""
        ...

    async def cancel(self, task_id: str) -> None:
        """Ask the task to stop; nothing happens when it has ended."""
        ...

    async def update(self, task_id: str, responses: dict[str, Any]) -> None:
        """Answers to what the task asked."""
        ...


class Tasks(Extension):
    """`tasks/get`, `tasks/update` and `tasks/cancel` over what the sources know."""

    identifier = TASKS

    def __init__(self, sources: Sequence[TaskSource]) -> None:
        self._sources = sources

    def methods(self) -> Sequence[MethodBinding]:
        """The three methods, for clients of the era that has the extension."""
        versions = frozenset(MODERN_PROTOCOL_VERSIONS)
        return [
            MethodBinding("tasks/get", TaskParams, self._get, versions),
            MethodBinding("tasks/update", UpdateParams, self._update, versions),
            MethodBinding("tasks/cancel", TaskParams, self._cancel, versions),
        ]

    async def intercept_tool_call(
        self, params: CallToolRequestParams, ctx: ServerRequestContext[Any, Any], call_next: CallNext
    ) -> HandlerResult:
        """Let each source turn the call into a task, when the client can follow one."""
        declared = ctx.protocol_version in MODERN_PROTOCOL_VERSIONS and _declared(ctx)

        chain = call_next
        for source in self._sources:
            chain = _bound(source, params, chain, declared)
        return await chain(ctx)

    async def _get(self, ctx: ServerRequestContext[Any, Any], params: TaskParams) -> HandlerResult:
        _, state = await self._find(ctx, params)
        return {"resultType": "complete", **state}

    async def _update(self, ctx: ServerRequestContext[Any, Any], params: UpdateParams) -> HandlerResult:
        source, _ = await self._find(ctx, params)
        await source.update(params.task_id, params.input_responses)
        return {"resultType": "complete"}

    async def _cancel(self, ctx: ServerRequestContext[Any, Any], params: TaskParams) -> HandlerResult:
        source, _ = await self._find(ctx, params)
        await source.cancel(params.task_id)
        return {"resultType": "complete"}

    async def _find(self, ctx: ServerRequestContext[Any, Any], params: TaskParams) -> tuple[TaskSource, dict[str, Any]]:
        require_client_extension(ctx, TASKS)
        named = getattr(ctx.request, "headers", {}).get("mcp-name", None if ctx.request is None else "")
        if named is not None and named != params.task_id:
            raise MCPError(HEADER_MISMATCH, f"The header Mcp-Name has to be the task's id; got {named[:80]!r}.")
        for source in self._sources:
            if state := await source.state(params.task_id):
                return source, state
        raise MCPError(INVALID_PARAMS, f"There is no task {params.task_id[:80]!r}; run://index lists the runs.")


def created(state: dict[str, Any]) -> dict[str, Any]:
    """What a tool's call is answered with when it became a task: its state, without a result."""
    return {"resultType": "task", **{key: value for key, value in state.items() if key not in ("result", "error")}}


class Runs:
    """The jobs of a workspace as tasks."""

    def __init__(self, workspace: Workspace) -> None:
        self._workspace = workspace

    async def call(
        self, params: CallToolRequestParams, ctx: ServerRequestContext[Any, Any], call_next: CallNext, declared: bool
    ) -> HandlerResult:
        """A call that started a job is a task; one that was refused is the refusal."""
        result = await call_next(ctx)
        if not declared or not isinstance(result, CallToolResult) or result.is_error:
            return result
        found = result.structured_content or {}
        if set(found) != set(Started.model_fields) or not (state := await self.state(found["id"])):
            return result
        return created(state)

    async def state(self, task_id: str) -> dict[str, Any] | None:
        """The run, as a task."""

        def read() -> record.State | None:
            try:
                return record.read(self._workspace.run(task_id))
            except LooptuneError:
                return None

        state = await anyio.to_thread.run_sync(read)
        if state is None:
            return None
        task: dict[str, Any] = {
            "taskId": state.id,
            "status": _STATUS.get(state.state, "working"),
            "statusMessage": state.message or state.reason,
            "createdAt": state.created,
            "lastUpdatedAt": state.finished or state.updated or state.created,
            "ttlMs": None,  # a run is kept until a person removes it
            "pollIntervalMs": POLL_MS,
        }
        if task["status"] == "completed":
            result = CallToolResult(
                content=[TextContent(type="text", text=shortened(told_state(state, [])))],
                structured_content=status(state, []).model_dump(mode="json"),
                is_error=state.state == "failed",
            )
            task["result"] = result.model_dump(mode="json", by_alias=True, exclude_none=True)
        return task

    async def cancel(self, task_id: str) -> None:
        """Ask the run to stop at its next step."""

        def ask() -> None:
            try:
                record.cancel(self._workspace.run(task_id))
            except ConflictError:
                return  # it had ended

        await anyio.to_thread.run_sync(ask)

    async def update(self, task_id: str, responses: dict[str, Any]) -> None:
        """A run asks nothing."""


def _declared(ctx: ServerRequestContext[Any, Any]) -> bool:
    capabilities = ctx.session.client_capabilities
    return bool(capabilities and TASKS in (capabilities.extensions or {}))


def _bound(source: TaskSource, params: CallToolRequestParams, call_next: CallNext, declared: bool) -> CallNext:
    async def call(ctx: ServerRequestContext[Any, Any]) -> HandlerResult:
        return await source.call(params, ctx, call_next, declared)

    return call
