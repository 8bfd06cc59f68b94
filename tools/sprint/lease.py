"""The lease: one loop at a time in a workspace, and none for ever.

    with held(workspace, "soft-hold-0001") as lease:     # ConflictError when another loop is at work
        lease.require()                                  # ConflictError once another one took it over

loop/lease.json names the holder: process, host, and when the lease runs out. A thread renews it. It may be taken over
when it has run out, or when its process on this host is gone; each taking has a new number, so a holder that slept
through its time finds out before it writes.
"""

import os
import socket
import threading
import time
import uuid
from collections.abc import Iterator
from contextlib import contextmanager, suppress
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import psutil

from tools.errors import ConflictError, LimitError
from tools.files import read_json, write_json
from tools.workspace import Workspace

SECONDS = 90.0


@dataclass
class Lease:
    """A lease that was taken."""

    path: Path
    number: int
    token: str = field(default_factory=lambda: uuid.uuid4().hex)

    def require(self) -> None:
        """Make sure that it is still ours. Raises ConflictError."""
        found = _read(self.path)
        if found.get("token") != self.token:
            raise ConflictError(
                f"This loop's lease was taken over by {_who(found)}, so it writes nothing any more.",
                "look at loop://state; the other loop goes on with it",
            )


@contextmanager
def held(workspace: Workspace, about: str, seconds: float = SECONDS) -> Iterator[Lease]:
    """Hold the workspace's lease while the block runs, renewed three times in `seconds`.

    Raises:
        ConflictError: another loop holds it.
    """
    path = workspace.home / "loop" / "lease.json"
    lease = _take(workspace, path, about, seconds)
    done = threading.Event()

    def renew() -> None:
        while not done.wait(seconds / 3):
            with suppress(ConflictError, LimitError, OSError), workspace.lock("loop"):  # tried again, or found out
                lease.require()
                write_json(path, {**_read(path), "until": time.time() + seconds})

    keeper = threading.Thread(target=renew, name="lease", daemon=True)
    keeper.start()
    try:
        yield lease
    finally:
        done.set()
        keeper.join(timeout=10)
        with suppress(ConflictError, OSError), workspace.lock("loop"):
            lease.require()
            write_json(path, {"number": lease.number, "token": ""})


def holder(workspace: Workspace) -> dict[str, Any] | None:
    """Who holds the lease: `about`, `pid`, `host`, `until` (seconds since 1970); None when nobody does."""
    found = _read(workspace.home / "loop" / "lease.json")
    return {key: found[key] for key in ("about", "pid", "host", "until")} if _is_held(found) else None


def _take(workspace: Workspace, path: Path, about: str, seconds: float) -> Lease:
    with workspace.lock("loop"):
        found = _read(path)
        if _is_held(found):
            left = max(0.0, found["until"] - time.time())
            raise ConflictError(
                f"Another loop is at work: {_who(found)}. Its lease runs out in {left:.0f} s unless it is renewed.",
                "follow it with `looptune loop status` or loop://state, or end that process",
            )
        lease = Lease(path, int(found.get("number", 0)) + 1)
        me = psutil.Process()
        record = {"number": lease.number, "token": lease.token, "about": about, "pid": me.pid}
        record |= {"created": me.create_time(), "host": socket.gethostname(), "until": time.time() + seconds}
        write_json(path, record)
    return lease


def _read(path: Path) -> dict[str, Any]:
    return dict(read_json(path)) if path.is_file() else {}


def _is_held(found: dict[str, Any]) -> bool:
    """Whether a lease is in force: not given back, not run out, and its process not known to be gone."""
    if not found.get("token") or found["until"] < time.time():
        return False
    if found["host"] != socket.gethostname():
        return True
    try:
        process = psutil.Process(found["pid"])
        return process.status() != psutil.STATUS_ZOMBIE and abs(process.create_time() - found["created"]) < 2
    except psutil.NoSuchProcess:
        return False
    except psutil.Error:
        return True


def _who(found: dict[str, Any]) -> str:
    mine = " (this process)" if found.get("pid") == os.getpid() else ""
    return f"{found.get('about', 'nobody')}, process {found.get('pid', '?')}{mine} on {found.get('host', '?')}"
