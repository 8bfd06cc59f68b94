"""Criteria against figures.

verdicts = judge_figures(sprint.deciding, {"adapter.recall": 0.93})
told(verdicts)      # a line each
"""

from collections.abc import Mapping, Sequence
from typing import Any

from tools.sprint.cycle import Verdict
from tools.sprint.expressions import judge
from tools.sprint.rules import Criterion


def judge_figures(criteria: Sequence[Criterion], figures: Mapping[str, float]) -> list[Verdict]:
    """A verdict on each criterion over the sprint's own figures. One whose figures were not measured is open."""
    verdicts = []
    for criterion in criteria:
        judged = judge(criterion.rule, figures)
        verdicts.append(
            Verdict(
                name=criterion.name,
                text=criterion.text,
                check=criterion.check,
                passed=judged.passed,
                status="met" if judged.passed else "open" if judged.missing else "failed",
                value=judged.value,
                evidence=f"{criterion.check}: {judged.told()}",
            )
        )
    return verdicts


def gate_verdicts(checks: Sequence[Mapping[str, Any]]) -> list[Verdict]:
    """What the gate refused, as verdicts that an adaptation can act on."""
    return [
        Verdict(
            name=f"gate: {check['name']}",
            check=f"gate.{check['name']}",
            passed=False,
            status="failed",
            value=check["value"],
            evidence=f"{check['value']:g}, has to be {check['bar']}",
        )
        for check in checks
    ]


def told(verdicts: Sequence[Verdict]) -> str:
    """A line for each verdict."""
    return "\n".join(f"- {v.status}: {v.name}, {v.evidence}" for v in verdicts)
