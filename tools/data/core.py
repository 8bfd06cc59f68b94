"""The core dataset: every card, as rows, split and described, the same bytes each time.

    build(folder)            # train.jsonl, valid.jsonl, dataset.json, README.md
    differences(folder)      # what is committed against what the cards make now

    looptune dataset build core [--check]

Rows that come near a held-out probe are left out. Rows of one exchange, and rows whose requests or answers are alike,
go to the same side of the split; each kind is split 80/20 on its own.
"""

import hashlib
import random
import tempfile
from collections import Counter, defaultdict
from pathlib import Path
from typing import Any

from tools.data.cards import held_out, read_card
from tools.data.datasets import GENERATOR
from tools.data.definitions import hand_written_rows
from tools.data.examples import Example, write_examples
from tools.data.lessons import is_lesson, lesson_rows, read_lesson
from tools.data.measures import measure, missed, phrasing
from tools.data.similar import find_alike, find_similar
from tools.errors import CheckError, InputError
from tools.files import sha256, write_json, write_text
from tools.settings import shipped_data

SEED = 42
TOGETHER = 0.7  # rows at least this much alike stay on one side of the split
FILES = ("train.jsonl", "valid.jsonl", "dataset.json", "README.md")


def core_rows() -> tuple[list[Example], list[str]]:
    """Every row of every card, in the order of their names, and the ids of those left out for coming near a probe.

    Raises:
        InputError: a card is broken, two rows have one id, or a term has two meanings.
    """
    rows: list[Example] = []
    meanings: dict[str, str] = {}
    for path in sorted((shipped_data() / "cards").glob("*/*.yaml")):
        name = f"{path.parent.name}/{path.stem}"
        if is_lesson(path):
            lesson = read_lesson(path)
            made, term, meaning = lesson_rows(lesson, name), lesson.term, lesson.meaning
        else:
            card = read_card(name)
            made, term, meaning = hand_written_rows(card, name), card.term, card.meaning
        if term and meanings.setdefault(term.casefold(), meaning) != meaning:
            raise InputError(f"The term {term!r} has two meanings in the cards.", "keep one of them")
        rows += made
    doubled = [id for id, times in Counter(row.id for row in rows).items() if times > 1]
    if doubled:
        raise InputError(f"Several rows have the id {doubled[0]!r}.", "rename the exchange")
    near = {i for i, _, _ in find_similar([row.question for row in rows], held_out())}
    stamped = [
        row.model_copy(update={"provenance": row.provenance.model_copy(update={"generator": GENERATOR, "seed": SEED})})
        for i, row in enumerate(rows)
        if i not in near
    ]
    return stamped, [rows[i].id for i in sorted(near)]


def split_core(rows: list[Example], share: float = 0.2) -> tuple[list[Example], list[Example]]:
    """Training and validation rows: each kind on its own, and what belongs together on one side."""
    parent = list(range(len(rows)))

    def root(i: int) -> int:
        while parent[i] != i:
            parent[i] = parent[parent[i]]
            i = parent[i]
        return i

    first: dict[tuple[str, str], int] = {}
    for i, row in enumerate(rows):
        parent[root(i)] = root(first.setdefault(phrasing(row), i))
    for texts in ([row.question for row in rows], [row.answer for row in rows]):
        for one, other, _ in find_alike(texts, TOGETHER):
            parent[root(one)] = root(other)
    kinds: dict[str, dict[int, list[int]]] = defaultdict(lambda: defaultdict(list))
    for i in range(len(rows)):
        kinds[rows[root(i)].kind][root(i)].append(i)
    valid: set[int] = set()
    for kind, groups in sorted(kinds.items()):
        order = sorted(groups, key=lambda i: rows[i].id)
        random.Random(f"{SEED}:{kind}").shuffle(order)
        wanted = share * sum(map(len, groups.values()))
        for group in order:
            if len(groups[group]) <= wanted + 0.5:
                valid.update(groups[group])
                wanted -= len(groups[group])
            if wanted < 0.5:
                break
    return (
        [row for i, row in enumerate(rows) if i not in valid],
        [row for i, row in enumerate(rows) if i in valid],
    )


def build(folder: Path) -> dict[str, float]:
    """Write the core dataset into `folder`, and return its figures.

    Raises:
        InputError: a card is broken.
        CheckError: a bar of `tools.data.measures` is missed; nothing is written.
    """
    rows, left_out = core_rows()
    train, valid = split_core(rows)
    figures = measure(train, valid)
    if problems := missed(figures):
        raise CheckError(f"The core dataset misses its bars: {'; '.join(problems)}.", "mend the cards")
    write_examples(folder / "train.jsonl", train)
    write_examples(folder / "valid.jsonl", valid)
    manifest = _manifest(folder, train, valid, left_out, figures)
    write_json(folder / "dataset.json", manifest)
    write_text(folder / "README.md", _data_card(manifest, rows))
    return figures


def differences(folder: Path) -> list[str]:
    """The files of `folder` that are not what the cards make now; [] when all are."""
    with tempfile.TemporaryDirectory() as fresh:
        build(Path(fresh))
        return [
            name
            for name in FILES
            if not (folder / name).is_file() or (folder / name).read_bytes() != Path(fresh, name).read_bytes()
        ]


def _manifest(
    folder: Path, train: list[Example], valid: list[Example], left_out: list[str], figures: dict[str, float]
) -> dict[str, Any]:
    rows = [*train, *valid]
    cards = hashlib.sha256()
    for path in sorted((shipped_data() / "cards").glob("*/*.yaml")):
        cards.update(f"{path.parent.name}/{path.name} {sha256(path)}\n".encode())
    return {
        "name": "core",
        "status": "valid",
        "licence": "Apache-2.0",
        "generator": GENERATOR,
        "seed": SEED,
        "rows": len(rows),
        "train_rows": len(train),
        "valid_rows": len(valid),
        "kinds": dict(sorted(Counter(row.kind for row in rows).items())),
        "valid_kinds": dict(sorted(Counter(row.kind for row in valid).items())),
        "levels": dict(sorted(Counter(row.metadata.preservation_level for row in rows).items())),
        "languages": dict(Counter(row.provenance.language or "text" for row in rows).most_common()),
        "difficulties": dict(Counter(row.provenance.difficulty or "basic" for row in rows).most_common()),
        "cards": len({row.provenance.card for row in rows}),
        "cards_sha256": cards.hexdigest(),
        "train_sha256": sha256(folder / "train.jsonl"),
        "valid_sha256": sha256(folder / "valid.jsonl"),
        "left_out_near_probes": left_out,
        "figures": figures,
    }


def _data_card(manifest: dict[str, Any], rows: list[Example]) -> str:
    lengths = sorted(len(row.answer) for row in rows)
    rules = Counter(tag.partition(":")[0] for row in rows for tag in row.metadata.rule_compliance)

    def table(title: str, counts: dict[str, Any]) -> str:
        lines = [f"| {title} | rows |", "|---|---|", *(f"| {name} | {count} |" for name, count in counts.items())]
        return "\n".join(lines)

    figures = "\n".join(f"| {name} | {value:g} |" for name, value in manifest["figures"].items())
    return f"""# The core dataset

{manifest["rows"]} rows that teach a coding model to think in a project's rules: {manifest["train_rows"]} for training,
{manifest["valid_rows"]} for validation. Built from {manifest["cards"]} hand-written cards by
`looptune dataset build core`; the same cards give the same bytes. Licence: {manifest["licence"]}.

{table("kind", manifest["kinds"])}

{table("preservation level", manifest["levels"])}

{table("language", manifest["languages"])}

{table("rule family, of all tags", dict(rules.most_common()))}

Answers have {lengths[0]} to {lengths[-1]} characters, {lengths[len(lengths) // 2]} in the middle.

| measure | value |
|---|---|
{figures}

What the measures mean, and their bars: `tools/data/measures.py`. Rows of one exchange, and rows whose requests or
answers are alike (TF-IDF cosine {TOGETHER:g}), stand on one side of the split. Rows that came near a held-out probe
were left out: {len(manifest["left_out_near_probes"])}.

The rules are those of [the guide for cards](../cards/README.md). The rows are for training a model that works on a
project with these rules; they are opinionated on purpose, and are no general instruction data.
"""
