"""Verify an exported model: every hash from its GGUF back to the cards, computed anew.

    found = verify(workspace, "forty-two")            # looptune verify forty-two
    found.ok, found.broken

    verify(workspace, "forty-two", fuse_again=True)   # the fused weights too, which are not kept

A file that changed, is missing or does not fit the link before it is named with its stage.
"""

import tempfile
from pathlib import Path
from typing import Any

from pydantic import BaseModel, ValidationError

from tools.errors import CheckError, InputError, LooptuneError
from tools.export.chain import Link, add, hashes, place, read_sealed
from tools.files import require_space, sha256
from tools.models.bases import base_folder, weight_files
from tools.workspace import Workspace

EVALUATION = "evaluation.json"


class Broken(BaseModel):
    """One thing that is not what the manifest says."""

    stage: str
    path: str
    problem: str


class Verification(BaseModel):
    """What was found, and how many files were looked at."""

    ok: bool
    model: str
    files: int
    broken: list[Broken]


def verify(workspace: Workspace, model: str, fuse_again: bool = False) -> Verification:
    """Compute the whole chain of `model` anew. With `fuse_again`, the fused weights too: that takes the time and the
    disk of fusing, and the same kind of device.

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
    for path, (stage, sha) in expected.items():
        checked[path] = found_sha = _hash(workspace, path)
        if found_sha != sha:
            problem = "is missing" if found_sha is None else "is not what it was"
            broken.append(Broken(stage=stage, path=path, problem=problem))
    if fuse_again:
        broken += _fused(workspace, manifest, links)
    return Verification(ok=not broken, model=model, files=len(checked) + 1, broken=broken)


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


def _fused(workspace: Workspace, manifest: dict[str, Any], links: list[Link]) -> list[Broken]:
    """Fuse again, and compare with the hashes of the fused weights that were converted."""
    from tools.export.fuse import fuse

    expected = next((link.values for link in links if link.stage == "fused"), {})
    run = str(manifest["made_from"]["run"])
    try:
        base = base_folder(workspace, manifest["made_from"]["base"])
        needed = 2 * sum(path.stat().st_size for path in weight_files(base))
        require_space(workspace.home, needed, workspace.settings.min_free_gb, "Fusing again")
        with tempfile.TemporaryDirectory(dir=workspace.home, prefix=".verify-") as temporary:
            fuse(base, workspace.run(run) / "adapter", Path(temporary))
            found = hashes(Path(temporary), "fused")
    except LooptuneError as error:
        return [Broken(stage="fused", path=f"runs/{run}/adapter", problem=f"cannot be fused again: {error.message}")]
    names = sorted(expected.keys() | found.keys())
    return [
        Broken(stage="fused", path=name, problem="comes out different")
        for name in names
        if expected.get(name) != found.get(name)
    ]
