"""What a unified diff says: lines added to a project's documents, and one replacement made again and again.

    documents_of(diff)       # [('AGENTS.md', '', 'Never push to main directly.')]
    replaced_often(diff)     # [('DomainError', 'Error', 3)]

Code, comments, changelogs and texts for users are no documents of rules.
"""

import difflib
import re
from collections import Counter
from collections.abc import Iterator
from pathlib import PurePosixPath

from tools.learning.corrections import OFTEN

_HEADER = re.compile(r"^(?:diff --git |--- |\+\+\+ |@@ )", re.MULTILINE)
_DOCUMENTS = (".md", ".mdc", ".rst", ".txt", ".adoc")
_NAMES = (".cursorrules", ".windsurfrules", "copilot-instructions.md")
_HISTORY = ("changelog", "changes", "history", "news", "release")
_TERM = re.compile(
    r"^\s*(?:[-*+]\s+)?(?:\*\*|__|`)(?P<term>[^*_`]{1,60})(?:\*\*|__|`)\s*(?::|—|–|-|=)\s*(?P<meaning>.{8,})$"
)
_PIECE = re.compile(r"\w+|\s+|[^\w\s]")


def is_diff(text: str) -> bool:
    """Whether `text` is a unified diff."""
    return len(_HEADER.findall(text)) >= 2 and re.search(r"^@@ .*@@", text, re.MULTILINE) is not None


def documents_of(diff: str) -> Iterator[tuple[str, str, str]]:
    """(path, term, text) of each line added to a document; `term` is '' where the line defines none."""
    for path, sign, line in _lines(diff):
        if sign == "+" and _is_document(path):
            term = _TERM.match(line)
            yield (path, term["term"].strip(), term["meaning"].strip()) if term else (path, "", line)


def replaced_often(diff: str) -> list[tuple[str, str, int]]:
    """(new, old, times) of what replaced the same thing in at least three lines."""
    counts: Counter[tuple[str, str]] = Counter()
    removed: list[str] = []
    added: list[str] = []
    for _, sign, line in [*_lines(diff), ("", " ", "")]:
        if sign == "-":
            if added:
                removed, added = [], []
            removed.append(line)
        elif sign == "+":
            added.append(line)
            if len(removed) >= len(added) and (change := _change(removed[len(added) - 1], line)):
                counts[change] += 1
        else:
            removed, added = [], []
    return [(new, old, times) for (old, new), times in counts.items() if times >= OFTEN]


def _change(old: str, new: str) -> tuple[str, str] | None:
    """(old, new) when two lines differ in one place that is a name; a value that only changed is none."""
    before, after = _PIECE.findall(old), _PIECE.findall(new)
    changes = [c for c in difflib.SequenceMatcher(None, before, after, autojunk=False).get_opcodes() if c[0] != "equal"]
    if len(changes) != 1:
        return None
    kind, i, j, k, m = changes[0]
    was, now = "".join(before[i:j]).strip(), "".join(after[k:m]).strip()
    if kind != "replace" or not (was and now):
        was, now = _whole_word(old, "".join(before[:i])), _whole_word(new, "".join(after[:k]))
    named = re.search(r"[A-Za-z_]{2,}", was) and re.search(r"[A-Za-z_]{2,}", now)
    return (was, now) if named and was != now and max(len(was), len(now)) <= 80 else None


def _whole_word(line: str, before: str) -> str:
    """What stands between white space around the place after `before`."""
    start = len(before)
    while start > 0 and not line[start - 1].isspace():
        start -= 1
    return line[start:].split()[0] if line[start:].split() else ""


def _lines(diff: str) -> Iterator[tuple[str, str, str]]:
    """(path, sign, line) of every line in a hunk; a header or a new hunk comes as a line of context."""
    path = ""
    for line in diff.splitlines():
        if line.startswith("+++ "):
            path = re.sub(r"^b/", "", line[4:].split("\t")[0].strip())
        elif line.startswith(("diff --git ", "--- ", "@@ ", "index ")):
            yield path, " ", ""
        elif line[:1] in "+- ":
            yield path, line[:1] or " ", line[1:]


def _is_document(path: str) -> bool:
    name = PurePosixPath(path).name.casefold()
    return name.endswith((*_DOCUMENTS, *_NAMES)) and not name.startswith(_HISTORY)
