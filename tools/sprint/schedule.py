"""The nightly run, as entries for launchd (macOS), systemd (Linux) and cron.

    nightly = schedule("/home/me/soft-hold.yaml", "soft-hold", "02:30", workspace)
    nightly.launchd       # the text of a property list
    nightly.service, nightly.timer
    nightly.cron          # one line

Schedulers start programs with a bare environment in another folder, so every path is absolute, and the LOOPTUNE_*
variables that are set now go along. A run that the machine slept through is made up for by launchd and by systemd
(`Persistent`), not by cron.
"""

import os
import plistlib
import re
import shlex
import sys
from pathlib import Path

from pydantic import BaseModel

from tools.errors import InputError
from tools.workspace import Workspace


class Nightly(BaseModel):
    """The entries, and where each belongs."""

    label: str
    command: list[str]
    launchd: str
    launchd_place: str
    service: str
    timer: str
    systemd_place: str
    cron: str


def schedule(sprint: str, name: str, at: str, workspace: Workspace) -> Nightly:
    """The entries that run a sprint every night.

    Args:
        sprint: the absolute path of the sprint file, or the name of one that ships.
        name: what the sprint is called.
        at: the local time, HH:MM.

    Raises:
        InputError: that is no time of day.
    """
    match = re.fullmatch(r"([01]?\d|2[0-3]):([0-5]\d)", at)
    if match is None:
        raise InputError(f"Expected a time of day as HH:MM, got {at!r}.", "give for example --at 02:30")
    hour, minute = int(match[1]), int(match[2])
    label = f"looptune-{name}"
    program = Path(sys.executable).parent / "looptune"
    command = [str(program), "loop", "run", sprint, "--json"]
    environment = {key: value for key, value in os.environ.items() if key.startswith("LOOPTUNE_")}
    environment["LOOPTUNE_HOME"] = str(workspace.home)
    log = str(workspace.home / "loop" / f"{name}.nightly.log")
    agent = {
        "Label": label,
        "ProgramArguments": command,
        "EnvironmentVariables": environment,
        "StartCalendarInterval": {"Hour": hour, "Minute": minute},
        "StandardOutPath": log,
        "StandardErrorPath": log,
        "ProcessType": "Background",
    }
    service = "\n".join(
        [
            "[Unit]",
            f"Description=looptune: the sprint {name}",
            "",
            "[Service]",
            "Type=oneshot",
            *(f"Environment={_quoted(f'{key}={value}')}" for key, value in environment.items()),
            f"ExecStart={' '.join(_systemd(word) for word in command)}",
            "Nice=10",
            "",
        ]
    )
    timer = "\n".join(
        [
            "[Unit]",
            f"Description=looptune: the sprint {name}, every night",
            "",
            "[Timer]",
            f"OnCalendar=*-*-* {hour:02d}:{minute:02d}:00",
            "Persistent=true",
            "",
            "[Install]",
            "WantedBy=timers.target",
            "",
        ]
    )
    variables = " ".join(f"{key}={shlex.quote(value)}" for key, value in environment.items())
    line = f"{variables} {shlex.join(command)} >>{shlex.quote(log)} 2>&1"
    return Nightly(
        label=label,
        command=command,
        launchd=plistlib.dumps(agent, sort_keys=False).decode(),
        launchd_place=f"~/Library/LaunchAgents/{label}.plist, then: launchctl bootstrap gui/$UID "
        f"~/Library/LaunchAgents/{label}.plist",
        service=service,
        timer=timer,
        systemd_place=f"~/.config/systemd/user/{label}.service and {label}.timer, then: "
        f"systemctl --user enable --now {label}.timer",
        cron=f"{minute} {hour} * * * {line}".replace("%", r"\%"),  # to cron a bare % is the end of the line
    )


def _quoted(word: str) -> str:
    """`word` as systemd reads it back, its specifiers taken literally."""
    escaped = word.replace("\\", "\\\\").replace('"', '\\"').replace("%", "%%")
    return f'"{escaped}"'


def _systemd(word: str) -> str:
    """`word` of a command line, on which systemd would put variables in."""
    return _quoted(word.replace("$", "$$"))
