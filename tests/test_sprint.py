"""Sprint files, criteria, the lease, remedies, evidence and the schedule: everything that needs no training.

.venv/bin/python -P -m pytest tests/test_sprint.py
"""

import json
import plistlib
import shutil
import subprocess
import sys
import time
from datetime import datetime
from pathlib import Path
from typing import Any

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from server.cli.main import app
from tools.errors import ConflictError, InputError, NotFoundError
from tools.files import read_json, write_json
from tools.sprint.commands import ALLOWED, refused
from tools.sprint.cycle import Attempt, Verdict, open_cycle, save
from tools.sprint.evidence import checkout, collect, defines, flatten, read_document
from tools.sprint.expressions import judge, parse
from tools.sprint.figures import KNOWN
from tools.sprint.lease import held, holder
from tools.sprint.remedies import choose
from tools.sprint.rules import Sprint, parse_sprint, read_sprint, shipped_sprints
from tools.sprint.schedule import schedule
from tools.workspace import Workspace

CLI = [sys.executable, "-P", "-m", "server.cli"]
SPRINT = """
name: holds
teach: {terms: [{term: soft hold, meaning: a reservation that lapses by itself after 15 minutes}], rows: 100}
train: {preset: tiny}
criteria:
  - {name: recall, check: adapter.recall >= 0.9}
  - {name: controls, check: adapter.controls >= 0.9}
adapt: 3
"""


def sprint_with(**changes: Any) -> Sprint:
    import yaml

    return parse_sprint(yaml.safe_dump({**yaml.safe_load(SPRINT), **changes}))


# --- criteria -----------------------------------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("text", "passed", "value"),
    [
        ("adapter.recall >= 0.9", True, 0.93),
        ("adapter.perplexity / base.perplexity <= 1.1", False, 1.2),
        ("0.5 < adapter.recall < 0.9", False, 0.5),
        ("not adapter.recall < 0.9 and base.recall == 0", True, None),
        ("abs(adapter.recall - 1) <= 0.1 or gate.passed", True, 0.0),
        ("max(adapter.recall, base.recall) - 0.03 >= 0.9", True, 0.9),
        ("-adapter.recall < 0", True, -0.93),
    ],
)
def test_a_criterion_compares_what_was_measured(text: str, passed: bool, value: float | None) -> None:
    figures = {"adapter.recall": 0.93, "base.recall": 0.0, "adapter.perplexity": 24.0, "base.perplexity": 20.0}
    figures["gate.passed"] = 0.0
    judged = judge(parse(text, KNOWN), figures)
    assert judged.passed is passed
    if isinstance(parse(text).tree, __import__("ast").Compare):
        assert judged.value == pytest.approx(value)


def test_a_figure_that_was_not_measured_is_named_and_never_counts_as_met() -> None:
    judged = judge(parse("not adapter.recall < 0.9", KNOWN), {})
    assert not judged.passed and judged.missing == ["adapter.recall"] and "not measured" in judged.told()
    assert not judge(parse("adapter.recall / base.recall > 1", KNOWN), {"adapter.recall": 1, "base.recall": 0}).passed


def test_a_figure_that_there_is_not_is_refused_with_those_there_are() -> None:
    with pytest.raises(InputError, match=r"no figure 'adapter.recal'. Known figures: .*adapter.recall, .*train.steps"):
        parse("adapter.recal >= 0.9", KNOWN)


@pytest.mark.parametrize(
    "text",
    [
        "__import__('os').system('id')",
        "adapter.recall.__class__ == 1",
        "(lambda: 1)() == adapter.recall",
        "[x for x in (1,)] == adapter.recall",
        "adapter['recall'] > 1",
        "adapter.recall ** 999999 > 1",
        "adapter.recall > '0.9'",
        "open('x') > adapter.recall",
        "abs(adapter.recall, 1) > 0",
        "adapter.recall := 1",
        "adapter.recall is 1",
        "1 < 2",
        "",
        "adapter.recall >",
        "(" * 300,
        "1 " + "+ adapter.recall " * 200,
    ],
)
def test_what_does_more_than_compare_figures_is_refused(text: str) -> None:
    with pytest.raises(InputError):
        parse(text, KNOWN)


@settings(max_examples=60)
@given(st.text(max_size=60))
def test_no_text_does_anything_but_parse_or_be_refused(text: str) -> None:
    try:
        rule = parse(text)
    except InputError:
        return
    judge(rule, dict.fromkeys(rule.names, 1.0))


# --- sprint files -------------------------------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("changes", "said"),
    [
        ({"criteria": [{"name": "r", "check": "adapter.recal > 1"}]}, "no figure 'adapter.recal'"),
        ({"criteria": [{"name": "t", "test": ["tests/test_data.py::test_x"]}]}, "nothing says when it is done"),
        ({"criteria": [{"name": "r", "check": "adapter.recall > 1", "open": "why"}]}, "or else `open`"),
        ({"criteria": [{"name": "r"}]}, "or else `open`"),
        ({"criteria": [{"name": "r", "command": "memory forget --yes"}]}, "changes nothing"),
        ({"criteria": [{"name": "r", "command": "dataset build core"}]}, "dataset build needs --check"),
        ({"criteria": [{"name": "r", "command": "rules cursor 'x"}]}, "cannot be read"),
        ({"criteria": [{"name": "r", "check": "adapter.recall > 1"}] * 2}, "Two criteria are named 'r'"),
        ({"teach": {"rows": 40}}, "expected either `dataset`"),
        ({"teach": {"cards": ["definition/echo"], "replay": 0.2}}, "`replay` belongs to `memory: true`"),
        ({"teach": {"memory": True, "replay": 0.95}}, "teach.replay"),
        ({"train": {"preset": "nope"}}, "no preset named 'nope'"),
        ({"train": {"settings": {"rank": 0}}}, "rank: input should be greater"),
        ({"budget": {"hours": 3}}, "budget.hours"),
        ({"name": "../x"}, "A sprint name is"),
        ({"adapt": 99}, "adapt"),
    ],
)
def test_a_sprint_file_says_what_is_wrong_before_anything_runs(changes: dict[str, Any], said: str) -> None:
    with pytest.raises((InputError, NotFoundError), match=said):
        sprint_with(**changes)


@pytest.mark.parametrize(
    "command",
    [
        "rules cursor --write /home/me/.bashrc --force",
        "rules cursor --write=x",
        "rules --write x cursor",
        "evaluation show eval-holds-0001 --html x.html",
        "evaluation show eval-holds-0001 --png=x.png",
        "evaluation grade eval-holds-0001 verdicts.json",
        "validate holds --fix",
        "validate holds",
        "validate rows.jsonl --report /tmp/x",
        "validate /etc/passwd.json",
        "validate ../rows.jsonl",
        "check a.py /etc/passwd",
        "check - b.py",
        "dataset use core --check",
        "dataset build core --json --check=no",
        "plan --preset --json",
        "plan --install-completion",
        "doctor; rm -rf x",
        "call forget confirm=true",
        "loop run nightly",
        "promote holds --force x",
        "resource memory://store x",
        "",
        "--help",
    ],
)
def test_evidence_runs_nothing_that_could_write(command: str) -> None:
    assert refused(command)


@pytest.mark.parametrize("name", sorted(ALLOWED))
def test_what_evidence_may_run_is_there_with_all_that_is_allowed_of_it(name: str) -> None:
    """A command or option that was renamed would be refused by the CLI, and its criterion never met."""
    from typer.main import get_command

    command: Any = get_command(app)
    for word in name.split():
        command = command.commands[word]
    options = {text: given for given in command.params for text in (*given.opts, *given.secondary_opts)}
    allowed = ALLOWED[name]
    assert all(options[flag].is_flag for flag in allowed.flags)
    assert not any(options[value].is_flag for value in allowed.values)
    assert sum(given.param_type_name == "argument" for given in command.params) == allowed.arguments


def test_what_is_no_sprint_file_is_refused(tmp_path: Path) -> None:
    (tmp_path / "list.yaml").write_text("- 1\n")
    (tmp_path / "bad.yaml").write_text("name: [\n")
    (tmp_path / "code.yaml").write_text("name: !!python/object/apply:os.system ['id']\n")
    for name in ("list", "bad", "code"):
        with pytest.raises(InputError, match=name):
            read_sprint(tmp_path / f"{name}.yaml")
    with pytest.raises(NotFoundError):
        read_sprint(tmp_path / "none.yaml")


@pytest.mark.parametrize("name", sorted(shipped_sprints()))
def test_the_sprints_that_ship_are_whole(name: str) -> None:
    sprint, _ = read_sprint(shipped_sprints()[name])
    assert sprint.name == name and sprint.goal


# --- cycles and the lease -----------------------------------------------------------------------------------------


def test_an_unfinished_cycle_goes_on_and_changed_rules_are_said(workspace: Workspace) -> None:
    first, new = open_cycle(workspace, sprint_with(), SPRINT)
    assert new and first.id == "holds-0001"
    again, new = open_cycle(workspace, sprint_with(), SPRINT)
    assert not new and again.id == first.id
    with pytest.raises(ConflictError, match="other rules"):
        open_cycle(workspace, sprint_with(), SPRINT + "# changed\n")
    second, new = open_cycle(workspace, sprint_with(), SPRINT + "# changed\n", anew=True)
    assert new and second.id == "holds-0002"
    assert read_json(workspace.home / "loop" / first.id / "state.json")["state"] == "gave up"


def test_one_loop_at_a_time_and_the_other_says_who_is_at_work(workspace: Workspace) -> None:
    with held(workspace, "holds-0001"):
        assert (holder(workspace) or {})["about"] == "holds-0001"
        with pytest.raises(ConflictError, match="Another loop is at work: holds-0001"), held(workspace, "other"):
            pass
    assert holder(workspace) is None
    with held(workspace, "other"):
        pass


def test_a_lease_that_ran_out_is_taken_over_and_who_slept_writes_nothing(workspace: Workspace) -> None:
    cycle, _ = open_cycle(workspace, sprint_with(), SPRINT)
    path = workspace.home / "loop" / "lease.json"
    with held(workspace, "slept") as slept:
        write_json(path, {**read_json(path), "until": time.time() - 1})
        with held(workspace, "woke") as woke:
            cycle.log("observe", "by the second")
            save(workspace, cycle, woke)
            cycle.log("observe", "by the first")
            with pytest.raises(ConflictError, match="taken over by woke"):
                save(workspace, cycle, slept)
    assert len(read_json(workspace.home / "loop" / cycle.id / "state.json")["entries"]) == 1


def test_a_lease_is_renewed_while_its_holder_lives(workspace: Workspace) -> None:
    with held(workspace, "holds-0001", seconds=0.3) as lease:
        first, deadline = read_json(lease.path)["until"], time.monotonic() + 20
        while read_json(lease.path)["until"] <= first:
            assert time.monotonic() < deadline
        lease.require()


# --- remedies -----------------------------------------------------------------------------------------------------


def attempt(number: int, recall: float, controls: float, **changes: Any) -> Attempt:
    figures = {"adapter.recall": recall, "adapter.controls": controls}
    verdicts = [
        Verdict(name=key, check=f"adapter.{key} >= 0.9", passed=figures[f"adapter.{key}"] >= 0.9, status="failed")
        for key in ("recall", "controls")
    ]
    changes = {"rows": 100, "settings": {"epochs": 1.0}, **changes}
    return Attempt(number=number, figures=figures, verdicts=verdicts, **changes)


def test_low_recall_asks_for_more_steps_and_then_for_what_was_not_tried() -> None:
    first = attempt(1, 0.2, 0.95)
    remedy = choose(sprint_with(), [first])
    assert remedy and (remedy.name, remedy.settings["epochs"], remedy.rows) == ("more steps", 2.0, 100)
    assert "recall" in remedy.reason and "controls" not in remedy.reason
    second = attempt(2, 0.5, 0.95, settings={"epochs": 2.0})
    assert (choose(sprint_with(), [first, second]) or remedy).settings["epochs"] == 4.0


def test_changed_controls_ask_for_more_negatives_then_for_a_lower_rate() -> None:
    first = attempt(1, 0.95, 0.7)
    remedy = choose(sprint_with(), [first])
    assert remedy and (remedy.name, remedy.rows) == ("more negatives", 150)
    second = attempt(2, 0.95, 0.7, rows=150)
    third = choose(sprint_with(), [first, second])
    assert third and third.rows == 225
    held_rows = sprint_with(teach={"dataset": "own"})
    lower = choose(held_rows, [first])
    assert lower and lower.name == "lower rate" and lower.settings["learning_rate"] == pytest.approx(0.005)


def test_an_attempt_that_went_too_far_is_rolled_back() -> None:
    better, worse = attempt(1, 0.6, 0.95), attempt(2, 0.8, 0.5, settings={"epochs": 2.0}, parent=1)
    remedy = choose(sprint_with(), [better, worse])
    assert remedy and remedy.parent == 1 and remedy.name == "rolled back, more negatives"
    assert remedy.settings == {"epochs": 1.0} and "Attempt 2 is further from the goal than attempt 1" in remedy.reason


def test_a_training_that_began_to_learn_is_not_rolled_back_to_one_that_knew_nothing() -> None:
    nothing, begun = attempt(1, 0.0, 0.98), attempt(2, 0.2, 0.8, settings={"epochs": 2.0}, parent=1)
    remedy = choose(sprint_with(), [nothing, begun])
    assert remedy and remedy.parent == 2 and (remedy.name, remedy.settings["epochs"]) == ("more steps", 4.0)


def test_a_training_that_failed_is_mended_by_its_reason() -> None:
    def of(failure: str, **settings: Any) -> Any:
        return choose(sprint_with(), [attempt(1, 0, 0, failure=failure, settings=settings)])

    smaller = of("run-1 stopped: memory limit: the training came to 2.1 GB", pack_tokens=1024)
    assert smaller.name == "smaller packs" and smaller.settings["pack_tokens"] == 512
    assert of("run-1 failed: the loss is not a number").settings["learning_rate"] == pytest.approx(0.005)
    assert of("run-1 failed: The worker ended without a word: it was killed").resume
    assert of("run-1 failed: the disk is full") is None


# --- evidence -----------------------------------------------------------------------------------------------------

TESTS = """
import pytest
@pytest.mark.parametrize("n", [1, 2])
def test_holds(n): assert n
def test_breaks(): assert False
@pytest.mark.skip
def test_skips(): pass
"""
DOCUMENT = "# A\n\nall of it\n\n## Format\n\nA row has three fields.\n```\n# no heading\n```\nmore\n\n## Other\n\nno\n"


@pytest.fixture
def small_checkout(tmp_path: Path) -> Path:
    root = tmp_path / "checkout"
    (root / "tests").mkdir(parents=True)
    (root / "tests" / "test_it.py").write_text(TESTS)
    (root / "README.md").write_text(DOCUMENT)
    (tmp_path / "secret.md").write_text("outside")
    return root


@pytest.mark.slow
def test_each_criterion_is_shown_by_what_was_run_or_read_now(small_checkout: Path, workspace: Workspace) -> None:
    wanted = [
        ({"test": ["tests/test_it.py::test_holds"]}, "met", "test_holds: 2 passed in"),
        ({"test": ["tests/test_it.py::test_holds", "tests/test_it.py::test_breaks"]}, "failed", "1 of 1 failed"),
        ({"test": ["tests/test_it.py::test_skips"]}, "open", "was skipped"),
        ({"test": ["tests/test_it.py::test_gone"]}, "open", "there is no test"),
        ({"command": "runs --json", "check": "count == 0"}, "met", "count = 0"),
        ({"command": "runs --json", "check": "count > 0"}, "failed", "count = 0"),
        ({"command": "runs --json", "check": "counts > 0"}, "open", "no figure 'counts'"),
        ({"command": "rules nope"}, "failed", "exit status 2"),
        ({"document": "README.md", "section": "Format", "says": ["three fields", "more"]}, "met", "three fields"),
        ({"document": "README.md", "section": "Format", "says": ["four fields"]}, "failed", "does not say"),
        ({"document": "README.md", "section": "Gone"}, "failed", "no section"),
        ({"document": "README.md", "test": ["tests/test_it.py::test_breaks"]}, "failed", "1 of 1 failed; README.md"),
        ({"document": "../secret.md"}, "open", "there is no ../secret.md"),
        ({"open": "needs an M1 Max"}, "open", "not shown: needs an M1 Max"),
        ({"check": "adapter.recall >= 0.9"}, "met", "adapter.recall = 0.95 (holds-0001)"),
        ({"check": "adapter.controls >= 0.9"}, "open", "not measured"),
    ]
    criteria = [{"name": f"c{i}", **evidence} for i, (evidence, _, _) in enumerate(wanted)]
    sprint = sprint_with(criteria=criteria)
    found = collect(sprint.criteria, {"adapter.recall": 0.95}, CLI, "holds-0001", small_checkout)
    for verdict, (_, status, said) in zip(found, wanted, strict=True):
        assert (verdict.status, verdict.passed) == (status, status == "met"), verdict
        assert said in verdict.evidence, verdict


def test_every_test_and_every_section_that_the_backlog_names_is_there() -> None:
    """A test that was renamed would leave its criterion open, and nobody would see it before the next report."""
    criteria = read_sprint(shipped_sprints()["backlog"])[0].criteria
    named = {name for criterion in criteria for name in criterion.test}
    assert len(named) > 20 and not [name for name in named if not defines(checkout(), name)]
    documents = [read_document(checkout(), criterion) for criterion in criteria if criterion.document]
    assert len(documents) > 5 and not [found.evidence for found in documents if found.status != "met"]


def test_the_numbers_of_a_json_answer_go_by_dotted_names() -> None:
    value = {"ok": True, "rows": [1, 2], "q4-k": {"kl": 0.1}, "models": [{"name": "a b", "size": 3}], "text": "x"}
    expected = {"ok": 1, "rows.count": 2, "q4_k.kl": 0.1, "models.count": 1, "models.a_b.size": 3}
    assert flatten(value) == pytest.approx(expected)


# --- the schedule -------------------------------------------------------------------------------------------------


@pytest.fixture
def nightly(workspace: Workspace, tmp_path: Path) -> Any:
    return schedule(str(tmp_path / "my sprints" / "50% $HOME.yaml"), "holds", "02:30", workspace)


def test_launchd_gets_a_property_list_that_starts_the_loop(nightly: Any, workspace: Workspace) -> None:
    found = plistlib.loads(nightly.launchd.encode())
    assert found["ProgramArguments"] == nightly.command and Path(found["ProgramArguments"][0]).is_absolute()
    assert found["StartCalendarInterval"] == {"Hour": 2, "Minute": 30}
    assert found["EnvironmentVariables"] == {"LOOPTUNE_HOME": str(workspace.home)}


@pytest.mark.skipif(not shutil.which("systemd-analyze"), reason="systemd-analyze is not here")
def test_systemd_accepts_the_units_and_the_time(nightly: Any, tmp_path: Path) -> None:
    for suffix, text in (("service", nightly.service), ("timer", nightly.timer)):
        (tmp_path / f"{nightly.label}.{suffix}").write_text(text)
    units = [str(tmp_path / f"{nightly.label}.{suffix}") for suffix in ("service", "timer")]
    done = subprocess.run(["systemd-analyze", "verify", "--man=no", *units], capture_output=True, text=True)
    mine = [line for line in done.stderr.splitlines() if nightly.label in line]
    assert done.returncode == 0 and not mine, done.stderr
    when = nightly.timer.partition("OnCalendar=")[2].splitlines()[0]
    assert subprocess.run(["systemd-analyze", "calendar", when], capture_output=True).returncode == 0
    assert 'holds" "loop"' not in nightly.service and "50%% $$HOME.yaml" in nightly.service


def test_cron_runs_it_at_that_time_with_the_same_words(nightly: Any, workspace: Workspace) -> None:
    import shlex

    from croniter import croniter

    fields, command = " ".join(nightly.cron.split(" ", 5)[:5]), nightly.cron.split(" ", 5)[5]
    assert croniter(fields, datetime(2026, 3, 1, 12)).get_next(datetime) == datetime(2026, 3, 2, 2, 30)
    assert "%" not in command.replace(r"\%", "")
    words = shlex.split(command.replace(r"\%", "%").partition(" >>")[0])
    assert words == [f"LOOPTUNE_HOME={workspace.home}", *nightly.command]


@pytest.mark.parametrize("at", ["25:00", "2:5", "noon", ""])
def test_what_is_no_time_of_day_is_refused(at: str, workspace: Workspace) -> None:
    with pytest.raises(InputError, match="HH:MM"):
        schedule("x.yaml", "holds", at, workspace)


def test_the_schedule_is_printed_as_json(tmp_path: Path) -> None:
    path = tmp_path / "holds.yaml"
    path.write_text(SPRINT)
    done = subprocess.run(
        [*CLI, "loop", "schedule", str(path), "--at", "23:05", "--json"], capture_output=True, text=True
    )
    made = json.loads(done.stdout)
    assert done.returncode == 0 and made["command"][-2] == str(path) and made["cron"].startswith("5 23 * * * ")
