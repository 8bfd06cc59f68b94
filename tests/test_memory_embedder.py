"""The two ways to embed: onnxruntime gives sentence-transformers' vectors, and says so where it cannot run.

.venv/bin/python -P -m pytest tests/test_memory_embedder.py
"""

import logging
import os
import subprocess
import sys
import time
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import pytest

from tools import health
from tools.memory import embedder
from tools.memory.store import MemoryStore
from tools.workspace import Workspace

TEXTS = [
    "x",
    "Amounts of money are kept as whole cents.",
    " ".join(f"Shelf {number} holds {number * 3} boxes, and none of them is open." for number in range(200)),
    "在这个项目中，四十二是规则与自由之间和谐的象征。",
    "金額は整数のセントで保存します。",
    "🙂🚀 ship it 🎉 – naïve café, größer",
    "def total(lines):\n    return sum(line.cents for line in lines)  # never a float\n",
    "\u200b \u00a0 ",
]


@pytest.fixture(scope="module")
def plain() -> Callable[[list[str]], Any]:
    embedder.be_offline()
    return embedder.plain_encoder(embedder.model_folder())


@pytest.fixture
def fresh(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Iterator[Path]:
    """As in a process that has not embedded yet, in an environment without the ONNX file; where that will be."""
    file = tmp_path / "share" / "model.onnx"
    monkeypatch.setattr(embedder, "onnx_file", lambda: file)
    embedder._load.cache_clear()
    yield file
    embedder._load.cache_clear()


def test_onnxruntime_gives_the_vectors_of_sentence_transformers(plain: Callable[[list[str]], Any]) -> None:
    assert len(TEXTS[2].split()) >= 2000
    assert embedder.slower_because() == ""
    onnx = embedder.onnx_encoder(embedder.model_folder())
    cosines = (onnx(TEXTS) * plain(TEXTS)).sum(1)
    assert cosines.min() >= 0.999, dict(zip(cosines.tolist(), TEXTS, strict=True))


@pytest.fixture
def failing(monkeypatch: pytest.MonkeyPatch, plain: Callable[[list[str]], Any]) -> list[Any]:
    """Exports that fail; the list has each that was tried."""
    tried: list[Any] = []

    def fails(command: list[str], **options: Any) -> None:
        tried.append(command)
        raise subprocess.CalledProcessError(1, command, stderr="Traceback\nValueError: no such operator")

    monkeypatch.setattr(embedder.subprocess, "run", fails)
    monkeypatch.setattr(embedder, "plain_encoder", lambda folder: plain)
    return tried


def test_where_the_export_fails_the_slower_way_embeds_and_it_is_not_tried_again_for_a_day(
    fresh: Path, failing: list[Any], workspace: Workspace, caplog: pytest.LogCaptureFixture
) -> None:
    with caplog.at_level(logging.WARNING):
        (vector,) = embedder.embed(["Amounts are whole cents."])
    assert len(vector) == 384 and len(failing) == 1
    assert "slower" in caplog.text and "no such operator" in caplog.text
    assert "no such operator" in embedder.slower_because()
    embedder._load.cache_clear()  # another process
    embedder.embed(["x"])
    note = fresh.with_suffix(".failed")
    assert len(failing) == 1 and str(note) in embedder.slower_because()

    MemoryStore(workspace).remember("Amounts are whole cents.")
    said = {found.name: found for found in health.memory(workspace)}
    assert said["memory store"].status == "ok" and said["memory model"].status == "warning"
    assert "no such operator" in said["memory model"].value and said["memory model"].mend

    long_ago = time.time() - 90_000
    os.utime(note, (long_ago, long_ago))
    embedder._load.cache_clear()
    embedder.embed(["x"])
    assert len(failing) == 2


def test_a_damaged_onnx_file_is_removed_and_the_slower_way_embeds_meanwhile(fresh: Path, failing: list[Any]) -> None:
    fresh.parent.mkdir()
    fresh.write_bytes(b"garbage" * 100)
    assert len(embedder.embed(["x"])[0]) == 384
    assert str(fresh) in embedder.slower_because() and not fresh.exists() and not failing


def test_what_embeds_reports_to_nobody(tmp_path: Path) -> None:
    """onnxruntime would keep a device id and a queue of events in the home folder."""
    told = "from tools.memory.embedder import embed; print(len(embed(['a rule'])[0]))"
    done = subprocess.run(
        [sys.executable, "-P", "-c", told], env={**os.environ, "HOME": str(tmp_path)}, capture_output=True, text=True
    )
    assert done.stdout == "384\n", done.stderr
    assert [path for path in tmp_path.rglob("*") if "Microsoft" in path.parts] == []
