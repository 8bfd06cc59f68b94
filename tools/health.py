"""Whether what lies in a workspace is whole, and how to mend what is not; what `looptune doctor` looks at last.

    for look in looks(workspace): print(look())       # findings; a look that itself fails is a finding too

Files are read, nothing is changed, no weights are loaded. Sizes and headers of models are looked at, and the hashes of
those below 1 GB; `looptune verify MODEL` computes all of them.
"""

import json
import os
import socket
from collections.abc import Callable
from pathlib import Path
from typing import Any, Literal
from urllib.parse import urlsplit

from filelock import FileLock, Timeout
from pydantic import BaseModel, ValidationError

from tools.errors import LooptuneError
from tools.files import read_json, sha256
from tools.jobs import record
from tools.workspace import Workspace

HTTP_PORT = 8765  # where `looptune serve --http` listens unless told otherwise
_HASHED = 1e9  # bytes of a file that is hashed
_MAGIC = b"GGUF"


class Finding(BaseModel):
    """One thing that was looked at. `mend` says what to do about it, when something is to be done."""

    name: str
    status: Literal["ok", "warning", "missing"]
    value: str
    mend: str = ""


def ok(name: str, value: str) -> Finding:
    return Finding(name=name, status="ok", value=value)


def looks(workspace: Workspace) -> list[Callable[[], list[Finding]]]:
    """Each look at the workspace; call it for its findings."""
    return [
        lambda: folder(workspace),
        lambda: datasets(workspace),
        lambda: jobs(workspace),
        lambda: models(workspace),
        lambda: memory(workspace),
        lambda: rules(workspace),
        lambda: locks(workspace),
        ports,
    ]


def folder(workspace: Workspace) -> list[Finding]:
    """The workspace as a folder that can be written into."""
    home = workspace.home
    existing = next(path for path in (home, *home.parents) if path.exists())
    if not existing.is_dir():
        mend = "move that file away, or set LOOPTUNE_HOME to a folder"
        return [Finding(name="workspace", status="missing", value=f"{existing} is a file, not a folder", mend=mend)]
    if not os.access(existing, os.W_OK | os.X_OK):
        mend = f"`chmod u+rwx {existing}`, or set LOOPTUNE_HOME to a folder of yours"
        return [Finding(name="workspace", status="missing", value=f"{existing} cannot be written into", mend=mend)]
    parts = (
        (workspace.datasets, "dataset.json"),
        (workspace.runs, "state.json"),
        (workspace.models, "manifest.json"),
    )
    counts = ", ".join(f"{len(workspace.names(path, marker))} {path.name}" for path, marker in parts)
    found = [ok("workspace", f"{home}: {counts}")]
    for path, marker in parts:
        left = [p.name for p in path.iterdir() if p.is_dir() and not (p / marker).is_file()] if path.is_dir() else []
        if left:
            names = ", ".join(sorted(left)[:5])
            mend = f"when no looptune is at work: remove {names} from {path}"
            value = f"{len(left)} folders without {marker}, left by something that was killed: {names}"
            found.append(Finding(name=path.name, status="warning", value=value, mend=mend))
    return found


def datasets(workspace: Workspace) -> list[Finding]:
    """Manifests that can be read, and rows that are the ones that were validated."""
    from tools.data.datasets import read_manifest

    found = []
    for name in workspace.names(workspace.datasets, "dataset.json"):
        path = workspace.datasets / name
        again = f"call validate_dataset(dataset={name!r}) again"
        try:
            manifest = read_manifest(path)
        except (ValueError, ValidationError, OSError) as error:
            found.append(
                _damaged(f"dataset {name}", path / "dataset.json", error, "generate it again under a new name")
            )
            continue
        for part, expected in (
            ("rows", manifest.rows_sha256),
            ("train", manifest.train_sha256),
            ("valid", manifest.valid_sha256),
        ):
            file = path / f"{part}.jsonl"
            if not expected or (file.is_file() and sha256(file) == expected):
                continue
            value = f"{file.name} is not what was validated" if file.is_file() else f"{file.name} is gone"
            found.append(Finding(name=f"dataset {name}", status="warning", value=value, mend=again))
            break
    return found


def jobs(workspace: Workspace) -> list[Finding]:
    """Records that can be read, and workers that are gone."""
    found, counts = [], dict.fromkeys(("queued", "running", "stopping"), 0)
    for name in workspace.names(workspace.runs, "state.json"):
        path = workspace.runs / name
        try:
            read_json(path / "job.json")
            state = record.read(path)
        except (ValueError, ValidationError, OSError) as error:
            found.append(
                _damaged(f"run {name}", path, error, f"remove the folder {path}; what it made stays elsewhere")
            )
            continue
        if state.state in counts:
            counts[state.state] += 1
        if state.died:
            mend = state.next_step or "start it again"
            found.append(Finding(name=f"run {name}", status="warning", value=state.reason, mend=mend))
        elif state.state == "queued" and "gone" in state.reason:
            mend = "`looptune runs` sets it going again"
            found.append(Finding(name=f"run {name}", status="warning", value=state.reason, mend=mend))
    busy = ", ".join(f"{count} {state}" for state, count in counts.items() if count)
    return [*found, ok("jobs", busy or "none is under way")]


def models(workspace: Workspace) -> list[Finding]:
    """Exported models whose files are there and whole, and the one that answers."""
    found: list[Finding] = []
    for name in workspace.names(workspace.models, "manifest.json"):
        path = workspace.models / name
        again = f"`looptune verify {name}` says what else is broken; quantize its run again under a new name"
        try:
            files = dict(read_json(path / "manifest.json")["files"])
            problem = next(filter(None, (_model_file(path / file, about) for file, about in files.items())), "")
        except (ValueError, KeyError, TypeError, OSError) as error:
            found.append(_damaged(f"model {name}", path / "manifest.json", error, again))
            continue
        if problem:
            found.append(Finding(name=f"model {name}", status="missing", value=problem, mend=again))
    chosen = workspace.models / "promoted.json"
    if not chosen.is_file():
        return [*found, ok("promoted model", "none yet")]
    try:
        name = str(read_json(chosen).get("model") or "")
    except (ValueError, OSError, AttributeError) as error:
        mend = f"remove {chosen}, then `looptune promote MODEL`"
        return [*found, _damaged("promoted model", chosen, error, mend)]
    if name and not (workspace.models / name / "manifest.json").is_file():
        mend = "`looptune rollback`, or `looptune promote MODEL`"
        return [*found, Finding(name="promoted model", status="missing", value=f"{name} is gone", mend=mend)]
    return [*found, ok("promoted model", name or "none yet")]


def _model_file(path: Path, about: dict[str, Any]) -> str:
    """What is wrong with a file of a model, or nothing."""
    if not path.is_file():
        return f"{path.name} is gone"
    if path.suffix == ".gguf":
        with path.open("rb") as stream:
            if stream.read(4) != _MAGIC:
                return f"{path.name} is no GGUF file any more: it does not begin with {_MAGIC.decode()}"
    expected = str(about.get("sha256", ""))
    if expected and path.stat().st_size < _HASHED and sha256(path) != expected:
        return f"{path.name} is damaged: its hash is not the one that was written down when it was made"
    return ""


def memory(workspace: Workspace) -> list[Finding]:
    """The memory's model, its ledger, and whether a question is answered."""
    from tools.memory.embedder import model_folder, slower_because
    from tools.memory.store import MemoryStore

    url = workspace.settings.memory_url
    if workspace.memory.is_file():
        mend = f"move {workspace.memory} away"
        return [Finding(name="memory store", status="missing", value=f"{workspace.memory} is a file", mend=mend)]
    try:
        model_folder()
        store = MemoryStore(workspace)
        info = store.describe()
        if info.count or url:
            store.query("Is the memory well?", limit=1)
        slow = slower_because() if info.count or url else ""  # an empty memory is not made to load its model
    except LooptuneError as error:
        return [Finding(name="memory store", status="missing", value=error.message, mend=error.next_step)]
    place = f" at {urlsplit(url).netloc}" if url else ""
    waits = f", {info.waiting} not yet in Chroma, which is no harm" if info.waiting else ""
    value = f"{info.count} entries, {info.embedding_model}, {info.dimensions} dimensions{place}{waits}"
    found = [ok("memory store", value)]
    if slow:
        mend = "pip install --force-reinstall --no-deps -c constraints.txt onnxruntime; the memory works meanwhile"
        value = f"sentence-transformers embeds, since onnxruntime cannot: {slow}"
        found.append(Finding(name="memory model", status="warning", value=value, mend=mend))
    return found


def rules(workspace: Workspace) -> list[Finding]:
    """The user's own rules: a file that can be read, and rules that count."""
    from tools.policy.rules import read_rules, rules_file

    path = rules_file(workspace)
    if not path.is_file():
        return []
    try:
        book = read_rules(workspace)
    except LooptuneError as error:
        return [Finding(name="rules", status="missing", value=error.message, mend=error.next_step)]
    found = [
        Finding(name=f"rule {one.rule}", status="warning", value=one.problem, mend=one.next_step)
        for one in book.conflicts
    ]
    return [*found, ok("rules", f"{len(book.own)} of your own in {path}, {len(book.shipped)} ship")]


def locks(workspace: Workspace) -> list[Finding]:
    """Locks that a living process holds. A file alone is no lock: the system lets go of one when its holder ends."""
    found = []
    for path in sorted(workspace.home.glob(".*.lock")) if workspace.home.is_dir() else ():
        if path.name in (".worker.lock", ".keeper.lock"):  # held as long as a job is at work
            continue
        try:
            with FileLock(path, timeout=0):
                pass
        except Timeout:
            holder = _holder(path)
            value = f"{path.name} is held{f' by process {holder}' if holder else ''}"
            mend = f"wait for it; when it hangs, end it (`kill {holder or 'PID'}`): the lock goes with it"
            found.append(Finding(name="lock", status="warning", value=value, mend=mend))
        except OSError as error:
            mend = f"remove {path} when no looptune is at work"
            found.append(Finding(name="lock", status="warning", value=f"{path.name}: {error.strerror}", mend=mend))
    lease = workspace.home / "loop" / "lease.json"
    if lease.is_file():
        try:
            read_json(lease)
        except (ValueError, OSError) as error:
            found.append(_damaged("loop lease", lease, error, f"remove {lease} when no loop runs"))
    return found


def _holder(path: Path) -> int:
    """The process that has `path` open, when the system tells."""
    import psutil

    for process in psutil.process_iter(["pid"]):
        try:
            if process.pid != os.getpid() and any(Path(file.path) == path for file in process.open_files()):
                return int(process.pid)
        except (psutil.Error, OSError):
            continue
    return 0


def ports() -> list[Finding]:
    """The port of the HTTP server; taken is no failure, since it may be ours."""
    with socket.socket() as probe:
        probe.setsockopt(socket.SOL_SOCKET, socket.SO_REUSEADDR, 1)
        try:
            probe.bind(("127.0.0.1", HTTP_PORT))
        except OSError as error:
            mend = "if that is no looptune: `looptune serve --http --port 0` takes a free one"
            value = f"127.0.0.1:{HTTP_PORT}: {error.strerror}"
            return [Finding(name="http port", status="warning", value=value, mend=mend)]
    return [ok("http port", f"127.0.0.1:{HTTP_PORT} is free")]


def _damaged(name: str, path: Path, error: Exception, mend: str) -> Finding:
    said = f"line {error.lineno}: {error.msg}" if isinstance(error, json.JSONDecodeError) else str(error).split("\n")[0]
    return Finding(name=name, status="missing", value=f"{path} cannot be read: {said[:160]}", mend=mend)
