"""Recipes, plans and limits: what a training says that it will take, and that it keeps to it.

.venv/bin/python -P -m pytest tests/test_training_plan.py
"""

import shutil
import subprocess
import sys
from collections.abc import Callable
from pathlib import Path
from typing import Any

import psutil
import pytest
from conftest import TINY
from trainings import job_of, suggested, trained, trainer_of

from tools.data.tokens import EncodedRow
from tools.errors import InputError, LimitError, MissingError, NotFoundError
from tools.files import read_json, sha256, write_bytes, write_json
from tools.jobs import record
from tools.jobs.worker import main as do_job
from tools.models.bases import EMBEDDED, describe
from tools.models.load import device
from tools.models.shapes import known_shape
from tools.settings import Settings
from tools.training.config import ALIASES, ALL_LINEARS, TrainingConfig, preset, preset_keys, preset_names
from tools.training.metrics import read_metrics
from tools.training.plan import plan_training
from tools.training.start import resume_training
from tools.workspace import Workspace


@pytest.mark.parametrize("name", preset_names())
def test_a_preset_is_a_complete_recipe(name: str) -> None:
    """Every key is a field of the model, every value stands as the file has it, and what decides is not left out."""
    config, keys = preset(name, dataset="holds"), preset_keys(name)
    assert (config.rank, config.alpha, config.scale) == (16, 32, 2.0)
    assert config.targets == list(ALL_LINEARS)
    assert {key: getattr(config, key) for key in keys} == keys
    decided = {"base", "rank", "alpha", "learning_rate", "schedule", "batch_size", "epochs", "max_length", "seed"}
    assert decided | {"gradient_checkpointing", "eval_every", "save_every", "memory_limit_gb"} <= keys.keys()
    assert TrainingConfig.model_validate_json(config.model_dump_json()) == config


def test_presets_are_for_the_embedded_base_tests_an_m1_max_and_cuda_and_keep_their_short_names() -> None:
    assert preset_names() == ["qwen2.5-coder-7b-cuda", "qwen2.5-coder-7b-m1max", "smollm2-135m", "tiny"]
    for short, name in ALIASES.items():
        assert preset(short, dataset="holds") == preset(name, dataset="holds")
    target = preset("qwen2.5-coder-7b", dataset="holds")
    assert target.gradient_checkpointing and target.memory_limit_gb == 16 and target.device == "metal"
    assert preset("qwen2.5-coder-7b", dataset="holds", max_length=4096).pack_tokens == 4096


def test_a_config_refuses_unknown_keys_and_contradictions() -> None:
    with pytest.raises(InputError, match="ranks is not a setting"):
        preset("embedded", dataset="holds", ranks=3)
    with pytest.raises(InputError, match="must hold at least one row"):
        preset("embedded", dataset="holds", max_length=512, pack_tokens=100)
    with pytest.raises(InputError, match="targets"):
        preset("embedded", dataset="holds", targets=["lm_head"])
    with pytest.raises(InputError, match="names a matrix twice"):
        preset("embedded", dataset="holds", targets=["q_proj", "q_proj"])
    with pytest.raises(NotFoundError, match="embedded"):
        preset("nope", dataset="holds")


@pytest.mark.slow
def test_a_row_that_is_cut_is_named_in_the_plan_the_log_and_the_result(
    with_bases: Workspace, dataset: Callable[..., str]
) -> None:
    name = dataset()
    plan = plan_training(with_bases, preset("embedded", dataset=name, base=TINY, max_length=50))
    assert 0 < plan.truncated_rows == len(plan.truncated_lines) < plan.rows + plan.dropped_rows
    assert (
        f"{plan.truncated_rows} rows are longer than 50 tokens" in plan.verdict
        and "raise max_length" in plan.advice.casefold()
    )
    job = job_of(with_bases, name, max_length=50)
    record.start(with_bases, job)
    assert record.wait(job.folder, 120).result["truncated_rows"] == plan.truncated_rows
    assert f"lines {plan.truncated_lines[0]}, " in (job.folder / "log").read_text()


# with dropout the logits of a whole pack are there at once, and decide what the tiny base takes
WIDE = {"batch_size": 64, "pack_tokens": 4096, "max_length": 64, "dropout": 0.1, "epochs": 1}


# a worker of its own that asks no estimate: what a process has freed and keeps, it would not be seen to take
UNFORESEEN = """
import sys
from pathlib import Path
from tools.jobs.worker import main
from tools.training import run
run.foresee = lambda trainer: None
sys.exit(main(Path(sys.argv[1])))
"""


@pytest.mark.slow
def test_a_training_stops_at_its_memory_limit_keeps_a_checkpoint_and_goes_on_as_it_suggests(
    with_bases: Workspace, dataset: Callable[..., str]
) -> None:
    """Its packs are too large, which the estimate is not asked for here; the suggested ones are small enough."""
    name = dataset(200)
    job = job_of(with_bases, name, memory_limit_gb=0.85, **WIDE)
    assert subprocess.run([sys.executable, "-P", "-c", UNFORESEEN, job.folder]).returncode == 1
    state = record.read(job.folder)
    assert state.state == "stopped" and state.reason.startswith("memory limit: the training came to "), state.reason
    assert list((job.folder / "checkpoints").glob("step-*/progress.json"))
    settings = suggested(state)
    assert settings["pack_tokens"] < WIDE["pack_tokens"]
    with pytest.raises(InputError, match="keeps its rank"):
        resume_training(with_bases, job.id, {"rank": 8})
    resume_training(with_bases, job.id, settings)
    state = record.wait(job.folder, 120)
    assert state.state == "finished" and state.result["steps"] == 3, record.log_tail(job.folder)
    assert read_json(job.folder / "setup.json")["config"]["pack_tokens"] == settings["pack_tokens"]


@pytest.mark.slow
def test_a_pack_that_will_not_fit_stops_the_run_before_its_first_step_and_the_suggestion_is_kept_to(
    with_bases: Workspace, dataset: Callable[..., str]
) -> None:
    name = dataset(200)
    plan = plan_training(with_bases, preset("tiny", dataset=name, **WIDE))
    job = job_of(with_bases, name, memory_limit_gb=0.95 * plan.peak_memory_gb, **WIDE)
    planned = plan_training(with_bases, TrainingConfig.model_validate(job.config))
    assert not planned.fits and planned.advice
    assert do_job(job.folder) == 1
    state = record.read(job.folder)
    assert state.state == "stopped" and "the largest pack would take the training to" in state.reason, state.reason
    assert f"{plan.peak_memory_gb:.2f} GB" in state.reason and state.step == 0
    assert not (job.folder / "metrics.jsonl").exists() and not state.metrics
    resume_training(with_bases, job.id, suggested(state))
    state = record.wait(job.folder, 120)
    assert state.state == "finished", record.log_tail(job.folder)
    assert state.result["peak_memory_gb"] < 0.95 * plan.peak_memory_gb


@pytest.mark.slow
def test_a_training_may_never_take_more_than_the_machine_or_its_container_can_give(
    with_bases: Workspace, dataset: Callable[..., str], tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    from tools.training import memory

    container, older = tmp_path / "memory.max", tmp_path / "memory.limit_in_bytes"
    monkeypatch.setattr(memory, "_CONTAINER", (container, older))
    whole = psutil.virtual_memory().total / 1e9
    assert memory.machine_gb() == whole and memory.bound_gb(1e6) == pytest.approx(0.9 * whole)
    container.write_text("max\n")
    assert memory.machine_gb() == whole
    older.write_text(f"{2**62}\n")  # how the older kind says that there is none
    assert memory.machine_gb() == whole
    container.write_text("600000000\n")
    assert memory.machine_gb() == 0.6
    assert (memory.bound_gb(16), memory.bound_gb(0.5)) == (pytest.approx(0.54), 0.5)
    config = preset("tiny", dataset=dataset(), memory_limit_gb=16)
    plan = plan_training(with_bases, config)
    assert plan.limit_gb == 0.54 and not plan.fits
    job = record.create(with_bases, "train", "x", config.model_dump())[0]
    assert do_job(job.folder) == 1
    state = record.read(job.folder)
    assert state.state == "stopped" and "0.54 GB is its limit" in state.reason, state.reason


def test_a_limit_below_what_the_base_takes_stops_before_the_first_step(
    with_bases: Workspace, dataset: Callable[..., str]
) -> None:
    job = job_of(with_bases, dataset(), memory_limit_gb=0.05)
    assert do_job(job.folder) == 1
    state = record.read(job.folder)
    assert (state.state, state.step) == ("stopped", 0) and "memory limit" in state.reason
    assert "smaller base" in state.next_step


def test_the_suggestion_at_the_memory_limit_fits_by_the_estimate(
    with_bases: Workspace, dataset: Callable[..., str]
) -> None:
    from tools.training.estimate import Pass, fitting_settings, peak_gb

    info = known_shape("qwen2.5-coder-7b-instruct-4bit")
    assert info
    config = preset("qwen2.5-coder-7b", dataset="holds", gradient_checkpointing=False)
    rows = [EncodedRow(tuple(range(900)), 300), EncodedRow(tuple(range(2000)), 100)]
    changes = fitting_settings(info, config, rows, used_gb=15.8, limit_gb=16, device_name="metal")
    assert changes
    changed = config.model_copy(update=changes)
    assert peak_gb(info, changed, Pass.full(changed.pack_tokens, 2000, 0.9), "metal") < 16


def mounted(disk: Path, size: str) -> None:
    """A small file system of its own at `disk`; the test is skipped where this machine mounts none."""
    done = subprocess.run(["mount", "-t", "tmpfs", "-o", f"size={size}", "none", str(disk)], capture_output=True)
    if done.returncode:
        pytest.skip("no file system can be mounted here")


def unmount(disk: Path) -> None:
    """Lazily, since the threads of a worker that has just ended may still be closing their files."""
    subprocess.run(["umount", "--lazy", str(disk)], check=True)


def test_a_disk_that_fills_up_leaves_the_last_checkpoint_whole(
    with_bases: Workspace, dataset: Callable[..., str], tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """On a real small disk."""
    from tools.training import checkpoints

    disk = tmp_path / "disk"
    disk.mkdir()
    mounted(disk, "4m")
    try:
        trainer = trainer_of(with_bases, dataset(), epochs=3, keep_checkpoints=1)
        (trainer.run / "checkpoints").symlink_to(disk, target_is_directory=True)
        trainer.min_free_gb = 0.0
        trainer._resume()
        trainer._save(1)
        fill(disk, 100_000)  # a checkpoint takes 0.4 MB
        with pytest.raises(LimitError, match="The checkpoint after step 2"):
            trainer._save(2)
        monkeypatch.setattr(checkpoints, "require_space", lambda *given: None)  # somebody else filled it meanwhile
        with pytest.raises(LimitError, match="No space left"):
            trainer._save(2)
        whole = checkpoints.latest(trainer.run)
        assert whole and whole.name == "step-000001" and not list(disk.glob(".step-*"))
    finally:
        unmount(disk)


def fill(disk: Path, left: int) -> Path:
    """Fill a disk up to its last `left` bytes; returns the file that does it."""
    filler = disk / "filler"
    filler.write_bytes(b"1" * max(0, shutil.disk_usage(disk).free - left))
    return filler


@pytest.mark.slow
def test_a_run_whose_disk_fills_up_says_so_and_goes_on_exactly_once_there_is_room(
    with_bases: Workspace, dataset: Callable[..., str], monkeypatch: pytest.MonkeyPatch
) -> None:
    """The whole folder of the run, its state included, is on a small disk that has not a byte left."""
    monkeypatch.setenv("LOOPTUNE_MIN_FREE_GB", "0")
    workspace, name = Workspace.open(), dataset()
    changes = {"epochs": 8, "save_every": 1, "keep_checkpoints": 1, "eval_every": 10}
    straight, job = job_of(workspace, name, **changes), job_of(workspace, name, **changes)
    trained(straight)
    record_of = {path.name: path.read_bytes() for path in job.folder.iterdir()}
    mounted(job.folder, "6m")
    try:
        for file, content in record_of.items():
            (job.folder / file).write_bytes(content)
        record.start(workspace, job)
        while (state := record.read(job.folder)).step < 3:
            assert state.state in record.ACTIVE, record.log_tail(job.folder)
        filler = fill(job.folder, 0)
        state = record.wait(job.folder, 120)
        assert state.state == "failed" and not state.died, state
        assert "No space left on the disk" in state.reason or "The checkpoint after step" in state.reason
        assert "free some space" in state.next_step
        assert read_json(job.folder / "state.json")["state"] == "failed"
        assert 0 < state.step < straight_steps(straight)
        filler.unlink()
        resume_training(workspace, job.id)
        state = record.wait(job.folder, 120)
        assert state.state == "finished", record.log_tail(job.folder)
        one, other = (sha256(run.folder / "adapter" / "adapters.safetensors") for run in (straight, job))
        assert one == other and len(read_metrics(job.folder)) == straight_steps(straight)
        assert (job.folder / "spare").stat().st_size == record.SPARE_BYTES
    finally:
        unmount(job.folder)


def test_a_state_that_a_full_disk_has_no_room_for_takes_the_spare(tmp_path: Path) -> None:
    disk = tmp_path / "disk"
    disk.mkdir()
    mounted(disk, "1m")
    try:
        spare = disk / "spare"
        spare.write_bytes(b"\0" * record.SPARE_BYTES)
        fill(disk, 0)
        record.with_spare(disk, lambda: write_json(disk / "state.json", {"state": "failed"}))
        assert read_json(disk / "state.json") == {"state": "failed"} and not spare.exists()
        with pytest.raises(LimitError, match="No space left"):  # what the spare does not make room for either
            record.with_spare(disk, lambda: write_bytes(disk / "more", b"1" * 2 * record.SPARE_BYTES))
    finally:
        unmount(disk)


def straight_steps(job: record.Job) -> int:
    return int(record.read(job.folder).result["steps"])


@pytest.mark.slow
def test_a_plan_leaves_nothing_behind_and_knows_the_embedded_base_before_it_is_unpacked(
    workspace: Workspace, bases: Path, dataset: Callable[..., str]
) -> None:
    """Of the package it reads tokenizer and shape; the same plan comes of the base once it stands there."""
    name = dataset()
    device()  # may prepare a BLAS in the workspace's cache
    before = {path for path in workspace.home.rglob("*") if path.is_file()}
    plans = {base: plan_training(workspace, preset("embedded", dataset=name, base=base)) for base in (EMBEDDED, TINY)}
    assert {path for path in workspace.home.rglob("*") if path.is_file()} == before
    assert not workspace.bases.exists()
    packed = plan_training(workspace, preset("embedded", dataset=name, base=f"{EMBEDDED}-4bit"))
    assert "made from" in " ".join(packed.assumptions) and packed.memory_parts_gb["weights"] < 0.5
    assert not workspace.bases.exists()
    workspace.bases.symlink_to(bases, target_is_directory=True)
    for base, early in plans.items():
        assert "will be unpacked" in " ".join(early.assumptions)
        late = plan_training(workspace, preset("embedded", dataset=name, base=base))
        same = {"peak_memory_gb", "memory_parts_gb", "steps", "tokens", "trained_tokens", "longest_row", "fits_up_to"}
        assert early.model_dump(include=same) == late.model_dump(include=same)
        here, known = describe(workspace.bases / base), known_shape(base)
        assert known and abs(known.size_bytes / here.size_bytes - 1) < 0.001
        apart = {"size_bytes", "sha256"}
        assert known.model_dump(exclude=apart) == here.model_dump(exclude=apart)
        assert early.disk_gb - late.disk_gb == pytest.approx(known.size_bytes / 1e9, abs=0.002)


def test_a_plan_says_what_would_have_to_be_fetched_and_fetches_nothing(
    workspace: Workspace, dataset: Callable[..., str], monkeypatch: pytest.MonkeyPatch
) -> None:
    import huggingface_hub

    def asked(*_given: Any, **_named: Any) -> None:
        raise AssertionError("a plan asked the hub")

    monkeypatch.setattr(huggingface_hub, "HfApi", asked)
    monkeypatch.setattr(huggingface_hub, "snapshot_download", asked)
    allowed = Workspace.open(Settings(allow_downloads=True))
    with pytest.raises(MissingError, match="a plan fetches nothing") as refused:
        plan_training(allowed, preset("embedded", dataset=dataset(), base="owner/Unknown-1B"))
    assert "doctor --model owner/Unknown-1B" in refused.value.next_step
    plan = plan_training(allowed, preset("qwen2.5-coder-7b", dataset=""))
    assert "mlx-community/Qwen2.5-Coder-7B-Instruct-4bit has to be fetched, 4.3 GB" in " ".join(plan.assumptions)


@pytest.mark.slow
def test_a_plan_tells_what_checkpointing_saves_and_what_time_goes_into(
    with_bases: Workspace, dataset: Callable[..., str]
) -> None:
    name = dataset()
    plain, checked = (
        plan_training(
            with_bases, preset("embedded", dataset=name, gradient_checkpointing=on, eval_every=1, save_every=1)
        )
        for on in (False, True)
    )
    assert plain.activations_gb == checked.activations_gb
    both = plain.activations_gb
    assert 0 < both["with_checkpointing"] < both["without_checkpointing"]
    assert plain.memory_parts_gb["activations"] == both["without_checkpointing"]
    assert checked.memory_parts_gb["activations"] == both["with_checkpointing"]
    parts = plain.memory_parts_gb
    assert parts.keys() == {"weights", "lora", "optimizer", "activations", "logits", "cache", "process"}
    # parameters with their gradients, and Adam's two moments of each, in f32
    assert parts["lora"] == parts["optimizer"] == pytest.approx(8 * plain.trainable_parameters / 1e9, abs=0.001)
    assert plain.peak_memory_gb == pytest.approx(sum(parts.values()), abs=0.01)

    seldom = plan_training(with_bases, preset("embedded", dataset=name, eval_every=1000, save_every=1000))
    for what in ("evaluations", "checkpoints"):
        assert plain.seconds_by[what] > seldom.seconds_by[what] > 0
    assert plain.seconds == pytest.approx(sum(plain.seconds_by.values()), abs=0.3)
    assert plain.seconds_by["unpacking"] == 0
    packed, packed_checked = (
        plan_training(
            with_bases, preset("embedded", dataset=name, base=f"{EMBEDDED}-4bit", gradient_checkpointing=on)
        ).seconds_by["unpacking"]
        for on in (False, True)
    )
    assert packed_checked > packed > 0


def test_the_7b_preset_is_planned_without_the_base_and_without_rows(
    workspace: Workspace, dataset: Callable[..., str]
) -> None:
    plan = plan_training(workspace, preset("qwen2.5-coder-7b-m1max", dataset=""))
    assert plan.fits and plan.device == "metal" and 5 < plan.peak_memory_gb < 16
    assert plan.headroom_gb == pytest.approx(16 - plan.peak_memory_gb, abs=0.02)
    assert plan.trainable_parameters == 40_370_176 and plan.memory_parts_gb["weights"] == pytest.approx(4.28, abs=0.01)
    said = " ".join(plan.assumptions)
    assert "published shape" in said and "Without a dataset" in said and "runs on metal" in said
    largest = plan_training(
        workspace, preset("qwen2.5-coder-7b", dataset="", pack_tokens=plan.fits_up_to["pack_tokens"])
    )
    assert largest.fits_up_to == plan.fits_up_to
    full = plan_training(workspace, preset("qwen2.5-coder-7b", dataset="", base="qwen2.5-coder-7b-instruct"))
    assert not full.fits and "does not fit" in full.verdict and "smaller base" in full.advice
    with_rows = plan_training(workspace, preset("qwen2.5-coder-7b", dataset=dataset()))
    assert with_rows.rows == 32 and "characters" in " ".join(with_rows.assumptions)


def test_a_recipe_for_another_device_is_not_started_here(with_bases: Workspace, dataset: Callable[..., str]) -> None:
    job = job_of(with_bases, dataset(), device="cuda")
    assert do_job(job.folder) == 1
    assert "for cuda, and this machine computes on cpu" in record.read(job.folder).reason
