"""The gate: whether an exported model may become the one that answers.

checks = judge(base=…, quantized=…)        # ModelReports of one probe set
promote(workspace, "forty-two", checks)    # refuses when a check failed

models/promoted.json                       # which model answers, and why it may
"""

from pydantic import BaseModel

from tools.errors import CheckError, InputError
from tools.evaluation.compare import ModelReport
from tools.files import read_json, write_json
from tools.jobs.record import now
from tools.workspace import Workspace


class Bars(BaseModel):
    """What a quantized model has to reach. Shares from 0 to 1; `perplexity_ratio` against the base."""

    recall: float = 0.9
    controls: float = 0.9
    base_recall: float = 0.2
    perplexity_ratio: float = 1.5
    min_probes: int = 30
    min_controls: int = 60


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


def promoted(workspace: Workspace) -> str | None:
    """The name of the model that answers, if there is one."""
    path = workspace.models / "promoted.json"
    if not path.is_file():
        return None
    name = str(read_json(path)["model"])
    return name if (workspace.models / name / "manifest.json").is_file() else None
