"""The chain of hashes from an exported model back to the cards that its rows were made from.

    links = trained_chain(workspace, run)          # cards → rows → dataset → run → base → checkpoint → adapter
    links = add(links, "gguf", hashes(folder, "models/forty-two"))
    write_sealed(path, {"chain": [...], …})        # JSON that carries its own hash

Each link names files by SHA-256, and its own hash covers the link before it, so that the last one stands for all.
Paths are relative to the workspace; those under `shipped/` to the data that ships with looptune. The cards are the
copies that a dataset keeps, so a shipped one may be edited later. A seal finds damage and mistakes; it is no signature
against someone who rewrites the files and the seal.
"""

import hashlib
import json
from collections.abc import Iterable
from pathlib import Path
from typing import Any

from pydantic import BaseModel

from tools.data.datasets import SOURCES, read_manifest
from tools.errors import CheckError, InputError
from tools.files import read_json, sha256, write_json
from tools.models.bases import base_folder, weight_files
from tools.settings import shipped_data
from tools.training.run import WRITTEN
from tools.workspace import Workspace

SHIPPED = "shipped"
# What of a run is evidence, beside its checkpoints and adapter; its log and its process id are not.
OF_RUN = ("job.json", "changes.json", "state.json", "metrics.jsonl", "setup.json", "profile.json", WRITTEN)


class Link(BaseModel):
    """One stage: its files, what else is known of it, and the hash of this and every link before it."""

    stage: str
    files: dict[str, str]
    values: dict[str, Any] = {}
    sha256: str


def add(links: list[Link], stage: str, files: dict[str, str], values: dict[str, Any] | None = None) -> list[Link]:
    """`links` and one more."""
    values = values or {}
    before = links[-1].sha256 if links else ""
    return [*links, Link(stage=stage, files=files, values=values, sha256=digest([before, stage, files, values]))]


def digest(value: Any) -> str:
    """The SHA-256 of JSON data, whatever the order of its keys."""
    return hashlib.sha256(json.dumps(value, sort_keys=True, separators=(",", ":")).encode()).hexdigest()


def hashes(folder: Path, prefix: str, names: Iterable[str] | None = None) -> dict[str, str]:
    """The SHA-256 of the files in `folder` (all but hidden ones, or `names`), by path under `prefix`."""
    if names is None:
        paths = sorted(p for p in folder.rglob("*") if p.is_file() and not _hidden(p.relative_to(folder)))
    else:
        paths = [folder / name for name in names if (folder / name).is_file()]
    return {f"{prefix}/{path.relative_to(folder).as_posix()}": sha256(path) for path in paths}


def _hidden(path: Path) -> bool:
    return any(part.startswith(".") for part in path.parts)


def place(workspace: Workspace, path: str) -> Path | None:
    """The file that a link's `path` stands for; None when it would lie outside workspace and shipped data."""
    parts = Path(path).parts
    if not parts or Path(path).is_absolute() or ".." in parts:
        return None
    return shipped_data().joinpath(*parts[1:]) if parts[0] == SHIPPED else workspace.home / path


def trained_chain(workspace: Workspace, run: str) -> list[Link]:
    """The links from the cards to the adapter of a finished training.

    What the run recorded of its dataset when it was trained counts, not what lies there now, so that a later change
    is found by `verify`.

    Raises:
        NotFoundError: no such run.
        CheckError: a file of it is not what its training wrote, or its base is another.
    """
    folder = workspace.run(run)
    trained = read_json(folder / "state.json")["result"]
    require_written(folder, trained)
    dataset = workspace.datasets / trained["dataset"]
    at = f"datasets/{dataset.name}"
    cards: dict[str, str] = {}
    split = {f"{at}/train.jsonl": trained["train_sha256"]}
    if (dataset / "dataset.json").is_file():  # else `verify` says that it is missing
        manifest = read_manifest(dataset)
        kept = f"{at}/{SOURCES}" if (dataset / SOURCES).is_dir() else SHIPPED
        cards = {f"{kept}/{path}": value for path, value in manifest.source_sha256.items()}
        split |= {f"{at}/valid.jsonl": manifest.valid_sha256, **hashes(dataset, at, ["dataset.json"])}
        if manifest.probes_sha256:
            split[f"{at}/probes.jsonl"] = manifest.probes_sha256
    links = add([], "cards", cards)
    links = add(links, "rows", {f"{at}/rows.jsonl": trained["dataset_sha256"]})
    links = add(links, "dataset", split)
    links = add(links, "run", hashes(folder, f"runs/{run}", OF_RUN), {"config": trained["config"]})
    base = base_folder(workspace, trained["base"])
    files = hashes(base, f"bases/{base.name}")
    require_base(base, files, trained["base_sha256"])
    links = add(links, "base", files, {"sha256": trained["base_sha256"]})
    for stage, part in (("checkpoint", "checkpoints"), ("adapter", "adapter")):
        links = add(links, stage, hashes(folder / part, f"runs/{run}/{part}"))
    return links


def require_base(base: Path, files: dict[str, str], wanted: str) -> None:
    """Hold the hashes of a base's `files` against the one hash that the training saw (`tools.models.bases.describe`
    keeps it by size and time of the files, which a damaged disk does not change).

    Raises:
        CheckError: it is another.
    """
    named = [*weight_files(base), base / "config.json"]
    together = "".join(files.get(f"bases/{base.name}/{path.name}", "") for path in named)
    if hashlib.sha256(together.encode()).hexdigest() != wanted:
        raise CheckError(
            f"The base {base.name!r} is not the one that was trained on.", "bring it back from a copy, or train again"
        )


def require_written(folder: Path, trained: dict[str, Any]) -> None:
    """Hold the files of a run against the hashes that its training wrote down. Checkpoints may be gone, to make room.

    Raises:
        CheckError: one was changed, or is missing.
    """
    wanted = trained.get("written_sha256")
    if wanted is None:  # trained by an earlier version, which wrote none down
        return
    whole = (folder / WRITTEN).is_file() and sha256(folder / WRITTEN) == wanted
    written = read_json(folder / WRITTEN) if whole else {WRITTEN: wanted}
    for name, expected in written.items():
        path = folder / name
        if not path.is_file():
            if name.startswith("checkpoints/") and not path.parent.is_dir():
                continue
            problem = "is missing"
        elif sha256(path) != expected:
            problem = "is not what its training wrote"
        else:
            continue
        raise CheckError(f"{name} of {folder.name} {problem}.", "bring it back from a copy, or train again")


def write_sealed(path: Path, value: dict[str, Any]) -> str:
    """Write JSON that carries its own hash under `sha256`; returns the hash."""
    body = {key: part for key, part in value.items() if key != "sha256"}
    # what is hashed is what a reader will parse: tuples become lists, keys become text
    body = json.loads(json.dumps(body, ensure_ascii=False))
    seal = digest(body)
    write_json(path, {**body, "sha256": seal})
    return seal


def read_sealed(path: Path) -> dict[str, Any]:
    """The JSON that `write_sealed` wrote.

    Raises:
        InputError: a byte of it changed.
    """
    try:
        data = path.read_bytes()
        value = json.loads(data)
        body = {key: part for key, part in value.items() if key != "sha256"}
        whole = data == (json.dumps(value, ensure_ascii=False, indent=2) + "\n").encode()
    except (OSError, ValueError, AttributeError) as error:
        raise InputError(f"{path.name} cannot be read: {error}", "export the model again") from error
    if not whole or digest(body) != value.get("sha256"):
        raise InputError(f"{path.name} is not what was written.", "export the model again")
    return dict(value)
