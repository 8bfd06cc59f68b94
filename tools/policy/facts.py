"""What a refactoring has to keep at flexible: public signatures, raised errors, string constants, named constants.

    facts("def f(x: int) -> int:\\n    raise LateError('late')\\n", "python")
    # [Fact(kind='signature', name='f', value='def f(x: int)->int', …), Fact(kind='error', name='LateError', …), …]

For prose: its numbers, its code spans and quoted words, and whether it says no.
"""

import re
from collections.abc import Iterator
from dataclasses import dataclass, field
from typing import Any, Literal

from tools.policy.canonical import canonical
from tools.syntax import is_comment, parse, walk

FactKind = Literal["signature", "error", "string", "constant", "number", "term", "negation"]


@dataclass(frozen=True)
class Fact:
    """One thing to keep; `start` and `end` are bytes of the text."""

    kind: FactKind
    name: str
    value: str
    start: int = field(default=0, compare=False)
    end: int = field(default=0, compare=False)


_FUNCTIONS = {
    "python": {"function_definition"},
    "typescript": {"function_declaration", "method_definition", "method_signature", "function_signature",
                   "abstract_method_signature", "generator_function_declaration"},
    "go": {"function_declaration", "method_declaration", "method_elem"},
    "rust": {"function_item", "function_signature_item"},
    "sql": {"create_table", "create_view", "create_function"},
}  # fmt: skip
_TYPES = {
    "python": {"class_definition"},
    "typescript": {"class_declaration", "interface_declaration", "type_alias_declaration", "enum_declaration",
                   "abstract_class_declaration"},
    "go": {"type_spec", "type_alias"},
    "rust": {"struct_item", "enum_item", "trait_item", "type_item"},
}  # fmt: skip
_WHOLE = {"interface_declaration", "type_alias_declaration", "enum_declaration", "type_spec", "type_alias",
          "struct_item", "enum_item", "type_item", "create_table"}  # fmt: skip
_FUNCTIONS["tsx"], _TYPES["tsx"] = _FUNCTIONS["typescript"], _TYPES["typescript"]
_BODIES = ("block", "statement_block", "class_body", "declaration_list", "function_body")
_KEPT_DECORATORS = {"property", "staticmethod", "classmethod", "abstractmethod", "overload"}
_TEXTS = ("text", "literal", "jsx")  # keys of tokens that hold text
_STRINGS = {"shell": ("string", "raw_string", "ansi_c_string", "heredoc_body")}
_RAISES = {"raise_statement", "throw_statement"}
_CONSTANT = re.compile(r"[A-Z][A-Z0-9_]+")
_NUMBER = re.compile(r"\d+(?:[.,:]\d+)*")
_TERM = re.compile(r"`([^`\n]+)`|[\"“„]([^\"”“\n]{1,80})[\"”“]")
_NO = re.compile(
    r"\b(?:not|never|no|nor|none|nothing|nobody|neither|without|cannot|forbidden|refuse[sd]?)\b|n['’]t\b", re.I
)


def facts(text: str, language: str) -> list[Fact]:
    """The facts of code in a language of `tools.syntax.GRAMMARS`, in the order of the text."""
    data = text.encode(errors="surrogatepass")
    found: list[Fact] = []
    for node in walk(parse(text, language)):
        found += _signatures(node, data, language)
        found += _errors(node, data)
        found += _constants(node, data, language)
    for token in canonical(text, language).tokens:
        kind = token.key[0]
        said = token.key[1].strip("'\"`") if kind in _STRINGS.get(language, _TEXTS) else ""
        if re.search(r"\w", said) and not (kind == "literal" and said[:1].isdigit()):
            found.append(Fact("string", said[:60], said.strip(), token.start, token.end))
        number = token.key[1].rpartition(" ")[2] if kind == "#" else ""
        if kind == "literal" and token.key[1][:1].isdigit():
            number = token.key[1]
        if number and number not in ("0", "1", "0.0", "1.0"):
            found.append(Fact("number", number, number, token.start, token.end))
    return found


def prose_facts(text: str) -> list[Fact]:
    """The numbers of prose, its code spans and quoted words, and whether it says no."""
    found = []
    for number in _NUMBER.finditer(text):
        found.append(Fact("number", number[0], number[0], *_bytes(text, number)))
    for term in _TERM.finditer(text):
        said = " ".join((term[1] or term[2]).split())
        found.append(Fact("term", said[:60], said, *_bytes(text, term)))
    if no := _NO.search(text):
        found.append(Fact("negation", no[0], "no", *_bytes(text, no)))
    return found


def lost(original: list[Fact], modified: list[Fact]) -> list[Fact]:
    """The facts of `original` that are not kept in `modified`; errors and saying no may not be added either."""
    kept = {(fact.kind, fact.value) for fact in modified}
    strings = "\n".join(fact.value for fact in modified if fact.kind == "string")
    gone = [
        fact
        for fact in original
        if (fact.kind, fact.value) not in kept and not (fact.kind == "string" and fact.value in strings)
    ]
    before = {(fact.kind, fact.value) for fact in original}
    added = [f for f in modified if f.kind in ("error", "negation") and (f.kind, f.value) not in before]
    return gone + [Fact(f.kind, f.name, f"{f.value} (new)") for f in added]


def _bytes(text: str, found: re.Match[str]) -> tuple[int, int]:
    start = len(text[: found.start()].encode(errors="surrogatepass"))
    return start, start + len(found[0].encode(errors="surrogatepass"))


def _said(node: Any, data: bytes) -> str:
    """The node's text with white space evened out."""
    text = data[node.start_byte : node.end_byte].decode(errors="replace")
    return re.sub(r",(?=[)\]}])|;$", "", re.sub(r"\s+(?=[^\w])|(?<=[^\w])\s+", "", " ".join(text.split())))


def _name(node: Any, data: bytes) -> str:
    named = node.child_by_field_name("name")
    return _said(named, data) if named is not None else ""


def _signatures(node: Any, data: bytes, language: str) -> Iterator[Fact]:
    functions, types = _FUNCTIONS.get(language, set()), _TYPES.get(language, set())
    if language == "typescript" or language == "tsx":
        value = (
            node.child_by_field_name("value")
            if node.type in ("variable_declarator", "public_field_definition")
            else None
        )
        if value is not None and value.type in ("arrow_function", "function_expression"):
            if _is_public(node, data, language):
                yield _signature(node, value, data)
            return
    if node.type in functions | types and node.is_named and _is_public(node, data, language):
        yield _signature(node, node, data)
    if language == "sql" and node.type == "select_expression":
        columns = [_said(child, data) for child in node.children if child.is_named]
        names = [re.split(r"\bas\b", column, flags=re.I)[-1].strip().lower() for column in columns]
        if _depth(node) <= 3:
            yield Fact("signature", "columns", ", ".join(names), node.start_byte, node.end_byte)
    if language == "sql" and node.type in ("insert", "update", "delete", "drop_table", "truncate", "grant"):
        yield Fact("signature", node.type, node.type, node.start_byte, node.end_byte)


def _depth(node: Any) -> int:
    depth = 0
    while node.parent is not None:
        node, depth = node.parent, depth + 1
    return depth


def _signature(owner: Any, node: Any, data: bytes) -> Fact:
    parts = [owner.child_by_field_name("name")] if owner is not node else []
    body = node.child_by_field_name("body")
    parts += [
        c for c in node.children if not is_comment(c) and (node.type in _WHOLE or (c.type not in _BODIES and c != body))
    ]
    said = " ".join(_said(part, data) for part in parts if part is not None)
    if node.parent is not None and node.parent.type == "decorated_definition":
        marks = [_said(c, data).lstrip("@") for c in node.parent.children if c.type == "decorator"]
        said = " ".join([*(f"@{mark}" for mark in marks if mark.split(".")[-1] in _KEPT_DECORATORS), said])
    within = owner.parent
    while within is not None and within.type not in (*_BODIES, "module", "program", "source_file"):
        within = within.parent
    holder = within.parent if within is not None else None
    place = f"{_name(holder, data)}." if holder is not None and holder.child_by_field_name("name") is not None else ""
    name = _name(owner, data)
    return Fact("signature", f"{place}{name}", f"{place}{said}", owner.start_byte, node.end_byte)


def _is_public(node: Any, data: bytes, language: str) -> bool:
    """Whether others may call it: no private name, and not local to a function."""
    name = _name(node, data)
    text = data[node.start_byte : node.end_byte].decode(errors="replace")
    if language == "python" and name.startswith("_") and not (name.startswith("__") and name.endswith("__")):
        return False
    if language == "go" and not name[:1].isupper():
        return False
    if language == "rust" and node.type != "function_signature_item" and not text.startswith("pub"):
        return False
    if language in ("typescript", "tsx") and (name.startswith("#") or re.match(r"(?:private|protected)\b", text)):
        return False
    above = node.parent
    while above is not None:
        if above.type in ("function_definition", "function_declaration", "method_definition", "arrow_function",
                          "function_item", "method_declaration", "function_expression", "func_literal"):  # fmt: skip
            return False
        if language == "python" and above.type == "class_definition" and _name(above, data).startswith("_"):
            return False
        above = above.parent
    return True


def _errors(node: Any, data: bytes) -> Iterator[Fact]:
    thrown = None
    if node.type in _RAISES and len(node.children) > 1:
        thrown = node.children[1]
    elif node.type in ("call_expression", "macro_invocation"):
        called = node.child_by_field_name("function") or node.child_by_field_name("macro")
        if called is not None and _said(called, data) in ("panic", "errors.New", "fmt.Errorf", "unreachable", "Err"):
            yield Fact("error", _said(called, data), _said(called, data), node.start_byte, node.end_byte)
        return
    elif node.type == "unary_expression" and (data[node.start_byte : node.end_byte].startswith(b"&")):
        thrown = next((c for c in node.children if c.type == "composite_literal"), None)
        thrown = thrown.children[0] if thrown is not None else None
        if thrown is None or not _said(thrown, data).endswith("Error"):
            return
    while thrown is not None and thrown.type in ("call", "new_expression", "parenthesized_expression"):
        thrown = next((c for c in thrown.children if c.is_named), None)
    if thrown is not None and (name := _said(thrown, data).rpartition(".")[2])[:1].isupper():
        yield Fact("error", name, name, node.start_byte, node.end_byte)


def _constants(node: Any, data: bytes, language: str) -> Iterator[Fact]:
    if node.type in ("assignment", "variable_declarator", "const_spec", "const_item", "static_item"):
        name = node.child_by_field_name("left") or node.child_by_field_name("name")
        value = node.child_by_field_name("right") or node.child_by_field_name("value")
        is_go = language == "go" and node.type == "const_spec"
        if name is not None and value is not None and (is_go or _CONSTANT.fullmatch(_said(name, data))):
            said = " ".join(t.key[-1] for t in canonical(_text(value, data), language).tokens if t.key[0] not in "<>")
            yield Fact("constant", _said(name, data), f"{_said(name, data)} = {said}", node.start_byte, node.end_byte)


def _text(node: Any, data: bytes) -> str:
    return data[node.start_byte : node.end_byte].decode(errors="replace")
