"""What a person types, as the arguments of a tool or a recipe; what cannot be meant so is refused with what can.

arguments(["count=20", "name=holds"], "")             # {"count": 20, "name": "holds"}
as_declared("name", 42, {"type": "string"})           # "42"
as_declared("settings", "epochs=2", {"type": "object"})    # InputError: … Next: write settings='{"epochs": 2}'
"""

import ast
import difflib
import json
import shlex
import sys
from pathlib import Path
from typing import Any

from typer.core import TyperCommand, TyperGroup

from tools.errors import InputError
from tools.files import read_json

# Words that one tries, for what goes through a tool.
_CALLS = {
    "train": "start_training dataset={}",
    "evaluate": "evaluate_model run={}",
    "quantize": "quantize run={}",
    "ask": "ask_model prompt={}",
}


class Commands(TyperGroup):
    """The commands of `looptune`; a word that stands for a tool is refused with the call."""

    def resolve_command(self, ctx: Any, args: list[str]) -> Any:
        if args[0] in _CALLS:
            what = shlex.quote(args[1]) if len(args) > 1 and not args[1].startswith("-") else "…"
            raise InputError(
                f"There is no command {args[0]!r}: it is a tool.", f"`looptune call {_CALLS[args[0]].format(what)}`"
            )
        return super().resolve_command(ctx, args)


class SetsFields(TyperCommand):
    """A command with --set; a field of a recipe that is given as an option is refused with the words that set it."""

    def parse_args(self, ctx: Any, args: list[str]) -> list[str]:
        from tools.training.config import TrainingConfig

        own = {name for param in self.params for name in param.opts}
        for place, word in enumerate(args):
            option, _, value = word.partition("=")
            field = option.removeprefix("--").replace("-", "_")
            if option.startswith("--") and option not in own and field in TrainingConfig.model_fields:
                value = shlex.quote(value or "".join(args[place + 1 : place + 2]) or "…")
                raise InputError(f"{option} is a field of a recipe, and no option.", f"write --set {field}={value}")
        return super().parse_args(ctx, args)


def arguments(values: list[str], source: str) -> dict[str, Any]:
    """A tool's arguments from key=value words and a JSON object. Raises InputError."""
    found: dict[str, Any] = {}
    if source:
        try:
            found = json.loads(sys.stdin.read()) if source == "-" else read_json(Path(source))
        except FileNotFoundError as error:
            raise InputError(f"There is no file {source}.", 'name one that holds {"key": value}') from error
        except (OSError, ValueError) as error:
            raise InputError(f"Expected a JSON object in {source}: {error}", 'write {"key": value}') from error
        if not isinstance(found, dict):
            raise InputError(f"Expected a JSON object in {source}, got {type(found).__name__}.", "write {…}")
    for word in values:
        key, equals, value = word.partition("=")
        if not equals or not key:
            raise InputError(f"Expected key=value, got {word!r}.", "write for example count=100")
        found[key] = _read(value)
    return found


def as_declared(key: str, value: Any, schema: dict[str, Any]) -> Any:
    """`value` as the tool declares it: a word such as 42 is text where it wants text.

    Raises:
        InputError: it is text where the tool wants a list or an object.
    """
    types = {part["type"] for part in (schema, *schema.get("anyOf", [])) if "type" in part} - {"null"}
    if types and types <= {"array", "object"} and isinstance(value, str):
        said = "looks like JSON but is none: JSON wants double quotes" if value[:1] in "[{" else "has to be JSON"
        meant = json.dumps(_meant(value, "array" in types), ensure_ascii=False)
        raise InputError(f"{key} {said}; got {value[:80]!r}.", f"write {key}={shlex.quote(meant)}")
    is_number = isinstance(value, int | float) and not isinstance(value, bool)
    return str(value) if is_number and "string" in types and not types & {"integer", "number"} else value


def near(changes: dict[str, Any], known: list[str]) -> dict[str, Any]:
    """`changes` under the known names that are nearest to theirs."""
    return {(difflib.get_close_matches(key, known, 1) or [key])[0]: value for key, value in changes.items()}


def _read(value: str) -> Any:
    try:
        return json.loads(value)
    except ValueError:
        return value


def _meant(value: str, listed: bool) -> Any:
    """The list or object that a text was meant as; an example when nobody can tell."""
    key, equals, rest = value.partition("=")
    try:
        found = ast.literal_eval(value)
        json.dumps(found)
    except (ValueError, SyntaxError, TypeError):
        found = {key: _read(rest)} if equals and key.isidentifier() else "…" if value[:1] in "[{" else value
    if listed:
        return found if isinstance(found, list) else [found]
    return found if isinstance(found, dict) else {"key": found}
