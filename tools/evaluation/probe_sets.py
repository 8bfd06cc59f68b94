"""Probe sets of the user's own: `probes/NAME.jsonl` in the workspace.

    made = new_set(workspace, Term(term="soft hold", meaning="…"), "holds-exam")
    added = add_probes(workspace, "holds-exam", [{"prompt": "…", "graders": [{"type": "contains", "value": "…"}]}])

A probe is refused when it would prove nothing: when it is a near-duplicate of a row in a dataset of the workspace or
of another probe, when ignorance or the question itself would pass as knowledge, or when it is no probe at all.
"""

import hashlib
from typing import Any, Literal

from pydantic import BaseModel, ValidationError

from tools.data.cards import read_phrasings
from tools.data.definitions import card_of
from tools.data.examples import read_rows
from tools.data.held_back import held_back, term_probes
from tools.data.similar import find_similar
from tools.data.terms import Term
from tools.errors import ConflictError, InputError
from tools.evaluation.probes import CORE, Probe, read_suite, suite_names
from tools.files import write_text
from tools.workspace import Workspace, check_name, slug

MAX_PROBES = 2000
_IGNORANCE = ("", "I do not know.", "I'm sorry, I can't help with that.")


class Outcome(BaseModel):
    """What became of one probe."""

    index: int
    outcome: Literal["added", "known", "refused"]
    id: str = ""
    reason: str = ""


class Added(BaseModel):
    """What became of a batch of probes."""

    name: str
    probes: int
    outcomes: list[Outcome]

    def count(self, outcome: str) -> int:
        """How many had this outcome."""
        return sum(o.outcome == outcome for o in self.outcomes)


def new_set(workspace: Workspace, term: Term, name: str = "") -> Added:
    """A set for one term: recall in phrasings that no dataset is made of, and controls.

    Raises:
        ConflictError: there is a set of that name.
        InputError: no probe was fair, or the name is not one.
    """
    name = check_name(name or slug(term.term), "probe set name")
    if name in (CORE, *suite_names()) or (workspace.probes / f"{name}.jsonl").exists():
        raise ConflictError(f"There is a probe set {name!r} already.", "choose another name with --name")
    phrasings = read_phrasings()
    added = add_probes(workspace, name, term_probes([card_of(term, phrasings)], held_back(phrasings)))
    if not any(o.outcome == "added" for o in added.outcomes):
        raise InputError(f"No probe for {term.term!r} was fair: {added.outcomes[0].reason}", "write probes of your own")
    return added


def add_probes(workspace: Workspace, name: str, batch: list[dict[str, Any]]) -> Added:
    """Add the fair probes of `batch` to the user's set `name`, which is made when there is none.

    A line needs `prompt` and `graders`; `kind` is `probe` unless it says `control`, and `id` and `family` are given.

    Raises:
        InputError: the batch is empty or too large.
        ConflictError: a set that ships has that name.
        LimitError: the disk is full; the set is as it was.
    """
    check_name(name, "probe set name")
    if name in (CORE, *suite_names()):
        raise ConflictError(f"The probe set {name!r} ships with looptune and stays as it is.", "choose another name")
    path = workspace.probes / f"{name}.jsonl"
    with workspace.lock("probes"):
        known = read_suite(name, workspace).probes if path.exists() else []
        if not 1 <= len(batch) <= MAX_PROBES - len(known):
            raise InputError(
                f"A set holds 1 to {MAX_PROBES} probes; got {len(batch)}, with {len(known)} there.", "split"
            )
        probes, outcomes = _sorted(workspace, known, batch)
        if len(probes) > len(known):
            write_text(path, (probe.model_dump_json() + "\n" for probe in probes))
    return Added(name=name, probes=len(probes), outcomes=outcomes)


def _sorted(workspace: Workspace, known: list[Probe], batch: list[dict[str, Any]]) -> tuple[list[Probe], list[Outcome]]:
    """All probes of the set with the fair ones of `batch`, and what became of each of these."""
    parsed = [_parse(value) for value in batch]
    prompts = [one.prompt if isinstance(one, Probe) else "" for one in parsed]
    rows = _trained(workspace)
    questions = list(rows)
    leaks = {i: rows[questions[j]] for i, j, _ in find_similar(prompts, questions)}
    probes, outcomes = known[:], []
    for index, one in enumerate(parsed):
        outcome = Outcome(index=index, outcome="refused")
        outcomes.append(outcome)
        if isinstance(one, str):
            outcome.reason = one
            continue
        outcome.id = one.id
        twin = next((p for p in probes if p.prompt.casefold() == one.prompt.casefold()), None)
        if twin is not None and twin.graders == one.graders:
            outcome.outcome, outcome.id = "known", twin.id
        elif twin is not None or any(p.id == one.id for p in probes):
            outcome.reason = "another probe of this set has the same question or id"
        elif index in leaks:
            outcome.reason = f"a row of the dataset {leaks[index]} asks almost the same, so it would prove nothing"
        elif problem := vacuous(one):
            outcome.reason = problem
        else:
            outcome.outcome = "added"
            probes.append(one)
    return probes, outcomes


def _parse(value: dict[str, Any]) -> Probe | str:
    """The probe in `value`, with what may be left out, or why it is none."""
    try:
        prompt = str(value.get("prompt", ""))
        own = hashlib.sha256(prompt.casefold().encode()).hexdigest()[:10]
        return Probe.model_validate({"id": f"probe-{own}", "family": "own", "kind": "probe", **value})
    except ValidationError as error:
        first = error.errors(include_url=False, include_input=False)[0]
        return f"{'.'.join(map(str, first['loc']))}: {first['msg']}"
    except (TypeError, AttributeError):
        return f"expected an object with prompt and graders, got {type(value).__name__}"


def _trained(workspace: Workspace) -> dict[str, str]:
    """Every question of every dataset of the workspace, with the dataset's name."""
    questions: dict[str, str] = {}
    for name in workspace.names(workspace.datasets, "dataset.json"):
        for _, row in read_rows(workspace.datasets / name / "rows.jsonl"):
            if not isinstance(row, list):
                questions.setdefault(row.question, name)
    return questions


def vacuous(probe: Probe) -> str:
    """Why `probe` would find knowledge where there is none; '' when it would not."""
    if probe.kind == "control" or probe.rubrics:
        return ""
    for ignorance in _IGNORANCE:
        if probe.right(ignorance):
            return f"the answer {ignorance!r} would pass as knowledge"
    if probe.right(probe.prompt):
        return "repeating the question would pass as knowledge"
    return ""
