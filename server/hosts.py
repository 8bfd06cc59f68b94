"""The block that tells a host how to start this server.

host_config("claude-desktop")     # {"mcpServers": {"looptune": {"command": …, "args": ["serve"], "env": {…}}}}
"""

import sys
from pathlib import Path
from typing import Any, Literal

from tools.settings import Settings

Host = Literal["claude-desktop", "claude-code", "cursor", "vscode"]

# Where each host keeps it, for a person to paste it.
PLACES: dict[str, str] = {
    "claude-desktop": "~/Library/Application Support/Claude/claude_desktop_config.json (macOS), "
    "~/.config/Claude/claude_desktop_config.json (Linux)",
    "claude-code": ".mcp.json in the project, or: claude mcp add-json looptune '…'",
    "cursor": "~/.cursor/mcp.json",
    "vscode": ".vscode/mcp.json",
}


def host_config(host: Host, settings: Settings | None = None) -> dict[str, Any]:
    """The JSON block for `host`. Hosts start servers with a minimal PATH, so the command is absolute."""
    settings = settings or Settings()
    command = Path(sys.executable).parent / "looptune"
    entry = {"command": str(command), "args": ["serve"], "env": {"LOOPTUNE_HOME": str(settings.home)}}
    if host == "vscode":
        return {"servers": {"looptune": {"type": "stdio", **entry}}}
    return {"mcpServers": {"looptune": entry}}
