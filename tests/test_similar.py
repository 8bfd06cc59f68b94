"""TF-IDF neighbours without all with all, and the benchmark's file that is made of the core dataset's rows.

.venv/bin/python -P -m pytest tests/test_similar.py
"""

import importlib.util
import json
from pathlib import Path
from types import ModuleType
from typing import Any

import pytest

from tools.data.examples import Example
from tools.data.profile import Profile
from tools.data.similar import find_alike
from tools.data.validate import validate_file
from tools.settings import shipped_data

ROOT = Path(__file__).resolve().parent.parent


def all_with_all(texts: list[str], threshold: float) -> list[tuple[int, int, float]]:
    """The pairs that scikit-learn finds."""
    from sklearn.feature_extraction.text import TfidfVectorizer

    vectors = TfidfVectorizer(ngram_range=(1, 2), token_pattern=r"(?u)\b\w+\b|[^\w\s]").fit_transform(texts)
    near = (vectors @ vectors.T).toarray().round(4)
    return [
        (i, j, float(near[i, j]))
        for i in range(len(texts))
        for j in range(i + 1, len(texts))
        if near[i, j] >= threshold
    ]


@pytest.fixture(scope="module")
def core() -> list[Example]:
    lines = (shipped_data() / "core" / "valid.jsonl").read_text().splitlines()
    return [Example.model_validate(json.loads(line)) for line in lines]


@pytest.mark.parametrize("threshold", [0.5, 0.8, 0.9])
def test_pairs_are_those_of_all_with_all(core: list[Example], threshold: float) -> None:
    answers = [row.answer for row in core]
    answers += [text.replace("the", "a", 2) for text in answers[::9]]  # near ones, more than the core has
    answers += ["", " ", "one", "one", *("a row of one template, with " + "xyz"[i % 3] for i in range(300))]
    found = find_alike(answers, threshold)
    assert found == all_with_all(answers, threshold) and len(found) > 1000


def test_a_profile_has_the_shares_of_rows_with_a_neighbour(
    core: list[Example], monkeypatch: pytest.MonkeyPatch
) -> None:
    rows = [*core, *(row.model_copy(update={"instruction": f"Else: {row.instruction}"}) for row in core[:40])]
    profile = Profile()
    for row in rows:
        profile.add(row)
    shares = profile.figures()["neighbours"]
    assert shares["rows"] == len(rows)
    for name, texts, least in (
        ("prompts_above_0.9", [row.question for row in rows], 0.9),
        ("outputs_above_0.9", [row.answer for row in rows], 0.9),
        ("outputs_above_0.8", [row.answer for row in rows], 0.8),
    ):
        near = {i for one, other, cosine in all_with_all(texts, least) if cosine > least for i in (one, other)}
        assert shares[name] == round(len(near) / len(rows), 4) > 0, name
    monkeypatch.setattr("tools.data.profile._SAMPLED", 50)
    small = Profile()
    for row in rows:
        small.add(row)
    assert small.figures()["neighbours"]["rows"] == 50


def test_a_file_of_empty_looking_rows_has_shares_too() -> None:
    profile = Profile()
    for _ in range(3):
        profile.add(Example(instruction="\u200b", output="\u200b"))
    assert profile.figures()["neighbours"] == {
        "rows": 3, "prompts_above_0.9": 1.0, "outputs_above_0.9": 1.0, "outputs_above_0.8": 1.0
    }  # fmt: skip


# the benchmark


@pytest.fixture(scope="module")
def benchmark() -> ModuleType:
    spec = importlib.util.spec_from_file_location("validate_benchmark", ROOT / "benchmarks" / "validate.py")
    assert spec and spec.loader
    module = importlib.util.module_from_spec(spec)
    spec.loader.exec_module(module)
    return module


def test_the_benchmarks_rows_keep_code_and_tags_and_the_planted_pairs_are_found(
    benchmark: ModuleType, tmp_path: Path
) -> None:
    planted = benchmark.make_file(tmp_path / "rows.jsonl", 400)
    text = (tmp_path / "rows.jsonl").read_text()
    assert len(planted) == 20 and min(text.count(sign) for sign in ("```python", "METADATA", "<tool:")) > 10
    report = validate_file(tmp_path / "rows.jsonl")
    assert report.rows == 400 and report.error_count < 20, "else parsers would stop at the first word"
    found = {(d.lines[0], line) for d in report.duplicates for line in d.lines[1:]}
    assert planted <= found and len(found - planted) < 5


def test_the_benchmark_fails_when_a_bar_is_missed(benchmark: ModuleType) -> None:
    def took(**figures: Any) -> Any:
        return benchmark.bars([{"tool": "looptune", "rows": 5000, "peak_mb": 90.0, **figures}])

    assert took(seconds=2.9)["seconds of 5,000 rows"]["passed"]
    assert not took(seconds=3.1)["seconds of 5,000 rows"]["passed"]
    assert not took(failed="killed")["seconds of 5,000 rows"]["passed"], "what did not run has not passed"
    ratios = benchmark.with_ratios(
        [{"tool": "looptune", "rows": 9, "seconds": 2.0}, {"tool": "rensa", "rows": 9, "seconds": 1.0}]
    )
    assert [r["times_looptune"] for r in ratios] == [1.0, 0.5]
