"""Ask a new model what memory wanted it taught, and let go of what it knows.

    job, new = start_integration(workspace, "run-insights-0001")    # or an exported model; then follow the job
    run_job(workspace, job)                                          # what the worker calls

Each insight's probes go through the new model, and through its base for comparison. An insight is known when 80 % of
its probes are answered right and its controls hold. When it is known and nothing else is broken, it is verified:
archived, so that default queries no longer return what the model answers by itself. When it is not known it stays, and
goes into the next training with more weight. What was verified earlier is asked again; what is lost comes back to
memory. Asking twice about the same model changes nothing the second time.
"""

from typing import Any, Literal

from pydantic import BaseModel, ConfigDict, Field

from tools.data.cards import read_phrasings
from tools.data.datasets import read_manifest
from tools.data.examples import Example, read_rows
from tools.data.held_back import fair
from tools.errors import CheckError, InputError, NotFoundError
from tools.evaluation.compare import ModelReport, Target, evaluate, named_target, open_target
from tools.evaluation.matrix import write_comparison
from tools.evaluation.probes import Probe, Suite
from tools.files import read_json, write_json
from tools.jobs import record
from tools.jobs.record import Job
from tools.learning.material import taught_by, verified
from tools.learning.rows import subject_probes
from tools.learning.subjects import Subject, subjects
from tools.memory.entries import MAX_LINKS, Entry
from tools.memory.store import MemoryStore
from tools.workspace import Workspace

Verdict = Literal["verified", "held back", "not known", "still known", "lost"]
_MAX_TOKENS = 48


class Bars(BaseModel):
    """What it takes to let go of an insight. Shares from 0 to 1.

    `known`: of its probes; `kept`: of its own controls; `broken`: of all controls that the base answers right, how many
    the new model may answer wrong.
    """

    model_config = ConfigDict(extra="forbid")

    known: float = 0.8
    kept: float = 0.75
    broken: float = 0.1


class IntegrationConfig(BaseModel):
    """What an integration asks: the model, its base, and the dataset that taught it."""

    model_config = ConfigDict(extra="forbid")

    model: str
    base: Target
    target: Target
    dataset: str
    bars: Bars = Bars()


class Outcome(BaseModel):
    """What became of one insight."""

    id: str
    text: str = Field(description="data that somebody stored")
    verdict: Verdict
    right: int
    probes: int
    controls_right: int
    controls: int
    status: str = Field(description="of its memory from now on")
    why: str


def start_integration(workspace: Workspace, model: str, idempotency_key: str = "") -> tuple[Job, bool]:
    """Queue the integration of a finished training or an exported model, and start its worker. A call that is repeated
    under its key gets its job back, whatever that job has made of the memory.

    Raises:
        NotFoundError, MissingError: there is no such run or model, or it is not finished.
        InputError: it is a base, or nothing in memory was taught to it or is known by an earlier one.
    """
    config = _configured(workspace, model)
    if record.find(workspace, idempotency_key) is None and not any(_asked(workspace, config)):
        raise InputError(
            f"{model!r} was taught nothing from memory, and no insight is verified yet.",
            "generate_examples(source='memory'), then validate and train",
        )
    job, new = record.create(workspace, "integrate", config.dataset, config.model_dump(), idempotency_key)
    if new:
        record.start(workspace, job)
    return job, new


def _configured(workspace: Workspace, model: str) -> IntegrationConfig:
    """What the integration of `model` would ask (see `start_integration`)."""
    target = named_target(workspace, model)
    if target.run:
        made_from = record.Job(workspace.run(model)).config
    elif target.model:
        made_from = read_json(workspace.model(model) / "manifest.json")["made_from"]
    else:
        raise InputError(f"{model!r} is a base; it was taught nothing.", "name a training of run://index, or a model")
    config = IntegrationConfig(
        model=model,
        base=Target(label="base", base=str(made_from.get("base", ""))),
        target=target,
        dataset=str(made_from.get("dataset", "")),
    )
    for one in (config.base, config.target):
        open_target(workspace, one)
    return config


def run_job(workspace: Workspace, job: Job) -> dict[str, Any]:
    """Ask base and model, and change the memory by what comes out.

    Returns:
        `insights` (an `Outcome` each), `counts` by verdict, `broken` (the share of controls), and `models`.

    Raises:
        Cancelled: it was asked to stop; the memory is as it was.
        CheckError: there is nothing to ask any more.
    """
    config = IntegrationConfig.model_validate(job.config)
    new, old = _asked(workspace, config)
    if not (new or old):
        raise CheckError("The insights it was taught are no longer in memory.", "nothing is to be done")
    probes, _ = fair(subject_probes([*new, *old]), _trained_on(workspace, config.dataset))
    suite = Suite(name="insights", probes=[Probe.model_validate(probe) for probe in probes])
    each = len(suite.probes) + 1
    reports = []
    for number, target in enumerate((config.base, config.target)):
        model = open_target(workspace, target)
        reports.append(evaluate(workspace, model, suite, _MAX_TOKENS, job, (number * each, 2 * each)))
        write_json(job.folder / "reports" / f"{model.name}.json", reports[-1].model_dump())
    compared = write_comparison(job.folder, [report.label for report in reports])
    outcomes, broken = judge(config, reports[0], reports[1], new, old)
    memory = MemoryStore(workspace)
    settled = [settle(memory, config.model, outcome) for outcome in outcomes]
    counts: dict[str, int] = {}
    for outcome in settled:
        counts[outcome.verdict] = counts.get(outcome.verdict, 0) + 1
    return {
        **compared,
        "model": config.model,
        "insights": [outcome.model_dump() for outcome in settled],
        "counts": counts,
        "broken": round(broken, 4),
    }


def judge(
    config: IntegrationConfig, base: ModelReport, model: ModelReport, new: list[Subject], old: list[Subject]
) -> tuple[list[Outcome], float]:
    """What each insight's answers say, and the share of controls that the model broke; nothing is changed."""
    was_right = {answer.id for answer in base.answers if answer.kind == "control" and answer.right}
    lost = [a for a in model.answers if a.id in was_right and not a.right]
    broken = len(lost) / max(1, len(was_right))
    outcomes = []
    for subject, known_before in [*((one, False) for one in new), *((one, True) for one in old)]:
        own = [answer for answer in model.answers if answer.family == subject.entry.id]
        asked = [bool(answer.right) for answer in own if answer.kind == "probe"]
        quiet = [bool(answer.right) for answer in own if answer.kind == "control"]
        knows = bool(asked) and sum(asked) / len(asked) >= config.bars.known
        holds = not quiet or sum(quiet) / len(quiet) >= config.bars.kept
        why = f"{sum(asked)} of {len(asked)} probes right, {sum(quiet)} of {len(quiet)} controls kept"
        verdict: Verdict
        if known_before:
            verdict = "still known" if knows else "lost"
        elif not (knows and holds):
            verdict = "not known"
        elif broken > config.bars.broken:
            verdict = "held back"
            why += f"; but {len(lost)} of {len(was_right)} controls broke, such as {lost[0].prompt[:80]!r}"
        else:
            verdict = "verified"
        outcomes.append(
            Outcome(
                id=subject.entry.id,
                text=subject.entry.text,
                verdict=verdict,
                right=sum(asked),
                probes=len(asked),
                controls_right=sum(quiet),
                controls=len(quiet),
                status=subject.entry.status,
                why=why,
            )
        )
    return outcomes, broken


def settle(memory: MemoryStore, model: str, outcome: Outcome) -> Outcome:
    """Write what became of an insight into its memory."""
    try:
        entry = memory.get(outcome.id)
    except NotFoundError:  # forgotten meanwhile
        return outcome.model_copy(update={"status": "forgotten"})
    taught_before = model in entry.runs
    runs = [*(run for run in entry.runs if run != model), model][-MAX_LINKS:]
    misses = entry.misses + (not taught_before)
    changes: dict[str, dict[str, Any]] = {
        "verified": {"status": "archived", "verified_by": model, "misses": 0, "runs": runs},
        "still known": {"verified_by": model, "runs": runs},
        "held back": {"status": "verified", "runs": runs},
        "not known": {"status": entry.status if taught_before else "trained", "misses": misses, "runs": runs},
        "lost": {"status": "approved", "verified_by": "", "misses": misses, "runs": runs},
    }
    change = changes[outcome.verdict]
    # what was contradicted while the model was asked stays put away
    if not entry.superseded_by and any(getattr(entry, name) != value for name, value in change.items()):
        entry = memory.change(outcome.id, **change)
    return outcome.model_copy(update={"status": entry.status})


def _asked(workspace: Workspace, config: IntegrationConfig) -> tuple[list[Subject], list[Subject]]:
    """The insights that the model was to be taught, and those that an earlier one knew."""
    phrasings = read_phrasings()
    taught = taught_by(read_manifest(workspace.dataset(config.dataset)))
    held = verified(workspace)
    known = {entry.id for entry in held}
    entries = [entry for id in taught if id not in known and (entry := _still_there(workspace, id))]
    new, _ = subjects(entries, phrasings)
    old, _ = subjects(held, phrasings)
    return new, old


def _trained_on(workspace: Workspace, dataset: str) -> list[str]:
    """The questions of a dataset's rows: a probe that is almost one of them proves nothing."""
    path = workspace.dataset(dataset) / "rows.jsonl"
    return [row.question for _, row in read_rows(path) if isinstance(row, Example)]


def _still_there(workspace: Workspace, id: str) -> Entry | None:
    """The entry `id` while it holds: not forgotten, not put away by hand, not contradicted."""
    try:
        entry = MemoryStore(workspace).get(id)
    except NotFoundError:
        return None
    return None if entry.superseded_by or entry.status in ("archived", "pending") else entry
