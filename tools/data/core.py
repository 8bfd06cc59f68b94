"""The core dataset: every card, as rows, split and described, the same bytes each time.

    build(folder)            # train.jsonl, valid.jsonl, dataset.json, README.md
    differences(folder)      # what is committed against what the cards make now
    use(workspace)           # as a dataset of the workspace, to train on

    looptune dataset build core [--check]
    looptune dataset use core

Rows that come near a held-out probe are left out. Rows of one exchange, and rows whose requests or answers are alike,
go to the same side of the split; each kind is split 80/20 on its own.
"""

import hashlib
import tempfile
from collections import Counter, defaultdict
from collections.abc import Iterable
from pathlib import Path
from typing import Any

from tools.data.cards import held_out, read_card
from tools.data.datasets import GENERATOR, Manifest, create, shipped_material, write_manifest
from tools.data.definitions import hand_written_rows
from tools.data.examples import Example, read_examples, write_examples
from tools.data.lessons import is_lesson, lesson_rows, read_lesson
from tools.data.meanings import several_meanings, stated
from tools.data.measures import BARS, measure, missed, phrasing
from tools.data.similar import find_similar
from tools.data.split import TOGETHER, split_lessons
from tools.data.validate import Report, validate_dataset, validate_file
from tools.errors import CheckError, InputError
from tools.files import sha256, write_json, write_text
from tools.settings import shipped_data
from tools.workspace import Workspace

SEED = 42
FILES = ("train.jsonl", "valid.jsonl", "dataset.json", "README.md")
ALL = "all kinds together"
# rows of each kind, at least and at most
COUNTS = {
    "procedural": (600, 1000),
    "definition": (250, 500),
    "context_window": (250, 500),
    "metadata_tagging": (150, 300),
    "rule_compliance": (150, 300),
    "oodatcaa": (150, 300),
    "memory_operation": (100, 300),
    ALL: (1700, 3500),
}
EXECUTED = 100  # rows whose claim about their code is executed in the tests, at least


def core_rows() -> tuple[list[Example], list[str]]:
    """Every row of every card, in the order of their names, and the ids of those left out for coming near a probe.

    Raises:
        InputError: a card is broken, or two rows have one id.
    """
    rows: list[Example] = []
    for path in sorted((shipped_data() / "cards").glob("*/*.yaml")):
        name = f"{path.parent.name}/{path.stem}"
        rows += lesson_rows(read_lesson(path), name) if is_lesson(path) else hand_written_rows(read_card(name), name)
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


def split_core(rows: list[Example]) -> tuple[list[Example], list[Example]]:
    """Training and validation rows: each kind on its own, and what belongs together on one side."""
    return split_lessons(rows, SEED)


def build(folder: Path) -> dict[str, Any]:
    """Write the core dataset into `folder`, and return its manifest.

    Raises:
        InputError: a card is broken.
        CheckError: a bar is missed (`short_of`); nothing is written.
    """
    rows, left_out = core_rows()
    train, valid = split_core(rows)
    report = report_of(train, valid)
    manifest = _manifest(train, valid, left_out, report)
    if problems := short_of(manifest, report, rows):
        raise CheckError(f"The core dataset misses its bars: {'; '.join(problems)}.", "mend the cards")
    write_examples(folder / "train.jsonl", train)
    write_examples(folder / "valid.jsonl", valid)
    manifest |= {f"{part}_sha256": sha256(folder / f"{part}.jsonl") for part in ("train", "valid")}
    write_json(folder / "dataset.json", manifest)
    write_text(folder / "README.md", _data_card(manifest))
    return manifest


def report_of(train: list[Example], valid: list[Example]) -> Report:
    """What validation says of both sides together."""
    with tempfile.TemporaryDirectory() as folder:
        write_examples(Path(folder, "core.jsonl"), [*train, *valid])
        return validate_file(Path(folder, "core.jsonl"))


def short_of(manifest: dict[str, Any], report: Report, rows: list[Example]) -> list[str]:
    """The bars that the dataset does not reach, in words: diversity, counts, rows that are wrong or contradict."""
    counts = {**manifest["kinds"], ALL: manifest["rows"]}
    problems = missed(manifest["figures"])
    problems += [
        f"{kind} has {counts.get(kind, 0)} rows, it has to have {least} to {most}"
        for kind, (least, most) in COUNTS.items()
        if not least <= counts.get(kind, 0) <= most
    ]
    problems += [f"line {error.line}, {error.field}: {error.message}" for error in report.errors[:5]]
    problems += [f"lines {c.lines} answer one question differently" for c in report.contradictions[:5]]
    problems += several_meanings(stated(rows))[:5]
    if manifest["executed_rows"] < EXECUTED:
        problems.append(f"{manifest['executed_rows']} rows are executed, it has to be {EXECUTED} at least")
    return problems


def executed() -> list[tuple[Example, str]]:
    """Every row that claims what its code does, with the code that checks it (see `tools.data.code.run_after`)."""
    found: list[tuple[Example, str]] = []
    for path in sorted((shipped_data() / "cards").glob("*/*.yaml")):
        if is_lesson(path):
            lesson = read_lesson(path)
            checks = {exchange.id: exchange.run for exchange in lesson.exchanges if exchange.run}
            rows = lesson_rows(lesson, f"{path.parent.name}/{path.stem}") if checks else []
            found += [(row, checks[phrasing(row)[1]]) for row in rows if phrasing(row)[1] in checks]
    return found


def differences(folder: Path) -> list[str]:
    """The files of `folder` that are not what the cards make now; [] when all are."""
    with tempfile.TemporaryDirectory() as fresh:
        build(Path(fresh))
        return [
            name
            for name in FILES
            if not (folder / name).is_file() or (folder / name).read_bytes() != Path(fresh, name).read_bytes()
        ]


def use(workspace: Workspace, name: str = "core") -> Manifest:
    """The core dataset as dataset `name` of the workspace, valid and split as it ships; the same when it is there.

    Raises:
        ConflictError: the name is taken by other rows.
        LimitError: the disk is full; nothing is left behind.
    """
    train, valid = (read_examples(shipped_data() / "core" / part) for part in FILES[:2])
    cards = sorted({row.provenance.card for row in [*train, *valid]})
    note = "the core dataset, as it ships"
    made = create(
        workspace,
        name,
        [*train, *valid],
        title=name,
        seed=SEED,
        sources=cards,
        notes=[note],
        terms={},
        material=shipped_material(cards, []),
    )
    if made.status == "valid":
        return made
    with workspace.lock("datasets"):
        folder = workspace.dataset(name)
        write_examples(folder / "train.jsonl", train)
        write_examples(folder / "valid.jsonl", valid)
        split = {"train_rows": len(train), "valid_rows": len(valid)}
        hashes = {f"{part}_sha256": sha256(folder / f"{part}.jsonl") for part in ("train", "valid")}
        write_manifest(folder, made.model_copy(update={**split, **hashes}))
    # validation keeps the split that it finds, and writes the reports that views and people read
    return validate_dataset(workspace, name)[1]


def _manifest(train: list[Example], valid: list[Example], left_out: list[str], report: Report) -> dict[str, Any]:
    rows = [*train, *valid]
    cards = hashlib.sha256()
    for path in sorted((shipped_data() / "cards").glob("*/*.yaml")):
        cards.update(f"{path.parent.name}/{path.name} {sha256(path)}\n".encode())
    statistics = report.statistics
    statistics["gzip_ratio"] = round(statistics["gzip_ratio"], 1)  # zlib builds differ in the second decimal
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
        "difficulties": dict(Counter(row.provenance.difficulty or "basic" for row in rows).most_common()),
        "rule_families": dict(
            Counter(tag.partition(":")[0] for row in rows for tag in row.metadata.rule_compliance).most_common()
        ),
        "executed_rows": len(executed()),
        "cards": len({row.provenance.card for row in rows}),
        "largest_cards": _largest_cards(rows),
        "cards_sha256": cards.hexdigest(),
        "left_out_near_probes": left_out,
        "figures": measure(train, valid),
        "statistics": statistics,
    }


def _largest_cards(rows: list[Example]) -> dict[str, dict[str, Any]]:
    """For each kind the card that made most of its rows, with their number and their share of the kind."""
    made: dict[str, Counter[str]] = defaultdict(Counter)
    for row in rows:
        made[row.kind][row.provenance.card] += 1
    largest = {kind: counts.most_common(1)[0] for kind, counts in sorted(made.items())}
    return {
        kind: {"card": card, "rows": count, "share": round(count / made[kind].total(), 4)}
        for kind, (card, count) in largest.items()
    }


def _data_card(manifest: dict[str, Any]) -> str:
    statistics = manifest["statistics"]

    def table(heads: str, rows: Iterable[Iterable[Any]]) -> str:
        lines = [f"| {' | '.join(map(str, row))} |" for row in rows]
        return "\n".join([heads, "|---" * (heads.count("|") - 1) + "|", *lines])

    spread = ("min", "median", "p95", "max")
    lengths = [
        (part, *(statistics[f"{part}_characters"][s] for s in spread)) for part in ("instruction", "input", "output")
    ]
    bars = [
        (name, f"{value:g}", f"at {'most' if BARS[name][1] else 'least'} {BARS[name][0]:g}")
        for name, value in manifest["figures"].items()
    ]
    histogram = [(step["up_to"], step["rows"]) for step in statistics["output_histogram"]]
    largest = [
        (kind, one["card"], one["rows"], f"{100 * one['share']:.1f} %")
        for kind, one in manifest["largest_cards"].items()
    ]
    kinds = [(kind, count, manifest["valid_kinds"][kind]) for kind, count in manifest["kinds"].items()]
    return f"""# The core dataset

{manifest["rows"]} rows that teach a coding model to think in a project's rules: {manifest["train_rows"]} for training,
{manifest["valid_rows"]} for validation. Built from {manifest["cards"]} hand-written cards by
`looptune dataset build core`; the same cards give the same bytes. Licence: {manifest["licence"]}.

The figures are those of `looptune validate` over both files together ({sum(statistics["errors"].values())} errors,
{statistics["contradictory_questions"]} contradictions), and dataset.json has them as data.

{table("| kind | rows | of them held back |", kinds)}

{table("| preservation level | rows |", statistics["levels"].items())}

{table("| language of the code in the answer | rows |", statistics["languages"].items())}

{table("| difficulty | rows |", manifest["difficulties"].items())}

{table("| rule family | tags |", manifest["rule_families"].items())}

{table("| characters | shortest | median | 95 of 100 | longest |", lengths)}

{table("| answers up to so many characters | rows |", histogram)}

{table("| measure | value | bar |", bars)}

{table("| kind | the card that made most of its rows | rows | share of the kind |", largest)}

A template is one exchange, so `largest_template` says nothing of cards; this table does. The largest card of all,
`{statistics["largest_card"]["text"]}`, makes {100 * statistics["largest_card"]["share"]:.1f} % of the rows: one term
that a small model is to learn to the word, beside as many uses of it that must stay what they were.

What the measures mean: `tools/data/measures.py`. Near-duplicates by words and pairs of words:
{statistics["duplicate_rows"]["near"]} rows. Rows of one exchange, and rows whose requests or answers are alike (TF-IDF
cosine {TOGETHER:g}), stand on one side of the split. Rows that came near a held-out probe were left out:
{len(manifest["left_out_near_probes"])}. Tests execute what {manifest["executed_rows"]} rows claim of their code.

The rules are those of [the guide for cards](../cards/README.md). The rows are for training a model that works on a
project with these rules; they are opinionated on purpose, and are no general instruction data.
"""
