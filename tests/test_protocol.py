"""What a client may do besides calling tools: hear of changes, complete names, take prompts, be asked, follow tasks.

.venv/bin/python -P -m pytest tests/test_protocol.py
"""

import json
import re
from collections.abc import Awaitable, Callable
from datetime import UTC, datetime, timedelta
from typing import Any, Literal

import anyio
import pytest
from mcp import Client
from mcp.client.extension import ClaimContext, ClientExtension, ResultClaim
from mcp.server.subscriptions import ResourcesListChanged, ResourceUpdated
from mcp.shared.exceptions import MCPError
from mcp.types import (
    INVALID_PARAMS,
    CallToolResult,
    ElicitResult,
    PromptReference,
    Request,
    RequestParams,
    ResourceTemplateReference,
    Result,
)
from pydantic import ConfigDict, TypeAdapter

from server import live
from server.answers import MAX_TEXT, shortened
from server.app import build_server
from server.states import status, told_state
from server.tasks import TASKS
from tools.files import write_text
from tools.jobs import record
from tools.workspace import Workspace

PHASES = ["observe", "orient", "decide", "act", "test", "check", "adapt", "archive"]
NUMBERS = {"minutes": "30", "hours": "6", "recall": "0.9", "controls": "0.9", "since": "2026-03-01"}
ERAS = pytest.mark.parametrize("era", ["legacy", "auto"])
Talk = Callable[[Client], Awaitable[None]]
Looked = Callable[[], Awaitable[None]]


def session(talk: Talk, era: str = "auto", **client: Any) -> None:
    async def run() -> None:
        with anyio.fail_after(120):
            async with Client(build_server(), mode=era, **client) as connected:
                await talk(connected)

    anyio.run(run)


@pytest.fixture
def job(workspace: Workspace) -> record.Job:
    """A queued evaluation, which nobody starts."""
    return record.create(workspace, "evaluate", "holds", {"dataset": "holds"})[0]


@pytest.fixture
def looked(monkeypatch: pytest.MonkeyPatch) -> Looked:
    """Changes are looked for more often than once a second; what comes back waits for a look that begins after it."""
    looks, look = 0, live.seen_memories

    def counted(workspace: Workspace, uris: set[str]) -> live.Seen:
        nonlocal looks
        found = look(workspace, uris)
        looks += 1
        return found

    async def wait() -> None:
        enough = looks + 2
        while looks < enough:  # noqa: ASYNC110 - it is a thread that looks
            await anyio.sleep(0.01)

    monkeypatch.setattr(live, "seen_memories", counted)
    monkeypatch.setattr(live, "SECONDS", 0.02)
    return wait


def test_a_listener_hears_of_a_run_that_moves_and_of_a_new_dataset(
    looked: Looked, job: record.Job, workspace: Workspace
) -> None:
    uri = f"run://{job.id}"

    async def talk(client: Client) -> None:
        async with client.listen(resources_list_changed=True, resource_subscriptions=[uri]) as events:
            await looked()  # so that there is something to compare with
            job.save(step=1, message="moved")
            assert await anext(events) == ResourceUpdated(uri=uri)
            write_text(workspace.datasets / "new" / "dataset.json", "{}")
            assert await anext(events) == ResourcesListChanged()

    session(talk)


@pytest.mark.filterwarnings("ignore::mcp.shared.exceptions.MCPDeprecationWarning")
def test_an_older_client_subscribes_and_unsubscribes(looked: Looked, job: record.Job, workspace: Workspace) -> None:
    uri = f"run://{job.id}"
    send, heard = anyio.create_memory_object_stream[str](100)

    async def hear(message: Any) -> None:
        send.send_nowait(f"{message.method} {getattr(message.params, 'uri', '')}".strip())

    async def talk(client: Client) -> None:
        assert client.server_capabilities.resources.subscribe  # type: ignore[union-attr]
        assert client.server_capabilities.resources.list_changed  # type: ignore[union-attr]
        await client.subscribe_resource(uri)
        await looked()
        job.save(step=1, message="moved")
        assert await heard.receive() == f"notifications/resources/updated {uri}"
        await client.unsubscribe_resource(uri)
        job.save(step=2, message="moved again")
        write_text(workspace.datasets / "new" / "dataset.json", "{}")
        assert await heard.receive() == "notifications/resources/list_changed"

    session(talk, "legacy", message_handler=hear)


@ERAS
@pytest.mark.filterwarnings("ignore::mcp.shared.exceptions.MCPDeprecationWarning")
def test_a_change_of_one_memory_and_of_what_the_loop_waits_for_is_told(
    era: str, looked: Looked, workspace: Workspace
) -> None:
    from tools.memory.store import MemoryStore
    from tools.sprint.lease import held

    memory = MemoryStore(workspace)
    mine, other = (memory.remember(text, "rule").entry.id for text in ("Amounts are whole cents.", "Tests come first."))
    uris = [f"memory://entries/{mine}", "loop://state"]
    send, heard = anyio.create_memory_object_stream[str](1000)

    async def legacy(message: Any) -> None:
        if message.method == "notifications/resources/updated":
            send.send_nowait(str(message.params.uri))

    async def told(uri: str, change: Callable[[], Any]) -> None:
        while heard.statistics().current_buffer_used:
            heard.receive_nowait()
        await anyio.to_thread.run_sync(change)
        while await heard.receive() != uri:
            pass

    async def check() -> None:
        await looked()  # so that there is something to compare with
        await told(uris[0], lambda: memory.change(mine, priority=0.9))
        await told(uris[1], lambda: memory.remember("Dates are ISO 8601.", "rule"))
        with held(workspace, "holds-0001"):
            await told(uris[1], lambda: None)
        while heard.statistics().current_buffer_used:
            heard.receive_nowait()
        await told(uris[1], lambda: memory.change(other, priority=0.9))
        await looked()
        assert uris[0] not in [heard.receive_nowait() for _ in range(heard.statistics().current_buffer_used)]
        await told(uris[0], lambda: memory.forget([mine]))

    async def talk(client: Client) -> None:
        if era == "legacy":
            for uri in uris:
                await client.subscribe_resource(uri)
            await check()
            return
        async with client.listen(resource_subscriptions=uris) as events, anyio.create_task_group() as group:

            async def forward() -> None:
                async for event in events:
                    send.send_nowait(str(event.uri))  # type: ignore[union-attr]

            group.start_soon(forward)
            await check()
            group.cancel_scope.cancel()

    session(talk, era, **({"message_handler": legacy} if era == "legacy" else {}))


@ERAS
def test_the_newest_things_are_listed_by_name(era: str, job: record.Job) -> None:
    async def talk(client: Client) -> None:
        listed = {resource.uri for resource in (await client.list_resources()).resources}
        assert {f"run://{job.id}", "run://index", "policy://levels"} <= listed

    session(talk, era)


@ERAS
def test_names_are_completed_in_templates_and_prompts(era: str, job: record.Job, workspace: Workspace) -> None:
    for name in ("holds", "shelf", "holidays"):
        write_text(workspace.datasets / name / "dataset.json", "{}")

    async def talk(client: Client) -> None:
        async def complete(ref: Any, name: str, value: str) -> list[str]:
            return (await client.complete(ref, {"name": name, "value": value})).completion.values

        dataset = ResourceTemplateReference(uri="dataset://{name}")
        assert set(await complete(dataset, "name", "hol")) == {"holds", "holidays"}
        assert await complete(dataset, "name", "SHE") == ["shelf"]
        assert await complete(ResourceTemplateReference(uri="run://{id}"), "id", "eval") == [job.id]
        assert await complete(ResourceTemplateReference(uri="policy://levels/{level}"), "level", "mod") == ["moderate"]
        assert "smollm2-135m" in await complete(PromptReference(name="act"), "preset", "smol")
        assert await complete(PromptReference(name="explain_a_failure"), "run", "holds") == [job.id]
        assert await complete(PromptReference(name="teach_a_term"), "term", "x") == []

    session(talk, era)


@ERAS
def test_each_phase_and_each_common_job_has_a_prompt_that_names_only_tools_that_exist(era: str) -> None:
    import re

    async def talk(client: Client) -> None:
        prompts = {prompt.name: prompt for prompt in (await client.list_prompts()).prompts}
        assert set(PHASES) <= set(prompts)
        assert {"teach_a_term", "teach_from_corrections", "explain_a_failure", "prepare_tonight"} <= set(prompts)
        tools = {tool.name for tool in (await client.list_tools()).tools}
        for name, prompt in prompts.items():
            assert prompt.title and prompt.description, name
            given = {argument.name: NUMBERS.get(argument.name, "holds") for argument in prompt.arguments or []}
            text = (await client.get_prompt(name, given)).messages[0].content.text  # type: ignore[union-attr]
            named = set(re.findall(r"\b([a-z]+_[a-z_]+)\(", text))
            assert named <= tools, (name, named - tools)

    session(talk, era)


@ERAS
@pytest.mark.parametrize(
    ("name", "given", "said"),
    [
        ("teach_a_trem", {}, "no prompt named 'teach_a_trem'. Did you mean teach_a_term? Known: observe, orient"),
        ("teach_a_term", {"term": "hold"}, "meaning is missing. It takes: term, meaning. Next: mend it"),
        (
            "check",
            {"run": "run-a-0001", "recal": "1"},
            "no argument 'recal'. Did you mean recall? It takes: run, recall",
        ),
        ("decide", {"dataset": "holds", "minutes": "soon"}, "minutes: Input should be a valid number"),
        ("decide", {"dataset": "holds", "minutes": "0"}, "minutes: Input should be greater than 0"),
        ("check", {"run": "run-a-0001", "controls": "90"}, "controls: Input should be less than or equal to 1"),
        ("prepare_tonight", {"dataset": "holds", "hours": "inf"}, "hours: Input should be a finite number"),
        ("teach_from_corrections", {"since": "monday"}, "since: Expected a day such as '2026-03-01'"),
    ],
)
def test_a_wrong_prompt_or_argument_is_answered_with_the_right_ones(
    era: str, name: str, given: dict[str, str], said: str, caplog: pytest.LogCaptureFixture
) -> None:
    async def talk(client: Client) -> None:
        with pytest.raises(MCPError) as refused:
            await client.get_prompt(name, given)
        assert said in refused.value.message and refused.value.code == INVALID_PARAMS
        assert "Next: " in refused.value.message and not caplog.records

    session(talk, era)


@ERAS
def test_a_resource_that_there_is_not_is_answered_with_those_there_are(era: str) -> None:
    async def talk(client: Client) -> None:
        with pytest.raises(MCPError) as refused:
            await client.read_resource("modle://index")
        said = refused.value.message
        assert refused.value.code == INVALID_PARAMS and "Did you mean model://index?" in said
        assert "policy://levels" in said and "dataset://{name}" in said and said.endswith("Next: read one of these.")

    session(talk, era)


@ERAS
@pytest.mark.parametrize(("said", "removed"), [("accept", True), ("decline", False), ("cancel", False)])
def test_a_person_is_asked_before_memories_go(era: str, said: str, removed: bool) -> None:
    asked: list[str] = []

    async def answer(context: Any, params: Any) -> ElicitResult:
        asked.append(params.message)
        return ElicitResult(action=said, content={"yes": True} if said == "accept" else None)  # type: ignore[arg-type]

    async def talk(client: Client) -> None:
        kept = await client.call_tool("remember", {"text": "Amounts are whole cents.", "kind": "rule"})
        id = (kept.structured_content or {})["id"]
        gone = await client.call_tool("forget", {"id": id})
        assert (gone.structured_content or {})["removed"] is removed
        assert len(asked) == 1 and "Amounts are whole cents." in asked[0]

    session(talk, era, elicitation_callback=answer)


class Task(Result):
    """A task, as a tool's call returns it."""

    model_config = ConfigDict(extra="allow")
    result_type: Literal["task"] = "task"


class TaskRequest(Request[RequestParams, str]):
    """tasks/get, tasks/update or tasks/cancel."""

    method: str
    params: dict[str, Any]  # type: ignore[assignment]


async def _kept(task: Task, context: ClaimContext) -> CallToolResult:
    return CallToolResult(content=[], structured_content=task.model_dump(mode="json", by_alias=True))


class Following(ClientExtension):
    """A client that follows tasks."""

    identifier = TASKS

    def claims(self) -> list[ResultClaim[Any]]:
        return [ResultClaim(result_type="task", model=Task, resolve=_kept)]


async def ask(client: Client, method: str, **params: Any) -> dict[str, Any]:
    request = TaskRequest(method=method, params=params)
    return await client.session.send_request(request, TypeAdapter(dict[str, Any]))


def test_a_run_is_a_task_under_its_own_id(job: record.Job) -> None:
    async def talk(client: Client) -> None:
        task = await ask(client, "tasks/get", taskId=job.id)
        assert (task["taskId"], task["status"], task["ttlMs"]) == (job.id, "working", None) and "result" not in task
        job.save(state="failed", reason="The disk is full.", next_step="free some space")
        task = await ask(client, "tasks/get", taskId=job.id)
        assert task["status"] == "completed" and task["result"]["isError"]
        assert "The disk is full." in task["result"]["content"][0]["text"]
        assert (await ask(client, "tasks/cancel", taskId=job.id))["resultType"] == "complete"
        with pytest.raises(MCPError, match="There is no task 'nope'"):
            await ask(client, "tasks/get", taskId="nope")
        with pytest.raises(MCPError, match="There is no task"):
            await ask(client, "tasks/get", taskId="../../etc")

    session(talk, extensions=[Following()])


def test_cancelling_a_task_cancels_its_run(job: record.Job) -> None:
    async def talk(client: Client) -> None:
        await ask(client, "tasks/cancel", taskId=job.id)
        assert job.cancelled and record.read(job.folder).state == "stopping"
        job.save(state="stopped", reason="It was asked to stop.")
        assert (await ask(client, "tasks/get", taskId=job.id))["status"] == "cancelled"

    session(talk, extensions=[Following()])


def test_a_call_that_starts_a_job_becomes_a_task_only_for_a_client_that_follows_tasks(
    job: record.Job, monkeypatch: pytest.MonkeyPatch
) -> None:
    import tools.export.gate

    monkeypatch.setattr(tools.export.gate, "start_evaluation", lambda *_, **__: (job, True))

    async def follows(client: Client) -> None:
        result = await client.call_tool("evaluate_model", {"run": "run-holds-0001"})
        assert (result.structured_content or {})["taskId"] == job.id

    async def does_not(client: Client) -> None:
        result = await client.call_tool("evaluate_model", {"run": "run-holds-0001"})
        assert result.structured_content == {"id": job.id, "state": "queued", "new": True}
        with pytest.raises(MCPError, match="did not declare"):
            await ask(client, "tasks/get", taskId=job.id)

    session(follows, extensions=[Following()])
    session(does_not)


@ERAS
@pytest.mark.parametrize("said", ["accept", "decline", "nothing"])
def test_only_a_person_overrules_the_gate(
    era: str, said: str, job: record.Job, monkeypatch: pytest.MonkeyPatch
) -> None:
    import tools.export.gate

    asked: list[str] = []
    forced: list[str] = []

    def start(*_: Any, force: str, **__: Any) -> Any:
        forced.append(force)
        return job, True

    monkeypatch.setattr(tools.export.gate, "start_evaluation", start)

    async def answer(context: Any, params: Any) -> ElicitResult:
        asked.append(params.message)
        return ElicitResult(action=said, content={"yes": True} if said == "accept" else None)  # type: ignore[arg-type]

    async def talk(client: Client) -> None:
        given = {"model": "holds", "promote": True}
        assert not (await client.call_tool("evaluate_model", given)).is_error and not asked
        result = await client.call_tool("evaluate_model", {**given, "force": "urgent"})
        if said == "accept":
            assert not result.is_error and forced == ["", "urgent"] and "«urgent»" in asked[0]
        else:
            assert result.is_error and forced == [""]
            assert "looptune promote holds --force" in result.content[0].text  # type: ignore[union-attr]

    session(talk, era, elicitation_callback=None if said == "nothing" else answer)


def test_a_long_answer_keeps_its_beginning_its_newest_lines_and_what_to_call_next(job: record.Job) -> None:
    (job.folder / "log").write_text("".join(f"line {n} {'x' * 80}\n" for n in range(60)))
    job.save(
        state="failed", reason="The disk is full. " * 20, next_step="free some space, then call the same tool again"
    )

    async def talk(client: Client) -> None:
        result = await client.call_tool("training_status", {"run": job.id, "log_lines": 50})
        said: str = result.content[0].text  # type: ignore[union-attr]
        assert len(said) <= MAX_TEXT and said.startswith(f"{job.id} is failed")
        assert said.endswith("Next: free some space, then call the same tool again.")
        assert "line 59" in said and "line 30" not in said

    session(talk)


@pytest.mark.parametrize("place", [0, 400, 700, 1400, 1600, 2900])
def test_what_to_call_next_survives_wherever_it_stands(place: int) -> None:
    step = "Next: plan_training(dataset='holds')."
    text = shortened("a" * place + "\n" + step + "\n" + "b" * (3000 - place))
    assert len(text) <= MAX_TEXT and step in text
    assert shortened("short") == "short" and len(shortened("c" * 5000)) == MAX_TEXT


def test_a_concise_status_counts_what_a_full_one_lists(exported: Workspace) -> None:
    run = next(name for name in exported.names(exported.runs, "state.json") if name.startswith("gate"))

    async def talk(client: Client) -> None:
        found = {}
        for detail in ("concise", "full"):
            result = await client.call_tool("training_status", {"run": run, "detail": detail})
            found[detail] = (result.structured_content or {})["result"]
            assert [part.uri for part in result.content if part.type == "resource_link"] == [f"run://{run}"]
        short, full = (len(json.dumps(found[detail])) for detail in ("concise", "full"))
        assert short < full / 2, (short, full)
        change, whole = (found[detail]["matrix"]["adapter"] for detail in ("concise", "full"))
        assert change["broken_count"] == len(whole["broken"]) and "broken" not in change
        model, whole = (found[detail]["models"]["base"] for detail in ("concise", "full"))
        assert model["wrong_count"] == whole["wrong_count"] >= len(whole["wrong"]) > 0 and "wrong" not in model
        assert model["recall"] == whole["recall"] and found["concise"]["passed"] is False

    session(talk)


def test_waiting_for_a_job_ends_as_soon_as_the_client_cancels(job: record.Job) -> None:
    async def talk(client: Client) -> None:
        began = anyio.current_time()
        with anyio.move_on_after(0.3):
            await client.call_tool("training_status", {"run": job.id, "wait_seconds": 45})
        status = await client.call_tool("training_status", {"run": job.id})
        assert not status.is_error and anyio.current_time() - began < 5

    session(talk)


def test_waiting_says_how_it_goes(job: record.Job) -> None:
    heard: list[str] = []

    async def progress(done: float, total: float | None, message: str | None) -> None:
        heard.append(message or "")

    async def talk(client: Client) -> None:
        await client.call_tool("training_status", {"run": job.id, "wait_seconds": 1.2}, progress_callback=progress)
        assert heard and "queued" in heard[0]

    session(talk)


def test_a_tool_that_works_in_a_thread_has_its_progress_told(monkeypatch: pytest.MonkeyPatch) -> None:
    import time

    import tools.data.add

    heard: list[str] = []

    async def progress(seconds: float, total: float | None, message: str | None) -> None:
        heard.append(message or "")

    def slow(*_: Any) -> Any:
        deadline = time.monotonic() + 10
        while not heard and time.monotonic() < deadline:
            time.sleep(0.05)
        raise tools.data.add.InputError("Enough.")

    monkeypatch.setattr(tools.data.add, "add_examples", slow)

    async def talk(client: Client) -> None:
        rows = {"dataset": "holds", "rows": [{"instruction": "a", "output": "b"}]}
        assert (await client.call_tool("add_examples", rows, progress_callback=progress)).is_error

    session(talk)
    assert heard[0] == "add_examples is at work, 1 s"


def test_a_status_says_what_a_job_does_once_and_when_it_will_be_done(job: record.Job) -> None:
    state = job.state.model_copy(update={"state": "running", "message": "starting", "reason": "It is at work."})
    assert told_state(state, []).startswith(f"{job.id} is running: starting.\nNext: ")
    began = datetime.now(UTC) - timedelta(seconds=30)
    state = state.model_copy(update={"step": 10, "total": 40, "started": began.isoformat()})
    assert told_state(state, []).startswith(f"{job.id} is running, 10 of 40: starting (seconds_left 9")
    assert 89 <= status(state, []).metrics["seconds_left"] <= 99
    assert told_state(job.state, []).startswith(f"{job.id} is queued. It waits for its turn.\nNext: ")


@pytest.mark.parametrize(
    ("kind", "config", "step"),
    [
        ("train", {"dataset": "holds"}, "start_training(resume='run-holds-0001')"),
        ("evaluate", {"targets": [{"run": ""}, {"run": "run-a-0001"}]}, "evaluate_model(run='run-a-0001')"),
        ("gate", {"targets": [], "model": "a", "promote": True}, "evaluate_model(model='a', promote=true)"),
        ("quantize", {"run": "run-a-0001", "model": ""}, "quantize(run='run-a-0001')"),
        ("integrate", {"model": "a"}, "integrate_insights(run='a')"),
    ],
)
def test_a_job_that_was_cancelled_says_how_to_ask_for_it_again_and_may_be_cancelled_twice(
    workspace: Workspace, kind: record.JobKind, config: dict[str, Any], step: str
) -> None:
    job = record.create(workspace, kind, "holds", config)[0]
    job.save(message="waiting for run-b-0001 to end")
    record.failed(job, record.Cancelled())
    assert (job.state.state, job.state.message, job.state.next_step) == ("stopped", "stopped", step)

    async def talk(client: Client) -> None:
        result = await client.call_tool("cancel_training", {"run": job.id})
        assert not result.is_error and result.content[0].text == f"{job.id} is stopped. Next: {step}."  # type: ignore[union-attr]

    session(talk)


def test_a_training_that_did_not_finish_is_named_where_it_is_evaluated(
    workspace: Workspace, monkeypatch: pytest.MonkeyPatch
) -> None:
    import tools.export.gate
    from tools.errors import MissingError
    from tools.evaluation.compare import Target, open_target

    run = record.create(workspace, "train", "holds", {"dataset": "holds", "base": "tiny"})[0]
    with pytest.raises(MissingError, match=r"it is queued, at step 0\. Next: wait until it is finished"):
        open_target(workspace, Target(label="adapter", run=run.id))
    run.save(state="stopped", step=7, total=2880)
    with pytest.raises(
        MissingError, match=r"it is stopped, at step 7\. Next: start_training\(resume='run-holds-0001'\)"
    ):
        open_target(workspace, Target(label="adapter", run=run.id))
    evaluation = record.create(workspace, "evaluate", "holds", {"targets": [{"run": ""}, {"run": run.id}]})[0]
    monkeypatch.setattr(tools.export.gate, "start_evaluation", lambda *_, **__: (evaluation, True))

    async def talk(client: Client) -> None:
        result = await client.call_tool("evaluate_model", {"run": run.id})
        assert "Note: run-holds-0001 stopped at step 7 of 2880" in result.content[0].text  # type: ignore[union-attr]

    session(talk)


def test_no_tool_can_be_made_to_take_longer_than_45_seconds() -> None:
    for tool in anyio.run(build_server().list_tools):
        for name, schema in tool.input_schema["properties"].items():
            if "seconds" in name:
                assert schema["maximum"] <= 45, (tool.name, name)


def test_every_call_that_a_prompt_or_a_description_shows_is_one_that_the_server_takes() -> None:
    async def talk(client: Client) -> None:
        tools = {tool.name: tool for tool in (await client.list_tools()).tools}
        texts = {f"tool {name}": tool.description or "" for name, tool in tools.items()}
        for prompt in (await client.list_prompts()).prompts:
            given = {argument.name: NUMBERS.get(argument.name, "5") for argument in prompt.arguments or []}
            found = await client.get_prompt(prompt.name, given)
            texts[f"prompt {prompt.name}"] = "\n".join(getattr(one.content, "text", "") for one in found.messages)
        shown = [
            (where, call["tool"], argument)
            for where, text in texts.items()
            for call in re.finditer(r"\b(?P<tool>[a-z_]+)\((?P<given>[^()]*)\)", text)
            if call["tool"] in tools
            for argument in re.findall(r"(\w+)\s*=", call["given"])
        ]
        assert len(shown) > 20
        assert not [one for one in shown if one[2] not in tools[one[1]].input_schema["properties"]]

    session(talk)
