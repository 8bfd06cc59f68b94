"""The training loop: the packed pass is the plain one, a killed run ends like an undisturbed one, limits hold.

.venv/bin/python -P -m pytest tests/test_training.py
"""

import json
import os
import shutil
import signal
import subprocess
import sys
from collections.abc import Callable
from pathlib import Path
from typing import Any, Literal

import pytest
from conftest import TINY

from tools.data.datasets import read_split
from tools.data.examples import Example
from tools.data.tokens import EncodedRow, encode, encode_prompt
from tools.errors import CheckError, InputError, LimitError, NotFoundError
from tools.files import read_json, sha256
from tools.jobs import record
from tools.jobs.worker import main as do_job
from tools.models.bases import EMBEDDED
from tools.training.config import ALIASES, ALL_LINEARS, TrainingConfig, preset, preset_keys, preset_names
from tools.training.loop import Trainer
from tools.training.metrics import read_metrics
from tools.training.plan import plan_training
from tools.training.start import resume_training
from tools.workspace import Workspace


def job_of(workspace: Workspace, dataset: str, **changes: Any) -> record.Job:
    config = preset("embedded", dataset=dataset, base=TINY, **{"batch_size": 8, "epochs": 1, **changes})
    return record.create(workspace, "train", dataset, config.model_dump())[0]


def trainer_of(workspace: Workspace, dataset: str, **changes: Any) -> Trainer:
    job = job_of(workspace, dataset, **changes)
    train, valid, _ = read_split(workspace, dataset)
    return Trainer(TrainingConfig.model_validate(job.config), workspace.bases / TINY, job, train, valid)


def trained(job: record.Job) -> record.State:
    assert do_job(job.folder) == 0, record.read(job.folder).reason
    return record.read(job.folder)


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


@pytest.mark.parametrize("kind", ["llama", "qwen2"])
def test_the_packed_pass_has_the_loss_and_gradients_of_each_row_on_its_own(
    with_bases: Workspace, dataset: Callable[..., str], kind: Literal["llama", "qwen2"], tmp_path: Path
) -> None:
    from tools.models.load import load
    from tools.models.tiny import make_tiny

    make_tiny(with_bases.bases / EMBEDDED, tmp_path, kind=kind)
    model, tokenizer = load(tmp_path)
    import mlx.core as mx
    import mlx.nn as nn
    from mlx.utils import tree_flatten
    from mlx_lm.tuner.utils import linear_to_lora_layers

    from tools.training.packed import pack_loss, packs_of

    chat = Example(instruction="And then?", output="It lapses.", history=[("What is a hold?", "A hold on a seat.")])
    rows = encode(tokenizer, [*read_split(with_bases, dataset())[0][:5], chat], 512).rows
    assert len(rows[-1].spans) == 2
    model.freeze()
    mx.random.seed(1)
    linear_to_lora_layers(model, -1, {"rank": 4, "scale": 2.0, "dropout": 0.0})
    model.update_modules(model.children())
    for name, value in tree_flatten(model.trainable_parameters()):  # B starts at zero, which would hide A's gradient
        if name.endswith("lora_b"):
            model.load_weights([(name, mx.random.normal(value.shape) * 0.02)], strict=False)

    def plain(parameters: Any) -> Any:
        model.update(parameters)
        total = mx.array(0.0)
        for row in rows:
            ids = mx.array(row.ids)[None]
            losses = nn.losses.cross_entropy(model(ids[:, :-1]), ids[:, 1:])
            total = total + losses[0, mx.array(row.positions) - 1].sum()
        return total

    def packed(checkpointing: bool) -> Any:
        def loss(parameters: Any) -> Any:
            model.update(parameters)
            return sum(pack_loss(model, pack, checkpointing) for pack in packs_of(rows, 128))

        return loss

    parameters = model.trainable_parameters()
    expected, gradients = mx.value_and_grad(plain)(parameters)
    assert len(packs_of(rows, 128)) > 1
    for checkpointing in (False, True):
        found, packed_gradients = mx.value_and_grad(packed(checkpointing))(parameters)
        assert abs(found.item() - expected.item()) < 1e-3 * abs(expected.item())
        for (name, a), (_, b) in zip(tree_flatten(gradients), tree_flatten(packed_gradients), strict=True):
            assert mx.allclose(a, b, rtol=1e-3, atol=1e-4), name


def test_only_answers_are_trained_and_every_answer_ends(with_bases: Workspace, dataset: Callable[..., str]) -> None:
    from tools.models.load import load_tokenizer

    tokenizer = load_tokenizer(with_bases.bases / TINY)
    rows = read_split(with_bases, dataset())[0]
    for row, encoded in zip(rows, encode(tokenizer, rows, 512).rows, strict=True):
        assert list(encoded.ids[: encoded.start]) == encode_prompt(tokenizer, row.question)
        assert tokenizer.decode(list(encoded.ids[encoded.start : -1])) == row.answer
        assert encoded.ids[-1] in tokenizer.eos_token_ids


def test_of_a_conversation_every_answer_is_trained_and_nothing_else(with_bases: Workspace) -> None:
    from tools.models.load import load_tokenizer

    tokenizer = load_tokenizer(with_bases.bases / TINY)
    history = [("What is a hold?", "A hold on a seat."), ("For how long?", "15 minutes.")]
    encoded = encode(tokenizer, [Example(instruction="And then?", output="It lapses.", history=history)], 512).rows[0]
    texts = [tokenizer.decode(list(encoded.ids[begin : end - 1])) for begin, end in encoded.spans]
    assert texts == ["A hold on a seat.", "15 minutes.", "It lapses."]
    assert all(encoded.ids[end - 1] in tokenizer.eos_token_ids for _, end in encoded.spans)
    assert encoded.trained == sum(end - begin for begin, end in encoded.spans) < len(encoded.ids)
    short = encoded.cut(encoded.spans[1][0] + 1)
    assert short.positions == [*range(*encoded.spans[0]), encoded.spans[1][0]]


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
    assert record.wait(job.folder, 90).result["truncated_rows"] == plan.truncated_rows
    assert f"lines {plan.truncated_lines[0]}, " in (job.folder / "log").read_text()


def test_packs_of_any_size_accumulate_to_the_large_batch(with_bases: Workspace, dataset: Callable[..., str]) -> None:
    """16 rows in one pass, and in packs of about one row, take the optimizer to the same place."""
    import mlx.core as mx

    name, ends, losses = dataset(), [], []
    for pack_tokens in (4096, 64):
        trainer = trainer_of(with_bases, name, batch_size=16, max_length=64, pack_tokens=pack_tokens)
        losses.append([trainer._step(step)[0]["loss"] for step in range(2)])
        ends.append(dict(trainer._trainable()))
    assert losses[0] == pytest.approx(losses[1], abs=1e-4)
    for key, value in ends[0].items():
        assert mx.allclose(value, ends[1][key], rtol=1e-2, atol=2e-5), key


def test_some_matrices_can_be_chosen_and_mlx_lm_is_told_which(
    with_bases: Workspace, dataset: Callable[..., str]
) -> None:
    from tools.models.load import load

    job = job_of(with_bases, dataset(), targets=["q_proj", "down_proj"])
    assert trained(job).result["trainable_parameters"] == 2 * 16 * ((64 + 64) + (128 + 64))
    parameters = read_json(job.folder / "adapter" / "adapter_config.json")["lora_parameters"]
    assert parameters["keys"] == ["self_attn.q_proj", "mlp.down_proj"]
    load(with_bases.bases / TINY, job.folder / "adapter")


def test_the_adapter_loads_in_plain_mlx_lm(with_bases: Workspace, dataset: Callable[..., str]) -> None:
    job = job_of(with_bases, dataset())
    state = trained(job)
    assert state.state == "finished" and state.result["valid_loss"] < state.result["valid_loss_before"]
    adapter = read_json(job.folder / "adapter" / "adapter_config.json")
    assert adapter["lora_parameters"] == {"rank": 16, "scale": 2.0, "dropout": 0.0} and adapter["num_layers"] == -1
    done = subprocess.run(
        [
            sys.executable, "-P", "-m", "mlx_lm", "generate", "--model", str(with_bases.bases / TINY),
            "--adapter-path", str(job.folder / "adapter"), "--prompt", "Hello", "--max-tokens", "3",
        ],
        capture_output=True, text=True, timeout=120, env={**os.environ, "MLX_DISABLE_COMPILE": "1"},
    )  # fmt: skip
    assert done.returncode == 0 and "Generation: 3 tokens" in done.stdout, done.stderr


@pytest.mark.parametrize("moment", ["before the first checkpoint", "after a checkpoint", "while one is written"])
def test_a_run_killed_and_resumed_ends_with_the_bytes_of_one_that_was_not(
    with_bases: Workspace, dataset: Callable[..., str], moment: str
) -> None:
    """kill -9 of the real worker, with dropout on."""
    name = dataset()
    changes = {"epochs": 4, "dropout": 0.1, "save_every": 4, "eval_every": 8}
    straight, killed = job_of(with_bases, name, **changes), job_of(with_bases, name, **changes)
    trained(straight)

    record.start(with_bases, killed)
    checkpoints = killed.folder / "checkpoints"
    signs: dict[str, Callable[[], bool]] = {
        "before the first checkpoint": lambda: bool(record.Job(killed.folder).state.started),
        "after a checkpoint": lambda: (checkpoints / "step-000004").is_dir(),
        "while one is written": lambda: bool(list(checkpoints.glob(".step-*"))),
    }
    while not signs[moment]() and record.read(killed.folder).state in record.ACTIVE:
        pass
    os.kill(read_json(killed.folder / "pid.json")["pid"], signal.SIGKILL)
    assert record.wait(killed.folder, 20).state in ("failed", "finished")
    record.Job(killed.folder).save(state="queued")
    trained(killed)

    for left, right in ((straight, killed),):
        one, other = (sha256(job.folder / "adapter" / "adapters.safetensors") for job in (left, right))
        assert one == other
        assert (
            read_json(left.folder / "state.json")["result"]["valid_loss"]
            == (read_json(right.folder / "state.json")["result"]["valid_loss"])
        )
    assert not list(checkpoints.glob(".step-*/progress.json"))


def test_a_training_stops_at_its_memory_limit_keeps_a_checkpoint_and_goes_on_as_it_suggests(
    with_bases: Workspace, dataset: Callable[..., str], monkeypatch: pytest.MonkeyPatch
) -> None:
    """What the process holds is grown for real, by half a gigabyte at the third step."""
    from tools.training import loop

    name, hoard = dataset(80), []
    straight = job_of(with_bases, name)
    limit = trained(straight).result["peak_memory_gb"] + 0.3
    job, step = job_of(with_bases, name, memory_limit_gb=limit), loop.Trainer._step

    def grown(self: Trainer, number: int) -> Any:
        if number == 3:
            hoard.append(bytearray(b"1" * 500_000_000))
        return step(self, number)

    monkeypatch.setattr(loop.Trainer, "_step", grown)
    assert do_job(job.folder) == 1
    state = record.read(job.folder)
    assert state.state == "stopped" and state.reason.startswith("memory limit: the training came to "), state.reason
    assert f"resume={job.id!r}" in state.next_step or "raise memory_limit_gb" in state.next_step
    assert (job.folder / "checkpoints" / "step-000004").is_dir()

    hoard.clear()
    monkeypatch.undo()
    monkeypatch.setenv("LOOPTUNE_HOME", str(with_bases.home))
    with pytest.raises(InputError, match="keeps its rank"):
        resume_training(with_bases, job.id, {"rank": 8})
    resume_training(with_bases, job.id, {"memory_limit_gb": 4.0})
    state = record.wait(job.folder, 120)
    assert state.state == "finished", record.log_tail(job.folder)
    one, other = (sha256(run.folder / "adapter" / "adapters.safetensors") for run in (straight, job))
    assert one == other


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
    from tools.models.shapes import known_shape
    from tools.training.estimate import Pass, fitting_settings, peak_gb

    info = known_shape("qwen2.5-coder-7b-instruct-4bit")
    assert info
    config = preset("qwen2.5-coder-7b", dataset="holds", gradient_checkpointing=False)
    rows = [EncodedRow(tuple(range(900)), 300), EncodedRow(tuple(range(2000)), 100)]
    changes = fitting_settings(info, config, rows, used_gb=15.8, limit_gb=16, device_name="metal")
    assert changes
    changed = config.model_copy(update=changes)
    assert peak_gb(info, changed, Pass.full(changed.pack_tokens, 2000, 0.9), "metal") < 16


def test_a_run_ends_early_when_patience_is_over_and_its_best_checkpoint_stays(
    with_bases: Workspace, dataset: Callable[..., str]
) -> None:
    changes = {"learning_rate": 0.1, "schedule": "constant", "warmup_steps": 0, "weight_decay": 0.0, "epochs": 20}
    job = job_of(with_bases, dataset(), patience=2, eval_every=2, save_every=1, keep_checkpoints=2, **changes)
    state = trained(job)
    result = state.result
    assert result["stopped_early"] and result["steps"] == result["best_step"] + 4 < result["planned_steps"]
    assert "No better validation loss in 2 evaluations" in state.reason
    best = read_json(job.folder / "checkpoints" / "best.json")
    assert (best["step"], round(best["valid_loss"], 4)) == (result["best_step"], result["valid_loss"])
    left = sorted(path.name for path in (job.folder / "checkpoints").glob("step-*"))
    last = [f"step-{result['steps'] - back:06d}" for back in (1, 0)]
    assert left == [best["checkpoint"], *last]
    marked = job.folder / "checkpoints" / best["checkpoint"] / "adapters.safetensors"
    assert sha256(marked) == sha256(job.folder / "adapter" / "adapters.safetensors")


def test_a_loss_that_is_no_number_stops_the_run_and_keeps_the_rows_of_the_step(
    with_bases: Workspace, dataset: Callable[..., str]
) -> None:
    import mlx.core as mx

    name = dataset()
    trainer = trainer_of(with_bases, name)
    trainer._resume()
    trainer._step(0)
    norm = trainer.model.model.norm
    norm.weight = mx.full(norm.weight.shape, float("nan"))
    with pytest.raises(CheckError, match="The loss of step 2 is nan"):
        trainer._step(1)
    bad = read_json(trainer.run / "bad-step.json")
    lines = (with_bases.dataset(name) / "train.jsonl").read_text().splitlines()
    assert bad["step"] == 2 and len(bad["rows"]) == 8
    assert [json.loads(lines[line - 1])["id"] for line in bad["lines"]] == [row["id"] for row in bad["rows"]]


def test_a_damaged_checkpoint_is_set_aside_and_the_one_before_is_taken(
    with_bases: Workspace, dataset: Callable[..., str]
) -> None:
    name, changes = dataset(), {"save_every": 1, "dropout": 0.1, "keep_checkpoints": 4}
    straight, job = job_of(with_bases, name, **changes), job_of(with_bases, name, **changes)
    trained(straight)
    trained(job)
    newest = job.folder / "checkpoints" / "step-000004" / "optimizer.safetensors"
    newest.write_bytes(newest.read_bytes()[:-8] + b"12345678")
    job = record.Job(job.folder)
    job.save(state="queued")
    record.start(with_bases, job)
    assert record.wait(job.folder, 60).state == "finished"
    assert (job.folder / "checkpoints" / "broken-step-000004").is_dir()
    assert "an earlier one is taken" in (job.folder / "log").read_text()
    one, other = (sha256(run.folder / "adapter" / "adapters.safetensors") for run in (straight, job))
    assert one == other


def test_a_run_does_not_go_on_with_other_data(with_bases: Workspace, dataset: Callable[..., str]) -> None:
    job = job_of(with_bases, dataset())
    trained(job)
    setup = read_json(job.folder / "setup.json")
    assert setup["config"]["rank"] == 16 and setup["device"] == "cpu" and "mlx" in setup["versions"]
    assert len(setup["train_sha256"]) == len(setup["base_sha256"]) == 64
    (job.folder / "setup.json").write_text(json.dumps({**setup, "train_sha256": "0" * 64}))
    record.Job(job.folder).save(state="queued")
    assert do_job(job.folder) == 1
    assert "train_sha256 changed since" in record.read(job.folder).reason


def test_a_disk_that_fills_up_ends_the_run_with_the_last_checkpoint_whole(
    with_bases: Workspace, dataset: Callable[..., str], tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """On a real small disk, where this machine lets one be mounted."""
    from tools.training import checkpoints

    disk = tmp_path / "disk"
    disk.mkdir()
    mounted = subprocess.run(["mount", "-t", "tmpfs", "-o", "size=4m", "none", str(disk)], capture_output=True)
    if mounted.returncode:
        pytest.skip("no file system can be mounted here")
    try:
        trainer = trainer_of(with_bases, dataset(), epochs=3, keep_checkpoints=1)
        (trainer.run / "checkpoints").symlink_to(disk, target_is_directory=True)
        trainer.min_free_gb = 0.0
        trainer._resume()
        trainer._save(1)
        filler = disk / "filler"
        filler.write_bytes(b"1" * (shutil.disk_usage(disk).free - 100_000))  # a checkpoint takes 0.4 MB
        with pytest.raises(LimitError, match="The checkpoint after step 2"):
            trainer._save(2)
        monkeypatch.setattr(checkpoints, "require_space", lambda *given: None)  # somebody else filled it meanwhile
        with pytest.raises(LimitError, match="No space left"):
            trainer._save(2)
        whole = checkpoints.latest(trainer.run)
        assert whole and whole.name == "step-000001" and not list(disk.glob(".step-*"))
    finally:
        subprocess.run(["umount", str(disk)], check=True)


def test_a_cancelled_training_keeps_a_checkpoint(with_bases: Workspace, dataset: Callable[..., str]) -> None:
    job = job_of(with_bases, dataset(), epochs=50, save_every=1000)
    record.start(with_bases, job)
    while not record.read(job.folder).step:
        assert record.read(job.folder).state in record.ACTIVE, record.log_tail(job.folder)
    record.cancel(job.folder)
    state = record.wait(job.folder, 30)
    assert state.state == "stopped" and f"resume={job.id!r}" in state.next_step
    assert list((job.folder / "checkpoints").glob("step-*/progress.json"))


def test_metrics_hold_a_line_a_step_and_tensorboard_and_the_profile_the_same(
    with_bases: Workspace, dataset: Callable[..., str]
) -> None:
    from tensorboardX.proto.event_pb2 import Event

    job = job_of(with_bases, dataset(), eval_every=2)
    result = trained(job).result
    lines = read_metrics(job.folder)
    assert [line["step"] for line in lines] == [1, 2, 3, 4]
    assert {"loss", "learning_rate", "gradient_norm", "tokens_per_second", "memory_gb", "mlx_memory_gb", "time"} <= (
        lines[0].keys()
    )
    assert [line["step"] for line in lines if "valid_loss" in line] == [2, 4]

    scalars: dict[str, dict[int, float]] = {}
    data = next((job.folder / "tensorboard").iterdir()).read_bytes()
    while data:  # a record: length, its checksum, the event, its checksum
        size = int.from_bytes(data[:8], "little")
        event = Event.FromString(data[12 : 12 + size])
        for value in event.summary.value:
            scalars.setdefault(value.tag, {})[event.step] = value.simple_value
        data = data[16 + size :]
    assert scalars["loss/train"] == pytest.approx({line["step"]: line["loss"] for line in lines})
    assert scalars["loss/valid"].keys() == {2, 4} and "memory/process_gb" in scalars

    profile = read_json(job.folder / "profile.json")
    assert result["profile"] == profile and result["padding_share"] == 0.0
    assert 0 < profile["step_seconds_p50"] <= profile["step_seconds_max"] <= profile["seconds"]
    assert profile["cpu_seconds"] > 0 and profile["peak_memory_gb"] >= lines[-1]["memory_gb"]


def test_the_curves_are_a_picture_and_text(tmp_path: Path) -> None:
    from tools.training.charts import curves_png, curves_text

    lines = [
        {
            "step": n,
            "loss": 3 / n,
            "memory_gb": 1.0,
            "mlx_memory_gb": 0.8,
            "valid_loss": 3.1 / n if n % 5 == 0 else None,
        }
        for n in range(1, 31)
    ]
    assert curves_png(lines, "run")[:8] == b"\x89PNG\r\n\x1a\n" and curves_png([], "run")
    drawn = curves_text(lines, 70, 12, color=False)
    assert "loss" in drawn and "validation" in drawn and max(map(len, drawn.splitlines())) <= 70
    assert curves_text(lines[:1], 70, 12) == ""


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


def test_a_half_written_checkpoint_is_no_checkpoint(tmp_path: Path) -> None:
    from tools.training.checkpoints import latest

    (tmp_path / "checkpoints" / ".step-000004.abc").mkdir(parents=True)
    (tmp_path / "checkpoints" / "step-000008").mkdir()
    assert latest(tmp_path) is None
