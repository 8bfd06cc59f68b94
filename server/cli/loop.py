"""`looptune loop run | next | status | report | schedule`: a sprint, driven to its end without a person.

looptune loop run soft-hold.yaml            # eight phases, as often as the sprint file allows; goes on where it was
looptune loop next soft-hold.yaml --set epochs=2 --reason "more passes"     # one phase; you decide
looptune loop report backlog                # each criterion with its evidence, run or read now
looptune loop schedule soft-hold.yaml       # launchd, systemd, cron
looptune loop status                        # where the newest cycle stands, and its log

Exit status: 0 every criterion is met, 1 not, 2 wrong use.
"""

import json
import sys
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Annotated, Any

import typer

from tools.errors import InputError
from tools.settings import Settings
from tools.sprint.cycle import Cycle, Entry, Verdict, cycle_names, newest, open_cycle, read_cycle, save, sprint_of
from tools.sprint.lease import held
from tools.sprint.log import criteria_table
from tools.sprint.rules import Criterion, Sprint, parse_sprint, read_sprint, sprint_text
from tools.sprint.work import Choice
from tools.workspace import Workspace

loop_app = typer.Typer(no_args_is_help=True, help="A sprint, driven to its end: Observe … Archive (docs/loop.md).")
Json = Annotated[bool, typer.Option("--json", help="print one JSON value and nothing else")]
Which = Annotated[str, typer.Argument(help="a sprint file, the name of one that ships, or a cycle's id")]
New = Annotated[bool, typer.Option("--new", help="give an unfinished cycle up, and begin again")]


@loop_app.command()
def run(sprint: Which, new: New = False, as_json: Json = False) -> None:
    """Drive a sprint until its criteria are met, or it gives up; a killed one goes on where it was."""
    workspace = Workspace.open(Settings())
    cycle, rules = _cycle(workspace, sprint, new)
    with _showing(cycle) as say:
        from server.loop_agent import run_loop

        run_loop(workspace, cycle, rules, say)
    if len(rules.deciding) < len(rules.criteria) and cycle.state != "skipped":
        with held(workspace, cycle.id) as lease:
            cycle.criteria = _evidence(rules.criteria, cycle)
            save(workspace, cycle, lease)
    _told(cycle, as_json)


@loop_app.command("next")
def next_phase(
    sprint: Which,
    changes: Annotated[
        list[str] | None, typer.Option("--set", help="in decide and adapt: a setting, key=value")
    ] = None,
    rows: Annotated[int, typer.Option(min=0, max=20_000, help="in decide and adapt: rows; 0 leaves them")] = 0,
    reason: Annotated[str, typer.Option(help="why; it is written into the log")] = "",
    new: New = False,
    as_json: Json = False,
) -> None:
    """Take the next phase only, and decide yourself what the rules would."""
    from tools.sprint.phases import ended

    workspace = Workspace.open(Settings())
    cycle, rules = _cycle(workspace, sprint, new)
    if cycle.state != "open":
        raise ended(cycle)
    choice = Choice({}, rows or None, reason)
    for word in changes or []:
        key, equals, value = word.partition("=")
        if not equals:
            raise InputError(f"Expected key=value, got {word!r}.", "write for example --set epochs=2")
        try:
            choice.settings[key] = json.loads(value)
        except ValueError:
            choice.settings[key] = value
    with _showing(cycle) as say:
        from server.loop_agent import run_loop

        run_loop(workspace, cycle, rules, say, one_phase=True, choice=choice)
    if as_json:
        _json(cycle.model_dump())
    else:
        _out(f"{cycle.id}: {cycle.reason or f'next is {cycle.phase}'}")


@loop_app.command()
def status(
    cycle: Annotated[str, typer.Argument(help="a cycle's id; by default the newest")] = "", as_json: Json = False
) -> None:
    """Where a cycle stands, and its log."""
    from tools.sprint.log import loop_md

    workspace = Workspace.open(Settings())
    found = read_cycle(workspace, cycle) if cycle else newest(workspace)
    if found is None:
        raise InputError("No sprint was begun yet.", "begin one with `looptune loop run SPRINT.yaml`")
    if as_json:
        _json(found.model_dump())
    else:
        _out(loop_md(found))


@loop_app.command()
def report(
    sprint: Which,
    only: Annotated[str, typer.Option(help="only criteria whose name begins so, e.g. T003")] = "",
    as_json: Json = False,
) -> None:
    """Each acceptance criterion with its evidence, run or read now; without evidence it is open."""
    workspace = Workspace.open(Settings())
    rules = _rules(workspace, sprint)[0]
    cycle = newest(workspace, rules.name)
    criteria = [criterion for criterion in rules.criteria if criterion.name.startswith(only)]
    if not criteria:
        raise InputError(f"No criterion's name begins with {only!r}.", "leave --only out, to see all of them")
    found = _evidence(criteria, cycle)
    met = sum(verdict.passed for verdict in found)
    if as_json:
        _json({"passed": met == len(found), "met": met, "criteria": [verdict.model_dump() for verdict in found]})
    else:
        _out("\n".join(criteria_table(found)))
    if met < len(found):
        raise typer.Exit(1)


@loop_app.command()
def schedule(
    sprint: Which,
    at: Annotated[str, typer.Option(help="local time, HH:MM")] = "02:30",
    as_json: Json = False,
) -> None:
    """The entries of launchd, systemd and cron that run a sprint every night; nothing is installed."""
    from tools.sprint.schedule import schedule as nightly

    workspace = Workspace.open(Settings())
    rules, _ = _rules(workspace, sprint)
    path = Path(sprint)
    (workspace.home / "loop").mkdir(parents=True, exist_ok=True)  # for the log: no scheduler makes it
    made = nightly(str(path.resolve()) if path.is_file() else sprint, rules.name, at, workspace)
    if as_json:
        _json(made.model_dump())
        return
    _out(f"# macOS: {made.launchd_place}\n{made.launchd}")
    _out(f"# Linux: {made.systemd_place}\n# {made.label}.service\n{made.service}\n# {made.label}.timer\n{made.timer}")
    _out(f"# cron: crontab -e\n{made.cron}")


def _evidence(criteria: list[Criterion], cycle: Cycle | None) -> list[Verdict]:
    from tools.sprint.evidence import collect

    figures = cycle.attempt.figures if cycle and cycle.attempts else {}
    program = [sys.executable, "-P", "-m", "server.cli"]

    def say(text: str) -> None:
        if text:
            sys.stderr.write(f"evidence  {text}\n")

    return collect(criteria, figures, program, cycle.id if cycle else "", say=say)


def _rules(workspace: Workspace, which: str) -> tuple[Sprint, str]:
    """The rules in a file, or of a sprint by name, and their text."""
    path = Path(which)
    if path.suffix in (".yaml", ".yml") or path.is_file():
        return read_sprint(path)
    text = sprint_text(workspace, which)
    return parse_sprint(text), text


def _cycle(workspace: Workspace, which: str, new: bool) -> tuple[Cycle, Sprint]:
    """The cycle that a command is about, and its rules."""
    if not new and which in cycle_names(workspace):
        cycle = read_cycle(workspace, which)
        return cycle, sprint_of(workspace, cycle)
    rules, text = _rules(workspace, which)
    cycle, is_new = open_cycle(workspace, rules, text, new)
    if not is_new:
        sys.stderr.write(f"{cycle.id} goes on at {cycle.phase}.\n")
    return cycle, rules


@contextmanager
def _showing(cycle: Cycle) -> Iterator[Any]:
    """What shows the loop's entries and the jobs it waits for, on stderr."""
    from server.cli.show import show_job
    from tools.jobs.record import State

    with show_job(cycle.id) as show:

        def say(heard: Entry | dict[str, Any]) -> None:
            if isinstance(heard, Entry):
                reason = f"\n          because: {heard.reason}" if heard.reason else ""
                sys.stderr.write(f"{heard.phase:9} {heard.said}{reason}\n".replace("\n\n", "\n"))
                sys.stderr.flush()
            else:
                show(State(created="", **{k: v for k, v in heard.items() if k in State.model_fields}))

        yield say


def _told(cycle: Cycle, as_json: bool) -> None:
    passed = cycle.state in ("passed", "skipped") and all(verdict.passed for verdict in cycle.criteria)
    if as_json:
        _json(
            {
                "passed": passed,
                "cycle": cycle.id,
                "state": cycle.state,
                "reason": cycle.reason,
                "promoted": cycle.promoted,
                "minutes": round(cycle.minutes, 2),
                "attempts": len(cycle.attempts),
                "phases": [entry.model_dump() for entry in cycle.entries],
                "criteria": [verdict.model_dump() for verdict in cycle.criteria],
            }
        )
    else:
        _out("\n".join([*criteria_table(cycle.criteria), "", f"{cycle.id} {cycle.state}: {cycle.reason}"]))
    if not passed:
        raise typer.Exit(1)


def _out(text: str) -> None:
    sys.stdout.write(text + "\n")
    sys.stdout.flush()


def _json(value: Any) -> None:
    _out(json.dumps(value, ensure_ascii=False, indent=1))
