"""Watching a training from outside: the picture an agent gets, the curve in a terminal, and a plan without anything.

.venv/bin/python -P -m pytest tests/test_watching.py
"""

import base64
import contextlib
import fcntl
import io
import json
import os
import pty
import re
import struct
import subprocess
import sys
import termios
from collections.abc import Callable
from typing import Any

import anyio
import pytest
from conftest import TINY
from mcp import Client
from rich.console import Console

from server.app import build_server
from server.cli.show import _bars
from tools.jobs import record
from tools.training.config import TrainingConfig, preset
from tools.training.start import start_training
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
            assert [part.type for part in short.content] == ["text", "resource_link"]
            full = await client.call_tool("training_status", {"run": run.id, "detail": "full"})
            assert [part.type for part in full.content] == ["text", "image", "resource_link"]
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


def test_a_terminal_of_80_columns_shows_the_whole_bar_and_the_figures_below(run: record.Job) -> None:
    console = Console(file=io.StringIO(), force_terminal=True, width=80, height=30, highlight=False, no_color=True)
    figures = {"loss": 1.234, "valid_loss": 1.345, "tokens_per_second": 1234.0, "memory_gb": 11.5, "seconds_left": 1234}
    with _bars(console) as update:
        update("run-forty-two-0001", "training", 1000, 1000, figures)
    drawn = re.sub(r"\x1b\[[0-9;?]*[A-Za-z]", "", console.file.getvalue())  # type: ignore[attr-defined]
    assert f"run-forty-two-0001 {28 * '━'} 1000/1000 0:00:00" in drawn
    assert "loss 1.234, valid 1.345, 1234 tokens/s, 11.5 GB, 1234 s left" in drawn


def test_a_pipe_gets_a_line_of_progress_only_when_it_says_something_new(capsys: pytest.CaptureFixture[str]) -> None:
    with _bars(Console(file=io.StringIO())) as update:
        for step in (1, 1, 9, 9):
            update("run-x", "at work", step, 9, {})
    assert capsys.readouterr().err == "run-x     1/9 at work\nrun-x     9/9 at work\n"


def test_a_finished_run_says_why_and_what_to_do_next(run: record.Job) -> None:
    state = record.read(run.folder)
    assert (state.state, state.reason) == ("finished", "It did all that was asked.")
    assert state.next_step == f"evaluate_model(run={run.id!r})"


def test_the_metrics_resource_keeps_validation_losses_and_the_last_step_of_a_long_run(workspace: Workspace) -> None:
    job = record.create(workspace, "train", "rows", preset("tiny", dataset="rows").model_dump())[0]
    lines: list[dict[str, Any]] = [{"step": n, "loss": 1.0} for n in range(1, 1002)]
    for line in lines[49::50]:
        line["valid_loss"] = 2.0
    (job.folder / "metrics.jsonl").write_text("".join(json.dumps(line) + "\n" for line in lines))
    shown: list[dict[str, Any]] = []

    async def talk() -> None:
        async with Client(build_server()) as client:
            read = await client.read_resource(f"run://{job.id}/metrics")
            shown.append(json.loads(read.contents[0].text))  # type: ignore[union-attr]

    anyio.run(talk)
    steps = [line["step"] for line in shown[0]["metrics"]]
    assert shown[0]["steps"] == 1001 and len(steps) < 230 and steps == sorted(set(steps)) and steps[-1] == 1001
    assert [line["step"] for line in shown[0]["metrics"] if "valid_loss" in line] == list(range(50, 1001, 50))


def test_any_field_of_a_recipe_can_be_overridden_by_a_tools_argument(
    with_bases: Workspace, dataset: Callable[..., str]
) -> None:
    name = dataset()
    changes: dict[str, Any] = {
        "base": TINY, "device": "cpu", "rank": 4, "alpha": 8.0, "targets": ["q_proj", "v_proj"], "dropout": 0.1,
        "learning_rate": 0.01, "warmup_steps": 1, "schedule": "constant", "batch_size": 4, "epochs": 2.0,
        "max_length": 128, "pack_tokens": 256, "clip_norm": 0.5, "weight_decay": 0.0, "gradient_checkpointing": True,
        "eval_every": 2, "patience": 1, "save_every": 2, "keep_checkpoints": 1, "auto_resume": 1, "seed": 7,
        "memory_limit_gb": 3.0, "nproc": 2, "hosts": ["127.0.0.1"],
    }  # fmt: skip
    assert changes.keys() == TrainingConfig.model_fields.keys() - {"preset", "dataset"}
    plans: list[dict[str, Any]] = []

    async def talk() -> None:
        async with Client(build_server()) as client:
            done = await client.call_tool("plan_training", {"dataset": name, "preset": "tiny", "settings": changes})
            plans.append(done.structured_content or {})

    anyio.run(talk)
    assert plans[0]["settings"] == {**changes, "preset": "tiny", "dataset": name}


@pytest.mark.slow
def test_a_followed_run_is_drawn_in_a_real_terminal_until_it_ends(
    with_bases: Workspace, dataset: Callable[..., str]
) -> None:
    config = preset("tiny", dataset=dataset(), epochs=15)
    job, _ = start_training(with_bases, config)
    ours, theirs = pty.openpty()
    fcntl.ioctl(theirs, termios.TIOCSWINSZ, struct.pack("HHHH", 30, 100, 0, 0))
    done = subprocess.Popen(
        [sys.executable, "-P", "-m", "server.cli", "status", job.id, "--follow"],
        stdin=theirs, stdout=subprocess.PIPE, stderr=theirs, text=True, env={**os.environ, "TERM": "xterm-256color"},
    )  # fmt: skip
    os.close(theirs)
    drawn = b""
    with contextlib.suppress(OSError):  # how a terminal says that nobody writes any more
        while data := os.read(ours, 65536):
            drawn += data
    os.close(ours)
    said = done.communicate(timeout=120)[0]
    assert done.returncode == 0 and f"{job.id} is finished, 60 of 60" in said
    text = drawn.decode("utf-8", "replace")
    assert "┤" in text and "/60" in text and "tokens/s" in text, text[-2000:]
    assert f"Next: `looptune call evaluate_model run={job.id}`" in said and "Validation loss" in said


@pytest.mark.slow
def test_every_state_says_why_and_what_to_do_next(with_bases: Workspace, dataset: Callable[..., str]) -> None:
    name, seen = dataset(), {}
    first = start_training(with_bases, preset("tiny", dataset=name, epochs=100))[0]
    second = start_training(with_bases, preset("tiny", dataset=name))[0]
    wrong = record.create(with_bases, "train", "x", preset("tiny", dataset=name, device="cuda").model_dump())[0]
    record.start(with_bases, wrong)
    seen["queued"] = record.read(second.folder)
    while not (state := record.read(first.folder)).step:
        assert state.state in record.ACTIVE, record.log_tail(first.folder)
        record.wait(first.folder, 0.05)
    seen["running"] = state
    seen["stopping"] = record.cancel(first.folder)
    for name, job in (("stopped", first), ("finished", second), ("failed", wrong)):
        seen[name] = record.wait(job.folder, 120)
    assert {name: state.state for name, state in seen.items()} == {name: name for name in seen}
    assert len(seen) == 6 and all(state.reason and state.next_step for state in seen.values())


def test_the_command_line_plans_the_7b_preset_with_nothing_there() -> None:
    words = ["plan", "--preset", "qwen2.5-coder-7b-m1max", "--json"]
    done = subprocess.run(
        [sys.executable, "-P", "-m", "server.cli", *words], capture_output=True, text=True, timeout=120
    )
    assert done.returncode == 0, done.stderr
    plan = json.loads(done.stdout)
    assert plan["fits"] and plan["peak_memory_gb"] < plan["limit_gb"] == 16.0
    assert {"steps", "tokens", "seconds", "truncated_rows"} <= plan.keys() and len(plan["assumptions"]) == 3
