"""Literals by value, so that the style of a quote or a number is free and its value is not.

text_value("'it\\\\'s'", "typescript")    # "it's"
number_value("1_000", "python")          # 'int 1000', as 1000
"""

import ast
import re
import warnings

_ESCAPE = re.compile(
    r"\\(?:u\{([0-9a-fA-F]+)\}|u([0-9a-fA-F]{4})|x([0-9a-fA-F]{2})|U([0-9a-fA-F]{8})|([0-7]{3})|(\r?\n)|(.))", re.DOTALL
)
_LETTERS = {"n": "\n", "t": "\t", "r": "\r", "b": "\b", "f": "\f", "v": "\v", "a": "\a", "0": "\0"}
_SUFFIX = re.compile(
    r"(?i:0x[0-9a-f_]+?|0[bo][0-9_]+|[0-9][0-9_]*(?:\.[0-9][0-9_]*)?(?:e[+-]?[0-9_]+)?)([iuf](?:8|16|32|64|128|size))?"
)


def python_text(literal: str) -> str | bytes | None:
    """The value of a Python string without interpolations; None when it has none."""
    try:
        with warnings.catch_warnings():
            warnings.simplefilter("ignore")
            value = ast.literal_eval(literal)
    except (ValueError, SyntaxError, MemoryError, RecursionError):
        return None
    return value if isinstance(value, str | bytes) else None


def unescaped(inner: str) -> str:
    """What the inside of a quoted TypeScript, Go or Rust string stands for."""

    def one(found: re.Match[str]) -> str:
        braces, short, byte, long, octal, newline, letter = found.groups()
        if code := braces or short or long:
            return chr(min(int(code, 16), 0x10FFFF))
        if byte or octal:
            # in Go, these are bytes and not characters: they stay apart from the character of the same number
            return f"\\{byte.lower() if byte else octal}"
        return "" if newline else _LETTERS.get(letter, letter)

    return _ESCAPE.sub(one, inner)


def number_value(text: str, language: str) -> str:
    """A number by type and value: `0XFF` is `255`, `1_000` is `1000`, `1.50` is `1.5`, and `1` is not `1.0`."""
    plain = text.replace("_", "").lower()
    if language == "sql":  # digits after the point are part of a decimal's type
        return plain
    suffix = ""
    if language == "rust" and (found := _SUFFIX.fullmatch(text)) and found[1]:
        suffix, plain = found[1], text[: -len(found[1])].replace("_", "").lower()
    for ending in ("n", "i", "j"):  # bigint, imaginary
        if plain.endswith(ending) and not plain.startswith("0x"):
            suffix, plain = ending, plain[:-1]
    try:
        if language == "go" and re.fullmatch(r"0[0-7]+", plain):
            plain = f"0o{plain[1:]}"
        if re.fullmatch(r"0[xob][0-9a-f]+|0|[1-9][0-9]*", plain):
            kind = "number" if language in ("typescript", "tsx") and not suffix else "int"
            return f"{kind}{suffix} {int(plain, 0)}"
        value = float(plain)
    except (ValueError, OverflowError):
        return text
    if language in ("typescript", "tsx"):
        return f"number {int(value)}" if value.is_integer() and abs(value) < 2**53 else f"number {value!r}"
    return f"float{suffix} {value!r}"
