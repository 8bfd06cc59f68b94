"""Generating, validating and splitting rows.

.venv/bin/python -P -m pytest tests/test_data.py
"""

import hashlib
import json
import re
from collections import Counter
from collections.abc import Callable
from pathlib import Path
from typing import get_args

import pytest

from tools.data.add import add_examples
from tools.data.cards import card_names, read_card
from tools.data.core import use
from tools.data.datasets import read_split, section
from tools.data.examples import Example, Provenance, read_examples, scan
from tools.data.generate import generate
from tools.data.kinds import Kind
from tools.data.lessons import check_lessons, is_lesson
from tools.data.measures import phrasing
from tools.data.similar import find_similar
from tools.data.split import split
from tools.data.terms import Term
from tools.data.validate import validate_dataset, validate_file
from tools.data.view import dataset_view
from tools.errors import CheckError, ConflictError, InputError
from tools.evaluation.probes import read_suite, refuse_leaks, suite_of_dataset
from tools.files import sha256
from tools.settings import shipped_data
from tools.workspace import Workspace

HOLD = Term(term="soft hold", meaning="a reservation that lapses by itself after 15 minutes", aliases=["soft-hold"])


def rows_file(folder: Path, *lines: str | bytes) -> Path:
    path = folder / "rows.jsonl"
    path.write_bytes(b"\n".join(line if isinstance(line, bytes) else line.encode() for line in lines))
    return path


def row(**changes: object) -> str:
    return json.dumps({"instruction": "What is a soft hold?", "output": "A reservation that lapses.", **changes})


@pytest.mark.slow
def test_the_same_material_and_seed_give_the_same_bytes(workspace: Workspace) -> None:
    one = generate(workspace, terms=[HOLD], count=120, seed=7, name="one")
    two = generate(workspace, terms=[HOLD], count=120, seed=7, name="two")
    other = generate(workspace, terms=[HOLD], count=120, seed=8, name="other")
    assert one.rows_sha256 == two.rows_sha256 != other.rows_sha256
    assert sha256(workspace.dataset("one") / "rows.jsonl") == one.rows_sha256


def test_rows_are_distinct_and_most_of_them_guard_against_overshooting(workspace: Workspace) -> None:
    manifest = generate(workspace, terms=[HOLD], count=300)
    rows = read_examples(workspace.dataset(manifest.name) / "rows.jsonl")
    assert max(Counter(r.question for r in rows).values()) == 1
    taught = [r for r in rows if HOLD.meaning in r.answer]
    assert 0.15 < len(taught) / len(rows) < 0.5
    assert {"questions", "other_term", "other_project", "general"} <= {section(r) for r in rows}
    assert all(r.provenance.card and r.provenance.template and r.provenance.seed == 42 for r in rows)


def test_what_the_material_does_not_carry_is_said_instead_of_repeated(workspace: Workspace) -> None:
    manifest = generate(workspace, terms=[HOLD], count=20_000)
    assert manifest.rows < 20_000 and "not the 20000 asked for" in manifest.notes[0]


def test_no_generated_row_comes_near_a_shipped_probe(workspace: Workspace) -> None:
    manifest = generate(workspace, cards=["definition/forty-two"], count=2000)
    rows = read_examples(workspace.dataset(manifest.name) / "rows.jsonl")
    refuse_leaks(read_suite("forty-two"), [r.question for r in rows])
    leaky = [*(r.question for r in rows), "What does 42 mean ?"]
    with pytest.raises(CheckError, match="near-duplicates of training rows"):
        refuse_leaks(read_suite("forty-two"), leaky)


@pytest.mark.slow
def test_a_name_is_not_taken_twice_for_different_rows(workspace: Workspace) -> None:
    generate(workspace, terms=[HOLD], count=40, name="holds")
    assert generate(workspace, terms=[HOLD], count=40, name="holds").rows == 40, "the same rows are the same dataset"
    with pytest.raises(ConflictError, match="holds other rows"):
        generate(workspace, terms=[HOLD], count=50, name="holds")


@pytest.mark.slow
def test_the_split_is_80_to_20_with_no_phrasing_on_both_sides(workspace: Workspace) -> None:
    manifest = generate(workspace, terms=[HOLD], count=400)
    validate_dataset(workspace, manifest.name)
    train, valid, _ = read_split(workspace, manifest.name)
    assert abs(len(valid) / (len(train) + len(valid)) - 0.2) < 0.02

    def phrasings(rows: list[Example]) -> set[str]:
        return {r.provenance.template.partition("+")[0] for r in rows}

    assert not phrasings(train) & phrasings(valid)
    assert {section(r) for r in train} == {section(r) for r in valid}


def test_lessons_are_split_80_to_20_by_kind_with_no_exchange_on_both_sides(workspace: Workspace) -> None:
    kinds: list[Kind] = ["oodatcaa", "memory_operation"]
    manifest = generate(workspace, kinds=kinds, count=300)
    assert manifest.sections == {"rows": manifest.rows}, "an exchange is no section of its own"
    validate_dataset(workspace, manifest.name)
    train, valid, _ = read_split(workspace, manifest.name)
    for kind in kinds:
        held, every = (sum(r.kind == kind for r in side) for side in (valid, [*train, *valid]))
        assert abs(held / every - 0.2) < 0.02, (kind, held, every)
    assert not {phrasing(r) for r in train} & {phrasing(r) for r in valid}


def test_a_handful_of_rows_of_different_kinds_has_one_held_back(workspace: Workspace) -> None:
    kinds = [kind for kind in get_args(Kind) if kind != "context_window"][:5]
    add_examples(workspace, "few", [json.loads(row(instruction=f"Say {k}.", output=k, kind=k)) for k in kinds])
    assert validate_dataset(workspace, "few")[1].valid_rows == 1


def test_rows_of_one_phrasing_are_refused_instead_of_leaving_nothing_to_measure_on() -> None:
    same = Provenance(template="questions/ask-mean+a-here")
    rows = [Example(instruction=f"What does {n} mean?", output="Nothing.", provenance=same) for n in range(20)]
    with pytest.raises(InputError, match="all 20 come from one phrasing"):
        split(rows, seed=1)


@pytest.mark.slow
def test_the_core_dataset_keeps_the_split_it_ships_with(workspace: Workspace) -> None:
    use(workspace)
    view = dataset_view(workspace, "core")
    assert view["report"] and view["errors"] == []
    validate_dataset(workspace, "core")
    for part in ("train.jsonl", "valid.jsonl"):
        shipped = (shipped_data() / "core" / part).read_bytes()
        assert (workspace.dataset("core") / part).read_bytes() == shipped, part
    added = [{"instruction": "Who closes the till?", "output": "Whoever opened it."}]
    add_examples(workspace, "core", added)
    report, manifest = validate_dataset(workspace, "core")
    assert report.ok and manifest.train_rows + manifest.valid_rows == manifest.rows
    assert abs(manifest.valid_rows / manifest.rows - 0.2) < 0.02, "other rows are split anew"


def test_the_rows_of_the_demo_and_their_split_are_those_that_were_measured(workspace: Workspace) -> None:
    generate(workspace, cards=["definition/forty-two"], count=960, seed=42, name="demo")
    validate_dataset(workspace, "demo")
    train, valid, _ = read_split(workspace, "demo")
    told = "\0".join(f"{r.system}\n{r.question}\n{r.answer}" for r in [*train, *valid])
    assert (len(train), len(valid)) == (768, 192)
    assert hashlib.sha256(told.encode()).hexdigest()[:16] == "8d0b4ea04e1842cf"


@pytest.mark.slow
def test_rows_that_changed_after_validation_are_not_trained_on(
    workspace: Workspace, dataset: Callable[..., str]
) -> None:
    name = dataset()
    with (workspace.dataset(name) / "train.jsonl").open("a") as stream:
        stream.write(row() + "\n")
    with pytest.raises(CheckError, match="not what was validated"):
        read_split(workspace, name)


@pytest.mark.slow
def test_held_back_rows_become_probes_and_controls(workspace: Workspace, dataset: Callable[..., str]) -> None:
    suite = suite_of_dataset(workspace, dataset(200))
    kinds = Counter(probe.kind for probe in suite.probes)
    assert kinds["probe"] >= 5 and kinds["control"] >= 10
    for probe in suite.probes:
        assert probe.right(f"It is {HOLD.meaning}.") == (probe.kind == "probe")


@pytest.mark.parametrize(
    ("line", "field", "code"),
    [
        ("nonsense", "", "json"),
        ("[1]", "", "type"),
        (row(output=""), "output", "string_too_short"),
        (row(output="  "), "output", "value_error"),
        (row(kind="poem"), "kind", "literal_error"),
        (row(output="Dear {{ name }}"), "output", "placeholder"),
        (row(output="key AKIAABCDEFGHIJKLMNOP"), "output", "secret"),
        (row(output="<tool:run>pytest"), "output", "markup"),
        (row(metadata={"rule_compliance": ["nonsense"]}), "metadata.rule_compliance", "value_error"),
        (
            row(metadata={"preservation_level": "strict", "modification_policy": "allow_style_changes"}),
            "metadata.modification_policy",
            "contradiction",
        ),
    ],
)
def test_what_is_wrong_is_named_by_line_and_field(tmp_path: Path, line: str, field: str, code: str) -> None:
    report = validate_file(rows_file(tmp_path, row(instruction="Another question?"), line))
    assert [(e.line, e.field, e.code) for e in report.errors] == [(2, field, code)]
    assert not report.ok


def test_duplicates_and_contradictions_are_found(tmp_path: Path) -> None:
    report = validate_file(rows_file(tmp_path, row(), row(output="a reservation that  LAPSES."), row(output="No.")))
    assert [d.lines for d in report.duplicates] == [[1, 2]]
    assert [c.lines for c in report.contradictions] == [[1, 2, 3]]


@pytest.mark.parametrize(
    ("content", "complaint"),
    [(b"", "empty"), (b"\n\n", "empty"), (b"\xff\xfe\x00", "not UTF-8"), (b"x" * 4_100_000, "longer than 4 MB")],
)
def test_a_file_that_cannot_be_read_is_refused_with_the_reason(tmp_path: Path, content: bytes, complaint: str) -> None:
    with pytest.raises(InputError, match=complaint):
        validate_file(rows_file(tmp_path, content))


def test_json_lists_byte_order_marks_and_windows_lines_are_read(tmp_path: Path) -> None:
    lines = [b"\xef\xbb\xbf" + row().encode() + b"\r", row(instruction="b").encode() + b"\r"]
    assert len(scan(rows_file(tmp_path, *lines))[0]) == 2
    assert len(scan(rows_file(tmp_path, f"[{row()}, {row()}]"))[0]) == 2


def test_every_shipped_card_of_terms_can_be_read() -> None:
    card = read_card("definition/forty-two")
    assert card.term == "42" and "definition/forty-two" in card_names()


def test_a_probe_set_asks_nothing_twice() -> None:
    prompts = [probe.prompt for probe in read_suite("forty-two").probes]
    assert find_similar(prompts[1:], prompts[:1], threshold=0.95) == []
    assert len(set(prompts)) == len(prompts)


CARD = """kind: procedural
title: A card that is right
level: moderate
exchanges:
  - id: a
    ask: b
    say: c
"""


@pytest.mark.parametrize(
    ("content", "complaint"),
    [
        (b"", r"card.yaml is not a valid card: line 1, the card: .*"),
        (b"# nothing but a comment\n", r"card.yaml is not a valid card: line 1"),
        (b"- a\n- b\n", r"card.yaml is not a valid card: line 1, the card: .*dictionary"),
        (CARD.encode() + b"# f\xfcr\n", r"card.yaml, line 8: expected UTF-8, got the byte 0xFC"),
        (b"[" * 3000, r"card.yaml: not valid YAML: it is nested too deeply"),
        (CARD.encode() + b"    say: d\n", r"card.yaml, line 8: not valid YAML: the key 'say' comes twice"),
        (b"title: one\n" + CARD.encode(), r"card.yaml, line 3: not valid YAML: the key 'title' comes twice"),
        (CARD.encode() + b"  oops\n- x\n", r"card.yaml, line \d+: not valid YAML: "),
        (b"kind: procedural\ntitle: a\x00b\n", r"card.yaml, line 2: not valid YAML: unacceptable character"),
        (b"kind: procedural\ntitle: 2026-13-45\n", r"card.yaml: not valid YAML: month must be in"),
        (CARD.replace("say: c", "say: '\u27e6 nobody \u27e7'").encode(), r"card.yaml, line 7, a.say: a slot .*nobody"),
        (CARD.replace("ask: b", "ask: '\u27e6 tag(1) \u27e7'").encode(), r"card.yaml, line 6, a.ask: a slot .*level"),
        (
            CARD.replace("say: c", "say: \"\u27e6 tag('strict', 'x') \u27e7\"").encode(),
            r"card.yaml, line 7, a.say: a slot .*family:name",
        ),
        (CARD.replace("ask: b", "ask: ' '").encode(), r"card.yaml, line 6, a: instruction: "),
        (CARD.replace("say: c", "say: '{{ name }}'").encode(), r"card.yaml, line 7, procedural-card-a: placeholder"),
        (
            CARD.replace("say: c", 'say: "```python\\ndef f(:\\n```"').encode(),
            r"card.yaml, line 7, procedural-card-a: .*SyntaxError",
        ),
        (
            CARD.replace("say: c", 'say: "```python\\nx = 1\\n```"\n    run: assert x == 2').encode(),
            r"card.yaml, line 8, procedural-card-a: run: AssertionError",
        ),
        (
            (CARD + "  - id: b\n    ask: d\n    say: c\n").encode(),
            r"card.yaml, line 6, .*-a and card.yaml, line 9, .*-b: the answers are 1.00 alike",
        ),
    ],
)
def test_a_broken_card_is_refused_with_file_line_and_reason(tmp_path: Path, content: bytes, complaint: str) -> None:
    path = tmp_path / "procedural" / "card.yaml"
    path.parent.mkdir()
    path.write_bytes(content)
    problems = check_lessons([path])
    assert len(problems) == 1 and re.search(complaint, problems[0], re.DOTALL), problems


def test_a_good_card_has_no_complaints(tmp_path: Path) -> None:
    path = tmp_path / "procedural" / "card.yaml"
    path.parent.mkdir()
    path.write_text("\ufeff" + CARD, encoding="utf-8")
    assert check_lessons([path]) == [] and is_lesson(path)
    with pytest.raises(InputError, match=r"nowhere\.yaml cannot be read: No such file"):
        is_lesson(tmp_path / "nowhere.yaml")
