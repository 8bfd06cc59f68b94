"""JSON values out of a file, one after the other, whatever the file is like.

    for line, value in json_values(path):     # JSONL, or one JSON list; lines from 1
        ...                                   # value: what JSON says, or a RowError

A broken line is a RowError and the next line goes on; a file that is no such file at all is an InputError. Nothing is
held but the current row, so a file may be larger than memory. A list is read piece by piece as well; its rows count
as lines. Strict where trainers differ: no key twice in an object, no NaN, no number beyond a float.
"""

import codecs
import json
from collections.abc import Collection, Iterator
from pathlib import Path
from typing import Any, BinaryIO

from pydantic import BaseModel

from tools.errors import InputError

MAX_LINE_BYTES = 4_000_000
MAX_DEPTH = 64
_HOPELESS = 100  # when so many lines stand first and none is JSON, the file is something else
_PIECE = 1 << 20
_HALF = "holds half of a character (a lone surrogate, such as \\ud83d)"
_FOREIGN = {
    b"\x1f\x8b": ("gzip", "unpack it first (gunzip)"),
    b"PK\x03\x04": ("a zip archive", "unpack it first"),
    b"\x28\xb5\x2f\xfd": ("zstd", "unpack it first (unzstd)"),
    b"BZh": ("bzip2", "unpack it first (bunzip2)"),
    b"PAR1": ("Parquet", "convert it to JSONL first"),
    b"\xff\xfe": ("UTF-16", "save the file as UTF-8"),
    b"\xfe\xff": ("UTF-16", "save the file as UTF-8"),
}


class RowError(BaseModel):
    """What is wrong with one line of a file (lines from 1)."""

    line: int
    field: str
    code: str
    message: str


class _RefusedError(ValueError):
    """JSON that parses, and that no two readers would understand alike."""


def _object(pairs: list[tuple[str, Any]]) -> dict[str, Any]:
    value = dict(pairs)
    if len(value) < len(pairs):
        keys = [key for key, _ in pairs]
        raise _RefusedError(f"the key {next(k for k in keys if keys.count(k) > 1)!r} stands twice in one object")
    return value


def _float(digits: str) -> float:
    value = float(digits)
    if value in (float("inf"), float("-inf")):
        raise _RefusedError(f"the number {digits[:40]} is out of range")
    return value


def _constant(name: str) -> Any:
    raise _RefusedError(f"{name} is no JSON number")


_decoder = json.JSONDecoder(object_pairs_hook=_object, parse_float=_float, parse_constant=_constant)


def json_values(path: Path, only: Collection[int] | None = None) -> Iterator[tuple[int, Any]]:
    """Each line of a JSONL file (each row of a JSON list) with what it holds; with `only`, just those lines.

    Raises:
        InputError: not a regular file, empty, packed or not text, no JSON in the first 100 lines, a line longer than
            4 MB, or a list that is broken.
    """
    if only is not None and not only:
        return
    if not path.is_file():
        raise InputError(f"Expected a JSON or JSONL file, {path.name!r} is none.", "give the path of a data file")
    with path.open("rb") as stream:
        begin = stream.read(4096)
        for magic, (what, step) in _FOREIGN.items():
            if begin.startswith(magic):
                raise InputError(f"{path.name} is not UTF-8 text: it begins like {what}.", step)
        stream.seek(0)
        begin = begin.removeprefix(codecs.BOM_UTF8).lstrip()
        found = False
        for line, value in _list(stream, path) if begin.startswith(b"[") else _lines(stream, path, only):
            found = True
            if only is None or line in only:
                yield line, value
        if not found and only is None:
            raise InputError(f"{path.name} is empty: expected one JSON row a line, got none.", "add rows to it")


def _lines(stream: BinaryIO, path: Path, only: Collection[int] | None) -> Iterator[tuple[int, Any]]:
    number = broken = 0
    while raw := stream.readline(MAX_LINE_BYTES + 1):
        number += 1
        if len(raw) > MAX_LINE_BYTES:
            raise InputError(
                f"Line {number} of {path.name} is longer than {MAX_LINE_BYTES // 1_000_000} MB.",
                "split the file into one row a line",
            )
        if number == 1:
            raw = raw.removeprefix(codecs.BOM_UTF8)
        if (only is not None and number not in only) or not raw.strip():
            continue
        value = _value(raw, number)
        if broken == number - 1 and isinstance(value, RowError):
            broken = number
            if number == 1 and raw.strip() == b"{":
                raise InputError(
                    f"Expected one row a line or a list of rows; {path.name} is one object over several lines.",
                    "put the rows into a list, or write one row a line",
                )
            if broken == _HOPELESS:
                raise InputError(
                    f"None of the first {_HOPELESS} lines of {path.name} is JSON; line {number}: {value.message}.",
                    "write one JSON object a line",
                )
        yield number, value


def _value(raw: bytes, line: int) -> Any:
    """What one line holds, or what is wrong with it."""
    try:
        value = _decoder.decode(raw.decode("utf-8"))
    except UnicodeDecodeError as error:
        message = f"not UTF-8 at byte {error.start + 1} of the line; save the file as UTF-8"
        return RowError(line=line, field="", code="encoding", message=message)
    except _RefusedError as error:
        return RowError(line=line, field="", code="json", message=str(error))
    except RecursionError:
        return _deep(line)
    except ValueError as error:
        cut = "" if raw.endswith(b"\n") else " (the last line; is it cut off?)"
        message = "holds a NUL byte" if b"\x00" in raw else f"not valid JSON: {error}{cut}"
        return RowError(line=line, field="", code="json", message=message)
    if raw.count(b"[") + raw.count(b"{") > MAX_DEPTH and _is_deep(value):
        return _deep(line)
    if b"\\ud" in raw.lower() and _has_half_a_character(value):
        return RowError(line=line, field="", code="encoding", message=_HALF)
    return value


def _has_half_a_character(value: Any) -> bool:
    try:
        json.dumps(value, ensure_ascii=False).encode()
    except UnicodeEncodeError:
        return True
    return False


def _deep(line: int) -> RowError:
    return RowError(line=line, field="", code="json", message=f"nested more than {MAX_DEPTH} levels deep")


def _is_deep(value: Any) -> bool:
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


def _list(stream: BinaryIO, path: Path) -> Iterator[tuple[int, Any]]:
    """The rows of one JSON list, in pieces of a megabyte."""
    decoder = codecs.getincrementaldecoder("utf-8-sig")()
    text, place, number, ended = "", 0, 0, False

    def wrong(reason: str) -> InputError:
        return InputError(
            f"{path.name} is not valid JSON at row {number + 1} of its list: {reason}.",
            "mend it, or write one row a line",
        )

    def more() -> None:
        nonlocal text, place, ended
        piece = stream.read(_PIECE)
        ended = not piece
        try:
            text, place = text[place:] + decoder.decode(piece, final=ended), 0
        except UnicodeDecodeError as error:
            raise wrong("it is not UTF-8") from error

    def sign() -> str:
        """The next character that is no white space; '' at the end."""
        nonlocal place
        while True:
            while place < len(text) and text[place] in " \t\r\n":
                place += 1
            if place < len(text) or ended:
                return text[place : place + 1]
            more()

    sign()
    place += 1  # the bracket that made this a list
    while True:
        if sign() == "]":
            if number:
                raise wrong("a comma before the closing bracket")
            place += 1
            break
        while True:
            try:
                value, end = _decoder.raw_decode(text, place)
                if end < len(text) or ended:
                    break
            except _RefusedError as error:
                raise wrong(str(error)) from error
            except RecursionError as error:
                raise wrong(f"nested more than {MAX_DEPTH} levels deep") from error
            except ValueError as error:
                if ended:
                    raise wrong(str(error)) from error
            if len(text) - place > MAX_LINE_BYTES:
                raise wrong(f"no row ends within {MAX_LINE_BYTES // 1_000_000} MB")
            more()
        if "\\ud" in text[place:end].lower() and _has_half_a_character(value):
            raise wrong(_HALF)
        number += 1
        yield number, _deep(number) if _is_deep(value) else value
        place = end
        after = sign()
        place += 1
        if after == "]":
            break
        if after != ",":
            raise wrong(f"expected a comma or a closing bracket after it, got {after!r}" if after else "it is cut off")
    if sign():
        raise wrong("there is more after the list")
