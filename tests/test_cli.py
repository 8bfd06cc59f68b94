"""The debug CLI: exit statuses, JSON alone on stdout, and tools called through a real session.

.venv/bin/python -P -m pytest tests/test_cli.py
"""

import json
import subprocess
import sys
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest

from tools.workspace import Workspace


def looptune(*words: str, status: int = 0, typed: str = "") -> "subprocess.CompletedProcess[str]":
    done = subprocess.run(
        [sys.executable, "-P", "-m", "server.cli", *words], capture_output=True, text=True, input=typed, timeout=120
    )
    assert done.returncode == status, done.stderr + done.stdout
    return done


def value(*words: str, status: int = 0) -> Any:
    """The one JSON value that stands on stdout."""
    return json.loads(looptune(*words, "--json", status=status).stdout)


def test_tools_are_listed_as_a_client_sees_them() -> None:
    tools = {tool["name"]: tool for tool in value("tools")}
    assert tools["start_training"]["inputSchema"]["properties"]["dataset"]
    assert "training_status" in looptune("tools").stdout


def test_call_passes_words_json_and_files_and_prints_the_structured_result(tmp_path: Path) -> None:
    terms = json.dumps([{"term": "42", "meaning": "the symbol of harmony between rules and freedom"}])
    made = value("call", "generate_examples", f"terms={terms}", "count=20", "name=42")
    assert (made["dataset"], made["rows"]) == ("42", 20)
    assert value("call", "validate_dataset", "dataset=42")["ok"]
    arguments = tmp_path / "arguments.json"
    arguments.write_text('{"text": "Amounts are whole cents.", "kind": "rule"}')
    assert value("call", "remember", "--args", str(arguments))["new"]
    done = looptune("call", "query_memory", "--args", "-", "--json", typed='{"query": "money"}')
    assert json.loads(done.stdout)["count"] == 1


def test_a_refused_call_is_said_on_stderr_with_status_1() -> None:
    done = looptune("call", "training_status", "run=nope", "--json", status=1)
    assert done.stdout == "" and "no run named 'nope'" in done.stderr


def test_wrong_use_ends_with_status_2() -> None:
    assert "key=value" in looptune("call", "remember", "nonsense", status=2).stderr
    assert "no run named" in looptune("status", "nope", status=2).stderr
    assert "no host named" in looptune("print-config", "emacs", status=2).stderr
    looptune("frobnicate", status=2)


def test_resources_are_read_through_a_session() -> None:
    assert set(json.loads(looptune("resource", "policy://levels").stdout)) == {"strict", "moderate", "flexible"}
    assert "run://{id}" in looptune("resource").stdout
    assert "no run named" in looptune("resource", "run://nope", status=2).stderr


def test_validate_names_errors_by_line_and_fails(tmp_path: Path) -> None:
    rows = tmp_path / "rows.jsonl"
    rows.write_text('{"instruction": "a", "output": "b"}\n{"instruction": ""}\nnonsense\n')
    report = value("validate", str(rows), status=1)
    assert report["rows"] == 1
    assert [(e["line"], e["field"]) for e in report["errors"]] == [(2, "instruction"), (2, "output"), (3, "")]
    (tmp_path / "empty.jsonl").write_text("")
    assert "is empty" in looptune("validate", str(tmp_path / "empty.jsonl"), status=2).stderr


def test_plan_says_whether_a_training_fits(with_bases: Workspace, dataset: Callable[..., str]) -> None:
    name = dataset()
    plan = value("plan", "--dataset", name, "--set", "base=tiny", "--set", "epochs=1")
    assert plan["fits"] and plan["steps"] == 4
    assert {"peak_memory_gb", "limit_gb", "tokens", "seconds", "truncated_rows"} <= plan.keys()
    assert not value("plan", "--dataset", name, "--set", "base=tiny", "--set", "memory_limit_gb=0.01", status=1)["fits"]


@pytest.mark.parametrize("host", ["claude-desktop", "claude-code", "cursor", "vscode"])
def test_the_printed_block_starts_the_server_from_anywhere(host: str) -> None:
    block = value("print-config", host)
    entry = block["servers" if host == "vscode" else "mcpServers"]["looptune"]
    assert Path(entry["command"]).is_absolute() and entry["args"] == ["serve"]


def test_doctor_names_device_blas_and_models() -> None:
    found = {finding["name"]: finding for finding in value("doctor")}
    assert found["blas"]["status"] == "ok" and found["memory store"]["status"] == "ok"
    assert found["base smollm2-135m-instruct"]["status"] == "ok"
    assert "LOOPTUNE_ALLOW_DOWNLOADS=1" in found["base qwen2.5-coder-7b-instruct-4bit"]["mend"]


def test_runs_and_status_show_nothing_where_there_is_nothing() -> None:
    assert value("runs") == []
    assert "no run yet" in looptune("runs").stdout
