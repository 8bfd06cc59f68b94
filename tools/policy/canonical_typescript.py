"""What TypeScript's and JSX's formatters change, evened out: parentheses of arrows and `new`, quoted keys, JSX text."""

import re
from typing import Any

from tools.policy.literals import unescaped
from tools.policy.tokens import Token, Writer

_NAME = re.compile(r"[A-Za-z_$][\w$]*")
_JSX = ("jsx_text", "html_character_reference")


def normal_children(writer: Writer, node: Any, found: list[Any]) -> list[Any]:
    kind = node.type
    if kind == "arrow_function" and found and getattr(found[0], "type", "") in ("identifier", "async"):
        at = next((i for i, c in enumerate(found[:2]) if getattr(c, "type", "") == "identifier"), None)
        if at is not None:
            name = found[at]
            a, b = name.start_byte, name.end_byte
            around = [Token(("<", "formal_parameters"), a, a), Token(("(", "("), a, a),
                      Token(("<", "required_parameter"), a, a), name, Token((">",), b, b),
                      Token((")", ")"), b, b), Token((">",), b, b)]  # fmt: skip
            found = [*found[:at], *around, *found[at + 1 :]]
    elif kind == "new_expression" and not any(getattr(c, "type", "") == "arguments" for c in found):
        end = node.end_byte
        found = [*found, Token(("<", "arguments"), end, end), Token(("(", "("), end, end),
                 Token((")", ")"), end, end), Token((">",), end, end)]  # fmt: skip
    elif kind in ("pair", "property_signature", "method_definition", "public_field_definition", "pair_pattern"):
        for index, child in enumerate(found):
            if getattr(child, "type", "") == "string" and child.children:
                value = unescaped(writer.text(child)[1:-1])
                if index == 0 and _NAME.fullmatch(value):
                    found[0] = Token(("property_identifier", value), child.start_byte, child.end_byte)
            break
    elif kind in ("jsx_element", "jsx_fragment"):
        found = _jsx(writer, found)
    return found


def _jsx(writer: Writer, found: list[Any]) -> list[Any]:
    """Text between JSX tags as React reads it: lines joined by one space, line breaks at the ends gone."""
    made: list[Any] = []
    for child in found:
        kind = getattr(child, "type", "")
        inner = [c for c in child.children if c.is_named] if kind == "jsx_expression" else []
        if kind in _JSX:
            lines = writer.text(child).split("\n")
            cut = [
                (line if i == 0 else line.lstrip(" \t")) if i == len(lines) - 1
                else (line.rstrip(" \t") if i == 0 else line.strip(" \t"))
                for i, line in enumerate(lines)
            ]  # fmt: skip
            said = " ".join(line for line in cut if line)
        elif len(inner) == 1 and inner[0].type == "string":
            said = unescaped(writer.text(inner[0])[1:-1])
        else:
            made.append(child)
            continue
        last = made[-1] if made else None
        if isinstance(last, Token) and last.key[0] == "jsx":
            made[-1] = Token(("jsx", last.key[1] + said), last.start, child.end_byte)
        elif said:
            made.append(Token(("jsx", said), child.start_byte, child.end_byte))
    return made
