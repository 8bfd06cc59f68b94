"""What validation leaves behind: reports of files and folders, the list of changes, rows for other trainers.

.venv/bin/python -P -m pytest tests/test_repairs_and_exports.py
"""

import json
from collections.abc import Callable
from pathlib import Path
from types import SimpleNamespace
from typing import Any
from urllib.parse import unquote, urlsplit

import anyio
import pytest
from mcp import Client
from typer.testing import CliRunner

import server.heavy
import server.toolbox.validation
from server.app import build_server
from server.cli.main import app
from tools.data.datasets import create
from tools.data.examples import Example, messages
from tools.data.export import export_dataset
from tools.data.validate import validate_dataset
from tools.errors import CheckError, ConflictError
from tools.files import read_json
from tools.workspace import Workspace


def row(question: str, answer: Any = "A reservation that lapses.", **more: Any) -> Any:
    return {"instruction": question, "output": answer, **more}


def rows_file(path: Path, *rows: Any) -> Path:
    path.parent.mkdir(parents=True, exist_ok=True)
    path.write_text("".join(json.dumps(row) + "\n" for row in rows))
    return path


def called(tool: str, **arguments: Any) -> Any:
    """What an agent gets back, and the progress that it was told."""
    told: list[str] = []

    async def hear(progress: float, total: float | None, message: str | None) -> None:
        told.append(message or "")

    async def talk() -> Any:
        async with Client(build_server()) as client:
            return await client.call_tool(tool, arguments, progress_callback=hear)

    return anyio.run(talk), told


def read_resource(uri: str) -> str:
    async def talk() -> Any:
        async with Client(build_server()) as client:
            return await client.read_resource(uri)

    text: str = anyio.run(talk).contents[0].text
    return text


def said(*words: str, code: int = 0) -> str:
    result = CliRunner().invoke(app, list(words))
    assert result.exit_code == code, result.output
    return result.output


# files and folders


def test_a_file_has_a_report_in_the_workspace_and_the_answer_links_it(workspace: Workspace) -> None:
    path = rows_file(
        workspace.home / "brought" / "holds.jsonl", row("What is a soft hold?"), row("Which key?", "TODO: a")
    )
    result, _ = called("validate_dataset", path=str(path))
    folder = Path(result.structured_content["report"])
    assert folder.is_relative_to(workspace.reports)
    assert read_json(folder / "report.json")["errors"][0]["line"] == 2
    assert "placeholder" in (folder / "report.md").read_text()
    [link] = [part for part in result.content if part.type == "resource_link"]
    assert Path(unquote(urlsplit(str(link.uri)).path)).read_text().startswith("<!doctype html>")
    assert link.mime_type == "text/html" and str(folder / "report.html") in result.content[0].text
    called("validate_dataset", path=str(path))
    assert [f.name for f in workspace.reports.iterdir()] == [folder.name], "the same file has the same report"


def test_a_folder_is_checked_on_both_sides_and_for_leaks_across(tmp_path: Path) -> None:
    train = [row(f"What does hold number {i} of the {i * 7} do?", f"It lapses after {i} minutes.") for i in range(9)]
    rows_file(tmp_path / "split" / "train.jsonl", *train)
    rows_file(tmp_path / "split" / "valid.jsonl", row(train[4]["instruction"], "It stays."), row("Which?", "FIXME: b"))
    data = json.loads(said("validate", str(tmp_path / "split"), "--json", "--report", str(tmp_path / "out"), code=1))
    assert data["rows"] == 11
    assert [(e["file"], e["line"], e["code"]) for e in data["errors"]] == [("valid.jsonl", 2, "placeholder")]
    assert [(k["train_line"], k["valid_line"], k["kind"]) for k in data["leaks"]] == [(5, 1, "exact")]
    assert set(data["statistics"]) == {"train.jsonl", "valid.jsonl"}
    assert "Held-out rows near a training row" in (tmp_path / "out" / "valid" / "report.html").read_text()
    assert (tmp_path / "out" / "train" / "report.png").is_file()
    text = said("validate", str(tmp_path / "split"), code=1)
    assert "leak: valid.jsonl line 1 asks what train.jsonl line 5 does" in text
    assert "valid.jsonl line 2 output: placeholder" in text and "train.jsonl 9 rows, 0 errors" in text
    (tmp_path / "split" / "valid.jsonl").unlink()
    assert "has no valid.jsonl" in str(CliRunner().invoke(app, ["validate", str(tmp_path / "split")]).exception)


def test_leaks_of_a_dataset_reach_the_agent(workspace: Workspace) -> None:
    rows = [
        row(
            f"What does the harbour office do {when} with the {name} hold of a customer who did not come?",
            f"It lets the {name} hold lapse after {i} minutes, and offers the berth to the next boat on the list.",
        )
        for i, name in enumerate(
            ["amber", "birch", "cedar", "dusk", "ember", "frost", "grove", "heath", "ivory", "jade"]
        )
        for when in ("today", "tomorrow")
    ]
    create(workspace, "holds", [Example.model_validate(r) for r in rows], title="holds", seed=1, sources=[], notes=[],
           terms={})  # fmt: skip
    result, _ = called("validate_dataset", dataset="holds", detail="full")
    leaks = result.structured_content["leaks"]
    assert leaks and leaks == read_json(workspace.dataset("holds") / "report.json")["leaks"]
    assert {leak["kind"] for leak in leaks} == {"near"}
    assert "leak: valid.jsonl line" in said("validate", "holds")


def test_progress_is_told_without_a_base_and_a_call_ends_in_time(
    workspace: Workspace, monkeypatch: pytest.MonkeyPatch
) -> None:
    path = rows_file(workspace.home / "many.jsonl", *(row(f"Question {i}?", f"Answer {i}.") for i in range(2500)))
    monkeypatch.setattr(server.heavy, "SECONDS", 0.001)
    _, told = called("validate_dataset", path=str(path))
    assert "2,000 rows checked" in told
    monkeypatch.setattr(server.toolbox.validation, "SECONDS", -1)
    result, _ = called("validate_dataset", path=str(path))
    assert result.is_error and "looptune validate" in result.content[0].text


# repairs


def test_each_change_of_a_repair_stands_in_the_copy_and_is_shown_by_every_door(workspace: Workspace) -> None:
    good = [row(f"How long does hold number {n} last?", f"Until minute {n * 7} of the hour.") for n in range(6)]
    create(workspace, "holds", [Example.model_validate(r) for r in good], title="holds", seed=1, sources=[], notes=[],
           terms={})  # fmt: skip
    with (workspace.dataset("holds") / "rows.jsonl").open("a") as rows:
        for n in range(120):
            rows.write(json.dumps(row(f" Who lifts hold {n} of {n * 31}?", f"Person {n * 17}.")) + "\n")
    result, _ = called("validate_dataset", dataset="holds", fix=True)
    data = result.structured_content
    file = workspace.dataset("holds-fixed") / "changes.json"
    kept = read_json(file)
    assert (kept["of"], kept["mended"], kept["dropped"], len(kept["changes"])) == ("holds", 120, 0, 120)
    assert kept["changes"][119] == {
        "line": 126, "action": "mended", "field": "instruction", "message": "white space around the text removed"
    }  # fmt: skip
    assert len(data["changes"]) == 5 and f"{file} lists each of 120 changes" in result.content[0].text
    resource = json.loads(read_resource("dataset://holds-fixed"))
    assert resource["repaired"]["of"] == "holds" and resource["repaired"]["changes"] == kept["changes"][:100]
    text = said("validate", "holds", "--fix")
    assert "mended: line 7 instruction: white space around the text removed" in text and str(file) in text
    repaired = json.loads(said("validate", "holds", "--fix", "--json"))["repaired"]
    assert repaired["changes"] == kept["changes"] and repaired["dataset"] == "holds-fixed"


# rows for other trainers


@pytest.fixture
def mixed(workspace: Workspace) -> str:
    """A valid dataset with every sort of row that a trainer could stumble over."""
    cents = {"preservation_level": "moderate", "rule_compliance": ["rule:cents"]}
    window = {
        "content": "Use this from here on.",
        "context_window": {
            "system_prompt": "You review code.", "conversation_history": [], "active_rules": ["rule:cents"],
            "project_context": "Python.", "role_expectations": "Name the line.", "knowledge_updates": {},
        },
        "metadata": {**cents, "source": "x"},
    }  # fmt: skip
    rows = [
        row(f"What is hold number {i}?", f"It lapses after {i} minutes, “then” {i * 7}\u2028more.") for i in range(20)
    ]
    rows += [
        row(f"Set up reviewer {i}.", {**window, "content": f"Reviewer {i}."}, kind="context_window", metadata=cents)
        for i in range(5)
    ]
    rows += [
        row(f"And hold {i}?", f"It stays {i}.", system=f"Be brief, {i}.", history=[[f"Hi {i}", "Hello."]])
        for i in range(5)
    ]
    rows += [row(f"Mend line {i}.", f"return {i}", input=f"retrun {i}", provenance={"seed": None}) for i in range(5)]
    examples = [Example.model_validate(r) for r in rows]
    create(workspace, "mixed", examples, title="mixed", seed=1, sources=[], notes=[], terms={})
    assert validate_dataset(workspace, "mixed")[0].ok
    return "mixed"


def test_mlx_lm_and_a_chat_template_read_the_messages(
    with_bases: Workspace, bases: Path, mixed: str, tmp_path: Path
) -> None:
    from mlx_lm.tuner.datasets import ChatDataset, load_local_dataset
    from transformers import AutoTokenizer

    out = said("dataset", "export", mixed, "--messages", str(tmp_path / "chat"))
    assert "train.jsonl: 28 rows" in out and "valid.jsonl: 7 rows" in out
    tokenizer = AutoTokenizer.from_pretrained(bases / "tiny")
    train, valid, _ = load_local_dataset(tmp_path / "chat", tokenizer, SimpleNamespace(mask_prompt=True))
    assert isinstance(train, ChatDataset) and (len(train), len(valid)) == (28, 7)
    kinds = set()
    for side in (train, valid):
        for chat in side:
            tokens, answer_begins = side.process(chat)
            text = tokenizer.decode(tokens)
            assert text == tokenizer.apply_chat_template(chat["messages"], tokenize=False)
            assert all(turn["content"] in text for turn in chat["messages"])
            assert tokenizer.decode(tokens[answer_begins:]).startswith(chat["messages"][-1]["content"])
            kinds.add((chat["messages"][0]["role"], len(chat["messages"])))
    assert kinds == {("user", 2), ("system", 5)}
    rows = [r for side in ("train", "valid") for r in read_lines(with_bases.dataset(mixed) / f"{side}.jsonl")]
    chats = [c["messages"] for side in ("train", "valid") for c in read_lines(tmp_path / "chat" / f"{side}.jsonl")]
    assert chats == [messages(Example.model_validate(r)) for r in rows]


def read_lines(path: Path) -> list[Any]:
    return [json.loads(line) for line in path.read_text().split("\n") if line]


def test_plain_alpaca_has_every_field_in_every_row_as_text_and_no_null(mixed: str, workspace: Workspace) -> None:
    """LLaMA-Factory's AlpacaDatasetConverter takes `output` only when it is a text, and pairs of texts as `history`;
    axolotl joins instruction, input and output; the loader of both makes one column of each field, of one type."""
    file = workspace.home / "all.jsonl"
    assert export_dataset(workspace, mixed, "alpaca", file) == {file: 35}
    rows = read_lines(file)
    for one in rows:
        assert list(one) == ["instruction", "input", "output", "system", "history"]
        assert all(isinstance(one[field], str) for field in ("instruction", "input", "output", "system"))
        assert all(len(turn) == 2 and all(isinstance(t, str) for t in turn) for turn in one["history"])
        assert one["instruction"] and one["output"]
    windows = [json.loads(one["output"]) for one in rows if one["instruction"].startswith("Set up")]
    assert len(windows) == 5 and all("system_prompt" in window["context_window"] for window in windows)


def test_what_is_there_is_not_written_over_and_drafts_are_not_exported(
    workspace: Workspace, mixed: str, dataset: Callable[..., str]
) -> None:
    export_dataset(workspace, mixed, "messages", workspace.home / "out")
    with pytest.raises(ConflictError, match=r"train\.jsonl is there already"):
        export_dataset(workspace, mixed, "alpaca", workspace.home / "out")
    draft = create(workspace, "draft", [Example(instruction="a", output="b")], title="draft", seed=1, sources=[],
                   notes=[], terms={})  # fmt: skip
    with pytest.raises(CheckError, match="draft"):
        export_dataset(workspace, draft.name, "alpaca", workspace.home / "draft")
    assert "Expected --messages, --alpaca" in str(CliRunner().invoke(app, ["dataset", "export", mixed]).exception)
