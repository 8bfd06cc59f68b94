"""Through a real MCP client over stdio: the whole path on a tiny real model, and what the process must keep to.

.venv/bin/python -P -m pytest tests/test_stdio.py
"""

import json
import os
import subprocess
import sys
from collections.abc import Callable
from pathlib import Path
from typing import Any

import anyio
import pytest
from conftest import TERM, TINY
from mcp import Client, StdioServerParameters

from tools.files import read_json
from tools.jobs import record
from tools.training.config import preset
from tools.workspace import Workspace

QUICK = {"base": TINY, "epochs": 1, "batch_size": 8, "learning_rate": 0.01}


def parameters(workspace: Workspace) -> StdioServerParameters:
    env = {"LOOPTUNE_HOME": str(workspace.home)}
    return StdioServerParameters(command=sys.executable, args=["-P", "-m", "server"], env=env)


async def call(client: Client, tool: str, **arguments: Any) -> dict[str, Any]:
    result = await client.call_tool(tool, arguments)
    assert not result.is_error, result.content
    return dict(result.structured_content or {})


async def finished(client: Client, job: str) -> dict[str, Any]:
    for _ in range(10):
        status = await call(client, "training_status", run=job, wait_seconds=30, log_lines=30)
        if status["state"] not in ("queued", "running", "stopping"):
            break
    assert status["state"] == "finished", status
    return status


@pytest.mark.slow
def test_an_agent_takes_a_term_from_examples_to_an_answering_gguf(with_bases: Workspace) -> None:
    async def job() -> None:
        async with Client(parameters(with_bases)) as client:
            made = await call(client, "generate_examples", terms=[TERM], count=40, name="holds")
            assert made["rows"] == 40
            valid = await call(client, "validate_dataset", dataset="holds")
            assert valid["ok"] and (valid["train_rows"], valid["valid_rows"]) == (32, 8)
            plan = await call(client, "plan_training", dataset="holds", settings=QUICK)
            assert plan["fits"] and plan["steps"] == 4 and plan["truncated_rows"] == 0
            run = (await call(client, "start_training", dataset="holds", settings=QUICK))["id"]
            trained = (await finished(client, run))["result"]
            assert trained["steps"] == 4 and trained["valid_loss"] < trained["valid_loss_before"]
            evaluation = await call(client, "evaluate_model", run=run)
            models = (await finished(client, evaluation["id"]))["result"]["models"]
            assert set(models) == {"base", "adapter"} and models["base"]["recall"] == 0.0
            export = (await finished(client, (await call(client, "quantize", run=run))["id"]))["result"]
            assert export["model"] == "holds" and export["fused"]["kl"] < 1e-3
            gate = await call(client, "evaluate_model", model="holds", promote=True)
            verdict = (await finished(client, gate["id"]))["result"]
            assert not verdict["passed"] and not verdict["promoted"], "a tiny random model cannot have learned it"
            answer = await call(client, "ask_model", prompt="What does soft hold mean?", model="holds", max_tokens=8)
            assert answer["kind"] == "gguf" and answer["answer"]
            index = json.loads((await client.read_resource("run://index")).contents[0].text)  # type: ignore[union-attr]
            assert index["count"] == 4

    anyio.run(job)
    gguf = with_bases.models / "holds" / "q4_k_m.gguf"
    assert gguf.read_bytes()[:4] == b"GGUF"


@pytest.mark.slow
def test_a_worker_outlives_its_server_and_the_next_server_finds_it(
    with_bases: Workspace, dataset: Callable[..., str]
) -> None:
    name = dataset(80)
    slow = {**QUICK, "epochs": 40, "batch_size": 4, "eval_every": 1000, "save_every": 1000}

    async def start() -> str:
        async with Client(parameters(with_bases)) as client:
            return str((await call(client, "start_training", dataset=name, settings=slow, idempotency_key="k"))["id"])

    async def follow(run: str) -> dict[str, Any]:
        async with Client(parameters(with_bases)) as client:
            again = await call(client, "start_training", dataset=name, settings=slow, idempotency_key="k")
            assert again == {"id": run, "state": again["state"], "new": False}
            assert (await call(client, "training_status", run=run))["state"] in ("queued", "running")
            await call(client, "cancel_training", run=run)
            return await call(client, "training_status", run=run, wait_seconds=45)

    run = anyio.run(start)
    pid = read_json(with_bases.runs / run / "pid.json")["pid"]
    assert Path(f"/proc/{pid}").exists() or sys.platform != "linux"
    assert anyio.run(follow, run)["state"] == "stopped"


@pytest.mark.slow
def test_two_servers_and_the_command_line_start_one_run_for_one_key(
    with_bases: Workspace, dataset: Callable[..., str]
) -> None:
    """Both servers are asked in the same moment, and the command line meanwhile."""
    name, found = dataset(), []
    asked = {"dataset": name, "preset": "tiny", "idempotency_key": "nightly"}
    words = [sys.executable, "-P", "-m", "server.cli", "call", "start_training", "--json"]
    words += [f"{key}={value}" for key, value in asked.items()]

    async def ask(client: Client) -> None:
        found.append(await call(client, "start_training", **asked))

    async def type_it() -> None:
        found.append(json.loads((await anyio.run_process(words)).stdout))

    async def race() -> None:
        async with Client(parameters(with_bases)) as one, Client(parameters(with_bases)) as other:
            async with anyio.create_task_group() as group:
                for client in (one, other):
                    group.start_soon(ask, client)
                group.start_soon(type_it)
            await finished(one, found[0]["id"])

    anyio.run(race)
    assert len({answer["id"] for answer in found}) == 1 and sum(answer["new"] for answer in found) == 1
    folder = with_bases.run(found[0]["id"])
    assert with_bases.names(with_bases.runs, "state.json") == [folder.name]
    assert (folder / "log").read_text().count("step 0: validation loss") == 1, "a second worker was started"


@pytest.mark.slow
def test_a_server_that_starts_sets_a_queue_going_whose_workers_are_gone(
    with_bases: Workspace, dataset: Callable[..., str]
) -> None:
    """As after the machine went down; nothing is called, and the server answers at once."""
    job = record.create(with_bases, "train", "x", preset("tiny", dataset=dataset()).model_dump())[0]
    (job.folder / "pid.json").write_text(json.dumps({"pid": 2**22 + 1, "created": 0.0}))

    async def look() -> None:
        async with Client(parameters(with_bases)) as client:
            await client.list_tools()
            await anyio.to_thread.run_sync(record.wait, job.folder, 60)  # which looks, and tends nothing

    anyio.run(look)
    assert record.read(job.folder).state == "finished"


@pytest.mark.slow
@pytest.mark.parametrize("unbuffered", [True, False])
def test_stdout_carries_the_protocol_alone(with_bases: Workspace, tmp_path: Path, unbuffered: bool) -> None:
    """Whatever a library prints, at import, from C, or at exit."""
    (tmp_path / "sitecustomize.py").write_text(
        "import atexit, os, sys\n"
        "class Noisy:\n"
        "    def find_spec(self, name, path=None, target=None):\n"
        "        if name == 'tools.workspace':\n"
        "            print('printed at import'); sys.stdout.flush(); os.write(1, b'written at import\\n')\n"
        "sys.meta_path.insert(0, Noisy())\n"
        "atexit.register(print, 'printed at exit')\n"
    )
    env = {**os.environ, "LOOPTUNE_HOME": str(with_bases.home), "PYTHONPATH": str(tmp_path)}
    env.pop("PYTHONUNBUFFERED", None)
    if unbuffered:
        env["PYTHONUNBUFFERED"] = "1"
    server = subprocess.Popen(
        [sys.executable, "-P", "-m", "server"], stdin=subprocess.PIPE, stdout=subprocess.PIPE, stderr=subprocess.PIPE,
        env=env, text=True,
    )  # fmt: skip
    assert server.stdin and server.stdout

    def send(message: dict[str, Any]) -> None:
        assert server.stdin
        server.stdin.write(json.dumps({"jsonrpc": "2.0", **message}) + "\n")
        server.stdin.flush()

    client = {"protocolVersion": "2025-11-25", "capabilities": {}, "clientInfo": {"name": "t", "version": "1"}}
    send({"id": 1, "method": "initialize", "params": client})
    lines = [server.stdout.readline()]
    send({"method": "notifications/initialized"})
    ask = {"name": "ask_model", "arguments": {"prompt": "Hello", "model": TINY, "max_tokens": 2}}
    send({"id": 2, "method": "tools/call", "params": ask})
    lines.append(server.stdout.readline())
    rest, complaints = server.communicate(timeout=120)
    lines += rest.splitlines()
    assert all(json.loads(line)["jsonrpc"] == "2.0" for line in lines), lines
    assert "result" in json.loads(lines[1]), lines[1]
    assert "printed at import" in complaints and "written at import" in complaints


def test_the_server_ends_as_soon_as_its_client_leaves(workspace: Workspace) -> None:
    server = subprocess.Popen(
        [sys.executable, "-P", "-m", "server"],
        stdin=subprocess.PIPE,
        stdout=subprocess.DEVNULL,
        stderr=subprocess.DEVNULL,
        env={**os.environ, "LOOPTUNE_HOME": str(workspace.home)},
    )
    assert server.stdin
    server.stdin.close()
    assert server.wait(timeout=20) == 0


@pytest.mark.slow
def test_twenty_clients_worth_of_calls_are_answered_while_a_training_runs(
    with_bases: Workspace, dataset: Callable[..., str]
) -> None:
    name = dataset(80)
    slow = {**QUICK, "epochs": 100, "batch_size": 4, "eval_every": 1000, "save_every": 1000}
    answered: list[str] = []

    async def one(client: Client, run: str, number: int) -> None:
        status = await call(client, "training_status", run=run)
        await client.read_resource("run://index")
        refused = await client.call_tool("training_status", {"run": f"nope-{number}"})
        assert refused.is_error
        answered.append(status["state"])

    async def talk() -> None:
        async with Client(parameters(with_bases)) as client:
            run = (await call(client, "start_training", dataset=name, settings=slow))["id"]
            while (await call(client, "training_status", run=run, wait_seconds=1))["step"] < 1:
                pass
            with anyio.fail_after(45):
                async with anyio.create_task_group() as group:
                    for number in range(20):
                        group.start_soon(one, client, run, number)
            still = await call(client, "training_status", run=run)
            assert answered == ["running"] * 20 and still["state"] == "running", still
            await call(client, "cancel_training", run=run)

    anyio.run(talk)
