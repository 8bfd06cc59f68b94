"""The whole loop with the embedded model: three things remembered, taught, verified, archived, and answered.

.venv/bin/python -P -m pytest tests/test_learning_embedded.py        # some minutes on two cores
"""

from typing import Any

import anyio
import pytest
from mcp import Client

from server.app import build_server
from tools.jobs import record
from tools.memory.store import MemoryStore
from tools.workspace import Workspace

TALK = """\
User: By 'soft hold' we mean a reservation that lapses by itself after 15 minutes.
Assistant: Understood.
User: Definition: a ferry is the nightly import of orders. And the report is late again, can you look?
"""
CENTS = "Always store amounts as whole cents."
QUESTIONS = {  # and what an answer has to say
    "What is a soft hold here?": "lapses by itself after 15 minutes",
    "What is a ferry here?": "nightly import of orders",
    "What is our rule about money in cents?": "whole cents",
}


@pytest.mark.slow
@pytest.mark.timeout(3000)
def test_what_was_remembered_is_taught_verified_archived_and_then_answered(with_bases: Workspace) -> None:
    """Two of three have to be known: a model of 135 million parameters may miss one, which then has to stay."""

    async def call(tool: str, **arguments: Any) -> dict[str, Any]:
        async with Client(build_server()) as client:
            result = await client.call_tool(tool, arguments)
            assert not result.is_error, result.content
            return dict(result.structured_content or {})

    async def hits(query: str) -> list[str]:
        return [hit["id"] for hit in (await call("query_memory", query=query))["hits"]]

    async def by_day() -> dict[str, str]:
        found = await call("remember", text=TALK, find=True)
        kept = await call("remember", text=CENTS, kind="rule", tags=["business:money_in_cents"], source="user")
        ids = dict(zip(QUESTIONS, [*(one["id"] for one in found["found"]), kept["id"]], strict=True))
        for question, id in ids.items():
            assert id in await hits(question)
        made = await call("generate_examples", source="memory", count=360, name="night")
        assert (await call("validate_dataset", dataset=made["dataset"]))["ok"]
        return ids

    async def by_night() -> tuple[str, str]:
        ends = []
        for tool, arguments in (
            ("start_training", {"dataset": "night", "preset": "embedded", "settings": {"epochs": 4}}),
            ("integrate_insights", {"run": "run-night-0001"}),
        ):
            run = (await call(tool, **arguments))["id"]
            state = record.wait(with_bases.run(run), 1800)
            assert state.state == "finished", state.reason
            ends.append(run)
        return ends[0], ends[1]

    async def by_morning(run: str, known: list[str], ids: dict[str, str]) -> None:
        for question, id in ids.items():
            assert (id in await hits(question)) == (question not in known)
        for question in known:
            answer = await call("ask_model", prompt=question, model=run, max_tokens=48)
            assert QUESTIONS[question] in answer["answer"]

    ids = anyio.run(by_day)
    run, integrated = anyio.run(by_night)
    result = record.read(with_bases.run(integrated)).result
    verdicts = {one["id"]: one["verdict"] for one in result["insights"]}
    known = [question for question, id in ids.items() if verdicts[id] == "verified"]
    assert len(known) >= 2, result["insights"]
    memory = MemoryStore(with_bases)
    for question in known:
        entry = memory.get(ids[question])
        assert (entry.status, entry.verified_by) == ("archived", run)
    anyio.run(by_morning, run, known, ids)
