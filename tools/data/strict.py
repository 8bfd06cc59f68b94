"""JSON as all trainers read it alike: no key twice in an object, no NaN, no number beyond a float, no half characters.

decoder.raw_decode('{"a": 1, "a": 2}')    # RefusedError: the key 'a' stands twice in one object
"""

import json
import sys
from typing import Any

from pydantic import BaseModel

MAX_BYTES = 4_000_000  # of one row
MAX_DEPTH = 64
HOPELESS = 100  # when so many rows stand first and none is JSON, the file is something else
DEEP = f"nested more than {MAX_DEPTH} levels deep"
HALF = "holds half of a character (a lone surrogate, such as \\ud83d)"
TOO_MANY_DIGITS = f"holds a number of more than {sys.get_int_max_str_digits():,} digits"


class RowError(BaseModel):
    """What is wrong with one line of a file (lines from 1)."""

    line: int
    field: str
    code: str
    message: str


class RefusedError(ValueError):
    """JSON that parses, and that no two readers would understand alike."""


def _object(pairs: list[tuple[str, Any]]) -> dict[str, Any]:
    value = dict(pairs)
    if len(value) < len(pairs):
        seen: set[str] = set()
        for key, _ in pairs:
            if key in seen:
                raise RefusedError(f"the key {key[:80]!r} stands twice in one object")
            seen.add(key)
    return value


def _float(digits: str) -> float:
    value = float(digits)
    if value in (float("inf"), float("-inf")):
        raise RefusedError(f"the number {digits[:40]} is out of range")
    return value


def _constant(name: str) -> Any:
    raise RefusedError(f"{name} is no JSON number")


decoder = json.JSONDecoder(object_pairs_hook=_object, parse_float=_float, parse_constant=_constant)


def has_half_a_character(value: Any) -> bool:
    """Whether a text in `value` holds a surrogate without its other half."""
    try:
        json.dumps(value, ensure_ascii=False).encode()
    except UnicodeEncodeError:
        return True
    return False


def is_deep(value: Any) -> bool:
    """Whether `value` is nested more than `MAX_DEPTH` levels deep."""
    level = [value]
    for _ in range(MAX_DEPTH + 1):
        level = [
            inner
            for outer in level
            if isinstance(outer, dict | list)
            for inner in (outer.values() if isinstance(outer, dict) else outer)
        ]
        if not level:
            return False
    return True
