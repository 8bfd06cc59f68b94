"""`looptune watch`: jobs, the queue, the machine's memory, what is remembered, and the loop, at a glance.

    found = look(workspace)          # data
    picture(found)                   # what rich draws of it

It reads files only, twice a second, and starts nothing but workers that were lost (tools.jobs.queue.tend).
"""

import json
import shutil
import sys
import time
from datetime import UTC, datetime
from typing import Annotated, Any

import psutil
import typer
from rich.console import Console, Group, RenderableType
from rich.live import Live
from rich.panel import Panel
from rich.progress_bar import ProgressBar
from rich.table import Table
from rich.text import Text

from server.cli.show import figures_of
from tools.errors import LooptuneError
from tools.files import read_json
from tools.jobs import record
from tools.jobs.queue import tend
from tools.settings import Settings
from tools.workspace import Workspace

watch_app = typer.Typer()
_ENDED = 5  # jobs that ended, the newest
_COLOURS = {"finished": "green", "failed": "red", "stopped": "yellow", "running": "cyan", "stopping": "yellow"}


@watch_app.command()
def watch(
    once: Annotated[bool, typer.Option("--once", help="print it once and end; what a pipe gets anyway")] = False,
    every: Annotated[float, typer.Option(min=0.2, max=60, help="seconds between two looks")] = 1.0,
    as_json: Annotated[bool, typer.Option("--json", help="print one JSON value and nothing else")] = False,
) -> None:
    """Runs, queue, memory and the loop at a glance, until Ctrl-C."""
    workspace = Workspace.open(Settings())
    if as_json:
        sys.stdout.write(json.dumps(look(workspace), ensure_ascii=False, indent=1) + "\n")
        return
    console = Console(highlight=False)
    if once or not console.is_terminal:
        console.print(picture(look(workspace)))
        return
    with Live(picture(look(workspace)), console=console, screen=True, auto_refresh=False) as live:
        while True:
            time.sleep(every)
            live.update(picture(look(workspace)), refresh=True)


def look(workspace: Workspace) -> dict[str, Any]:
    """Everything that is shown, as data. Times are ISO 8601 in UTC, GB are 10⁹ bytes."""
    tend(workspace)
    states = sorted(
        (record.read(workspace.runs / name) for name in workspace.names(workspace.runs, "state.json")),
        key=lambda state: (state.created, state.id),
    )
    memory = psutil.virtual_memory()
    existing = next(path for path in (workspace.home, *workspace.home.parents) if path.exists())
    ended = [state for state in states if state.state not in record.ACTIVE]
    ended.sort(key=lambda state: (state.finished, state.created))
    return {
        "workspace": str(workspace.home),
        "time": record.now(),
        "machine": {
            "memory_available_gb": round(memory.available / 1e9, 2),
            "memory_total_gb": round(memory.total / 1e9, 2),
            "disk_free_gb": round(shutil.disk_usage(existing).free / 1e9, 2),
        },
        "running": [_job(workspace, state) for state in states if state.state in ("running", "stopping")],
        "queue": [_job(workspace, state) for state in states if state.state == "queued"],
        "ended": [_job(workspace, state) for state in ended[::-1][:_ENDED]],
        "counts": {name: sum(state.state == name for state in states) for name in ("finished", "stopped", "failed")},
        "model": _model(workspace),
        "store": _store(workspace),
        "loop": _loop(workspace),
    }


def picture(found: dict[str, Any]) -> RenderableType:
    """What `look` found, drawn."""
    machine = found["machine"]
    head = Text.assemble(
        ("looptune ", "bold"),
        f"{found['workspace']}  {found['time']}\n",
        f"{machine['memory_available_gb']:.1f} of {machine['memory_total_gb']:.1f} GB of memory available, "
        f"{machine['disk_free_gb']:.1f} GB of disk free",
    )
    parts: list[RenderableType] = [head]
    parts += [_panel("at work", _working(found["running"]), "nothing runs")]
    parts += [_panel("queue", _waiting(found["queue"]), "nobody waits")]
    counts = ", ".join(f"{count} {name}" for name, count in found["counts"].items() if count)
    parts += [_panel(f"ended{f' ({counts})' if counts else ''}", _over(found["ended"]), "no job has ended yet")]
    store, loop = found["store"], found["loop"]
    parts.append(Text.assemble(("model  ", "bold"), found["model"] or "none is promoted yet"))
    parts.append(Text.assemble(("memory ", "bold"), store.get("problem") or _told_store(store)))
    parts.append(Text.assemble(("loop   ", "bold"), _told_loop(loop) if loop else "no cycle yet"))
    return Group(*parts)


def _job(workspace: Workspace, state: record.State) -> dict[str, Any]:
    keys = {"id", "kind", "state", "message", "reason", "step", "total", "metrics", "created", "started", "finished"}
    limit = record.Job(workspace.runs / state.id).config.get("memory_limit_gb") if state.kind == "train" else None
    return {**state.model_dump(include=keys), "limit_gb": limit}


def _model(workspace: Workspace) -> str:
    from tools.export.promotion import promoted

    try:
        return promoted(workspace) or ""
    except LooptuneError as error:
        return error.message


def _store(workspace: Workspace) -> dict[str, Any]:
    from tools.memory.store import MemoryStore

    try:
        info = MemoryStore(workspace).describe()
    except LooptuneError as error:
        return {"problem": error.message}
    return {"entries": info.count, "by_status": info.by_status, "by_kind": info.by_kind}


def _loop(workspace: Workspace) -> dict[str, Any]:
    """The newest cycle of the loop, as its state file says it; {} without one."""
    names = workspace.names(workspace.home / "loop", "state.json")
    if not names:
        return {}
    state = read_json(workspace.home / "loop" / names[-1] / "state.json")
    last = state.get("entries") or [{}]
    keys = ("id", "sprint", "goal", "state", "phase", "waiting", "reason", "minutes", "updated")
    return {**{key: state.get(key, "") for key in keys}, "attempts": len(state.get("attempts", [])), "last": last[-1]}


def _panel(title: str, table: Table, empty: str) -> Panel:
    body = table if table.row_count else Text(empty, style="dim")
    return Panel(body, title=title, title_align="left", border_style="dim")


def _plain_table(*columns: str) -> Table:
    table = Table(box=None, padding=(0, 1), show_header=False, expand=True)
    for column in columns:
        table.add_column(overflow="fold", ratio=2 if column == "text" else None, no_wrap=column == "word")
    return table


def _working(jobs: list[dict[str, Any]]) -> Table:
    table = _plain_table("word", "word", "word", "text")
    for job in jobs:
        bar = ProgressBar(total=job["total"] or 1, completed=job["step"], width=18)
        figures = figures_of(job["metrics"]) or job["message"]
        if job["limit_gb"] and "memory_gb" in job["metrics"]:
            figures += f" (limit {job['limit_gb']:g} GB)"
        done = f"{job['step']}/{job['total'] or '?'}"
        table.add_row(Text(job["id"], _COLOURS[job["state"]]), bar, done, Text(figures))
    return table


def _waiting(jobs: list[dict[str, Any]]) -> Table:
    table = _plain_table("word", "word", "text")
    for place, job in enumerate(jobs, start=1):
        table.add_row(f"{place}.", job["id"], Text(job["reason"]))
    return table


def _over(jobs: list[dict[str, Any]]) -> Table:
    table = _plain_table("word", "word", "word", "text")
    for job in jobs:
        table.add_row(job["id"], Text(job["state"], _COLOURS[job["state"]]), _ago(job["finished"]), Text(job["reason"]))
    return table


def _ago(at: str) -> str:
    if not at:
        return ""
    seconds = (datetime.now(UTC) - datetime.fromisoformat(at)).total_seconds()
    for size, unit in ((86400, "d"), (3600, "h"), (60, "min")):
        if seconds >= size:
            return f"{seconds // size:.0f} {unit} ago"
    return f"{max(0.0, seconds):.0f} s ago"


def _told_store(store: dict[str, Any]) -> str:
    statuses = ", ".join(f"{count} {status}" for status, count in store["by_status"].items())
    return f"{store['entries']} entries{f': {statuses}' if statuses else ''}"


def _told_loop(loop: dict[str, Any]) -> str:
    waits = f", waiting for {loop['waiting']}" if loop["waiting"] else ""
    said = loop["last"].get("said", "")
    text = (
        f"{loop['id']} is {loop['state']}, phase {loop['phase']}, attempt {loop['attempts']}{waits}. {loop['reason']}"
    )
    return f"{text.rstrip()}\n       {said}" if said else text.rstrip()
