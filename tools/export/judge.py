"""The checks of the gate: measured values against bars.

    checks = judge(base, quantized, adapter=…, f16=…, intact=…)     # ModelReports of one probe set
    reason(checks)                                                   # what failed, in a sentence

Whether the model knows what was taught, whether what must not change did not, and whether the quantized file is still
the model that was trained.
"""

from collections.abc import Callable

from pydantic import BaseModel

from tools.errors import InputError
from tools.evaluation.compare import ModelReport
from tools.export.promotion import Check


class Bars(BaseModel):
    """What a quantized model has to reach. Shares from 0 to 1.

    `perplexity_ratio` is against the base, `perplexity_quantized` against f16; `recall_lost` against the better of f16
    and adapter; `controls_broken` is the share of the controls that the adapter got right and the quantized file not.
    """

    recall: float = 0.9
    controls: float = 0.9
    base_recall: float = 0.2
    perplexity_ratio: float = 1.5
    perplexity_quantized: float = 1.1
    recall_lost: float = 0.05
    controls_broken: float = 0.1
    min_probes: int = 30
    min_controls: int = 60
    likeness_tokens: int = 2000


# Of many kinds a base does some already: those that ask for code, or a form.
MANY_KINDS = Bars(base_recall=1.01)
# A set of the dataset's or the user's own is smaller than one that ships, and its base may know the term already.
HELD_BACK = Bars(base_recall=1.01, min_probes=5, min_controls=10)


def judge(
    base: ModelReport,
    quantized: ModelReport,
    bars: Bars | None = None,
    *,
    adapter: ModelReport | None = None,
    f16: ModelReport | None = None,
    intact: bool | None = None,
    likeness_tokens: int | None = None,
) -> list[Check]:
    """Every check of the gate; those against adapter and f16 where their reports are given, that of the hashes where
    `intact` says what `verify` found, and where `likeness_tokens` says on how many tokens the quantized file was
    compared with f16, that they were enough.

    Raises:
        InputError: the reports are of different probe sets, so they cannot be compared.
    """
    bars = bars or Bars()
    for other in (base, adapter, f16):
        if other is not None and other.suite_sha256 != quantized.suite_sha256:
            raise InputError(
                f"{other.label} answered {other.suite} and {quantized.label} another set of probes.",
                "evaluate both on the same probes",
            )

    def at_least(name: str, value: float | None, bar: float) -> Check:
        return Check(name=name, value=value or 0.0, bar=f">= {bar:g}", passed=value is not None and value >= bar)

    def at_most(name: str, value: float, bar: float, detail: str = "") -> Check:
        return Check(name=name, value=round(value, 4), bar=f"<= {bar:g}", passed=value <= bar, detail=detail)

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
        at_most("perplexity_ratio", ratio, bars.perplexity_ratio),
        *survived(at_most, quantized, bars, adapter, f16),
        *([at_least("likeness_tokens", likeness_tokens, bars.likeness_tokens)] if likeness_tokens is not None else []),
        *([Check(name="intact", value=float(intact), bar="= 1", passed=intact)] if intact is not None else []),
    ]


def survived(
    at_most: Callable[..., Check],
    quantized: ModelReport,
    bars: Bars,
    adapter: ModelReport | None,
    f16: ModelReport | None,
) -> list[Check]:
    """Whether the quantized file is still the model that was trained."""
    checks = []
    before = [r.recall for r in (adapter, f16) if r is not None and r.recall is not None]
    if before and quantized.recall is not None:
        checks.append(at_most("recall_lost", max(0.0, round(max(before) - quantized.recall, 4)), bars.recall_lost))
    reference = adapter or f16
    if reference is not None:
        broken, right = _broken_controls(reference, quantized)
        detail = f"{len(broken)} of {right} that {reference.label} got right, such as {broken[0]!r}" if broken else ""
        checks.append(at_most("controls_broken", len(broken) / max(1, right), bars.controls_broken, detail))
    if f16 is not None:
        checks.append(at_most("perplexity_quantized", quantized.perplexity / f16.perplexity, bars.perplexity_quantized))
    return checks


def _broken_controls(reference: ModelReport, quantized: ModelReport) -> tuple[list[str], int]:
    """The controls that only the reference got right, and how many it got right."""
    right = {a.id for a in reference.answers if a.kind == "control" and a.right}
    return [a.prompt for a in quantized.answers if a.id in right and not a.right], len(right)
