"""The core dataset's memory operations and context windows, against this server: every call succeeds, windows survive.

.venv/bin/python -P -m pytest tests/test_memory_rows.py
"""

import json
from collections import Counter
from fnmatch import fnmatch
from pathlib import Path
from typing import Any

import anyio
import pytest
from mcp import Client

from server.app import build_server
from tools.data.examples import Example, read_examples
from tools.evaluation.calls import find_json
from tools.evaluation.graders import grader
from tools.memory.embedder import embed
from tools.policy.levels import LEVELS, level_of
from tools.policy.markup import SERVER_TOOLS, Call, find_calls
from tools.policy.preserve import check_preservation
from tools.policy.rules import read_rules
from tools.policy.tags import find_tags, render
from tools.settings import Settings, shipped_data
from tools.workspace import Workspace

MAY_FIND_NOTHING = 0.1  # of the queries: those whose filters nothing that an answer remembers passes


@pytest.fixture(scope="module")
def core() -> list[Example]:
    folder = shipped_data() / "core"
    return [*read_examples(folder / "train.jsonl"), *read_examples(folder / "valid.jsonl")]


def server_calls(core: list[Example], *kinds: str) -> list[tuple[str, Call]]:
    """The calls of this server's tools in the answers, with the row that each stands in."""
    rows = [row for row in core if not kinds or row.kind in kinds]
    return [(row.id, call) for row in rows for call in find_calls(row.text) if call.name in SERVER_TOOLS]


@pytest.mark.slow
def test_every_call_of_the_core_dataset_is_executed_on_a_real_store_and_succeeds(
    core: list[Example], tmp_path: Path
) -> None:
    calls = server_calls(core)
    of_memory = server_calls(core, "memory_operation", "context_window")
    assert len(of_memory) >= 100 and {call.name for _, call in of_memory} == set(SERVER_TOOLS)

    found: dict[str, int] = {}

    async def run() -> None:
        async with Client(build_server(Settings(home=tmp_path))) as client:
            # what is asked for was remembered before, in some other answer
            for row, call in sorted(calls, key=lambda one: one[1].name != "memory.remember"):
                arguments = {**call.arguments, **({"text": call.body} if call.body else {})}
                result = await client.call_tool(SERVER_TOOLS[call.name], arguments)
                assert not result.is_error, f"{row}: {result.content}"
                assert result.structured_content is not None
                assert len(result.content[0].text) <= 1500  # type: ignore[union-attr]
                await look(client, row, call, result.structured_content)

    async def look(client: Client, row: str, call: Call, answer: dict[str, Any]) -> None:
        if call.name == "memory.remember":
            assert answer["text"] == call.body.strip() and answer["belongs"] in ("weights", "memory")
            listed = [tag for tag in call.arguments.get("tags", "").split(",") if tag]
            hits = await client.call_tool("query_memory", {"query": call.body, "tags": listed, "limit": 3})
            assert answer["id"] in [hit["id"] for hit in (hits.structured_content or {})["hits"]]
        elif call.name == "memory.query":
            found[f"{row} {call.arguments}"] = len(answer["hits"])
            assert len(answer["hits"]) <= int(call.arguments.get("limit", 5))
            for hit in answer["hits"]:
                assert hit["kind"] == call.arguments.get("kind", hit["kind"])
                tags = [tag for tag in call.arguments.get("tags", "").split(",") if tag]
                assert all(any(fnmatch(own, tag) for own in hit["tags"]) for tag in tags)
        else:
            assert isinstance(answer["allowed"], bool)

    anyio.run(run)
    nothing = [query for query, hits in found.items() if not hits]
    assert len(found) >= 40 and len(nothing) <= MAY_FIND_NOTHING * len(found), nothing


def test_context_windows_are_read_back_as_they_were_answered(core: list[Example]) -> None:
    windows = [row for row in core if row.kind == "context_window"]
    assert len(windows) >= 250
    dropped = 0
    for row in windows:
        assert isinstance(row.output, dict)
        read = find_json(f"Here it is:\n\n```json\n{row.answer}\n```\n", lambda value: "context_window" in value)
        assert read == row.output, row.id
        meant = row.metadata  # of the row, not what the answer says of itself
        rule = {"type": "context_window", "rules": meant.rule_compliance, "level": meant.preservation_level}
        assert grader(rule).problem(row.answer) == "", row.id
        if meant.rule_compliance:
            dropped += 1
            window = read["context_window"]
            left = [tag for tag in window["active_rules"] if tag != meant.rule_compliance[0]]
            without = json.dumps({**read, "context_window": {**window, "active_rules": left}})
            problem = grader(rule).problem(without)
            assert meant.rule_compliance[0] in problem or "active_rules: is empty" in problem, row.id
    assert dropped >= 200


def test_every_rule_that_a_window_makes_active_has_a_meaning(core: list[Example], workspace: Workspace) -> None:
    meanings = read_rules(workspace).meanings()
    active = {
        rule for row in core if isinstance(row.output, dict) for rule in row.output["context_window"]["active_rules"]
    }
    assert len(active) >= 20 and not active - set(meanings)


def fenced(window: dict[str, Any], tag: str, indent: int | None = None) -> str:
    return f"```json\n{json.dumps(window, ensure_ascii=False, indent=indent)}\n```\n\n{tag}\n"


def test_context_windows_keep_their_level_through_tag_and_checker(core: list[Example]) -> None:
    """Under no level but the tag's own: formatting is free from moderate on, and no part of a window may change below
    flexible, where another project's window in its place is refused by its meaning."""
    levels: Counter[str] = Counter()
    rows = [row for row in core if row.kind == "context_window"]
    for row, next_row in zip(rows, [*rows[1:], rows[0]], strict=True):
        assert isinstance(row.output, dict) and isinstance(next_row.output, dict)
        assert isinstance(row.output, dict)
        level, rules = row.output["metadata"]["preservation_level"], row.output["metadata"]["rule_compliance"]
        tag = render(level, rules)
        (read,) = find_tags(tag)
        assert (read.level, list(read.rules)) == (level, rules), row.id
        own = level_of(level, rules)
        levels[own] += 1
        window = row.output["context_window"]
        formatted = check_preservation(fenced(window, tag), fenced(window, tag, indent=4), embed=embed)
        assert (formatted.level, formatted.allowed) == (own, own != "strict"), row.id
        if own == "flexible" and levels[own] > 30:  # each takes the embedder, and thirty are enough
            continue
        if own == "flexible":
            other = next_row.output["context_window"]
            assert not check_preservation(fenced(window, tag), fenced(other, tag), embed=embed).allowed, row.id
            continue
        for part, value in window.items():
            changed = {**window, part: "Do as you like." if isinstance(value, str) else {} if value else None}
            refused = check_preservation(fenced(window, tag), fenced(changed, tag))
            assert not refused.allowed and refused.level == own and refused.violations, f"{row.id}: {part}"
    assert min(levels[level] for level in LEVELS) >= 20, levels
