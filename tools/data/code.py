"""Code inside answers: fenced blocks, whether they parse, and what they do.

    blocks("…```python\\nx = 1\\n```…")       # [Block(language='python', code='x = 1\\n')]
    code_errors(text)                         # what does not compile or parse, block by block
    run_after(text, "assert x == 1")          # '' when the answer's Python and the check run

Python is compiled, JSON and YAML are loaded, and TypeScript, Go, Rust, SQL and shell are parsed with tree-sitter. What
is executed runs in a process of its own, isolated from the installed packages' user site, for ten seconds at most.
"""

import ast
import json
import re
import subprocess
import sys
import tempfile
import warnings
from dataclasses import dataclass
from functools import cache
from typing import Any

import yaml

_FENCE = re.compile(r"^(?P<indent>[ \t]*)(?P<fence>`{3,}|~{3,})[ \t]*(?P<info>[^\n`]*)$", re.MULTILINE)
_ALIASES = {
    "py": "python", "python3": "python", "ts": "typescript", "tsx": "tsx", "golang": "go", "rs": "rust",
    "sh": "shell", "bash": "shell", "zsh": "shell", "yml": "yaml",
}  # fmt: skip
SECONDS = 10


@dataclass(frozen=True)
class Block:
    """A fenced block; `language` is '' when the fence names none."""

    language: str
    code: str


def blocks(text: str) -> list[Block]:
    """The fenced code blocks of Markdown `text` (CommonMark's fences); an unclosed one reaches to the end."""
    found, place = [], 0
    while opened := _FENCE.search(text, place):
        fence, indent = opened["fence"], len(opened["indent"])
        closing = re.compile(rf"^[ \t]*{re.escape(fence[0])}{{{len(fence)},}}[ \t]*$", re.MULTILINE)
        closed = closing.search(text, opened.end())
        inner = text[opened.end() + 1 : closed.start() if closed else len(text)]
        lines = [line[indent:] if not line[:indent].strip() else line for line in inner.splitlines(keepends=True)]
        word = opened["info"].strip().split(" ")[0].casefold()
        found.append(Block(_ALIASES.get(word, word), "".join(lines)))
        if closed is None:
            break
        place = closed.end()
    return found


def code_errors(text: str) -> list[str]:
    """What is broken in the code blocks of `text`."""
    if text.count("```") % 2:
        return ["a code fence is not closed"]
    return [f"{block.language}: {problem}" for block in blocks(text) if (problem := _problem(block))]


def _problem(block: Block) -> str:
    try:
        if block.language == "python":
            with warnings.catch_warnings():
                warnings.simplefilter("ignore", SyntaxWarning)
                ast.parse(block.code)
        elif block.language == "json":
            json.loads(block.code)
        elif block.language == "yaml":
            list(yaml.safe_load_all(block.code))
        elif parser := _parser(block.language):
            return _first_error(parser.parse(block.code.encode()).root_node)
    except (SyntaxError, ValueError, RecursionError, MemoryError, yaml.YAMLError) as error:
        return f"{type(error).__name__}: {' '.join(str(error).split())[:200]}"
    return ""


@cache
def _parser(language: str) -> Any:
    """A tree-sitter parser, or None for a language that is not parsed."""
    import tree_sitter

    match language:
        case "typescript" | "tsx":
            import tree_sitter_typescript as grammar

            pointer = grammar.language_tsx() if language == "tsx" else grammar.language_typescript()
        case "go":
            import tree_sitter_go

            pointer = tree_sitter_go.language()
        case "rust":
            import tree_sitter_rust

            pointer = tree_sitter_rust.language()
        case "sql":
            import tree_sitter_sql

            pointer = tree_sitter_sql.language()
        case "shell":
            import tree_sitter_bash

            pointer = tree_sitter_bash.language()
        case _:
            return None
    return tree_sitter.Parser(tree_sitter.Language(pointer))


def _first_error(root: Any) -> str:
    """Where the tree has its first error; '' when it has none."""
    if not root.has_error:
        return ""
    node = root
    while child := next((c for c in node.children if c.has_error or c.is_error or c.is_missing), None):
        node = child
    row, column = node.start_point
    shown = (node.text or b"").decode(errors="replace")[:40]
    return f"does not parse at line {row + 1}, column {column + 1}: {shown!r}"


def run_after(text: str, check: str) -> str:
    """Run the Python blocks of `text` and then `check`; what went wrong, or ''."""
    program = "\n\n".join([*(block.code for block in blocks(text) if block.language == "python"), check])
    with tempfile.TemporaryDirectory() as folder:
        try:
            done = subprocess.run(
                [sys.executable, "-I", "-c", program],
                capture_output=True,
                text=True,
                timeout=SECONDS,
                cwd=folder,
                stdin=subprocess.DEVNULL,
            )
        except subprocess.TimeoutExpired:
            return f"it ran longer than {SECONDS} s"
    return "" if done.returncode == 0 else (done.stderr.strip().splitlines() or [f"exit {done.returncode}"])[-1]
