"""Going on: a killed, cancelled or damaged run ends with the bytes of one that was left in peace.

The benchmark of that name runs here with three kills; called without --quick it kills ten times.

.venv/bin/python -P -m pytest tests/test_resume.py
"""

import json
import os
import shutil
import signal
import subprocess
import sys
from collections.abc import Callable
from contextlib import suppress
from pathlib import Path
from typing import Any

import pytest
from trainings import job_of, kill_inside_a_checkpoint, trained, trainer_of

from tools.errors import CheckError, InputError
from tools.export.quantize import ExportConfig, require_exportable
from tools.files import read_json, sha256
from tools.jobs import record
from tools.jobs.worker import main as do_job
from tools.training.loop import Trainer
from tools.training.metrics import read_metrics
from tools.training.start import resume_training
from tools.workspace import Workspace

ROOT = Path(__file__).resolve().parent.parent


@pytest.mark.slow
@pytest.mark.parametrize("moment", ["before the first checkpoint", "after a checkpoint", "while one is written"])
def test_a_run_killed_and_resumed_ends_with_the_bytes_of_one_that_was_not(
    with_bases: Workspace, dataset: Callable[..., str], moment: str
) -> None:
    """kill -9 of the real worker, with dropout on."""
    name = dataset()
    changes = {"epochs": 4, "dropout": 0.1, "save_every": 4, "eval_every": 8}
    straight, killed = job_of(with_bases, name, **changes), job_of(with_bases, name, **changes)
    assert trained(straight).result["way"] == "autodiff, packed"  # since dropout is on

    record.start(with_bases, killed)
    checkpoints = killed.folder / "checkpoints"
    signs: dict[str, Callable[[], bool]] = {
        "before the first checkpoint": lambda: bool(record.Job(killed.folder).state.started),
        "after a checkpoint": lambda: (checkpoints / "step-000004").is_dir(),
    }
    if moment == "while one is written":
        assert kill_inside_a_checkpoint(killed), record.log_tail(killed.folder)
    else:
        while not signs[moment]() and record.read(killed.folder).state in record.ACTIVE:
            pass
        os.kill(read_json(killed.folder / "pid.json")["pid"], signal.SIGKILL)
    assert record.wait(killed.folder, 120).state in ("failed", "finished")
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


@pytest.mark.slow
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
    assert record.wait(job.folder, 120).state == "finished"
    assert (job.folder / "checkpoints" / "broken-step-000004").is_dir()
    assert "an earlier one is taken" in (job.folder / "log").read_text()
    one, other = (sha256(run.folder / "adapter" / "adapters.safetensors") for run in (straight, job))
    assert one == other


@pytest.mark.slow
@pytest.mark.parametrize("save_every", [1, 1000])
def test_a_stopped_training_ends_where_it_stands_when_it_is_given_fewer_epochs(
    with_bases: Workspace, dataset: Callable[..., str], save_every: int
) -> None:
    job = job_of(with_bases, dataset(), epochs=90, eval_every=1000, save_every=save_every)
    record.start(with_bases, job)
    while record.read(job.folder).step < 2:
        assert record.read(job.folder).state in record.ACTIVE, record.log_tail(job.folder)
    record.cancel(job.folder)
    stopped = record.wait(job.folder, 120)
    assert stopped.state == "stopped" and not (job.folder / "adapter").exists(), "it was not measured yet"
    with pytest.raises(CheckError, match="only a finished training") as refused:
        require_exportable(with_bases, ExportConfig(run=job.id, name="holds"))
    assert f"resume={job.id!r}" in refused.value.next_step and "'epochs': 0.01" in refused.value.next_step
    with pytest.raises(InputError, match="not later; got 91"):
        resume_training(with_bases, job.id, {"epochs": 91})
    with pytest.raises(InputError, match="epochs"):
        resume_training(with_bases, job.id, {"epochs": "half"})
    resume_training(with_bases, job.id, {"epochs": 0.01})
    ended = record.wait(job.folder, 120)
    assert ended.state == "finished", record.log_tail(job.folder)
    assert ended.result["steps"] == ended.step == ended.total == stopped.step == ended.result["best_step"]
    assert ended.result["valid_loss"] != ended.result["valid_loss_before"]
    assert (job.folder / "adapter" / "adapters.safetensors").is_file()
    require_exportable(with_bases, ExportConfig(run=job.id, name="holds"))


@pytest.mark.slow
def test_a_run_does_not_go_on_with_other_data(with_bases: Workspace, dataset: Callable[..., str]) -> None:
    job = job_of(with_bases, dataset())
    trained(job)
    setup = read_json(job.folder / "setup.json")
    assert (setup["way"], setup["lanes"]) == ("by hand", 2)
    assert setup["config"]["rank"] == 16 and setup["device"] == "cpu" and "mlx" in setup["versions"]
    assert len(setup["train_sha256"]) == len(setup["base_sha256"]) == 64
    (job.folder / "setup.json").write_text(json.dumps({**setup, "train_sha256": "0" * 64}))
    record.Job(job.folder).save(state="queued")
    assert do_job(job.folder) == 1
    assert "train_sha256 changed since" in record.read(job.folder).reason


@pytest.mark.slow
def test_a_cancel_while_the_validation_loss_is_measured_is_obeyed_and_changes_nothing(
    with_bases: Workspace, dataset: Callable[..., str], monkeypatch: pytest.MonkeyPatch
) -> None:
    """Asked between two packs of the validation after step 4: when the run goes on, that validation is made up for."""
    from tools.training import loop

    name, changes = dataset(), {"epochs": 2, "eval_every": 4, "save_every": 100, "pack_tokens": 64, "max_length": 64}
    straight, job = job_of(with_bases, name, **changes), job_of(with_bases, name, **changes)
    trained(straight)
    measure = loop.Trainer._valid_loss

    def asked(self: Trainer) -> float:
        if self.progress.get("step") == 4:
            record.cancel(self.run)
        return measure(self)

    monkeypatch.setattr(loop.Trainer, "_valid_loss", asked)
    assert do_job(job.folder) == 1
    monkeypatch.setattr(loop.Trainer, "_valid_loss", measure)
    assert (record.read(job.folder).state, len(read_metrics(job.folder))) == ("stopped", 3)
    (job.folder / "cancel").unlink()
    record.Job(job.folder).save(state="queued")
    trained(job)
    kept = ("step", "loss", "valid_loss", "gradient_norm", "learning_rate", "tokens")
    lines = [[{key: line.get(key) for key in kept} for line in read_metrics(run.folder)] for run in (straight, job)]
    assert lines[0] == lines[1] and [line["step"] for line in lines[1]] == list(range(1, 9))
    one, other = (sha256(run.folder / "adapter" / "adapters.safetensors") for run in (straight, job))
    assert one == other


@pytest.mark.slow
def test_a_cancelled_training_keeps_a_checkpoint(with_bases: Workspace, dataset: Callable[..., str]) -> None:
    job = job_of(with_bases, dataset(), epochs=50, save_every=1000)
    record.start(with_bases, job)
    while not record.read(job.folder).step:
        assert record.read(job.folder).state in record.ACTIVE, record.log_tail(job.folder)
    record.cancel(job.folder)
    state = record.wait(job.folder, 120)
    assert state.state == "stopped" and f"resume={job.id!r}" in state.next_step
    assert list((job.folder / "checkpoints").glob("step-*/progress.json"))


def test_a_run_has_a_whole_adapter_at_every_moment_in_which_a_better_one_takes_its_place(
    with_bases: Workspace, dataset: Callable[..., str], monkeypatch: pytest.MonkeyPatch
) -> None:
    """The worker is gone at the first, second, … change to its files; what is left of that is swept later."""
    from tools.training.checkpoints import keep_adapter

    class Gone(BaseException):
        pass

    def keep() -> None:
        keep_adapter(trainer.run, trainer.model, trainer.config, trainer.base)

    trainer = trainer_of(with_bases, dataset())
    trainer._resume()
    adapter, hashes = trainer.run / "adapter", []
    keep()
    for moment in range(1, 10):
        trainer._step(moment)
        left = moment

        def counted(change: Any) -> Any:
            def changed(*given: Any, **named: Any) -> Any:
                nonlocal left
                left -= 1
                if left == 0:
                    raise Gone
                return change(*given, **named)

            return changed

        with monkeypatch.context() as patch:
            for owner, name in ((Path, "rename"), (Path, "replace"), (shutil, "rmtree"), (os, "rename")):
                patch.setattr(owner, name, counted(getattr(owner, name)))
            with suppress(Gone):
                keep()
        assert {path.name for path in adapter.glob("adapter*")} == {"adapters.safetensors", "adapter_config.json"}
        hashes.append(sha256(adapter / "adapters.safetensors"))
        if left > 0:
            break
    assert len(set(hashes)) > 1, "it never got as far as the change itself"
    (trainer.run / ".adapter.left").mkdir()
    trainer._resume()
    assert not list(trainer.run.glob(".adapter*"))


def test_a_half_written_checkpoint_is_no_checkpoint(tmp_path: Path) -> None:
    from tools.training.checkpoints import latest

    (tmp_path / "checkpoints" / ".step-000004.abc").mkdir(parents=True)
    (tmp_path / "checkpoints" / "step-000008").mkdir()
    assert latest(tmp_path) is None


@pytest.mark.slow
@pytest.mark.timeout(1800)
def test_a_run_killed_again_and_again_ends_with_the_bytes_of_one_that_was_left_in_peace() -> None:
    """kill -9 at random moments, every second one aimed at a checkpoint's writing; dropout is on."""
    seed = int.from_bytes(os.urandom(2), "big")
    done = subprocess.run(
        [sys.executable, "-P", str(ROOT / "benchmarks" / "resume.py"), "--quick", "--json", "--seed", str(seed)],
        capture_output=True,
        text=True,
        timeout=1700,
    )
    assert done.stdout, done.stderr[-3000:]
    found = json.loads(done.stdout)
    assert found["passed"], (seed, found["same"], found["moments"])
    assert found["kills"] == 3 and found["inside_a_checkpoint"] >= 1, found["moments"]
