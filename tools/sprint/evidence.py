"""What shows that a criterion is met, run or read when the report is made: tests, commands, documents, figures.

    verdicts = collect(workspace, sprint, figures, program=[sys.executable, "-P", "-m", "server.cli"])

Nothing is taken over from an earlier report. What could not be run or read here leaves its criterion open, with the
reason; so does a criterion for which the sprint file names no evidence.
"""

import ast
import json
import os
import re
import shlex
import subprocess
import sys
import tempfile
import xml.etree.ElementTree as ET
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any, Literal

from tools.errors import InputError
from tools.sprint.criteria import judge_figures
from tools.sprint.cycle import Verdict
from tools.sprint.expressions import judge, parse
from tools.sprint.rules import Criterion

_COMMAND_SECONDS = 900
_TESTS_SECONDS = 7200
Status = Literal["met", "failed", "open"]
_WORST_FIRST: tuple[Status, ...] = ("failed", "open", "met")
Say = Callable[[str], None]


@dataclass(frozen=True)
class Found:
    """What one piece of evidence came to."""

    status: Status
    evidence: str
    value: float | None = None


def checkout() -> Path:
    """The folder that holds `tools/`, `tests/` and `docs/`; in an installed wheel the last two are not there."""
    return Path(__file__).resolve().parents[2]


def collect(
    criteria: Sequence[Criterion],
    figures: Mapping[str, float],
    program: Sequence[str],
    source: str = "",
    root: Path | None = None,
    say: Say = lambda text: None,
) -> list[Verdict]:
    """A verdict on each criterion, in their order.

    Args:
        figures: of the sprint's last training; `source` names where they come from.
        program: how looptune's commands are started.
        root: the checkout with tests and documents; by default the one that this module lies in.
    """
    root = root or checkout()
    names = sorted({name for criterion in criteria for name in criterion.test})
    say(f"{len(names)} tests" if names else "")
    tests = run_tests(root, names) if names else {}
    outputs: dict[str, Any] = {}
    verdicts = []
    for criterion in criteria:
        pieces = [Found("open", f"not shown: {criterion.open}")] if criterion.open else []
        if criterion.decides:
            pieces.append(_of_figures(criterion, figures, source))
        pieces += [tests[name] for name in criterion.test]
        if criterion.command:
            if criterion.command not in outputs:
                say(f"looptune {criterion.command}")
                outputs[criterion.command] = run_command(program, criterion.command, root)
            pieces.append(_of_command(criterion, outputs[criterion.command]))
        if criterion.document:
            pieces.append(read_document(root, criterion))
        status = min((piece.status for piece in pieces), key=_WORST_FIRST.index)
        verdicts.append(
            Verdict(
                name=criterion.name,
                text=criterion.text,
                check=criterion.check,
                passed=status == "met",
                status=status,
                value=next((piece.value for piece in pieces if piece.value is not None), None),
                evidence="; ".join(piece.evidence for piece in pieces),
            )
        )
    return verdicts


def _of_figures(criterion: Criterion, figures: Mapping[str, float], source: str) -> Found:
    (verdict,) = judge_figures([criterion], figures)
    where = f" ({source})" if source and verdict.status != "open" else ""
    return Found(verdict.status, f"{verdict.evidence}{where}", verdict.value)


def run_tests(root: Path, names: Sequence[str]) -> dict[str, Found]:
    """Run tests such as `tests/test_data.py::test_rows_are_split`, with all their parameters, in one pytest."""
    results = {name: Found("open", f"not shown: there is no test {name} here") for name in names}
    known = [name for name in names if defines(root, name)]
    if not known:
        return results
    with tempfile.TemporaryDirectory() as folder:
        report = Path(folder) / "report.xml"
        command = [sys.executable, "-P", "-m", "pytest", "-q", "-p", "no:cacheprovider", f"--junitxml={report}", *known]
        try:
            done = subprocess.run(
                command, cwd=root, capture_output=True, text=True, timeout=_TESTS_SECONDS, stdin=subprocess.DEVNULL
            )
        except subprocess.TimeoutExpired:
            return results | {name: Found("open", f"not shown: no end in {_TESTS_SECONDS} s") for name in known}
        if not report.is_file():
            said = (done.stdout + done.stderr).strip()[-200:]
            return results | {name: Found("open", f"not shown: pytest could not run: {said}") for name in known}
        cases = list(ET.parse(report).getroot().iter("testcase"))  # noqa: S314  # pytest's own file
    for name in known:
        path, _, test = name.partition("::")
        module = path.removesuffix(".py").replace("/", ".")
        mine = [c for c in cases if c.get("classname") == module and str(c.get("name")).partition("[")[0] == test]
        results[name] = _of_cases(name, mine)
    return results


def defines(root: Path, name: str) -> bool:
    """Whether the test is there: pytest runs none at all when one of its names is wrong."""
    path, _, test = name.partition("::")
    file = (root / path).resolve()
    if not file.is_relative_to(root.resolve()) or not file.is_file() or file.suffix != ".py":
        return False
    tree = ast.parse(file.read_text(encoding="utf-8"))
    return any(isinstance(node, ast.FunctionDef) and node.name == test for node in tree.body)


def _of_cases(name: str, cases: list[ET.Element]) -> Found:
    bad = [case for case in cases if case.find("failure") is not None or case.find("error") is not None]
    skipped = [case for case in cases if case.find("skipped") is not None]
    ran = len(cases) - len(skipped)
    if bad:
        return Found("failed", f"{name}: {len(bad)} of {ran} failed")
    if not ran:
        return Found("open", f"not shown: {name} was {'skipped' if skipped else 'not run'}")
    seconds = sum(float(case.get("time", 0)) for case in cases)
    return Found("met", f"{name}: {ran} passed in {seconds:.1f} s")


def run_command(program: Sequence[str], command: str, folder: Path) -> tuple[int, str, str]:
    """Exit status, stdout and stderr of a command of looptune; status -1 when it did not end in time."""
    words = shlex.split(command)
    try:
        done = subprocess.run(
            [*program, *words],
            cwd=folder,
            capture_output=True,
            text=True,
            timeout=_COMMAND_SECONDS,
            stdin=subprocess.DEVNULL,
            env=os.environ,
        )
    except subprocess.TimeoutExpired:
        return -1, "", f"no end in {_COMMAND_SECONDS} s"
    return done.returncode, done.stdout, done.stderr


def _of_command(criterion: Criterion, output: tuple[int, str, str]) -> Found:
    status, out, err = output
    said = f"looptune {criterion.command}"
    if status != 0:
        why = err.strip().splitlines()[-1:] or ["no message"]
        return Found("failed", f"{said}: exit status {status}, {why[0][:200]}")
    if not criterion.check:
        return Found("met", f"{said}: exit status 0")
    try:
        figures = flatten(json.loads(out))
        rule = parse(criterion.check, figures)
    except (ValueError, InputError) as error:
        return Found("open", f"{said}: {str(error)[:300]}")
    judged = judge(rule, figures)
    return Found("met" if judged.passed else "failed", f"{said}: {criterion.check} ({judged.told()})", judged.value)


def flatten(value: Any, stem: str = "") -> dict[str, float]:
    """The numbers of a JSON value by dotted name; a list gives its length as `count`, and items that are named their
    numbers by that name. Characters that no name may hold become `_`."""
    found: dict[str, float] = {}
    if isinstance(value, bool | int | float):
        found[stem or "value"] = float(value)
    elif isinstance(value, dict):
        for key, part in value.items():
            found |= flatten(part, _dotted(stem, str(key)))
    elif isinstance(value, list):
        found[_dotted(stem, "count")] = float(len(value))
        for part in value:
            if isinstance(part, dict) and isinstance(part.get("name"), str):
                found |= flatten(part, _dotted(stem, part["name"]))
    return found


def _dotted(stem: str, key: str) -> str:
    name = re.sub(r"\W", "_", key)
    name = f"_{name}" if name[:1].isdigit() else name
    return f"{stem}.{name}" if stem else name


def read_document(root: Path, criterion: Criterion) -> Found:
    """Whether a document, or one section of it, is there and says what it has to."""
    path = (root / criterion.document).resolve()
    if not path.is_relative_to(root.resolve()) or not path.is_file():
        return Found("open", f"not shown: there is no {criterion.document} here")
    text = path.read_text(encoding="utf-8")
    where = criterion.document
    if criterion.section:
        where = f"{criterion.document}, section {criterion.section!r}"
        section = _section(text, criterion.section)
        if section is None:
            return Found("failed", f"{criterion.document} has no section {criterion.section!r}")
        text = section
    words = " ".join(text.split()).casefold()
    missing = [said for said in criterion.says if said.casefold() not in words]
    if missing:
        return Found("failed", f"{where} does not say {', '.join(map(repr, missing))}")
    says = f", says {', '.join(map(repr, criterion.says))}" if criterion.says else ""
    return Found("met", f"{where}: {len(words.split())} words{says}")


def _section(text: str, title: str) -> str | None:
    """What stands under the heading `title`, up to the next one of its rank."""
    lines, found, rank, fenced = text.splitlines(), [], 0, False
    for line in lines:
        fenced ^= line.startswith("```")
        heading = None if fenced else re.match(r"(#+) (.*)", line)
        if rank and heading and len(heading[1]) <= rank:
            break
        if rank:
            found.append(line)
        elif heading and heading[2].strip().strip("`").casefold() == title.casefold():
            rank = len(heading[1])
    return "\n".join(found) if rank else None
