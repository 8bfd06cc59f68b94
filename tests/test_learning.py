"""From memory to rows and back: what is taught, when it is worth it, and what becomes of it after a training.

.venv/bin/python -P -m pytest tests/test_learning.py
"""

import functools
import json
import shutil
from collections.abc import Callable
from datetime import UTC, datetime, timedelta
from typing import Any

import anyio
import pytest
import yaml
from conftest import ROOM
from mcp import Client

from server.app import build_server
from server.loop_agent import run_loop
from tools.data.cards import read_phrasings
from tools.data.examples import read_examples
from tools.data.held_back import fair
from tools.data.validate import validate_dataset
from tools.errors import InputError
from tools.evaluation.compare import Target
from tools.export.promotion import promote
from tools.jobs import record
from tools.jobs.worker import main as do_job
from tools.learning.integrate import IntegrationConfig, Outcome, judge, settle, start_integration
from tools.learning.keep import approve
from tools.learning.material import generate_from_memory, taught_by, verified, waiting
from tools.learning.placement import place
from tools.learning.rows import subject_probes, subject_rows
from tools.learning.state import loop_state
from tools.learning.subjects import subject, subjects
from tools.memory.entries import new_entry
from tools.memory.store import MemoryStore
from tools.models.bases import TINY
from tools.sprint.cycle import Attempt, open_cycle
from tools.sprint.rules import parse_sprint
from tools.sprint.work import Step
from tools.training.config import preset
from tools.workspace import Workspace

HOLD = "A soft hold is a reservation that lapses by itself after 15 minutes."
FERRY = "ferry: the nightly import of orders"
CENTS = "Always store amounts as whole cents."


def remember_three(workspace: Workspace) -> list[str]:
    memory = MemoryStore(workspace)
    kept = [
        memory.remember(HOLD, kind="definition", source="user"),
        memory.remember(FERRY, kind="definition", source="user"),
        memory.remember(CENTS, kind="rule", tags=["business:money_in_cents"], source="user"),
    ]
    return [one.entry.id for one in kept]


def test_a_definition_becomes_a_term_and_all_else_a_rule_with_a_topic() -> None:
    phrasings = read_phrasings()
    hold = subject(new_entry(HOLD, "definition"), phrasings)
    assert (
        hold.card
        and hold.card.term == "soft hold"
        and hold.answer == "a reservation that lapses by itself after 15 minutes"
    )
    assert subject(new_entry(FERRY, "definition"), phrasings).answer == "the nightly import of orders"
    cents = subject(new_entry(CENTS, "rule", ["business:money_in_cents"]), phrasings)
    assert cents.rule and cents.rule.topic == "money in cents" and cents.answer == CENTS.rstrip(".")
    utc = subject(new_entry("Always use UTC in the database.", "rule"), phrasings)
    assert utc.rule and utc.rule.tag == "rule:utc_database"


def test_two_rules_under_one_tag_keep_topics_of_their_own_and_a_term_is_taught_once() -> None:
    entries = [
        new_entry("Refunds are possible within 30 days.", "rule", ["business:refund_window"]),
        new_entry("A refund goes to the card it was paid with.", "rule", ["business:refund_window"]),
        new_entry(HOLD, "definition"),
        new_entry("soft hold: a lock on a file", "definition"),
    ]
    found, notes = subjects(entries, read_phrasings())
    tags = [one.rule.tag for one in found if one.rule]
    assert len(found) == 3 and len(set(tags)) == 2 and tags[0] == "business:refund_window"
    assert len(notes) == 1 and entries[3].id in notes[0] and "soft hold" in notes[0]


@pytest.mark.parametrize("text, kind", [(HOLD, "definition"), (CENTS, "rule")])
def test_rows_of_an_insight_have_negatives_and_none_comes_near_its_probes(text: str, kind: Any) -> None:
    one = subject(new_entry(text, kind), read_phrasings())
    rows = subject_rows(one, 90, seed=1)
    knows = [row for row in rows if one.answer.casefold() in row.answer.casefold()]
    assert 80 <= len(rows) <= 90 and 0.2 <= len(knows) / len(rows) <= 0.5
    assert len({row.question for row in rows}) == len(rows)
    probes, near = fair(subject_probes([one]), [row.question for row in rows])
    assert near <= 4  # those are left out of every dataset and integration
    asked = [probe for probe in probes if probe["family"] == one.entry.id]
    assert sum(probe["kind"] == "probe" for probe in asked) >= 6
    assert sum(probe["kind"] == "control" for probe in asked) >= 4


@pytest.mark.slow
def test_a_dataset_from_memory_teaches_what_waits_and_names_its_rows(workspace: Workspace) -> None:
    ids = remember_three(workspace)
    memory = MemoryStore(workspace)
    memory.remember("The depot in Graz closes at 16:00 on Fridays.", kind="fact")
    memory.remember("Perhaps all names are German.", kind="rule", confidence=0.5)
    manifest = generate_from_memory(workspace, count=240, name="night")
    assert taught_by(manifest) == ids and manifest.replayed == 0 and manifest.probes > 30
    rows = read_examples(workspace.dataset("night") / "rows.jsonl")
    assert not any("Graz" in row.text or "German" in row.text for row in rows)
    report, _ = validate_dataset(workspace, "night")
    assert report.ok, report.errors[:3]
    entry = memory.get(ids[0])
    made = {f"night/{row.id}" for row in rows if row.provenance.card == f"memory/{ids[0]}"}
    assert entry.examples and set(entry.examples) <= made
    assert generate_from_memory(workspace, count=240, name="night").rows_sha256 == manifest.rows_sha256


@pytest.mark.slow
def test_what_was_not_learned_gets_more_room_and_what_was_learned_is_replayed(workspace: Workspace) -> None:
    hold, ferry, cents = remember_three(workspace)
    memory = MemoryStore(workspace)
    generate_from_memory(workspace, count=240, name="first")
    memory.change(cents, status="archived", verified_by="run-first-0001")
    memory.change(ferry, status="trained", misses=2)
    manifest = generate_from_memory(workspace, count=240, name="second", replay=0.25)
    assert taught_by(manifest) == [hold, ferry] and manifest.replay_share == 0.25
    assert 45 <= manifest.replayed <= 60  # as many as there are, sixty at most
    rows = read_examples(workspace.dataset("second") / "rows.jsonl")
    count = {id: sum(row.provenance.card == f"memory/{id}" for row in rows) for id in (hold, ferry, cents)}
    assert count[cents] == manifest.replayed and count[ferry] > 2 * count[hold]
    first = {row.question for row in read_examples(workspace.dataset("first") / "rows.jsonl")}
    assert all(row.question in first for row in rows if row.provenance.card == f"memory/{cents}")
    shutil.rmtree(workspace.dataset("first"))  # then they are made again
    assert generate_from_memory(workspace, count=240, name="third", replay=0.25).replayed >= 45


def test_a_dataset_needs_something_that_waits(workspace: Workspace) -> None:
    with pytest.raises(InputError, match="Nothing in memory waits"):
        generate_from_memory(workspace)
    remember_three(workspace)
    with pytest.raises(InputError, match="replay share"):
        generate_from_memory(workspace, replay=0.95)


def test_the_score_grows_with_confidence_priority_and_age(workspace: Workspace) -> None:
    empty = loop_state(workspace)
    assert (empty.train, empty.score, empty.waiting) == ("not", 0.0, 0)
    memory = MemoryStore(workspace)
    memory.remember(CENTS, kind="rule", confidence=0.9, priority=0.5)
    now = datetime.now(UTC)
    fresh, week, year = (loop_state(workspace, now + timedelta(days=days)) for days in (0, 7, 365))
    assert fresh.score == pytest.approx(0.45, abs=0.01) and fresh.train == "not"
    assert week.score == year.score == pytest.approx(0.9, abs=0.01) and week.train == "this week"
    for number in range(6):
        memory.remember(f"Shelf {number} is for parcels of kind {number}.", kind="rule", confidence=0.9, priority=0.6)
    assert loop_state(workspace).train == "tonight"
    for number in range(4):
        memory.remember(f"Gate {number} opens for trucks of kind {number}.", kind="rule", confidence=0.9, priority=0.8)
    memory.remember("Perhaps all names are German.", kind="rule", confidence=0.5)
    state = loop_state(workspace)
    assert state.train == "now" and state.pending == 1 and "score" in state.why and "source='memory'" in state.next_step
    assert state.insights[0].score >= state.insights[-1].score


@pytest.mark.parametrize(
    "text, kind, changed, where",
    [
        (HOLD, "definition", 0, "weights"),
        (CENTS, "rule", 0, "weights"),
        ("Use grams, not kilograms", "correction", 1, "weights"),
        (CENTS, "rule", 2, "memory"),
        ("The depot in Graz has 14 gates.", "fact", 0, "memory"),
        ("The run took 40 minutes.", "run_note", 0, "memory"),
        ("Currently the importer runs on the old server.", "insight", 0, "memory"),
        ("Use version 2.14.0 of the client.", "rule", 0, "memory"),
        ("The schema is at https://example.org/schema.", "insight", 0, "memory"),
        ("Until Friday nobody merges.", "rule", 0, "memory"),
        ("Tables:\n" + "\n".join(f"- t{n}: rows of {n}" for n in range(9)), "insight", 0, "memory"),
        ("Names are short. " * 40, "rule", 0, "memory"),
    ],
)
def test_what_is_stable_and_small_belongs_into_weights_and_the_rest_into_memory(
    text: str, kind: Any, changed: int, where: str
) -> None:
    placement = place(new_entry(text, kind), changed)
    assert placement.where == where and placement.why


def test_what_was_changed_again_and_again_stays_in_memory(workspace: Workspace) -> None:
    memory = MemoryStore(workspace)
    for days in (30, 14, 20):
        kept = memory.remember(
            f"Refunds are possible within {days} days.", kind="rule", tags=["business:refund_window"]
        )
    assert memory.changes()[kept.entry.id] == 2
    assert waiting(workspace) == []


@pytest.fixture
def trained(with_bases: Workspace) -> tuple[Workspace, list[str], str]:
    """A workspace in which the tiny base was trained on three insights; its run."""
    ids = remember_three(with_bases)
    generate_from_memory(with_bases, count=60, name="night")
    validate_dataset(with_bases, "night")
    config = preset("embedded", dataset="night", base=TINY, learning_rate=0.01, memory_limit_gb=ROOM)
    job, _ = record.create(with_bases, "train", "night", config.model_dump())
    assert do_job(job.folder) == 0, record.read(job.folder).reason
    return with_bases, ids, job.id


def integrate(workspace: Workspace, run: str, key: str = "") -> tuple[str, dict[str, Any]]:
    """The integration of `run` through the tool, followed to its end: the job, and its result."""

    async def ask() -> str:
        async with Client(build_server()) as client:
            started = await client.call_tool("integrate_insights", {"run": run, "idempotency_key": key})
            assert not started.is_error, started.content
            job = str((started.structured_content or {})["id"])
            state = ""
            while state not in ("finished", "failed", "stopped"):
                status = await client.call_tool("training_status", {"run": job, "wait_seconds": 45})
                state = (status.structured_content or {})["state"]
            return job

    job = anyio.run(ask)
    state = record.read(workspace.run(job))
    assert state.state == "finished", state.reason
    return job, dict(state.result)


@pytest.mark.slow
def test_what_a_model_does_not_know_stays_and_weighs_more_and_what_it_lost_comes_back(
    trained: tuple[Workspace, list[str], str],
) -> None:
    workspace, (hold, ferry, cents), run = trained
    memory = MemoryStore(workspace)
    memory.change(cents, status="archived", verified_by="run-earlier-0001")
    assert "cents" not in str([hit.text for hit in memory.query("how are amounts stored?")])
    job, result = integrate(workspace, run, key="night")
    verdicts = {one["id"]: one["verdict"] for one in result["insights"]}
    assert verdicts == {hold: "not known", ferry: "not known", cents: "lost"}  # a random model of two layers
    for id, status in ((hold, "trained"), (ferry, "trained"), (cents, "approved")):
        entry = memory.get(id)
        assert (entry.status, entry.misses, entry.runs, entry.verified_by) == (status, 1, [run], "")
    assert memory.query("how are amounts stored?")[0].text == CENTS
    assert result["counts"] == {"not known": 2, "lost": 1}
    before = memory.get_all([hold, ferry, cents])
    assert integrate(workspace, run, key="night")[0] == job  # the same key asks for the same job
    again, _ = integrate(workspace, run)
    assert again != job and memory.get_all([hold, ferry, cents]) == before


@pytest.mark.slow
def test_a_sprint_lets_memory_know_what_the_promoted_model_knows(
    exported: Workspace, monkeypatch: pytest.MonkeyPatch
) -> None:
    """From the archive phase on, with a model that is promoted; the server and the job are processes of their own, and
    the loop looks at the job many times, the last time when the memory has changed already."""
    monkeypatch.setattr("server.loop_agent.Step", functools.partial(Step, wait_seconds=0.2))
    memory = MemoryStore(exported)
    cents = memory.remember(CENTS, kind="rule", source="user").entry.id
    memory.change(cents, status="archived", verified_by="run-earlier-0001")
    rules = {"name": "night", "teach": {"memory": True}, "archive": {"integrate_insights": True}}
    text = yaml.safe_dump({**rules, "criteria": [{"name": "recall", "check": "adapter.recall >= 0"}]})
    cycle, _ = open_cycle(exported, parse_sprint(text), text)
    done = {
        "dataset": "holds",
        "run": "run-holds-0001",
        "export": "quant-holds-0001",
        "gate": "gate-holds-0001",
        "model": "holds",
    }
    cycle.attempts = [Attempt(number=1, rows=40, settings={}, figures={"adapter.recall": 0.0}, **done)]
    cycle.phase, cycle.promoted = "archive", "holds"
    run_loop(exported, cycle, parse_sprint(text), lambda said: None)
    assert cycle.state == "passed" and cycle.notes["insights"].endswith("finished: lost 1."), cycle.notes
    assert memory.get(cents).status == "approved" and memory.get(cents).runs == ["holds"]
    ((key, job),) = cycle.jobs.items()  # a repeated call finds its job, although there is nothing to ask any more
    again, new = start_integration(exported, "holds", key)
    assert (again.id, new) == (job, False)
    with pytest.raises(InputError, match="taught nothing from memory"):
        start_integration(exported, "holds", "another")


def test_rows_of_the_model_that_answers_are_replayed_without_its_general_ones(exported: Workspace) -> None:
    earlier = read_examples(exported.dataset("holds") / "rows.jsonl")
    taught = {row.question for row in earlier if row.provenance.card == "definition/forty-two"}
    assert taught and any(row.provenance.card.startswith("general") for row in earlier)
    MemoryStore(exported).remember(CENTS, kind="rule", source="user")
    assert generate_from_memory(exported, count=60, name="before", replay=0.5).replayed == 0
    promote(exported, "holds", [], force="it is only to answer")
    manifest = generate_from_memory(exported, count=60, name="after", replay=0.5)
    rows = read_examples(exported.dataset("after") / "rows.jsonl")
    again = [row.question for row in rows if row.provenance.card == "definition/forty-two"]
    assert 10 <= len(again) == manifest.replayed <= 30 and set(again) <= taught  # so none of the general ones came


def report(ids: list[str], right: dict[str, tuple[int, int]], general: int = 10, label: str = "model") -> Any:
    """A report in which each insight's probes and controls were answered right that often, of eight and of six."""
    from tools.evaluation.compare import Answered, ModelReport

    answers = []
    for id in ids:
        for kind, of, n in (("probe", 8, right[id][0]), ("control", 6, right[id][1])):
            for i in range(of):
                answers.append(
                    Answered(id=f"{id}-{kind}-{i}", family=id, kind=kind, prompt="?", answer="!", right=i < n)
                )
    for i in range(10):
        answers.append(
            Answered(id=f"g{i}", family="general", kind="control", prompt="?", answer="!", right=i < general)
        )
    figures: dict[str, Any] = {"perplexity": 9.0, "tokens_per_second": 1.0, "size_mb": 1.0, "seconds": 1.0}
    return ModelReport(
        label=label, recall=None, controls=None, probes=0, control_count=0, families={}, suite="insights",
        suite_sha256="", answers=answers, **figures,
    ).counted()  # fmt: skip


def test_known_insights_are_archived_unless_something_else_broke(workspace: Workspace) -> None:
    ids = remember_three(workspace)
    hold, ferry, cents = ids
    memory = MemoryStore(workspace)
    config = IntegrationConfig(
        model="run-night-0001", base=Target(label="base"), target=Target(label="model"), dataset="night"
    )
    new, _ = subjects([memory.get(id) for id in ids], read_phrasings())
    base = report(ids, dict.fromkeys(ids, (0, 6)), label="base")
    good = report(ids, {hold: (8, 6), ferry: (6, 6), cents: (8, 2)}, general=10)
    outcomes, broken = judge(config, base, report(ids, {hold: (8, 6), ferry: (6, 6), cents: (8, 4)}), new, [])
    assert [outcome.verdict for outcome in outcomes] == ["verified", "not known", "not known"]
    assert broken == pytest.approx(2 / 28)
    spoiled, broken = judge(config, base, report(ids, dict.fromkeys(ids, (8, 6)), general=4), new, [])
    assert broken > 0.2 and {outcome.verdict for outcome in spoiled} == {"held back"} and "broke" in spoiled[0].why
    assert good.controls is not None
    settle(memory, config.model, spoiled[0])
    assert memory.get(hold).status == "verified" and memory.query("what is a soft hold?")[0].id == hold
    settled = [settle(memory, config.model, outcome) for outcome in outcomes]
    assert [outcome.status for outcome in settled] == ["archived", "trained", "trained"]
    assert hold not in [hit.id for hit in memory.query("what is a soft hold?")]
    assert [entry.id for entry in verified(workspace)] == [hold]
    assert [entry.id for entry in waiting(workspace)] == [ferry, cents]
    again, _ = judge(config, base, report(ids, dict.fromkeys(ids, (8, 6))), [], new[:1])
    assert again[0].verdict == "still known"


def test_what_is_said_again_comes_back_from_the_archive(workspace: Workspace) -> None:
    hold, _, _ = remember_three(workspace)
    memory = MemoryStore(workspace)
    memory.change(hold, status="archived", verified_by="run-night-0001")
    assert memory.remember(HOLD, kind="definition", source="user").entry.status == "approved"
    assert hold in [entry.id for entry in waiting(workspace)]


THIRTY = "Refunds are possible within 30 days from delivery."
FOURTEEN = "Refunds are possible within 14 days from delivery."


def test_what_contradicts_what_a_model_knows_is_reported_and_the_old_text_is_taught_no_more(
    workspace: Workspace,
) -> None:
    memory = MemoryStore(workspace)
    old = memory.remember(THIRTY, kind="rule", tags=["rule:refund_window"]).entry.id
    generate_from_memory(workspace, count=60, name="first")
    memory.change(old, status="archived", verified_by="run-first-0001")
    assert [entry.id for entry in verified(workspace)] == [old]
    kept = memory.remember(FOURTEEN, kind="rule", tags=["rule:refund_window"])
    assert [(c.id, c.holds, c.rule) for c in kept.conflicts] == [(old, kept.entry.id, "the newer wins")]
    assert memory.get(old).superseded_by == kept.entry.id and memory.get(old).status == "archived"
    assert verified(workspace) == [] and [entry.id for entry in waiting(workspace)] == [kept.entry.id]
    manifest = generate_from_memory(workspace, count=60, name="second", replay=0.5)
    assert taught_by(manifest) == [kept.entry.id] and manifest.replayed == 0
    rows = read_examples(workspace.dataset("second") / "rows.jsonl")
    assert any("14 days" in row.text for row in rows) and not any("30 days" in row.text for row in rows)


def test_a_guess_takes_nothing_away_from_what_a_model_knows_until_somebody_says_yes(workspace: Workspace) -> None:
    memory = MemoryStore(workspace)
    old = memory.remember(THIRTY, kind="rule").entry.id
    memory.change(old, status="archived", verified_by="run-first-0001")
    guess = memory.remember(FOURTEEN, kind="rule", confidence=0.6, source="transcript")
    assert [c.holds for c in guess.conflicts] == [old] and "a yes" in guess.conflicts[0].rule
    assert guess.entry.status == "pending" and [entry.id for entry in verified(workspace)] == [old]
    assert approve(workspace, guess.entry.id).superseded_by == ""
    assert memory.get(old).superseded_by == guess.entry.id and verified(workspace) == []
    assert [entry.id for entry in waiting(workspace)] == [guess.entry.id]


def test_what_was_put_away_contradicts_nothing(workspace: Workspace) -> None:
    memory = MemoryStore(workspace)
    old = memory.remember(THIRTY, kind="rule", status="archived").entry.id
    assert memory.remember(FOURTEEN, kind="rule").conflicts == [] and memory.get(old).superseded_by == ""


def test_what_was_contradicted_while_its_model_was_asked_is_not_brought_back(workspace: Workspace) -> None:
    memory = MemoryStore(workspace)
    old = memory.remember(THIRTY, kind="rule").entry.id
    memory.change(old, status="archived", verified_by="run-first-0001")
    outcome = Outcome(
        id=old, text=THIRTY, verdict="lost", right=0, probes=8, controls_right=6, controls=6, status="archived", why=""
    )
    newer = memory.remember(FOURTEEN, kind="rule").entry.id
    assert settle(memory, "run-second-0001", outcome).status == "archived"
    assert [entry.id for entry in waiting(workspace)] == [newer]


def test_a_base_or_a_run_without_insights_is_refused(exported: Workspace) -> None:
    with pytest.raises(InputError, match="is a base"):
        start_integration(exported, TINY)
    with pytest.raises(InputError, match="taught nothing from memory"):
        start_integration(exported, "run-holds-0001")


def test_an_agent_closes_the_loop_through_the_tools(workspace: Workspace, dataset: Callable[..., str]) -> None:
    async def run() -> None:
        async with Client(build_server()) as client:

            async def call(tool: str, **arguments: Any) -> dict[str, Any]:
                result = await client.call_tool(tool, arguments)
                assert not result.is_error, result.content
                return dict(result.structured_content or {})

            async def state() -> dict[str, Any]:
                text = (await client.read_resource("loop://state")).contents[0].text  # type: ignore[union-attr]
                return dict(json.loads(text)["insights"])

            assert (await state())["train"] == "not"
            said = "User: By 'soft hold' we mean a reservation that lapses.\nUser: Dates are always ISO.\n"
            found = (await call("remember", text=said, find=True))["found"]
            assert [one["status"] for one in found] == ["approved", "pending"]
            assert (await call("remember", text="User: fine, thanks", find=True))["found"] == []
            kept = await call("remember", text=CENTS, kind="rule")
            assert kept["belongs"] == "weights"
            assert (await call("remember", text="The office is in Graz.", kind="fact"))["belongs"] == "memory"
            entry = (await client.read_resource(f"memory://entries/{kept['id']}")).contents[0].text  # type: ignore[union-attr]
            assert json.loads(entry)["belongs"]["where"] == "weights"
            assert [one["id"] for one in (await state())["insights"]].count(kept["id"]) == 1
            made = await call("generate_examples", source="memory", count=80, name="night")
            assert made["dataset"] == "night" and (await call("validate_dataset", dataset="night"))["ok"]
            refused = await client.call_tool("generate_examples", {"source": "memory", "cards": ["definition/echo"]})
            assert refused.is_error
            refused = await client.call_tool("integrate_insights", {"run": "run-night-0001"})
            assert refused.is_error and "run-night-0001" in refused.content[0].text

    anyio.run(run)
