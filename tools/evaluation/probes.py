"""Probes: held-out questions with graders, and controls whose answer must not change.

suite = read_suite("forty-two")            # datasets/probes/forty-two.jsonl
suite = suite_of_dataset(workspace, "forty-two")   # from validation rows, which no training has seen
read_retention()                           # general text, whose likelihood must not fall
"""

import json
from collections.abc import Sequence
from pathlib import Path
from typing import Literal

from pydantic import BaseModel, ConfigDict, Field, ValidationError

from tools.data.datasets import read_split, section
from tools.data.similar import find_similar
from tools.errors import CheckError, InputError, NotFoundError
from tools.evaluation.graders import Grader
from tools.jobs.record import fingerprint
from tools.settings import shipped_data
from tools.workspace import Workspace, check_name

_RETENTION = "retention"


class Probe(BaseModel):
    """A question. `probe`: it asks for what was taught. `control`: its answer must not change."""

    model_config = ConfigDict(extra="forbid")

    id: str
    family: str
    kind: Literal["probe", "control"]
    prompt: str = Field(min_length=1, max_length=8000)
    graders: list[Grader] = Field(min_length=1, max_length=10)

    def right(self, answer: str) -> bool:
        """Whether every grader lets `answer` pass."""
        return all(grader.right(answer) for grader in self.graders)


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
    """The probe sets that ship."""
    return sorted(p.stem for p in (shipped_data() / "probes").glob("*.jsonl") if p.stem != _RETENTION)


def read_suite(name: str) -> Suite:
    """The shipped probe set `name`.

    Raises:
        NotFoundError: there is none of that name.
    """
    check_name(name, "probe set name")
    if name not in suite_names():
        raise NotFoundError.named(
            "probe set", name, suite_names(), "name one of these, or leave `probes` out to ask validation rows"
        )
    return Suite(name=name, probes=_read(shipped_data() / "probes" / f"{name}.jsonl"))


def _read(path: Path) -> list[Probe]:
    probes = []
    for number, line in enumerate(path.read_text(encoding="utf-8").splitlines(), start=1):
        try:
            probes.append(Probe.model_validate(json.loads(line)))
        except (ValueError, ValidationError) as error:
            raise InputError(f"Line {number} of {path.name} is not a probe: {error}", "mend the file") from error
    return probes


def read_retention() -> list[Passage]:
    """The general texts that ship."""
    path = shipped_data() / "probes" / f"{_RETENTION}.jsonl"
    return [Passage.model_validate_json(line) for line in path.read_text(encoding="utf-8").splitlines()]


def suite_of_dataset(workspace: Workspace, name: str, limit: int = 120) -> Suite:
    """Probes from a dataset's validation rows: questions about its terms have to be answered with the meaning, the
    others must not be.

    Raises:
        NotFoundError, CheckError: no such dataset, or it is not valid.
        InputError: its manifest names no terms, so nothing says what a right answer is.
    """
    _, rows, manifest = read_split(workspace, name)
    if not manifest.terms:
        raise InputError(
            f"The dataset {name!r} was not made from terms, so its validation rows cannot be graded.",
            f"name a probe set: {', '.join(suite_names())}",
        )
    probes = []
    for row in rows[:limit]:
        taught = next((m for m in manifest.terms.values() if m.casefold() in row.answer.casefold()), None)
        graders = (
            [Grader(type="contains", value=taught)]
            if taught
            else [Grader(type="not_contains", value=meaning) for meaning in manifest.terms.values()]
        )
        probes.append(
            Probe(
                id=row.id,
                family=section(row),
                kind="probe" if taught else "control",
                prompt=row.question,
                graders=graders[:10],
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
