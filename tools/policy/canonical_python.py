"""Python's strings in the normal form: by value, neighbouring ones as one, docstrings without their indentation."""

import inspect
from typing import Any

from tools.policy.literals import python_text
from tools.policy.tokens import Token, Writer
from tools.syntax import is_comment


def python_string(writer: Writer, node: Any) -> list[Any]:
    """A Python string, or several beside each other, by value; interpolations are visited as code."""
    strings = [c for c in node.children if c.type == "string"] if node.type == "concatenated_string" else [node]
    for child in node.children if node.type == "concatenated_string" else ():
        if is_comment(child):
            writer.comment(child)
    pieces: list[Any] = []
    for string in strings:
        opening = string.children[0]
        prefix = writer.text(opening).lower()
        quote = prefix.lstrip("rbuft")
        marks = "".join(sorted(set(prefix) & set("rbt")))
        holes = [c for c in string.children if c.type == "interpolation"]
        if "f" not in prefix and "t" not in prefix:
            value = python_text(writer.text(string))
            said = ("bytes", value.decode("latin-1")) if isinstance(value, bytes) else ("text", value or "")
            pieces.append(
                Token(("text", writer.text(string)) if value is None else said, string.start_byte, string.end_byte)
            )
            continue
        place = opening.end_byte
        for hole in [*holes, None]:
            stop = hole.start_byte if hole is not None else string.children[-1].start_byte
            if stop > place:
                raw = writer.data[place:stop].decode(errors="replace")
                value = python_text(f"{marks.replace('t', '')}{quote}{raw}{quote}")
                shown = value if isinstance(value, str) else raw
                pieces.append(Token(("text", shown.replace("{{", "{").replace("}}", "}")), place, stop))
            if hole is not None:
                exact = any(child.type == "=" for child in hole.children)  # f"{x = }" prints its own spaces
                pieces.append(Token(("hole", writer.text(hole)), hole.start_byte, hole.end_byte) if exact else hole)
                place = hole.end_byte
        if "t" in prefix:
            pieces.append(Token(("template",), string.end_byte, string.end_byte))
    merged: list[Any] = []
    for piece in pieces:
        last = merged[-1] if merged else None
        kind = piece.key[0] if isinstance(piece, Token) else ""
        if kind in ("text", "bytes") and isinstance(last, Token) and last.key[0] == kind:
            merged[-1] = Token((last.key[0], last.key[1] + piece.key[1]), last.start, piece.end)
        else:
            merged.append(piece)
    if _is_docstring(node) and len(merged) == 1 and isinstance(merged[0], Token):
        only = merged[0]
        lines = inspect.cleandoc(only.key[1]).splitlines()
        merged = [Token(("docstring", "\n".join(line.rstrip() for line in lines).strip()), only.start, only.end)]
    return [
        Token(("<", "string"), node.start_byte, node.start_byte),
        *(merged or [Token(("text", ""), node.start_byte, node.end_byte)]),
        Token((">",), node.end_byte, node.end_byte),
    ]


def _is_docstring(node: Any) -> bool:
    statement = node.parent
    if statement is None or statement.type != "expression_statement" or statement.parent is None:
        return False
    body = statement.parent
    first = next((child for child in body.children if not is_comment(child)), None)
    if first != statement:
        return False
    return body.type == "module" or (
        body.type == "block"
        and body.parent is not None
        and body.parent.type in ("function_definition", "class_definition")
    )
