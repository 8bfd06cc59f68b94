"""Each tool against its own schema: whatever fits it, and whatever does not, is answered with a result or a refusal.

.venv/bin/python -P -m pytest tests/test_fuzz.py

Values are drawn from the published schemas, sharpened with names, paths and texts that have broken other programs. A
reply that says the tool failed in a way nobody foresaw is a failure here, and so is a byte on stdout, an answer that
does not fit the output schema, and one that takes longer than 45 s.
"""

import shutil
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import anyio
import jsonschema
import pytest
from anyio.from_thread import BlockingPortal, start_blocking_portal
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st
from mcp import Client
from mcp.shared.exceptions import MCPError

from server.answers import MAX_TEXT
from server.app import build_server
from server.toolbox import loop, training
from tools.jobs import record
from tools.settings import Settings

NASTY = [
    "../../etc/passwd", "/etc/passwd", "..", ".", "a/../b", "con", "NUL.txt", "COM1", "c:\\windows", "\\\\host\\share",
    "holds\x00.json", "ｈｏｌｄｓ", "h\u202eolds", "ho\u200blds", "..%2f..%2fetc", "~/.ssh/id_rsa", "$(id)", "`id`",
    "'; DROP TABLE entries; --", "{{7*7}}", "${jndi:ldap://x}", "<script>", "\ud7ff", "🙂" * 20, "NaN", "-0", "1e999",
    "file:///etc/passwd", "https://example.com/x", "a" * 64, "a" * 65,
]  # fmt: skip
# What there is in the workspace that is fuzzed: without it nearly every call ends at a name that stands for nothing.
REAL = ["holds", "run-holds-0001", "quant-holds-0001", "gate-holds-0001", "tiny", "forty-two", "embedded", "soft-hold"]
NAMES = {"dataset", "run", "model", "name", "resume", "against", "probes", "base", "preset", "sprint", "id", "label"}
TEXT = st.one_of(st.sampled_from(NASTY), st.text(st.characters(exclude_categories=["Cs"]), max_size=60))
JSON = st.recursive(
    st.one_of(st.none(), st.booleans(), st.integers(), st.floats(allow_nan=False, allow_infinity=False), TEXT),
    lambda inner: st.one_of(st.lists(inner, max_size=3), st.dictionaries(TEXT, inner, max_size=3)),
    max_leaves=6,
)
# What would only make the test slow: many rows take long, and are no other code.
FEW = {
    ("generate_examples", "count"): st.integers(10, 24),
    ("training_status", "wait_seconds"): st.just(0),
    ("ask_model", "max_tokens"): st.integers(1, 4),
}


def values(schema: dict[str, Any], defs: dict[str, Any], name: str = "") -> st.SearchStrategy[Any]:
    """Values that fit `schema`; those of an argument that is a `name` are mostly names that there are."""
    if "$ref" in schema:
        return values(defs[schema["$ref"].rpartition("/")[2]], defs)
    if name in NAMES and schema.get("type") == "string":
        most = schema.get("maxLength", 80)
        known = st.sampled_from(REAL)
        return st.one_of(known, known, known, TEXT.filter(lambda text: len(text) <= most))
    if "enum" in schema:
        return st.sampled_from(schema["enum"])
    kind = schema.get("type")
    if kind == "boolean":
        return st.booleans()
    if kind == "integer":
        return st.integers(schema.get("minimum"), schema.get("maximum", schema.get("exclusiveMaximum", 2**31) - 1))
    if kind == "number":
        return st.floats(schema.get("minimum"), schema.get("maximum"), allow_nan=False, allow_infinity=False)
    if kind == "string":
        least, most = schema.get("minLength", 0), schema.get("maxLength", 80)
        return TEXT.filter(lambda text: least <= len(text) <= most)
    if kind == "array":
        few = min(3, schema.get("maxItems", 3))
        return st.lists(values(schema.get("items", {}), defs), min_size=schema.get("minItems", 0), max_size=few)
    if kind == "object" and "properties" in schema:
        parts = {name: values(part, defs, name) for name, part in schema["properties"].items()}
        required = set(schema.get("required", []))
        return st.fixed_dictionaries(
            {name: part for name, part in parts.items() if name in required},
            optional={name: part for name, part in parts.items() if name not in required},
        )
    return st.dictionaries(TEXT, JSON, max_size=3) if kind == "object" else JSON


TOOLS = {tool.name: tool for tool in anyio.run(build_server().list_tools)}


def fitting(tool: str) -> st.SearchStrategy[dict[str, Any]]:
    """Arguments that fit the tool's schema."""
    schema = TOOLS[tool].input_schema
    parts = {
        name: FEW.get((tool, name), values(part, schema.get("$defs", {}), name))
        for name, part in schema["properties"].items()
    }
    required = set(schema.get("required", []))
    return st.fixed_dictionaries(
        {name: part for name, part in parts.items() if name in required},
        optional={name: part for name, part in parts.items() if name not in required},
    )


def wrong(tool: str) -> st.SearchStrategy[dict[str, Any]]:
    """Arguments with the right names and any values."""
    names = sorted(set(TOOLS[tool].input_schema["properties"]) - {name for known, name in FEW if known == tool})
    return st.dictionaries(st.one_of(st.sampled_from(names), TEXT), JSON, max_size=4)


@pytest.fixture(scope="module")
def talk(
    exported_home: Path, tmp_path_factory: pytest.TempPathFactory
) -> Iterator[tuple[BlockingPortal, Client, Path]]:
    """A client that stays connected, and the workspace's folder, in which a model was trained and exported. Jobs are
    queued and not started: what they do has tests of its own."""
    home = tmp_path_factory.mktemp("fuzz") / "home"
    shutil.copytree(exported_home, home, symlinks=True)
    with pytest.MonkeyPatch.context() as patch, start_blocking_portal() as portal:
        patch.setattr(record, "start", lambda workspace, job: None)
        patch.setattr(training, "tend", lambda workspace: None)
        patch.setattr(loop, "_WAIT_SECONDS", 0.0)
        client = Client(build_server(Settings(home=home)))
        with portal.wrap_async_context_manager(client) as connected:
            yield portal, connected, home


@pytest.mark.parametrize("tool", TOOLS)
@settings(max_examples=12, deadline=None, suppress_health_check=list(HealthCheck))
@given(data=st.data())
def test_every_reply_is_a_result_or_a_refusal(
    tool: str, talk: tuple[BlockingPortal, Client, Path], capfd: pytest.CaptureFixture[str], data: st.DataObject
) -> None:
    portal, client, home = talk
    given_arguments = data.draw(st.one_of(fitting(tool), fitting(tool), wrong(tool)))

    async def call() -> Any:
        with anyio.fail_after(120):
            return await client.call_tool(tool, given_arguments)

    try:
        result = portal.call(call)
    except MCPError as error:
        raise AssertionError(f"a protocol error instead of a refusal: {error}") from error
    said = "".join(part.text for part in result.content if part.type == "text")
    assert "nobody foresaw" not in said, capfd.readouterr().err[-3000:]
    if result.is_error:
        assert said.strip(), "a refusal that says nothing"
    else:
        jsonschema.validate(result.structured_content, TOOLS[tool].output_schema or {})
        assert len(said) <= MAX_TEXT
    assert capfd.readouterr().out == ""
    assert {path.name for path in home.parent.iterdir()} <= {"home"}, "something was written outside the workspace"
