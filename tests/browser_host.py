"""A headless Chromium with the official MCP Apps bridge around the real server; what the tests of the views drive.

    with browser(home, node) as host:
        host("view", tool="show_run", args={"run": "run-holds-0001"})
        host("shot", path="/tmp/run.png")

Chromium has to be there, and what the fixtures `node` and `browser_modules` install.
"""

import json
import os
import shutil
import subprocess
import sys
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any

_FOLDER = Path(__file__).resolve().parent / "browser"


def chromium() -> str:
    """The program, or nothing."""
    return next(filter(None, map(shutil.which, ("chromium", "chromium-browser", "google-chrome", "chrome"))), "")


@contextmanager
def browser(home: Path, program: Path) -> Iterator[Callable[..., Any]]:
    """A function that gives the host a command (tests/browser/host.mjs) and returns what it answers."""
    errors = (home / "host.log").open("w")
    node = subprocess.Popen(
        [program, _FOLDER / "host.mjs"], stdin=subprocess.PIPE, stdout=subprocess.PIPE, stderr=errors, text=True
    )

    def ask(name: str, **given: Any) -> Any:
        assert node.stdin and node.stdout
        node.stdin.write(json.dumps({"name": name, **given}) + "\n")
        node.stdin.flush()
        line = node.stdout.readline()
        assert line, (home / "host.log").read_text()
        answer = json.loads(line)
        assert "error" not in answer, answer["error"]
        return answer["value"]

    env = {**os.environ, "LOOPTUNE_HOME": str(home)}
    try:
        tools = ask("start", command=sys.executable, args=["-P", "-m", "server"], env=env, chromium=chromium())
        ask.tools = tools  # type: ignore[attr-defined]
        yield ask
    finally:
        if node.poll() is None:
            ask("end")
        node.wait(timeout=20)
        errors.close()
