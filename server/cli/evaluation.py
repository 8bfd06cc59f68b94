"""`looptune probes list | new | add | show` and `looptune evaluation show | rows | grade`.

looptune probes new "soft hold" --meaning "a reservation that lapses by itself after 15 minutes"
looptune evaluation show eval-holds-0001 --html report.html --png report.png
looptune evaluation rows eval-holds-0001 > rows.json       # answers that an agent has to judge
looptune evaluation grade eval-holds-0001 verdicts.json    # its verdicts go back in, marked as such
"""

import json
import sys
from pathlib import Path
from typing import Annotated, Any

import typer
from pydantic import ValidationError

from tools.errors import InputError
from tools.settings import Settings
from tools.workspace import Workspace

probes_app = typer.Typer(no_args_is_help=True, help="Probe sets: those that ship, and your own.")
evaluation_app = typer.Typer(no_args_is_help=True, help="Evaluations: look at them, and let an agent judge answers.")
Json = Annotated[bool, typer.Option("--json", help="print one JSON value and nothing else")]
Run = Annotated[str, typer.Argument(help="id of an evaluation, from `looptune runs`")]


@probes_app.command("list")
def list_(as_json: Json = False) -> None:
    """The probe sets, with how many probes and controls each has."""
    from tools.evaluation.probes import read_suite, suite_names, user_sets

    workspace = Workspace.open(Settings())
    found = []
    for name in [*suite_names(), *user_sets(workspace)]:
        probes = read_suite(name, workspace).probes
        controls = sum(probe.kind == "control" for probe in probes)
        own = name not in suite_names()
        found.append({"name": name, "own": own, "probes": len(probes) - controls, "controls": controls})
    if as_json:
        _json(found)
        return
    for one in found:
        _say(f"{one['name']:24} {one['probes']} probes, {one['controls']} controls{', your own' if one['own'] else ''}")


@probes_app.command()
def new(
    term: Annotated[str, typer.Argument(help="the term, e.g. 'soft hold'")],
    meaning: Annotated[str, typer.Option(help="its meaning, so that 'TERM is MEANING' is a sentence")],
    alias: Annotated[list[str] | None, typer.Option("--alias", help="another spelling of the term")] = None,
    name: Annotated[str, typer.Option(help="name of the set; by default the term's")] = "",
    as_json: Json = False,
) -> None:
    """Make a probe set for a term, from phrasings that no dataset is made of, with controls."""
    from tools.data.terms import Term
    from tools.evaluation.probe_sets import new_set

    try:
        wanted = Term(term=term, meaning=meaning, aliases=alias or [])
    except ValidationError as error:
        first = error.errors(include_url=False)[0]
        raise InputError(f"{'.'.join(map(str, first['loc']))}: {first['msg']}", "mend it") from error
    _added(new_set(Workspace.open(Settings()), wanted, name), as_json)


@probes_app.command()
def add(
    name: Annotated[str, typer.Argument(help="name of a set of your own; made when there is none")],
    path: Annotated[Path, typer.Argument(help="JSONL: prompt, graders, and kind (probe or control), id, family")],
    as_json: Json = False,
) -> None:
    """Add probes that you wrote; each is accepted or refused with the reason."""
    from tools.data.lines import RowError, json_values
    from tools.evaluation.probe_sets import add_probes

    batch = [value for _, value in json_values(path)]
    broken = next((value for value in batch if isinstance(value, RowError)), None)
    if broken:
        raise InputError(f"Line {broken.line} of {path.name}: {broken.message}", "mend the file")
    added = add_probes(Workspace.open(Settings()), name, batch)
    _added(added, as_json)
    if added.count("refused"):
        raise typer.Exit(1)


@probes_app.command("show")
def show_set(name: Annotated[str, typer.Argument(help="name of a set")], as_json: Json = False) -> None:
    """The probes of a set."""
    from tools.evaluation.probes import read_suite

    suite = read_suite(name, Workspace.open(Settings()))
    if as_json:
        _json([probe.model_dump() for probe in suite.probes])
        return
    for probe in suite.probes:
        _say(f"{probe.kind:8} {probe.family:16} {probe.id}: {' '.join(probe.prompt.split())}")


@evaluation_app.command("show")
def show_evaluation(
    run: Run,
    html: Annotated[Path | None, typer.Option(help="write a page with plots here")] = None,
    png: Annotated[Path | None, typer.Option(help="write a picture here")] = None,
    as_json: Json = False,
) -> None:
    """Models side by side: scores with intervals, what was fixed and broken, samples."""
    from tools.evaluation import show
    from tools.evaluation.matrix import read_comparison
    from tools.files import write_bytes, write_text

    comparison = read_comparison(Workspace.open(Settings()).run(run))
    if html:
        write_text(html, show.html(comparison))
    if png:
        write_bytes(png, show.png(comparison))
    if as_json:
        _json(comparison.model_dump())
    else:
        _say(show.markdown(comparison).rstrip())


@evaluation_app.command()
def rows(run: Run, limit: Annotated[int, typer.Option(min=1, max=500, help="most answers")] = 500) -> None:
    """The answers that wait for an agent's verdict, as JSON."""
    from tools.evaluation.matrix import to_judge

    _json(to_judge(Workspace.open(Settings()).run(run), limit)[0])


@evaluation_app.command()
def grade(
    run: Run,
    path: Annotated[Path, typer.Argument(help="JSON: a list of {id, label, right, reason}")],
    as_json: Json = False,
) -> None:
    """Take an agent's verdicts in, and count again."""
    from tools.evaluation.scores import Verdict
    from tools.export.gate import take_verdicts
    from tools.files import read_json

    try:
        verdicts = [Verdict.model_validate(value) for value in read_json(path)]
    except (OSError, ValueError, TypeError) as error:
        raise InputError(f"Expected a list of verdicts in {path}: {error}", "write [{id, label, right}]") from error
    result = take_verdicts(Workspace.open(Settings()), run, verdicts)
    if as_json:
        _json(result)
    else:
        _say(f"{len(verdicts)} verdicts taken; {result['to_judge']} answers still wait.")


def _added(added: Any, as_json: bool) -> None:
    counts = {name: added.count(name) for name in ("added", "known", "refused")}
    if as_json:
        _json({"name": added.name, "probes": added.probes, **counts, "outcomes": added.model_dump()["outcomes"]})
        return
    for outcome in added.outcomes:
        if outcome.outcome == "refused":
            sys.stderr.write(f"refused: probe {outcome.index + 1} {outcome.id}: {outcome.reason}\n")
    _say(f"{added.name} has {added.probes} probes: {counts['added']} added, {counts['refused']} refused")
    _say(f"Ask them: looptune call evaluate_model run=… probes={added.name}")


def _json(value: Any) -> None:
    _say(json.dumps(value, ensure_ascii=False, indent=1))


def _say(text: str) -> None:
    sys.stdout.write(text + "\n")
