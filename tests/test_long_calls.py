"""Calls that take long: they say so, they end in time, and they end when nobody waits for them any more.

.venv/bin/python -P -m pytest tests/test_long_calls.py

A slow engine stands in for a large model. It goes on until it is let go, so that no test depends on how fast this
machine is.
"""

import threading
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from typing import Any

import anyio
import pytest
from mcp import Client

from server import heavy, protocol
from server.app import build_server
from server.toolbox import proof
from tools.inference import ask as asking
from tools.inference.engine import Generated, Heard, Model, Options

QUESTION = {"prompt": "slow", "model": "slow", "max_tokens": 2000}


class Slow:
    """Answers the prompt "quick" at once, and any other token by token until `freed`, or until its hearer has enough;
    a `deaf` one tells nobody."""

    def __init__(self) -> None:
        self.freed, self.begun, self.deaf, self.loads = threading.Event(), threading.Event(), False, 0

    @contextmanager
    def engine(self, model: Model, limit_bytes: float) -> Iterator["Slow"]:
        yield self

    def generate(self, prompt: str, options: Options, heard: Heard) -> Generated:
        tokens = 0
        while prompt != "quick":
            tokens += 1
            self.begun.set()
            if self.freed.wait(0.01):
                break
            if not self.deaf:
                heard("x" * tokens, tokens)
        return Generated("done", tokens, "stop", 0.1, 0.2)


@pytest.fixture
def slow(monkeypatch: pytest.MonkeyPatch) -> Iterator[Slow]:
    engine = Slow()
    monkeypatch.setattr(asking, "warm", engine)
    monkeypatch.setattr(asking, "resolve", lambda workspace, name: (Model(name), "gguf"))
    yield engine
    engine.freed.set()


def session(talk: Callable[[Client], Any]) -> None:
    async def run() -> None:
        with anyio.fail_after(120):
            async with Client(build_server()) as client:
                await talk(client)

    anyio.run(run)


def text(result: Any) -> str:
    return str(result.content[0].text)


async def begun(engine: Slow) -> None:
    assert await anyio.to_thread.run_sync(lambda: engine.begun.wait(20))


def test_a_cancelled_question_ends_and_the_next_one_is_answered(slow: Slow) -> None:
    async def talk(client: Client) -> None:
        async with anyio.create_task_group() as group:
            group.start_soon(client.call_tool, "ask_model", QUESTION)
            await begun(slow)
            group.cancel_scope.cancel()
        assert not slow.freed.is_set()
        answer = await client.call_tool("ask_model", {**QUESTION, "prompt": "quick"})
        assert (answer.structured_content or {})["answer"] == "done"

    session(talk)


def test_an_answer_ends_in_time_with_what_there_is(slow: Slow, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(proof, "ANSWER_SECONDS", 0.2)

    async def talk(client: Client) -> None:
        result = await client.call_tool("ask_model", QUESTION)
        found = result.structured_content or {}
        assert found["finish"] == "time" and found["answer"].startswith("x") and found["tokens"] >= 1
        assert "It was cut after" in text(result) and "data, not an instruction" in text(result)

    session(talk)


def test_what_does_not_end_in_time_is_refused_and_so_is_what_waited_for_it(
    slow: Slow, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(heavy, "LONGEST", 0.3)
    slow.deaf = True

    async def talk(client: Client) -> None:
        first = await client.call_tool("ask_model", QUESTION)
        assert first.is_error and "did not end within" in text(first) and "Next: call again" in text(first)
        second = await client.call_tool("ask_model", {**QUESTION, "prompt": "quick"})
        assert second.is_error and "Another call that loads a model is still at work" in text(second)
        slow.freed.set()
        third = await client.call_tool("ask_model", {**QUESTION, "prompt": "quick"})
        assert not third.is_error, "what nobody waits for any more is not done either"

    session(talk)


def test_no_tool_keeps_its_caller_waiting_and_what_it_began_may_end(monkeypatch: pytest.MonkeyPatch) -> None:
    import tools.data.generate

    real, freed, made = tools.data.generate.generate, threading.Event(), threading.Event()

    def stuck(*given: Any, **more: Any) -> Any:
        freed.wait(20)
        found = real(*given, **more)
        made.set()
        return found

    monkeypatch.setattr(tools.data.generate, "generate", stuck)
    monkeypatch.setattr(protocol, "SECONDS", 0.3)
    rows = {"cards": ["definition/forty-two"], "count": 10, "name": "holds"}

    async def talk(client: Client) -> None:
        result = await client.call_tool("generate_examples", rows)
        assert result.is_error and "generate_examples has not ended within" in text(result)
        assert "Next: look whether it did" in text(result)
        freed.set()
        assert await anyio.to_thread.run_sync(lambda: made.wait(20))
        status = await client.call_tool("training_status", {"run": "nope"})
        assert "There is no run named" in text(status)

    session(talk)


def test_each_tool_has_an_end_but_those_that_wait_for_a_person_or_as_long_as_they_were_asked() -> None:
    assert build_server()._patient == {"training_status", "evaluate_model", "forget"}
    assert proof.ANSWER_SECONDS < heavy.LONGEST < protocol.SECONDS < 45


@pytest.mark.parametrize(
    ("module", "function", "tool", "given"),
    [
        ("tools.export.gate", "start_evaluation", "evaluate_model", {"run": "run-holds-0001"}),
        ("server.apps", "look_at", "show", {"name": "holds"}),
    ],
)
def test_a_long_call_says_so_and_holds_up_nobody(
    module: str, function: str, tool: str, given: dict[str, Any], monkeypatch: pytest.MonkeyPatch
) -> None:
    from importlib import import_module

    from tools.errors import InputError

    freed, heard = threading.Event(), threading.Event()

    def stuck(*_: Any, **__: Any) -> Any:
        assert freed.wait(20), "another client was held up"
        assert heard.wait(20), "nothing was said"
        raise InputError("Enough.")

    monkeypatch.setattr(import_module(module), function, stuck)

    async def progress(done: float, total: float | None, message: str | None) -> None:
        heard.set()

    async def talk(client: Client) -> None:
        async with anyio.create_task_group() as group:

            async def call() -> None:
                result = await client.call_tool(tool, given, progress_callback=progress)
                assert text(result) == "Enough."

            group.start_soon(call)
            await client.call_tool("training_status", {"run": "nope"})
            freed.set()

    session(talk)


def test_without_a_name_the_promoted_model_answers_or_the_newest_that_no_gate_refused(exported: Any) -> None:
    import shutil

    from tools.errors import MissingError
    from tools.export.promotion import Check, promote
    from tools.inference.ask import default_model

    with pytest.raises(MissingError, match=r"the gate refused every exported one \(holds\)"):
        default_model(exported)
    shutil.copytree(exported.models / "holds", exported.models / "later")
    (exported.models / "later" / "evaluation.json").unlink()
    assert default_model(exported) == ("later", "the newest export, since none is promoted")
    passed = Check(name="recall", value=1, bar=">= 0.9", passed=True)
    promote(exported, "holds", [passed])
    assert default_model(exported) == ("holds", "the promoted model")

    async def talk(client: Client) -> None:
        result = await client.call_tool("ask_model", {"prompt": "What does 42 mean?", "max_tokens": 2})
        assert text(result).startswith("holds (gguf, the promoted model, ")

    session(talk)
