"""Tool use inside an answer: `<tool:NAME attribute='value'>body</tool>`, written and read by one grammar.

    find_calls("<tool:memory.query query='money'></tool>")
    # [Call(name='memory.query', arguments={'query': 'money'}, body='', start=0)]

Attribute values stand in single quotes; inside one, `&apos;`, `&lt;`, `&amp;` and `&#10;` stand for `'`, `<`, `&` and
a line break. The memory operations map one to one onto this server's own tools (`SERVER_TOOLS`).
"""

import re
from dataclasses import dataclass, field
from html import unescape

from tools.errors import InputError

# What an answer may call: the attributes that it must and may have, and whether a body stands between the tags.
TOOLS: dict[str, tuple[frozenset[str], frozenset[str], bool]] = {
    "fs.read": (frozenset({"path"}), frozenset(), False),
    "fs.write": (frozenset({"path"}), frozenset(), True),
    "run": (frozenset(), frozenset({"timeout"}), True),
    "git.commit": (frozenset({"message"}), frozenset(), False),
    "memory.query": (frozenset({"query"}), frozenset({"kind", "limit"}), False),
    "memory.remember": (frozenset({"kind"}), frozenset({"tags", "source"}), True),
    "policy.check": (frozenset({"original", "modified"}), frozenset({"level", "language"}), False),
}
SERVER_TOOLS = {
    "memory.query": "query_memory",
    "memory.remember": "remember",
    "policy.check": "check_preservation",
}
_OPEN = re.compile(r"<tool:([a-z_.]+)((?:\s+[a-z_]+='[^']*')*)\s*>")
_ANY = re.compile(r"</?tool\b[^>\n]*>?")
_ATTRIBUTE = re.compile(r"([a-z_]+)='([^']*)'")
_CLOSE = "</tool>"


@dataclass(frozen=True)
class Call:
    """One call in an answer; `start` is its place in the text."""

    name: str
    arguments: dict[str, str] = field(default_factory=dict)
    body: str = ""
    start: int = 0


def find_calls(text: str) -> list[Call]:
    """Every call in `text`, in order.

    Raises:
        InputError: a tag is not well-formed, does not close, names an unknown tool, or has the wrong attributes.
    """
    calls: list[Call] = []
    place = 0
    while tag := _ANY.search(text, place):
        opened = _OPEN.match(text, tag.start())
        if opened is None:
            raise _wrong(tag.group(0), "expected <tool:NAME attribute='value'>")
        end = text.find(_CLOSE, opened.end())
        if end < 0:
            raise _wrong(opened.group(0), "it is never closed by </tool>")
        body = text[opened.end() : end]
        name, arguments = opened.group(1), {k: unescape(v) for k, v in _ATTRIBUTE.findall(opened.group(2))}
        _check(opened.group(0), name, arguments, body)
        calls.append(Call(name, arguments, body.strip("\n"), opened.start()))
        place = end + len(_CLOSE)
    return calls


def _check(tag: str, name: str, arguments: dict[str, str], body: str) -> None:
    if name not in TOOLS:
        raise _wrong(tag, f"the tools are {', '.join(TOOLS)}")
    required, optional, has_body = TOOLS[name]
    if missing := required - arguments.keys():
        raise _wrong(tag, f"it lacks {', '.join(sorted(missing))}")
    if unknown := arguments.keys() - required - optional:
        raise _wrong(tag, f"{name} has no {', '.join(sorted(unknown))}")
    if has_body != bool(body.strip()):
        raise _wrong(tag, f"{name} takes {'a' if has_body else 'no'} body")


def _wrong(tag: str, reason: str) -> InputError:
    return InputError(f"The tool markup {tag[:120]!r} is wrong: {reason}.", "write it like <tool:run>pytest -q</tool>")
