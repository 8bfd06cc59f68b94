"""Hosts: the block that tells each how to start this server, and writing it into the host's own config.

    host_config("claude-desktop")     # {"mcpServers": {"looptune": {"command": …, "args": ["serve"], "env": {…}}}}
    change = install("cursor")        # what would be written; change.write() does it, with a backup beside the file
    undo("cursor")                    # the file as it was, or, when it was changed since, without our entry

Nothing but our own entry is touched: comments, order and indentation stay (server/cli/jsonc.py). What was installed is
noted in the workspace (`hosts.json`), so that it can be taken back.
"""

import difflib
import hashlib
import json
import os
import sys
from dataclasses import dataclass
from datetime import UTC, datetime
from pathlib import Path
from typing import Any, Literal, get_args

from server.cli.jsonc import drop_member, parse, set_member
from tools.errors import ConflictError, InputError, MissingError, NotFoundError
from tools.files import read_json, write_bytes, write_json
from tools.settings import Settings
from tools.workspace import Workspace

Host = Literal["claude-desktop", "claude-code", "cursor", "vscode"]
HOSTS: tuple[Host, ...] = get_args(Host)
NAME = "looptune"

# Where each host keeps it, for a person to paste it.
PLACES: dict[str, str] = {
    "claude-desktop": "~/Library/Application Support/Claude/claude_desktop_config.json (macOS), "
    "~/.config/Claude/claude_desktop_config.json (Linux)",
    "claude-code": ".mcp.json in the project",
    "cursor": "~/.cursor/mcp.json",
    "vscode": ".vscode/mcp.json",
}
# What a person does then.
AFTER: dict[str, str] = {
    "claude-desktop": "quit Claude Desktop and start it again",
    "claude-code": "start `claude` in that folder and allow the server there (/mcp shows it)",
    "cursor": "Cursor takes it at once; Settings, Tools & MCP shows it",
    "vscode": "open that file in VS Code and press Start above the entry",
}


def host_config(host: Host, settings: Settings | None = None) -> dict[str, Any]:
    """The JSON block for `host`. Hosts start servers with a minimal PATH, so the command is absolute."""
    settings = settings or Settings()
    command = Path(sys.executable).parent / "looptune"
    entry = {"command": str(command), "args": ["serve"], "env": {"LOOPTUNE_HOME": str(settings.home)}}
    if host == "vscode":
        return {"servers": {NAME: {"type": "stdio", **entry}}}
    return {"mcpServers": {NAME: entry}}


def add_command(block: dict[str, Any]) -> list[str]:
    """The command with which Claude Code takes the entry of a block itself."""
    return ["claude", "mcp", "add-json", NAME, json.dumps(block["mcpServers"][NAME], ensure_ascii=False)]


def config_path(host: Host, project: Path | None = None) -> Path:
    """The config file of `host`; for claude-code and vscode the one of a `project`, by default the current folder."""
    home, project = Path.home(), (project or Path.cwd()).expanduser().absolute()
    if host == "claude-desktop":
        if sys.platform == "darwin":
            return home / "Library" / "Application Support" / "Claude" / "claude_desktop_config.json"
        return Path(os.environ.get("XDG_CONFIG_HOME") or home / ".config") / "Claude" / "claude_desktop_config.json"
    if host == "cursor":
        return home / ".cursor" / "mcp.json"
    return project / (".mcp.json" if host == "claude-code" else ".vscode/mcp.json")


@dataclass(frozen=True)
class Change:
    """A config as it is and as it would be. `before` is None when there is no file yet, `after` when none is left."""

    host: str
    path: Path
    before: bytes | None
    after: bytes | None

    @property
    def changes(self) -> bool:
        return self.before != self.after

    def diff(self) -> str:
        """What changes, as a unified diff."""
        old, new = (text.decode("utf-8").splitlines() if text else [] for text in (self.before, self.after))
        return "\n".join(difflib.unified_diff(old, new, str(self.path), str(self.path), lineterm=""))

    def write(self, workspace: Workspace) -> Path | None:
        """Write it, after a backup; returns the backup, when there was a file.

        Raises:
            ConflictError: the file was changed since it was read.
        """
        if _bytes(self.path) != self.before:
            raise ConflictError(f"{self.path} was changed just now.", "call it again")
        backup = None
        if self.before is not None:
            backup = self.path.with_name(f"{self.path.name}.before-looptune-{datetime.now(UTC):%Y%m%d-%H%M%S-%f}")
            _write(backup, self.before, self.path)
        notes = _notes(workspace)
        known = notes.get(str(self.path), {})
        entry = _entry(self.host, self.before)
        ours = known.get("sha256") == _sha(self.before)  # installed before, and nobody touched it since
        notes[str(self.path)] = {
            "host": self.host,
            "backup": known.get("backup") if ours else str(backup) if backup else None,
            "entry": known.get("entry") if known and entry == known.get("ours") else entry,
            "ours": _entry(self.host, self.after),
            "sha256": _sha(self.after),
        }
        write_json(workspace.home / "hosts.json", notes)
        _write(self.path, self.after or b"", self.path)
        return backup


def install(
    host: str, project: Path | None = None, path: Path | None = None, settings: Settings | None = None
) -> Change:
    """What installing the server into `host` would change.

    Args:
        path: the config file, when it is not where the host keeps it.

    Raises:
        NotFoundError: no such host.
        MissingError: the program that the host would start is not there.
        InputError: the config is not JSON that can be edited safely; it stays as it is.
    """
    known = _known(host)
    settings = settings or Settings()
    block = host_config(known, settings)
    (root, entries), *_ = block.items()
    command = Path(entries[NAME]["command"])
    if not os.access(command, os.X_OK):
        raise MissingError(f"There is no program {command} that {host} could start.", "run `make setup`, then repeat")
    target = (path.expanduser().absolute() if path else config_path(known, project)).resolve()  # links stay links
    before = _bytes(target)
    after = set_member(_text(target, before), [root, NAME], entries[NAME])
    return Change(host, target, before, after.encode("utf-8"))


def undo(host: str, workspace: Workspace, project: Path | None = None, path: Path | None = None) -> Change:
    """Take back what `install` wrote: the file as it was before, or, when somebody changed it since, only our entry
    (what it replaced comes back). Returns what was done.

    Raises:
        NotFoundError: nothing of ours is installed there.
    """
    known = _known(host)
    target = (path.expanduser().absolute() if path else config_path(known, project)).resolve()
    notes, now = _notes(workspace), _bytes(target)
    note = notes.get(str(target))
    if note is None or now is None:
        raise NotFoundError(f"looptune has installed nothing in {target}.", "`looptune install` shows where it would")
    if _sha(now) == note["sha256"]:
        after = Path(note["backup"]).read_bytes() if note["backup"] else None
    else:
        (root, _), *_ = host_config(known, workspace.settings).items()
        text = _text(target, now)
        if _entry(host, now) == note["ours"]:
            old = note["entry"]
            text = set_member(text, [root, NAME], old) if old else drop_member(text, [root, NAME])
        after = text.encode("utf-8")
    if after is None:
        target.unlink()
    else:
        _write(target, after, target)
    del notes[str(target)]
    write_json(workspace.home / "hosts.json", notes)
    return Change(host, target, now, after)


def _known(host: str) -> Host:
    if host not in HOSTS:
        raise NotFoundError.named("host", host, HOSTS, "name one of these")
    return host


def _bytes(path: Path) -> bytes | None:
    try:
        return path.read_bytes()
    except FileNotFoundError:
        return None
    except OSError as error:
        raise InputError(f"{path} cannot be read: {error.strerror}.", "look at what stands there") from error


def _text(path: Path, data: bytes | None) -> str:
    try:
        return (data or b"").decode("utf-8")
    except UnicodeDecodeError as error:
        raise InputError(
            f"Expected {path} to be text in UTF-8.", "save it so, or paste `looptune print-config`"
        ) from error


def _entry(host: str, data: bytes | None) -> dict[str, Any] | None:
    """Our entry as the config has it."""
    found: Any = parse((data or b"").decode("utf-8")).get("servers" if host == "vscode" else "mcpServers")
    return found.get(NAME) if isinstance(found, dict) else None


def _sha(data: bytes | None) -> str:
    return hashlib.sha256(data).hexdigest() if data is not None else ""


def _write(path: Path, data: bytes, like: Path) -> None:
    """Write atomically, with the permissions of the file `like`."""
    mode = like.stat().st_mode & 0o777 if like.exists() else 0o600  # configs may hold other servers' keys
    write_bytes(path, data)
    path.chmod(mode)


def _notes(workspace: Workspace) -> dict[str, Any]:
    path = workspace.home / "hosts.json"
    return dict(read_json(path)) if path.is_file() else {}
