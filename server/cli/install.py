"""`looptune install HOST` and `looptune print-config HOST`: how a host comes to start this server; and the bundle.

looptune install cursor --dry-run       # what would change, as a diff
looptune install cursor                 # written, with a backup beside the file
looptune install cursor --undo          # as it was
looptune bundle                         # dist/looptune-VERSION.mcpb, for hosts that install bundles
"""

import json
import shlex
import sys
from pathlib import Path
from typing import Annotated, Any

import typer

from server.cli.hosts import AFTER, HOSTS, PLACES, Host, add_command, host_config, undo
from server.cli.hosts import install as plan_install
from tools.errors import NotFoundError
from tools.settings import Settings
from tools.workspace import Workspace

install_app = typer.Typer()
Json = Annotated[bool, typer.Option("--json", help="print one JSON value and nothing else")]
HostName = Annotated[
    str, typer.Argument(help="claude-desktop, claude-code, cursor or vscode", autocompletion=lambda: list(HOSTS))
]


@install_app.command()
def install(
    host: HostName,
    dry_run: Annotated[bool, typer.Option("--dry-run", help="show what would change, and write nothing")] = False,
    take_back: Annotated[bool, typer.Option("--undo", help="take back what was installed")] = False,
    project: Annotated[
        Path | None, typer.Option(help="the project's folder, for claude-code and vscode; by default the current one")
    ] = None,
    config: Annotated[Path | None, typer.Option(help="the config file, when it is kept elsewhere")] = None,
    as_json: Json = False,
) -> None:
    """Write this server into a host's config: a backup first, and nothing else in the file is touched."""
    workspace = Workspace.open(Settings())
    backup = None
    if take_back:
        change = undo(host, workspace, project, config)
        said = f"took looptune out of {change.path}" if change.after is not None else f"removed {change.path}"
    else:
        change = plan_install(host, project, config, workspace.settings)
        if dry_run:
            said = f"would write {change.path}" if change.changes else f"{change.path} has it already"
        elif change.changes:
            backup = change.write(workspace)
            kept = f"; the file as it was: {backup}" if backup else ""
            places = [("--project", project), ("--config", config)]
            where = "".join(f" {name} {shlex.quote(str(path.absolute()))}" for name, path in places if path)
            again = f"looptune install {host} --undo{where}"
            said = f"wrote {change.path}{kept}\nNext: {AFTER[host]}. `{again}` takes it back."
        else:
            said = f"{change.path} has it already"
    if as_json:
        _json(
            {
                "host": host,
                "path": str(change.path),
                "changed": change.changes and not dry_run,
                "backup": str(backup) if backup else None,
                "diff": change.diff(),
            }
        )
    else:
        sys.stdout.write("".join(f"{part}\n" for part in (change.diff() if dry_run else "", said) if part))


@install_app.command("print-config")
def print_config(host: HostName, as_json: Json = False) -> None:
    """The block that tells a host how to start this server."""
    if host not in PLACES:
        raise NotFoundError.named("host", host, PLACES, "name one of these")
    known: Host = host  # type: ignore[assignment]
    block = host_config(known)
    if not as_json:
        sys.stderr.write(f"Put this into {PLACES[host]}\n")
        if known == "claude-code":
            sys.stderr.write(f"or run: {shlex.join(add_command(block))}\n")
    _json(block)


@install_app.command()
def bundle(
    output: Annotated[Path | None, typer.Option("--output", "-o", help="by default dist/looptune-VERSION.mcpb")] = None,
    folder: Annotated[Path | None, typer.Option(help="leave what is packed in this new folder too")] = None,
    as_json: Json = False,
) -> None:
    """Pack a bundle (.mcpb) that a host installs with one click; from a checkout of the project."""
    from server.cli.bundle import write_bundle

    path, files = write_bundle(output, folder)
    if as_json:
        _json({"path": str(path), "files": files, "bytes": path.stat().st_size})
    else:
        sys.stdout.write(f"{path}: {files} files, {path.stat().st_size / 1e6:.1f} MB\n")


def _json(value: Any) -> None:
    sys.stdout.write(json.dumps(value, ensure_ascii=False, indent=1) + "\n")
