"""Reading rows of every form, and finding what is wrong with them.

.venv/bin/python -P -m pytest tests/test_validate.py
"""

import gzip
import json
import os
import random
import re
import time
from pathlib import Path
from typing import Any

import pytest
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st

from tools.data.datasets import create
from tools.data.examples import Example, messages, read_examples, read_rows, scan, write_examples, write_messages
from tools.data.fix import fix_dataset
from tools.data.repeats import find_leaks
from tools.data.schema import PATH, row_schema
from tools.data.validate import Report, validate_file
from tools.errors import InputError, LooptuneError
from tools.files import read_json
from tools.workspace import Workspace

ROOT = Path(__file__).resolve().parent.parent
CORPUS = Path(__file__).parent / "corpus"
STRICT = {"preservation_level": "strict", "modification_policy": "preserve_exact"}
FLEXIBLE = {"preservation_level": "flexible", "modification_policy": "preserve_intent"}
TAG = '<!-- METADATA: preservation_level=%s, rule_compliance=["%s"] -->'


def rows_file(folder: Path, *rows: Any, name: str = "rows.jsonl") -> Path:
    """A JSONL file: objects as JSON, text and bytes as they are."""
    lines = [row if isinstance(row, str | bytes) else json.dumps(row) for row in rows]
    path = folder / name
    path.write_bytes(b"".join((line if isinstance(line, bytes) else line.encode()) + b"\n" for line in lines))
    return path


def row(question: str = "What is a soft hold?", answer: Any = "A reservation that lapses.", **more: Any) -> Any:
    return {"instruction": question, "output": answer, **more}


def found(folder: Path, *rows: Any) -> list[tuple[int, str, str]]:
    return [(e.line, e.field, e.code) for e in validate_file(rows_file(folder, *rows)).errors]


# the forms


def test_every_example_of_the_format_page_is_read_and_has_no_errors(tmp_path: Path) -> None:
    page = (ROOT / "docs" / "dataset-format.md").read_text()
    lines = [line for block in re.findall(r"```json\n(.*?)```\n", page, re.DOTALL) for line in block.splitlines()]
    report = validate_file(rows_file(tmp_path, *lines))
    assert len(lines) == 12 and report.rows == 12 and report.errors == []
    assert len(report.statistics["kinds"]) == 7


def test_the_published_schema_is_that_of_the_model() -> None:
    assert read_json(PATH) == row_schema(), "run: python -P -m tools.data.schema"


def test_a_conversation_keeps_its_system_message_and_history(tmp_path: Path) -> None:
    turns = [
        {"role": "system", "content": "Be brief."},
        {"role": "user", "content": "One?"},
        {"role": "assistant", "content": "1"},
        {"role": "user", "content": [{"type": "text", "text": "Two?"}, {"type": "text", "text": "Please."}]},
        {"role": "assistant", "content": "2"},
    ]
    [example] = read_examples(rows_file(tmp_path, {"messages": turns}))
    assert (example.system, example.history, example.output) == ("Be brief.", [("One?", "1")], "2")
    assert messages(example) == [*turns[:3], {"role": "user", "content": "Two?\nPlease."}, turns[4]]


def test_both_ways_of_writing_can_be_read_again(tmp_path: Path) -> None:
    rows = [
        Example(instruction="a", input="b", output="c", system="s", history=[("d", "e")]),
        Example(instruction="f", output={"content": "g"}),
    ]
    write_examples(tmp_path / "alpaca.jsonl", rows)
    assert read_examples(tmp_path / "alpaca.jsonl") == rows
    write_messages(tmp_path / "chat.jsonl", rows)
    assert [messages(r) for r in read_examples(tmp_path / "chat.jsonl")] == [messages(r) for r in rows]
    assert "history" not in (tmp_path / "alpaca.jsonl").read_text().splitlines()[1]


@pytest.mark.parametrize("text", ["one\ntwo\nthree", "One. Two. Three.", "one two three four five"])
def test_plain_text_becomes_a_continuation_and_loses_nothing(tmp_path: Path, text: str) -> None:
    [example] = read_examples(rows_file(tmp_path, {"text": text}))
    assert f"{example.input} {example.output}".split() == text.split()


@pytest.mark.parametrize(
    ("value", "field", "code"),
    [
        ({"messages": []}, "messages", "type"),
        ({"messages": [{"role": "user", "content": "a"}]}, "messages", "turns"),
        ({"messages": [{"role": "assistant", "content": "a"}]}, "messages.0.role", "turns"),
        ({"messages": [{"role": "user", "content": 5}]}, "messages.0.content", "type"),
        ({"messages": [{"role": "user", "content": [{"type": "image"}]}]}, "messages.0.content.0", "type"),
        (
            {"messages": [{"role": "user", "content": "a"}, {"role": "tool", "content": "b"}]},
            "messages.1.role",
            "turns",
        ),
        ({"prompt": "a"}, "completion", "missing"),
        ({"prompt": "a", "completion": 5}, "completion", "type"),
        ({"text": 5}, "text", "type"),
        ({"text": "two words"}, "text", "too_short"),
        ({"output": "a"}, "instruction", "missing"),
        ({"dialogue": [], "tools": "[]"}, "", "form"),
        ({"instruction": "a", "outptu": "b", "output": "c"}, "outptu", "extra_forbidden"),
        (row(answer=5), "output", "string_type"),
        (row(metadata={"confidence": "0.5"}), "metadata.confidence", "float_type"),
        (row(question="x" * 100_001), "instruction", "string_too_long"),
        ([], "", "type"),
        (5, "", "type"),
    ],
)
def test_a_row_of_the_wrong_form_is_named_by_field(tmp_path: Path, value: Any, field: str, code: str) -> None:
    assert found(tmp_path, row(), value) == [(2, field, code)]


# what is wrong with a row of the right form


@pytest.mark.parametrize(
    ("value", "field", "code"),
    [
        (row(answer="Dear {{ name }},"), "output", "placeholder"),
        (row(answer="As an AI language model, I cannot."), "output", "placeholder"),
        (row(answer="Sincerely, [Your Name]"), "output", "placeholder"),
        (row(answer="Dear {{user.name}},"), "output", "placeholder"),
        (row(answer="Dear {{ customer.first-name | capitalize }},"), "output", "placeholder"),
        (row(answer="The request times out after TODO seconds."), "output", "placeholder"),
        (row(answer="Of all limits this one is TODO, the others stand."), "output", "placeholder"),
        (row(answer="Both fields are checked at the edge, TODO explain why."), "output", "placeholder"),
        (row(answer="How it is deployed stands in [TODO]."), "output", "placeholder"),
        (row(answer="```python\ndef f():\n    pass  # TODO implement\n```"), "output", "placeholder"),
        (row(answer="use AKIAIOSFODNN7EXAMPLE"), "output", "secret"),
        (row(question="my key is sk-" + "a1" * 20), "instruction", "secret"),
        (row(input="-----BEGIN RSA PRIVATE KEY-----"), "input", "secret"),
        (row(answer='api_key = "9f8e7d6c5b4a39281706"'), "output", "secret"),
        (row(answer='password = "tr0ub4dor&3"'), "output", "secret"),
        (row(input='{"user": "ferry", "db_password": "S0mmerregen!"}'), "input", "secret"),
        (row(answer="aws_secret_access_key = wJalrXUtnFEMI/K7MDENG/bPxRfiCYEXAMPLEKEY"), "output", "secret"),
        (row(answer='"secretAccessKey": "wJalrXUtnFEMI/K7MDENG/bPxRfiCYEXAMPLEKEY"'), "output", "secret"),
        (row(question="Use postgres://app:w1nd0w@db.internal/orders for it."), "instruction", "secret"),
        (row(answer="a\x00b"), "output", "control"),
        (row(answer="a\u202eb"), "output", "control"),
        (row(answer="caf\ufffd"), "output", "encoding"),
        (row(answer="donâ€™t"), "output", "encoding"),
        (row(answer="<tool:run>pytest -q"), "output", "markup"),
        (row(answer="<tool:fly path='a'></tool>"), "output", "markup"),
        (row(answer="```python\nx = = 1\n```"), "output", "code"),
        (row(answer="```python\nreturn 5\n```"), "output", "code"),
        (row(answer="```python\ndef f(a, a):\n    return a\n```"), "output", "code"),
        (row(answer="<tool:fs.write path='a.py'>\ndef f(:\n</tool>"), "output", "code"),
        (row(answer="<tool:fs.write path='src/a.ts'>\nconst x: = 1\n</tool>"), "output", "code"),
        (row(answer="```json\n{'a': 1}\n```"), "output", "code"),
        (row(answer="```ts\nconst x: = 1\n```"), "output", "code"),
        (row(answer="```go\nfunc {\n```"), "output", "code"),
        (row(answer="```python\nx = 1"), "output", "code"),
        (row(answer='{"a": 1, "b": '), "output", "code"),
        (row(answer="<!-- METADATA: preservation_level=strict -->"), "output", "tag"),
        (row(answer=TAG % ("rigid", "rule:a")), "output", "tag"),
        (row(answer=TAG % ("moderate", "nonsense")), "output", "tag"),
        (row(answer="a " + TAG % ("flexible", "rule:a"), metadata=STRICT), "output", "contradiction"),
        (row(answer="a " + TAG % ("moderate", "business:a"), metadata=STRICT), "output", "contradiction"),
        (
            row(answer="a " + TAG % ("strict", "rule:a"), metadata={**STRICT, "rule_compliance": ["rule:b"]}),
            "output",
            "contradiction",
        ),
        (
            row(metadata={**FLEXIBLE, "rule_compliance": ["rule:a", "security:no_secrets"]}),
            "metadata.preservation_level",
            "contradiction",
        ),
        (row(metadata={"rule_compliance": ["business:rounding"]}), "metadata.preservation_level", "contradiction"),
        (
            row(metadata={"preservation_level": "strict", "modification_policy": "preserve_intent"}),
            "metadata.modification_policy",
            "contradiction",
        ),
        (row(kind="context_window"), "output", "context_window"),
    ],
)
def test_what_ruins_a_training_is_found(tmp_path: Path, value: Any, field: str, code: str) -> None:
    assert found(tmp_path, row("Another question?"), value) == [(2, field, code)]


def test_sql_that_the_grammar_does_not_know_is_doubted_and_not_refused(tmp_path: Path) -> None:
    path = tmp_path / "rows.jsonl"
    locking = "```postgresql\nSELECT id FROM holds WHERE day = now() FOR UPDATE SKIP LOCKED;\n```"
    values = [row("First?", answer=locking), row("Second?", answer="```sql\nSELECT a FROM t WHERE (b = 1;\n```")]
    path.write_text("".join(json.dumps(value) + "\n" for value in values))
    report = validate_file(path)
    assert report.errors == []
    assert [warning for warning in report.warnings if "2 rows hold SQL that does not parse" in warning]
    assert "line 1, sql:" in " ".join(report.warnings) and "line 2, sql:" in " ".join(report.warnings)


@pytest.mark.parametrize(
    "value",
    [
        row(answer="```html\n<p>{{ name }}</p>\n```"),
        row(answer="The value `{{ name }}` is filled in by Jinja."),
        row(question="Write a TODO list for moving house."),
        row("Complete the code.", "return sorted(names)", input="def by_name(names):\n    # TODO: sort them"),
        row(answer='{"a": True}'),
        row(answer="Quoted: [1, 2, 3]."),
        row(answer=f"{TAG % ('strict', 'rule:a')}\n{TAG % ('flexible', 'rule:b')}", metadata=STRICT),
        row(answer=f"{TAG % ('moderate', 'rule:a')}", metadata={"rule_compliance": ["rule:b", "rule:a"]}),
        row(answer='```python\nif x is 1:\n    y = "\\d"\n```'),
        row(answer="<tool:fs.write path='notes.txt'>\ndef f(:\n</tool>"),
        row(answer="Each TODO comment needs a name; delete a TODO that is older than a year."),
        row("When may I leave a todo?", "When the next line says who does it: TODO fix the clock (Ida)."),
        row(answer="A card is TODO, then DOING, then DONE."),
        row(answer='password = os.environ["DB_PASSWORD"]'),
        row(answer='password = "<the one from the store>", or "changeme1" in a test'),
        row(answer='{"password": "DB_PASSWORD_2"} names the variable.'),
        row(answer="postgres://user:password@localhost/db and postgres://app:${DB_PASSWORD}@db/orders"),
        row(answer='encrypted_password = "IH6noKXV7kU6S5BS6LTYMOSoIz15gyKx"'),
        row(answer="<ul>{% for user in users %}<li>{{ user.name }}</li>{% endfor %}</ul>"),
        row(answer="It listens on https://localhost:8443/@me."),
        row(answer="Zürich, 你好, naïve, emoji 🎉"),
    ],
)
def test_what_only_looks_wrong_is_left_alone(tmp_path: Path, value: Any) -> None:
    assert found(tmp_path, value) == []


def test_each_part_that_a_context_window_misses_is_named(tmp_path: Path) -> None:
    window = {"system_prompt": "a", "conversation_history": [], "active_rules": ["rule:a"], "project_context": " "}
    output = {"content": "b", "context_window": window, "metadata": {"preservation_level": "strict"}}
    errors = found(tmp_path, row(answer=output, kind="context_window"))
    assert errors == [
        (1, "output.context_window.role_expectations", "context_window"),
        (1, "output.context_window.knowledge_updates", "context_window"),
        (1, "output.metadata.preservation_level", "contradiction"),
    ]


@pytest.mark.parametrize(
    ("part", "value"),
    [
        ("conversation_history", [5]),
        ("conversation_history", [{"role": "user", "content": "a"}, {"role": "assistant", "content": {"text": "b"}}]),
        ("conversation_history", [{"role": "robot", "content": "a"}]),
        ("knowledge_updates", {"soft hold": 15}),
        ("knowledge_updates", {"soft hold": " "}),
    ],
)
def test_items_of_a_window_that_no_client_can_adopt_are_named(tmp_path: Path, part: str, value: Any) -> None:
    texts = dict.fromkeys(("system_prompt", "project_context", "role_expectations"), "a")
    window = {**texts, "active_rules": ["rule:a"], "conversation_history": [], "knowledge_updates": {}}
    metadata = {"preservation_level": "moderate", "modification_policy": "preserve_structure"}
    output = {"content": "b", "context_window": window, "metadata": metadata}
    assert found(tmp_path, row(answer=output, kind="context_window")) == []
    window[part] = value
    assert found(tmp_path, row(answer=output, kind="context_window")) == [
        (1, f"output.context_window.{part}", "context_window")
    ]


@pytest.mark.parametrize(
    ("field", "value"),
    [("modification_policy", "preserve_exact"), ("modification_policy", "nonsense"), ("rule_compliance", ["rule:b"])],
)
def test_metadata_of_a_window_that_differs_from_the_row_is_named(tmp_path: Path, field: str, value: Any) -> None:
    texts = dict.fromkeys(("system_prompt", "project_context", "role_expectations"), "a")
    window = {**texts, "active_rules": ["rule:a"], "conversation_history": [], "knowledge_updates": {}}
    metadata = {"preservation_level": "moderate", field: value}
    output = {"content": "b", "context_window": window, "metadata": metadata}
    errors = found(tmp_path, row(answer=output, kind="context_window"))
    assert errors == [(1, f"output.metadata.{field}", "contradiction")]


def test_what_a_window_says_is_searched_as_it_stands_and_not_as_its_json(tmp_path: Path) -> None:
    texts = {"system_prompt": 'password = "tr0ub4dor&3"', "project_context": "a", "role_expectations": "a"}
    window = {**texts, "active_rules": ["rule:a"], "conversation_history": [], "knowledge_updates": {}}
    output = {"content": "b", "context_window": window, "metadata": {"preservation_level": "moderate"}}
    assert found(tmp_path, row(answer=output, kind="context_window")) == [(1, "output", "secret")]


# rows that repeat each other


def words(seed: int, count: int) -> list[str]:
    dice = random.Random(seed)
    return ["".join(dice.choices("abcdefghijklmnop", k=dice.randint(2, 8))) for _ in range(count)]


def test_near_duplicates_come_as_clusters_with_what_they_share(tmp_path: Path) -> None:
    rows = [row(f"Question {i} " + " ".join(words(i, 8)), " ".join(words(1000 + i, 40))) for i in range(300)]
    for i in range(0, 60, 2):  # thirty rows come again with two words changed
        changed = rows[i]["output"].split()
        changed[7], changed[25] = "other", "words"
        rows.append(row(rows[i]["instruction"], " ".join(changed)))
    report = validate_file(rows_file(tmp_path, *rows))
    near = [d for d in report.duplicates if d.kind == "near"]
    assert sorted(d.lines for d in near) == [[i + 1, 301 + i // 2] for i in range(0, 60, 2)]
    assert all(0.7 <= d.similarity < 1 for d in near)
    assert near[0].text in " ".join(f"{r['instruction']} {r['output']}" for r in rows).casefold()
    assert len(report.contradictions) == 30, "the same question has two answers"


def test_rows_that_differ_in_case_space_or_a_closing_mark_are_the_same(tmp_path: Path) -> None:
    rows = [row(), row("what is a  SOFT hold", "a reservation that lapses"), row("And a hard hold?", "One that stays.")]
    report = validate_file(rows_file(tmp_path, *rows))
    assert [(d.kind, d.lines, d.similarity) for d in report.duplicates] == [("exact", [1, 2], 1.0)]
    assert report.duplicates[0].text == "What is a soft hold?" and not report.ok


def test_one_question_in_two_conversations_may_have_two_answers(tmp_path: Path) -> None:
    asked = [{"role": "user", "content": "And then?"}]

    def chat(first: str, last: str) -> Any:
        before = [{"role": "user", "content": first}, {"role": "assistant", "content": "Yes."}]
        return {"messages": [*before, *asked, {"role": "assistant", "content": last}]}

    report = validate_file(rows_file(tmp_path, chat("Open it?", "Close it."), chat("Lift it?", "Put it down.")))
    assert report.contradictions == []


def test_held_out_rows_that_training_has_seen_are_leaks(tmp_path: Path) -> None:
    rows = [row(f"{i} {' '.join(words(i, 9))}?", " ".join(words(500 + i, 30))) for i in range(40)]
    train = rows_file(tmp_path, *rows[:30], name="train.jsonl")
    near = row(rows[3]["instruction"] + " now", rows[3]["output"])
    valid = rows_file(tmp_path, *rows[30:], row(rows[7]["instruction"], "Other."), near, name="valid.jsonl")
    leaks = find_leaks(train, valid)
    assert [(leak.train_line, leak.valid_line, leak.kind) for leak in leaks] == [(8, 11, "exact"), (4, 12, "near")]


def test_the_figures_are_those_that_the_texts_have(tmp_path: Path) -> None:
    answers = ["one two three four five", "one two three four six", "One\n```go\npackage a\n```\nblock of code"]
    report = validate_file(rows_file(tmp_path, *(row(f"Question {i}?", a) for i, a in enumerate(answers))))
    figures = report.statistics
    tokens = [re.findall(r"\w+|[^\w\s]", answer.lower()) for answer in answers]
    grams = [g for said in tokens for g in zip(*(said[i:] for i in range(4)), strict=False)]
    assert figures["distinct_4grams"] == round(len(set(grams)) / len(grams), 4)
    assert figures["commonest_opening"] == {"text": "one two three", "rows": 2, "share": 0.6667}
    assert figures["languages"] == {"text": 2, "go": 1}
    assert figures["output_characters"] == {"min": 22, "median": 23, "p95": 37, "max": 37}


# files that are no files of rows


@pytest.mark.parametrize(
    ("content", "complaint"),
    [
        (b"", "empty"),
        (b" \n\n", "empty"),
        (b"[]", "empty"),
        (gzip.compress(b"{}", mtime=0), "gzip"),
        ('{"a": 1}'.encode("utf-16"), "UTF-16"),
        (b"x" * 5_000_000, "longer than 4 MB"),
        (b"[" * 100_000, "nested"),
        (b'{\n  "rows": []\n}', "one object over several lines"),
        (b'[{"instruction": "a", "output": "b', "cut off"),
        (b"[nonsense]", "Row 1: not valid JSON: Expecting value"),
        (b"[" + b'{"a" "b"},\n' * 200, "Row 1: not valid JSON: Expecting ':' delimiter .line 1"),
        (b'[{"a": 1, "a": 2}]', "stands twice"),
        (b"nothing\n" * 200, "None of the first 100 lines"),
        (os.urandom(0) + bytes(range(128, 256)) * 3 + b"\n" + b"\x80\n" * 200, "None of the first 100 lines"),
    ],
)
def test_a_file_that_holds_no_rows_is_refused_with_the_reason(tmp_path: Path, content: bytes, complaint: str) -> None:
    (tmp_path / "rows.jsonl").write_bytes(content)
    with pytest.raises(InputError, match=complaint):
        validate_file(tmp_path / "rows.jsonl")


@pytest.mark.parametrize(
    ("line", "code", "message"),
    [
        (b'{"instruction": "a", "output": "b', "json", "cut off"),
        (b'{"instruction": "a\x00", "output": "b"}\n', "json", "NUL"),
        (b'{"instruction": "a", "instruction": "c", "output": "b"}\n', "json", "stands twice"),
        (b'{"instruction": "a", "output": {"content": NaN}}\n', "json", "NaN"),
        (b'{"instruction": "a", "output": {"content": 1e999}}\n', "json", "out of range"),
        (b'{"instruction": "a", "output": {"content": ' + b"1" * 5000 + b"}}\n", "json", "4,300 digits"),
        (b'{"instruction": "a", "output": ' + b'{"a":' * 70 + b"1" + b"}" * 71 + b"\n", "json", "nested"),
        (b"[" * 100_000 + b"\n", "json", "nested"),
        (b'{"instruction": "a", "output": "caf\xe9"}\n', "encoding", "not UTF-8"),
        (b'{"instruction": "a", "output": "\\ud800"}\n', "encoding", "half of a character"),
    ],
)
def test_a_broken_line_is_named_and_the_others_are_read(tmp_path: Path, line: bytes, code: str, message: str) -> None:
    good = json.dumps(row()).encode() + b"\r\n"
    (tmp_path / "rows.jsonl").write_bytes(b"\xef\xbb\xbf" + good + line)
    report = validate_file(tmp_path / "rows.jsonl")
    assert report.rows == 1 and [(e.line, e.code) for e in report.errors] == [(2, code)]
    assert message in report.errors[0].message


def test_folders_pipes_and_missing_files_are_refused_at_once(tmp_path: Path) -> None:
    os.mkfifo(tmp_path / "pipe.jsonl")
    for path in (tmp_path, tmp_path / "pipe.jsonl", tmp_path / "missing.jsonl"):
        with pytest.raises(InputError, match="is none"):
            validate_file(path)


def test_a_line_of_200_megabytes_is_refused_without_being_read(tmp_path: Path) -> None:
    path = tmp_path / "rows.jsonl"
    with path.open("wb") as stream:
        stream.truncate(200_000_000)
    began = time.monotonic()
    with pytest.raises(InputError, match="longer than 4 MB"):
        validate_file(path)
    assert time.monotonic() - began < 2


def test_a_list_is_read_in_pieces_and_gives_the_same_rows_as_lines(tmp_path: Path) -> None:
    rows = [row(f"Question {i}, ü?", f"{i} " * 400) for i in range(1500)]
    lines = scan(rows_file(tmp_path, *rows))
    (tmp_path / "rows.json").write_text(json.dumps(rows, indent=1, ensure_ascii=False), encoding="utf-8-sig")
    assert scan(tmp_path / "rows.json") == lines and len(lines[0]) == 1500


def test_rows_are_given_one_by_one_before_the_file_is_read(tmp_path: Path) -> None:
    path = rows_file(tmp_path, row(), *["nonsense"] * 99_000)
    first = next(iter(read_rows(path)))
    assert first == (1, Example.model_validate(row()))


# fuzzing


def judged(path: Path) -> Report | LooptuneError:
    """A report that can be written, or an error of ours: anything else fails the test."""
    try:
        report = validate_file(path)
        report.model_dump_json()
        return report
    except LooptuneError as error:
        return error


@pytest.mark.parametrize("path", sorted(CORPUS.glob("*")), ids=lambda p: p.name)
def test_every_file_of_the_kept_corpus_is_judged(path: Path) -> None:
    judged(path)


texts = st.text(max_size=30) | st.sampled_from(["```python\n", "<tool:run>", "<!-- METADATA: ", "{{ a }}", "[" * 200])
values = st.recursive(
    st.none() | st.booleans() | st.integers() | st.floats() | texts,
    lambda inner: st.lists(inner, max_size=3) | st.dictionaries(texts, inner, max_size=3),
    max_leaves=8,
)
fields = ["instruction", "input", "output", "system", "history", "kind", "metadata", "messages", "prompt", "text"]
objects = st.dictionaries(st.sampled_from(fields), values | texts, max_size=5)
lines = st.one_of(
    st.binary(max_size=60),
    objects.map(lambda value: json.dumps(value).encode()),
    st.builds(lambda q, a: json.dumps({"instruction": q, "output": a}).encode(), texts, texts | values),
    st.builds(lambda turns: json.dumps({"messages": turns}).encode(), st.lists(values | objects, max_size=3)),
)


@settings(max_examples=150, deadline=None, suppress_health_check=[HealthCheck.function_scoped_fixture])
@given(parts=st.lists(lines, max_size=6), begin=st.sampled_from([b"", b"[", b"\xef\xbb\xbf"]), joint=st.sampled_from([
    b"\n", b"\r\n", b",", b""]))  # fmt: skip
def test_whatever_the_bytes_are_they_are_judged(tmp_path: Path, parts: list[bytes], begin: bytes, joint: bytes) -> None:
    path = tmp_path / "fuzz.jsonl"
    path.write_bytes(begin + joint.join(parts))
    judged(path)


# mending


def test_a_repaired_copy_lists_each_change_and_leaves_the_original(workspace: Workspace) -> None:
    folder = workspace.dataset(create(
        workspace, "holds", [Example.model_validate(row())], title="holds", seed=1, sources=[], notes=[], terms={}
    ).name)  # fmt: skip
    wrong_policy = {"preservation_level": "strict", "modification_policy": "preserve_intent"}
    rows_file(
        folder,
        row(),
        row(" What is\u200b a hard hold?\r\nSay.", "One that stays.\n"),
        row("What is a soft hold", "a reservation that lapses."),
        row("Which key?", "AKIAIOSFODNN7EXAMPLE"),
        row("Which policy?", "The strict one.", metadata=wrong_policy),
        '{"instruction": "cut o',
    )
    before = (folder / "rows.jsonl").read_bytes()
    fixed = fix_dataset(workspace, "holds", "holds-fixed")
    assert (fixed.rows, fixed.mended, fixed.dropped) == (3, 2, 3)
    assert {(c.line, c.action, c.field) for c in fixed.changes} == {
        (2, "mended", "instruction"), (2, "mended", "output"), (3, "dropped", ""), (4, "dropped", "output"),
        (5, "mended", "metadata.modification_policy"), (6, "dropped", ""),
    }  # fmt: skip
    assert (folder / "rows.jsonl").read_bytes() == before
    copy = workspace.dataset("holds-fixed") / "rows.jsonl"
    assert read_examples(copy)[1].instruction == "What is a hard hold?\nSay."
    assert validate_file(copy).ok
