"""How fast the server starts and answers, beside an empty server of the same SDK on the same machine.

    .venv/bin/python -P benchmarks/server.py [--quick] [--json]

Each round starts both servers, one after the other, and waits for the answer to `initialize`; then a light call is
made a hundred times on each. Ratios are medians of ours over medians of the empty server's. At last the same calls are
made on each while a training of the tiny base runs beside them.
"""

import argparse
import json
import os
import platform
import statistics
import subprocess
import sys
import tempfile
import time
from importlib.metadata import version
from pathlib import Path
from typing import Any

import psutil

EMPTY = """
from mcp.server import MCPServer
server = MCPServer("empty")
@server.tool()
def ping() -> str:
    "Answer."
    return "pong"
server.run("stdio")
"""
HELLO = {
    "protocolVersion": "2025-11-25",
    "capabilities": {},
    "clientInfo": {"name": "benchmark", "version": "1"},
}


class Session:
    """A server process, spoken to line by line."""

    def __init__(self, arguments: list[str], home: str) -> None:
        self.began = time.perf_counter()
        self.process = subprocess.Popen(
            [sys.executable, "-P", *arguments],
            stdin=subprocess.PIPE,
            stdout=subprocess.PIPE,
            stderr=subprocess.DEVNULL,
            env={**os.environ, "LOOPTUNE_HOME": home},
        )
        self.number = 0
        self.ask("initialize", HELLO)
        self.started = time.perf_counter() - self.began
        self.send({"method": "notifications/initialized"})

    def send(self, message: dict[str, Any]) -> None:
        assert self.process.stdin
        self.process.stdin.write(json.dumps({"jsonrpc": "2.0", **message}).encode() + b"\n")
        self.process.stdin.flush()

    def ask(self, method: str, params: dict[str, Any]) -> dict[str, Any]:
        """The answer to one request; raises RuntimeError when it is an error."""
        self.number += 1
        self.send({"id": self.number, "method": method, "params": params})
        assert self.process.stdout
        answer = json.loads(self.process.stdout.readline())
        if "error" in answer or answer["result"].get("isError"):
            raise RuntimeError(str(answer))
        return dict(answer["result"])

    def close(self) -> None:
        assert self.process.stdin
        self.process.stdin.close()
        self.process.wait(timeout=20)


def measure(rounds: int, calls: int) -> dict[str, Any]:
    """Seconds to the first response, milliseconds of a light call, and idle memory, for both."""
    kinds = {"empty": ["-c", EMPTY], "looptune": ["-m", "server"]}
    light = {"empty": ("ping", {}), "looptune": ("training_status", {"run": "bench"})}
    starts: dict[str, list[float]] = {kind: [] for kind in kinds}
    latencies: dict[str, list[float]] = {kind: [] for kind in kinds}
    memory: dict[str, float] = {}
    with tempfile.TemporaryDirectory() as home:
        run = Path(home, "runs", "bench")
        run.mkdir(parents=True)
        state = {"id": "bench", "kind": "train", "state": "finished", "created": "2026-01-01T00:00:00+00:00"}
        result = {"valid_loss_before": 1, "valid_loss": 1, "tokens_per_second": 1, "peak_memory_gb": 1}
        (run / "state.json").write_text(json.dumps({**state, "result": result}))
        (run / "job.json").write_text(json.dumps({"kind": "train", "config": {}, "idempotency_key": ""}))
        for number in range(rounds + 1):
            for kind, arguments in kinds.items():
                session = Session(arguments, home)
                if number:  # the first round warms the disk's cache
                    starts[kind].append(session.started)
                    memory[kind] = psutil.Process(session.process.pid).memory_info().rss / 1e6
                name, given = light[kind]
                for _ in range(calls if number else 5):
                    began = time.perf_counter()
                    session.ask("tools/call", {"name": name, "arguments": given})
                    latencies[kind].append((time.perf_counter() - began) * 1000)
                session.close()
    beside = while_training(kinds, light, calls * 3)
    figures = {
        kind: {
            "start_seconds": round(statistics.median(starts[kind]), 3),
            "call_p50_ms": round(statistics.median(latencies[kind]), 2),
            "call_p99_ms": round(sorted(latencies[kind])[int(0.99 * len(latencies[kind]))], 2),
            "memory_mb": round(memory[kind], 1),
            "training_call_p50_ms": round(statistics.median(beside[kind]), 2),
            "training_call_p99_ms": round(sorted(beside[kind])[int(0.99 * len(beside[kind]))], 2),
        }
        for kind in kinds
    }
    return {
        **figures,
        "start_ratio": round(figures["looptune"]["start_seconds"] / figures["empty"]["start_seconds"], 2),
        "call_ratio": round(figures["looptune"]["call_p50_ms"] / figures["empty"]["call_p50_ms"], 2),
        "rounds": rounds,
        "versions": {name: version(name) for name in ("looptune", "mcp")},
        "machine": f"{os.cpu_count()} × {platform.processor() or platform.machine()}, {platform.platform()}",
    }


def while_training(kinds: dict[str, list[str]], light: dict[str, Any], calls: int) -> dict[str, list[float]]:
    """Milliseconds of light calls on each server while a training runs; ours tells of that very training."""
    from tools.data.generate import generate
    from tools.data.terms import Term
    from tools.data.validate import validate_dataset
    from tools.jobs import record
    from tools.models.bases import TINY, base_folder
    from tools.settings import Settings
    from tools.training.config import preset
    from tools.training.start import start_training
    from tools.workspace import Workspace

    found: dict[str, list[float]] = {kind: [] for kind in kinds}
    with tempfile.TemporaryDirectory() as home:
        workspace = Workspace.open(Settings(home=Path(home)))
        base_folder(workspace, TINY)
        meaning = "a reservation that lapses by itself after 15 minutes"
        generate(workspace, terms=[Term(term="soft hold", meaning=meaning)], count=80, name="holds")
        validate_dataset(workspace, "holds")
        recipe = preset("embedded", dataset="holds", base=TINY, epochs=100, batch_size=4, eval_every=10**6)
        job, _ = start_training(workspace, recipe)
        while record.read(job.folder).step < 1:
            time.sleep(0.1)
        for kind, arguments in kinds.items():
            session = Session(arguments, home)
            name, given = light[kind]
            given = {"run": job.id} if given else {}
            for number in range(calls + 5):
                began = time.perf_counter()
                session.ask("tools/call", {"name": name, "arguments": given})
                if number >= 5:
                    found[kind].append((time.perf_counter() - began) * 1000)
            session.close()
        if record.read(job.folder).state != "running":
            raise RuntimeError("the training ended before the calls did; give it more epochs")
        record.cancel(job.folder)
        record.wait(job.folder, 60)
    return found


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--quick", action="store_true", help="5 rounds instead of 15")
    parser.add_argument("--json", action="store_true", help="print one JSON value")
    options = parser.parse_args()
    found = measure(5 if options.quick else 15, 100)
    if options.json:
        print(json.dumps(found))
        return
    for kind in ("empty", "looptune"):
        print(f"{kind:9}", "  ".join(f"{name} {value}" for name, value in found[kind].items()))
    print(f"start × {found['start_ratio']}, call × {found['call_ratio']}   {found['machine']}")


if __name__ == "__main__":
    main()
