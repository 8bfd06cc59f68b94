"""Trainings on several processes, started by mlx.launch: the single process's result, and what becomes of deaths.

.venv/bin/python -P -m pytest tests/test_parallel.py
"""

import os
import signal
from collections.abc import Callable
from typing import Any

import psutil
import pytest
from conftest import TINY

from tools.data.tokens import EncodedRow
from tools.errors import InputError, MissingError
from tools.files import read_json
from tools.jobs import record
from tools.jobs.process import has_process
from tools.jobs.worker import main as do_job
from tools.training.config import TrainingConfig, preset
from tools.training.group import parts
from tools.training.metrics import read_metrics
from tools.training.parallel import check_hosts
from tools.training.plan import plan_training
from tools.training.start import resume_training, start_training
from tools.workspace import Workspace

RECIPE = {"base": TINY, "epochs": 2, "eval_every": 4, "save_every": 2, "learning_rate": 0.01}


def job_of(workspace: Workspace, dataset: str, **changes: Any) -> record.Job:
    config = preset("smollm2-135m", dataset=dataset, **{**RECIPE, **changes})
    return record.create(workspace, "train", dataset, config.model_dump())[0]


def ranks_of(job: record.Job) -> list[psutil.Process]:
    """The processes that train, in the order of their ranks."""
    worker = psutil.Process(read_json(job.folder / "pid.json")["pid"])
    found = {}
    for process in worker.children(recursive=True):
        try:
            if "tools.training.parallel" in process.cmdline() and "MLX_RANK" in (there := process.environ()):
                found[there["MLX_RANK"]] = process
        except psutil.Error:
            continue
    return [found[rank] for rank in sorted(found)]


def wait_for(job: record.Job, sign: Callable[[], Any]) -> Any:
    while not (value := sign()):
        assert record.read(job.folder).state in record.ACTIVE, record.log_tail(job.folder)
        record.wait(job.folder, 0.05)
    return value


def test_rows_are_dealt_out_by_their_tokens_and_none_is_lost() -> None:
    rows = [EncodedRow(tuple(range(length)), 1) for length in (90, 10, 20, 30, 40, 50, 10, 30)]
    dealt = parts(rows, 3)
    assert sorted(len(row.ids) for part in dealt for row in part) == sorted(len(row.ids) for row in rows)
    assert [sum(len(row.ids) for row in part) for part in dealt] == [100, 90, 90]
    assert parts(rows, 1) == [rows] and all(parts(rows, 8))


@pytest.mark.slow
def test_two_processes_end_where_one_does_at_the_same_batch(with_bases: Workspace, dataset: Callable[..., str]) -> None:
    """One of them on `nproc`, one on `hosts`, against one process: loss by loss, and weight by weight."""
    import mlx.core as mx

    name = dataset()
    one, two = job_of(with_bases, name), job_of(with_bases, name, nproc=2)
    plan = plan_training(with_bases, TrainingConfig.model_validate(two.config))
    assert plan.processes == 2 and plan.peak_memory_gb == pytest.approx(2 * plan.process_gb, abs=0.02)
    assert "no faster than one" in " ".join(plan.assumptions)
    for job in (one, two):
        assert do_job(job.folder) == 0, record.log_tail(job.folder)
    ends = [mx.load(str(job.folder / "adapter" / "adapters.safetensors")) for job in (one, two)]
    assert ends[0].keys() == ends[1].keys()
    for key, value in ends[0].items():
        assert mx.allclose(value, ends[1][key], rtol=1e-2, atol=2e-4), key
    lines = [read_metrics(job.folder) for job in (one, two)]
    assert [line["step"] for line in lines[1]] == list(range(1, 9))
    for key in ("loss", "valid_loss", "gradient_norm"):
        single, double = ([line[key] for line in each if key in line] for each in lines)
        assert double == pytest.approx(single, rel=2e-3), key
    results = [record.read(job.folder).result for job in (one, two)]
    assert [result["processes"] for result in results] == [1, 2]
    assert results[0]["tokens"] == results[1]["tokens"] and results[1]["read_tokens"] > results[0]["read_tokens"]


@pytest.mark.slow
def test_a_process_that_is_killed_ends_the_run_and_is_named_and_the_run_goes_on(
    with_bases: Workspace, dataset: Callable[..., str]
) -> None:
    """Two machines that are both this one, one process on each; then the worker itself is killed."""
    name = dataset()
    job, _ = start_training(
        with_bases,
        preset(
            "smollm2-135m",
            dataset=name,
            **{**RECIPE, "epochs": 100, "batch_size": 2, "hosts": ["127.0.0.1", "127.0.0.1"]},
        ),
    )
    wait_for(job, lambda: record.read(job.folder).step > 2)
    ranks = ranks_of(job)
    assert len(ranks) == 2
    ranks[1].kill()
    state = record.wait(job.folder, 120)
    assert state.state == "failed" and state.reason.startswith("Process 2 of 2 was killed (SIGKILL)"), state.reason
    assert f"resume={job.id!r}" in state.next_step and state.died
    assert not [rank for rank in ranks if rank.is_running()]

    resume_training(with_bases, job.id)
    wait_for(job, lambda: record.read(job.folder).step > state.step)
    assert "resuming after step" in (job.folder / "log").read_text()
    ranks = wait_for(job, lambda: ranks_of(job))
    os.kill(read_json(job.folder / "pid.json")["pid"], signal.SIGKILL)
    while has_process(job.folder) or [rank for rank in ranks if rank.is_running()]:
        record.wait(job.folder, 0.05)
    state = record.read(job.folder)
    assert state.state == "failed" and "killed" in state.reason

    resume_training(with_bases, job.id)
    wait_for(job, lambda: record.read(job.folder).step > state.step)
    record.cancel(job.folder)
    state = record.wait(job.folder, 120)
    assert (state.state, state.reason) == ("stopped", "It was asked to stop.")
    assert list((job.folder / "checkpoints").glob("step-*/progress.json"))


def test_machines_have_to_be_listed_in_the_settings_and_the_first_is_this_one(
    workspace: Workspace, monkeypatch: pytest.MonkeyPatch
) -> None:
    def config(*hosts: str) -> TrainingConfig:
        return preset("tiny", dataset="holds", hosts=list(hosts))

    with pytest.raises(MissingError, match=r"192\.0\.2\.7 may not be trained on.*LOOPTUNE_HOSTS"):
        check_hosts(workspace, config("127.0.0.1", "192.0.2.7"))
    monkeypatch.setenv("LOOPTUNE_HOSTS", '["192.0.2.7"]')
    check_hosts(Workspace.open(), config("127.0.0.1", "192.0.2.7"))
    with pytest.raises(InputError, match="has to be this machine"):
        check_hosts(Workspace.open(), config("192.0.2.7", "127.0.0.1"))
    with pytest.raises(InputError, match="hosts"):
        config("a.example; rm -rf /")
    with pytest.raises(InputError, match="at least one row for each of 9 processes"):
        preset("tiny", dataset="holds", batch_size=8, nproc=9)
