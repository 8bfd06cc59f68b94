"""The HTML of the views, put together from the files in `server/views/`: one page, no build step, nothing from
elsewhere.

    page()                                # for an MCP host, which hands the data over (server/apps.py)
    page(look_at(workspace, name)[1])     # with its data inside, for a browser (looptune open)

The style is `view.css`; the script is `view.js` (the host's protocol, drawing) and a file for each view.
"""

import functools
import json
from html import escape
from pathlib import Path
from typing import Any

from server.look import VIEWS

_FOLDER = Path(__file__).with_name("views")


@functools.cache
def _file(name: str) -> str:
    return (_FOLDER / name).read_text(encoding="utf-8").rstrip()


def page(data: dict[str, Any] | None = None) -> str:
    """The page; with `data` it stands alone."""
    parts = {
        "TITLE": escape(f"{data['name']}: looptune" if data else "looptune"),
        "STYLE": _file("view.css"),
        "DATA": f'<script type="application/json" id="data">{_json(data)}</script>' if data else "",
        "SCRIPT": "\n\n".join(_file(f"{name}.js") for name in ("view", *VIEWS, "start")),
    }
    lines = _file("page.html").splitlines()
    found = (parts.get(line.strip(), line.replace("TITLE", parts["TITLE"])) for line in lines)
    return "\n".join(line for line in found if line) + "\n"


def _json(data: dict[str, Any]) -> str:
    """JSON that cannot end the script element it stands in, whatever its texts say."""
    text = json.dumps(data, ensure_ascii=False, separators=(",", ":"))
    return text.replace("&", "\\u0026").replace("<", "\\u003c").replace(">", "\\u003e")
