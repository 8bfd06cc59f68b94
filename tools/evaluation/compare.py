"""Evaluate models side by side: recall of what was taught, controls, retention, size and speed.

    run_job(workspace, job)            # what the worker calls; job.config is an EvaluationConfig

    runs/ID/  reports/LABEL.json       one ModelReport a model, with every answer

Recall is the share of probes answered right, controls the share of controls answered right, perplexity is that of
general text. A probe that is a near-duplicate of a training row proves nothing, so such a set is refused.
"""

import time
from pathlib import Path
from typing import Any

from pydantic import BaseModel, ConfigDict, Field

from tools.data.datasets import read_split
from tools.errors import InputError, MissingError
from tools.evaluation.probes import Suite, read_retention, read_suite, refuse_leaks, suite_of_dataset
from tools.files import read_json, write_json
from tools.inference.engine import Model, open_engine
from tools.jobs.record import Job
from tools.models.bases import base_folder
from tools.workspace import Workspace


class Target(BaseModel):
    """A model to evaluate: a base, a base with the adapter of a run, or a file of an exported model."""

    model_config = ConfigDict(extra="forbid")

    label: str
    base: str = ""
    run: str = ""
    model: str = ""
    file: str = ""


class EvaluationConfig(BaseModel):
    """What an evaluation compares. `probes` names a shipped set; without it, validation rows of `dataset` are asked."""

    model_config = ConfigDict(extra="forbid")

    targets: list[Target] = Field(min_length=1, max_length=8)
    probes: str = ""
    dataset: str = ""
    max_tokens: int = Field(default=40, ge=1, le=1024)


class Answered(BaseModel):
    """One answer, and whether its graders let it pass."""

    id: str
    family: str
    kind: str
    prompt: str
    answer: str
    right: bool


class ModelReport(BaseModel):
    """What was measured of one model. Shares from 0 to 1; None where there was nothing to measure."""

    label: str
    recall: float | None
    controls: float | None
    probes: int
    control_count: int
    families: dict[str, list[int]]
    perplexity: float
    tokens_per_second: float
    size_mb: float
    seconds: float
    suite: str
    suite_sha256: str
    answers: list[Answered] = []

    def summary(self) -> dict[str, Any]:
        """The report without its answers, and the first few that were wrong."""
        wrong = [a for a in self.answers if not a.right]
        return {
            **self.model_dump(exclude={"answers"}),
            "wrong": [{"id": a.id, "prompt": a.prompt, "answer": a.answer[:160]} for a in wrong[:8]],
        }


def run_job(workspace: Workspace, job: Job) -> dict[str, Any]:
    """Evaluate every target of `job.config` in turn.

    Returns:
        `models`: a summary by label; the reports with all answers lie in the job's folder.

    Raises:
        CheckError: probes are near-duplicates of training rows.
        NotFoundError, MissingError, InputError: a target, a set or a dataset is not there.
        Cancelled: it was asked to stop.
    """
    known = EvaluationConfig.model_fields
    config = EvaluationConfig.model_validate({key: value for key, value in job.config.items() if key in known})
    suite = find_suite(workspace, config.probes, config.dataset)
    if config.dataset and config.probes:
        train, valid, _ = read_split(workspace, config.dataset)
        refuse_leaks(suite, [row.question for row in [*train, *valid]])
    models = [open_target(workspace, target) for target in config.targets]
    total = len(models) * (len(suite.probes) + 1)
    summaries = {}
    for number, model in enumerate(models):
        report = evaluate(model, suite, config.max_tokens, job, number * (len(suite.probes) + 1), total)
        write_json(job.folder / "reports" / f"{model.name}.json", report.model_dump())
        summaries[model.name] = report.summary()
    return {"models": summaries, "probes": suite.name}


def find_suite(workspace: Workspace, probes: str, dataset: str) -> Suite:
    """The shipped set `probes`, or else the held-back rows of `dataset`.

    Raises:
        NotFoundError, CheckError, InputError: there is no such set, or the dataset cannot serve as one.
    """
    return read_suite(probes) if probes else suite_of_dataset(workspace, dataset)


def open_target(workspace: Workspace, target: Target) -> Model:
    """Find the files of a target.

    Raises:
        NotFoundError, MissingError: they are not there.
    """
    if target.model:
        folder = workspace.model(target.model)
        files = read_json(folder / "manifest.json")["files"]
        name = target.file or next(reversed(files))
        if name not in files:
            raise InputError(f"The model {target.model!r} has no file {name!r}.", f"name one of {', '.join(files)}")
        return Model(target.label, gguf=folder / name)
    if target.run:
        run = workspace.run(target.run)
        base = read_json(run / "job.json")["config"].get("base")
        adapter = run / "adapter"
        if not base or not (adapter / "adapters.safetensors").is_file():
            raise MissingError(
                f"{target.run} holds no adapter.", f"wait until it is finished: training_status(run={target.run!r})"
            )
        return Model(target.label, folder=base_folder(workspace, base), adapter=adapter)
    return Model(target.label, folder=base_folder(workspace, target.base))


def evaluate(model: Model, suite: Suite, max_tokens: int, job: Job, done: int, total: int) -> ModelReport:
    """Ask `model` everything in `suite`, and measure perplexity and speed."""
    began = time.monotonic()
    job.report(done, total, message=f"{model.name}: loading")
    engine = open_engine(model)
    try:
        texts = engine.answer(
            [probe.prompt for probe in suite.probes],
            max_tokens,
            lambda n: job.report(done + n, total, message=f"{model.name}: {n} of {len(suite.probes)} answers"),
        )
        perplexity = engine.perplexity([passage.text for passage in read_retention()])
        speed = engine.tokens_per_second()
    finally:
        engine.close()
    answers = [
        Answered(**probe.model_dump(include={"id", "family", "kind", "prompt"}), answer=text, right=probe.right(text))
        for probe, text in zip(suite.probes, texts, strict=True)
    ]
    job.report(done + len(texts) + 1, total)
    return ModelReport(
        label=model.name,
        recall=_share([a for a in answers if a.kind == "probe"]),
        controls=_share([a for a in answers if a.kind == "control"]),
        probes=sum(a.kind == "probe" for a in answers),
        control_count=sum(a.kind == "control" for a in answers),
        families=_families(answers),
        perplexity=round(perplexity, 3),
        tokens_per_second=round(speed, 1),
        size_mb=round(model.size_bytes / 1e6, 1),
        seconds=round(time.monotonic() - began, 1),
        suite=suite.name,
        suite_sha256=suite.fingerprint,
        answers=answers,
    )


def read_report(folder: Path, label: str) -> ModelReport:
    """The report of one model, from an evaluation's folder."""
    return ModelReport.model_validate(read_json(folder / "reports" / f"{label}.json"))


def _share(answers: list[Answered]) -> float | None:
    return round(sum(a.right for a in answers) / len(answers), 4) if answers else None


def _families(answers: list[Answered]) -> dict[str, list[int]]:
    """Right answers and all answers, by family."""
    families: dict[str, list[int]] = {}
    for answer in answers:
        counts = families.setdefault(answer.family, [0, 0])
        counts[0] += answer.right
        counts[1] += 1
    return families
