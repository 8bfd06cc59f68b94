"""Files that would take all time or memory, and lists whose rows are broken.

.venv/bin/python -P -m pytest tests/test_reading.py
"""

import json
import subprocess
import sys
from pathlib import Path
from typing import Any

import jsonschema
import pytest

from tools.data.examples import Example, parse_row
from tools.data.schema import row_schema
from tools.data.validate import validate_file
from tools.settings import shipped_data

MEGABYTES = 400  # that a line of 4 MB may cost beside what Python and its libraries take
JUDGE = """
import json, resource, sys
from pathlib import Path
from tools.data.examples import Example, parse_row
from tools.data.validate import validate_file

def peak():
    return resource.getrusage(resource.RUSAGE_SELF).ru_maxrss / (1e6 if sys.platform == "darwin" else 1e3)

folder = Path(sys.argv[1])
validate_file(folder / "small.jsonl")
before = peak()
if Path("/proc/self/statm").exists():
    held = int(Path("/proc/self/statm").read_text().split()[0]) * resource.getpagesize()
    resource.setrlimit(resource.RLIMIT_AS, (held + int(sys.argv[2]) * 2_000_000,) * 2)
errors = [[e.line, e.field, e.code] for e in validate_file(folder / "greedy.jsonl").errors]
print(json.dumps({"megabytes": peak() - before, "errors": errors}))
"""


@pytest.mark.slow
def test_lines_of_4_megabytes_cost_neither_minutes_nor_gigabytes(tmp_path: Path) -> None:
    good: dict[str, Any] = {"instruction": "a", "output": "b"}
    window = {"content": "c", "context_window": {"active_rules": [1] * 1_300_000}}
    keys = {f"key{i}": 0 for i in range(230_000)}
    lines = [
        json.dumps(keys)[:-1] + ', "key7": 1}',  # the second of a key comes last
        json.dumps(good | keys),
        json.dumps(good | {"metadata": keys}),
        json.dumps(good | {"history": [1] * 1_300_000}),
        json.dumps(good | {"history": [["q", "a"]] * 300_000}),
        json.dumps(good | {"metadata": {"rule_compliance": [1] * 1_300_000}}),
        json.dumps(good | {"metadata": {"rule_compliance": ["rule:a"] * 390_000}}),
        json.dumps({"instruction": "a", "output": window}),
        json.dumps({"messages": [{"role": "user", "content": "q"}, {"role": "assistant", "content": "a"}] * 45_000}),
    ]
    assert all(3_000_000 < len(line) < 4_000_000 for line in lines), [len(line) for line in lines]
    (tmp_path / "small.jsonl").write_text(json.dumps(good))
    (tmp_path / "greedy.jsonl").write_text("\n".join(lines))
    command = [sys.executable, "-P", "-c", JUDGE, str(tmp_path), str(MEGABYTES)]
    root = Path(__file__).resolve().parent.parent
    done = subprocess.run(command, capture_output=True, text=True, timeout=120, cwd=root)
    assert done.returncode == 0, done.stderr[-2000:]
    found = json.loads(done.stdout)
    assert found["errors"] == [
        [1, "", "json"],
        [2, "", "too_long"],
        [3, "metadata", "too_long"],
        [4, "history.0", "tuple_type"],
        [5, "history", "too_long"],
        [6, "metadata.rule_compliance.0", "string_type"],
        [7, "metadata.rule_compliance", "too_long"],
        [8, "output", "too_long"],
        [9, "history", "too_long"],
    ]
    assert found["megabytes"] < MEGABYTES


@pytest.mark.parametrize("field", ["id", "metadata.source", "provenance.card", "provenance.language"])
def test_a_name_that_is_too_long_is_refused_and_no_figure_holds_it(tmp_path: Path, field: str) -> None:
    part, _, name = field.rpartition(".")
    long = {name: "x" * 1_000_000}
    row = {"instruction": "a", "output": "b"} | ({part: long} if part else long)
    (tmp_path / "rows.jsonl").write_text(json.dumps(row))
    report = validate_file(tmp_path / "rows.jsonl")
    assert [(e.field, e.code) for e in report.errors] == [(field, "string_too_long")]
    assert len(report.model_dump_json()) < 10_000


def test_languages_are_counted_by_a_short_name(tmp_path: Path) -> None:
    rows = [{"instruction": f"q{i}", "output": f"```{i:0200}\nb\n```"} for i in range(20)]
    (tmp_path / "rows.jsonl").write_text("\n".join(map(json.dumps, rows)))
    assert validate_file(tmp_path / "rows.jsonl").statistics["languages"] == {"0" * 30: 20}


# public forms


@pytest.mark.parametrize(
    ("value", "expected"),
    [
        (
            {"instruction": "a", "input": "", "output": "b", "text": "Below is an instruction … a … b"},
            {"instruction": "a", "output": "b"},
        ),
        (
            {"instruction": "a", "input": None, "output": "b", "system": None, "history": None, "id": None},
            {"instruction": "a", "output": "b"},
        ),
        (
            {"conversations": [{"from": "human", "value": "a"}, {"from": "gpt", "value": "b"}], "system": "s"},
            {"system": "s", "instruction": "a", "output": "b"},
        ),
        (
            {
                "id": "x7",
                "conversations": [
                    {"from": "system", "value": "s"},
                    {"from": "user", "value": "a"},
                    {"from": "assistant", "value": "b"},
                    {"from": "human", "value": "c"},
                    {"from": "gpt", "value": "d"},
                ],
            },
            {"system": "s", "history": [("a", "b")], "instruction": "c", "output": "d"},
        ),
    ],
)
def test_rows_as_others_publish_them_are_read(value: Any, expected: Any) -> None:
    assert parse_row(value, 1) == Example.model_validate(expected)


@pytest.mark.parametrize(
    ("value", "field", "code"),
    [
        ({"instruction": "a", "output": None}, "output", "missing"),
        ({"conversations": "a"}, "conversations", "type"),
        ({"conversations": [5]}, "conversations.0", "type"),
        ({"conversations": [{"from": "human", "value": 5}]}, "conversations.0.value", "type"),
        ({"conversations": [{"from": "gpt", "value": "a"}]}, "conversations.0.from", "turns"),
        ({"conversations": [{"from": [], "value": "a"}]}, "conversations.0.from", "turns"),
        (
            {"conversations": [{"from": "human", "value": "a"}, {"from": "function_call", "value": "{}"}]},
            "conversations.1.from",
            "turns",
        ),
        ({"conversations": [{"from": "human", "value": "a"}], "system": 5}, "system", "type"),
    ],
)
def test_what_is_wrong_with_them_is_named_by_their_own_fields(value: Any, field: str, code: str) -> None:
    found = parse_row(value, 1)
    assert isinstance(found, list) and [(e.field, e.code) for e in found] == [(field, code)]


# the published form of a context window


def window(**changed: Any) -> dict[str, Any]:
    """A row with a whole window, and parts of it changed; `...` leaves a part out."""
    parts = {
        "system_prompt": "You review code.",
        "conversation_history": [{"role": "user", "content": "Hello."}],
        "active_rules": ["business:money_in_cents"],
        "project_context": "Python.",
        "role_expectations": "Name the line.",
        "knowledge_updates": {"soft hold": "a reservation"},
    } | changed
    output = {
        "content": parts.pop("content", "Use this."),
        "context_window": {name: part for name, part in parts.items() if part is not ...},
        "metadata": {"preservation_level": "strict", "rule_compliance": ["business:money_in_cents"]},
    }
    strict = {"preservation_level": "strict", "modification_policy": "preserve_exact"}
    metadata = {**strict, "rule_compliance": ["business:money_in_cents"]}
    return {"kind": "context_window", "instruction": "Set it up.", "output": output, "metadata": metadata}


PARTS = list(window()["output"]["context_window"])


@pytest.mark.parametrize(
    ("row", "field"),
    [
        (window(), ""),
        (window(conversation_history=[], knowledge_updates={}), ""),
        *((window(**{part: ...}), f"output.context_window.{part}") for part in PARTS),
        *((window(**{part: 5}), f"output.context_window.{part}") for part in PARTS),
        (window(system_prompt=""), "output.context_window.system_prompt"),
        (window(active_rules=[]), "output.context_window.active_rules"),
        (window(active_rules=["nonsense"]), "output.context_window.active_rules"),
        (window(content=" "), "output.content"),
        ({**window(), "output": {"anything": 1}}, "output.content"),
    ],
)
def test_the_published_schema_and_the_validator_agree_on_windows(
    tmp_path: Path, row: dict[str, Any], field: str
) -> None:
    (tmp_path / "rows.jsonl").write_text(json.dumps(row))
    errors = validate_file(tmp_path / "rows.jsonl").errors
    assert ([error.field for error in errors] or [""])[0] == field
    fits = jsonschema.Draft202012Validator(row_schema()).is_valid(row)
    assert fits == (not errors)


def test_the_published_schema_fits_every_window_of_the_core_dataset() -> None:
    judge = jsonschema.Draft202012Validator(row_schema())
    lines = (shipped_data() / "core" / "valid.jsonl").read_text().splitlines()
    rows = [row for line in lines if isinstance((row := json.loads(line))["output"], dict)]
    assert len(rows) > 20 and all(judge.is_valid(row) for row in rows)


# lists

GOOD = [{"instruction": f"question {i}", "output": "b"} for i in range(4)]
ONE, TWO, THREE, FOUR = (json.dumps(row) for row in GOOD)


@pytest.mark.parametrize(
    ("text", "rows", "line", "message"),
    [
        # on one line
        (f'[{ONE}, {{"a": 1, "a": 2}}, {TWO}]', 2, 2, "stands twice"),
        (f'[{ONE}, {{"a": NaN}}, {TWO}]', 2, 2, "NaN"),
        (f'[{ONE}, {{"a": {"1" * 5000}}}, {TWO}]', 2, 2, "4,300 digits"),
        (f'[{ONE}, {{"a": [1, 2,]}}, {TWO}]', 2, 2, "not valid JSON"),
        (f"[{ONE}, {{'a': \"],{{\"}}, {TWO}]", 2, 2, "not valid JSON"),
        (f"[{ONE}, {'[' * 100_000}{']' * 100_000}, {TWO}]", 2, 2, "nested"),
        (f"[{ONE} {TWO}]", 2, 1, "expected a comma"),
        # a quote or a bracket that is missing, where each row begins a line
        (f'[\n{ONE},\n{{"instruction": "a, "output": "b"}},\n{TWO},\n{THREE}\n]', 3, 2, "(line 3)"),
        (f'[\n{ONE},\n{{"instruction": "a", "output": "b}},\n{TWO},\n{THREE}\n]', 3, 2, "(line 3)"),
        (f'[\n{ONE},\n{{"instruction": ["a", "output": "b"}},\n{TWO},\n{THREE}\n]', 3, 2, "(line 3)"),
        (json.dumps(GOOD, indent=2).replace('"question 1",', '"question 1'), 3, 2, "(line 7)"),
        (json.dumps(GOOD, indent=2).replace('"question 1",', '"question 1"'), 3, 2, "(line 8)"),
        # far from the end of the row, and in a file of several pieces
        (f'[\n{ONE},\n{{"a" "{"x" * 3_000_000}"}},\n{TWO}\n]', 2, 2, "Expecting ':' delimiter (line 3)"),
        (f'[\n{ONE},\n{{"a" "{"x" * 5_000_000}"}}\n]', 1, 2, "Expecting ':' delimiter (line 3); the rows after it"),
        (f'[\n{ONE},\n{{"a": "{"x" * 5_000_000}"}}\n]', 1, 2, "does not end within 4 MB"),
        # the end
        (f"[{ONE},", 1, 2, "cut off"),
        (f"[{ONE}", 1, 2, "cut off"),
        (f'[{ONE}, {{"instruction": "a', 1, 2, "is the list cut off?"),
        (f"[{ONE},]", 1, 1, "comma before"),
        (f"[{ONE}] x", 1, 1, "more after the list"),
    ],
)
def test_a_broken_row_of_a_list_is_named_and_the_others_are_read(
    tmp_path: Path, text: str, rows: int, line: int, message: str
) -> None:
    (tmp_path / "rows.json").write_text(text)
    report = validate_file(tmp_path / "rows.json")
    assert report.rows == rows and [(e.line, e.code) for e in report.errors] == [(line, "json")]
    assert message in report.errors[0].message


@pytest.mark.parametrize("broken", [b'{"a": "caf\xe9"}', b'{"a": "\\ud800"}', b'{"a": "\xed\xa0\x80"}'])
def test_characters_that_are_none_cost_a_list_only_their_row(tmp_path: Path, broken: bytes) -> None:
    (tmp_path / "rows.json").write_bytes(b", ".join([b"[" + ONE.encode(), broken, TWO.encode() + b"]"]))
    report = validate_file(tmp_path / "rows.json")
    assert report.rows == 2 and [(e.line, e.code) for e in report.errors] == [(2, "encoding")]


def test_a_list_of_many_broken_rows_is_read_once(tmp_path: Path) -> None:
    broken = ['{"instruction": "a, "output": "b"}'] * 9_000  # each throws off the quotes of all that follow
    (tmp_path / "rows.json").write_text("[\n" + ",\n".join([ONE, *broken, TWO]) + "\n]")
    report = validate_file(tmp_path / "rows.json")
    assert report.rows == 2 and report.error_count == 9_000
