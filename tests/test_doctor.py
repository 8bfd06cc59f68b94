"""`looptune doctor`: things are broken on purpose, and each has to be named with how to mend it.

.venv/bin/python -P -m pytest tests/test_doctor.py
"""

import os
import socket
import threading
from importlib.metadata import PackageNotFoundError, version
from pathlib import Path

import pytest
from filelock import FileLock
from test_cli import looptune, value

from tools import doctor, health
from tools.files import read_json, write_json
from tools.health import Finding
from tools.jobs import record
from tools.settings import Settings
from tools.workspace import Workspace


def named(found: list[Finding], name: str) -> Finding:
    return next(finding for finding in found if finding.name == name)


@pytest.mark.slow
def test_a_workspace_in_which_everything_is_broken_is_explained_in_one_go(
    exported: Workspace, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    from tools.data.generate import generate

    (exported.bases).unlink()  # a link to what all tests share
    (exported.bases / "mine").mkdir(parents=True)
    (exported.bases / "mine" / "config.json").write_text('{"model_type": "llama"')
    generate(exported, cards=["definition/forty-two"], count=20, name="torn")
    (exported.datasets / "torn" / "dataset.json").write_text('{"name": "torn", "rows":')
    (exported.datasets / "holds" / "train.jsonl").write_text("changed\n")
    (exported.datasets / "half").mkdir()
    (exported.runs / "quant-holds-0001" / "state.json").write_text("nonsense")
    gguf = exported.models / "holds" / "q4_k_m.gguf"
    data = bytearray(gguf.read_bytes())
    data[len(data) // 2] ^= 1
    gguf.write_bytes(data)
    write_json(exported.models / "promoted.json", {"model": "gone", "log": []})
    exported.memory.mkdir()
    (exported.memory / "entries.sqlite3").write_bytes(b"garbage" * 1000)
    hidden = tmp_path / "hidden"
    hidden.mkdir()
    (hidden / "sitecustomize.py").write_text(
        "import importlib.util as u\nfound = u.find_spec\n"
        "u.find_spec = lambda name, package=None: None if 'openblas' in name else found(name, package)\n"
    )
    monkeypatch.setenv("PYTHONPATH", str(hidden))
    monkeypatch.setenv("LOOPTUNE_MIN_FREE_GB", "1000000")
    monkeypatch.setenv("LOOPTUNE_ALOW_DOWNLOADS", "1")
    said = {(f["name"], f["status"]): f"{f['value']} | {f['mend']}" for f in value("doctor", status=1)}

    def says(name: str, status: str, *words: str) -> None:
        assert all(word in said[name, status] for word in words), said

    says("base mine", "missing", "damaged", "remove")
    says("dataset torn", "missing", "cannot be read", "generate it again")
    says("dataset holds", "warning", "train.jsonl is not what was validated", "validate_dataset(dataset='holds')")
    says("datasets", "warning", "half", "remove")
    says("run quant-holds-0001", "missing", "cannot be read", "remove the folder")
    says("model holds", "missing", "q4_k_m.gguf is damaged", "looptune verify holds")
    says("promoted model", "missing", "gone", "looptune rollback")
    says("disk", "missing", "have to stay free", "LOOPTUNE_MIN_FREE_GB")
    says("settings", "warning", "LOOPTUNE_ALOW_DOWNLOADS is no setting", "LOOPTUNE_ALLOW_DOWNLOADS")
    says("memory store", "missing", "entries.sqlite3", "move")
    says("blas", "warning", "reference", "scipy-openblas32")
    assert ("python", "ok") in said and ("mcp", "ok") in said, "what is broken does not hide the rest"
    assert not [text for (name, _), text in said.items() if name == "doctor"], "no look failed itself"


def test_a_broken_memory_and_an_unreachable_server_are_explained(
    workspace: Workspace, monkeypatch: pytest.MonkeyPatch
) -> None:
    from tools.memory.store import MemoryStore

    MemoryStore(workspace).remember("Amounts are whole cents.", kind="rule")
    assert named(health.memory(workspace), "memory store").status == "ok"
    in_its_place = Workspace.open(Settings(home=workspace.home / "other"))
    in_its_place.home.mkdir()
    in_its_place.memory.write_text("a file in the place of the store")
    assert "is a file" in named(health.memory(in_its_place), "memory store").value
    with socket.socket() as free:
        free.bind(("127.0.0.1", 0))
        url = f"http://127.0.0.1:{free.getsockname()[1]}"
    monkeypatch.setenv("LOOPTUNE_MEMORY_URL", url)
    gone = named(health.memory(Workspace.open(Settings())), "memory store")
    assert gone.status == "missing" and gone.mend


def test_a_model_of_the_memory_that_is_not_there_is_explained(
    workspace: Workspace, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr("importlib.util.find_spec", lambda name, package=None: None)
    found = named(health.memory(workspace), "memory store")
    assert found.status == "missing" and "pip install" in found.mend


def test_a_missing_and_an_old_package_are_named_with_the_command_that_brings_them(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    def pretended(name: str) -> str:
        if name == "rensa":
            raise PackageNotFoundError(name)
        return "2.1.0" if name == "mcp" else version(name)

    monkeypatch.setattr(doctor, "version", pretended)
    found = doctor._packages()
    assert named(found, "rensa").status == "missing" and "pip install -c" in named(found, "rensa").mend
    assert "2.1.0 is installed" in named(found, "mcp").value and named(found, "mcp").status == "missing"
    assert named(found, "chromadb").status == "ok"


def test_a_library_that_cannot_be_loaded_is_named(monkeypatch: pytest.MonkeyPatch) -> None:
    def broken(name: str) -> object:
        if name == "llama_cpp":
            raise OSError("libgomp.so.1: cannot open shared object file")
        return object()

    monkeypatch.setattr(doctor, "import_module", broken)
    found = named(doctor._compiled(), "llama-cpp-python")
    assert "libgomp" in found.value and "--force-reinstall" in found.mend


def test_a_workspace_that_is_no_folder_or_cannot_be_written_is_explained(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    (tmp_path / "file").write_text("")
    at_file = health.folder(Workspace.open(Settings(home=tmp_path / "file")))[0]
    assert at_file.status == "missing" and "LOOPTUNE_HOME" in at_file.mend
    monkeypatch.setattr(os, "access", lambda path, mode: False)  # root may write anywhere
    assert "cannot be written" in health.folder(Workspace.open(Settings(home=tmp_path)))[0].value


def test_a_lock_that_another_holds_is_named_with_its_process_and_a_left_file_is_none(workspace: Workspace) -> None:
    workspace.home.mkdir(parents=True)
    (workspace.home / ".bases.lock").touch()  # left by a process that was killed: nobody holds it
    held, done = threading.Event(), threading.Event()

    def hold() -> None:
        with FileLock(workspace.home / ".runs.lock", thread_local=False):
            held.set()
            done.wait(20)

    holder = threading.Thread(target=hold)
    holder.start()
    held.wait(20)
    found = health.locks(workspace)
    done.set()
    holder.join()
    assert [finding.value.split()[0] for finding in found] == [".runs.lock"] and "wait for it" in found[0].mend
    assert health.locks(workspace) == []


def test_a_port_in_use_is_named_with_the_way_round_it(monkeypatch: pytest.MonkeyPatch) -> None:
    with socket.socket() as taken:
        taken.bind(("127.0.0.1", 0))
        taken.listen()
        monkeypatch.setattr(health, "HTTP_PORT", taken.getsockname()[1])
        (found,) = health.ports()
    assert found.status == "warning" and "--port 0" in found.mend


def test_a_run_whose_worker_died_is_named_with_how_to_go_on(workspace: Workspace) -> None:
    job, _ = record.create(workspace, "train", "holds", {"dataset": "holds", "base": "tiny"})
    job.save(state="running")
    write_json(job.folder / "pid.json", {"pid": 2**22 - 1, "created": 0.0})
    found = named(health.jobs(workspace), f"run {job.id}")
    assert "killed" in found.value and f"resume={job.id!r}" in found.mend
    assert read_json(job.folder / "state.json")["state"] == "failed"


@pytest.mark.slow
def test_a_setting_that_is_no_number_is_said_in_one_line(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("LOOPTUNE_MIN_FREE_GB", "plenty")
    for command in ("doctor", "runs", "serve"):
        said = looptune(command, status=2).stderr
        assert "LOOPTUNE_MIN_FREE_GB" in said and "plenty" in said and "Traceback" not in said
