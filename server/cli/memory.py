"""`looptune memory list | query | export | import | reindex | forget`: the memory, looked after by a person.

looptune memory export memory.jsonl          # every entry, archived ones too
looptune memory forget --kind run_note --until 2026-01-01          # shows what would go; --yes removes it

It works on the store itself, beside servers that have it open.
"""

import json
import sys
from datetime import UTC, datetime
from pathlib import Path
from typing import Annotated, Any, get_args

import typer

from server import names
from tools.errors import InputError, NotFoundError
from tools.memory.kinds import EntryKind, EntryStatus
from tools.policy.levels import PreservationLevel
from tools.settings import Settings
from tools.workspace import Workspace

memory_app = typer.Typer(no_args_is_help=True, help="What is remembered: list, query, export, import, reindex, forget.")
Json = Annotated[bool, typer.Option("--json", help="print one JSON value and nothing else")]
Kinds = Annotated[list[str] | None, typer.Option("--kind", help=f"only these: {', '.join(get_args(EntryKind))}")]
Tags = Annotated[
    list[str] | None,
    typer.Option("--tag", help="only with all of these, e.g. --tag 'business:*'", autocompletion=names.tags),
]
Levels = Annotated[
    list[str] | None, typer.Option("--level", help=f"only these: {', '.join(get_args(PreservationLevel))}")
]
Statuses = Annotated[
    list[str] | None,
    typer.Option("--status", help=f"only these: {', '.join(get_args(EntryStatus))}; else all but archived"),
]
Since = Annotated[str, typer.Option(help="only created at or after this, e.g. 2026-03-01")]
Until = Annotated[str, typer.Option(help="only created before this, e.g. 2026-04-01")]


@memory_app.command("list")
def list_(
    kind: Kinds = None,
    tag: Tags = None,
    level: Levels = None,
    status: Statuses = None,
    since: Since = "",
    until: Until = "",
    limit: Annotated[int, typer.Option(min=1, max=1000, help="most entries")] = 50,
    offset: Annotated[int, typer.Option(min=0, help="entries to pass over")] = 0,
    as_json: Json = False,
) -> None:
    """What is remembered, newest first."""
    memory, chosen = _store(), _filter(kind, tag, level, status, since, until)
    entries = memory.entries(limit, offset, chosen=chosen)
    info = memory.describe()
    if as_json:
        _json({**info.model_dump(), "matching": memory.count(chosen), "entries": [e.model_dump() for e in entries]})
        return
    for entry in entries:
        _say(_line(entry))
    waiting = f", {info.waiting} of them not yet in Chroma" if info.waiting else ""
    _say(f"{memory.count(chosen)} of {info.count} entries{waiting}; {info.server or info.path}")


@memory_app.command()
def query(
    text: Annotated[str, typer.Argument(help="what you want to know")],
    kind: Kinds = None,
    tag: Tags = None,
    level: Levels = None,
    status: Statuses = None,
    since: Since = "",
    until: Until = "",
    limit: Annotated[int, typer.Option(min=1, max=50, help="most hits")] = 5,
    as_json: Json = False,
) -> None:
    """The entries nearest to a question, with their scores and why they are there."""
    found = _store().search(text, _filter(kind, tag, level, status, since, until), limit)
    if as_json:
        _json(found.model_dump())
        return
    for hit in found.hits:
        _say(f"{hit.score:.2f} ({hit.why}) {_line(hit)}")
    if not found.hits:
        _say("Nothing is remembered about that.")


@memory_app.command()
def export(
    path: Annotated[Path, typer.Argument(help="the JSONL file to write; an existing one is replaced")],
    as_json: Json = False,
) -> None:
    """Write every entry, archived ones too, as a line of JSON each."""
    from tools.memory.transfer import export_entries

    count = export_entries(Workspace.open(Settings()), path)
    _json({"entries": count, "path": str(path)}) if as_json else _say(f"{count} entries in {path}")


@memory_app.command("import")
def import_(
    path: Annotated[Path, typer.Argument(help="a file of `export`, or memory/archive.jsonl to bring back what went")],
    as_json: Json = False,
) -> None:
    """Take over entries as they stand; of one that is known, the one updated last stays."""
    from tools.memory.transfer import import_entries

    result = import_entries(Workspace.open(Settings()), path, _progress)
    if as_json:
        _json(result.model_dump())
    else:
        _say(f"{result.added} added, {result.updated} updated, {result.unchanged} known as they are")


@memory_app.command()
def reindex(as_json: Json = False) -> None:
    """Embed every text anew and make the index from that: after a change of the embedding model or a broken index."""
    from tools.memory.transfer import reindex as again

    count = again(Workspace.open(Settings()), _progress)
    _json({"entries": count}) if as_json else _say(f"{count} entries embedded and indexed")


@memory_app.command()
def forget(
    ids: Annotated[list[str] | None, typer.Argument(help="ids, from `looptune memory list`")] = None,
    kind: Kinds = None,
    tag: Tags = None,
    level: Levels = None,
    status: Statuses = None,
    since: Since = "",
    until: Until = "",
    yes: Annotated[bool, typer.Option("--yes", help="remove; without it, they are only shown")] = False,
    as_json: Json = False,
) -> None:
    """Remove entries by id or by filter; they are written to memory/archive.jsonl first."""
    memory, chosen = _store(), _filter(kind, tag, level, status, since, until)
    if bool(ids) == bool(chosen):
        raise InputError("Expected either ids or a filter.", "`looptune memory list` shows the ids")
    entries = memory.get_all(ids) if ids else []
    while not ids and len(page := memory.entries(1000, len(entries), chosen=chosen)):
        entries += page
    if not entries:
        raise NotFoundError("Nothing matches.", "`looptune memory list` shows what there is")
    if yes:
        memory.forget([entry.id for entry in entries])
    if as_json:
        _json({"removed": yes, "count": len(entries), "entries": [entry.model_dump() for entry in entries]})
        return
    for entry in entries:
        _say(_line(entry))
    _say(f"{len(entries)} removed" if yes else f"{len(entries)} would be removed; --yes removes them")


def _store() -> Any:
    from tools.memory.store import MemoryStore

    return MemoryStore(Workspace.open(Settings()))


def _filter(
    kind: list[str] | None,
    tag: list[str] | None,
    level: list[str] | None,
    status: list[str] | None,
    since: str,
    until: str,
) -> dict[str, Any]:
    """The conditions that were given; {} when none was."""
    given = {"kinds": kind, "tags": tag, "levels": level, "statuses": status}
    return {
        **{name: value for name, value in given.items() if value},
        **{name: _moment(text, name) for name, text in (("since", since), ("until", until)) if text},
    }


def _moment(text: str, name: str) -> datetime:
    try:
        moment = datetime.fromisoformat(text)
    except ValueError as error:
        raise InputError(f"Expected a date for --{name}, got {text!r}.", "write it like 2026-03-01") from error
    return moment.astimezone(UTC) if moment.tzinfo else moment.replace(tzinfo=UTC)


def _line(entry: Any) -> str:
    tags = f" {', '.join(entry.tags)}" if entry.tags else ""
    return f"{entry.id} [{entry.kind}, {entry.status}{tags}] {' '.join(entry.text.split())[:100]}"


def _progress(done: int, of: int) -> None:
    sys.stderr.write(f"  {done} of {of}\n")


def _say(text: str) -> None:
    sys.stdout.write(text + "\n")


def _json(value: Any) -> None:
    _say(json.dumps(value, ensure_ascii=False, indent=1))
