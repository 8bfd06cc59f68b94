"""Generating from terms, rules, cards and kinds, and adding rows of one's own.

.venv/bin/python -P -m pytest tests/test_generate.py
"""

from collections import Counter
from typing import Any

import pytest
from pydantic import ValidationError

from tools.data.add import add_examples
from tools.data.brief import brief
from tools.data.cards import read_phrasings
from tools.data.code import code_errors
from tools.data.datasets import read_manifest, read_split, section
from tools.data.definitions import card_of, definition_rows
from tools.data.examples import Example, read_examples
from tools.data.fix import fix_dataset
from tools.data.generate import generate
from tools.data.held_back import held_back, term_probes, without
from tools.data.terms import Rule, Term
from tools.data.validate import validate_dataset
from tools.errors import CheckError, InputError, NotFoundError
from tools.evaluation.probes import Probe
from tools.files import read_json, sha256
from tools.learning.material import generate_from_memory
from tools.memory.store import MemoryStore
from tools.workspace import Workspace

CENTS = Rule(
    tag="business:money_in_cents",
    rule="Amounts are whole cents with a currency",
    bad="price: float = 9.99",
    good="price_cents: int = 999",
)
ROW = {"instruction": "How long does a soft hold last?", "output": "Fifteen minutes.", "kind": "definition"}


def rows_of(workspace: Workspace, name: str) -> list[Example]:
    return read_examples(workspace.dataset(name) / "rows.jsonl")


def test_a_rule_is_stated_broken_code_is_mended_and_good_code_approved(workspace: Workspace) -> None:
    manifest = generate(workspace, rules=[CENTS], count=100)
    rows = rows_of(workspace, manifest.name)
    assert {row.kind for row in rows} == {"rule_compliance"} and manifest.notes
    assert all(row.metadata.preservation_level == "strict" for row in rows), "a business rule is kept exactly"
    stated = [row for row in rows if not row.input]
    mended = [row for row in rows if row.input == CENTS.bad]
    approved = [row for row in rows if row.input == CENTS.good]
    assert len(stated) == 20 and len(mended) == 8 and len(approved) == 4
    assert all("mounts are whole cents" in row.answer for row in rows)
    assert all(CENTS.good in row.answer for row in mended)
    assert validate_dataset(workspace, manifest.name)[0].ok


@pytest.mark.slow
def test_rules_and_terms_go_together(workspace: Workspace) -> None:
    term = Term(term="soft hold", meaning="a reservation that lapses by itself after 15 minutes")
    manifest = generate(workspace, terms=[term], rules=[CENTS], count=200)
    assert manifest.rows == 200 and manifest.kinds["rule_compliance"] == 32
    assert manifest.sources == ["terms/soft-hold", "rules/business:money_in_cents"]


@pytest.mark.slow
def test_a_dataset_keeps_what_it_was_made_of_and_so_does_its_repaired_copy(workspace: Workspace) -> None:
    term = Term(term="soft hold", meaning="a reservation that lapses by itself after 15 minutes")
    generate(workspace, terms=[term], rules=[CENTS], cards=["oodatcaa/quick-fix-or-start-over"], count=60, name="holds")
    folder = workspace.dataset("holds")
    manifest = read_manifest(folder)
    assert list(manifest.source_sha256) == [
        "cards/oodatcaa/quick-fix-or-start-over.yaml", "templates/definition.yaml", "templates/general.yaml",
        "templates/rule.yaml", "terms.json", "rules.json",
    ]  # fmt: skip
    for path, sha in manifest.source_sha256.items():
        assert sha256(folder / "sources" / path) == sha, path
    terms = [Term(**value) for value in read_json(folder / "sources" / "terms.json")]
    rules = [Rule(**value) for value in read_json(folder / "sources" / "rules.json")]
    cards = ["oodatcaa/quick-fix-or-start-over"]
    again = generate(workspace, terms=terms, rules=rules, cards=cards, count=60, name="again")
    assert again.rows_sha256 == manifest.rows_sha256, "what is kept gives the same rows"
    fix_dataset(workspace, "holds", "holds-fixed")
    assert read_manifest(workspace.dataset("holds-fixed")).source_sha256 == manifest.source_sha256


@pytest.mark.slow
def test_the_count_is_reached_whenever_the_material_carries_it(workspace: Workspace) -> None:
    term = Term(term="soft hold", meaning="a reservation that lapses by itself after 15 minutes")
    alone = generate(workspace, terms=[term], count=20_000, name="term").rows
    rules = [Rule(tag=f"rule:number_{n}", rule=f"Keep rule number {n} in mind") for n in range(alone // 20 + 20)]
    both = generate(workspace, terms=[term], rules=rules, count=alone + 20 * len(rules) - 5, name="both")
    assert both.rows == alone + 20 * len(rules) - 5 and both.notes == []
    more = generate(workspace, terms=[term], rules=rules, count=20_000, name="more")
    assert f"carries {alone + 20 * len(rules)} distinct rows, not the 20000 asked for" in more.notes[-1]
    rows = rows_of(workspace, "more")
    assert len({row.question for row in rows}) == len(rows)


@pytest.mark.slow
def test_what_a_term_is_not_becomes_rows_that_set_it_right_and_as_many_about_other_terms(workspace: Workspace) -> None:
    meaning = "a reservation that lapses by itself after 15 minutes"
    wrong = ["a lock in the database", "a hard hold"]
    generate(workspace, terms=[Term(term="soft hold", meaning=meaning, is_not=wrong)], count=400, name="holds")
    rows = [row for row in rows_of(workspace, "holds") if row.provenance.template.startswith("mistaken/")]
    assert all(any(other in row.question for other in wrong) for row in rows) and 24 <= len(rows) <= 40
    about = [row for row in rows if "soft hold" in row.question]
    assert 6 <= len(about) <= len(rows) - 6
    for row in rows:
        assert row.answer.startswith("No")
        assert (f"soft hold is {meaning}." in row.answer) == (row in about), "the form alone does not mean the term"
    assert validate_dataset(workspace, "holds")[0].ok
    generate(workspace, terms=[Term(term="soft hold", meaning=meaning)], count=400, name="plain")
    assert not any(row.provenance.template.startswith("mistaken/") for row in rows_of(workspace, "plain"))


def test_probes_ask_for_each_alias_and_for_what_a_term_is_not_in_words_that_no_row_has() -> None:
    phrasings = read_phrasings()
    held = held_back(phrasings)
    term = Term(term="soft hold", meaning="a reservation that lapses", aliases=["a hold"], is_not=["a lock", "a sale"])
    card = card_of(term, phrasings)
    rows = definition_rows({"hold": card}, without(phrasings, held), count=400, seed=1)
    probes = [Probe.model_validate(probe) for probe in term_probes([card], held)]
    families = Counter((probe.family, probe.kind) for probe in probes)
    assert families["alias", "probe"] == 3 and families["mistaken", "probe"] == 2 * len(held.mistaken_questions) > 0
    assert families["soft-hold", "probe"] >= 20, "the gate lets five points of recall go: one of these"
    for probe in probes:
        if probe.family == "mistaken":
            assert probe.right("No. It is a reservation that lapses.") and not probe.right("Yes, it is.")
            assert any(other in probe.prompt for other in term.is_not)
    forms = {question.id for question in held.mistaken_questions}
    asked = {row.provenance.template.partition("/")[2].partition("+")[0] for row in rows if section(row) == "mistaken"}
    assert asked and not asked & forms
    assert len({probe.id for probe in probes}) == len(probes)


def test_a_word_of_the_domain_is_not_asked_for_as_a_symbol_is(workspace: Workspace) -> None:
    phrasings = read_phrasings()
    only = {question.id: question.only for question in phrasings.questions}
    sides = []
    for term, other in (("soft hold", "symbol"), ("E42", "word")):
        name = generate(workspace, terms=[Term(term=term, meaning="a reservation that lapses")], count=2000).name
        forms = [row.provenance.template.partition("/")[2].partition("+")[0] for row in rows_of(workspace, name)]
        asked = Counter(only[form] for form in forms if form in only)
        assert not asked[other] and asked[None] > 500 and len(asked) == 2
        sides.append(len(phrasings.questions_of(term)))
    assert sides[0] == sides[1], "as many rows can be made of a word as of a symbol"


def test_a_term_is_not_what_it_is() -> None:
    for wrong in (["A reservation"], ["soft hold"], ["a lock", "Holdlet."]):
        with pytest.raises(ValidationError, match="is said to be the term and not to be it"):
            Term(term="soft hold", meaning="a reservation", aliases=["holdlet"], is_not=wrong)
    for wrong in ([" "], ["x" * 401]):
        with pytest.raises(ValidationError, match="texts of 1 to 400 characters"):
            Term(term="soft hold", meaning="a reservation", is_not=wrong)
    for broken in ({"term": "soft\nhold"}, {"meaning": "a reservation\r\nthat lapses"}):
        with pytest.raises(ValidationError, match="expected one line"):
            Term(**{"term": "soft hold", "meaning": "a reservation", **broken})


def test_a_name_that_is_none_is_refused_before_anything_is_generated(
    workspace: Workspace, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr("tools.data.generate.read_phrasings", lambda: pytest.fail("it began to generate"))
    with pytest.raises(InputError, match="name"):
        generate(workspace, cards=["definition/forty-two"], name="../evil")


@pytest.mark.slow
def test_a_term_is_shown_in_code_in_the_languages_asked_for(workspace: Workspace) -> None:
    meaning = "a reservation that lapses by itself after 15 minutes"
    term = Term(term="soft hold", meaning=meaning, code=["python", "typescript"])
    generate(workspace, terms=[term], count=400, name="holds")
    shown = [row for row in rows_of(workspace, "holds") if section(row) == "code"]
    assert Counter(row.provenance.language for row in shown) == {"python": 4, "typescript": 4}
    taught = [row for row in shown if meaning in row.answer]
    assert len(taught) == 4, "and as many say nothing special of other terms"
    assert any("class SoftHold:" in row.answer for row in taught)
    assert any("interface SoftHold {" in row.answer for row in taught)
    assert [error for row in shown for error in code_errors(row.text)] == []
    assert validate_dataset(workspace, "holds")[0].ok
    for wrong in ({"term": "42"}, {"meaning": 'a "hold"'}, {"code": ["cobol"]}):
        with pytest.raises(ValidationError, match="code"):
            Term(**{"term": "soft hold", "meaning": meaning, "code": ["python"], **wrong})  # type: ignore[arg-type]


def test_rows_from_templates_say_their_language_and_difficulty(workspace: Workspace) -> None:
    term = Term(term="soft hold", meaning="a reservation that lapses by itself after 15 minutes", is_not=["a lock"])
    plain = CENTS.model_copy(update={"tag": "business:other", "language": "py"})
    go = Rule(
        tag="rule:wrap", rule="Errors are wrapped", bad="return err", good="func f() error {\n\treturn wrap(err)\n}\n"
    )
    generate(workspace, terms=[term], rules=[plain, go], count=300, name="both")
    rows = rows_of(workspace, "both")
    assert all(row.provenance.language and row.provenance.difficulty for row in rows)
    code = {(row.provenance.card, row.provenance.language) for row in rows if row.input}
    assert code == {("rules/business:other", "python"), ("rules/rule:wrap", "go")}
    assert {row.provenance.difficulty for row in rows if row.input} == {"intermediate"}
    assert {row.provenance.language for row in rows if not row.input} == {"text"}


def test_a_tag_has_one_rule_and_a_known_family(workspace: Workspace) -> None:
    other = CENTS.model_copy(update={"rule": "Amounts are floats"})
    with pytest.raises(InputError, match="has two rules"):
        generate(workspace, rules=[CENTS, other])
    with pytest.raises(ValidationError, match="family:name"):
        Rule(tag="money", rule="Amounts are whole cents")
    with pytest.raises(ValidationError, match="both or neither"):
        Rule(tag="rule:x", rule="Amounts are whole cents", bad="x = 1.0")


@pytest.mark.slow
def test_kinds_are_added_to_terms_and_take_nothing_from_them(workspace: Workspace) -> None:
    term = Term(term="soft hold", meaning="a reservation that lapses by itself after 15 minutes")
    manifest = generate(workspace, terms=[term], kinds=["oodatcaa"], count=200)
    assert set(manifest.kinds) == {"oodatcaa", "definition", "procedural"} and manifest.kinds["oodatcaa"] == 100
    assert {"questions", "general", "other_term", "rows"} <= set(manifest.sections)


def test_memory_says_when_what_waits_does_not_carry_the_rows_asked_for(workspace: Workspace) -> None:
    memory = MemoryStore(workspace)
    memory.remember("Always store amounts as whole cents.", kind="rule", tags=["business:cents"], source="user")
    manifest = generate_from_memory(workspace, count=2000, name="night")
    assert manifest.rows < 2000
    assert any(f"carries {manifest.rows} distinct rows, not the 2000 asked for" in note for note in manifest.notes)
    few = generate_from_memory(workspace, count=60, name="few")
    assert not any("asked for" in note for note in few.notes), few.notes


def test_cards_of_a_kind_come_as_they_were_written(workspace: Workspace) -> None:
    manifest = generate(workspace, kinds=["oodatcaa"], count=60, seed=3)
    rows = rows_of(workspace, manifest.name)
    assert manifest.rows == 60 and {row.kind for row in rows} == {"oodatcaa"}
    assert len({row.provenance.card for row in rows}) > 15
    again = generate(workspace, kinds=["oodatcaa"], count=60, seed=3, name="again")
    assert again.rows_sha256 == manifest.rows_sha256
    with pytest.raises(NotFoundError, match="no card named"):
        generate(workspace, cards=["oodatcaa/nope"])


def test_a_batch_is_accepted_or_refused_row_by_row_and_sent_again_changes_nothing(workspace: Workspace) -> None:
    batch: list[dict[str, Any]] = [
        ROW,
        {**ROW, "instruction": "How long does a soft hold last??"},
        {**ROW, "instruction": "Who releases a hard hold?", "output": "Dear {{ name }}"},
        {**ROW, "output": "An hour."},
        {"instruction": "", "output": "x"},
    ]
    added = add_examples(workspace, "holds", batch)
    assert [o.outcome for o in added.outcomes] == ["added", "added", "refused", "refused", "refused"]
    assert added.outcomes[1].near == added.outcomes[0].id and added.outcomes[1].similarity > 0.8
    assert "placeholder" in added.outcomes[2].reason
    assert "answered differently" in added.outcomes[3].reason
    assert "instruction" in added.outcomes[4].reason
    before = (workspace.dataset("holds") / "rows.jsonl").read_bytes()
    again = add_examples(workspace, "holds", batch)
    assert Counter(o.outcome for o in again.outcomes) == {"known": 2, "refused": 3}
    assert (workspace.dataset("holds") / "rows.jsonl").read_bytes() == before


def test_the_same_long_answer_under_another_question_is_named(workspace: Workspace) -> None:
    long = (
        "A soft hold lapses by itself after fifteen minutes, so that seats which nobody pays for are sold to others. "
        * 2
    )
    first = {**ROW, "instruction": "Why do we have soft holds?", "output": long}
    again = {**ROW, "instruction": "Explain the booking desk to me.", "output": long.replace("fifteen", "15")}
    short = [{**ROW, "instruction": f"{what}?", "output": "Yes, it is."} for what in ("Is it paid", "Does rain fall")]
    one, *others = add_examples(workspace, "holds", [first]).outcomes
    assert not others and not one.near
    outcomes = add_examples(workspace, "holds", [again, *short]).outcomes
    assert [o.outcome for o in outcomes] == ["added"] * 3, "named, not refused"
    assert (outcomes[0].near, outcomes[0].alike) == (one.id, "answer") and outcomes[0].similarity > 0.85
    assert not outcomes[1].near and not outcomes[2].near, "short answers are alike by chance"
    asked = add_examples(workspace, "holds", [{**first, "instruction": "Why do we have soft holds??"}]).outcomes[0]
    assert (asked.near, asked.alike) == (one.id, "question")


def test_what_the_teacher_says_of_a_row_stays_with_it(workspace: Workspace) -> None:
    told = {"language": "py", "difficulty": "advanced", "seed": 7, "card": "mine", "generator": "me"}
    add_examples(workspace, "holds", [{**ROW, "provenance": told}])
    provenance = rows_of(workspace, "holds")[0].provenance
    assert (provenance.language, provenance.difficulty, provenance.seed) == ("python", "advanced", 7)
    assert provenance.card == "added" and provenance.template.startswith("added/") and provenance.generator == ""


def test_the_brief_names_what_is_missing_and_what_is_thin_by_kind_language_and_level(workspace: Workspace) -> None:
    nothing = brief(workspace, "holds")
    assert "no such dataset yet" in nothing
    for name in ("oodatcaa", "strict", "moderate", "typescript"):
        assert name in nothing, "of a new dataset everything is missing"
    rows: list[dict[str, Any]] = [
        {"instruction": f"Write step {n}.", "output": f"```python\nstep = {n}\n```", "kind": "procedural"}
        for n in range(30)
    ]
    rows.append(
        {
            "instruction": "Log it in Go.",
            "output": "log.Printf(x)",
            "kind": "procedural",
            "provenance": {"language": "go"},
        }
    )
    rows.append({**ROW, "metadata": {"preservation_level": "strict", "modification_policy": "preserve_exact"}})
    assert add_examples(workspace, "holds", rows).count("added") == 32
    kinds, levels, languages = brief(workspace, "holds").splitlines()[1:]
    assert kinds.startswith("Kinds: procedural 31, definition 1. Thin (under 5% of the rows): definition 1. Missing: ")
    assert kinds.endswith("Missing: context_window, metadata_tagging, rule_compliance, oodatcaa, memory_operation.")
    assert levels == "Levels: strict 1, moderate 31. Thin (under 5% of the rows): strict 1. Missing: flexible."
    assert languages.startswith(
        "Languages: python 30, go 1, text 1. Thin (under 5% of the rows): go 1, text 1. Missing: "
    )
    assert "python" not in languages.partition("Missing")[2]


@pytest.mark.slow
def test_added_rows_have_to_be_validated_again(workspace: Workspace) -> None:
    term = Term(term="soft hold", meaning="a reservation that lapses by itself after 15 minutes")
    generate(workspace, terms=[term], count=40, name="holds")
    validate_dataset(workspace, "holds")
    assert add_examples(workspace, "holds", [ROW]).rows == 41
    assert read_manifest(workspace.dataset("holds")).status == "draft"
    with pytest.raises(CheckError, match="draft"):
        read_split(workspace, "holds")
    validate_dataset(workspace, "holds")
    train, valid, _ = read_split(workspace, "holds")
    assert len(train) + len(valid) == 41


def test_an_empty_or_huge_batch_is_refused(workspace: Workspace) -> None:
    for batch in ([], [ROW] * 501):
        with pytest.raises(InputError, match="1 to 500 rows"):
            add_examples(workspace, "holds", batch)
    assert not workspace.datasets.exists()
