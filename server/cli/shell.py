"""Hints for a person at a shell: a tool call that an agent would make, as a command that can be pasted.

told("It runs. Next: training_status(run='run-holds-0001').")    # It runs. Next: `looptune status run-holds-0001`.
"""

import ast
import json
import re
import shlex
from typing import Any

_CALL = re.compile(r"\b[a-z_]+\(")
_JSON = {"true": True, "false": False, "null": None}
# Tools that have a command of their own, by the arguments that it takes; any other is called.
_COMMANDS = {
    ("training_status", "run"): "status {run}",
    ("training_status", "run", "wait_seconds"): "status {run} --follow",
    ("validate_dataset", "dataset"): "validate {dataset}",
    ("plan_training", "dataset"): "plan --dataset {dataset}",
    ("plan_training", "dataset", "preset"): "plan --dataset {dataset} --preset {preset}",
    ("show", "name"): "open {name}",
    ("show", "name", "query"): "open {name}",
    ("grade_answers", "run"): "evaluation rows {run}",
    ("loop_next", "sprint"): "loop next {sprint}",
}


def told(text: str) -> str:
    """`text` with the tool calls in the line of its last "Next: " as commands."""
    before, mark, hint = text.rpartition("Next: ")
    line, end, after = hint.partition("\n")
    return f"{before}{mark}{as_commands(line)}{end}{after}" if mark else text


def as_commands(hint: str) -> str:
    """`hint` with its tool calls as commands; one whose arguments are still open, such as `run=…`, stays a call."""
    found = _CALL.search(hint)
    if not found:
        return hint
    before, rest = hint[: found.start()], hint[found.start() :]
    for end in (place + 1 for place, sign in enumerate(rest) if sign == ")"):
        if command := _command(rest[:end]):
            return f"{before}`{command}`{as_commands(rest[end:])}"
    return hint[: found.end()] + as_commands(hint[found.end() :])


def word(name: str, value: Any) -> str:
    """An argument as `looptune call` and `--set` read it, quoted for a shell."""
    return f"{name}={shlex.quote(value if _is_plain(value) else json.dumps(value, ensure_ascii=False))}"


def _command(call: str) -> str:
    """The command for the source of a call; '' when it is none of named literals."""
    try:
        tree = ast.parse(call, mode="eval").body
        if not isinstance(tree, ast.Call) or not isinstance(tree.func, ast.Name) or tree.args:
            return ""
        given = {str(part.arg): _literal(part.value) for part in tree.keywords}
    except (SyntaxError, ValueError, KeyError):
        return ""
    own = _COMMANDS.get((tree.func.id, *given))
    if own:
        return "looptune " + own.format_map({name: shlex.quote(str(value)) for name, value in given.items()})
    return " ".join(["looptune call", tree.func.id, *(word(name, value) for name, value in given.items())])


def _literal(node: ast.expr) -> Any:
    return _JSON[node.id] if isinstance(node, ast.Name) else ast.literal_eval(node)


def _is_plain(value: Any) -> bool:
    """Whether a text is read as that text again: `call` takes what it can for JSON, but knows where digits are text."""
    if not isinstance(value, str):
        return False
    try:
        json.loads(value)
    except ValueError:
        return True
    return value.isdecimal()
