"""The core dataset: what is committed is what the cards make, it reaches its bars, and its code does what it says.

.venv/bin/python -P -m pytest tests/test_core.py
"""

import json
from collections import Counter
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path

import pytest

from tools.data.code import blocks, code_errors, run_after
from tools.data.core import ALL, COUNTS, TOGETHER, differences, executed, report_of, short_of, split_core, use
from tools.data.datasets import read_split
from tools.data.examples import Example, read_examples
from tools.data.lessons import Lesson, check_lessons, read_lesson
from tools.data.meanings import several_meanings, stated
from tools.data.measures import BARS, measure, missed, phrasing
from tools.data.similar import find_alike
from tools.data.validate import row_errors
from tools.errors import InputError
from tools.evaluation.probes import read_suite, refuse_leaks, suite_names
from tools.export.gate import probes_of
from tools.files import read_json
from tools.policy.levels import POLICIES, RULE_FAMILIES, level_of
from tools.policy.markup import Call, find_calls
from tools.settings import shipped_data
from tools.workspace import Workspace

CORE = shipped_data() / "core"
PARSED = {"python", "json", "yaml", "typescript", "tsx", "go", "rust", "sql", "shell"}
SHOWN = {"", "markdown", "css", "html", "diff", "toml", "ini", "dockerfile"}  # blocks that no parser here reads


@pytest.fixture(scope="module")
def core() -> list[Example]:
    return [*read_examples(CORE / "train.jsonl"), *read_examples(CORE / "valid.jsonl")]


def lessons() -> list[tuple[str, Lesson]]:
    paths = sorted((shipped_data() / "cards").glob("*/*.yaml"))
    return [(f"{p.parent.name}/{p.stem}", read_lesson(p)) for p in paths if p.stem != "forty-two"]


@pytest.mark.slow
def test_what_is_committed_is_what_the_cards_make() -> None:
    assert differences(CORE) == []


def test_every_kind_is_there_in_the_number_that_is_wanted(core: list[Example]) -> None:
    counts = Counter(row.kind for row in core)
    for kind, (least, most) in COUNTS.items():
        assert least <= (counts[kind] if kind in counts else len(core)) <= most, kind
    assert COUNTS["procedural"] == (600, 1000) and COUNTS[ALL] == (1700, 3500) and set(counts) | {ALL} == set(COUNTS)
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


def test_the_figures_of_the_data_card_are_those_that_validation_gives() -> None:
    manifest, page = read_json(CORE / "dataset.json"), (CORE / "README.md").read_text()
    report = report_of(read_examples(CORE / "train.jsonl"), read_examples(CORE / "valid.jsonl"))
    assert report.ok and report.contradictions == [] and report.statistics["duplicate_rows"]["exact"] == 0
    report.statistics["gzip_ratio"] = round(report.statistics["gzip_ratio"], 1)
    assert json.loads(json.dumps(report.statistics)) == manifest["statistics"]
    lengths = report.statistics["output_characters"]
    assert f"| output | {lengths['min']} | {lengths['median']} | {lengths['p95']} | {lengths['max']} |" in page
    assert all(f"| {name} | {value:g} |" in page for name, value in manifest["figures"].items())


@pytest.mark.slow
def test_each_bar_that_is_missed_is_named() -> None:
    manifest = read_json(CORE / "dataset.json")
    report = report_of(read_examples(CORE / "train.jsonl"), read_examples(CORE / "valid.jsonl"))
    rows = read_examples(CORE / "valid.jsonl")
    assert short_of(manifest, report, [*read_examples(CORE / "train.jsonl"), *rows]) == []
    other = rows[0].model_copy(update={"id": "other", "output": "{{ name }} says something else."})
    manifest |= {"kinds": {**manifest["kinds"], "oodatcaa": 9}, "rows": 4000, "executed_rows": 99}
    problems = "; ".join(short_of(manifest, report_of(rows, [other]), rows))
    assert "oodatcaa has 9 rows" in problems and "all kinds together has 4000" in problems
    assert "99 rows are executed" in problems and "placeholder left in" in problems and "differently" in problems


def test_every_row_is_valid_and_every_block_of_code_parses(core: list[Example]) -> None:
    problems = [(row.id, e.message) for row in core for e in row_errors(0, row)]
    problems += [(row.id, error) for row in core for error in code_errors(row.text)]
    assert problems == []
    languages = Counter(b.language for row in core for b in blocks(row.text) if b.language in PARSED)
    assert languages["python"] >= 200 and languages["typescript"] >= 100
    assert all(languages[name] >= 20 for name in ("go", "rust", "sql", "shell")), languages
    assert {b.language for row in core for b in blocks(row.text)} <= PARSED | SHOWN


def test_what_rests_on_security_or_business_rules_is_strict(core: list[Example]) -> None:
    loosened = [r.id for r in core if level_of(r.metadata.preservation_level, r.metadata.rule_compliance) == "strict"]
    assert loosened == [row.id for row in core if row.metadata.preservation_level == "strict"]


def test_a_term_has_one_meaning_in_all_cards_and_windows(core: list[Example]) -> None:
    statements = stated(core)
    assert several_meanings(statements) == []
    words = {one.word for one in statements}
    assert {"soft hold", "42", "forty-two", "business:rounding", "net"} <= words and len(words) > 150


@pytest.mark.parametrize(
    ("word", "meaning", "complaint"),
    [
        ("soft hold", "a reservation of 20 minutes", "'soft hold' has 2 meanings"),
        ("Soft Hold", "A reservation that lapses by itself after `15` minutes.", ""),
        ("business:rounding", "Tax is rounded on the total.", "'business:rounding' has 2 meanings"),
        ("rule:not_in_the_guide", "one thing", "'rule:not_in_the_guide' has 2 meanings"),
        ("crate", "one thing", "'crate' has 2 meanings"),
        ("pallet", "one thing", ""),
    ],
)
def test_a_second_meaning_is_named_where_a_word_may_have_but_one(word: str, meaning: str, complaint: str) -> None:
    def window(card: str, **words: str) -> Example:
        output = {"content": "a", "context_window": {"knowledge_updates": words}}
        return Example(kind="context_window", instruction="a", output=output, provenance={"card": card})

    others = [window("depot", crate="another thing"), window("elsewhere", pallet="another thing")]
    others.append(window("elsewhere", **{"rule:not_in_the_guide": "another thing"}))
    problems = several_meanings(stated([*others, window("depot", **{word: meaning})]))
    assert len(problems) == bool(complaint) and complaint in "".join(problems)


@pytest.mark.slow
def test_what_rows_claim_of_their_code_is_executed(core: list[Example]) -> None:
    checks = executed()
    assert len({row.id for row, _ in checks} & {row.id for row in core}) == len(checks) >= 100
    with ThreadPoolExecutor(2) as pool:
        failures = list(pool.map(lambda check: run_after(check[0].text, check[1]), checks))
    assert [(row.id, failure) for (row, _), failure in zip(checks, failures, strict=True) if failure] == []


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
    policies = Counter(row.metadata.modification_policy for row in tagged)
    assert set(policies) == set(POLICIES) and min(policies.values()) >= 10, policies
    for kind in ("rule_compliance", "metadata_tagging"):
        rules = [tag for row in core if row.kind == kind for tag in row.metadata.rule_compliance]
        families = Counter(tag.partition(":")[0] for tag in rules)
        assert set(families) == set(RULE_FAMILIES) and min(families.values()) >= 10, (kind, families)


def test_the_data_card_counts_languages_by_what_answers_hold_and_names_the_largest_cards(core: list[Example]) -> None:
    manifest, page = read_json(CORE / "dataset.json"), (CORE / "README.md").read_text()
    with_python = [row for row in core if any(block.language == "python" for block in blocks(row.text))]
    counted = manifest["statistics"]["languages"]["python"]
    assert len(with_python) * 0.9 < counted < len(with_python) + 60, "and files that answers write"
    made = Counter(row.provenance.card for row in core if row.kind == "definition")
    card, rows = made.most_common(1)[0]
    share = rows / made.total()
    assert manifest["largest_cards"]["definition"] == {"card": card, "rows": rows, "share": round(share, 4)}
    assert f"| definition | {card} | {rows} | {100 * share:.1f} % |" in page


@pytest.mark.parametrize("name", suite_names())
def test_no_row_comes_near_a_held_out_probe(name: str, core: list[Example]) -> None:
    refuse_leaks(read_suite(name), [row.question for row in core])


def test_there_are_probes_and_controls_for_every_kind() -> None:
    for name in suite_names():
        kinds = Counter(probe.kind for probe in read_suite(name).probes)
        assert kinds["probe"] >= 18 and kinds["control"] >= 8, (name, kinds)


@pytest.mark.slow
def test_the_core_dataset_becomes_one_of_the_workspace_with_its_own_split(workspace: Workspace) -> None:
    made = use(workspace)
    assert use(workspace) == made, "a second time changes nothing"
    train, valid, manifest = read_split(workspace, "core")
    assert (len(train), len(valid)) == (manifest.train_rows, manifest.valid_rows)
    shipped = shipped_data() / "core"
    for part in ("train.jsonl", "valid.jsonl"):
        assert (workspace.dataset("core") / part).read_bytes() == (shipped / part).read_bytes()
    assert probes_of(manifest) == "core"


def test_the_core_probes_are_all_sets_in_one_by_kind() -> None:
    suite = read_suite("core")
    assert {probe.family for probe in suite.probes} == {*suite_names()} - {"forty-two", "forty-two-second"}
    assert len({probe.id for probe in suite.probes}) == len(suite.probes) >= 270


def test_twins_stay_on_one_side_of_the_split(core: list[Example]) -> None:
    """Twins of forty rows, all of another card and template: only their texts can tell that they belong together."""
    rows = core[::5]
    twins: dict[str, Example] = {}
    for number, row in enumerate([r for r in rows if len(r.instruction) > 80 and len(r.answer) > 200][:40]):
        # half of them ask the same in nearly the same words, half give nearly the same answer
        change = {"instruction": f"{row.instruction} Please.", "output": f"Number {number}"}
        if number % 2:
            change = {"instruction": f"Question {number}", "input": "", "output": f"{row.answer} That is all."}
        provenance = row.provenance.model_copy(update={"card": f"twins/{number}", "template": f"twin-{number}"})
        twins[row.id] = row.model_copy(update={**change, "id": f"twin-{number}", "provenance": provenance})
    everything = [*rows, *twins.values()]
    train, valid = split_core(everything)
    assert len(twins) == 40 and len(train) + len(valid) == len(everything)
    side = {row.id: name for name, part in (("train", train), ("valid", valid)) for row in part}
    assert {id: side[twin.id] for id, twin in twins.items()} == {id: side[id] for id in twins}
    assert {side[id] for id in twins} == {"train", "valid"}, "twins stand on both sides, else this says nothing"
    assert not {phrasing(row) for row in train} & {phrasing(row) for row in valid}
    for texts in ([r.question for r in everything], [r.answer for r in everything]):
        for one, other, _ in find_alike(texts, TOGETHER):
            assert side[everything[one].id] == side[everything[other].id]


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
