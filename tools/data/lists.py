"""The rows of a file that is one JSON list, in pieces of a megabyte.

    with path.open("rb") as stream:
        for row, value in list_values(stream, path.name):     # rows from 1; value: what JSON says, or a RowError

A broken row is a RowError that names the line of the file, and the rows after it are read where they can be found: from
the next line that begins as the broken row's own did, or from the comma after its last closing bracket.
"""

import codecs
import re
from collections.abc import Iterator
from json import JSONDecodeError
from typing import Any, BinaryIO

from tools.data.strict import (
    DEEP,
    HALF,
    HOPELESS,
    MAX_BYTES,
    TOO_MANY_DIGITS,
    RefusedError,
    RowError,
    decoder,
    has_half_a_character,
    is_deep,
)
from tools.errors import InputError

_PIECE = 1 << 20
_TOKEN = 20  # an error so near the end of what was read may be a word, a number or an escape that is not all there
_SIGNS = re.compile(r'"(?:[^"\\]|\\.?)*+(?:"|\Z)|[][{},]', re.DOTALL)
_SPACE = re.compile(r"[ \t\r\n]*")
_BEFORE = 200  # characters that are kept of what stands before a row: the beginning of its line


class _Text:
    """The text of a stream from `place` on, as far as it was read, and how many lines went before it."""

    def __init__(self, stream: BinaryIO) -> None:
        self._stream = stream
        # bytes that are no UTF-8 become lone surrogates, so that only their own row is refused
        self._decoder = codecs.getincrementaldecoder("utf-8-sig")("surrogateescape")
        self.text, self.place, self.lines, self.ended = "", 0, 0, False

    def more(self) -> bool:
        """Read another piece; whether there was one and the row that begins at `place` may still be longer."""
        if self.ended or len(self.text) - self.place > MAX_BYTES:
            return False
        piece = self._stream.read(_PIECE)
        self.ended = not piece
        begin = max(0, self.place - _BEFORE)
        self.lines += self.text.count("\n", 0, begin)
        self.text = self.text[begin:] + self._decoder.decode(piece, final=self.ended)
        self.place -= begin
        return True

    def sign(self) -> str:
        """Go on to the next character that is no white space, and say it; '' at the end."""
        while True:
            self.place = _SPACE.match(self.text, self.place).end()  # type: ignore[union-attr]
            if self.place < len(self.text):
                return self.text[self.place]
            if not self.more():
                return ""

    def line(self) -> int:
        """The line of the file that `place` is on, from 1."""
        return self.lines + self.text.count("\n", 0, self.place) + 1


def list_values(stream: BinaryIO, name: str) -> Iterator[tuple[int, Any]]:
    """Each row of the list in `stream` with its number and what it holds, or what is wrong with it.

    Raises:
        InputError: there are rows, and none of them (or of the first 100) can be read.
    """
    broken: list[tuple[int, RowError]] = []  # as long as nothing else came
    good = False
    for number, value in _values(_Text(stream)):
        if not good and isinstance(value, RowError):
            broken.append((number, value))
            if len(broken) == HOPELESS:
                break
            continue
        if not good:
            yield from broken
        good = True
        yield number, value
    if broken and not good:
        number, error = broken[0]
        raise InputError(
            f"No row of the list in {name} can be read. Row {number}: {error.message}.",
            "mend it, or write one row a line",
        )


def _values(text: _Text) -> Iterator[tuple[int, Any]]:
    text.sign()
    text.place += 1  # the bracket that made this a list
    number = 0
    sign = text.sign()
    while sign and not (sign == "]" and not number):
        number += 1
        value, found_end = _row(text, number)
        yield number, value
        if not found_end:
            return
        sign = text.sign()
        if sign == "]":
            break
        if sign == ",":
            text.place += 1
            sign = text.sign()
            if sign == "]":
                yield number, _error(number, f"a comma before the closing bracket (line {text.line()})")
                break
        elif sign:
            yield number, _error(number, f"expected a comma or a closing bracket after it (line {text.line()})")
            if sign != "{":
                return
    if not sign:
        if number:
            yield number + 1, _error(number + 1, "the list is cut off")
        return
    text.place += 1
    if text.sign():
        yield number, _error(number, f"there is more after the list (line {text.line()})")


def _error(row: int, message: str, code: str = "json") -> RowError:
    return RowError(line=row, field="", code=code, message=message)


def _row(text: _Text, number: int) -> tuple[Any, bool]:
    """The row that begins at `text.place`, or what is wrong with it, and whether the place after it was found."""
    while True:
        try:
            value, end = decoder.raw_decode(text.text, text.place)
            if end < len(text.text) or not text.more():
                break
        except RefusedError as error:
            return _broken(text, number, str(error))
        except RecursionError:
            return _broken(text, number, DEEP)
        except JSONDecodeError as error:
            unsure = error.msg.startswith("Unterminated") or error.pos > len(text.text) - _TOKEN
            if unsure and text.more():
                continue
            if unsure and not text.ended:
                return _broken(text, number, f"does not end within {MAX_BYTES // 1_000_000} MB")
            cut = "; is the list cut off?" if unsure else ""
            return _broken(text, number, f"not valid JSON: {error.msg} (line {text.lines + error.lineno}{cut})")
        except ValueError:
            return _broken(text, number, TOO_MANY_DIGITS)
    raw = text.text[text.place : end]
    text.place = end
    if not raw.isascii() and not _is_utf8(raw):
        return _error(number, "not UTF-8; save the file as UTF-8", "encoding"), True
    if "\\ud" in raw.lower() and has_half_a_character(value):
        return _error(number, HALF, "encoding"), True
    return _error(number, DEEP) if is_deep(value) else value, True


def _broken(text: _Text, number: int, reason: str) -> tuple[RowError, bool]:
    """The error of the row that begins at `text.place`; the place goes on to what stands after the row."""
    found = _error(number, reason)
    begin = text.text.rfind("\n", max(0, text.place - _BEFORE), text.place)
    indent = text.text[begin + 1 : text.place]
    alone = begin >= 0 and not indent.strip(" \t")
    next_line = re.compile(rf",?[ \t\r]{{0,9}}\n{indent}(?={{)") if alone else None
    while True:
        below = next_line.search(text.text, text.place) if next_line else None
        stop = below.start() if below else len(text.text)
        end = _end(text.text, text.place, stop)
        if end >= 0 or below:
            text.place = end if end >= 0 else stop
            return found, True
        if not text.more():
            found.message += "; the rows after it cannot be told apart"
            return found, False


def _end(text: str, place: int, stop: int) -> int:
    """Where, before `stop`, the comma or bracket stands that ends the value at `place`, strings left out; else -1."""
    depth = 0
    for sign in _SIGNS.finditer(text, place, stop):
        match sign.group(0):
            case "[" | "{":
                depth += 1
            case "]" | "}" if depth:
                depth -= 1
            case "," | "]" if not depth:
                return sign.start()
    return -1


def _is_utf8(text: str) -> bool:
    try:
        text.encode()
    except UnicodeEncodeError:
        return False
    return True
