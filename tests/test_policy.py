"""Policies: levels as data, tags read back as written, the checker, rules, and what clients are told.

.venv/bin/python -P -m pytest tests/test_policy.py
"""

import importlib.util
import json
import re
import subprocess
import sys
from pathlib import Path
from typing import Any, get_args

import anyio
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from mcp import Client

from server import names
from server.app import build_server
from server.cli.client_rules import CLIENTS, client_rules
from tools import health
from tools.data.cards import read_phrasings
from tools.data.checks import row_errors
from tools.data.generate import generate
from tools.data.rules import rule_rows
from tools.data.terms import Rule
from tools.data.validate import validate_dataset
from tools.errors import InputError, LimitError
from tools.learning.rows import subject_rows
from tools.learning.subjects import subject
from tools.memory.embedder import embed
from tools.memory.entries import Entry
from tools.policy.levels import (
    ALWAYS_STRICT,
    LEVELS,
    POLICIES,
    RULE_FAMILIES,
    ModificationPolicy,
    PreservationLevel,
    level_of,
)
from tools.policy.pairs import judge, matrix, read_pairs
from tools.policy.preserve import MAX_TEXT, Verdict, check_preservation
from tools.policy.rules import read_rules, rules_file, shipped_rules
from tools.policy.tags import Tag, find_tags, render
from tools.workspace import Workspace

ROOT = Path(__file__).resolve().parent.parent
STRICT, FLEXIBLE = render("strict", ["concept:one_meaning"]), render("flexible", [])


def kinds(verdict: Verdict) -> set[str]:
    return {violation.kind for violation in verdict.violations}


# --- levels, policies, families


def test_every_level_policy_and_family_is_defined_once_and_for_all_of_its_names() -> None:
    assert tuple(LEVELS) == get_args(PreservationLevel) and tuple(POLICIES) == get_args(ModificationPolicy)
    assert {policy for level in LEVELS.values() for policy in level.policies} == set(POLICIES)
    assert level_of("flexible", ["rule:naming", "security:no_secrets"]) == "strict"
    phrases = [level.others_may for level in LEVELS.values()] + list(RULE_FAMILIES.values())
    phrases += [family + mark for family in ALWAYS_STRICT for mark in ("", ":")]
    for path in [*(ROOT / "tools").rglob("*.py"), *(ROOT / "server").rglob("*.py")]:
        if path.name != "levels.py":
            text = path.read_text(encoding="utf-8")
            assert not [phrase for phrase in phrases if f'"{phrase}"' in text], f"{path} has a second copy"


@pytest.mark.slow
def test_whatever_makes_rows_keeps_what_rests_on_security_or_business_strict() -> None:
    def entry(kind: str, text: str, *tags: str) -> Entry:
        then = "2025-01-01T00:00:00Z"
        return Entry.model_validate(
            {"id": "mem-0", "text": text, "kind": kind, "tags": tags, "level": "flexible", "created": then}
            | {"updated": then}
        )

    phrasings = read_phrasings()
    entries = [
        entry("definition", "soft hold: a reservation that lapses by itself", "business:holds"),
        entry("rule", "Tokens come from the secret store", "security:tokens"),
        entry("definition", "paper cut: a small flaw that many meet"),
    ]
    made = [row for one in entries for row in subject_rows(subject(one, phrasings), 20, seed=1)]
    made += rule_rows([Rule(tag="business:cents", rule="Amounts are whole cents")], seed=1)
    levels = {(tag, row.metadata.preservation_level) for row in made for tag in row.metadata.rule_compliance}
    assert levels == {
        ("business:holds", "strict"),
        ("security:tokens", "strict"),
        ("business:cents", "strict"),
        ("definition:domain_term", "flexible"),
    }
    assert [error for row in made for error in row_errors(0, row)] == []


# --- tags

RULES = st.lists(
    st.from_regex(rf"(?:{'|'.join(RULE_FAMILIES)}):[a-z0-9][a-z0-9_.-]{{0,20}}", fullmatch=True), max_size=4
)
LEVEL = st.sampled_from(list(LEVELS))
PROSE = st.text(st.characters(exclude_characters="`~", exclude_categories=["Cs"]), max_size=200)
BITS = [
    "```", "```python\n", "~~~", "`", "``", "<!--", "-->", "<!-- METADATA", "METADATA:", STRICT, FLEXIBLE, "\n", "\r\n",
    '"', "'", "[", "]", "{", "(", "#", "//", "/*", "*/", "-- ", "x = 1", '"""', "preservation_level=strict", "\\",
]  # fmt: skip
HOSTILE = st.lists(st.sampled_from(BITS), max_size=30).map("".join)
COMMENTS = {
    "python": "# {}", "go": "// {}", "sql": "-- {}", "typescript": "/* {} */", "rust": "// {}", "shell": "# {}",
    "css": "/* {} */", "yaml": "# {}",
}  # fmt: skip


@given(PROSE, LEVEL, RULES)
@settings(max_examples=80, deadline=None)
def test_a_tag_that_is_written_after_prose_is_read_back(prose: str, level: Any, rules: list[str]) -> None:
    if "METADATA" not in prose:
        text = f"{prose}\n{render(level, rules)}\n"
        (tag,) = find_tags(text)
        assert tag == Tag(level, tuple(rules)) and text[tag.start : tag.end] == render(level, rules)


@given(LEVEL, RULES, st.sampled_from(list(COMMENTS)))
@settings(max_examples=40, deadline=None)
def test_a_tag_in_a_comment_is_read_back_in_code_and_in_fenced_code(
    level: Any, rules: list[str], language: str
) -> None:
    code = f"x\n{COMMENTS[language].format(render(level, rules))}\n"
    assert find_tags(code, language) == [Tag(level, tuple(rules))]
    (tag,) = find_tags(f"So:\n\n```{language}\n{code}```\n")
    assert tag == Tag(level, tuple(rules)) and tag.fenced


@given(HOSTILE)
@settings(max_examples=120, deadline=None)
def test_hostile_text_gives_tags_or_an_error_that_says_what_to_do(text: str) -> None:
    for language in ("", "python", "typescript", "css"):
        try:
            for tag in find_tags(text, language):
                assert text[tag.start :].startswith("<!-- METADATA")
        except InputError as error:
            assert error.next_step


@given(HOSTILE)
@settings(max_examples=80, deadline=None)
def test_no_change_of_hostile_strict_text_is_let_through(text: str) -> None:
    original = f"{text}\n"
    try:
        refused = check_preservation(original, original + "x", level="strict")
    except InputError:
        return  # a broken tag, which is said
    assert not refused.allowed and check_preservation(original, original, level="strict").allowed


@pytest.mark.parametrize(
    ("shown", "language"),
    [
        (f"`{FLEXIBLE}`\n\n", ""),
        (f"``a ` {FLEXIBLE} b``\n\n", ""),
        (f"```\n{FLEXIBLE}\n```\n\n", ""),
        (f"~~~~html\n{FLEXIBLE}\n~~~\n~~~~\n\n", ""),
        (f"```go\n// {FLEXIBLE}\n```\n\n", ""),
        (f"<!-- {FLEXIBLE} -->\n", ""),
        (f"x = '''\n# {FLEXIBLE}\n'''\n# ", "python"),
        (f"const x = `\n// {FLEXIBLE}\n`;\n// ", "typescript"),
        (f"select '\n-- {FLEXIBLE}\n';\n-- ", "sql"),
    ],
)
def test_a_tag_that_is_shown_is_no_tag_of_the_text(shown: str, language: str) -> None:
    assert find_tags(f"{shown}{STRICT}\n", language) == [Tag("strict", ("concept:one_meaning",))]


def test_a_tag_in_fenced_code_never_loosens_the_text_around_it() -> None:
    text = f"Never do this.\n\n```python\nx = 1\n# {FLEXIBLE}\n```\n\nNever.\n{STRICT}\n"
    assert not check_preservation(text, text.replace("Never do", "Never  do")).allowed
    assert not check_preservation(text, text.replace("x = 1", "x=1")).allowed


def test_a_tag_in_fenced_code_makes_that_code_stricter() -> None:
    tag = render("moderate", ["business:rounding"])
    text = f"Here it is.\n\n```python\nx = 1\n# {tag}\ny = 2\n```\n\nDone.\n{render('moderate', [])}\n"
    refused = check_preservation(text, text.replace("x = 1", "x=1"))
    assert [v.level for v in refused.violations] == ["strict"] and refused.violations[0].tag == tag
    assert check_preservation(text, text.replace("y = 2", "y=2").replace("Here it", "Here  it")).allowed


def test_huge_hostile_text_is_read_in_bounded_time_or_refused() -> None:
    for text in ("<!-- METADATA" * 7000, ("`a``b" * 18_000) + STRICT, "```\n" * 20_000 + STRICT, (STRICT + "\n") * 900):
        try:
            find_tags(text)
        except InputError:
            continue
    with pytest.raises(LimitError, match="at most 100000"):
        check_preservation("x" * (MAX_TEXT + 1), "y", level="strict")
    deep = f"x = {'[' * 3000}{']' * 3000}\n"
    assert check_preservation(deep, deep.replace(" = ", "="), level="moderate", language="python").allowed


def test_what_is_no_rule_or_level_is_not_written() -> None:
    for rules in (["nonsense"], ['rule:x"] -->'], ["rule:"], ["policy:x"]):
        with pytest.raises(InputError, match="family"):
            render("strict", rules)
    with pytest.raises(InputError, match="the levels are"):
        render("loose", [])  # type: ignore[arg-type]


# --- the checker


@pytest.fixture(scope="module")
def results() -> Any:
    return judge(read_pairs(), embed)


@pytest.mark.slow
def test_there_are_enough_pairs_of_each_language_and_level(results: Any) -> None:
    counted = matrix(results)
    assert len(results) >= 200
    assert {"python", "typescript", "go", "sql", "prose"} <= set(counted["moderate"])
    for level in LEVELS:
        counts = counted[level]["all"]
        assert counts.passed + counts.false_alarms >= 5 and counts.caught + counts.missed >= 20


@pytest.mark.parametrize("level", ["strict", "moderate"])
def test_labelled_pairs_are_told_apart(results: Any, level: str) -> None:
    for language, counts in matrix(results)[level].items():
        assert counts.precision >= 0.95 and counts.recall >= 0.95, f"{level} {language}: {counts}"


def test_code_that_does_another_job_is_told_by_its_meaning_alone_and_refactorings_are_not(results: Any) -> None:
    code = [r for r in results if r.pair.counts_for == "flexible" and r.pair.language != "prose"]
    assert not [f"{r.pair.id}: {r.pair.why}" for r in code if not r.right]
    by_meaning = [r for r in code if kinds(r.verdict) == {"meaning"}]
    assert len(by_meaning) >= 15 and {r.pair.language for r in by_meaning} == {"python", "typescript", "go", "sql"}
    assert sum(r.pair.allowed for r in code) >= 20


def test_the_documents_tables_are_what_the_benchmark_prints(results: Any) -> None:
    spec = importlib.util.spec_from_file_location("policy_benchmark", ROOT / "benchmarks" / "policy.py")
    assert spec and spec.loader
    benchmark = importlib.util.module_from_spec(spec)
    spec.loader.exec_module(benchmark)
    text = (ROOT / "docs" / "policies.md").read_text(encoding="utf-8")
    shown = text.split(benchmark.BEGIN)[1].split(benchmark.END)[0].strip()
    command = ".venv/bin/python -P benchmarks/policy.py --write docs/policies.md"
    assert shown == benchmark.tables(benchmark.summary(results)), f"run {command}"


def _formatted(source: str, *options: str) -> str:
    command = [Path(sys.executable).parent / "ruff", "format", "--isolated", *options, "-"]
    return subprocess.run(command, input=source, capture_output=True, text=True, check=True).stdout


@pytest.mark.slow
@pytest.mark.parametrize("name", ["errors.py", "syntax.py", "workspace.py", "data/examples.py", "policy/canonical.py"])
def test_what_a_formatter_does_to_real_code_is_allowed_and_a_changed_token_is_not(name: str) -> None:
    source = (ROOT / "tools" / name).read_text(encoding="utf-8")
    narrow = _formatted(source, "--line-length", "60", "--config", "format.quote-style='single'")
    wide = _formatted(narrow, "--line-length", "200", "--config", "format.skip-magic-trailing-comma=true")
    for text in (narrow, wide):
        verdict = check_preservation(source, text, "moderate", "python")
        assert verdict.allowed, verdict.violations[0]
    for old, new in ((" and ", " or "), (" not ", " "), ("return ", "yield "), ("[0]", "[1]"), (" == ", " != ")):
        for place in [m.start() for m in re.finditer(re.escape(old), source)][:2]:
            changed = source[:place] + new + source[place + len(old) :]
            comment = source[source.rfind("\n", 0, place) : place].count("#")
            assert comment or not check_preservation(source, changed, "moderate", "python").allowed, (old, place)


def test_a_violation_names_its_place_its_diff_and_the_tag_that_forbids_it() -> None:
    tag = render("strict", ["definition:soft_hold"])
    original = f"A = 1\nB = 2\n# {tag}\n\nC = 3\n# {render('moderate', ['rule:naming'])}\n"
    verdict = check_preservation(original, original.replace("B = 2", "B = 3"), language="python")
    (found,) = verdict.violations
    assert (found.line, found.column, found.level, found.kind) == (2, 1, "strict", "content")
    assert found.tag == tag and found.diff == "-B = 2\n+B = 3"
    assert verdict.parts == 2 and verdict.level == "strict"
    loose = check_preservation(original, original.replace("C = 3", "C  =  4"), language="python")
    assert [(v.line, v.level, v.kind) for v in loose.violations] == [(5, "moderate", "structure")]


def test_line_ends_are_said_apart_from_content() -> None:
    ends = check_preservation("a\nb\n", "a\r\nb\r\n", level="strict")
    assert kinds(ends) == {"line_endings"} and "LF" in ends.violations[0].message
    assert kinds(check_preservation("a\nb\n", "a\r\nc\r\n", level="strict")) == {"content", "line_endings"}
    assert check_preservation("a = 1\nb = 2\n", "a = 1\r\nb = 2\r\n", "moderate", "python").allowed


def test_a_given_level_takes_the_place_of_the_tags_but_not_for_security_and_business() -> None:
    plain, secure = render("strict", ["rule:naming"]), render("strict", ["security:no_secrets"])
    allowed = check_preservation(f"x = 1\n# {plain}\n", f"x=1\n# {plain}\n", "moderate", "python")
    assert allowed.allowed and "1 of 1 tags say otherwise" in allowed.notes[0]
    refused = check_preservation(f"x = 1\n# {secure}\n", f"x=1\n# {secure}\n", "moderate", "python")
    assert not refused.allowed and refused.level == "strict"


def test_text_without_tag_or_level_is_refused_with_what_to_pass() -> None:
    with pytest.raises(InputError, match="no metadata tag"):
        check_preservation("x = 1\n", "x = 2\n")
    with pytest.raises(InputError, match="no embedder"):
        check_preservation("One thing.", "Another thing.", level="flexible")


@pytest.mark.parametrize(
    "change",
    [
        lambda text: text.replace("strict", "flexible"),
        lambda text: text.replace(f"# {STRICT}\n", ""),
        lambda text: text.replace(f"# {STRICT}", f"# <!-- {STRICT} -->"),
        lambda text: text.replace(f"# {STRICT}", f"s = '{STRICT}'"),
        lambda text: text + f"y = 1\n# {FLEXIBLE}\n",
        lambda text: f"y = 1\n# {FLEXIBLE}\n" + text,
        lambda text: text.replace("one_meaning", "other"),
        lambda text: text.replace(" -->", ""),
        lambda text: text + "y = 1\n",
    ],
)
def test_tags_and_what_they_cover_cannot_be_talked_away(change: Any) -> None:
    original = f"x = 1\n# {STRICT}\n"
    assert not check_preservation(original, change(original), language="python").allowed


def test_a_part_that_stays_word_for_word_may_not_be_put_under_a_new_condition() -> None:
    original = f"function f() {{\n  a();\n// {FLEXIBLE}\n  b();\n// {render('moderate', [])}\n}}\n"
    changed = original.replace("a();", "if (a()) {").replace("\n}\n", "\n}}\n")
    verdict = check_preservation(original, changed, language="typescript", embed=embed)
    assert "structure" in kinds(verdict)


@pytest.mark.parametrize(
    ("language", "original", "modified", "allowed"),
    [
        ("rust", "use b::c;\nuse a::d;\nfn f() { 1_0 }\n", "use a::d;\nuse b::c;\n\nfn f() {\n 10\n}\n", True),
        ("rust", "fn f() { (self.g)() }", "fn f() { self.g() }", False),
        ("shell", "if a; then b; fi\n", "if a\nthen\n  b\nfi\n", True),
        ("shell", 'echo "$a  $b"\n', 'echo "$a $b"\n', False),
        ("json", '{"a": 1, "b": [1, 2]}', '{\n  "a": 1,\n  "b": [1, 2]\n}', True),
        ("json", '{"a": 1, "b": 2}', '{"b": 2, "a": 1}', False),
        ("yaml", "a: 'x'  # why\nb: [1, 2]\n", 'a: "x"\nb:\n- 1\n- 2\n', True),
        ("yaml", "a: 'yes'\n", "a: yes\n", False),
        ("javascript", "module.exports = { a: 1 }", "module.exports = { a: 1 };", True),
        ("css", "a { b: c }\n", "a { b: c }   \n\n", True),
        ("css", "a { b: c }\n", "a { b: d }\n", False),
        ("", "def f(x):\n    return x\n", "def f( x ):\n    return (x)\n", True),
        ("python", "def f(:\n    x = 1\n", "def f(:\n    x = 2\n", False),
        ("sql", "MERGE INTO a WHEN x THEN FROBNICATE", "merge into a\nwhen x then FROBNICATE", True),
    ],
)  # fmt: skip
def test_other_languages_are_compared_as_what_they_are(
    language: str, original: str, modified: str, allowed: bool
) -> None:
    assert check_preservation(original, modified, "moderate", language).allowed is allowed


# --- rules


def test_the_cards_guide_says_the_rules_that_ship() -> None:
    text = (ROOT / "datasets" / "cards" / "README.md").read_text(encoding="utf-8")
    assert dict(re.findall(r"^\| `([a-z]+:[a-z0-9_.-]+)` \| (.*) \|$", text, re.MULTILINE)) == shipped_rules()


def test_own_rules_stand_beside_the_shipped_ones_and_conflicts_are_said(workspace: Workspace) -> None:
    assert read_rules(workspace).own == {}
    path = rules_file(workspace)
    path.parent.mkdir(parents=True)
    path.write_text(
        '"rule:no_print": Log, never print.\n"business:paid_order": Paid is when it was authorized.\n'
        '"pattern:domain-errors": Errors of the domain.\n'
    )
    book = read_rules(workspace)
    assert book.own == {"rule:no_print": "Log, never print."}
    assert [c.rule for c in book.conflicts] == ["business:paid_order", "pattern:domain-errors"]
    assert "captured" in book.meanings()["business:paid_order"]


@pytest.mark.parametrize(
    "text", ["- a\n", "nonsense: x\n", '"rule:x": 3\n', '"rule:x": ""\n', '"rule:x": [\n', '"rule:x": a\n"rule:x": b\n']
)
def test_a_broken_file_of_own_rules_is_refused_with_its_path(workspace: Workspace, text: str) -> None:
    rules_file(workspace).parent.mkdir(parents=True)
    rules_file(workspace).write_text(text)
    with pytest.raises(InputError):
        read_rules(workspace)


def test_a_tag_that_differs_from_a_known_one_only_by_its_signs_is_warned_of(workspace: Workspace) -> None:
    taught = [Rule(tag=tag, rule="Log what happened.") for tag in ("rule:no.print", "rule:small-changes", "rule:logs")]
    generate(workspace, rules=taught, count=40, name="logs")
    report, _ = validate_dataset(workspace, "logs")
    (warning,) = [w for w in report.warnings if "tag" in w]
    assert "'rule:small-changes' has no meaning, and 'rule:small_changes' has one" in warning
    rules_file(workspace).write_text('"rule:no_print": Log, never print.\n"rule:logs": One line an event.\n')
    warnings = validate_dataset(workspace, "logs")[0].warnings
    assert [tag for tag in ("no.print", "small-changes", "logs") if f"tag 'rule:{tag}'" in " ".join(warnings)] == [
        "no.print",
        "small-changes",
    ]
    rules_file(workspace).write_text("- a\n")
    report, _ = validate_dataset(workspace, "logs")
    assert report.ok and any("rules.yaml" in warning for warning in report.warnings)


def test_doctor_looks_at_your_own_rules_and_says_what_does_not_count(workspace: Workspace) -> None:
    assert health.rules(workspace) == []
    path = rules_file(workspace)
    path.parent.mkdir(parents=True)
    path.write_text('"rule:no_print": Log, never print.\n"business:paid_order": Paid is when it was authorized.\n')
    conflict, good = health.rules(workspace)
    assert (conflict.name, conflict.status) == ("rule business:paid_order", "warning") and str(path) in conflict.mend
    assert good.status == "ok" and good.value.startswith("1 of your own")
    path.write_text('"rules:no_print": x\n')
    (broken,) = health.rules(workspace)
    assert broken.status == "missing" and "family" in broken.value and broken.mend
    assert "rules" in {finding.name for look in health.looks(workspace) for finding in look()}


def test_a_shell_completes_the_tags_that_ship_and_your_own(workspace: Workspace) -> None:
    assert names.tags("rule:no_") == ["rule:no_generic_errors"]
    rules_file(workspace).parent.mkdir(parents=True)
    rules_file(workspace).write_text('"rule:no_print": Log, never print.\n')
    assert names.tags("rule:no_") == ["rule:no_generic_errors", "rule:no_print"]
    rules_file(workspace).write_text("- a\n")
    assert names.tags("rule:no_") == ["rule:no_generic_errors"]


# --- through the doors


def test_an_agent_checks_and_reads_the_policies(workspace: Workspace) -> None:
    async def run() -> None:
        async with Client(build_server()) as client:

            async def read(uri: str) -> Any:
                return json.loads((await client.read_resource(uri)).contents[0].text)  # type: ignore[union-attr]

            rules = await read("policy://rules")
            assert rules["families"] == RULE_FAMILIES and rules["shipped"] == shipped_rules()
            assert set(await read("policy://modifications")) == set(POLICIES)
            asked = {"original": f"x = 1\n# {STRICT}\n", "modified": f"x = 2\n# {STRICT}\n", "language": "python"}
            result = await client.call_tool("check_preservation", asked)
            value = dict(result.structured_content or {})
            assert not result.is_error and not value["allowed"] and value["violations"][0]["tag"] == STRICT
            assert "NOT allowed: 1 violation." in result.content[0].text  # type: ignore[union-attr]
            refused = await client.call_tool("check_preservation", {"original": "a", "modified": "b"})
            assert refused.is_error and "level='moderate'" in refused.content[0].text  # type: ignore[union-attr]

    anyio.run(run)


def looptune(*words: str, status: int = 0) -> str:
    done = subprocess.run(
        [sys.executable, "-P", "-m", "server.cli", *words], capture_output=True, text=True, timeout=120
    )
    assert done.returncode == status, done.stderr + done.stdout
    return done.stdout if status < 2 else done.stderr


@pytest.mark.slow
def test_the_command_line_checks_files_byte_for_byte(tmp_path: Path) -> None:
    one, other = tmp_path / "one.py", tmp_path / "two.py"
    one.write_bytes(f"x = 1\n# {STRICT}\n".encode())
    other.write_bytes(f"x = 1\r\n# {STRICT}\n".encode())
    found = json.loads(looptune("check", str(one), str(other), "--json", status=1))
    assert [v["kind"] for v in found["violations"]] == ["line_endings"] and found["language"] == "python"
    assert looptune("check", str(one), str(one)).strip() == "allowed"
    assert "allowed" in looptune("check", str(one), str(other), "--level", "moderate")
    assert "Expected a level" in looptune("check", str(one), str(other), "--level", "loose", status=2)


@pytest.mark.parametrize("client", CLIENTS)
def test_the_client_rules_name_every_level_the_checker_and_the_context_window(client: Any, tmp_path: Path) -> None:
    text = client_rules(client)
    for word in (*LEVELS, "check_preservation(", "context_window", "security:*", "policy://rules"):
        assert word in text
    assert text.startswith("---\n") == (client == "cursor")


@pytest.mark.slow
def test_the_client_rules_are_written_once_and_over_a_file_only_when_told(tmp_path: Path) -> None:
    path = tmp_path / "rules" / "looptune.mdc"
    looptune("rules", "cursor", "--write", str(path))
    path.write_text("mine")
    looptune("rules", "cursor", "--write", str(path), status=1)
    assert path.read_text() == "mine"
    looptune("rules", "cursor", "--write", str(path), "--force")
    assert path.read_text() == client_rules("cursor")
    assert "no client named" in looptune("rules", "emacs", status=2)
