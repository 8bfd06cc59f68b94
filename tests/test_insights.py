"""What is found worth remembering in transcripts and diffs, and what becomes of it.

.venv/bin/python -P -m pytest tests/test_insights.py
"""

import importlib.util
import json
from pathlib import Path

import pytest
from typer.testing import CliRunner

from server.cli.main import app
from tools.errors import ConflictError, NotFoundError
from tools.learning.detect import find_candidates
from tools.learning.keep import approve, keep_insights
from tools.learning.snippets import PARTS, judge, read_snippets
from tools.memory.store import MemoryStore
from tools.workspace import Workspace

ROOT = Path(__file__).resolve().parent.parent
GRAMS = """\
User: weights are whole grams
Assistant: I used kilograms.
User: no, grams, not kilograms
Assistant: Sorry.
User: the message still has kilograms. Grams, not kilograms!
Assistant: Changed.
User: grams instead of kilograms in the fixture, please
"""


def test_there_are_150_snippets_and_most_parts_hold_nothing_to_find() -> None:
    snippets = [snippet for part in PARTS for snippet in read_snippets(part)]
    assert len(snippets) >= 150 and len({snippet.text for snippet in snippets}) == len(snippets)
    assert len({snippet.id for snippet in snippets}) == len(snippets)
    assert 0.3 <= sum(not snippet.expect for snippet in snippets) / len(snippets) <= 0.7


@pytest.mark.parametrize("part", PARTS)
def test_what_is_found_is_right_in_nine_of_ten(part: str) -> None:
    outcomes = [judge(snippet) for snippet in read_snippets(part)]
    expected = sum(len(snippet.expect) for snippet in read_snippets(part))
    right = sum(outcome.right for outcome in outcomes)
    assert right / sum(outcome.found for outcome in outcomes) >= 0.9
    assert right / expected >= 0.85
    assert sum(o.sure_right for o in outcomes) / sum(o.sure for o in outcomes) >= 0.9


def test_the_documents_table_is_what_the_benchmark_prints() -> None:
    spec = importlib.util.spec_from_file_location("insights_benchmark", ROOT / "benchmarks" / "insights.py")
    assert spec and spec.loader
    benchmark = importlib.util.module_from_spec(spec)
    spec.loader.exec_module(benchmark)
    text = (ROOT / "docs" / "memory.md").read_text(encoding="utf-8")
    shown = text.split(benchmark.BEGIN)[1].split(benchmark.END)[0].strip()
    command = ".venv/bin/python -P benchmarks/insights.py --write docs/memory.md"
    assert shown == benchmark.table({part: benchmark.measure(part) for part in PARTS}), f"run {command}"


def test_a_correction_counts_the_third_time_and_not_before() -> None:
    lines = GRAMS.splitlines()
    assert find_candidates("\n".join(lines[:5])) == []
    found = find_candidates(GRAMS)
    assert [(c.text, c.kind, c.why) for c in found] == [("Use grams, not kilograms", "correction", "corrected 3 times")]


def test_only_the_user_is_heard() -> None:
    assert find_candidates("Assistant: From now on I always write the tests first.\nUser: fine") == []
    assert find_candidates("Assistant: Done.\nUser: From now on write the tests first.")[0].kind == "rule"


def test_a_term_is_kept_in_the_form_that_it_is_taught_from() -> None:
    assert find_candidates("By 'soft hold' we mean a reservation that lapses by itself.")[0].text == (
        "soft hold: a reservation that lapses by itself"
    )


def test_sure_insights_hold_and_others_wait_for_a_yes(workspace: Workspace) -> None:
    said = "User: Always use UTC in the database.\nUser: Dates in file names are always ISO."
    sure, unsure = keep_insights(workspace, said)
    assert sure.kept and unsure.kept
    assert (sure.kept.entry.status, unsure.kept.entry.status) == ("approved", "pending")
    assert sure.kept.entry.source.startswith("user") and not unsure.kept.entry.source.startswith("user")
    assert [one.kept.new for one in keep_insights(workspace, said) if one.kept] == [False, False]
    assert approve(workspace, unsure.kept.entry.id).status == "approved"
    assert MemoryStore(workspace).get(unsure.kept.entry.id).status == "approved"


def test_a_yes_to_what_is_unknown_or_archived_is_refused(workspace: Workspace) -> None:
    with pytest.raises(NotFoundError, match="mem-000000000000"):
        approve(workspace, "mem-000000000000")
    kept = keep_insights(workspace, "Always use UTC in the database.")[0].kept
    assert kept
    MemoryStore(workspace).change(kept.entry.id, status="archived")
    with pytest.raises(ConflictError, match="archived"):
        approve(workspace, kept.entry.id)


def test_looking_for_insights_keeps_nothing_when_only_asked_to_show(workspace: Workspace) -> None:
    assert keep_insights(workspace, GRAMS, keep=False)[0].kept is None
    assert MemoryStore(workspace).describe().count == 0


def test_hostile_text_is_read_in_time_and_breaks_nothing() -> None:
    for text in ("always " * 20_000, "a" * 100_000, "'" * 50_000, "from now on, " * 10_000, "@@ x @@\n+++ \n" * 5_000):
        find_candidates(text)


def test_the_command_finds_keeps_and_approves(workspace: Workspace, tmp_path: Path) -> None:
    talk = tmp_path / "talk.txt"
    talk.write_text("User: Dates in file names are always ISO.\n")
    done = CliRunner().invoke(app, ["insights", "find", str(talk), "--json"])
    assert done.exit_code == 0, done.output
    entry = json.loads(done.stdout)[0]["kept"]["entry"]
    assert entry["status"] == "pending"
    done = CliRunner().invoke(app, ["insights", "approve", entry["id"], "--json"])
    assert json.loads(done.stdout)[0]["status"] == "approved"
