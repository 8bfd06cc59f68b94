"""Which process does a job: starting it detached, and whether it is still there.

    spawn(workspace, folder)      # the worker of runs/ID, in a session of its own; pid.json names it
    alive(folder)                 # whether the process of pid.json is still that process

A process is known by its number and the time it was started, since the system gives numbers out again.
"""

import os
import signal
import subprocess
import sys
import time
from pathlib import Path

import psutil

from tools.files import read_json, write_json
from tools.workspace import Workspace

_SPAWN_SECONDS = 60  # a queued job without a process after this long was never started
_children: list["subprocess.Popen[bytes]"] = []


def spawn(workspace: Workspace, folder: Path) -> int:
    """Start the worker of the job in `folder`, and return its process number.

    A client that exits kills its server's process group, so the worker gets a session of its own.
    """
    (folder / "cancel").unlink(missing_ok=True)
    pid = detached(workspace, "tools.jobs.worker", folder, log=folder / "log")
    write_json(folder / "pid.json", {"pid": pid, "created": _created(pid)})
    return pid


def detached(workspace: Workspace, module: str, argument: Path, log: Path) -> int:
    """Start `python -m module argument` so that it outlives this process; what it prints goes to `log`."""
    environment = {
        **os.environ,
        "LOOPTUNE_HOME": str(workspace.home),
        "LOOPTUNE_ALLOW_DOWNLOADS": str(int(workspace.settings.allow_downloads)),
        "PYTHONUNBUFFERED": "1",
    }
    with log.open("ab") as stream:
        process = subprocess.Popen(
            [sys.executable, "-P", "-m", module, str(argument)],
            stdin=subprocess.DEVNULL,
            stdout=stream,
            stderr=stream,
            start_new_session=True,
            env=environment,
            cwd=workspace.home,
        )
    _children.append(process)
    return process.pid


def _created(pid: int) -> float:
    try:
        return psutil.Process(pid).create_time()
    except psutil.Error:
        return 0.0


def has_process(folder: Path) -> bool:
    """Whether the job in `folder` was ever given a process, and that one is still there."""
    for child in _children:  # reap our own, or they stay as zombies that look alive
        child.poll()
    try:
        recorded = read_json(folder / "pid.json")
        process = psutil.Process(recorded["pid"])
        return process.status() != psutil.STATUS_ZOMBIE and abs(process.create_time() - recorded["created"]) < 2
    except (psutil.Error, FileNotFoundError):
        return False


def ended_how(folder: Path) -> str:
    """How the process of the job in `folder` ended, as far as that can be known: only who started it learns more than
    that it is gone."""
    pid = read_json(folder / "pid.json")["pid"] if (folder / "pid.json").exists() else 0
    code = next((child.returncode for child in _children if child.pid == pid), None)
    if code is None or code >= 0:
        return "it was killed (by the system, when memory ran out, or by hand), or the machine went down"
    name = signal.Signals(-code).name
    if -code in (signal.SIGKILL, signal.SIGTERM):
        return f"it was killed ({name}) by the system, when memory ran out, or by hand"
    return f"it crashed ({name}); the end of its log has more"


def alive(folder: Path) -> bool:
    """Whether the job in `folder` has its process, or is about to get one."""
    if (folder / "pid.json").exists():
        return has_process(folder)
    return time.time() - (folder / "state.json").stat().st_mtime < _SPAWN_SECONDS
