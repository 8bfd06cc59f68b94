"""Probes: held-out questions with graders, and controls whose answer must not change.

suite = read_suite("forty-two", workspace)  # datasets/probes/forty-two.jsonl, or a set of the user's own
suite = read_suite("core")                  # every set of the core dataset's kinds; the families are the sets
suite = suite_of_dataset(workspace, "holds")    # the probes beside its rows, or else its validation rows
read_retention()                            # general text and code, whose likelihood must not fall

Three families of evidence: recall (kind `probe`: it knows), controls (kind `control`: the answer must not change), and
retention. `family` groups probes within a kind. Sets of the user's own lie in `probes/NAME.jsonl` of the workspace
(`tools.evaluation.probe_sets` makes them).
"""

import json
from collections.abc import Sequence
from pathlib import Path
from typing import Literal

from pydantic import BaseModel, ConfigDict, Field, ValidationError, model_validator

from tools.data.datasets import read_split, section
from tools.data.similar import find_similar
from tools.errors import CheckError, InputError, NotFoundError
from tools.evaluation.graders import Accepts, Agent, Code, Grader, Text, parts
from tools.jobs.record import fingerprint
from tools.settings import shipped_data
from tools.workspace import Workspace, check_name

_RETENTION = "retention"
CORE = "core"  # the sets of all that the core dataset teaches, in one
# asked by themselves: their material is a dataset of its own, and the second set had no part in choosing its mixture
_APART = ("forty-two", "forty-two-second")


class Probe(BaseModel):
    """A question. `probe`: it asks for what was taught. `control`: its answer must not change."""

    model_config = ConfigDict(extra="forbid")

    id: str
    family: str
    kind: Literal["probe", "control"]
    prompt: str = Field(min_length=1, max_length=8000)
    graders: list[Grader] = Field(min_length=1, max_length=20)
    # longest answer in tokens; without it, what the evaluation says
    max_tokens: int | None = Field(default=None, ge=1, le=1024, exclude_if=lambda value: value is None)

    @model_validator(mode="after")
    def _agents_judge_whole_answers(self) -> "Probe":
        inner = [part for grader in self.graders for part in parts(grader)[1:]]
        if any(isinstance(part, Agent) for part in inner) or len(self.rubrics) > 1:
            raise ValueError("an `agent` grader stands once, beside the others, and not inside a combination")
        return self

    @property
    def rubrics(self) -> list[str]:
        """What an agent is to judge the answer by, when it is to judge it: one rubric."""
        return [grader.rubric for grader in self.graders if isinstance(grader, Agent)]

    @property
    def is_cheap(self) -> bool:
        """Whether its graders are rules that run nothing, so that many answers can be tried."""
        every = [part for grader in self.graders for part in parts(grader)]
        return not any(isinstance(part, Agent) or (isinstance(part, Code) and part.test) for part in every)

    def problem(self, answer: str, accepts: Accepts | None = None) -> str:
        """Why the first grader that is against `answer` is; '' when none is."""
        return next(filter(None, (grader.problem(answer, accepts) for grader in self.graders)), "")

    def right(self, answer: str, accepts: Accepts | None = None) -> bool:
        """Whether every grader lets `answer` pass."""
        return not self.problem(answer, accepts)


class Suite(BaseModel):
    """A named set of probes; `sha256` says exactly which."""

    name: str
    probes: list[Probe]

    @property
    def fingerprint(self) -> str:
        """A short hash of everything that is asked and how it is graded."""
        return fingerprint([probe.model_dump() for probe in self.probes])


class Passage(BaseModel):
    """A general text."""

    id: str
    family: str
    kind: Literal["prose", "code"]
    text: str


def suite_names() -> list[str]:
    """The probe sets that ship, each a file."""
    return sorted(p.stem for p in (shipped_data() / "probes").glob("*.jsonl") if p.stem != _RETENTION)


def user_sets(workspace: Workspace) -> list[str]:
    """The probe sets of the user's own."""
    return sorted(path.stem for path in workspace.probes.glob("*.jsonl") if not path.name.startswith("."))


def read_suite(name: str, workspace: Workspace | None = None) -> Suite:
    """The probe set `name`: one that ships, or one of the user's own in `workspace`.

    Raises:
        NotFoundError: there is none of that name.
        InputError: a line of it is not a probe.
    """
    check_name(name, "probe set name")
    if name in suite_names():
        return Suite(name=name, probes=read_probes(shipped_data() / "probes" / f"{name}.jsonl"))
    if name == CORE:
        sets = [(n, probe) for n in suite_names() if n not in _APART for probe in read_suite(n).probes]
        return Suite(name=name, probes=[p.model_copy(update={"id": f"{n}/{p.id}", "family": n}) for n, p in sets])
    own = user_sets(workspace) if workspace else []
    if workspace is None or name not in own:
        raise NotFoundError.named(
            "probe set",
            name,
            [CORE, *suite_names(), *own],
            "name one of these, make one with `looptune probes new`, or leave `probes` out to ask the dataset's own",
        )
    return Suite(name=name, probes=read_probes(workspace.probes / f"{name}.jsonl"))


def read_probes(path: Path) -> list[Probe]:
    """The probes of a JSONL file. Raises InputError with the line of the first that is none."""
    probes = []
    for number, line in enumerate(path.read_text(encoding="utf-8").splitlines(), start=1):
        if not line.strip():
            continue
        try:
            probes.append(Probe.model_validate(json.loads(line)))
        except ValidationError as error:
            first = error.errors(include_url=False, include_input=False)[0]
            at = ".".join(map(str, first["loc"]))
            raise InputError(f"Line {number} of {path.name}, {at}: {first['msg']}", "mend the file") from error
        except ValueError as error:
            raise InputError(f"Line {number} of {path.name} is not JSON: {error}", "mend the file") from error
    return probes


def read_retention() -> list[Passage]:
    """The general texts that ship."""
    path = shipped_data() / "probes" / f"{_RETENTION}.jsonl"
    return [Passage.model_validate_json(line) for line in path.read_text(encoding="utf-8").splitlines()]


def suite_of_dataset(workspace: Workspace, name: str, limit: int = 120) -> Suite:
    """The probes that were made beside a dataset's rows, or else probes from its validation rows: questions about its
    terms have to be answered with the meaning, the others must not be.

    Raises:
        NotFoundError, CheckError: no such dataset, or it is not valid.
        InputError: its manifest names no terms, so nothing says what a right answer is.
    """
    train, rows, manifest = read_split(workspace, name)
    own = workspace.dataset(name) / "probes.jsonl"
    if own.is_file():
        suite = Suite(name=f"dataset:{name}", probes=read_probes(own))
        refuse_leaks(suite, [row.question for row in [*train, *rows]])
        return suite
    if not manifest.terms:
        raise InputError(
            f"The dataset {name!r} was not made from terms, so its validation rows cannot be graded.",
            f"name a probe set: {', '.join(suite_names())}",
        )
    probes = []
    for row in rows[:limit]:
        taught = next((m for m in manifest.terms.values() if m.casefold() in row.answer.casefold()), None)
        graders: list[Grader] = (
            [Text(type="contains", value=taught)]
            if taught
            else [Text(type="not_contains", value=meaning) for meaning in manifest.terms.values()]
        )
        probes.append(
            Probe(
                id=row.id,
                family=section(row),
                kind="probe" if taught else "control",
                prompt=row.question,
                graders=graders[:20],
            )
        )
    return Suite(name=f"dataset:{name}", probes=probes)


def refuse_leaks(suite: Suite, questions: Sequence[str]) -> None:
    """Make sure that no probe is a near-duplicate of a training question.

    Raises:
        CheckError: some are; the first three are shown.
    """
    leaks = find_similar([probe.prompt for probe in suite.probes], questions)
    if leaks:
        shown = "; ".join(f"{suite.probes[i].prompt!r} is {s:.2f} like {questions[j]!r}" for i, j, s in leaks[:3])
        raise CheckError(
            f"{len(leaks)} of {len(suite.probes)} probes are near-duplicates of training rows: {shown}.",
            "take those rows out of the dataset, or use other probes: recall of trained questions proves nothing",
        )
