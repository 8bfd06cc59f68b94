"""Watching a training from outside: the picture an agent gets, the curve in a terminal, and a plan without anything.

.venv/bin/python -P -m pytest tests/test_watching.py
"""

import base64
import io
import json
import subprocess
import sys
from typing import Any

import anyio
import pytest
from mcp import Client
from rich.console import Console

from server.app import build_server
from server.show import _bars
from tools.jobs import record
from tools.training.config import preset
from tools.workspace import Workspace


@pytest.fixture
def run(workspace: Workspace) -> record.Job:
    """A finished training's folder, with forty steps of figures."""
    job = record.create(workspace, "train", "rows", preset("tiny", dataset="rows").model_dump())[0]
    lines: list[dict[str, Any]] = [
        {"step": n, "loss": 3 / n, "memory_gb": 1.5, "mlx_memory_gb": 1.1} for n in range(1, 41)
    ]
    for line in lines[9::10]:
        line["valid_loss"] = line["loss"] * 1.2
    (job.folder / "metrics.jsonl").write_text("".join(json.dumps(line) + "\n" for line in lines))
    result = {"valid_loss_before": 3.0, "valid_loss": 0.1, "tokens_per_second": 1.0, "peak_memory_gb": 1.5}
    record.finished(job, result)
    return job


def test_a_full_status_brings_a_picture_of_loss_and_memory(run: record.Job) -> None:
    async def talk() -> None:
        async with Client(build_server()) as client:
            short = await client.call_tool("training_status", {"run": run.id})
            assert [part.type for part in short.content] == ["text"]
            full = await client.call_tool("training_status", {"run": run.id, "detail": "full"})
            assert [part.type for part in full.content] == ["text", "image"]
            picture = full.content[1]
            assert picture.mime_type == "image/png"  # type: ignore[union-attr]
            assert base64.b64decode(picture.data)[:4] == b"\x89PNG"  # type: ignore[union-attr]
            assert full.structured_content == short.structured_content

    anyio.run(talk)


def test_a_terminal_shows_the_loss_as_a_curve_above_the_bar(run: record.Job) -> None:
    console = Console(file=io.StringIO(), force_terminal=True, width=100, height=30, highlight=False)
    with _bars(console, run.folder) as update:
        update(run.id, "training", 40, 40, {"loss": 0.075})
    drawn = console.file.getvalue()  # type: ignore[attr-defined]
    assert "validation" in drawn and "┤" in drawn and "40/40" in drawn


def test_a_finished_run_says_why_and_what_to_do_next(run: record.Job) -> None:
    state = record.read(run.folder)
    assert (state.state, state.reason) == ("finished", "It did all that was asked.")
    assert state.next_step == f"evaluate_model(run={run.id!r})"


def test_the_command_line_plans_the_7b_preset_with_nothing_there() -> None:
    words = ["plan", "--preset", "qwen2.5-coder-7b-m1max", "--json"]
    done = subprocess.run(
        [sys.executable, "-P", "-m", "server.cli", *words], capture_output=True, text=True, timeout=120
    )
    assert done.returncode == 0, done.stderr
    plan = json.loads(done.stdout)
    assert plan["fits"] and plan["peak_memory_gb"] < plan["limit_gb"] == 16.0
    assert {"steps", "tokens", "seconds", "truncated_rows"} <= plan.keys() and len(plan["assumptions"]) == 3
