"""Judges from outside: README.md in this folder says which, what they need, and how to run them by hand.

.venv/bin/python -P -m pytest tests/judges
"""

import json
import os
import re
import socket
import subprocess
import sys
import time
from collections.abc import Iterator
from pathlib import Path

import npm
import pytest

from tools.workspace import Workspace

HERE = Path(__file__).parent
ROOT = HERE.parent.parent
# Scenarios that the suite itself does not score, since its own reference server fails them or they are on hold.
UNSCORED = {"json-schema-2020-12", "server-sse-polling", "http-header-validation"}

pytestmark = pytest.mark.slow


def run(command: list[str], timeout: float = 300, **env: str) -> subprocess.CompletedProcess[str]:
    return subprocess.run(command, capture_output=True, text=True, timeout=timeout, cwd=ROOT, env={**os.environ, **env})


@pytest.fixture(scope="session")
def modules(node: Path) -> Path:
    return npm.packages(node, HERE)


def inspector(node: Path, modules: Path, workspace: Workspace, *arguments: str) -> subprocess.CompletedProcess[str]:
    program = [str(node), str(modules / ".bin" / "mcp-inspector"), "--cli", sys.executable, "-P", "-m", "server"]
    return run([*program, *arguments], LOOPTUNE_HOME=str(workspace.home))


@pytest.mark.parametrize("era", ["legacy", "modern"])
def test_the_inspector_finds_nothing_to_complain_of(era: str, node: Path, modules: Path, workspace: Workspace) -> None:
    eras = ["--protocol-era", era]
    listed = inspector(node, modules, workspace, *eras, "--strict", "--method", "tools/list")
    assert listed.returncode == 0, listed.stderr[-2000:]
    assert not re.search(r"[1-9]\d* (errors?|warnings?)", listed.stderr), listed.stderr[-2000:]
    assert len(json.loads(listed.stdout)["tools"]) >= 16
    for method, key in (("resources/list", "resources"), ("prompts/list", "prompts")):
        found = inspector(node, modules, workspace, *eras, "--method", method)
        assert found.returncode == 0 and json.loads(found.stdout)[key], found.stderr[-2000:]
    tool = ["--method", "tools/call", "--tool-name", "training_status", "--tool-arg", "run=nope"]
    refused = inspector(node, modules, workspace, *eras, *tool)
    assert refused.returncode == 5 and "There is no run named 'nope'" in refused.stdout + refused.stderr


@pytest.fixture(scope="module")
def address(tmp_path_factory: pytest.TempPathFactory) -> Iterator[str]:
    """Where the fixture server serves."""
    with socket.socket() as free:
        free.bind(("127.0.0.1", 0))
        port = free.getsockname()[1]
    log = tmp_path_factory.mktemp("fixture-server") / "log"
    with log.open("w") as stream:
        server = subprocess.Popen(
            [sys.executable, "-P", str(HERE / "fixture_server.py"), str(port)], stdout=stream, stderr=stream, cwd=ROOT
        )
    deadline = time.monotonic() + 120
    while True:
        try:
            socket.create_connection(("127.0.0.1", port), timeout=1).close()
            break
        except OSError:
            assert server.poll() is None and time.monotonic() < deadline, log.read_text()
            time.sleep(0.1)
    yield f"http://127.0.0.1:{port}/mcp"
    server.terminate()
    server.wait(timeout=20)


@pytest.mark.parametrize("revision", ["2025-11-25", "2026-07-28"])
def test_the_conformance_suite_finds_no_failure(revision: str, node: Path, modules: Path, address: str) -> None:
    program = [str(node), str(modules / ".bin" / "conformance"), "server", "--url", address]
    done = run([*program, "--requirements", revision], timeout=500)
    lines = re.findall(r"^([✓✗]) ([a-z0-9-]+): \d+ passed", done.stdout, re.MULTILINE)
    verdicts = {name: mark for mark, name in lines}
    assert len(verdicts) >= 30, done.stdout[-2000:] + done.stderr[-2000:]
    assert {name for name, mark in verdicts.items() if mark == "✗"} <= UNSCORED, done.stdout[-4000:]
    assert done.returncode == 0, done.stdout[-2000:]
    if revision == "2026-07-28":
        assert len([name for name in verdicts if name.startswith("tasks-")]) == 10


@pytest.mark.parametrize("job", ["audit", "fuzz", "lint"])
def test_mcp_assert_makes_no_tool_crash_or_hang(job: str, workspace: Workspace) -> None:
    program = Path(sys.executable).with_name("mcp-assert")
    wrapped = f"{sys.executable} -P -m server"
    more = {
        "audit": ["--include-writes", "--timeout", "60s"],
        "fuzz": ["--runs", "10", "--seed", "42", "--timeout", "60s"],
        "lint": [],
    }[job]
    done = run([str(program), job, "--server", wrapped, *more], timeout=500, LOOPTUNE_HOME=str(workspace.home))
    said = done.stdout + done.stderr
    assert "nobody foresaw" not in said, said[-3000:]
    if job == "audit":
        assert done.returncode == 0, said[-3000:]
    elif job == "fuzz":
        # it draws NaN and infinity, which it cannot put into JSON itself: those never reach the server
        found = [line for line in said.splitlines() if "→" in line and "failed to marshal request" not in line]
        assert "tools fuzzed" in said and not found, said[-3000:]
    else:  # it wants a pattern for each string and each parameter in the description; it has to run, though
        assert "error(s)" in said, said[-2000:]


def test_the_typescript_client_does_one_whole_job(node: Path, modules: Path, with_bases: Workspace) -> None:
    done = run([str(node), str(HERE / "whole_job.mjs"), sys.executable, str(with_bases.home)], timeout=500)
    assert done.returncode == 0, done.stderr[-3000:]
    found = json.loads(done.stdout)
    assert found["valid"] and found["fits"] and found["once"] and found["remembered"] and found["refused"]
    assert found["steps"] == 4 and set(found["models"]) == {"base", "adapter"} and found["answered"] == "gguf"
    assert found["runs"] == 3 and found["names"] == ["holds"] and found["progress"]
