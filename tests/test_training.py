"""The training loop: the packed pass is the plain one, a killed run ends like an undisturbed one, limits hold.

.venv/bin/python -P -m pytest tests/test_training.py
"""

import json
import os
import signal
import subprocess
import sys
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
from conftest import TINY

from tools.data.datasets import read_split
from tools.data.tokens import encode, encode_prompt
from tools.errors import InputError, NotFoundError
from tools.files import read_json, sha256
from tools.jobs import record
from tools.jobs.worker import main as do_job
from tools.training.config import preset, preset_names
from tools.training.plan import plan_training
from tools.workspace import Workspace


def job_of(workspace: Workspace, dataset: str, **changes: Any) -> record.Job:
    config = preset("embedded", dataset=dataset, base=TINY, **{"batch_size": 8, **changes})
    return record.create(workspace, "train", dataset, config.model_dump())[0]


def trained(job: record.Job) -> record.State:
    assert do_job(job.folder) == 0, record.read(job.folder).reason
    return record.read(job.folder)


@pytest.mark.parametrize("name", preset_names())
def test_a_preset_is_a_complete_recipe(name: str) -> None:
    config = preset(name, dataset="holds")
    assert (config.rank, config.alpha, config.scale) == (16, 32, 2.0)


def test_a_config_refuses_unknown_keys_and_contradictions() -> None:
    with pytest.raises(InputError, match="ranks is not a setting"):
        preset("embedded", dataset="holds", ranks=3)
    with pytest.raises(InputError, match="must hold at least one row"):
        preset("embedded", dataset="holds", max_length=512, pack_tokens=100)
    with pytest.raises(NotFoundError, match="embedded"):
        preset("nope", dataset="holds")


def test_the_packed_pass_has_the_loss_and_gradients_of_each_row_on_its_own(
    with_bases: Workspace, dataset: Callable[..., str]
) -> None:
    from tools.models.load import load

    model, tokenizer = load(with_bases.bases / TINY)
    import mlx.core as mx
    import mlx.nn as nn
    from mlx.utils import tree_flatten
    from mlx_lm.tuner.utils import linear_to_lora_layers

    from tools.training.packed import pack_loss, packs_of

    rows = encode(tokenizer, read_split(with_bases, dataset())[0], 512).rows[:6]
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
            total = total + losses[0, row.start - 1 :].sum()
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


def test_a_row_that_is_cut_is_counted_in_the_plan(with_bases: Workspace, dataset: Callable[..., str]) -> None:
    plan = plan_training(with_bases, preset("embedded", dataset=dataset(), base=TINY, max_length=50))
    assert 0 < plan.truncated_rows < plan.rows + plan.dropped_rows


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


def test_a_training_stops_at_its_memory_limit_and_says_so(with_bases: Workspace, dataset: Callable[..., str]) -> None:
    job = job_of(with_bases, dataset(), memory_limit_gb=0.05)
    assert do_job(job.folder) == 1
    state = record.read(job.folder)
    assert state.state == "failed" and "more than its limit of 0.1 GB" in state.reason
    assert "lower batch_size" in state.next_step


def test_a_cancelled_training_keeps_a_checkpoint(with_bases: Workspace, dataset: Callable[..., str]) -> None:
    job = job_of(with_bases, dataset(), epochs=50, save_every=1000)
    record.start(with_bases, job)
    while not record.read(job.folder).step:
        assert record.read(job.folder).state in record.ACTIVE, record.log_tail(job.folder)
    record.cancel(job.folder)
    state = record.wait(job.folder, 30)
    assert state.state == "stopped" and f"resume={job.id!r}" in state.next_step
    assert list((job.folder / "checkpoints").glob("step-*/progress.json"))


def test_metrics_hold_a_line_a_step(with_bases: Workspace, dataset: Callable[..., str]) -> None:
    job = job_of(with_bases, dataset())
    trained(job)
    lines = [json.loads(line) for line in (job.folder / "metrics.jsonl").read_text().splitlines()]
    assert [line["step"] for line in lines] == [1, 2, 3, 4]
    assert {"loss", "learning_rate", "tokens_per_second", "memory_gb"} <= lines[0].keys()


def test_two_jobs_take_turns(with_bases: Workspace, dataset: Callable[..., str]) -> None:
    name = dataset()
    first, second = job_of(with_bases, name, epochs=4), job_of(with_bases, name, epochs=4)
    record.start(with_bases, first)
    record.start(with_bases, second)
    states = [record.wait(job.folder, 90) for job in (first, second)]
    assert [state.state for state in states] == ["finished", "finished"]
    earlier, later = sorted(states, key=lambda state: state.finished)
    assert earlier.finished <= later.finished


def test_a_half_written_checkpoint_is_no_checkpoint(tmp_path: Path) -> None:
    from tools.training.checkpoints import latest

    (tmp_path / "checkpoints" / ".step-000004.abc").mkdir(parents=True)
    (tmp_path / "checkpoints" / "step-000008").mkdir()
    assert latest(tmp_path) is None
