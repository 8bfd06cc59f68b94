"""What an agent pays for the tools, and what it is told of each argument.

.venv/bin/python -P -m pytest tests/test_definitions.py
"""

import json
from collections.abc import Iterator
from typing import Any

import anyio
import jsonschema
import pytest
from mcp import Client
from mcp.types import Tool

from server.app import INSTRUCTIONS, build_server
from server.definitions import MAX_BYTES
from tools.export.judge import Bars


def listed(mode: str = "auto") -> list[Tool]:
    async def ask() -> list[Tool]:
        async with Client(build_server(), mode=mode) as client:
            return (await client.list_tools()).tools

    return anyio.run(ask)


def arguments() -> Iterator[tuple[str, str, dict[str, Any]]]:
    for tool in anyio.run(build_server().list_tools):
        for name, schema in tool.input_schema["properties"].items():
            yield tool.name, name, schema


ARGUMENTS = pytest.mark.parametrize(
    ("tool", "name", "schema"), [pytest.param(*a, id=f"{a[0]}.{a[1]}") for a in arguments()]
)


@pytest.mark.parametrize("mode", ["legacy", "auto"])
def test_all_definitions_together_stay_within_their_bytes(mode: str) -> None:
    tools = [tool.model_dump(mode="json", by_alias=True, exclude_none=True) for tool in listed(mode)]
    sizes = {tool["name"]: len(json.dumps(tool, ensure_ascii=False, separators=(",", ":")).encode()) for tool in tools}
    whole = len(json.dumps(tools, ensure_ascii=False, separators=(",", ":")).encode())
    assert whole <= MAX_BYTES == 24_000, f"{whole} bytes: {sizes}"


def test_each_tool_says_when_to_use_it_and_is_hinted_in_full() -> None:
    for tool in listed():
        hints = tool.annotations
        assert tool.title and tool.description and hints and tool.output_schema, tool.name
        assert None not in (
            hints.read_only_hint,
            hints.destructive_hint,
            hints.idempotent_hint,
            hints.open_world_hint,
        ), tool.name
        assert "Use it" in tool.description, tool.name
        assert tool.output_schema["type"] == "object" and "$defs" not in tool.output_schema, tool.name
    assert len(INSTRUCTIONS) < 2000


def test_the_instructions_name_the_bars_of_the_gate() -> None:
    bars, said = Bars(), " ".join(INSTRUCTIONS.split())
    assert bars.recall == bars.controls
    assert f"recall and controls {bars.recall:g} or more, at most {bars.recall_lost:g} of recall and" in said
    assert f"{bars.controls_broken:g} of the controls lost by quantizing" in said
    assert f"at most {bars.perplexity_ratio:g} times the base's" in said


@ARGUMENTS
def test_each_argument_is_described_bounded_and_has_an_example(tool: str, name: str, schema: dict[str, Any]) -> None:
    assert schema.get("description"), "no description"
    kind = schema["type"]
    if kind in ("integer", "number"):
        assert {"minimum", "exclusiveMinimum"} & set(schema) and {"maximum", "exclusiveMaximum"} & set(schema)
    if kind == "array":
        assert "maxItems" in schema and "items" in schema
    if kind == "object":
        assert "maxProperties" in schema
    if kind == "string" and "enum" not in schema and name not in ("since", "until"):
        assert "maxLength" in schema
    shows = "e.g." in schema["description"] or "enum" in schema or kind == "boolean" or "default" in schema
    assert shows or kind in ("number", "integer") or name in ("modified", "model"), "no example"


def test_schemas_are_valid_and_the_defaults_they_name_fit_them() -> None:
    for tool in listed():
        for schema in (tool.input_schema, tool.output_schema):
            jsonschema.Draft202012Validator.check_schema(schema)
        for schema in tool.input_schema["properties"].values():
            if "default" in schema:
                jsonschema.validate(schema["default"], {**schema, "$defs": tool.input_schema.get("$defs", {})})


def refused(tool: str, **given: Any) -> str:
    async def ask() -> str:
        async with Client(build_server()) as client:
            result = await client.call_tool(tool, given)
            assert result.is_error
            return "".join(part.text for part in result.content if part.type == "text")

    return anyio.run(ask)


def test_a_wrong_tool_or_argument_is_answered_with_the_right_ones() -> None:
    assert "Did you mean training_status?" in refused("trainig_status")
    said = refused("training_status", run_id="run-a-0001")
    assert "no argument 'run_id'" in said and "It takes: run, wait_seconds" in said
    assert "run: Field required. Next: mend it and call training_status again." in refused("training_status")


def test_a_wrong_value_is_named_with_what_would_be_right() -> None:
    said = refused("query_memory", query="x", kind="song", limit=0)
    assert "kind: Input should be 'fact', 'definition'" in said and "got 'song'" in said
    assert "limit: Input should be greater than or equal to 1, got 0" in said
    said = refused("training_status", run="run-a-0001", wait_seconds=True)
    assert said == "wait_seconds: Expected a number, got True. Next: mend it and call training_status again."
    assert "errors.pydantic.dev" not in said and "Error executing" not in said


def test_a_crash_says_nothing_of_its_inside(monkeypatch: pytest.MonkeyPatch) -> None:
    import tools.policy.preserve

    def crash(*_: Any, **__: Any) -> None:
        raise RuntimeError("a secret of the inside")

    monkeypatch.setattr(tools.policy.preserve, "check_preservation", crash)
    said = refused("check_preservation", original="a", modified="b")
    assert "secret" not in said and "looptune doctor" in said
