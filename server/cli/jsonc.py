"""One member of a JSON file set or taken out, and every other byte of it left as it was, comments among them.

    set_member(text, ["mcpServers", "looptune"], {"command": …})
    drop_member(text, ["mcpServers", "looptune"])

Hosts' configs are written by people: with comments, trailing commas, their own order and indentation (JSONC). So the
text is edited, not written anew; what comes out is parsed again and compared with what it has to say.
"""

import json
import re
from dataclasses import dataclass
from json import JSONDecoder
from typing import Any

from tools.errors import InputError

_UNUSED = re.compile(r'"(?:\\.|[^"\\])*"|//[^\n\r]*|/\*.*?\*/', re.DOTALL)
_TRAILING = re.compile(r'"(?:\\.|[^"\\])*"|,(?=\s*[}\]])', re.DOTALL)
_MEND = "mend it by hand, or use `looptune print-config` and paste"


@dataclass(frozen=True)
class _Member:
    key: str
    begin: int
    value: int
    end: int


def parse(text: str) -> dict[str, Any]:
    """The object that JSON with comments and trailing commas stands for; an empty text is an empty object.

    Raises:
        InputError: it is not such an object.
    """
    return _parse(_plain(text)) if text.strip("\ufeff \t\r\n") else {}


def set_member(text: str, path: list[str], value: dict[str, Any]) -> str:
    """`text` with `value` at `path`; objects on the way are made.

    Raises:
        InputError: `text` is no JSON object, or something on the way is none.
    """
    if not text.strip("\ufeff \t\r\n"):
        return json.dumps(_nested(path, value), indent=2, ensure_ascii=False) + "\n"
    expected = parse(text)
    at: Any = expected
    for key in path[:-1]:
        at = at.setdefault(key, {})
        if not isinstance(at, dict):
            raise InputError(f"Expected an object at {key!r}, got {type(at).__name__}.", _MEND)
    at[path[-1]] = value
    return _checked(_set(text, path, value), expected)


def drop_member(text: str, path: list[str]) -> str:
    """`text` without what stands at `path`; as it is when nothing does. Raises InputError (see `set_member`)."""
    expected = parse(text)
    at: Any = expected
    for key in path[:-1]:
        at = at.get(key) if isinstance(at, dict) else None
    if not isinstance(at, dict) or path[-1] not in at:
        return text
    del at[path[-1]]
    plain = _plain(text)
    members, close = _members(plain, _object(plain, path[:-1])[0])
    place = max(i for i, member in enumerate(members) if member.key == path[-1])
    start, end = len(text[: members[place].begin].rstrip()), members[place].end
    if place + 1 < len(members):
        rest = text[plain.index(",", end) + 1 :]
        return _checked(text[:start] + rest, expected)
    trailing = re.match(r"\s*,", text[end:close])
    end += trailing.end() if trailing else 0
    comma = plain.index(",", members[place - 1].end) if place else start
    return _checked(text[:comma] + text[comma + bool(place) : start] + text[end:], expected)


def _plain(text: str) -> str:
    """`text` as JSON of the same length: comments, trailing commas and the byte-order mark become blanks."""

    def blank(match: "re.Match[str]") -> str:
        found = match.group()
        return found if found.startswith('"') else re.sub(r"[^\n\r]", " ", found)

    text = _UNUSED.sub(blank, text.replace("\ufeff", " ", 1) if text.startswith("\ufeff") else text)
    return _TRAILING.sub(blank, text)


def _parse(plain: str) -> dict[str, Any]:
    try:
        value = json.loads(plain)
    except ValueError as error:
        raise InputError(f"Expected JSON: {error}.", _MEND) from error
    if not isinstance(value, dict):
        raise InputError(f"Expected a JSON object, got {type(value).__name__}.", _MEND)
    return value


def _nested(path: list[str], value: dict[str, Any]) -> dict[str, Any]:
    for key in reversed(path):
        value = {key: value}
    return value


def _skip(text: str, at: int) -> int:
    while text[at] in " \t\r\n":
        at += 1
    return at


def _members(plain: str, at: int) -> tuple[list[_Member], int]:
    """The members of the object that opens at `at`, and where it closes."""
    found = []
    at = _skip(plain, at + 1)
    while plain[at] != "}":
        key, end = JSONDecoder().raw_decode(plain, at)
        value = _skip(plain, _skip(plain, end) + 1)
        _, after = JSONDecoder().raw_decode(plain, value)
        found.append(_Member(key, at, value, after))
        at = _skip(plain, after)
        if plain[at] == ",":
            at = _skip(plain, at + 1)
    return found, at


def _object(plain: str, path: list[str]) -> tuple[int, list[str]]:
    """Where the innermost object on `path` that exists opens, and the keys that are missing below it."""
    at = plain.index("{")
    for depth, key in enumerate(path):
        inner = [member for member in _members(plain, at)[0] if member.key == key]
        if not inner:
            return at, path[depth:]
        at = inner[-1].value
    return at, []


def _set(text: str, path: list[str], value: dict[str, Any]) -> str:
    plain = _plain(text)
    at, missing = _object(plain, path[:-1])
    missing = [*missing, path[-1]]
    depth = len(path) - len(missing) + 1
    members, close = _members(plain, at)
    known = [member for member in members if member.key == missing[0]]
    break_ = "\r\n" if "\r\n" in text else "\n"
    unit = _indent(text)
    new = json.dumps(_nested(missing[1:], value), indent=unit, ensure_ascii=False).replace("\n", break_ + unit * depth)
    if known:
        return text[: known[-1].value] + new + text[known[-1].end :]
    end = members[-1].end if members else at + 1
    has_comma = not members or "," in re.sub(r"//[^\n\r]*|/\*.*?\*/", "", text[end:close], flags=re.DOTALL)
    last = max(end, len(text[:close].rstrip()))  # after a comment that follows the last member
    member = f"{break_}{unit * depth}{json.dumps(missing[0])}: {new}"
    tail = text[last:close] if "\n" in text[last:close] else break_ + unit * (depth - 1)
    return text[:end] + ("" if has_comma else ",") + text[end:last] + member + tail + text[close:]


def _indent(text: str) -> str:
    found = re.search(r'^([ \t]+)"', text, re.MULTILINE)
    return found[1] if found else "  "


def _checked(text: str, expected: dict[str, Any]) -> str:
    if parse(text) != expected:
        raise InputError("The file is written in a way that cannot be edited safely; nothing was changed.", _MEND)
    return text
