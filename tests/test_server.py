"""The server through the in-memory client, in both protocol eras: what an agent sees, and what it is told.

.venv/bin/python -P -m pytest tests/test_server.py
"""

import json
from collections.abc import Awaitable, Callable
from pathlib import Path
from typing import Any

import anyio
import pytest
from conftest import TERM, TINY
from mcp import Client
from mcp.shared.exceptions import MCPError

from server.app import INSTRUCTIONS, build_server
from tools.jobs import record
from tools.workspace import Workspace

TOOLS = {
    "generate_examples",
    "add_examples",
    "validate_dataset",
    "plan_training",
    "start_training",
    "training_status",
    "cancel_training",
    "evaluate_model",
    "grade_answers",
    "quantize",
    "ask_model",
    "remember",
    "query_memory",
    "forget",
    "integrate_insights",
    "check_preservation",
    "loop_next",
    "show",
}
ERAS = pytest.mark.parametrize("era", ["legacy", "auto"])


def session(era: str, talk: Callable[[Client], Awaitable[None]]) -> None:
    async def run() -> None:
        async with Client(build_server(), mode=era) as client:
            await talk(client)

    anyio.run(run)


def refusal(tool: str, era: str = "auto", **arguments: Any) -> str:
    """What an agent is told when `tool` refuses these arguments."""
    said: list[str] = []

    async def talk(client: Client) -> None:
        result = await client.call_tool(tool, arguments)
        assert result.is_error, result.structured_content
        said.append("".join(part.text for part in result.content if part.type == "text"))

    session(era, talk)
    return said[0]


@ERAS
def test_an_agent_sees_every_tool_with_title_description_and_annotations(era: str) -> None:
    async def talk(client: Client) -> None:
        tools = (await client.list_tools()).tools
        assert {tool.name for tool in tools} == TOOLS
        for tool in tools:
            assert tool.title and tool.description and tool.annotations and tool.output_schema, tool.name
            for name, schema in tool.input_schema["properties"].items():
                assert schema.get("description"), f"{tool.name}.{name}"
        assert client.instructions == INSTRUCTIONS and len(INSTRUCTIONS) < 2000

    session(era, talk)


@pytest.mark.slow
@ERAS
def test_resources_show_policies_memory_datasets_and_runs(era: str, dataset: Callable[..., str]) -> None:
    name = dataset()

    async def talk(client: Client) -> None:
        async def read(uri: str) -> Any:
            return json.loads((await client.read_resource(uri)).contents[0].text)  # type: ignore[union-attr]

        assert set(await read("policy://levels")) == {"strict", "moderate", "flexible"}
        assert (await read("policy://levels/strict"))["others_may"] == "change nothing"
        store = await read("memory://store")
        assert (store["embedding_model"], store["dimensions"], store["count"]) == ("all-MiniLM-L6-v2", 384, 0)
        assert store["not_yet_in_the_index"] == 0 and "waiting" not in store
        assert (await read("preset://index"))["embedded"] == {"same_as": "smollm2-135m"}
        assert (await read("dataset://index"))["datasets"][0]["name"] == name
        assert (await read(f"dataset://{name}"))["manifest"]["train_rows"] == 32
        assert await read("run://index") == {"count": 0, "runs": []}
        with pytest.raises(MCPError, match=r"no run named 'nope'"):
            await read("run://nope")

    session(era, talk)


@ERAS
def test_what_is_remembered_is_found_and_forgotten_only_when_confirmed(era: str) -> None:
    async def talk(client: Client) -> None:
        async def call(tool: str, **arguments: Any) -> dict[str, Any]:
            result = await client.call_tool(tool, arguments)
            assert not result.is_error, result.content
            return dict(result.structured_content or {})

        kept = await call("remember", text="Amounts are whole cents.", kind="rule", tags=["business:money_in_cents"])
        assert kept["new"] and not (await call("remember", text="Amounts are whole cents.", kind="rule"))["new"]
        hits = (await call("query_memory", query="how do we store prices?"))["hits"]
        assert hits[0]["text"] == "Amounts are whole cents." and hits[0]["tags"] == ["business:money_in_cents"]
        assert not (await call("forget", id=kept["id"]))["removed"]
        assert (await call("query_memory", query="prices"))["count"] == 1
        assert (await call("forget", id=kept["id"], confirm=True))["removed"]
        assert (await call("query_memory", query="prices"))["count"] == 0

    session(era, talk)


@pytest.mark.slow
@ERAS
def test_names_that_stand_for_nothing_are_answered_with_the_names_there_are(
    era: str, dataset: Callable[..., str]
) -> None:
    dataset()
    assert "There is no dataset named 'nope'. Known: holds." in refusal("plan_training", era, dataset="nope")
    assert "There is no run named 'nope'. Known: none yet." in refusal("training_status", era, run="nope")
    assert "no model named 'nope'" in refusal("evaluate_model", era, model="nope")
    assert "smollm2-135m-instruct" in refusal("ask_model", era, prompt="Hello", model="nope")
    assert "no card named" in refusal("generate_examples", era, cards=["definition/nope"])
    assert "Known: embedded, qwen2.5-coder-7b" in refusal("start_training", era, dataset="holds", preset="nope")


@pytest.mark.parametrize("name", ["../holds", "/etc/passwd", "a/../../b", "..", "A b", "", "x" * 65, "nul\x00"])
def test_a_name_never_becomes_a_path(name: str, workspace: Workspace) -> None:
    named = [("training_status", "run"), ("quantize", "run")]
    if name:  # without a dataset a plan is made from shapes alone
        named.append(("plan_training", "dataset"))
    for tool, argument in named:
        said = refusal(tool, **{argument: name})
        assert "Expected" in said or "1 to 64 characters" in said or "at most 64" in said, said
    # the process that is the first to compute keeps its BLAS there
    assert {path.name for path in workspace.home.glob("*")} <= {"cache"}


def test_settings_out_of_range_are_named_with_what_came(dataset: Callable[..., str]) -> None:
    said = refusal("start_training", dataset=dataset(), settings={"rank": 0, "learning_rate": -1, "ranks": 3})
    assert "rank: input should be greater than or equal to 1, got 0" in said
    assert "learning_rate: input should be greater than 0, got -1" in said
    assert "ranks is not a setting" in said and "dataset" not in said and "preset" not in said.partition("known:")[2]


@pytest.mark.parametrize("tool", ["plan_training", "start_training"])
def test_what_is_an_argument_of_its_own_is_no_setting(tool: str) -> None:
    said = refusal(tool, dataset="holds", settings={"dataset": "other", "preset": "tiny", "rank": 8})
    assert "`settings` holds dataset and preset, which are arguments of their own. Next: " in said


def test_a_term_without_a_meaning_is_refused() -> None:
    assert "meaning" in refusal("generate_examples", terms=[{"term": "soft hold", "meaning": "   "}])
    assert "`terms`" in refusal("generate_examples")


def test_one_term_has_one_meaning() -> None:
    other = {"term": TERM["term"], "meaning": "a polite pause on the phone"}
    assert "has two meanings" in refusal("generate_examples", terms=[TERM, other])


def test_training_takes_only_what_was_validated(workspace: Workspace) -> None:
    from tools.data.generate import generate
    from tools.data.terms import Term

    generate(workspace, terms=[Term(**TERM)], count=40, name="draft")  # type: ignore[arg-type]
    assert "validate_dataset(dataset='draft')" in refusal("start_training", dataset="draft")
    assert not workspace.names(workspace.runs, "state.json")


def test_files_are_read_only_inside_the_allowed_roots(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    inside, outside = tmp_path / "data", tmp_path / "elsewhere.jsonl"
    inside.mkdir()
    row = {"instruction": "a", "output": "b"}
    (inside / "rows.jsonl").write_text(json.dumps(row) + "\n")
    outside.write_text(json.dumps(row) + "\n")
    (inside / "link.jsonl").symlink_to(outside)
    monkeypatch.setenv("LOOPTUNE_ROOTS", json.dumps([str(inside)]))

    async def talk(client: Client) -> None:
        result = await client.call_tool("validate_dataset", {"path": str(inside / "rows.jsonl")})
        assert (result.structured_content or {})["rows"] == 1

    session("auto", talk)
    for path in (outside, inside / "link.jsonl", inside / ".." / outside.name, inside, Path("/etc/passwd")):
        assert "Expected a file inside" in refusal("validate_dataset", path=str(path))


def test_a_base_that_would_have_to_be_fetched_is_refused_before_a_run_is_made(
    workspace: Workspace, dataset: Callable[..., str]
) -> None:
    said = refusal("start_training", dataset=dataset(), preset="qwen2.5-coder-7b")
    assert "LOOPTUNE_ALLOW_DOWNLOADS=1" in said
    assert not workspace.names(workspace.runs, "state.json")


@pytest.mark.slow
def test_a_full_disk_is_said_and_leaves_nothing(
    workspace: Workspace, dataset: Callable[..., str], monkeypatch: pytest.MonkeyPatch
) -> None:
    name = dataset()
    monkeypatch.setenv("LOOPTUNE_MIN_FREE_GB", "1e9")
    assert "free" in refusal("start_training", dataset=name, settings={"base": "smollm2-135m-instruct"})
    assert not workspace.names(workspace.runs, "state.json")


@pytest.mark.slow
def test_a_killed_worker_is_recognised_and_the_run_can_go_on(
    with_bases: Workspace, dataset: Callable[..., str]
) -> None:
    import psutil

    from tools.files import read_json
    from tools.training.config import preset
    from tools.training.start import resume_training, start_training

    config = preset("embedded", dataset=dataset(), base=TINY, epochs=8, batch_size=8, save_every=2)
    job, _ = start_training(with_bases, config)
    while not list((job.folder / "checkpoints").glob("step-*/progress.json")):
        assert record.read(job.folder).state in record.ACTIVE, record.log_tail(job.folder)
        record.wait(job.folder, 0.05)
    psutil.Process(read_json(job.folder / "pid.json")["pid"]).kill()
    state = record.wait(job.folder, 120)
    assert state.state == "failed" and "killed" in state.reason and f"resume={job.id!r}" in state.next_step

    resume_training(with_bases, job.id)
    state = record.wait(job.folder, 120)
    assert state.state == "finished", record.log_tail(job.folder)
    assert state.result["steps"] == 32
    steps = [line["step"] for line in map(json.loads, (job.folder / "metrics.jsonl").read_text().splitlines())]
    assert steps == list(range(1, 33))


def test_the_prompts_name_tools_that_exist() -> None:
    async def talk(client: Client) -> None:
        prompt = await client.get_prompt("teach_a_term", {"term": "soft hold", "meaning": TERM["meaning"]})
        text = prompt.messages[0].content.text  # type: ignore[union-attr]
        assert TERM["meaning"] in text and "validate_dataset" in text
        brief = await client.get_prompt("write_examples", {"dataset": "holds", "about": "our reservations"})
        assert "There is no such dataset yet" in brief.messages[0].content.text  # type: ignore[union-attr]

    session("auto", talk)
