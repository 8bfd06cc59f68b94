"""A training on several processes, of this machine or of several: started by MLX's own `mlx.launch`, watched, ended.

    result = launch(workspace, job, config)                       # what the worker calls
    python -P -m tools.training.parallel RUN_FOLDER PID CREATED   # what each of the processes runs

Each process holds the whole model and passes its part of every step's rows through it; gradients are summed over MLX's
ring (tools.training.group). The worker stays beside them: it starts mlx.launch, waits, and takes over what the first
process left in `ending-0.json`. If one of them dies, mlx.launch ends the others, and the run fails and says which it
was. If the worker itself dies, those on its machine end within a second, so that a resumed run never meets them.

On several machines looptune has to be installed at the same path, the workspace has to be a folder that all of them
see at the same path, and this machine has to reach the others by ssh without a password. LOOPTUNE_HOSTS lists them.
"""

import os
import re
import signal
import socket
import subprocess
import sys
import threading
import time
import traceback
from contextlib import nullcontext
from pathlib import Path
from typing import Any

import psutil
from filelock import FileLock

from tools.errors import InputError, LooptuneError, MissingError
from tools.files import read_json, write_json
from tools.jobs.record import Cancelled, Job, Stopped, WorkerDied, with_spare
from tools.settings import Settings
from tools.training.config import TrainingConfig
from tools.workspace import Workspace

_HERE = "127.0.0.1"
_WATCH_SECONDS = 0.3
_LAST_WORDS = 10.0  # seconds that the first process has to end in the same way
_LOST = "[ring]"  # begins what MLX says in a process whose neighbour is gone
_ENDED = re.compile(r"Node with rank (\d+) (?:exited with code (-?\d+)|was killed)")


def check_hosts(workspace: Workspace, config: TrainingConfig) -> None:
    """Check that a training may use its machines, and that the first is this one.

    Raises:
        MissingError: a machine that the settings do not list.
        InputError: the first one is not this machine.
    """
    hosts = [str(host) for host in config.hosts]
    allowed = {_HERE, *map(str, workspace.settings.hosts)}
    if unknown := [host for host in hosts if host not in allowed]:
        raise MissingError(
            f"{', '.join(unknown)} may not be trained on: a training is started there by ssh.",
            'set LOOPTUNE_HOSTS to a JSON list of the machines, e.g. ["192.168.2.1", "192.168.2.2"]',
        )
    own = {address.address for card in psutil.net_if_addrs().values() for address in card}
    if hosts and hosts[0] not in own:
        raise InputError(
            f"The first of `hosts` has to be this machine, got {hosts[0]}.",
            f"begin with one of {', '.join(sorted(address for address in own if '.' in address))}",
        )


def launch(workspace: Workspace, job: Job, config: TrainingConfig) -> dict[str, Any]:
    """Train in `config.processes` processes, and return the figures of the first of them.

    Raises:
        WorkerDied: one of them ended unasked.
        Stopped, LooptuneError: what ended the training in the first of them.
    """
    check_hosts(workspace, config)
    for left in job.folder.glob("ending-*.json"):
        left.unlink()
    log = job.folder / "log"
    begin = log.stat().st_size if log.exists() else 0
    with log.open("ab") as stream:
        launcher = subprocess.Popen(
            _command(workspace, job, config),
            stdin=subprocess.PIPE,
            stdout=stream,
            stderr=stream,
            cwd=workspace.home,
        )
    try:
        _quieten(launcher)
        launcher.wait()
    finally:
        if launcher.poll() is None:
            launcher.terminate()
        if launcher.stdin:
            launcher.stdin.close()
    job.state = Job(job.folder).state  # the first process wrote it
    return _result(job, config, _said(log, begin))


def _command(workspace: Workspace, job: Job, config: TrainingConfig) -> list[str]:
    hosts = [str(host) for host in config.hosts] or [_HERE]
    entries = [
        {"ssh": _HERE if host == hosts[0] else host, "ips": [host]} for host in hosts for _ in range(config.nproc)
    ]
    hostfile = job.folder / "hosts.json"
    write_json(hostfile, {"backend": "ring", "hosts": entries})
    given = {name: value for name, value in os.environ.items() if name.startswith("LOOPTUNE_")}
    given |= {"LOOPTUNE_HOME": str(workspace.home), "PYTHONUNBUFFERED": "1"}
    cores = max(1, (os.cpu_count() or 1) // config.nproc)
    given.setdefault("OPENBLAS_NUM_THREADS", os.environ.get("OPENBLAS_NUM_THREADS", str(cores)))
    me = psutil.Process()
    return [
        str(Path(sys.executable).with_name("mlx.launch")),
        "--hostfile",
        str(hostfile),
        "--starting-port",
        str(_free_ports(len(entries))),
        "--cwd",
        str(workspace.home),
        *(part for name, value in given.items() for part in ("--env", f"{name}={value}")),
        *(sys.executable, "-P", "-m", "tools.training.parallel", str(job.folder), str(me.pid), str(me.create_time())),
    ]


def _free_ports(count: int) -> int:
    """The first of `count` ports in a row that nobody listens on here."""
    taken = {c.laddr.port for c in psutil.net_connections("tcp") if c.laddr} if sys.platform == "linux" else set()
    with socket.socket() as probe:
        probe.bind((_HERE, 0))
        start = min(int(probe.getsockname()[1]), 65_000 - count)
    while any(port in taken for port in range(start, start + count)):
        start -= count
    return start


def _quieten(launcher: "subprocess.Popen[bytes]") -> None:
    """mlx.launch waits for each process's stdin to take something, which it always does, and so keeps a core busy;
    full pipes, which nobody reads, let it sleep."""
    assert launcher.stdin
    try:
        launcher.stdin.write(b"\n" * 200_000)
        launcher.stdin.flush()
    except BrokenPipeError:
        return  # it ended already, and says why


def _said(log: Path, begin: int) -> str:
    with log.open("rb") as stream:
        stream.seek(begin)
        return stream.read().decode("utf-8", "replace")


def _result(job: Job, config: TrainingConfig, said: str) -> dict[str, Any]:
    """What the processes left behind, as the worker's own result or error."""
    endings = [read_json(path) for path in sorted(job.folder.glob("ending-*.json"))]
    endings.sort(key=lambda ending: _LOST in ending.get("reason", ""))  # who lost another says less than the other
    ending: dict[str, Any] = endings[0] if endings else {}
    if "result" in ending:
        return dict(ending["result"])
    if ending.get("cancelled") or (not ending and job.cancelled):
        raise Cancelled
    if ending.get("stopped"):
        raise Stopped(ending["reason"], ending["next_step"])
    killed, who = _who(said, config.processes)
    if killed or not ending:
        raise WorkerDied(
            f"{who} All {config.processes} were ended; nothing after the last checkpoint is kept.",
            f"start_training(resume={job.id!r}) goes on from there; {job.folder / 'log'} has what they said",
        )
    raise LooptuneError(ending["reason"], ending["next_step"])


def _who(said: str, processes: int) -> tuple[bool, str]:
    """Whether a process was killed, though not by mlx.launch (SIGTERM), and which ended, and how, by its words."""
    ended = [(int(rank), int(code)) for rank, code in _ENDED.findall(said) if code and int(code)]
    ended.sort(key=lambda each: each[1] >= 0 or -each[1] == signal.SIGTERM)
    for rank, code in ended:
        killed = f"was killed ({signal.Signals(-code).name}) by the system or by hand" if code < 0 else ""
        sentence = f"Process {rank + 1} of {processes} {killed or f'ended with status {code}'}."
        return bool(killed) and -code != signal.SIGTERM, sentence
    return False, "The processes of the training, or mlx.launch, ended without a word."


class _Follower(Job):
    """The job in a process that does not lead: it writes nothing, and is stopped by the one that leads."""

    @property
    def cancelled(self) -> bool:
        return False

    def save(self, **changes: Any) -> None:
        self.state = self.state.model_copy(update=changes)

    def log(self, text: str) -> None:
        """The one that leads says it."""


def _watch(pid: int, created: float) -> None:
    """End this process as soon as the worker is gone."""

    def there() -> bool:
        try:
            return abs(psutil.Process(pid).create_time() - created) < 2
        except psutil.Error:
            return False

    def look() -> None:
        while there():
            time.sleep(_WATCH_SECONDS)
        os._exit(3)

    if there() or os.environ["MLX_RANK"] == "0":  # on another machine there is no such process
        threading.Thread(target=look, daemon=True, name="watch").start()


def main(folder: Path, pid: int, created: float) -> int:
    """Train as one of several processes; what came of it goes to `ending-RANK.json`."""
    rank = int(os.environ["MLX_RANK"])
    _watch(pid, created)
    workspace = Workspace.open(Settings())
    job = Job(folder) if rank == 0 else _Follower(folder)
    ending: dict[str, Any]
    try:
        # an earlier worker's first process may be about to notice that its worker is gone
        with FileLock(folder / ".lead.lock", timeout=60) if rank == 0 else nullcontext():
            from tools.training.run import train

            ending = {"result": train(workspace, job, TrainingConfig.model_validate(job.config))}
    except Stopped as stop:
        cancelled = isinstance(stop, Cancelled)
        ending = {"stopped": True, "cancelled": cancelled, "reason": stop.reason, "next_step": stop.next_step}
    except LooptuneError as error:
        ending = {"stopped": False, "cancelled": False, "reason": error.message, "next_step": error.next_step}
    except Exception as error:  # the top of a process: the others, and the worker, have to learn of it
        traceback.print_exc()
        said = f"{type(error).__name__}: {str(error)[:500]}"
        ending = {
            "stopped": False,
            "cancelled": False,
            "reason": said,
            "next_step": f"read the end of {folder / 'log'}",
        }
    return _end(folder, rank, ending)


def _end(folder: Path, rank: int, ending: dict[str, Any]) -> int:
    """Write how this process ended; its exit status makes mlx.launch end the others, or wait for them."""
    sys.stderr.flush()
    if rank == 0:
        with_spare(folder, lambda: write_json(folder / "ending-0.json", ending))
        return 0 if "result" in ending else 1
    if "result" in ending or ending["stopped"]:
        return 0  # the one that leads may be at its last checkpoint
    write_json(folder / f"ending-{rank}.json", ending)
    deadline = time.monotonic() + _LAST_WORDS
    while time.monotonic() < deadline and not (folder / "ending-0.json").exists():
        time.sleep(0.05)
    return 1


if __name__ == "__main__":
    sys.exit(main(Path(sys.argv[1]), int(sys.argv[2]), float(sys.argv[3])))
