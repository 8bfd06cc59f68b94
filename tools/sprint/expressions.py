"""Acceptance criteria as expressions over measured figures: comparisons, arithmetic, `and`, `or`, `not`, and no more.

    rule = parse("adapter.recall >= 0.9 and adapter.perplexity <= 1.5 * base.perplexity", known=KNOWN)
    judge(rule, {"adapter.recall": 0.93, "adapter.perplexity": 21.0, "base.perplexity": 18.9}).passed

The text is read as Python's grammar and walked by a short list of node types; nothing of it is ever executed.
"""

import ast
import operator
from collections.abc import Callable, Collection, Mapping
from dataclasses import dataclass

from pydantic import BaseModel

from tools.errors import InputError

MAX_LENGTH = 400
_ARITHMETIC: dict[type[ast.operator], Callable[[float, float], float]] = {
    ast.Add: operator.add,
    ast.Sub: operator.sub,
    ast.Mult: operator.mul,
    ast.Div: operator.truediv,
}
_COMPARISONS: dict[type[ast.cmpop], Callable[[float, float], bool]] = {
    ast.Lt: operator.lt,
    ast.LtE: operator.le,
    ast.Gt: operator.gt,
    ast.GtE: operator.ge,
    ast.Eq: operator.eq,
    ast.NotEq: operator.ne,
}
_FUNCTIONS: dict[str, Callable[..., float]] = {"min": min, "max": max, "abs": abs}
_ALLOWED = "numbers, figures, + - * /, < <= > >= == !=, and, or, not, min(), max(), abs()"


@dataclass(frozen=True)
class Rule:
    """A parsed expression: its text, its tree, and the figures it names, in order."""

    text: str
    tree: ast.expr
    names: tuple[str, ...]


class Judged(BaseModel):
    """What came of a rule: whether it holds, the left side of its comparison, the figures, and what was missing."""

    passed: bool
    value: float | None = None
    figures: dict[str, float] = {}
    missing: list[str] = []

    def told(self) -> str:
        """The figures in words, or what was not measured."""
        if self.missing:
            return f"not measured: {', '.join(self.missing)}"
        return ", ".join(f"{name} = {value:g}" for name, value in self.figures.items())


def parse(text: str, known: Collection[str] | None = None) -> Rule:
    """The rule that `text` is.

    Args:
        known: the figures there can be; without it any dotted name may stand, and is looked for when it is judged.

    Raises:
        InputError: it is no expression, does more than compare figures, or names a figure that does not exist.
    """
    if len(text) > MAX_LENGTH:
        raise InputError(f"Expected an expression of at most {MAX_LENGTH} characters, got {len(text)}.", "split it")
    try:
        tree = ast.parse(text.strip(), mode="eval").body
    except (SyntaxError, ValueError, RecursionError, MemoryError) as error:
        raise InputError(
            f"Expected an expression over figures, got {text[:80]!r}: {error}",
            "write for example adapter.recall >= 0.9",
        ) from error
    names: dict[str, None] = {}
    _walk(tree, names, text)
    if unknown := [name for name in names if known is not None and name not in known]:
        raise InputError(
            f"There is no figure {', '.join(map(repr, unknown))}. Known figures: {', '.join(sorted(known or ()))}.",
            "name one of these",
        )
    if not names:
        raise InputError(f"{text[:80]!r} names no figure, so it says nothing about what was measured.", "name one")
    return Rule(text.strip(), tree, tuple(names))


def judge(rule: Rule, figures: Mapping[str, float]) -> Judged:
    """Whether `rule` holds for `figures`. A figure that was not measured makes it fail, and is named."""
    used = {name: figures[name] for name in rule.names if name in figures}
    missing = [name for name in rule.names if name not in figures]
    if missing:
        return Judged(passed=False, figures=used, missing=missing)
    try:
        passed = bool(_value(rule.tree, figures))
        left = rule.tree.left if isinstance(rule.tree, ast.Compare) else None
        value = _value(left, figures) if left is not None else None
    except (ZeroDivisionError, OverflowError):
        return Judged(passed=False, figures=used)
    return Judged(passed=passed, value=None if value is None else round(float(value), 6), figures=used)


def _name(node: ast.expr) -> str | None:
    """The dotted name that `node` is, if it is one."""
    if isinstance(node, ast.Name):
        return node.id
    if isinstance(node, ast.Attribute):
        stem = _name(node.value)
        return f"{stem}.{node.attr}" if stem else None
    return None


def _walk(node: ast.expr, names: dict[str, None], text: str) -> None:
    """Collect the names of `node`, and refuse what is not on the list."""
    if name := _name(node):
        names[name] = None
        return
    parts: list[ast.expr] | None = None
    if isinstance(node, ast.Constant) and type(node.value) in (int, float, bool):
        parts = []
    elif isinstance(node, ast.BinOp) and type(node.op) in _ARITHMETIC:
        parts = [node.left, node.right]
    elif isinstance(node, ast.UnaryOp) and isinstance(node.op, ast.USub | ast.Not):
        parts = [node.operand]
    elif isinstance(node, ast.BoolOp):
        parts = node.values
    elif isinstance(node, ast.Compare) and all(type(op) in _COMPARISONS for op in node.ops):
        parts = [node.left, *node.comparators]
    elif isinstance(node, ast.Call) and isinstance(node.func, ast.Name) and node.func.id in _FUNCTIONS:
        one = node.func.id == "abs"
        if not node.keywords and (len(node.args) == 1 if one else len(node.args) > 1):
            parts = node.args
    if parts is None:
        shown = ast.get_source_segment(text.strip(), node) or type(node).__name__
        raise InputError(f"{shown[:80]!r} may not stand in a criterion.", f"use only {_ALLOWED}")
    for part in parts:
        _walk(part, names, text)


def _value(node: ast.expr, figures: Mapping[str, float]) -> float:
    """The value of a tree that `_walk` let pass."""
    if name := _name(node):
        return figures[name]
    if isinstance(node, ast.Constant):
        return float(node.value)  # type: ignore[arg-type]  # _walk lets only numbers pass
    if isinstance(node, ast.BinOp):
        return _ARITHMETIC[type(node.op)](_value(node.left, figures), _value(node.right, figures))
    if isinstance(node, ast.UnaryOp):
        value = _value(node.operand, figures)
        return -value if isinstance(node.op, ast.USub) else float(not value)
    if isinstance(node, ast.BoolOp):
        every = isinstance(node.op, ast.And)
        return float((all if every else any)(_value(part, figures) for part in node.values))
    if isinstance(node, ast.Compare):
        sides = [_value(part, figures) for part in (node.left, *node.comparators)]
        pairs = zip(node.ops, sides[:-1], sides[1:], strict=True)
        return float(all(_COMPARISONS[type(op)](left, right) for op, left, right in pairs))
    assert isinstance(node, ast.Call) and isinstance(node.func, ast.Name)
    return float(_FUNCTIONS[node.func.id](*(_value(part, figures) for part in node.args)))
