"""What each model fixed and broke against the first, probe by probe; and an agent's verdicts on answers.

    comparison = read_comparison(workspace.run("eval-holds-0001"))
    comparison.changes["adapter"].fixed            # ids of probes
    rows = to_judge(folder)                        # answers that no rule can judge, for an agent
    judge(folder, [Verdict(id="…", label="adapter", right=True, reason="…")])

A verdict decides where a probe has an `agent` grader, and is marked as an agent's. Elsewhere the rules decide, and it
is kept beside theirs: `agreement` says how often the two agree.
"""

from pathlib import Path
from typing import Any, Literal

from pydantic import BaseModel

from tools.errors import NotFoundError
from tools.evaluation.compare import Answered, ModelReport, read_report
from tools.evaluation.scores import Verdict, sign_test
from tools.files import read_json, write_json

Change = Literal["fixed", "broken", "right", "wrong"]


class Matrix(BaseModel):
    """Probes by what became of them: wrong before and right now, right before and wrong now, the same as before.

    `p`: how often chance alone would give a split of fixed and broken at least as uneven (`scores.sign_test`).
    `worst_controls`: of the families in which controls broke, the one with the least share still right, such as
    'other_project 0 of 6'.
    """

    fixed: list[str]
    broken: list[str]
    same_right: int
    same_wrong: int
    controls_broken: int
    worst_controls: str
    p: float


class Comparison(BaseModel):
    """Everything that an evaluation found: the reports, and each but the first against the first."""

    run: str
    suite: str
    against: str
    reports: dict[str, ModelReport]
    changes: dict[str, Matrix]
    agreement: dict[str, list[int]]

    def change(self, label: str, index: int) -> Change | None:
        """What became of one probe; None while an agent has to judge it."""
        before = self.reports[self.against].answers[index].right
        now = self.reports[label].answers[index].right
        if before is None or now is None:
            return None
        if before == now:
            return "right" if now else "wrong"
        return "fixed" if now else "broken"


def compare_reports(run: str, reports: list[ModelReport]) -> Comparison:
    """Each report but the first against the first."""
    comparison = Comparison(
        run=run,
        suite=reports[0].suite,
        against=reports[0].label,
        reports={report.label: report for report in reports},
        changes={},
        agreement={report.label: _agreement(report) for report in reports},
    )
    for report in reports[1:]:
        became = [(comparison.change(report.label, i), a) for i, a in enumerate(report.answers)]
        fixed = [a.id for change, a in became if change == "fixed"]
        broken = [a for change, a in became if change == "broken"]
        comparison.changes[report.label] = Matrix(
            fixed=fixed,
            broken=[a.id for a in broken],
            same_right=sum(change == "right" for change, _ in became),
            same_wrong=sum(change == "wrong" for change, _ in became),
            controls_broken=sum(a.kind == "control" for a in broken),
            worst_controls=_worst_controls(report, {a.family for a in broken if a.kind == "control"}),
            p=sign_test(len(fixed), len(broken)),
        )
    return comparison


def _worst_controls(report: ModelReport, broken: set[str]) -> str:
    left = {
        family: [a.right for a in report.answers if a.kind == "control" and a.family == family and a.right is not None]
        for family in sorted(broken)
    }
    worst = min(left, key=lambda family: sum(left[family]) / len(left[family]), default="")
    return f"{worst} {sum(left[worst])} of {len(left[worst])}" if worst else ""


def _agreement(report: ModelReport) -> list[int]:
    """Answers on which rules and agent agree, and answers that both judged."""
    both = [a for a in report.answers if a.by == "rules" and a.agent_right is not None]
    return [sum(a.agent_right == a.right for a in both), len(both)]


def write_comparison(folder: Path, labels: list[str]) -> dict[str, Any]:
    """Compare the reports in an evaluation's folder, in this order; returns what its job's result holds."""
    comparison = compare_reports(folder.name, [read_report(folder, label) for label in labels])
    matrix = {label: change.model_dump() for label, change in comparison.changes.items()}
    write_json(
        folder / "reports" / "comparison.json",
        {"labels": labels, "against": comparison.against, "suite": comparison.suite, "matrix": matrix},
    )
    return {
        "models": {label: report.summary() for label, report in comparison.reports.items()},
        "probes": comparison.suite,
        "against": comparison.against,
        "matrix": matrix,
        "to_judge": sum(report.pending for report in comparison.reports.values()),
    }


def read_comparison(folder: Path) -> Comparison:
    """What the evaluation in `folder` found.

    Raises:
        NotFoundError: it is none, or has not finished.
    """
    path = folder / "reports" / "comparison.json"
    if not path.is_file():
        raise NotFoundError(
            f"{folder.name} holds no finished evaluation.",
            f"start one with evaluate_model, or follow it: training_status(run={folder.name!r})",
        )
    return compare_reports(folder.name, [read_report(folder, label) for label in read_json(path)["labels"]])


def to_judge(folder: Path, limit: int = 20) -> tuple[list[dict[str, str]], int]:
    """The first answers that wait for an agent, and how many wait.

    Raises:
        NotFoundError: see `read_comparison`.
    """
    waiting = [
        {"id": a.id, "label": label, "prompt": a.prompt, "answer": a.answer, "rubric": a.rubric}
        for label, report in read_comparison(folder).reports.items()
        for a in report.answers
        if a.right is None
    ]
    return waiting[:limit], len(waiting)


def judge(folder: Path, verdicts: list[Verdict]) -> dict[str, Any]:
    """Take an agent's verdicts into the reports, and count again; returns what `write_comparison` does.

    Raises:
        NotFoundError: a verdict names a model or a probe that was not evaluated; nothing is changed.
    """
    comparison = read_comparison(folder)
    reports = comparison.reports
    for verdict in verdicts:
        if verdict.label not in reports:
            raise NotFoundError.named("model", verdict.label, reports, "name one of this evaluation")
        known = {answer.id: answer for answer in reports[verdict.label].answers}
        if verdict.id not in known:
            raise NotFoundError.named("probe", verdict.id, known, "name one of this evaluation")
        _apply(known[verdict.id], verdict)
    for label, report in reports.items():
        write_json(folder / "reports" / f"{label}.json", report.counted().model_dump())
    return write_comparison(folder, list(reports))


def _apply(answer: Answered, verdict: Verdict) -> None:
    answer.agent_right = verdict.right
    if answer.by != "rules":
        answer.right, answer.by, answer.why = verdict.right, "agent", verdict.reason
