"""The normal form of code: what of it may not change at moderate, as a flat list of tokens.

    form = canonical("x = ( 'a' )  # why", "python")
    [token.key for token in form.tokens]

Two texts have equal tokens when they have the same tree but for spacing, comments, and what the language's usual
formatter may change: quotes, redundant parentheses, trailing commas, optional semicolons, the style of a number, the
order of Go's and Rust's imports. Comments with an effect (directives.py) are a list of their own. Whatever stands
between two tokens and is no white space is a token too, so that nothing a grammar leaves out can change unseen.
"""

import re
from collections.abc import Iterator
from typing import Any

from tools.policy.canonical_python import python_string
from tools.policy.canonical_typescript import normal_children
from tools.policy.directives import directive
from tools.policy.literals import number_value, unescaped
from tools.policy.tokens import Directive, Form, Token
from tools.syntax import first_error, is_comment, parse

_RAW = {  # nodes whose text is kept as it is, spaces and all
    "typescript": {"template_string", "regex", "html_comment"},
    "shell": {"string", "raw_string", "ansi_c_string", "translated_string", "expansion", "heredoc_body", "regex",
              "extglob_pattern", "test_operator", "word"},
    "go": {"rune_literal"},
    "rust": {"char_literal", "raw_string_literal"},
    "sql": {"literal"},
}  # fmt: skip
_RAW["tsx"] = _RAW["typescript"]
_SEPARATORS = {
    "python": {";"},
    "typescript": {";"},
    "tsx": {";"},
    "go": {";", "\n"},
    "sql": {";"},
    "shell": {";", "\n"},
}
_KEEP_SEPARATORS = {  # where a semicolon means something
    "for_statement", "for_clause", "if_statement", "expression_switch_statement", "type_switch_statement",
    "c_style_for_statement", "ERROR",
}  # fmt: skip
_NUMBERS = {"integer", "float", "number", "int_literal", "float_literal", "imaginary_literal", "integer_literal"}
_PYTHON_TUPLES = {"tuple", "expression_list", "pattern_list", "tuple_pattern"}
_CALLERS = {"member_expression", "call_expression", "subscript_expression", "non_null_expression", "new_expression"}
_GAP = re.compile(r"(?:\s|\\\r?\n)*")


def canonical(text: str, language: str) -> Form:
    """The normal form of `text`, whose line ends are `\\n`, in a language of `tools.syntax.GRAMMARS`.

    Raises:
        LimitError: it cannot be read in a bounded time.
    """
    root = parse(text, language)
    writer = _Writer(text.encode(errors="surrogatepass"), language)
    writer.form.broken = first_error(root)
    writer.write(root)
    return writer.form


class _Writer:
    """Walks a tree from left to right with a stack of its own, so that depth is no matter."""

    def __init__(self, data: bytes, language: str) -> None:
        self.data, self.language = data, language
        self.form = Form()
        self.leaves = 0
        self.script = False  # inside the `# /// script` block of a Python file, which is read by tools

    def text(self, node: Any) -> str:
        return self.data[node.start_byte : node.end_byte].decode(errors="replace").replace("\r\n", "\n")

    def write(self, root: Any) -> None:
        left: list[Any] = [root]
        while left:
            item = left.pop()
            if isinstance(item, Token):  # made by a parent: a leaf, or an opening or closing
                self.form.tokens.append(item)
                self.leaves += item.key[0] not in ("<", ">")
            else:
                left.extend(reversed(list(self._visit(item))))

    def _visit(self, node: Any) -> Iterator[Any]:
        """What stands for `node`: tokens, and nodes that are visited in turn."""
        kind = node.type
        if is_comment(node) and not (self.language == "rust" and self._is_doc(node)):
            self.comment(node)
            return
        if kind == "line_continuation":
            return
        if (made := self._literal(node)) is not None:
            yield from made
            return
        if not node.children:
            text = self.text(node)
            if kind.startswith("keyword_"):
                yield Token((kind,), node.start_byte, node.end_byte)
            elif text or node.is_missing:
                yield Token((kind, text), node.start_byte, node.end_byte)
            return
        children = self._children(node)
        if self._is_redundant(node, children):
            yield from (child for child in children if isinstance(child, Token) or child.is_named)
            return
        name = {"expression_list": "tuple", "pattern_list": "tuple", "tuple_pattern": "tuple"}.get(kind, kind)
        yield Token(("<", name if self.language == "python" else kind), node.start_byte, node.start_byte)
        yield from children
        yield Token((">",), node.end_byte, node.end_byte)

    # --- comments

    def _is_doc(self, node: Any) -> bool:
        return any(child.type.endswith("doc_comment_marker") for child in node.children)

    def comment(self, node: Any) -> None:
        text = self.text(node).rstrip()
        said = directive(text, self.language, first=node.start_byte == 0)
        if self.language == "python" and text.startswith("# ///"):
            self.script = text.strip() != "# ///"
            said = said or text
        elif self.script:
            said = said or text
        if self.language == "go" and not said and self._before_import_c(node):
            said = text
        if said:
            begin = self.data.rfind(b"\n", 0, node.start_byte) + 1
            trailing = bool(self.data[begin : node.start_byte].strip())
            self.form.directives.append(Directive(said, self.leaves, trailing, node.start_byte, node.end_byte))

    def _before_import_c(self, node: Any) -> bool:
        after = node.next_sibling
        while after is not None and (is_comment(after) or after.type == "\n"):
            after = after.next_sibling
        return after is not None and after.type == "import_declaration" and '"C"' in self.text(after)

    # --- literals

    def _literal(self, node: Any) -> list[Any] | None:
        """The tokens of a literal, or None when `node` is none."""
        kind, text = node.type, None
        start, end = node.start_byte, node.end_byte
        if kind in _NUMBERS and node.is_named:
            return [Token(("#", number_value(self.text(node), self.language)), start, end)]
        if kind == "literal" and self.language == "sql":
            text = self.text(node)
            return [Token(("literal", number_value(text, "sql") if text[:1].isdigit() else text), start, end)]
        if self.language == "python" and kind in ("string", "concatenated_string"):
            return python_string(self, node)
        if kind == "string" and self.language in ("typescript", "tsx") and node.is_named and node.children:
            inner = self.text(node)[1:-1]
            in_jsx = node.parent is not None and node.parent.type == "jsx_attribute"
            return [Token(("text", inner if in_jsx else unescaped(inner)), start, end)]
        if kind == "interpreted_string_literal":
            return [Token(("text", unescaped(self.text(node)[1:-1])), start, end)]
        if kind == "raw_string_literal" and self.language == "go":
            return [Token(("text", self.text(node)[1:-1].replace("\r", "")), start, end)]
        if kind == "string_literal" and self.language == "rust":
            return [Token(("text", self.text(node)), start, end)]
        if is_comment(node):  # Rust's documentation, which is content
            return [Token(("doc", " ".join(self.text(node).split())), start, end)]
        if kind in _RAW.get(self.language, ()) and node.is_named:
            return [Token((kind, self.text(node)), start, end)]
        return None

    # --- nodes

    def _is_redundant(self, node: Any, children: list[Any]) -> bool:
        """Whether `node` adds nothing but what a formatter may add: parentheses, a leading `|`."""
        kind, parent = node.type, node.parent.type if node.parent is not None else ""
        if kind in ("parenthesized_expression", "parenthesized_type", "parenthesized_list_splat"):
            inner = [c for c in node.children if c.is_named and not is_comment(c)]
            if len(inner) != 1 or self.language == "shell" or node.has_error:
                return False
            only = inner[0]
            if parent in _CALLERS and self.language in ("typescript", "tsx") and "?." in self.text(only):
                return False  # (a?.b).c fails where a?.b.c does not
            if parent == "expression_statement" and only.type == "string" and self.language in ("typescript", "tsx"):
                return False  # ("use strict") is no directive
            if parent == "call_expression" and only.type == "field_expression":
                return False  # Rust: (self.f)() calls a field, self.f() a method
            return self.language != "sql" or self._is_redundant_in_sql(parent, only)
        if kind == "argument_list":  # Python: sum((x for x in y)) is sum(x for x in y)
            return [c.type for c in node.children if c.is_named] == ["generator_expression"]
        if kind in ("union_type", "intersection_type"):
            return len([c for c in node.children if c.is_named]) == 1
        if kind == "block" and self.language == "rust" and parent in ("match_arm", "closure_expression"):
            inner = [c for c in node.children if c.is_named]
            return len(inner) == 1 and not inner[0].type.endswith(("statement", "declaration", "item", "comment"))
        return False

    def _is_redundant_in_sql(self, parent: str, only: Any) -> bool:
        """SQL grammars are loose about precedence, so only parentheses that cannot matter are free."""
        if only.type in ("literal", "field", "invocation", "parenthesized_expression", "identifier", "case"):
            return True
        if parent in ("where", "parenthesized_expression", "having"):
            return True
        operators = {c.type for c in only.children if not c.is_named} | {
            c.type for c in only.children if c.type.startswith("keyword_")
        }
        return (
            parent in ("binary_expression", "join")
            and only.type == "binary_expression"
            and bool(operators & {"=", "<", ">", "<=", ">=", "<>", "!="})
            and not any(c.type in ("binary_expression", "unary_expression") for c in only.children)
        )

    def _children(self, node: Any) -> list[Any]:
        """The children that count, with what stands between them; in the order that counts."""
        kind, language = node.type, self.language
        children = node.children
        found: list[Any] = []
        place = node.start_byte
        for index, child in enumerate(children):
            self._gap(found, place, child.start_byte, kind)
            place = max(place, child.end_byte)
            if not self._is_dropped(node, children, index):
                found.append(child)
        self._gap(found, place, node.end_byte, kind)
        if language in ("typescript", "tsx"):
            found = normal_children(self, node, found)
        elif language == "go" and kind == "import_declaration":
            specs = [s for c in found if getattr(c, "type", "") == "import_spec_list" for s in c.children]
            specs = [s for s in specs if s.type == "import_spec"] or [c for c in found if c.type == "import_spec"]
            notes = [
                s for c in found if getattr(c, "type", "") == "import_spec_list" for s in c.children if is_comment(s)
            ]
            found = [*notes, *sorted(specs, key=self.text)]
        elif language == "rust":
            found = self._sorted_uses(kind, found)
        elif language == "sql" and kind == "invocation" and children and children[0].type == "object_reference":
            name = children[0]
            if '"' not in self.text(name):
                found[0] = Token(("function", self.text(name).lower()), name.start_byte, name.end_byte)
        return found

    def _gap(self, found: list[Any], start: int, end: int, kind: str) -> None:
        if end > start and not _GAP.fullmatch(between := self.data[start:end].decode(errors="replace")):
            found.append(Token(("between", between.strip()), start, end))

    def _is_dropped(self, node: Any, children: list[Any], index: int) -> bool:
        """Whether a child is something that formatters add and remove."""
        child, kind, language = children[index], node.type, self.language
        if child.is_named:
            if child.type == "argument_list" and kind == "class_definition":
                return not any(c.is_named for c in child.children)
            return child.type == "empty_statement" and kind in (
                "program", "statement_block", "class_body", "statement_list", "source_file"
            )  # fmt: skip
        if child.type in _SEPARATORS.get(language, ()):
            return kind not in _KEEP_SEPARATORS or (language == "shell" and kind in ("if_statement", "for_statement"))
        if child.type in "()":
            if language == "python":
                return kind in (*_PYTHON_TUPLES, "with_clause", "import_from_statement", "future_import_statement")
            return False
        if child.type != "," or kind == "token_tree" or kind == "ERROR":
            return False
        if kind in ("subscript", "type_parameter") and sum(c.type == "," for c in children) == 1:
            return False  # Python: x[1,] is x[(1,)]
        if kind in ("interface_body", "object_type", "match_arm"):
            return True
        after = next((c for c in children[index + 1 :] if not is_comment(c)), None)
        before = next((c for c in reversed(children[:index]) if not is_comment(c)), None)
        if before is None or (not before.is_named and before.type not in (")", "]", "}", "*", "/")):
            return False  # a hole in an array
        if language == "python" and kind in _PYTHON_TUPLES:
            return after is None or after.type in (")", "]")
        return after is None or after.type in (")", "]", "}", ">", "|")

    def _sorted_uses(self, kind: str, found: list[Any]) -> list[Any]:
        """Rust's formatter sorts neighbouring `use` lines, and what stands in their braces."""
        if kind == "use_list":
            names = [c for c in found if getattr(c, "is_named", False)]
            return sorted(names, key=self.text)
        made: list[Any] = []
        run: list[Any] = []
        for child in [*found, None]:
            if getattr(child, "type", "") == "use_declaration":
                run.append(child)
                continue
            made += [*sorted(run, key=self.text), *([child] if child is not None else [])]
            run = []
        return made
