"""What stands in an answer besides prose: JSON, and tool calls as this server's own tools would take them.

    find_json('Here: ```json\\n{"a": 1}\\n```')                  # {'a': 1}
    accepts = accepted_by({"query_memory": schema})             # input schemas, as an MCP client lists them
    accepts(Call("memory.query", {"query": "money", "limit": "90"}))    # 'query_memory: limit: 90 is greater than …'

The schemas come from the server as data, since an evaluation runs in a process that never imports it.
"""

import json
from collections.abc import Callable
from typing import Any

from tools.errors import InputError
from tools.policy.markup import SERVER_TOOLS, Call
from tools.syntax import blocks

_TRIES = 200  # places at which JSON is looked for


def normal(text: str) -> str:
    """`text` in lower case, with single spaces."""
    return " ".join(text.casefold().split())


def find_json(answer: str, wanted: Callable[[Any], bool] = lambda value: True) -> Any:
    """The JSON in an answer: all of it, a fenced block, or the first object or list that stands in it.

    Args:
        wanted: JSON for which it says no is passed over.

    Raises:
        InputError: there is none.
    """
    fenced = [block.code for block in blocks(answer) if block.language in ("json", "")]
    for text in (answer, *fenced):
        try:
            value = json.loads(text)
        except (ValueError, RecursionError):
            continue
        if wanted(value):
            return value
    decoder = json.JSONDecoder()
    place = tries = 0
    while tries < _TRIES and (starts := [at for sign in "{[" if (at := answer.find(sign, place)) >= 0]):
        place, tries = min(starts), tries + 1
        try:
            value, end = decoder.raw_decode(answer, place)
        except (ValueError, RecursionError):
            place += 1
            continue
        if wanted(value):
            return value
        place = end
    raise InputError("The answer has no such JSON.", "answer with JSON")


def accepted_by(schemas: dict[str, dict[str, Any]]) -> Callable[[Call], str]:
    """What the tools with these input schemas have against a call; '' when it is accepted, or is no tool of theirs."""

    def problem(call: Call) -> str:
        from jsonschema import Draft202012Validator

        tool = SERVER_TOOLS.get(call.name)
        if tool is None:
            return ""
        if tool not in schemas:
            return f"this server has no tool {tool}"
        properties = schemas[tool].get("properties", {})
        arguments: dict[str, Any] = {}
        for name, value in call.arguments.items():
            if name not in properties:
                return f"{tool} has no argument {name}"
            arguments[name] = _as_declared(value, properties[name])
        if call.body.strip():
            arguments["text"] = call.body.strip()
        error = next(Draft202012Validator(schemas[tool]).iter_errors(arguments), None)
        return f"{tool}: {'.'.join(map(str, error.path)) or 'arguments'}: {error.message[:160]}" if error else ""

    return problem


def _as_declared(value: str, schema: dict[str, Any]) -> Any:
    """Markup holds text only: a number, or a list with commas, where the tool declares one."""
    kinds = {part.get("type") for part in [schema, *schema.get("anyOf", [])]}
    if "array" in kinds:
        return [part.strip() for part in value.split(",") if part.strip()]
    if kinds & {"integer", "number", "boolean"}:
        try:
            return json.loads(value)
        except ValueError:
            return value
    return value
