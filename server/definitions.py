"""What a tool's definition costs an agent's context, without what says nothing.

    lean(tool)          # the same values are valid, in about two thirds of the bytes
    reads(), writes()   # the hints of a tool

Every definition is in the context of every conversation. pydantic repeats each name as a title, writes "or null" for
what may be left out, and describes models that their tool describes already; none of that tells an agent anything.
"""

from typing import Annotated, Any, Literal

from mcp.types import Tool, ToolAnnotations
from pydantic import Field

# What all definitions together may take as they go over the wire: compact JSON in UTF-8.
MAX_BYTES = 24_000
Detail = Annotated[Literal["concise", "full"], Field(description="full: all of it")]
_NULL = {"type": "null"}


def reads() -> ToolAnnotations:
    """The hints of a tool that changes nothing."""
    return ToolAnnotations(read_only_hint=True, destructive_hint=False, idempotent_hint=True, open_world_hint=False)


def writes(idempotent: bool = False, destructive: bool = False) -> ToolAnnotations:
    """The hints of a tool that writes into the workspace; none reaches the world outside."""
    return ToolAnnotations(
        read_only_hint=False, destructive_hint=destructive, idempotent_hint=idempotent, open_world_hint=False
    )


def lean(tool: Tool) -> Tool:
    """`tool` with definitions that say the same in fewer bytes."""
    return tool.model_copy(
        update={
            "description": " ".join((tool.description or "").split()),
            "input_schema": _slim(tool.input_schema, nulls=False),
            "output_schema": tool.output_schema and _slim_output(tool.output_schema),
        }
    )


def _slim_output(schema: dict[str, Any]) -> dict[str, Any]:
    """A result's schema, without `required` (every result has all of its fields) and what its arrays and maps hold."""
    found = _slim(schema, nulls=True)
    for part in (found, *found.get("$defs", {}).values()):
        part.pop("required", None)
        for field in part.get("properties", {}).values():
            for what in ("default", "items", "additionalProperties"):
                field.pop(what, None)
    return found


def _slim(schema: dict[str, Any], nulls: bool) -> dict[str, Any]:
    """Without titles of fields, descriptions of models, and what is the default anyway; `nulls` says whether null is a
    value, as in results, or another way to leave an argument out."""
    found = dict(schema)
    parts = found.get("anyOf", [])
    if not nulls and len(parts) == 2 and _NULL in parts:
        (kept,) = (part for part in found.pop("anyOf") if part != _NULL)
        if found.get("default", 0) is None:
            found.pop("default")
        found = {**kept, **found}
    found.pop("title", None)
    found.pop("format", None)  # a moment may be a date alone, which `date-time` is not
    if "properties" in found:
        found.pop("description", None)
    if found.get("additionalProperties") is True:
        found.pop("additionalProperties")
    if not nulls and found.get("default", 1) in ([], {}, "", 0):  # of which the last is also False
        found.pop("default")  # nothing, none, or no, which is what leaving it out means
    for key in ("properties", "$defs"):
        if key in found:
            found[key] = {name: _slim(part, nulls) for name, part in found[key].items()}
    for key in ("items", "additionalProperties"):
        if isinstance(found.get(key), dict):
            found[key] = _slim(found[key], nulls)
    if "anyOf" in found:
        found["anyOf"] = [_slim(part, nulls) for part in found["anyOf"]]
    return found
