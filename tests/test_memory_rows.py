"""Every memory call that the cards of memory operations teach, executed on this server's own tools and a real store.

.venv/bin/python -P -m pytest tests/test_memory_rows.py
"""

from pathlib import Path

import anyio
from mcp import Client

from server.app import build_server
from tools.data.lessons import lesson_rows, read_lesson
from tools.policy.markup import SERVER_TOOLS, find_calls
from tools.settings import Settings, shipped_data

CARDS = sorted((shipped_data() / "cards" / "memory_operation").glob("*.yaml"))


def test_every_memory_call_of_the_cards_succeeds(tmp_path: Path) -> None:
    calls = [
        (row.id, call)
        for card in CARDS
        for row in lesson_rows(read_lesson(card), f"memory_operation/{card.stem}")
        for call in find_calls(row.text)
        if call.name in ("memory.query", "memory.remember")
    ]
    assert len(calls) >= 90 and {call.name for _, call in calls} == {"memory.query", "memory.remember"}

    async def run() -> None:
        async with Client(build_server(Settings(home=tmp_path))) as client:
            for row, call in calls:
                body = {"text": call.body} if call.body else {}
                result = await client.call_tool(SERVER_TOOLS[call.name], {**call.arguments, **body})
                assert not result.is_error, f"{row}: {result.content}"
                assert result.structured_content is not None
                text = result.content[0].text
                assert len(text) <= 1500
                if call.name == "memory.remember":
                    assert result.structured_content["text"] == call.body.strip()
                    listed = [tag for tag in call.arguments.get("tags", "").split(",") if tag]
                    found = await client.call_tool("query_memory", {"query": call.body, "tags": listed, "limit": 3})
                    assert result.structured_content["id"] in [h["id"] for h in found.structured_content["hits"]]
                else:
                    hits = result.structured_content["hits"]
                    assert len(hits) <= int(call.arguments.get("limit", 5))
                    assert {hit["kind"] for hit in hits} <= {call.arguments.get("kind", hit["kind"]) for hit in hits}

    anyio.run(run)
