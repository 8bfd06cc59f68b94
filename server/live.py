"""Word of changes: the workspace is looked at once a second, and whoever asked is told, in both protocol eras.

    live = Live(workspace)
    Server(…, subscriptions=live.bus, lifespan=live.lifespan, middleware=[live.heard])
    live.serve(server)      # resources/subscribe and resources/unsubscribe, for clients of 2025-11-25

A worker, another server or the command line may change things as well as a tool of this server, so nothing is told by
the tools: what files say is the truth. Clients of 2026-07-28 listen through `subscriptions/listen`, which the SDK
serves from `bus`; older ones subscribe, and hear of new and lost resources without asking, as the protocol has it.
"""

from collections import Counter
from collections.abc import AsyncIterator, Callable, Iterable
from contextlib import asynccontextmanager, suppress
from functools import partial
from pathlib import Path
from typing import Any

import anyio
import anyio.to_thread
from mcp.server import MCPServer, NotificationOptions, ServerRequestContext
from mcp.server.connection import Connection
from mcp.server.context import CallNext, HandlerResult
from mcp.server.subscriptions import InMemorySubscriptionBus, ResourcesListChanged, ResourceUpdated, ServerEvent
from mcp.types import EmptyResult, SubscribeRequestParams, UnsubscribeRequestParams
from mcp_types.version import MODERN_PROTOCOL_VERSIONS

from tools.errors import LooptuneError
from tools.workspace import Workspace

SECONDS = 1.0
_MOST = 500  # URIs that one client may subscribe to
_MEMORY = "memory://entries/"

Seen = dict[str, tuple[Any, ...]]


class Bus(InMemorySubscriptionBus):
    """The SDK's bus, which also knows how many streams listen."""

    def __init__(self) -> None:
        super().__init__()
        self.listening = 0

    def subscribe(self, listener: Callable[[ServerEvent], None]) -> Callable[[], None]:
        """Register a stream; the call that comes back takes it out again."""
        done = super().subscribe(listener)
        self.listening += 1
        left = False

        def leave() -> None:
            nonlocal left
            if not left:
                left = True
                self.listening -= 1
            done()

        return leave


class Live:
    """Who wants to know, and what was seen last."""

    def __init__(self, workspace: Workspace) -> None:
        self.bus = Bus()
        self._workspace = workspace
        self._subscribed: dict[Connection, set[str]] = {}
        self._listened: Counter[str] = Counter()  # memories that streams of newer clients listen for

    @asynccontextmanager
    async def lifespan(self, server: Any) -> AsyncIterator[dict[str, Any]]:
        """Looks as long as the server serves."""
        async with anyio.create_task_group() as group:
            group.start_soon(self._look)
            yield {}
            group.cancel_scope.cancel()

    async def heard(self, ctx: ServerRequestContext[Any, Any], call_next: CallNext) -> HandlerResult:
        """Middleware: an older client is told of new resources from its first word on; of a newer one's stream it is
        kept which memories it listens for, since looking at all of them would be too much."""
        if ctx.method == "subscriptions/listen":
            uris = _memories(((ctx.params or {}).get("notifications") or {}).get("resourceSubscriptions") or [])
            self._listened.update(uris)
            try:
                return await call_next(ctx)
            finally:
                self._listened.subtract(uris)
                self._listened += Counter()  # without those that nobody listens for any more
        if ctx.protocol_version not in MODERN_PROTOCOL_VERSIONS and ctx.method == "notifications/initialized":
            self._wanted(ctx)
        return await call_next(ctx)

    def serve(self, server: MCPServer[Any]) -> None:
        """Register what MCPServer does not serve by itself: the older era's subscriptions, and its capability."""
        low = server._lowlevel_server  # the SDK's own way for methods that MCPServer has no name for
        low.add_request_handler("resources/subscribe", SubscribeRequestParams, self._subscribe)
        low.add_request_handler("resources/unsubscribe", UnsubscribeRequestParams, self._unsubscribe)
        options = NotificationOptions(resources_changed=True)
        low.create_initialization_options = partial(low.create_initialization_options, options)  # type: ignore[method-assign]

    def _wanted(self, ctx: ServerRequestContext[Any, Any]) -> set[str]:
        connection = ctx.session._connection  # a session lives for one request, its connection until the client leaves
        if connection not in self._subscribed:
            self._subscribed[connection] = set()
            connection.exit_stack.callback(self._subscribed.pop, connection, None)
        return self._subscribed[connection]

    async def _subscribe(self, ctx: ServerRequestContext[Any, Any], params: SubscribeRequestParams) -> EmptyResult:
        wanted = self._wanted(ctx)
        if len(wanted) < _MOST:
            wanted.add(str(params.uri))
        return EmptyResult()

    async def _unsubscribe(self, ctx: ServerRequestContext[Any, Any], params: UnsubscribeRequestParams) -> EmptyResult:
        self._wanted(ctx).discard(str(params.uri))
        return EmptyResult()

    async def _look(self) -> None:
        before: Seen | None = None
        memories: Seen = {}
        while True:
            if self.bus.listening or self._subscribed:
                with suppress(OSError, LooptuneError):  # something was removed meanwhile; the next look sees it
                    now = await anyio.to_thread.run_sync(seen, self._workspace)
                    wanted = {*self._listened, *(uri for uris in self._subscribed.values() for uri in _memories(uris))}
                    entries = await anyio.to_thread.run_sync(seen_memories, self._workspace, wanted)
                    changed = {uri for uri in entries if uri in memories and entries[uri] != memories[uri]}
                    if before is not None and (changed or now != before):
                        await self._tell(before, now, changed)
                    before, memories = now, entries
            else:
                before, memories = None, {}
            await anyio.sleep(SECONDS)

    async def _tell(self, before: Seen, now: Seen, changed: set[str]) -> None:
        changed |= {uri for uri in before.keys() | now.keys() if before.get(uri) != now.get(uri)}
        listed = before.keys() != now.keys()
        for uri in sorted(changed):
            await self.bus.publish(ResourceUpdated(uri=uri))
        if listed:
            await self.bus.publish(ResourcesListChanged())
        for connection, uris in list(self._subscribed.items()):
            for uri in sorted(changed & uris):
                await connection.send_resource_updated(uri)
            if listed:
                await connection.send_resource_list_changed()


def seen(workspace: Workspace) -> Seen:
    """Each resource that may change by itself, with what its files say of their age and size."""
    found: Seen = {}
    for scheme, folder, files in (
        ("dataset", workspace.datasets, ("dataset.json", "report.json")),
        ("run", workspace.runs, ("state.json", "cancel")),
        ("model", workspace.models, ("manifest.json",)),
    ):
        things = [path for path in folder.iterdir() if not path.name.startswith(".")] if folder.is_dir() else []
        for thing in things:
            if (thing / files[0]).is_file():
                found[f"{scheme}://{thing.name}"] = _ages(*(thing / name for name in files))
        found[f"{scheme}://index"] = tuple(sorted((uri, age) for uri, age in found.items() if uri.startswith(scheme)))
    for uri in [uri for uri in found if uri.startswith("run://") and uri != "run://index"]:
        if (age := _ages(workspace.runs / uri.removeprefix("run://") / "metrics.jsonl")) != (None,):
            found[f"{uri}/metrics"] = age
    found["model://index"] += _ages(*sorted(workspace.models.glob("*.json")))
    found["memory://store"] = _ages(
        *sorted(workspace.memory.glob("entries*.sqlite3")), *sorted(workspace.memory.glob("entries*.sqlite3-wal"))
    )
    found["policy://rules"] = _ages(workspace.home / "rules.yaml")
    cycles = sorted((workspace.home / "loop").glob("*/state.json"))
    # what waits in memory, and who is at work, is part of it
    found["loop://state"] = (*_ages(*cycles, workspace.home / "loop" / "lease.json"), *found["memory://store"])
    for path in cycles:
        found[f"loop://log/{path.parent.name}"] = _ages(path)
    return found


def seen_memories(workspace: Workspace, uris: set[str]) -> Seen:
    """Each of the memories that somebody wants to hear of, as it stands in the ledger; one that is gone is empty.

    Raises:
        LooptuneError: the ledger cannot be read.
    """
    path = workspace.memory / "entries.sqlite3"
    found: Seen = dict.fromkeys(uris, ())
    if not uris or not path.is_file():
        return found
    from tools.memory.ledger import ledger

    with ledger(path) as db:
        for uri in uris:
            id = uri.removeprefix(_MEMORY)
            found[uri] = db.execute("SELECT entry, status FROM entries WHERE id = ?", (id,)).fetchone() or ()
    return found


def _memories(uris: Iterable[Any]) -> list[str]:
    """Those of `uris` that are memories, as many as are looked after."""
    return [uri for uri in uris if isinstance(uri, str) and uri.startswith(_MEMORY)][:_MOST]


def _ages(*paths: Path) -> tuple[tuple[int, int] | None, ...]:
    ages: list[tuple[int, int] | None] = []
    for path in paths:
        try:
            stat = path.stat()
            ages.append((stat.st_mtime_ns, stat.st_size))
        except OSError:
            ages.append(None)
    return tuple(ages)
