"""Evaluate models side by side: recall of what was taught, controls, retention, size and speed.

    run_job(workspace, job)            # what the worker calls; job.config is an EvaluationConfig

    runs/ID/  reports/LABEL.json       one ModelReport a model, with every answer
              reports/comparison.json  what each model fixed and broke against the first (tools.evaluation.matrix)
              reports/asked/           the probes and passages, as they were when they were asked

Recall is the share of probes answered right, controls the share of controls answered right, perplexity is that of
general text. A probe that is a near-duplicate of a training row proves nothing, so such a set is refused. Answers are
kept (tools.evaluation.answers), so an evaluation that was killed goes on, and a repeated one is instant.
"""

import time
from collections.abc import Callable, Sequence
from pathlib import Path
from typing import Any

from pydantic import BaseModel, ConfigDict, Field

from tools.data.datasets import read_split
from tools.errors import InputError, MissingError, NotFoundError
from tools.evaluation.answers import KeptAnswers, ask_all, model_hash
from tools.evaluation.calls import accepted_by
from tools.evaluation.graders import Accepts
from tools.evaluation.probes import Suite, read_retention, read_suite, refuse_leaks, suite_of_dataset
from tools.evaluation.scores import Score, dealt_test, score
from tools.files import read_json, write_json, write_text
from tools.inference.engine import Engine, Model, open_engine, perplexity
from tools.jobs.record import ACTIVE, Job, fingerprint, read
from tools.models.bases import base_folder, base_names
from tools.workspace import Workspace

KINDS = {"probe": "recall", "control": "control"}
_LISTED = 8  # wrong answers in a summary
_DEALT = 160  # answers that are graded against each other's questions, at most


class Target(BaseModel):
    """A model to evaluate: a base, a base with the adapter of a run, or a file of an exported model."""

    model_config = ConfigDict(extra="forbid")

    label: str
    base: str = ""
    run: str = ""
    model: str = ""
    file: str = ""


class EvaluationConfig(BaseModel):
    """What an evaluation compares. `probes` names a probe set; without it, the dataset's own are asked.

    The first target is what the others are compared with. `tools` are the input schemas of the server's own tools, so
    that graders of tool calls can ask whether a call would be accepted.
    """

    model_config = ConfigDict(extra="forbid")

    targets: list[Target] = Field(min_length=1, max_length=8)
    probes: str = ""
    dataset: str = ""
    max_tokens: int = Field(default=32, ge=1, le=1024)
    tools: dict[str, dict[str, Any]] = {}


class Answered(BaseModel):
    """One answer, and whether its graders let it pass. `right` is None while an agent has to judge it."""

    id: str
    family: str
    kind: str
    prompt: str
    answer: str
    right: bool | None
    why: str = ""
    rubric: str = ""
    by: str = "rules"
    agent_right: bool | None = None


class ModelReport(BaseModel):
    """What was measured of one model. Shares from 0 to 1; None where there was nothing to measure.

    `scores` and `family_scores` hold Wilson's 95 % intervals. `dealt_p`: the chance that the same answers, dealt to
    the questions at random, would be right as often; near 1 when answers do not depend on questions, or labels were
    shuffled. `perplexities`: prose and code apart. `kept`: answers that were known from an earlier evaluation.
    """

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
    scores: dict[str, Score] = {}
    family_scores: dict[str, dict[str, Score]] = {}
    dealt_p: float | None = None
    perplexities: dict[str, float] = {}
    pending: int = 0
    kept: int = 0
    model_sha256: str = ""
    max_tokens: int = 0
    answers: list[Answered] = []

    def summary(self) -> dict[str, Any]:
        """The report without its answers; how many were wrong, and the first few of them."""
        wrong = [a for a in self.answers if a.right is False]
        listed = [{"id": a.id, "prompt": a.prompt, "answer": a.answer[:160], "why": a.why} for a in wrong[:_LISTED]]
        return {
            **self.model_dump(exclude={"answers", "family_scores"}),
            "wrong": listed,
            "wrong_count": len(wrong),
            "wrong_listed": f"{len(listed)} of {len(wrong)}",
        }

    def counted(self) -> "ModelReport":
        """The report with its figures counted from its answers; those that an agent has to judge are left out."""
        judged = [a for a in self.answers if a.right is not None]
        of_kind = {kind: [a for a in judged if a.kind == kind] for kind in KINDS}
        families: dict[str, list[int]] = {}
        for answer in judged:
            counts = families.setdefault(answer.family, [0, 0])
            counts[0] += bool(answer.right)
            counts[1] += 1
        return self.model_copy(
            update={
                "recall": _of(of_kind["probe"]).share,
                "controls": _of(of_kind["control"]).share,
                "probes": len(of_kind["probe"]),
                "control_count": len(of_kind["control"]),
                "families": families,
                "scores": {KINDS[kind]: _of(answers) for kind, answers in of_kind.items() if answers},
                "family_scores": {
                    KINDS[kind]: {
                        family: _of([a for a in answers if a.family == family])
                        for family in dict.fromkeys(a.family for a in answers)
                    }
                    for kind, answers in of_kind.items()
                    if answers
                },
                "pending": len(self.answers) - len(judged),
            }
        )


def run_job(workspace: Workspace, job: Job, opened: Sequence[Model] = ()) -> dict[str, Any]:
    """Evaluate every target of `job.config` in turn, or else the models that were `opened` for them.

    Returns:
        `models`: a summary by label; `matrix`: what each fixed and broke against the first; `run` or `model`: what the
        last of them is. The reports with all answers lie in the job's folder.

    Raises:
        CheckError: probes are near-duplicates of training rows.
        NotFoundError, MissingError, InputError: a target, a set or a dataset is not there.
        Cancelled: it was asked to stop.
    """
    from tools.evaluation.matrix import write_comparison

    known = EvaluationConfig.model_fields
    config = EvaluationConfig.model_validate({key: value for key, value in job.config.items() if key in known})
    suite = find_suite(workspace, config.probes, config.dataset)
    if config.dataset and config.probes:
        train, valid, _ = read_split(workspace, config.dataset)
        refuse_leaks(suite, [row.question for row in [*train, *valid]])
    models = opened or [open_target(workspace, target) for target in config.targets]
    asked = job.folder / "reports" / "asked"
    write_text(asked / "probes.jsonl", (probe.model_dump_json() + "\n" for probe in suite.probes))
    write_text(asked / "retention.jsonl", (passage.model_dump_json() + "\n" for passage in read_retention()))
    accepts = accepted_by(config.tools) if config.tools else None
    each = len(suite.probes) + 1
    for number, model in enumerate(models):
        report = evaluate(workspace, model, suite, config.max_tokens, job, (number * each, len(models) * each), accepts)
        write_json(job.folder / "reports" / f"{model.name}.json", report.model_dump())
    found = write_comparison(job.folder, [model.name for model in models])
    return {**found, **config.targets[-1].model_dump(include={"run", "model"})}


def find_suite(workspace: Workspace, probes: str, dataset: str) -> Suite:
    """The probe set `probes`, or else the probes of `dataset`.

    Raises:
        NotFoundError, CheckError, InputError: there is no such set, or the dataset cannot serve as one.
    """
    return read_suite(probes, workspace) if probes else suite_of_dataset(workspace, dataset)


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
            raise _without_adapter(run)
        return Model(target.label, folder=base_folder(workspace, base), adapter=adapter)
    return Model(target.label, folder=base_folder(workspace, target.base))


def _without_adapter(run: Path) -> MissingError:
    """What to do about a run that has nothing to evaluate."""
    state = read(run)
    if state.kind != "train":
        return MissingError(f"{run.name} is no training, so it holds no adapter.", "name one of run://index")
    waits = f"wait until it is finished: training_status(run={run.name!r}, wait_seconds=45)"
    step = waits if state.state in ACTIVE else f"start_training(resume={run.name!r}) goes on with it"
    return MissingError(f"{run.name} holds no adapter: it is {state.state}, at step {state.step}.", step)


def named_target(workspace: Workspace, name: str) -> Target:
    """The target that a run, an exported model or a base goes by, labelled with its name.

    Raises:
        NotFoundError: nothing is known by that name.
    """
    if name in workspace.names(workspace.runs, "state.json"):
        return Target(label=name, run=name)
    if name in workspace.names(workspace.models, "manifest.json"):
        return Target(label=name, model=name)
    if name not in base_names(workspace):
        known = [*workspace.names(workspace.models, "manifest.json"), *base_names(workspace)]
        raise NotFoundError.named("run, model or base", name, known, "read run://index and model://index")
    return Target(label=name, base=name)


def evaluate(
    workspace: Workspace,
    model: Model,
    suite: Suite,
    max_tokens: int,
    job: Job,
    progress: tuple[int, int],
    accepts: Accepts | None = None,
) -> ModelReport:
    """Ask `model` everything in `suite` that it was not asked before, and measure perplexity and speed.

    Args:
        progress: steps that were done before, and all steps.
    """
    began, (before, total) = time.monotonic(), progress
    job.report(before, total, message=f"{model.name}: loading")
    sha = model_hash(model)
    kept = KeptAnswers(
        workspace.home / "cache" / "answers", sha, "gguf" if model.gguf else "mlx", suite.probes, max_tokens
    )
    opened: list[Engine] = []

    def engine() -> Engine:
        if not opened:
            opened.append(open_engine(model))
        return opened[0]

    try:
        texts, known = ask_all(
            engine,
            suite.probes,
            max_tokens,
            kept,
            lambda n: job.report(before + n, total, message=f"{model.name}: {n} of {len(suite.probes)} answers"),
        )
        figures = _figures(engine, kept, job)
    finally:
        for one in opened:
            one.close()
    answers = [_graded(suite, i, text, accepts) for i, text in enumerate(texts)]
    job.report(before + len(texts) + 1, total)
    return ModelReport(
        label=model.name,
        recall=None,
        controls=None,
        probes=0,
        control_count=0,
        families={},
        perplexity=round(figures["perplexity"], 3),
        tokens_per_second=round(figures["tokens_per_second"], 1),
        size_mb=round(model.size_bytes / 1e6, 1),
        seconds=round(time.monotonic() - began, 1),
        suite=suite.name,
        suite_sha256=suite.fingerprint,
        dealt_p=_dealt_p(suite, texts, accepts),
        perplexities={k: round(v, 3) for k, v in figures.items() if k in ("prose", "code")},
        kept=known,
        model_sha256=sha,
        max_tokens=max_tokens,
        answers=answers,
    ).counted()


def _figures(engine: Callable[[], Engine], kept: KeptAnswers, job: Job) -> dict[str, float]:
    """Perplexity of the passages that ship, and speed; measured once for a model, as long as the passages stay."""
    passages = read_retention()
    about = fingerprint([passage.model_dump() for passage in passages])
    if str(kept.figures.get("passages")) == about:
        return {k: float(v) for k, v in kept.figures.items() if k != "passages"}
    job.report(message="perplexity of general text")
    losses = engine().losses([passage.text for passage in passages])
    figures = {"perplexity": perplexity(losses)}
    for kind in dict.fromkeys(passage.kind for passage in passages):
        of_kind = [loss for loss, passage in zip(losses, passages, strict=True) if passage.kind == kind]
        figures[kind] = perplexity(of_kind)
    job.report(message="speed")
    figures["tokens_per_second"] = engine().tokens_per_second()
    kept.put("figures", {**figures, "passages": about})
    return figures


def _graded(suite: Suite, index: int, text: str, accepts: Accepts | None) -> Answered:
    probe = suite.probes[index]
    why = probe.problem(text, accepts)
    waits = bool(probe.rubrics) and not why  # what a rule is against, no agent has to look at
    return Answered(
        **probe.model_dump(include={"id", "family", "kind", "prompt"}),
        answer=text,
        right=None if waits else not why,
        why=why,
        rubric="".join(probe.rubrics),
        by="" if waits else "rules",
    )


def _dealt_p(suite: Suite, texts: list[str], accepts: Accepts | None) -> float | None:
    """The p-value of answers dealt at random (`scores.dealt_test`), over the probes that rules grade without running
    code, evenly taken; None when there are fewer than two."""
    chosen = [i for i, probe in enumerate(suite.probes) if probe.is_cheap]
    chosen = chosen[:: -(-len(chosen) // _DEALT) or 1]
    if len(chosen) < 2:
        return None
    verdicts: dict[tuple[str, str], bool] = {}

    def right(i: int, j: int) -> bool:
        key = (suite.probes[i].model_dump_json(include={"graders"}), texts[j])
        if key not in verdicts:
            verdicts[key] = suite.probes[i].right(texts[j], accepts)
        return verdicts[key]

    return dealt_test([[right(i, j) for j in chosen] for i in chosen])


def read_report(folder: Path, label: str) -> ModelReport:
    """The report of one model, from an evaluation's folder."""
    return ModelReport.model_validate(read_json(folder / "reports" / f"{label}.json"))


def _of(answers: list[Answered]) -> Score:
    return score(sum(bool(a.right) for a in answers), len(answers))
