"""The memory's tools as a client calls them: what belongs where, and forgetting by filter, asked for and declined.

.venv/bin/python -P -m pytest tests/test_memory_tools.py
"""

from collections.abc import Awaitable, Callable
from typing import Any

import anyio
import pytest
from mcp import Client
from mcp.types import ElicitResult

from server.app import build_server

Call = Callable[..., Awaitable[dict[str, Any]]]


def session(talk: Callable[[Call], Awaitable[None]], **client: Any) -> None:
    """Let `talk` call tools of a server over an empty workspace; each has to succeed."""

    async def run() -> None:
        async with Client(build_server(), **client) as connected:

            async def call(tool: str, **arguments: Any) -> dict[str, Any]:
                result = await connected.call_tool(tool, arguments)
                assert not result.is_error, result.content
                return dict(result.structured_content or {})

            await talk(call)

    anyio.run(run)


async def filled(call: Call) -> None:
    for number in (1, 2):
        await call("remember", text=f"Gate {number} opens at six.", kind="rule", tags=["rule:gates"])
    await call("remember", text="The depot lies in Graz.", tags=["rule:depot"])


def test_what_was_changed_again_and_again_belongs_into_memory_also_when_it_is_said_again() -> None:
    async def talk(call: Call) -> None:
        belongs = []
        for days in (30, 14, 21, 21):
            kept = await call("remember", text=f"Refunds are possible within {days} days.", kind="rule")
            belongs.append(kept["belongs"])
        assert not kept["new"] and not kept["conflicts"]
        assert belongs == ["weights", "weights", "memory", "memory"]

    session(talk)


def test_what_is_kept_or_found_says_what_comes_next() -> None:
    async def talk() -> None:
        async with Client(build_server()) as client:

            async def said(tool: str, **arguments: Any) -> str:
                return (await client.call_tool(tool, arguments)).content[0].text  # type: ignore[union-attr]

            assert "Next: ask with other words" in await said("query_memory", query="gate")
            assert "Next: loop://state says" in await said("remember", text="Gate 1 opens at six.", kind="rule")
            assert "Next: query_memory finds it." in await said("remember", text="Gate 1 opened late.", kind="run_note")
            assert "forget(id=…) what is no longer true." in await said("query_memory", query="gate")
            found = await said("remember", text="User: Always write amounts as whole cents.", find=True)
            assert found.startswith("1 insight, ") and "Next: " in found

    anyio.run(talk)


def test_forgetting_by_filter_shows_what_would_go_and_removes_it_once_it_is_confirmed() -> None:
    async def talk(call: Call) -> None:
        await filled(call)
        shown = await call("forget", tags=["rule:gates"])
        assert (shown["removed"], shown["count"]) == (False, 2)
        assert (await call("query_memory", query="gate", kind="rule"))["count"] == 2
        gone = await call("forget", tags=["rule:gates"], confirm=True)
        assert gone["removed"] and sorted(gone["ids"]) == sorted(shown["ids"])
        left = await call("query_memory", query="gate depot", limit=10)
        assert [hit["text"] for hit in left["hits"]] == ["The depot lies in Graz."]
        nothing = await call("forget", tags=["rule:gates"], confirm=True)
        assert (nothing["removed"], nothing["count"]) == (False, 0)

    session(talk)


@pytest.mark.parametrize(("said", "left"), [("accept", 1), ("decline", 3), ("cancel", 3)])
def test_a_person_is_shown_what_a_filter_means_before_it_goes(said: str, left: int) -> None:
    asked: list[str] = []

    async def answer(context: Any, params: Any) -> ElicitResult:
        asked.append(params.message)
        return ElicitResult(action=said, content={"yes": True} if said == "accept" else None)  # type: ignore[arg-type]

    async def talk(call: Call) -> None:
        await filled(call)
        gone = await call("forget", kind="rule")
        assert gone["removed"] is (said == "accept") and gone["count"] == 2
        assert len(asked) == 1 and asked[0].startswith("Remove 2 of 2 memories?")
        assert "Gate 1 opens at six." in asked[0] and "Graz" not in asked[0]
        assert (await call("query_memory", query="gate depot", limit=10))["count"] == left

    session(talk, elicitation_callback=answer)
