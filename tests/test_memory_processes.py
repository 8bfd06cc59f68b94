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
from typing import Any

import anyio
import pytest
from mcp import Client, StdioServerParameters

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
    # by meaning alone: its words would be found in the ledger, however stale Chroma is
    found = [hit.text for hit in memory.search(line.strip(), limit=3, ways="meaning").hits]
    print(time.monotonic() - began, line.strip() in found, flush=True)
"""
# Each line says how many entries to put, all at once; their vectors are random, since embedding them is not the point.
CROWDING = """
import sys
import numpy as np
from tools.memory import ledger
from tools.memory.entries import new_entry
from tools.memory.store import MemoryStore
from tools.workspace import Workspace
name, dice = sys.argv[1], np.random.default_rng(ord(sys.argv[1]))
memory = MemoryStore(Workspace.open())
made = 0
for line in sys.stdin:
    vectors = dice.normal(size=(int(line), 384)).astype(np.float32)
    vectors /= np.linalg.norm(vectors, axis=1, keepdims=True)
    entries = [new_entry(f"Crate {name}{made + n} is stored.") for n in range(len(vectors))]
    with memory._open() as (db, index):
        with ledger.transaction(db):
            ledger.put(db, entries, vectors)
        index.catch_up(db)
        near = [index.nearest(db, vector.tolist(), 1) for vector in vectors[:3]]
    made += len(vectors)
    print([found[0][0] for found in near] == [entry.id for entry in entries[:3]], flush=True)
"""
# Makes ledger after ledger, each at the moment at which its neighbour does.
MAKER = """
import sys, time
from pathlib import Path
from tools.memory import ledger
print("ready", flush=True)
begin = float(sys.stdin.readline())
for number in range(300):
    while time.monotonic() < begin + number * 0.005:
        pass
    with ledger.ledger(Path(sys.argv[1]) / f"{number}.sqlite3") as db:
        assert ledger.empty(db)
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


def check_index(memory: MemoryStore) -> int:
    """Each entry of the ledger is in Chroma or waits for it, nothing else is, and each is found by its own vector, as
    a process that opens the store now sees it. Returns how many are in Chroma."""
    import numpy as np

    index_of(memory._workspace).close()
    with memory._open() as (db, index):
        waiting = {row[0] for row in db.execute("SELECT id FROM entries WHERE waiting = 1")}
        dropped = {row[0] for row in db.execute("SELECT id FROM dropped")}
        rows = db.execute("SELECT id, vector FROM entries").fetchall()
        with index._held(db):
            there = set(index._ready(db).get(include=[])["ids"])
        assert (there - dropped) | waiting == {id for id, _ in rows}
        for id, vector in rows[:: max(1, len(rows) // 50)]:
            if id not in waiting:
                assert index.nearest(db, np.frombuffer(vector, np.float32).tolist(), 1)[0][0] == id
    return len(there)


@pytest.mark.slow
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
        assert memory.search(entry.text, ways="meaning").hits[0].id == entry.id
    assert check_index(memory) > 0


@pytest.mark.slow
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
    assert check_index(memory) > 0
    assert memory.remember("The store still takes new entries.").new
    assert memory.search("Does it accept something new?", ways="meaning").hits[0].text == (
        "The store still takes new entries."
    )
    assert check_index(memory) > 0


def test_two_that_make_a_store_at_once_both_get_it(tmp_path: Path) -> None:
    workspace = Workspace.open(Settings(home=tmp_path))
    makers = [started(MAKER, workspace, str(tmp_path / "made")) for _ in "AB"]
    for maker in makers:
        assert maker.stdout is not None and maker.stdout.readline() == "ready\n"
    begin = time.monotonic() + 0.1
    for maker in makers:
        assert maker.stdin is not None
        maker.stdin.write(f"{begin}\n")
        maker.stdin.close()
    assert [maker.wait(timeout=120) for maker in makers] == [0, 0]


@pytest.mark.slow
def test_two_writers_whose_turns_change_keep_each_others_graph(tmp_path: Path) -> None:
    """So many that Chroma saves its graph (each thousand), and so many at once that each has to open it again."""
    workspace = Workspace.open(Settings(home=tmp_path))
    writers = [started(CROWDING, workspace, name) for name in "AB"]
    for _ in range(4):
        for writer in writers:
            assert writer.stdin is not None and writer.stdout is not None
            writer.stdin.write("300\n")
            writer.stdin.flush()
            assert writer.stdout.readline() == "True\n"
    for writer in writers:
        assert writer.stdin is not None
        writer.stdin.close()
        assert writer.wait(timeout=120) == 0
    memory = MemoryStore(workspace)
    assert memory.count() == 2400 and check_index(memory) >= 2400 - 120
    assert list((tmp_path / "memory").glob("*/data_level0.bin"))


@pytest.mark.slow
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
        assert memory.describe().waiting == 0  # so what the other sees comes from Chroma, which it has to open again
        while not sees(kept.text):
            assert time.monotonic() - written < 1.0
        if number % 2:
            memory.forget([kept.id])
            forgotten = time.monotonic()
            while sees(kept.text):
                assert time.monotonic() - forgotten < 1.0
    asker.stdin.close()
    assert asker.wait(timeout=20) == 0


SAID = [  # each with a question that shares no word with it, so that only its meaning finds it
    ("Forklifts are parked beside gate nine.", "lift trucks stay overnight where?"),
    ("Invoices leave the building on paper.", "sending out bills"),
    ("The canteen closes at three.", "end of the lunch break"),
    ("Visitors wear a yellow badge.", "recognising guests"),
]


@pytest.mark.slow
def test_two_servers_and_the_command_line_on_one_store_see_each_others_changes_within_a_second(
    workspace: Workspace,
) -> None:
    env = {"LOOPTUNE_HOME": str(workspace.home), "LOOPTUNE_MEMORY_URL": workspace.settings.memory_url}
    server = StdioServerParameters(command=sys.executable, args=["-P", "-m", "server"], env=env)

    async def call(client: Client, tool: str, **arguments: Any) -> dict[str, Any]:
        result = await client.call_tool(tool, arguments)
        assert not result.is_error, result.content
        return dict(result.structured_content or {})

    async def sees(client: Client, id: str, question: str) -> bool:
        hits = (await call(client, "query_memory", query=question, limit=10))["hits"]
        assert not [hit["words"] for hit in hits if hit["id"] == id and hit["words"]]
        return id in [hit["id"] for hit in hits]

    async def soon(client: Client, id: str, question: str, there: bool) -> None:
        changed = time.monotonic()
        while await sees(client, id, question) is not there:
            assert time.monotonic() - changed < 1.0, (question, there)

    async def run() -> None:
        async with Client(server) as one, Client(server) as other:
            for client in (one, other):
                await call(client, "query_memory", query="warm")
            kept = []
            for number, (text, question) in enumerate(SAID):
                writer, reader = (one, other) if number % 2 else (other, one)
                kept.append(((await call(writer, "remember", text=text))["id"], question))
                await soon(reader, *kept[-1], there=True)
            for id, question in kept[:2]:
                words = [sys.executable, "-P", "-m", "server.cli", "memory", "forget", id, "--yes"]
                await anyio.run_process(words, env={**os.environ, **env})
                for client in (one, other):
                    await soon(client, id, question, there=False)
            for id, question in kept[2:]:
                for client in (one, other):
                    assert await sees(client, id, question)

    anyio.run(run)
    assert check_index(MemoryStore(workspace)) == 2


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


@pytest.mark.slow
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
    index_of(workspace).close()  # as a new process would find it
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


MADE_WITH = {"another model": ("another-model", 384), "fewer dimensions": (embedder.MODEL, 128)}


def made_with(monkeypatch: pytest.MonkeyPatch, model: str, dimensions: int) -> None:
    """Let looptune keep what one of another time would have: the first `dimensions` numbers of a vector."""
    from tools.memory import store

    vector = embedder.embed(["Amounts are whole cents."])[0][:dimensions]
    monkeypatch.setattr(embedder, "MODEL", model)
    monkeypatch.setattr(embedder, "DIMENSIONS", dimensions)
    monkeypatch.setattr(store, "embed", lambda texts: [vector for _ in texts])


@pytest.mark.parametrize("made", MADE_WITH)
@pytest.mark.parametrize("lost", ["nothing", "the ledger"])
def test_vectors_of_another_model_or_dimension_are_refused_until_they_are_made_anew(
    workspace: Workspace, monkeypatch: pytest.MonkeyPatch, made: str, lost: str
) -> None:
    model, dimensions = MADE_WITH[made]
    memory = MemoryStore(workspace)
    with monkeypatch.context() as patch:
        made_with(patch, model, dimensions)
        kept = memory.remember("Amounts are whole cents.", tags=["business:money_in_cents"]).entry
    index = index_of(workspace)
    index.close()  # as a new process would find it
    if lost == "the ledger":
        for path in index.ledger.parent.glob(f"{index.ledger.name}*"):
            path.unlink()
    refused_until_reindexed(workspace, f"made with {model} .{dimensions} dimensions.")
    assert memory.get(kept.id) == kept
    assert memory.search("prices", ways="meaning").hits[0].id == kept.id and check_index(memory) == 1


@pytest.mark.parametrize("made", MADE_WITH)
def test_a_server_made_with_another_model_is_refused_from_another_home(
    chroma_server: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, made: str
) -> None:
    model, dimensions = MADE_WITH[made]
    here, there = (Workspace.open(Settings(home=tmp_path / name, memory_url=chroma_server)) for name in "ab")
    with monkeypatch.context() as patch:
        made_with(patch, model, dimensions)
        kept = MemoryStore(here).remember("Amounts are whole cents.").entry
    index_of(here).close()
    refused_until_reindexed(there, f"made with {model} .{dimensions} dimensions.")
    assert MemoryStore(there).search("prices", ways="meaning").hits[0].id == kept.id
    refused_until_reindexed(here, f"made with {model} .{dimensions} dimensions.")
    assert MemoryStore(here).get(kept.id) == MemoryStore(there).get(kept.id) == kept


def refused_until_reindexed(workspace: Workspace, said: str) -> None:
    memory = MemoryStore(workspace)
    for call in (lambda: memory.query("money"), lambda: memory.remember("x"), memory.describe, memory.entries):
        with pytest.raises(InputError, match=said) as caught:
            call()
        assert "looptune memory reindex" in caught.value.next_step
    assert reindex(workspace) == 1


def test_a_server_that_does_not_answer_is_said(tmp_path: Path) -> None:
    memory = MemoryStore(Workspace.open(Settings(home=tmp_path, memory_url="http://127.0.0.1:9")))
    with pytest.raises(MissingError, match=r"127\.0\.0\.1:9") as caught:
        memory.query("anything")
    assert "chroma run" in caught.value.next_step
    wrong = MemoryStore(Workspace.open(Settings(home=tmp_path, memory_url="ftp://example")))
    with pytest.raises(InputError, match="LOOPTUNE_MEMORY_URL"):
        wrong.query("anything")
