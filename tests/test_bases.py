"""Bases: a 4-bit one made once from a full one, hub ids, and where a base came from.

.venv/bin/python -P -m pytest tests/test_bases.py
"""

import os
from collections.abc import Callable

import pytest
from conftest import ROOM, TINY
from trainings import make_lookalike

from tools.errors import InputError, MissingError
from tools.export.layers import run_layers
from tools.files import read_json
from tools.jobs import record
from tools.jobs.worker import main as do_job
from tools.models.bases import base_folder, describe, require_base, slug_of, source
from tools.models.load import load
from tools.settings import Settings
from tools.training.config import preset
from tools.training.plan import plan_training
from tools.workspace import Workspace


@pytest.fixture
def own_bases(with_bases: Workspace) -> Workspace:
    """Bases into which the test may write without others seeing it."""
    shared = with_bases.bases.resolve()
    with_bases.bases.unlink()
    with_bases.bases.mkdir()
    for folder in shared.iterdir():
        (with_bases.bases / folder.name).symlink_to(folder)
    return with_bases


def test_a_4_bit_base_is_made_once_from_the_full_one_trained_on_and_kept(
    own_bases: Workspace, dataset: Callable[..., str]
) -> None:
    name = f"{TINY}-4bit"
    require_base(own_bases, name)
    assert not (own_bases.bases / name).exists()
    config = preset("tiny", dataset=dataset(), base=name, memory_limit_gb=ROOM)
    job = record.create(own_bases, "train", "q", config.model_dump())[0]
    assert do_job(job.folder) == 0, record.read(job.folder).reason
    folder = own_bases.bases / name
    full, packed = describe(own_bases.bases / TINY), describe(folder)
    assert packed.quantization_bits == 4 and packed.parameters == full.parameters
    assert packed.size_bytes < 0.16 * full.size_bytes  # 4.5 of 32 bits
    assert source(folder) == {"base": TINY, "sha256": full.sha256, "bits": 4}
    tokenizers = [(own_bases.bases / base / "tokenizer.json").read_bytes() for base in (TINY, name)]
    assert tokenizers[0] == tokenizers[1]
    made = os.stat(folder / "model.safetensors").st_mtime_ns
    assert base_folder(own_bases, name) == folder
    assert os.stat(folder / "model.safetensors").st_mtime_ns == made


@pytest.mark.slow
def test_a_base_of_another_type_goes_through_plan_and_training_and_its_adapter_loads(
    own_bases: Workspace, dataset: Callable[..., str]
) -> None:
    make_lookalike(own_bases.bases / TINY, own_bases.bases / "rock", "granite")
    config = preset("tiny", dataset=dataset(), base="rock", gradient_checkpointing=True, memory_limit_gb=ROOM)
    plan = plan_training(own_bases, config)
    assert plan.fits and plan.rows == 32
    job = record.create(own_bases, "train", "rock", config.model_dump())[0]
    assert do_job(job.folder) == 0, record.read(job.folder).reason
    result = record.read(job.folder).result
    assert result["way"] == "autodiff, row by row" == read_json(job.folder / "setup.json")["way"]
    assert result["valid_loss"] < result["valid_loss_before"]
    model, _ = load(own_bases.bases / "rock", job.folder / "adapter")
    assert model.model_type == "granite"
    with pytest.raises(InputError, match="rock is of type granite; exports are checked of llama"):
        run_layers(own_bases.bases / "rock", None, [[1, 2]])


def test_a_hub_id_is_a_base_where_downloads_are_allowed(workspace: Workspace) -> None:
    with pytest.raises(MissingError, match="LOOPTUNE_ALLOW_DOWNLOADS=1"):
        require_base(workspace, "Qwen/Qwen2.5-0.5B-Instruct")
    require_base(Workspace.open(Settings(allow_downloads=True)), "Qwen/Qwen2.5-0.5B-Instruct")
    assert slug_of("Qwen/Qwen2.5-0.5B-Instruct") == "qwen--qwen2.5-0.5b-instruct"
    for wrong in ("../../etc/passwd", "a/b/c", "/etc", "a/..", "https://example.org/x"):
        with pytest.raises(InputError, match="hub id"):
            require_base(workspace, wrong)


def test_a_fetched_base_is_pinned_to_a_commit_and_brings_no_code(
    workspace: Workspace, monkeypatch: pytest.MonkeyPatch
) -> None:
    """The hub's client is stood in for; what is asked of it, and what is kept, is what counts."""
    import huggingface_hub

    asked: dict[str, object] = {}

    class Api:
        def model_info(self, repository: str, files_metadata: bool) -> object:
            names = ("config.json", "model.safetensors", "modeling.py", "pytorch_model.bin")
            files = [huggingface_hub.hf_api.RepoSibling(rfilename=name, size=10) for name in names]
            return type("Info", (), {"sha": "c0ffee", "siblings": files})()

    def download(repository: str, **given: object) -> None:
        asked.update(given, repository=repository)
        (given["local_dir"] / "config.json").write_text("{}")  # type: ignore[operator]

    monkeypatch.setattr(huggingface_hub, "HfApi", Api)
    monkeypatch.setattr(huggingface_hub, "snapshot_download", download)
    allowed = Workspace.open(Settings(allow_downloads=True))
    folder = base_folder(allowed, "owner/Name")
    assert source(folder) == {"repository": "owner/Name", "revision": "c0ffee"} and asked["revision"] == "c0ffee"
    assert set(asked["allow_patterns"]) == {"*.json", "*.safetensors", "*.txt", "*.jinja"}  # type: ignore[call-overload]
