"""JSON values out of a file, one after the other, whatever the file is like.

    for line, value in json_values(path):     # JSONL, or one JSON list; lines from 1
        ...                                   # value: what JSON says, or a RowError

A broken line is a RowError and the next line goes on; a file that is no such file at all is an InputError. Nothing is
held but the current row, so a file may be larger than memory. A list is read piece by piece as well (`lists`); its rows
count as lines. JSON is taken strictly where trainers differ (`strict`).
"""

import codecs
from collections.abc import Collection, Iterator
from json import JSONDecodeError
from pathlib import Path
from typing import Any, BinaryIO

from tools.data.lists import list_values
from tools.data.strict import (
    DEEP,
    HALF,
    HOPELESS,
    MAX_BYTES,
    MAX_DEPTH,
    TOO_MANY_DIGITS,
    RefusedError,
    decoder,
    has_half_a_character,
    is_deep,
)
from tools.data.strict import RowError as RowError
from tools.errors import InputError

_FOREIGN = {
    b"\x1f\x8b": ("gzip", "unpack it first (gunzip)"),
    b"PK\x03\x04": ("a zip archive", "unpack it first"),
    b"\x28\xb5\x2f\xfd": ("zstd", "unpack it first (unzstd)"),
    b"BZh": ("bzip2", "unpack it first (bunzip2)"),
    b"PAR1": ("Parquet", "convert it to JSONL first"),
    b"\xff\xfe": ("UTF-16", "save the file as UTF-8"),
    b"\xfe\xff": ("UTF-16", "save the file as UTF-8"),
}


def json_values(path: Path, only: Collection[int] | None = None) -> Iterator[tuple[int, Any]]:
    """Each line of a JSONL file (each row of a JSON list) with what it holds; with `only`, just those lines.

    Raises:
        InputError: not a regular file, empty, packed or not text, no JSON in the first 100 lines, a line longer than
            4 MB, or a list of which no row can be read.
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
        for line, value in list_values(stream, path.name) if begin.startswith(b"[") else _lines(stream, path, only):
            found = True
            if only is None or line in only:
                yield line, value
        if not found and only is None:
            raise InputError(f"{path.name} is empty: expected one JSON row a line, got none.", "add rows to it")


def _lines(stream: BinaryIO, path: Path, only: Collection[int] | None) -> Iterator[tuple[int, Any]]:
    number = broken = 0
    while raw := stream.readline(MAX_BYTES + 1):
        number += 1
        if len(raw) > MAX_BYTES:
            raise InputError(
                f"Line {number} of {path.name} is longer than {MAX_BYTES // 1_000_000} MB.",
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
            if broken == HOPELESS:
                raise InputError(
                    f"None of the first {HOPELESS} lines of {path.name} is JSON; line {number}: {value.message}.",
                    "write one JSON object a line",
                )
        yield number, value


def _value(raw: bytes, line: int) -> Any:
    """What one line holds, or what is wrong with it."""
    try:
        value = decoder.decode(raw.decode("utf-8"))
    except UnicodeDecodeError as error:
        message = f"not UTF-8 at byte {error.start + 1} of the line; save the file as UTF-8"
        return RowError(line=line, field="", code="encoding", message=message)
    except RefusedError as error:
        return RowError(line=line, field="", code="json", message=str(error))
    except RecursionError:
        return RowError(line=line, field="", code="json", message=DEEP)
    except JSONDecodeError as error:
        cut = "" if raw.endswith(b"\n") else " (the last line; is it cut off?)"
        message = "holds a NUL byte" if b"\x00" in raw else f"not valid JSON: {error}{cut}"
        return RowError(line=line, field="", code="json", message=message)
    except ValueError:
        return RowError(line=line, field="", code="json", message=TOO_MANY_DIGITS)
    if raw.count(b"[") + raw.count(b"{") > MAX_DEPTH and is_deep(value):
        return RowError(line=line, field="", code="json", message=DEEP)
    if b"\\ud" in raw.lower() and has_half_a_character(value):
        return RowError(line=line, field="", code="encoding", message=HALF)
    return value
