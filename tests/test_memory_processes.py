"""The memory under kill -9, with several processes at once, and with files that are broken. Real processes throughout.

.venv/bin/python -P -m pytest tests/test_memory_processes.py
"""

import os
import random
import signal
import subprocess
import sys
import time
from pathlib import Path

import pytest

from tools.errors import InputError, MissingError
from tools.memory import embedder
from tools.memory.index import index_of
from tools.memory.store import MemoryStore
from tools.memory.transfer import reindex
from tools.settings import Settings
from tools.workspace import Workspace

WRITER = """
import sys
from tools.memory.store import MemoryStore
from tools.workspace import Workspace
memory = MemoryStore(Workspace.open())
for number in range(int(sys.argv[2]), 10_000):
    kept = memory.remember(f"Writer {sys.argv[1]} put pallet {number} into aisle {number % 17}.")
    print(kept.entry.id, flush=True)
"""
ASKER = """
import sys, time
from tools.memory.store import MemoryStore
from tools.workspace import Workspace
memory = MemoryStore(Workspace.open())
memory.query("warm")
print("ready", flush=True)
for line in sys.stdin:
    began = time.monotonic()
    found = [hit.text for hit in memory.query(line.strip(), limit=3)]
    print(time.monotonic() - began, line.strip() in found, flush=True)
"""


@pytest.fixture(params=["in the workspace", "on a server"])
def workspace(tmp_path: Path, request: pytest.FixtureRequest) -> Workspace:
    url = request.getfixturevalue("chroma_server") if request.param == "on a server" else ""
    return Workspace.open(Settings(home=tmp_path, memory_url=url))


def started(code: str, workspace: Workspace, *words: str) -> "subprocess.Popen[str]":
    return subprocess.Popen(
        [sys.executable, "-P", "-c", code, *words],
        stdin=subprocess.PIPE,
        stdout=subprocess.PIPE,
        text=True,
        env={
            **os.environ,
            "LOOPTUNE_HOME": str(workspace.home),
            "LOOPTUNE_MEMORY_URL": workspace.settings.memory_url,
        },
    )


def test_what_was_acknowledged_survives_kill_9(workspace: Workspace) -> None:
    acknowledged: list[str] = []
    dice = random.Random(9)
    for _ in range(4):
        writer = started(WRITER, workspace, "A", str(len(acknowledged)))
        assert writer.stdout is not None
        for _ in range(dice.randint(5, 40)):
            acknowledged.append(writer.stdout.readline().strip())
        writer.send_signal(signal.SIGKILL)
        writer.wait()
    memory = MemoryStore(workspace)
    assert [entry.id for entry in memory.get_all(acknowledged)] == list(dict.fromkeys(acknowledged))
    for entry in memory.get_all(dice.sample(acknowledged, 10)):
        assert memory.query(entry.text)[0].id == entry.id


def test_two_writers_killed_at_once_corrupt_nothing(workspace: Workspace) -> None:
    writers = [started(WRITER, workspace, name, "0") for name in "AB"]
    acknowledged = []
    for writer in writers:
        assert writer.stdout is not None
        acknowledged += [writer.stdout.readline().strip() for _ in range(30)]
    for writer in writers:
        writer.send_signal(signal.SIGKILL)
        writer.wait()
    memory = MemoryStore(workspace)
    assert len(memory.get_all(acknowledged)) == 60
    assert memory.remember("The store still takes new entries.").new
    assert memory.query("Does the store take new entries?")[0].text == "The store still takes new entries."


def test_another_process_sees_what_was_written_within_a_second(workspace: Workspace) -> None:
    memory = MemoryStore(workspace)
    memory.remember("A first entry, so that there is a store.")
    asker = started(ASKER, workspace)
    assert asker.stdin is not None and asker.stdout is not None
    assert asker.stdout.readline() == "ready\n"

    def sees(text: str) -> bool:
        assert asker.stdin is not None and asker.stdout is not None
        asker.stdin.write(text + "\n")
        asker.stdin.flush()
        return asker.stdout.readline().split()[1] == "True"

    for number in range(8):
        kept = memory.remember(f"Forklift {number} stands at gate {number * 3}.").entry
        written = time.monotonic()
        while not sees(kept.text):
            assert time.monotonic() - written < 1.0
        if number % 2:
            memory.forget([kept.id])
            forgotten = time.monotonic()
            while sees(kept.text):
                assert time.monotonic() - forgotten < 1.0
    asker.stdin.close()
    assert asker.wait(timeout=20) == 0


def test_two_machines_share_what_is_on_a_server(chroma_server: str, tmp_path: Path) -> None:
    here, there = (
        MemoryStore(Workspace.open(Settings(home=tmp_path / name, memory_url=chroma_server))) for name in "ab"
    )
    kept = here.remember("The north door is the only way into the archive.", kind="rule", tags=["business:doors"]).entry
    assert there.get(kept.id) == kept
    changed = there.change(kept.id, status="trained", runs=["run-1"])
    seen = time.monotonic()
    while here.get(kept.id) != changed:
        assert time.monotonic() - seen < 1.0
    here.forget([kept.id])
    gone = time.monotonic()
    while there.describe().count:
        assert time.monotonic() - gone < 1.0
    assert there.query("Where is the way into the archive?") == []


@pytest.mark.parametrize("damage", ["no database", "garbage", "half a database", "half a graph", "no graph"])
def test_a_broken_index_is_made_again_and_nothing_is_lost(tmp_path: Path, damage: str) -> None:
    workspace = Workspace.open(Settings(home=tmp_path))
    memory = MemoryStore(workspace)
    texts = [f"Shelf {number} holds {number * 3} boxes." for number in range(12)]
    for text in texts:
        memory.remember(text)
    if "graph" in damage:
        with_graph(memory)
    index_of(workspace).close()
    database = tmp_path / "memory" / "chroma.sqlite3"
    graphs = sorted((tmp_path / "memory").glob("*/data_level0.bin"))
    if damage == "no database":
        database.unlink()
    elif damage == "garbage":
        database.write_bytes(b"garbage" * 1000)
    elif damage == "half a database":
        database.write_bytes(database.read_bytes()[: database.stat().st_size // 2])
    else:
        assert graphs
        for graph in graphs:
            graph.unlink() if damage == "no graph" else graph.write_bytes(graph.read_bytes()[:1000])
    asked = started(ASKER, workspace)  # a process that never had the index open
    answer, _ = asked.communicate("\n".join(texts), timeout=200)
    assert [line.split()[1] for line in answer.splitlines()[1:]] == ["True"] * len(texts)
    assert memory.query(texts[3])[0].text == texts[3]
    assert memory.remember("one more").new and memory.describe().waiting == 0
    assert memory.query(texts[5])[0].text == texts[5]


def with_graph(memory: MemoryStore) -> None:
    """Enough entries that Chroma saves its graph."""
    from tools.memory import ledger
    from tools.memory.entries import new_entry

    entries = [new_entry(f"Pallet {number} is in aisle {number % 17}.") for number in range(1100)]
    with memory._open() as (db, index):
        vector = embedder.embed(["Pallets are in aisles."])[0]
        with ledger.transaction(db):
            ledger.put(db, entries, [vector] * len(entries))
        index.catch_up(db, everything=True)


def test_a_broken_ledger_is_said_and_comes_back_from_the_index(tmp_path: Path) -> None:
    workspace = Workspace.open(Settings(home=tmp_path))
    memory = MemoryStore(workspace)
    kept = memory.remember("The compass points to the harbour.", kind="definition", tags=["definition:compass"]).entry
    ledger = tmp_path / "memory" / "entries.sqlite3"
    ledger.write_bytes(b"garbage" * 1000)
    for left in tmp_path.glob("memory/entries.sqlite3-*"):
        left.unlink()
    for call in (memory.describe, memory.entries, lambda: memory.query("x"), lambda: memory.remember("new")):
        with pytest.raises(InputError, match=r"entries\.sqlite3") as caught:
            call()
        assert "move" in caught.value.next_step
    ledger.rename(tmp_path / "broken")
    assert memory.get(kept.id) == kept
    assert memory.query("harbour")[0].id == kept.id


def test_a_file_in_the_place_of_the_store_is_a_broken_store(tmp_path: Path) -> None:
    (tmp_path / "memory").write_text("not a folder")
    with pytest.raises(InputError, match="broken"):
        MemoryStore(Workspace.open(Settings(home=tmp_path))).remember("x")


def test_vectors_of_another_model_are_refused_until_they_are_made_anew(
    workspace: Workspace, monkeypatch: pytest.MonkeyPatch
) -> None:
    memory = MemoryStore(workspace)
    monkeypatch.setattr(embedder, "MODEL", "another-model")
    kept = memory.remember("Amounts are whole cents.").entry
    monkeypatch.undo()
    index_of(workspace).close()  # as a new process would find it
    for call in (lambda: memory.query("money"), lambda: memory.remember("x"), memory.describe):
        with pytest.raises(InputError, match="made with another-model") as caught:
            call()
        assert "looptune memory reindex" in caught.value.next_step
    assert reindex(workspace) == 1
    assert memory.query("money")[0].id == kept.id


def test_a_server_that_does_not_answer_is_said(tmp_path: Path) -> None:
    memory = MemoryStore(Workspace.open(Settings(home=tmp_path, memory_url="http://127.0.0.1:9")))
    with pytest.raises(MissingError, match=r"127\.0\.0\.1:9") as caught:
        memory.query("anything")
    assert "chroma run" in caught.value.next_step
    wrong = MemoryStore(Workspace.open(Settings(home=tmp_path, memory_url="ftp://example")))
    with pytest.raises(InputError, match="LOOPTUNE_MEMORY_URL"):
        wrong.query("anything")
