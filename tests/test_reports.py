"""What validation reports, through every door: the tool, the command, Markdown, the page and the picture.

.venv/bin/python -P -m pytest tests/test_reports.py
"""

import base64
import json
import re
import subprocess
import sys
from collections.abc import Callable
from io import BytesIO
from pathlib import Path
from typing import Any

import anyio
import pytest
from mcp import Client

from server.app import build_server
from tools.data.datasets import read_split
from tools.data.report import html, markdown, png, write_reports
from tools.data.token_report import token_report
from tools.data.validate import validate_file
from tools.files import read_json
from tools.workspace import Workspace

TURNS = [
    {"role": "user", "content": "One?"},
    {"role": "assistant", "content": "Eins."},
    {"role": "user", "content": "Two?"},
    {"role": "assistant", "content": "Zwei."},
]


def row(question: str = "What is a soft hold?", answer: Any = "A reservation that lapses.", **more: Any) -> Any:
    return {"instruction": question, "output": answer, **more}


def rows_file(folder: Path, *rows: Any) -> Path:
    path = folder / "rows.jsonl"
    path.write_text("".join(json.dumps(row) + "\n" for row in rows))
    return path


def called(tool: str, **arguments: Any) -> Any:
    """What an agent gets back: the whole result."""
    found: list[Any] = []

    async def talk() -> None:
        async with Client(build_server()) as client:
            found.append(await client.call_tool(tool, arguments))

    anyio.run(talk)
    return found[0]


def picture_size(data: bytes) -> tuple[int, int]:
    from PIL import Image

    with Image.open(BytesIO(data)) as image:
        image.verify()
        return image.size


def test_the_page_holds_everything_loads_nothing_and_escapes_what_rows_say(tmp_path: Path) -> None:
    hostile = row("<script>alert(1)</script> $x$?", "See |this| [link](http://a.b) <img src=x>.")
    report = validate_file(rows_file(tmp_path, hostile, hostile, row("And?", "AKIAIOSFODNN7EXAMPLE")))
    page = html(report, "<b>holds</b>")
    assert "Not ready: 3 rows, 1 errors, 1 exact" in page and "secret left in" in page
    assert "<script" not in page and "<b>holds" not in page and "<img" not in page
    assert not re.findall(r"(?:src|href)=|url\(|@import", page) and "default-src 'none'" in page
    assert page.count("<svg") == 5
    text = markdown(report, "holds")
    assert "| exact | 1, 2 | 1.0 | &lt;script&gt;alert(1)&lt;/script&gt; $x$? |" in text
    assert png(report, "holds").startswith(b"\x89PNG")


def test_a_validated_dataset_has_its_report_beside_it(workspace: Workspace, dataset: Callable[..., str]) -> None:
    folder = workspace.dataset(dataset())
    assert "Ready to train on: 40 rows" in (folder / "report.md").read_text()
    assert (folder / "report.html").read_text().startswith("<!doctype html>")


def test_the_split_of_a_dataset_says_what_leaks(workspace: Workspace, dataset: Callable[..., str]) -> None:
    name = dataset(200)
    report = read_json(workspace.dataset(name) / "report.json")
    train, valid, _ = read_split(workspace, name)
    assert report["statistics"]["leaks"].get("exact", 0) == 0
    for leak in report["leaks"]:
        assert leak["train_line"] <= len(train) and leak["valid_line"] <= len(valid)


@pytest.fixture
def tokenizer(bases: Path) -> Any:
    from tools.models.load import load_tokenizer

    return load_tokenizer(bases / "tiny")


def test_what_a_base_sees_and_what_is_cut_off_is_shown(tokenizer: Any, tmp_path: Path) -> None:
    path = rows_file(tmp_path, row(), row("Count.", "one two three " * 100), row("Why? " * 100, "Because."))
    report = token_report(tokenizer, path, max_length=64)
    assert (report.rows, report.truncated_lines, report.lost_end_tokens) == (3, [2, 3], 2)
    assert report.untrained_lines == [3]
    assert report.lost_tokens == report.tokens["sum"] - sum(sample.tokens for sample in report.samples)
    assert [(s.line, s.why) for s in report.samples] == [(1, "a row"), (2, "cut off"), (3, "no trained token")]
    assert "What is a soft hold?" in report.samples[0].text
    assert re.search(r"⟦A reservation that lapses\.<\|im_end\|>⟧$", report.samples[0].text)
    assert report.samples[1].text.endswith("⟧") and "<|im_end|>⟧" not in report.samples[1].text
    assert report.samples[2].trained == 0 and "⟦" not in report.samples[2].text


def test_of_a_conversation_every_answer_is_marked_as_trained(tokenizer: Any, tmp_path: Path) -> None:
    report = token_report(tokenizer, rows_file(tmp_path, {"messages": TURNS}), max_length=64)
    assert re.findall("⟦(.*?)⟧", report.samples[0].text) == ["Eins.<|im_end|>", "Zwei.<|im_end|>"]


def test_rows_that_hold_the_marks_themselves_do_not_confuse_the_page(tokenizer: Any, tmp_path: Path) -> None:
    report = validate_file(rows_file(tmp_path, row("What stands in ⟦ here?", "<b>Slots⟧</b>.")), tokenizer, 64)
    write_reports(tmp_path / "report", report, "marks")
    page, text = ((tmp_path / "report" / f"report.{kind}").read_text() for kind in ("html", "md"))
    assert page.count("<mark>") == 1 and "<mark>&lt;b&gt;Slots⟧&lt;/b&gt;." in page
    assert "Tokens, at most 64 a row" in page and "Tokens, at most 64 a row" in text
    assert read_json(tmp_path / "report" / "report.json")["tokens"]["rows"] == 1


def test_a_tool_call_with_a_base_says_what_is_cut_and_shows_the_mask(
    with_bases: Workspace, dataset: Callable[..., str]
) -> None:
    result = called("validate_dataset", dataset=dataset(), base="tiny", max_length=24, detail="full")
    assert not result.is_error, result.content
    text, tokens = result.content[0].text, result.structured_content["tokens"]
    assert tokens["truncated_rows"] > 0 and tokens["max_length"] == 24
    assert f"{tokens['truncated_rows']:,} of 40 rows are longer than 24 tokens" in text
    assert "stands in ⟦ ⟧" in text and tokens["samples"][0]["parts"]
    assert "Tokens, at most 24 a row" in (with_bases.dataset("holds") / "report.md").read_text()
    refused = called("validate_dataset", dataset="holds", base="nope")
    assert refused.is_error and "'nope'" in refused.content[0].text


def test_a_tool_call_brings_the_picture(workspace: Workspace, dataset: Callable[..., str]) -> None:
    result = called("validate_dataset", dataset=dataset(), picture=True)
    [image] = [part for part in result.content if part.type == "image"]
    assert image.mime_type == "image/png" and picture_size(base64.b64decode(image.data)) == (1200, 800)


def test_a_tool_call_writes_a_repaired_copy_and_lists_each_change(workspace: Workspace) -> None:
    good = [row(f"How long does hold number {n} last?", f"Until minute {n * 7} of the hour.") for n in range(6)]
    called("add_examples", dataset="holds", rows=good)
    folder = workspace.dataset("holds")
    with (folder / "rows.jsonl").open("a") as rows:
        rows.write(json.dumps(row(" Who lifts a hard hold?\r\n", "A person.\u200b")) + "\n")
        rows.write(json.dumps(row("Which key?", "AKIAIOSFODNN7EXAMPLE")) + "\n")
    before = (folder / "rows.jsonl").read_bytes()
    assert not called("validate_dataset", dataset="holds").structured_content["ok"]
    result = called("validate_dataset", dataset="holds", fix=True)
    fixed = result.structured_content
    assert (fixed["dataset"], fixed["ok"], fixed["rows"]) == ("holds-fixed", True, 7)
    assert "holds-fixed: 1 rows mended, 1 dropped" in result.content[0].text
    assert {(c["line"], c["action"], c["field"]) for c in fixed["changes"]} == {
        (7, "mended", "instruction"), (7, "mended", "output"), (8, "dropped", "output")
    }  # fmt: skip
    assert (folder / "rows.jsonl").read_bytes() == before
    assert called("validate_dataset", dataset="holds", fix=True).structured_content["dataset"] == "holds-fixed"
    called("add_examples", dataset="more", rows=good[:1])
    assert called("validate_dataset", path=str(folder / "rows.jsonl"), fix=True).is_error


@pytest.mark.slow
def test_the_command_writes_the_report_as_data_text_page_and_picture(with_bases: Workspace, tmp_path: Path) -> None:
    path = rows_file(tmp_path, row(), row("Why? " * 100, "Because."), {"messages": TURNS})
    command = [sys.executable, "-P", "-m", "server.cli", "validate", str(path), "--report", str(tmp_path / "out")]
    command += ["--base", "tiny", "--max-length", "64"]
    done = subprocess.run([*command, "--json"], capture_output=True, text=True, timeout=120)
    assert done.returncode == 0, done.stderr
    report = json.loads(done.stdout)
    assert report["tokens"]["untrained_lines"] == [2] and report == read_json(tmp_path / "out" / "report.json")
    page = (tmp_path / "out" / "report.html").read_text()
    assert page.count("<mark>") == 3 and "no trained token" in page and page.rstrip().endswith("</html>")
    assert "# Validation of rows.jsonl" in (tmp_path / "out" / "report.md").read_text()
    assert picture_size((tmp_path / "out" / "report.png").read_bytes()) == (1200, 800)
    said = subprocess.run(command, capture_output=True, text=True, timeout=120).stdout
    assert "⟦A reservation that lapses.<|im_end|>⟧" in said and "warning: 1 rows have no trained token" in said
