"""The views: the data behind them, the text beside them, pages of their own, and in headless Chromium with the official
MCP Apps bridge around the real server.

.venv/bin/python -P -m pytest tests/test_views.py
"""

import json
import re
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import anyio
import browser_host
import pytest
from conftest import TERM
from mcp import Client
from test_cli import looptune, value

from server.app import build_server
from server.apps import PAGE
from server.look import Wanted, look_at, told
from server.pages import page
from tools.errors import NotFoundError
from tools.evaluation.compare import read_report
from tools.files import write_json
from tools.jobs import record
from tools.workspace import Workspace

HOSTILE = "</script><script>document.title='taken'</script><img src=x onerror=alert(1)>"
IN_BROWSER = pytest.mark.skipif(not browser_host.chromium(), reason="Chromium is not installed")


def shown(name: str, query: str = "") -> tuple[dict[str, Any], str]:
    """What the tool answers: data, and text."""
    found: list[Any] = []

    async def talk() -> None:
        async with Client(build_server()) as client:
            found.append(await client.call_tool("show", {"name": name, "query": query}))

    anyio.run(talk)
    assert not found[0].is_error, found[0].content
    return found[0].structured_content["data"], found[0].content[0].text


def running(workspace: Workspace, steps: int = 6) -> record.Job:
    """A training under way, as its worker would have left it: a real record, with this process as its worker."""
    import psutil

    job, _ = record.create(workspace, "train", "holds", {"dataset": "holds", "base": "tiny", "memory_limit_gb": 2.0})
    lines = [
        {"step": n, "loss": 3 / n, "memory_gb": 0.7, "tokens_per_second": 900.0}
        | ({} if n % 3 else {"valid_loss": 2.0})
        for n in range(1, steps + 1)
    ]
    (job.folder / "metrics.jsonl").write_text("".join(json.dumps(line) + "\n" for line in lines))
    me = psutil.Process()
    write_json(job.folder / "pid.json", {"pid": me.pid, "created": me.create_time()})
    metrics = {"loss": 0.5, "valid_loss": 2.0, "memory_gb": 0.7, "tokens_per_second": 900.0, "seconds_left": 75.0}
    job.save(state="running", step=steps, total=20, message="training", metrics=metrics)
    return job


def test_a_client_finds_the_view_as_a_ui_resource_that_its_tool_names() -> None:
    async def talk() -> None:
        async with Client(build_server()) as client:
            tool = next(tool for tool in (await client.list_tools()).tools if tool.name == "show")
            assert tool.meta == {"ui": {"resourceUri": PAGE}}
            content = (await client.read_resource(PAGE)).contents[0]
            assert content.mime_type == "text/html;profile=mcp-app"
            text = content.text  # type: ignore[union-attr]
            assert "default-src 'none'" in text and not re.search(r"(src|href)\s*=\s*[\"']?http", text)

    anyio.run(talk)


def test_a_finished_run_is_shown_with_its_curves_and_told_in_text(exported: Workspace) -> None:
    data, text = shown("run-holds-0001", "first=0")
    steps = data["step"]
    assert data["state"] == "finished" and data["view"] == "run"
    assert [step for step, _ in data["series"]["loss"]] == list(range(1, steps + 1))
    assert data["series"]["valid_loss"][-1][0] == steps and data["limit_gb"] > 0
    assert "finished" in text and "validation loss" in text and "Loss " in text
    spared, _ = shown("run-holds-0001")
    assert "series" not in spared and spared["result"] == data["result"] and len(json.dumps(spared)) < 2500


def test_an_evaluation_is_shown_step_by_step_and_answer_by_answer(exported: Workspace) -> None:
    data, text = shown("gate-holds-0001", "only=all&count=5")
    assert [model["label"] for model in data["models"]] == ["base", "adapter", "f16", "q4_k_m"]
    assert [(step["from"], step["to"]) for step in data["steps"]] == [
        ("base", "adapter"), ("adapter", "f16"), ("f16", "q4_k_m")
    ]  # fmt: skip
    assert data["counts"]["all"] == data["page"]["total"] == sum(f["cells"][0][1] for f in data["families"])
    assert len(data["page"]["rows"]) == 5 and all(len(row["cells"]) == 4 for row in data["page"]["rows"])
    wrong, _ = shown("gate-holds-0001", "only=wrong")
    assert all(row["cells"][-1]["word"] in ("wrong", "broken") for row in wrong["page"]["rows"])
    assert data["passed"] is False and "NOT passed" in text


def test_files_that_were_evaluated_alone_are_shown_beside_base_and_adapter(exported: Workspace) -> None:
    """As the demo does it: base and adapter in one evaluation, the files in another."""
    import shutil

    from tools.files import read_json

    whole = exported.runs / "gate-holds-0001"
    for name, labels in (("eval-holds-0001", ["base", "adapter"]), ("eval-holds-0002", ["f16", "q4_k_m"])):
        folder = exported.runs / name
        shutil.copytree(whole, folder)
        state, asked = read_json(folder / "state.json"), read_json(folder / "job.json")
        asked["config"]["targets"] = [t for t in asked["config"]["targets"] if t["label"] in labels]
        write_json(folder / "job.json", asked)
        write_json(folder / "state.json", {**state, "id": name, "kind": "evaluate"})
        comparison = read_json(folder / "reports" / "comparison.json")
        write_json(folder / "reports" / "comparison.json", {**comparison, "labels": labels, "against": labels[0]})
    _, data = look_at(exported, "eval-holds-0002", Wanted())
    assert [model["label"] for model in data["models"]] == ["base", "adapter", "f16", "q4_k_m"]
    assert data["others"] == {"base": "eval-holds-0001", "adapter": "eval-holds-0001"}


def test_a_dataset_is_paged_searched_and_shown_as_tokens_with_its_loss_mask(exported: Workspace) -> None:
    data, text = shown("holds", "first=38&count=10")
    page = data["page"]
    assert (data["rows"], page["total"], [row["line"] for row in page["rows"]]) == (40, 40, [39, 40])
    assert data["train_rows"] + data["valid_rows"] == 40 and "near duplicates" in text
    for row in page["rows"]:
        (begin, end), whole = row["spans"][0], "".join(row["tokens"])
        assert "".join(row["tokens"][begin:end]).startswith(row["answer"]) and row["question"] in whole
        assert row["trained"] == end - begin < row["length"] and not row["cut"]
        assert row["part"] in ("training", "held back")
    found = shown("holds", "find=HARMONY")[0]["page"]
    assert 0 < found["total"] < 40
    assert all("harmony" in (row["question"] + row["answer"]).lower() for row in found["rows"])


def test_a_row_is_struck_out_where_the_training_cuts_it(exported: Workspace) -> None:
    from tools.data.view import Masks, dataset_view
    from tools.training.view import masks_for

    masks, _ = masks_for(exported, "holds")
    assert masks
    row = dataset_view(exported, "holds", count=1)["page"]["rows"][0]
    longest = dataset_view(exported, "holds", count=1, masks=masks)["page"]["rows"][0]["length"] - 3
    cut = dataset_view(exported, "holds", count=1, masks=Masks(masks.tokenizer, "tiny", longest))["page"]["rows"][0]
    assert "tokens" not in row and cut["cut"] == 3
    assert cut["spans"][0][1] == len(cut["tokens"]) - 3


def test_pieces_of_a_character_are_one_piece(exported: Workspace) -> None:
    from tools.data.tokens import pieces
    from tools.training.view import masks_for

    masks, _ = masks_for(exported, "holds")
    assert masks
    text = "naïve 漢字 🙂 end"
    ids = list(masks.tokenizer.encode(text))
    texts, places = pieces(masks.tokenizer, ids)
    assert "".join(texts).endswith(text) and "\ufffd" not in "".join(texts)
    assert len(places) == len(ids) + 1 and places[-1] == len(texts) < len(ids)


def test_what_cannot_be_shown_is_refused_with_what_can(exported: Workspace) -> None:
    assert "holds" in looptune("open", "nope", status=2).stderr
    assert "1 to 64" in looptune("open", "../holds", status=2).stderr
    assert ".html" in looptune("open", "holds", "--output", "/tmp/x.pdf", status=2).stderr

    async def talk() -> None:
        async with Client(build_server()) as client:
            for query, said in (("only=best", "only"), ("first=-1", "first"), ("colour=red", "colour")):
                result = await client.call_tool("show", {"name": "holds", "query": query})
                text: str = result.content[0].text  # type: ignore[union-attr]
                assert result.is_error and said in text and (said != "colour" or "first, count, find, only" in text)

    anyio.run(talk)


def test_a_draft_says_that_it_was_not_validated(workspace: Workspace) -> None:
    from tools.data.generate import generate
    from tools.data.terms import Term

    generate(workspace, terms=[Term(**TERM)], count=20, name="draft")  # type: ignore[arg-type]
    view, data = look_at(workspace, "draft", Wanted(), masks=False)
    assert "not been validated" in told(view, data) and not data["report"]


def test_as_many_rows_are_listed_as_are_said_and_a_valid_dataset_goes_on_to_its_plan(
    dataset: Callable[..., str], workspace: Workspace
) -> None:
    _, text = shown(dataset())
    assert "Rows 1 to 5 of 40 (data):" in text and text.count("\nline ") == 5
    assert text.endswith("Next: plan_training(dataset='holds').")
    write_json(workspace.models / "holds-q4" / "manifest.json", {})
    with pytest.raises(NotFoundError, match=r"'holds-q4' is a model, .* Next: read model://holds-q4"):
        look_at(workspace, "holds-q4", Wanted())


@pytest.mark.slow
def test_open_writes_one_file_that_needs_nothing_else(exported: Workspace, tmp_path: Path) -> None:
    for name, view in (("run-holds-0001", "run"), ("holds", "dataset"), ("gate-holds-0001", "evaluation")):
        made = value("open", name)
        text = Path(made["path"]).read_text()
        assert made["view"] == view and Path(made["path"]).parent == exported.home / "pages"
        own = re.sub(r'id="data">.*?</script>', "", text).replace(
            "http://www.w3.org/2000/svg", ""
        )  # rows may hold URLs
        assert "default-src 'none'" in own and not re.search(r"https?://|url\(|@import|<link|\bsrc=", own)
    other = tmp_path / "for-you.html"
    assert str(other) in looptune("open", "holds", "--output", str(other)).stdout and other.is_file()


def test_what_a_row_says_never_ends_the_script_that_holds_it() -> None:
    text = page({"name": HOSTILE, "view": "run", "log": [HOSTILE]})
    assert HOSTILE not in text and text.count("</script>") == 2
    data = re.search(r'id="data">(.*?)</script>', text)
    assert data and json.loads(data[1])["log"] == [HOSTILE]


def test_watch_shows_jobs_queue_memory_and_model_once(exported: Workspace) -> None:
    job = running(exported)
    waiting, _ = record.create(exported, "train", "later", {"dataset": "holds", "base": "tiny"})
    found = value("watch")
    assert [one["id"] for one in found["running"]] == [job.id] and [one["id"] for one in found["queue"]] == [waiting.id]
    assert {one["id"] for one in found["ended"]} == {"gate-holds-0001", "quant-holds-0001", "run-holds-0001"}
    assert found["machine"]["memory_total_gb"] > 0 and found["store"]["entries"] == 0 and found["loop"] == {}
    text = looptune("watch", "--once").stdout
    assert job.id in text and "6/20" in text and "limit 2" in text and waiting.id in text and "no cycle yet" in text


def test_watch_shows_where_the_loop_stands(workspace: Workspace) -> None:
    entry = {"at": "2026-01-01T00:00:00+00:00", "phase": "act", "said": "run-x-0001 was started."}
    state = {"id": "nightly-0001", "state": "open", "phase": "act", "waiting": "run-x-0001", "attempts": [{}, {}]}
    write_json(workspace.home / "loop" / "nightly-0001" / "state.json", {**state, "entries": [entry]})
    assert value("watch")["loop"]["attempts"] == 2
    assert "nightly-0001 is open, phase act" in looptune("watch", "--once").stdout


@pytest.fixture
def host(node: Path, browser_modules: Path, exported: Workspace) -> Iterator[Callable[..., Any]]:
    with browser_host.browser(exported.home, node) as ask:
        yield ask


def settled(host: Callable[..., Any]) -> None:
    """Nothing was asked of any other place, nothing failed, and nothing is wider than the screen."""
    assert host("seen") == {"asked": [], "errors": []}
    wide = host("look", expression="[document.documentElement.scrollWidth, document.documentElement.clientWidth]")
    assert wide[0] <= wide[1]


@IN_BROWSER
def test_each_view_is_drawn_in_a_host_in_light_and_dark_and_on_a_narrow_screen(host: Callable[..., Any]) -> None:
    expected = {
        "run-holds-0001": "document.querySelectorAll('path.curve').length === 4",
        "holds": "document.querySelectorAll('article .trained').length > 10",
        "gate-holds-0001": "document.querySelectorAll('.model').length === 4 && document.querySelector('.heat')",
    }
    papers = set()
    for name, drawn in expected.items():
        for width, theme in ((360, "dark"), (800, "light")):
            answer = host("view", tool="show", args={"name": name}, width=width, theme=theme)
            assert answer["app"]["name"] == "looptune" and answer["text"]
            host("until", expression=f"Boolean({drawn})")
            papers.add((theme, host("look", expression="getComputedStyle(document.body).backgroundColor")))
            assert host("outside", expression="window.sizes.length > 0 && window.sizes.at(-1).height > 200")
            settled(host)
    assert {theme for theme, _ in papers} == {"light", "dark"} and len({paper for _, paper in papers}) == 2
    host("outside", expression="window.setTheme('dark')")
    host("until", expression="document.documentElement.dataset.theme === 'dark'")


@IN_BROWSER
def test_a_running_job_is_followed_and_stopped_from_its_view_by_keyboard(
    host: Callable[..., Any], exported: Workspace
) -> None:
    job = running(exported)
    host("view", tool="show", args={"name": job.id}, width=360)
    host("until", expression="document.querySelector('.badge').textContent === 'running'")
    host("until", expression="document.body.innerText.includes('1 min 15 s')")
    with (job.folder / "metrics.jsonl").open("a") as stream:
        stream.write(json.dumps({"step": 7, "loss": 0.25, "memory_gb": 1.9, "tokens_per_second": 800.0}) + "\n")
    job.save(step=7, metrics={**job.state.metrics, "loss": 0.25, "memory_gb": 1.9})
    host("until", expression="document.body.innerText.includes('7 of 20')")
    assert host("look", expression="document.querySelector('.tile .bad').textContent") == "1.9"
    host("focus", selector="svg[tabindex]")
    host("press", key="End")
    host("press", key="ArrowLeft")
    assert host("look", expression="document.querySelector('.readout').textContent").startswith("step 6: training 0.5")
    host("focus", selector="button.danger")
    host("press", key="Enter")  # asks first, with "Go on" in focus
    assert host("look", expression="document.activeElement.textContent") == "Go on"
    host("press", key="Escape")
    assert not (job.folder / "cancel").exists()
    host("press", key="Enter")
    host("press", key="Shift+Tab")
    host("press", key="Enter")
    host("until", expression="document.querySelector('.badge').textContent === 'stopping'")
    assert (job.folder / "cancel").exists()
    host("outside", expression="window.teardown()")
    settled(host)


@IN_BROWSER
def test_rows_and_probes_are_paged_and_filtered_through_the_host(host: Callable[..., Any], exported: Workspace) -> None:
    first = "document.querySelector('article .chip').textContent"
    host("view", tool="show", args={"name": "holds"})
    host("until", expression="document.querySelectorAll('article .trained').length > 10")
    assert host("look", expression=first) == "line 1"
    host("click", selector="[aria-label=After]")
    host("until", expression=f"{first} === 'line 11'")
    host("fill", selector="input[type=search]", text="harmony")
    host("press", key="Enter")
    host("until", expression="[...document.querySelectorAll('article')].every((a) => /harmony/i.test(a.innerText))")
    host("click", selector="text=As tokens")
    assert host("look", expression="document.querySelectorAll('article .tokens').length") == 0
    host("view", tool="show", args={"name": "gate-holds-0001"})
    host("click", selector="text=/^all/")
    asked = len(read_report(exported.run("gate-holds-0001"), "base").answers)
    host("until", expression=f"document.querySelectorAll('article').length === {asked}")
    assert host("look", expression="document.querySelectorAll('article .answers > div').length") == 4 * asked
    assert "all" in host("look", expression="document.activeElement.textContent")
    settled(host)


@IN_BROWSER
def test_a_host_that_calls_no_tools_still_shows_what_it_was_given(host: Callable[..., Any]) -> None:
    host("view", tool="show", args={"name": "run-holds-0001"}, serverTools=False)
    host("until", expression="document.querySelector('.badge')?.textContent === 'finished'")
    host("view", tool="show", args={"name": "nope"})
    host("until", expression="document.querySelector('[role=alert]')?.textContent.includes('no run, evaluation')")


@IN_BROWSER
def test_a_page_of_its_own_pages_and_filters_without_a_host(host: Callable[..., Any], exported: Workspace) -> None:
    from tools.data import add

    row = {"instruction": f"What is {HOSTILE}?", "output": f"It is {HOSTILE}.", "kind": "definition"}
    add.add_examples(exported, "holds", [row])
    for name in ("run-holds-0001", "holds", "gate-holds-0001"):
        host("file", path=value("open", name)["path"], width=360, theme="dark")
        host("until", expression="document.querySelector('h1')?.textContent")
        settled(host)
        if name == "holds":
            host("fill", selector="input[type=search]", text="taken")
            host("press", key="Enter")
            host("until", expression="document.querySelectorAll('article').length === 1")
            assert host("look", expression="document.title") == "holds: looptune"
            assert host("look", expression="document.querySelectorAll('img').length") == 0
