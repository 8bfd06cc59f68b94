"""Verify an exported model: every hash from its GGUF back to the cards, computed anew.

    found = verify(workspace, "forty-two")            # looptune verify forty-two
    found.ok, found.broken

    verify(workspace, "forty-two", fuse_again=True)   # the fused weights too, which are not kept

A file that changed, is missing or does not fit the link before it is named with its stage. `notes` say what was not
looked at: the fused weights, unless they are made again, and what the chain of an older version does not have.
"""

from pathlib import Path
from typing import Any

from pydantic import BaseModel, ValidationError

from tools.errors import CheckError, InputError, LooptuneError
from tools.export.again import fused_again
from tools.export.chain import OF_RUN, Link, add, place, read_sealed
from tools.files import sha256
from tools.training.run import WRITTEN
from tools.workspace import Workspace

EVALUATION = "evaluation.json"


class Broken(BaseModel):
    """One thing that is not what the manifest says."""

    stage: str
    path: str
    problem: str


class Verification(BaseModel):
    """What was found, how many files were looked at, and in `notes` what was not."""

    ok: bool
    model: str
    files: int
    broken: list[Broken]
    notes: list[str] = []


def verify(workspace: Workspace, model: str, fuse_again: bool = False, but: str = "") -> Verification:
    """Compute the whole chain of `model` anew. With `fuse_again`, the fused weights too: that takes the time and the
    disk of fusing, and the same kind of device.

    Args:
        but: the beginning of paths that are not looked at, such as those of reports that just changed.

    Raises:
        NotFoundError: no such model.
    """
    folder = workspace.model(model)
    at = f"models/{model}"
    try:
        manifest = read_sealed(folder / "manifest.json")
        links = [Link.model_validate(link) for link in manifest["chain"]]
    except (InputError, KeyError, TypeError, ValidationError) as error:
        said = error.message if isinstance(error, InputError) else f"it holds no chain: {error!r:.200}"
        broken = [Broken(stage="manifest", path=f"{at}/manifest.json", problem=said)]
        return Verification(ok=False, model=model, files=1, broken=broken)
    broken = _unchained(links, f"{at}/manifest.json")
    if (folder / EVALUATION).exists():
        evaluations, found = _evaluations(folder, manifest)
        links, broken = [*links, *evaluations], broken + found
    checked: dict[str, str | None] = {}
    # what an agent judged changes a report, and the evaluation that is recorded then counts: the newest hash of a path
    expected = {path: (link.stage, sha) for link in links for path, sha in link.files.items()}
    expected = {path: value for path, value in expected.items() if not but or not path.startswith(but)}
    for path, (stage, sha) in expected.items():
        checked[path] = found_sha = _hash(workspace, path)
        if found_sha != sha:
            problem = "is missing" if found_sha is None else "is not what it was"
            broken.append(Broken(stage=stage, path=path, problem=problem))
    notes = _older(workspace, links)
    if fuse_again:
        broken += _fused(workspace, manifest)
    else:
        notes.append(f"The fused weights are not kept: looptune verify {model} --fused makes and compares them again.")
    return Verification(ok=not broken, model=model, files=len(checked) + 1, broken=broken, notes=notes)


def require_intact(workspace: Workspace, model: str) -> None:
    """Raises CheckError when anything of `model`'s chain is broken."""
    found = verify(workspace, model)
    if not found.ok:
        first = "; ".join(f"{b.path} {b.problem}" for b in found.broken[:3])
        raise CheckError(f"{model!r} is not what was exported: {first}.", f"looptune verify {model}")


def _hash(workspace: Workspace, path: str) -> str | None:
    found = place(workspace, path)
    try:
        return sha256(found) if found is not None and found.is_file() else None
    except OSError:
        return None


def _older(workspace: Workspace, links: list[Link]) -> list[str]:
    """What a chain of today holds and this one does not, since an earlier version wrote it."""
    files = {link.stage: link.files for link in links}
    run, dataset = (next(iter(files.get(stage, {})), "").rpartition("/")[0] for stage in ("run", "dataset"))
    wanted = [f"{run}/{name}" for name in OF_RUN] + [f"{dataset}/probes.jsonl"]
    lacking = [p for p in wanted if not any(p in known for known in files.values()) and (workspace.home / p).is_file()]
    notes = []
    if lacking:
        notes.append(
            f"Its chain, of an earlier version, lacks {', '.join(lacking)}: export the run again to have them."
        )
    if f"{run}/{WRITTEN}" not in files.get("run", {}):
        notes.append(
            "Its training, of an earlier version, wrote no hashes down: its files are as they were at the export."
        )
    return notes


def _unchained(links: list[Link], path: str) -> list[Broken]:
    """Links whose hash does not follow from the one before."""
    broken: list[Broken] = []
    done: list[Link] = []
    for link in links:
        done = add(done, link.stage, link.files, link.values)
        if done[-1].sha256 != link.sha256:
            broken.append(Broken(stage=link.stage, path=path, problem="its link does not follow from the one before"))
    return broken


def _evaluations(folder: Path, manifest: dict[str, Any]) -> tuple[list[Link], list[Broken]]:
    """The links of the evaluations that were recorded; each has to start from this manifest."""
    path = f"models/{folder.name}/{EVALUATION}"
    try:
        record = read_sealed(folder / EVALUATION)
        links = [Link.model_validate(link) for link in record["chain"]]
    except (InputError, KeyError, TypeError, ValidationError) as error:
        said = error.message if isinstance(error, InputError) else f"it holds no chain: {error!r:.200}"
        return [], [Broken(stage="evaluation", path=path, problem=said)]
    broken = _unchained(links, path)
    if record.get("manifest_sha256") != manifest["sha256"]:
        broken.append(Broken(stage="evaluation", path=path, problem="is of another manifest"))
    return links, broken


def _fused(workspace: Workspace, manifest: dict[str, Any]) -> list[Broken]:
    """Fuse again, and compare with the hashes of the fused weights that were converted."""
    try:
        with fused_again(workspace, manifest, workspace.home) as (_, different):
            return [Broken(stage="fused", path=name, problem="comes out different") for name in different]
    except LooptuneError as error:
        path = f"runs/{manifest['made_from']['run']}/adapter"
        return [Broken(stage="fused", path=path, problem=f"cannot be fused again: {error.message}")]
