"""Generating from terms, rules, cards and kinds, and adding rows of one's own.

.venv/bin/python -P -m pytest tests/test_generate.py
"""

from collections import Counter
from typing import Any

import pytest
from pydantic import ValidationError

from tools.data.add import add_examples
from tools.data.datasets import read_manifest, read_split
from tools.data.examples import Example, read_examples
from tools.data.generate import generate
from tools.data.terms import Rule, Term
from tools.data.validate import validate_dataset
from tools.errors import CheckError, InputError, NotFoundError
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


def test_rules_and_terms_go_together(workspace: Workspace) -> None:
    term = Term(term="soft hold", meaning="a reservation that lapses by itself after 15 minutes")
    manifest = generate(workspace, terms=[term], rules=[CENTS], count=200)
    assert manifest.rows == 200 and manifest.kinds["rule_compliance"] == 32
    assert manifest.sources == ["terms/soft-hold", "rules/business:money_in_cents"]


def test_a_tag_has_one_rule_and_a_known_family(workspace: Workspace) -> None:
    other = CENTS.model_copy(update={"rule": "Amounts are floats"})
    with pytest.raises(InputError, match="has two rules"):
        generate(workspace, rules=[CENTS, other])
    with pytest.raises(ValidationError, match="family:name"):
        Rule(tag="money", rule="Amounts are whole cents")
    with pytest.raises(ValidationError, match="both or neither"):
        Rule(tag="rule:x", rule="Amounts are whole cents", bad="x = 1.0")


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
