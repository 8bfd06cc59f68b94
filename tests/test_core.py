"""The core dataset: what is committed is what the cards make, it reaches its bars, and its code does what it says.

.venv/bin/python -P -m pytest tests/test_core.py
"""

import json
from collections import Counter
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path

import pytest

from tools.data.code import blocks, code_errors, run_after
from tools.data.core import core_rows, differences, split_core
from tools.data.examples import Example, read_examples
from tools.data.lessons import Lesson, check_lessons, lesson_rows, read_lesson
from tools.data.measures import BARS, measure, missed
from tools.data.validate import row_errors
from tools.errors import InputError
from tools.evaluation.probes import read_suite, refuse_leaks, suite_names
from tools.files import read_json
from tools.policy.markup import Call, find_calls
from tools.settings import shipped_data

CORE = shipped_data() / "core"
COUNTS = {
    "procedural": (600, 1000),
    "definition": (250, 500),
    "context_window": (250, 500),
    "metadata_tagging": (150, 300),
    "rule_compliance": (150, 300),
    "oodatcaa": (150, 300),
    "memory_operation": (100, 300),
}
PARSED = {"python", "json", "yaml", "typescript", "tsx", "go", "rust", "sql", "shell"}


@pytest.fixture(scope="module")
def core() -> list[Example]:
    return [*read_examples(CORE / "train.jsonl"), *read_examples(CORE / "valid.jsonl")]


def lessons() -> list[tuple[str, Lesson]]:
    paths = sorted((shipped_data() / "cards").glob("*/*.yaml"))
    return [(f"{p.parent.name}/{p.stem}", read_lesson(p)) for p in paths if p.stem != "forty-two"]


def test_what_is_committed_is_what_the_cards_make() -> None:
    assert differences(CORE) == []


def test_every_kind_is_there_in_the_number_that_is_wanted(core: list[Example]) -> None:
    counts = Counter(row.kind for row in core)
    for kind, (least, most) in COUNTS.items():
        assert least <= counts[kind] <= most, f"{kind}: {counts[kind]}"
    assert 1700 <= len(core) <= 3500
    assert read_json(CORE / "dataset.json")["kinds"] == dict(sorted(counts.items()))


def test_each_kind_is_split_80_to_20(core: list[Example]) -> None:
    valid = Counter(row.kind for row in read_examples(CORE / "valid.jsonl"))
    for kind, count in Counter(row.kind for row in core).items():
        assert abs(valid[kind] / count - 0.2) < 0.02, kind


def test_the_bars_of_diversity_are_reached_and_can_be_missed(core: list[Example]) -> None:
    train, valid = read_examples(CORE / "train.jsonl"), read_examples(CORE / "valid.jsonl")
    figures = measure(train, valid)
    assert missed(figures) == []
    assert figures == read_json(CORE / "dataset.json")["figures"]
    repeated = measure([train[0]] * 50 + train[:50], [train[0], *valid[:20]])
    assert {line.split(" is ")[0] for line in missed(repeated)} == set(BARS) - {"phrasings_on_both_sides"} | {
        "phrasings_on_both_sides"
    }


def test_every_row_is_valid_and_every_block_of_code_parses(core: list[Example]) -> None:
    problems = [(row.id, e.message) for row in core for e in row_errors(0, row)]
    problems += [(row.id, error) for row in core for error in code_errors(row.text)]
    assert problems == []
    languages = Counter(b.language for row in core for b in blocks(row.text) if b.language in PARSED)
    assert languages["python"] >= 200 and languages["typescript"] >= 100
    assert all(languages[name] >= 20 for name in ("go", "rust", "sql", "shell")), languages


def test_what_rows_claim_of_their_code_is_executed() -> None:
    checks = [
        (row.id, row.text, exchange.run)
        for name, lesson in lessons()
        for exchange in lesson.exchanges
        if exchange.run
        for row in lesson_rows(lesson, name)
        if row.provenance.template.partition("+")[0] == exchange.id
    ]
    assert len(checks) >= 100
    with ThreadPoolExecutor(2) as pool:
        failures = list(pool.map(lambda check: run_after(check[1], check[2]), checks))
    assert [(id, failure) for (id, _, _), failure in zip(checks, failures, strict=True) if failure] == []


def test_tags_markup_and_context_windows_are_whole(core: list[Example]) -> None:
    tools = Counter(call.name for row in core for call in find_calls(row.text))
    assert {"fs.write", "run", "git.commit", "memory.query", "memory.remember", "policy.check"} <= set(tools)
    for row in core:
        if row.kind == "context_window":
            assert isinstance(row.output, dict)
            window = row.output["context_window"]
            assert window["system_prompt"] and window["active_rules"] and window["project_context"]
            assert row.output["metadata"]["preservation_level"] == row.metadata.preservation_level


def test_all_levels_families_and_languages_are_taught(core: list[Example]) -> None:
    tagged = [row for row in core if row.kind == "metadata_tagging"]
    assert {row.metadata.preservation_level for row in tagged} == {"strict", "moderate", "flexible"}
    families = {tag.partition(":")[0] for row in core for tag in row.metadata.rule_compliance}
    assert families == {"concept", "definition", "pattern", "rule", "security", "business"}


@pytest.mark.parametrize("name", suite_names())
def test_no_row_comes_near_a_held_out_probe(name: str, core: list[Example]) -> None:
    refuse_leaks(read_suite(name), [row.question for row in core])


def test_there_are_probes_and_controls_for_every_kind() -> None:
    for name in suite_names():
        kinds = Counter(probe.kind for probe in read_suite(name).probes)
        assert kinds["probe"] >= 18 and kinds["control"] >= 8, (name, kinds)


def test_twins_stay_on_one_side_of_the_split() -> None:
    rows = core_rows()[0][:200]
    twin = rows[0].model_copy(update={"id": "twin", "instruction": rows[0].instruction + " Please."})
    train, valid = split_core([*rows, twin])
    sides = [{row.id for row in side} for side in (train, valid)]
    assert any({rows[0].id, "twin"} <= side for side in sides)


@pytest.mark.parametrize(
    ("change", "complaint"),
    [
        ("title: x\n", "title"),
        ("kind: poem\n", "kind"),
        ("surprise: 1\n", "surprise"),
        ("rules: ['nonsense']\n", "family:name"),
        ("exchanges: [{id: a, ask: b, say: '⟦ nobody ⟧'}]\n", "slot cannot be filled"),
        ("exchanges: [{id: a, ask: b, say: c}, {id: a, ask: d, say: e}]\n", "ids have to differ"),
        ("exchanges: [{id: a, ask: b, say: '<tool:run>pytest'}]\n", "never closed"),
        ('exchanges: [{id: a, ask: b, say: "```python\\ndef f(:\\n```"}]\n', "SyntaxError"),
        (
            "exchanges: [{id: a, ask: b, say: \"```python\\nx = 1\\n```\", run: 'assert x == 2'}]\n",
            "run: AssertionError",
        ),
    ],
)
def test_a_broken_card_is_refused_with_the_reason(tmp_path: Path, change: str, complaint: str) -> None:
    good = {
        "kind": "kind: procedural\n",
        "title": "title: A card that is right\n",
        "level": "level: moderate\n",
        "exchanges": "exchanges: [{id: a, ask: b, say: c}]\n",
    }
    key = change.partition(":")[0]
    path = tmp_path / "procedural" / "card.yaml"
    path.parent.mkdir()
    path.write_text("".join({**good, key: change}.values()))
    problems = check_lessons([path])
    assert len(problems) == 1 and complaint in problems[0], problems


def test_a_card_with_a_broken_line_is_refused_with_that_line(tmp_path: Path) -> None:
    path = tmp_path / "procedural" / "card.yaml"
    path.parent.mkdir()
    path.write_text("kind: procedural\ntitle: A card\nlevel: loud\nexchanges: []\n")
    with pytest.raises(InputError, match=r"line 3, level: .*strict"):
        read_lesson(path)


def test_tool_markup_reads_its_attributes_and_bodies() -> None:
    text = "First:\n<tool:fs.write path='a.py'>\nx = '<b>'\n</tool>\n"
    text += "<tool:memory.query query='it&apos;s' limit='3'></tool>"
    calls = find_calls(text)
    assert [(c.name, c.arguments) for c in calls] == [
        ("fs.write", {"path": "a.py"}),
        ("memory.query", {"query": "it's", "limit": "3"}),
    ]
    assert calls[0].body == "x = '<b>'" and isinstance(calls[1], Call)
    for broken in ("<tool:run>a", "<tool:nope></tool>", "<tool:fs.write>a</tool>", "</tool>", "<tool run>x</tool>"):
        with pytest.raises(InputError):
            find_calls(broken)


def test_rows_are_json_that_alpaca_readers_take(core: list[Example]) -> None:
    for line in (CORE / "train.jsonl").read_text(encoding="utf-8").splitlines()[:50]:
        row = json.loads(line)
        assert isinstance(row["instruction"], str) and isinstance(row["input"], str) and row["output"]
