"""Names as they are typed: what completes an argument of a prompt or the variable of a resource's template.

add_completions(server, workspace)

What starts with the text comes first, then what merely holds it; at most a hundred, with how many there are.
"""

from collections.abc import Callable, Iterable
from typing import Any

import anyio.to_thread
from mcp.server import MCPServer
from mcp.types import Completion, PromptReference, ResourceTemplateReference

from tools.workspace import Workspace

_MOST = 100  # the protocol's own bound


def add_completions(server: MCPServer[Any], workspace: Workspace) -> None:
    """Register the completions of every template and prompt on `server`."""
    ways = _ways(workspace)

    @server.completion()  # type: ignore[no-untyped-call, untyped-decorator]
    async def complete(ref: Any, argument: Any, context: Any) -> Completion | None:
        if isinstance(ref, ResourceTemplateReference):
            way = ways.get(_of_template(str(ref.uri)))
        elif isinstance(ref, PromptReference):
            way = ways.get(argument.name)
        else:
            way = None
        if way is None:
            return None
        known = await anyio.to_thread.run_sync(lambda: list(way()))
        return fitting(argument.value, known)


def fitting(typed: str, known: Iterable[str]) -> Completion:
    """The names that begin with `typed`, then those that hold it, whatever their case."""
    wanted = typed.casefold()
    names = list(dict.fromkeys(known))
    first = [name for name in names if name.casefold().startswith(wanted)]
    rest = [name for name in names if wanted in name.casefold() and name not in first]
    found = first + rest
    return Completion(values=found[:_MOST], total=len(found), has_more=len(found) > _MOST)


def _of_template(uri: str) -> str:
    """What a template's variable names: 'dataset://{name}' → 'dataset'."""
    scheme, _, rest = uri.partition("://")
    return {"policy": "level", "memory": "memory", "loop": "cycle"}.get(scheme, scheme) if "{" in rest else ""


def _ways(workspace: Workspace) -> dict[str, Callable[[], Iterable[str]]]:
    """For each kind of name, the call that lists them, newest first."""

    def runs() -> list[str]:
        return workspace.names(workspace.runs, "state.json")[::-1]

    def datasets() -> list[str]:
        return workspace.names(workspace.datasets, "dataset.json")[::-1]

    def models() -> list[str]:
        return workspace.names(workspace.models, "manifest.json")[::-1]

    def presets() -> list[str]:
        from tools.training.config import ALIASES, preset_names

        return [*preset_names(), *ALIASES]

    def levels() -> list[str]:
        from tools.policy.levels import LEVELS

        return list(LEVELS)

    def memories() -> list[str]:
        from tools.memory.store import MemoryStore

        return [entry.id for entry in MemoryStore(workspace).entries(1000)]

    def cycles() -> list[str]:
        from tools.sprint.cycle import cycle_names

        return cycle_names(workspace)[::-1]

    return {
        "run": runs,
        "dataset": datasets,
        "model": models,
        "preset": presets,
        "level": levels,
        "memory": memories,
        "cycle": cycles,
        "sprint": cycles,
    }
