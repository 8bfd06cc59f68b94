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

from server.cli.arguments import as_declared
from server.cli.shell import as_commands, told
from tools.errors import InputError
from tools.jobs import record
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


@pytest.mark.slow
def test_tools_are_listed_as_a_client_sees_them() -> None:
    tools = {tool["name"]: tool for tool in value("tools")}
    assert tools["start_training"]["inputSchema"]["properties"]["dataset"]
    assert "training_status" in looptune("tools").stdout


@pytest.mark.slow
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


@pytest.mark.slow
def test_a_refused_call_is_said_on_stderr_with_status_1() -> None:
    done = looptune("call", "training_status", "run=nope", "--json", status=1)
    assert done.stdout == "" and "no run named 'nope'" in done.stderr


def test_wrong_use_ends_with_status_2() -> None:
    assert "key=value" in looptune("call", "remember", "nonsense", status=2).stderr
    assert "no run named" in looptune("status", "nope", status=2).stderr
    assert "no host named" in looptune("print-config", "emacs", status=2).stderr
    looptune("frobnicate", status=2)


@pytest.mark.parametrize(
    ("words", "said"),
    [
        ("train holds", "Next: `looptune call start_training dataset=holds`"),
        ("plan --epochs 2", "--epochs is a field of a recipe, and no option. Next: write --set epochs=2"),
        ("plan --set epoch=2", "Next: `looptune plan --preset smollm2-135m --set epochs=2`"),
        ("plan --set epoch=2", "did you mean epochs?"),
        ("plan --set rank=1024", "Next: give values in range"),
        ("call remember --args none.json", "There is no file none.json."),
        ("validate none.jsonl", "There is no file none.jsonl."),
    ],
)
def test_wrong_use_is_told_what_was_meant(words: str, said: str) -> None:
    assert said in looptune(*words.split(), status=2).stderr


@pytest.mark.parametrize(
    ("key", "typed", "kind", "meant"),
    [
        ("terms", "{'term': 'a'}", "array", """terms='[{"term": "a"}]'"""),
        ("terms", "[{term: a}]", "array", """terms='["…"]'"""),
        ("kinds", "recall", "array", """kinds='["recall"]'"""),
        ("settings", "epochs=2", "object", """settings='{"epochs": 2}'"""),
        ("settings", "{'epochs': 2}", "object", """settings='{"epochs": 2}'"""),
    ],
)
def test_a_value_that_has_to_be_json_is_refused_with_what_was_meant(
    key: str, typed: str, kind: str, meant: str
) -> None:
    with pytest.raises(InputError, match="double quotes" if typed[0] in "[{" else "has to be JSON") as refused:
        as_declared(key, typed, {"anyOf": [{"type": kind}, {"type": "null"}]})
    assert refused.value.next_step == f"write {meant}"
    assert as_declared(key, typed, {"anyOf": [{"type": kind}, {"type": "string"}]}) == typed


def test_a_call_with_a_broken_value_is_wrong_use() -> None:
    said = looptune("call", "start_training", "dataset=x", "settings=epochs=2", status=2).stderr
    assert said == """looptune: settings has to be JSON; got 'epochs=2'. Next: write settings='{"epochs": 2}'\n"""


@pytest.mark.slow
def test_resources_are_read_through_a_session() -> None:
    assert set(json.loads(looptune("resource", "policy://levels").stdout)) == {"strict", "moderate", "flexible"}
    assert "run://{id}" in looptune("resource").stdout
    assert "no run named" in looptune("resource", "run://nope", status=2).stderr


@pytest.mark.slow
def test_validate_names_errors_by_line_and_fails(tmp_path: Path) -> None:
    rows = tmp_path / "rows.jsonl"
    rows.write_text('{"instruction": "a", "output": "b"}\n{"instruction": ""}\nnonsense\n')
    report = value("validate", str(rows), status=1)
    assert report["rows"] == 1
    assert [(e["line"], e["field"]) for e in report["errors"]] == [(2, "instruction"), (2, "output"), (3, "")]
    (tmp_path / "empty.jsonl").write_text("")
    assert "is empty" in looptune("validate", str(tmp_path / "empty.jsonl"), status=2).stderr


@pytest.mark.slow
def test_plan_says_whether_a_training_fits(with_bases: Workspace, dataset: Callable[..., str]) -> None:
    name = dataset()
    plan = value("plan", "--dataset", name, "--set", "base=tiny", "--set", "epochs=1")
    assert plan["fits"] and plan["steps"] == 4
    assert {"peak_memory_gb", "limit_gb", "tokens", "seconds", "truncated_rows"} <= plan.keys()
    assert not value("plan", "--dataset", name, "--set", "base=tiny", "--set", "memory_limit_gb=0.01", status=1)["fits"]


@pytest.mark.slow
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


@pytest.mark.parametrize(
    ("hint", "command"),
    [
        ("training_status(run='run-x', wait_seconds=45).", "`looptune status run-x --follow`."),
        ("call validate_dataset(dataset='x') again", "call `looptune validate x` again"),
        ("plan_training(dataset='x', preset='tiny')", "`looptune plan --dataset x --preset tiny`"),
        ("show(name='x') for each; quantize(run=…)", "`looptune open x` for each; quantize(run=…)"),
        ("evaluate_model(model='x', promote=true)", "`looptune call evaluate_model model=x promote=true`"),
        ("remember(text='a (b)', tags=['c'])", """`looptune call remember text='a (b)' tags='["c"]'`"""),
        ("ask_model(prompt='true', model='42')", """`looptune call ask_model prompt='"true"' model=42`"""),
        ("look at f(x), then (maybe) mend it", "look at f(x), then (maybe) mend it"),
    ],
)
def test_a_hint_that_is_a_tool_call_becomes_a_command(hint: str, command: str) -> None:
    assert as_commands(hint) == command
    assert told(f"It is so: f(a=1). Next: {hint}\ng(b=2)") == f"It is so: f(a=1). Next: {command}\ng(b=2)"


def test_status_of_a_gate_that_was_not_passed_shows_its_figures_and_ends_with_1(workspace: Workspace) -> None:
    job = record.create(workspace, "gate", "holds", {})[0]
    figures = {"recall": 0.5, "controls": 0.9, "perplexity": 9.1, "size_mb": 2.0, "tokens_per_second": 5.0}
    models = {"base": figures, "q4_k_m": figures}
    record.finished(
        job,
        {"models": models, "matrix": {}, "against": "base", "to_judge": 0, "notes": [], "checks": [], "passed": False,
         "promoted": False, "reason": "recall is 0.5 (has to be >= 0.9)"},
    )  # fmt: skip
    for words in (["status", job.id], ["status", job.id, "--follow"]):
        said = looptune(*words, status=1).stdout
        assert "q4_k_m: recall 0.5, controls 0.9, perplexity 9.1" in said and "NOT passed: recall is 0.5" in said
        assert f"`looptune evaluation show {job.id}`" in said and f"`looptune open {job.id}`" in said
        assert "{" not in said
    assert value("status", job.id, status=1)["result"]["models"] == models


def test_runs_and_status_show_nothing_where_there_is_nothing() -> None:
    assert value("runs") == []
    assert "no run yet" in looptune("runs").stdout
