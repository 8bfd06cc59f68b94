"""A command in a process of its own, watched: what it prints is read while it runs, and it can be ended.

status, said = run([sys.executable, "-P", "-m", "convert_hf_to_gguf", …], watch, seconds=3600)
"""

import subprocess
import tempfile
from collections.abc import Callable, Sequence
from pathlib import Path

from tools.errors import LimitError

Watch = Callable[[str], None]  # given what was printed so far, a few times a second; what it raises ends the process
_EVERY = 0.2
_KEPT = 20_000  # characters of what was printed


def run(command: Sequence[str], watch: Watch | None, seconds: float) -> tuple[int, str]:
    """The exit status of `command`, and the end of what it printed.

    Raises:
        LimitError: it took longer than `seconds`; it was ended.
    """
    with tempfile.NamedTemporaryFile(prefix="looptune-", suffix=".log") as log:
        process = subprocess.Popen(list(command), stdin=subprocess.DEVNULL, stdout=log, stderr=log)
        waited = 0.0
        try:
            while True:
                try:
                    status = process.wait(_EVERY)
                    return status, _end(Path(log.name))
                except subprocess.TimeoutExpired:
                    waited += _EVERY
                if watch:
                    watch(_end(Path(log.name)))
                if waited > seconds:
                    raise LimitError(f"{command[3]} took longer than {seconds:.0f} s.", "use a faster machine")
        finally:
            if process.poll() is None:
                process.kill()
                process.wait()


def _end(path: Path) -> str:
    with path.open("rb") as stream:
        stream.seek(max(0, path.stat().st_size - _KEPT))
        return stream.read().decode("utf-8", "replace")
