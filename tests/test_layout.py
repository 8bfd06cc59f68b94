"""The import rules of the house, and what a server start must not load."""

import ast
import subprocess
import sys
from pathlib import Path

import pytest

ROOT = Path(__file__).resolve().parent.parent
# From the ground up: a room may import rooms that stand before it, and itself.
ROOMS = [
    "policy", "data", "models", "jobs", "inference", "training", "evaluation", "export", "memory", "learning", "sprint",
]  # fmt: skip


def imports(path: Path) -> set[str]:
    """Every module that a file imports, wherever in the file."""
    found: set[str] = set()
    for node in ast.walk(ast.parse(path.read_text(encoding="utf-8"))):
        if isinstance(node, ast.Import):
            found |= {alias.name for alias in node.names}
        elif isinstance(node, ast.ImportFrom) and node.module:
            found.add(node.module)
    return found


@pytest.mark.parametrize("path", sorted((ROOT / "tools").rglob("*.py")), ids=lambda p: str(p.relative_to(ROOT)))
def test_tools_import_neither_the_server_nor_mcp(path: Path) -> None:
    assert not [name for name in imports(path) if name.split(".")[0] in ("server", "mcp")]


@pytest.mark.parametrize("room", ROOMS)
def test_a_room_imports_only_rooms_below_it(room: str) -> None:
    allowed = {f"tools.{name}" for name in ROOMS[: ROOMS.index(room) + 1]}
    for path in (ROOT / "tools" / room).rglob("*.py"):
        rooms = {".".join(name.split(".")[:2]) for name in imports(path) if name.startswith("tools.")}
        above = {name for name in rooms if name.removeprefix("tools.") in ROOMS} - allowed
        assert not above, f"{path.relative_to(ROOT)} imports {above}"


def test_a_server_start_loads_nothing_heavy() -> None:
    heavy = ("mlx", "torch", "transformers", "chromadb", "sentence_transformers", "llama_cpp", "sklearn", "numpy")
    code = f"""
import sys
from server.app import build_server
build_server()
print([name for name in {heavy} if name in sys.modules])
"""
    done = subprocess.run([sys.executable, "-P", "-c", code], capture_output=True, text=True, check=True)
    assert done.stdout.strip() == "[]"


def test_every_module_says_what_it_is_for() -> None:
    for folder in ("server", "tools", "benchmarks"):
        for path in (ROOT / folder).rglob("*.py"):
            text = path.read_text(encoding="utf-8")
            assert not text or ast.get_docstring(ast.parse(text)), f"{path.relative_to(ROOT)} has no docstring"
