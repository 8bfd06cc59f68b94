"""Code inside text: fenced blocks, the language of each, and tree-sitter parsers for it.

    blocks("…```python\\nx = 1\\n```…")        # [Block(language='python', code='x = 1\\n')]
    parser("go").parse(b"package a").root_node  # a tree; None for a language that has no grammar here
    comments("x = 1  # why", "python")          # [(7, 12)]
    guess_language("def f(x):\\n    return x\\n")  # 'python'; '' for prose

Grammars: Python, TypeScript (which reads JavaScript as well), TSX, Go, Rust, SQL and shell.
"""

import re
import time
from collections.abc import Iterator
from dataclasses import dataclass, field
from functools import cache
from typing import Any

from tools.errors import LimitError

ALIASES = {
    "py": "python", "python3": "python", "pyi": "python", "ts": "typescript", "js": "typescript", "mts": "typescript",
    "javascript": "typescript", "mjs": "typescript", "cjs": "typescript", "jsx": "tsx", "golang": "go", "rs": "rust",
    "sh": "shell", "bash": "shell", "zsh": "shell", "yml": "yaml",
    "sqlite": "sql", "mysql": "sql", "mariadb": "sql", "postgres": "sql", "postgresql": "sql", "pgsql": "sql",
    "plpgsql": "sql", "md": "markdown", "prose": "markdown", "text": "markdown", "txt": "markdown",
    "plain": "markdown", "plaintext": "markdown",
}  # fmt: skip
SECONDS = 10
GRAMMARS = ("python", "typescript", "tsx", "go", "rust", "sql", "shell")

_FENCE = re.compile(r"^(?P<indent>[ \t]*)(?P<fence>`{3,}|~{3,})[ \t]*(?P<info>[^\n`]*)$", re.MULTILINE)
_COMMENTS = ("comment", "line_comment", "block_comment", "html_comment", "hash_bang_line", "shebang", "marginalia")
# What a text has to hold to be taken for code that nobody named: prose parses as an expression in most grammars.
_MARKS = {
    "python": re.compile(r"^\s*(?:(?:async\s+)?def|class)\s+\w+.*:|^\s*(?:from\s+[\w.]+\s+)?import\s+\w|^\w+ = ", re.M),
    "go": re.compile(r"^package \w+|^func\s|^type \w+ (?:struct|interface)\b|:= ", re.M),
    "rust": re.compile(r"\bfn \w+|\blet (?:mut )?\w+|^use [\w:]+|\bimpl\b", re.M),
    "typescript": re.compile(r"\b(?:const|let|var|function|class|interface|type|import|export)\s+[\w{*]|=>", re.M),
    "sql": re.compile(r"^\s*(?:select|insert|update|delete|create|alter|drop|with|grant|revoke)\b", re.M | re.I),
    "shell": re.compile(r"\A#!.*\b(?:ba|z|da)?sh\b"),
}  # fmt: skip


@dataclass(frozen=True)
class Block:
    """A fenced block; `language` is '' when the fence names none. The code stands at `start` to `end` of the text."""

    language: str
    code: str
    start: int = field(default=0, compare=False)
    end: int = field(default=0, compare=False)


def known_language(name: str) -> str:
    """The name that `name` goes by here: 'py' → 'python', 'TS' → 'typescript'."""
    word = name.strip().casefold()
    return ALIASES.get(word, word)


def blocks(text: str) -> list[Block]:
    """The fenced code blocks of Markdown `text` (CommonMark's fences); an unclosed one reaches to the end."""
    found, place = [], 0
    while opened := _FENCE.search(text, place):
        fence, indent = opened["fence"], len(opened["indent"])
        closing = re.compile(rf"^[ \t]*{re.escape(fence[0])}{{{len(fence)},}}[ \t\r]*$", re.MULTILINE)
        closed = closing.search(text, opened.end())
        start = min(opened.end() + 1, len(text))
        end = closed.start() if closed else len(text)
        inner = text[start:end]
        lines = [line[indent:] if not line[:indent].strip() else line for line in inner.splitlines(keepends=True)]
        word = opened["info"].strip().split(" ")[0]
        found.append(Block(known_language(word), "".join(lines), start, end))
        if closed is None:
            break
        place = closed.end()
    return found


def parser(language: str) -> Any:
    """A tree-sitter parser of one's own (one serves one thread), or None for a language that is not parsed."""
    import tree_sitter

    grammar = _grammar(language)
    return None if grammar is None else tree_sitter.Parser(grammar)


@cache
def _grammar(language: str) -> Any:
    import tree_sitter

    match language:
        case "python":
            import tree_sitter_python

            pointer = tree_sitter_python.language()
        case "typescript" | "tsx":
            import tree_sitter_typescript as both

            pointer = both.language_tsx() if language == "tsx" else both.language_typescript()
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
    return tree_sitter.Language(pointer)


def parse(code: str, language: str) -> Any:
    """The root of the tree of `code`; its places are bytes of `code.encode(errors="surrogatepass")`.

    Raises:
        LimitError: error recovery in what is no such code takes longer than `SECONDS`.
    """
    data = code.encode(errors="surrogatepass")
    reader, began = parser(language), time.monotonic()
    try:
        return reader.parse(
            lambda place, _: data[place : place + 65_536],
            progress_callback=lambda *_: time.monotonic() - began > SECONDS,
        ).root_node
    except ValueError as error:
        raise LimitError(
            f"{len(code)} characters that are hardly {language} could not be read in {SECONDS} s.",
            "name the language that the text is in",
        ) from error


def first_error(root: Any) -> str:
    """Where the tree has its first error; '' when it has none."""
    if not root.has_error:
        return ""
    node = root
    while child := next((c for c in node.children if c.has_error or c.is_error or c.is_missing), None):
        node = child
    row, column = node.start_point
    shown = (node.text or b"").decode(errors="replace")[:40]
    return f"does not parse at line {row + 1}, column {column + 1}: {shown!r}"


def is_comment(node: Any) -> bool:
    """Whether a node is a comment, which no parser reads as code."""
    return node.type in _COMMENTS


def walk(root: Any) -> Iterator[Any]:
    """Every node under `root`, in the order of the text, however deep."""
    left = [root]
    while left:
        node = left.pop()
        yield node
        left.extend(reversed(node.children))


def comments(code: str, language: str) -> list[tuple[int, int]] | None:
    """Where the comments of `code` stand, in characters; None for a language that is not parsed."""
    if language not in GRAMMARS:
        return None
    places = [(node.start_byte, node.end_byte) for node in walk(parse(code, language)) if is_comment(node)]
    if code.isascii():
        return places
    data = code.encode(errors="surrogatepass")
    return [(len(data[:a].decode(errors="replace")), len(data[:b].decode(errors="replace"))) for a, b in places]


def guess_language(text: str) -> str:
    """The language that `text` as a whole is written in, when it surely is one; '' for prose and for Markdown."""
    if not text.strip() or _FENCE.search(text):
        return ""
    for language, marks in _MARKS.items():
        if marks.search(text) and not parse(text, language).has_error:
            return language
    return ""
