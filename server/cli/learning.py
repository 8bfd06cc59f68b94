"""`looptune insights find | approve | state`: what is worth teaching, found, approved and weighed by a person.

looptune insights find session.txt           # a transcript or a diff; `-` reads standard input
looptune insights approve mem-2758b3e177b4
"""

import json
import sys
from pathlib import Path
from typing import Annotated, Any

import typer

from server.cli.shell import as_commands
from tools.errors import InputError
from tools.settings import Settings
from tools.workspace import Workspace

insights_app = typer.Typer(no_args_is_help=True, help="What is worth teaching: find, approve, state.")
Json = Annotated[bool, typer.Option("--json", help="print one JSON value and nothing else")]


@insights_app.command()
def find(
    path: Annotated[str, typer.Argument(help="a transcript or a diff; - reads standard input")],
    show: Annotated[bool, typer.Option("--show", help="only show them; keep nothing")] = False,
    as_json: Json = False,
) -> None:
    """Find and remember what is worth it: explicit words, corrections made three times, terms defined."""
    from tools.learning.keep import keep_insights

    found = keep_insights(Workspace.open(Settings()), _read(path), keep=not show)
    if as_json:
        _json([one.model_dump() for one in found])
        return
    for one in found:
        where = f"{one.kept.entry.id} {one.kept.entry.status}" if one.kept else "not kept"
        _say(f"{where} [{one.candidate.kind} {one.candidate.confidence}, {one.candidate.why}] {one.candidate.text}")
    _say(f"{len(found)} found; `looptune insights approve ID` says yes to a pending one")


@insights_app.command()
def approve(ids: Annotated[list[str], typer.Argument(help="ids of pending insights")], as_json: Json = False) -> None:
    """Say yes to pending insights, so that they are taught."""
    from tools.learning.keep import approve as say_yes

    entries = [say_yes(Workspace.open(Settings()), id) for id in ids]
    if as_json:
        _json([entry.model_dump() for entry in entries])
        return
    for entry in entries:
        _say(f"{entry.id} {entry.status}: {entry.text}")


@insights_app.command()
def state(as_json: Json = False) -> None:
    """Whether what waits is worth a training now, tonight, this week or not, and why."""
    from tools.learning.state import loop_state

    found = loop_state(Workspace.open(Settings()))
    if as_json:
        _json(found.model_dump())
        return
    for one in found.insights:
        _say(f"{one.score:.2f} {one.id} [{one.kind}, {one.days:.1f} days, {one.misses} misses] {one.text[:100]}")
    waiting = f"{found.pending} pending, {found.verified} verified"
    _say(f"train: {found.train} ({found.why}); {waiting}. {as_commands(found.next_step)}")


def _read(path: str) -> str:
    if path == "-":
        return sys.stdin.read()
    try:
        return Path(path).read_text(encoding="utf-8")
    except (OSError, UnicodeDecodeError) as error:
        raise InputError(f"{path} cannot be read as text: {error}", "name a transcript or a diff, or -") from error


def _say(text: str) -> None:
    sys.stdout.write(text + "\n")


def _json(value: Any) -> None:
    _say(json.dumps(value, ensure_ascii=False, indent=1))
