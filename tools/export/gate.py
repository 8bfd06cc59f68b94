"""The gate: whether an exported model may become the one that answers.

checks = judge(base=…, quantized=…)        # ModelReports of one probe set
promote(workspace, "forty-two", checks)    # refuses when a check failed

models/promoted.json                       # which model answers, and why it may
"""

from typing import Any

from pydantic import BaseModel

from tools.data.datasets import Manifest, read_manifest
from tools.errors import CheckError, InputError
from tools.evaluation import compare
from tools.evaluation.compare import EvaluationConfig, ModelReport, Target, read_report
from tools.evaluation.probes import suite_names
from tools.files import read_json, write_json
from tools.jobs import record
from tools.jobs.record import Job, now
from tools.workspace import Workspace


class Bars(BaseModel):
    """What a quantized model has to reach. Shares from 0 to 1; `perplexity_ratio` against the base."""

    recall: float = 0.9
    controls: float = 0.9
    base_recall: float = 0.2
    perplexity_ratio: float = 1.5
    min_probes: int = 30
    min_controls: int = 60


# A dataset's own held-back rows are fewer than a probe set, and its term may be known to the base already.
HELD_BACK = Bars(base_recall=1.01, min_probes=5, min_controls=10)


class Check(BaseModel):
    """One comparison of a measured value with its bar."""

    name: str
    value: float
    bar: str
    passed: bool


def judge(base: ModelReport, quantized: ModelReport, bars: Bars | None = None) -> list[Check]:
    """Every check of the gate.

    Raises:
        InputError: the reports are of different probe sets, so they cannot be compared.
    """
    bars = bars or Bars()
    if base.suite_sha256 != quantized.suite_sha256:
        raise InputError(
            f"{base.label} answered {base.suite} and {quantized.label} another set of probes.",
            "evaluate both on the same probes",
        )

    def at_least(name: str, value: float | None, bar: float) -> Check:
        return Check(name=name, value=value or 0.0, bar=f">= {bar:g}", passed=value is not None and value >= bar)

    ratio = round(quantized.perplexity / base.perplexity, 4)
    return [
        at_least("recall", quantized.recall, bars.recall),
        at_least("controls", quantized.controls, bars.controls),
        at_least("probes", quantized.probes, bars.min_probes),
        at_least("control_count", quantized.control_count, bars.min_controls),
        Check(
            name="base_recall",
            value=base.recall or 0.0,
            bar=f"< {bars.base_recall:g}",
            passed=(base.recall or 0.0) < bars.base_recall,
        ),
        Check(
            name="perplexity_ratio",
            value=ratio,
            bar=f"<= {bars.perplexity_ratio:g}",
            passed=ratio <= bars.perplexity_ratio,
        ),
    ]


def reason(checks: list[Check]) -> str:
    """What failed, in a sentence; empty when nothing did."""
    return ", ".join(f"{c.name} is {c.value:g} (has to be {c.bar})" for c in checks if not c.passed)


def promote(workspace: Workspace, model: str, checks: list[Check]) -> None:
    """Make `model` the one that answers.

    Raises:
        CheckError: a check failed; the model that answered before goes on answering.
        NotFoundError: no such model.
    """
    workspace.model(model)
    if failed := reason(checks):
        raise CheckError(
            f"The model {model!r} is not promoted: {failed}.",
            "add examples of what was wrong, train again, and evaluate",
        )
    write_json(
        workspace.models / "promoted.json",
        {"model": model, "promoted": now(), "checks": [check.model_dump() for check in checks]},
    )


class GateConfig(EvaluationConfig):
    """An evaluation of a base and an exported model, with the gate after it."""

    model: str
    promote: bool = False


def start_evaluation(
    workspace: Workspace,
    *,
    run: str = "",
    model: str = "",
    probes: str = "",
    promote: bool = False,
    idempotency_key: str = "",
) -> tuple[Job, bool]:
    """Queue an evaluation of a run's adapter, or the gate of an exported model, and start its worker.

    Without `probes`, the probe set of the card that the dataset was made from is asked, or else the dataset's own
    held-back rows.

    Raises:
        InputError: not exactly one of `run` and `model`, or `promote` without `model`.
        NotFoundError, MissingError, CheckError: what is named is not there, or not finished.
    """
    if bool(run) == bool(model) or (promote and not model):
        raise InputError(
            "Expected either `run` (a training) or `model` (an exported model), and `promote` only with `model`.",
            "read run://index and model://index",
        )
    if run:
        config = record.Job(workspace.run(run)).config
        dataset, base = str(config.get("dataset", "")), str(config.get("base", ""))
        targets = [Target(label="base", base=base), Target(label="adapter", run=run)]
    else:
        manifest = read_json(workspace.model(model) / "manifest.json")
        dataset, base = manifest["made_from"]["dataset"], manifest["made_from"]["base"]
        files = [Target(label=name.removesuffix(".gguf"), model=model, file=name) for name in manifest["files"]]
        targets = [Target(label="base", base=base), *files]
    for target in targets:
        compare.open_target(workspace, target)
    probes = probes or _probes_of(read_manifest(workspace.dataset(dataset)))
    compare.find_suite(workspace, probes, dataset)
    asked: dict[str, Any] = {"targets": targets, "probes": probes, "dataset": dataset}
    settings = GateConfig(**asked, model=model, promote=promote) if model else EvaluationConfig(**asked)
    job, new = record.create(
        workspace, "gate" if model else "evaluate", model or dataset, settings.model_dump(), idempotency_key
    )
    if new:
        record.start(workspace, job)
    return job, new


def _probes_of(manifest: Manifest) -> str:
    """The shipped probe set of the only card that a dataset was made from, if there is one."""
    names = {source.rpartition("/")[2] for source in manifest.sources}
    return name if len(names) == 1 and (name := names.pop()) in suite_names() else ""


def run_job(workspace: Workspace, job: Job) -> dict[str, Any]:
    """Evaluate the base and every file of a model, judge the last, and promote the model when that was asked for.

    Returns:
        `models` (summaries by label), `checks`, `passed`, `reason`, and whether it was `promoted`.

    Raises:
        what `compare.run_job` raises.
    """
    config = GateConfig.model_validate(job.config)
    result = compare.run_job(workspace, job)
    last = config.targets[-1].label
    bars = Bars() if config.probes else HELD_BACK
    checks = judge(read_report(job.folder, "base"), read_report(job.folder, last), bars)
    failed = reason(checks)
    if config.promote and not failed:
        promote(workspace, config.model, checks)
    return {
        **result,
        "checks": [check.model_dump() for check in checks],
        "passed": not failed,
        "reason": failed,
        "promoted": config.promote and not failed,
    }


def promoted(workspace: Workspace) -> str | None:
    """The name of the model that answers, if there is one."""
    path = workspace.models / "promoted.json"
    if not path.is_file():
        return None
    name = str(read_json(path)["model"])
    return name if (workspace.models / name / "manifest.json").is_file() else None
