"""Datasets: a named folder of rows with its manifest.

    datasets/NAME/rows.jsonl      every row, as generated or brought
                 dataset.json     the manifest: counts, seed, hashes, status
                 probes.jsonl     questions that no row asks, when it was made from terms
                 sources/         copies of the cards and templates that made the rows, and the terms and rules
                 train.jsonl      the split 80/20, written by validate
                 valid.jsonl
                 report.json      what validation found; the same as report.md and report.html
                 changes.json     in a repaired copy: every change, and the dataset it was made of

The manifest is written last, so a folder with one is whole.
"""

import json
import tempfile
from collections import Counter
from collections.abc import Iterable, Iterator, Mapping, Sequence
from contextlib import contextmanager
from datetime import UTC, datetime
from pathlib import Path
from types import MappingProxyType
from typing import Any, Literal

from pydantic import BaseModel

from tools.data.examples import Example, read_examples, write_examples
from tools.errors import CheckError, ConflictError
from tools.files import read_json, sha256, whole_folder, write_json, write_text
from tools.settings import shipped_data
from tools.workspace import Workspace, check_name, slug

GENERATOR = "looptune/1"
SOURCES = "sources"


class Manifest(BaseModel):
    """What dataset.json holds."""

    name: str
    status: Literal["draft", "valid", "invalid"] = "draft"
    rows: int
    kinds: dict[str, int]
    sections: dict[str, int]
    generator: str = GENERATOR
    seed: int | None = None
    sources: list[str] = []
    source_sha256: dict[str, str] = {}
    notes: list[str] = []
    terms: dict[str, str] = {}
    created: str
    rows_sha256: str
    probes: int = 0
    probes_sha256: str = ""
    train_rows: int = 0
    valid_rows: int = 0
    train_sha256: str = ""
    valid_sha256: str = ""
    replay_share: float = 0.0
    replayed: int = 0


def section(row: Example) -> str:
    """The part of its material a row came from, such as `questions` or `negatives`; `rows` when it came as it is,
    from a lesson or from a person."""
    part, slash, _ = row.provenance.template.partition("/")
    return part if slash and part else "rows"


def create(
    workspace: Workspace,
    name: str | None,
    rows: Iterable[Example],
    *,
    title: str,
    seed: int | None,
    sources: list[str],
    notes: list[str],
    terms: dict[str, str],
    probes: Sequence[dict[str, Any]] = (),
    replay_share: float = 0.0,
    replayed: int = 0,
    material: Mapping[str, str] = MappingProxyType({}),
) -> Manifest:
    """Write a new draft dataset; the same rows under the same name are the same dataset.

    Args:
        rows: pass by once and are not held.
        name: its name; without one, `title` made safe, with a number when that is taken.
        replay_share: the share of rows that earlier knowledge was to have, and in `replayed` how many it got.
        material: what the rows were made of, text by path (see `shipped_material`); a copy is kept in `sources/`.

    Raises:
        ConflictError: the name is taken by other rows.
        LimitError: the disk is full; nothing is left behind.
    """
    if name is not None:
        check_name(name, "dataset name")
    with workspace.lock("datasets"), _written(workspace, rows) as (written, kinds, sections):
        rows_sha256 = sha256(written)
        stem, number = name or slug(title), 1
        while True:
            target = workspace.datasets / (stem if number == 1 else f"{stem}-{number}")
            if not target.exists():
                break
            manifest = read_manifest(target)
            if manifest.rows_sha256 == rows_sha256:
                return manifest
            if name is not None:
                raise ConflictError(
                    f"The dataset {name!r} exists and holds other rows.",
                    "choose another name, or leave `name` out",
                )
            number += 1
        with whole_folder(target) as folder:
            written.rename(folder / "rows.jsonl")
            for path, text in material.items():
                write_text(folder / SOURCES / path, text)
            if probes:
                write_text(folder / "probes.jsonl", (json.dumps(probe, ensure_ascii=False) + "\n" for probe in probes))
            manifest = Manifest(
                name=target.name,
                rows=kinds.total(),
                kinds=dict(kinds),
                sections=dict(sections),
                seed=seed,
                sources=sources,
                source_sha256={path: sha256(folder / SOURCES / path) for path in material},
                notes=notes,
                terms=terms,
                created=datetime.now(UTC).isoformat(timespec="seconds"),
                rows_sha256=rows_sha256,
                probes=len(probes),
                probes_sha256=sha256(folder / "probes.jsonl") if probes else "",
                replay_share=replay_share,
                replayed=replayed,
            )
            write_manifest(folder, manifest)
    return manifest


def shipped_material(cards: Iterable[str], templates: Iterable[str]) -> dict[str, str]:
    """The text of these shipped cards and templates, by path under the shipped data."""
    paths = [*(f"cards/{name}.yaml" for name in cards), *(f"templates/{name}.yaml" for name in templates)]
    return {path: (shipped_data() / path).read_text(encoding="utf-8") for path in paths}


def kept_material(folder: Path) -> dict[str, str]:
    """What the dataset in `folder` keeps of its material, text by path."""
    kept = {path: folder / SOURCES / path for path in read_manifest(folder).source_sha256}
    return {path: file.read_text(encoding="utf-8") for path, file in kept.items() if file.is_file()}


@contextmanager
def _written(workspace: Workspace, rows: Iterable[Example]) -> Iterator[tuple[Path, Counter[str], Counter[str]]]:
    """`rows` in a file that is there for the while of the block, and their counts by kind and by section."""
    kinds, sections = Counter[str](), Counter[str]()

    def counted() -> Iterator[Example]:
        for row in rows:
            kinds[row.kind] += 1
            sections[section(row)] += 1
            yield row

    workspace.datasets.mkdir(parents=True, exist_ok=True)
    with tempfile.TemporaryDirectory(dir=workspace.datasets, prefix=".rows-") as folder:
        write_examples(Path(folder, "rows.jsonl"), counted())
        yield Path(folder, "rows.jsonl"), kinds, sections


def read_manifest(folder: Path) -> Manifest:
    """The manifest of the dataset in `folder`."""
    return Manifest.model_validate(read_json(folder / "dataset.json"))


def write_manifest(folder: Path, manifest: Manifest) -> None:
    """Write the manifest, atomically."""
    write_json(folder / "dataset.json", manifest.model_dump())


def read_split(workspace: Workspace, name: str) -> tuple[list[Example], list[Example], Manifest]:
    """The training and validation rows of a valid dataset.

    Raises:
        NotFoundError: no such dataset.
        CheckError: it has not been validated, has errors, or changed since.
    """
    folder = workspace.dataset(name)
    manifest = read_manifest(folder)
    if manifest.status != "valid":
        raise CheckError(
            f"The dataset {name!r} is {manifest.status}: training takes a dataset that was found valid.",
            f"call validate_dataset(dataset={name!r}) and mend what it names",
        )
    for part, expected in (("train", manifest.train_sha256), ("valid", manifest.valid_sha256)):
        if sha256(folder / f"{part}.jsonl") != expected:
            raise CheckError(
                f"{part}.jsonl of {name!r} is not what was validated.",
                f"call validate_dataset(dataset={name!r}) again",
            )
    return read_examples(folder / "train.jsonl"), read_examples(folder / "valid.jsonl"), manifest
