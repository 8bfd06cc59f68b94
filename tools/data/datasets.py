"""Datasets: a named folder of rows with its manifest.

    datasets/NAME/rows.jsonl      every row, as generated or brought
                 dataset.json     the manifest: counts, seed, hashes, status
                 probes.jsonl     questions that no row asks, when it was made from terms
                 train.jsonl      the split 80/20, written by validate
                 valid.jsonl
                 report.json      what validation found

The manifest is written last, so a folder with one is whole.
"""

import hashlib
import json
from collections import Counter
from collections.abc import Iterable, Sequence
from datetime import UTC, datetime
from pathlib import Path
from typing import Any, Literal

from pydantic import BaseModel

from tools.data.examples import Example, read_examples, write_examples
from tools.errors import CheckError, ConflictError
from tools.files import read_json, sha256, whole_folder, write_json, write_text
from tools.settings import shipped_data
from tools.workspace import Workspace, check_name, slug

GENERATOR = "looptune/1"


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


def section(row: Example) -> str:
    """The part of its material a row came from, such as `questions` or `negatives`; `rows` when not generated."""
    return row.provenance.template.partition("/")[0] or "rows"


def create(
    workspace: Workspace,
    name: str | None,
    rows: list[Example],
    *,
    title: str,
    seed: int | None,
    sources: list[str],
    notes: list[str],
    terms: dict[str, str],
    probes: Sequence[dict[str, Any]] = (),
) -> Manifest:
    """Write a new draft dataset; the same rows under the same name are the same dataset.

    Args:
        name: its name; without one, `title` made safe, with a number when that is taken.

    Raises:
        ConflictError: the name is taken by other rows.
        LimitError: the disk is full; nothing is left behind.
    """
    if name is not None:
        check_name(name, "dataset name")
    with workspace.lock("datasets"):
        stem, number = name or slug(title), 1
        while True:
            target = workspace.datasets / (stem if number == 1 else f"{stem}-{number}")
            if not target.exists():
                break
            manifest = read_manifest(target)
            if manifest.rows_sha256 == _rows_hash(rows):
                return manifest
            if name is not None:
                raise ConflictError(
                    f"The dataset {name!r} exists and holds other rows.",
                    "choose another name, or leave `name` out",
                )
            number += 1
        with whole_folder(target) as folder:
            write_examples(folder / "rows.jsonl", rows)
            if probes:
                write_text(folder / "probes.jsonl", (json.dumps(probe, ensure_ascii=False) + "\n" for probe in probes))
            manifest = Manifest(
                name=target.name,
                rows=len(rows),
                kinds=dict(Counter(row.kind for row in rows)),
                sections=dict(Counter(section(row) for row in rows)),
                seed=seed,
                sources=sources,
                source_sha256=source_hashes(sources),
                notes=notes,
                terms=terms,
                created=datetime.now(UTC).isoformat(timespec="seconds"),
                rows_sha256=sha256(folder / "rows.jsonl"),
                probes=len(probes),
                probes_sha256=sha256(folder / "probes.jsonl") if probes else "",
            )
            write_manifest(folder, manifest)
    return manifest


def source_hashes(sources: Iterable[str]) -> dict[str, str]:
    """The SHA-256 of the shipped cards among `sources`, and of the templates, by path under the shipped data."""
    shipped = shipped_data()
    cards = [path for name in sources if (path := shipped / "cards" / f"{name}.yaml").is_file()]
    templates = sorted((shipped / "templates").glob("*.yaml")) if cards else []
    return {path.relative_to(shipped).as_posix(): sha256(path) for path in [*cards, *templates]}


def _rows_hash(rows: list[Example]) -> str:
    return hashlib.sha256("".join(row.model_dump_json() + "\n" for row in rows).encode()).hexdigest()


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
