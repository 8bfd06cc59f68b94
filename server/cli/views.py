"""`looptune open NAME`: the view of a job, a dataset or an evaluation as one self-contained file, to look at or send.

    path = write_page(Workspace.open(), "run-forty-two-0001")      # workspace/pages/run-forty-two-0001.html

The file holds its data, style and script, and asks for nothing from anywhere. Texts of rows and answers are in it, so
whoever gets the file can read them.
"""

import json
import sys
from pathlib import Path
from typing import Annotated

import typer

from server.look import View, Wanted, look_at
from server.names import to_look_at
from server.pages import page
from tools.errors import InputError
from tools.files import write_text
from tools.settings import Settings
from tools.workspace import Workspace

views_app = typer.Typer()
_ROWS = 1000  # of a dataset, or probes, that a page carries


@views_app.command("open")
def open_(
    name: Annotated[
        str, typer.Argument(help="a run or evaluation (`looptune runs`), or a dataset", autocompletion=to_look_at)
    ],
    output: Annotated[
        Path | None, typer.Option("--output", "-o", help="write it here instead of into the workspace; .html")
    ] = None,
    browser: Annotated[bool, typer.Option(help="show it in the browser")] = True,
    as_json: Annotated[bool, typer.Option("--json", help="print one JSON value and nothing else")] = False,
) -> None:
    """A run's curves, a dataset's rows or an evaluation's answers as one file, shown in the browser."""
    path, kind = write_page(Workspace.open(Settings()), name, output)
    shown = browser and not as_json and sys.stdout.isatty() and _show(path)
    if as_json:
        text = json.dumps({"path": str(path), "view": kind, "bytes": path.stat().st_size}, ensure_ascii=False)
    else:
        text = (
            str(path) if shown or not browser else f"{path}\nOpen it in a browser, or send it: it needs nothing else."
        )
    sys.stdout.write(text + "\n")


def write_page(workspace: Workspace, name: str, output: Path | None = None) -> tuple[Path, View]:
    """Write the page of `name`, whole or not at all; returns its path and which view it is.

    Raises:
        NotFoundError: neither a job nor a dataset has that name.
        InputError: `output` is no .html file, or a folder.
    """
    view, data = look_at(workspace, name, Wanted(count=_ROWS, only="all"))
    left = len(data["page"]["rows"]) - data["page"]["total"] if view == "dataset" else 0
    if left < 0:
        data["page"]["note"] = f"{data['page']['note']} {-left:,} more rows are not in this file.".strip()
    path = output.expanduser().absolute() if output else workspace.home / "pages" / f"{name}.html"
    if path.suffix not in (".html", ".htm") or path.is_dir():
        raise InputError(f"Expected --output to name an .html file; got {path}.", f"write --output {name}.html")
    write_text(path, page(data))
    return path, view


def _show(path: Path) -> bool:
    import webbrowser

    try:
        return webbrowser.open(path.as_uri())
    except webbrowser.Error:
        return False
