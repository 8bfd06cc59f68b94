"""Jobs as processes: turns in the order of creation, one run for two clients, and what becomes of workers that die.

.venv/bin/python -P -m pytest tests/test_jobs.py
"""

import json
import os
import signal
import subprocess
import sys
from collections.abc import Callable
from pathlib import Path
from typing import Any

import psutil
import pytest
from conftest import TINY

from tools.files import read_json, sha256
from tools.jobs import queue, record
from tools.jobs.process import has_process
from tools.training.config import preset
from tools.training.metrics import read_metrics
from tools.training.start import start_training
from tools.workspace import Workspace

QUICK = {"base": TINY, "batch_size": 8, "learning_rate": 0.01}


def start(workspace: Workspace, dataset: str, **changes: Any) -> record.Job:
    return start_training(workspace, preset("smollm2-135m", dataset=dataset, **{**QUICK, **changes}))[0]


def pid_of(job: record.Job) -> int:
    return int(read_json(job.folder / "pid.json")["pid"])


def kill(job: record.Job) -> None:
    os.kill(pid_of(job), signal.SIGKILL)
    while has_process(job.folder):
        record.wait(job.folder, 0.05)


def wait_for(job: record.Job, sign: Callable[[], bool]) -> None:
    while not sign():
        assert record.read(job.folder).state in record.ACTIVE, record.log_tail(job.folder)
        record.wait(job.folder, 0.05)


@pytest.mark.slow
def test_jobs_take_turns_in_the_order_they_were_created_and_say_what_they_wait_for(
    with_bases: Workspace, dataset: Callable[..., str]
) -> None:
    name = dataset()
    jobs = [start(with_bases, name, epochs=epochs) for epochs in (60, 1, 1)]
    wait_for(jobs[0], lambda: record.read(jobs[0].folder).step > 0)
    wait_for(jobs[2], lambda: "is before it" in record.read(jobs[2].folder).reason)
    waiting = record.read(jobs[2].folder)
    assert waiting.state == "queued" and "training_status" in waiting.next_step
    record.cancel(jobs[0].folder)
    states = [record.wait(job.folder, 120) for job in jobs]
    assert [state.state for state in states] == ["stopped", "finished", "finished"]
    assert all(state.reason and state.next_step for state in states)
    assert states[0].finished <= states[1].started and states[1].finished <= states[2].started


@pytest.mark.slow
def test_a_queue_survives_the_death_of_its_workers(with_bases: Workspace, dataset: Callable[..., str]) -> None:
    name = dataset()
    first = start(with_bases, name, epochs=100, batch_size=4)
    waiting = start(with_bases, name)
    wait_for(first, lambda: record.read(first.folder).step > 0)
    for job in (waiting, first):
        kill(job)
    state = record.read(waiting.folder)
    assert state.state == "queued" and "worker is gone" in state.reason
    assert record.read(first.folder).state == "failed" and "killed" in record.read(first.folder).reason
    assert queue.tend(with_bases) == [waiting.id]
    assert record.wait(waiting.folder, 120).state == "finished"


@pytest.mark.slow
def test_a_run_whose_worker_died_goes_on_by_itself_when_its_settings_say_so(
    with_bases: Workspace, dataset: Callable[..., str]
) -> None:
    """Nobody looks but the keeper; the adapter is the one of a run that was left in peace."""
    name = dataset()
    changes = {"epochs": 4, "save_every": 2, "dropout": 0.1}
    straight = start(with_bases, name, **changes)
    assert record.wait(straight.folder, 120).state == "finished"
    job = start(with_bases, name, auto_resume=1, **changes)
    wait_for(job, lambda: (job.folder / "checkpoints" / "step-000004").is_dir())
    os.kill(pid_of(job), signal.SIGKILL)
    state_file = job.folder / "state.json"
    while not (state := record.State.model_validate(read_json(state_file))).restarts:
        record.wait(straight.folder, 0.2)
    state = record.wait(job.folder, 120)
    assert (state.state, state.restarts) == ("finished", 1), record.log_tail(job.folder)
    one, other = (sha256(run.folder / "adapter" / "adapters.safetensors") for run in (straight, job))
    assert one == other


def test_a_run_that_used_up_its_restarts_stays_failed(with_bases: Workspace, dataset: Callable[..., str]) -> None:
    job = record.create(with_bases, "train", "x", preset("tiny", dataset=dataset(), auto_resume=1).model_dump())[0]
    (job.folder / "pid.json").write_text(json.dumps({"pid": 2**22 + 1, "created": 0.0}))
    job.save(state="running", restarts=1)
    state = record.read(job.folder)
    assert state.state == "failed" and f"process {2**22 + 1}" in state.reason and state.died
    assert queue.tend(with_bases) == []


@pytest.mark.slow
def test_a_shutdown_leaves_queued_jobs_queued_and_lets_a_run_go_on_by_itself(
    with_bases: Workspace, dataset: Callable[..., str]
) -> None:
    name = dataset()
    running = start(with_bases, name, epochs=100, batch_size=4, auto_resume=2)
    waiting = start(with_bases, name)
    wait_for(running, lambda: record.read(running.folder).step > 0)
    wait_for(waiting, lambda: "is before it" in record.read(waiting.folder).reason)
    for job in (waiting, running):
        os.kill(pid_of(job), signal.SIGTERM)
    while not record.read(running.folder).restarts:  # the keeper sees to it
        record.wait(waiting.folder, 0.2)
    assert record.read(waiting.folder).state == "queued"
    wait_for(running, lambda: record.read(running.folder).state == "running")
    record.cancel(running.folder)
    assert record.wait(running.folder, 120).state == "stopped"
    queue.tend(with_bases)
    assert record.wait(waiting.folder, 120).state == "finished"


@pytest.mark.slow
@pytest.mark.parametrize(
    ("asked_by", "kind", "ends"),
    [
        (record.SHUTDOWN, "queued", "queued"),
        ("a client", "queued", "stopped"),
        (record.SHUTDOWN, "running", "failed"),
        ("a client", "running", "stopped"),
    ],
)
def test_a_worker_that_was_killed_before_it_could_stop_is_judged_by_who_asked(
    with_bases: Workspace, dataset: Callable[..., str], asked_by: str, kind: record.JobState, ends: str
) -> None:
    """A machine that goes down sends SIGTERM, and soon after kills what is left: no client cancelled these jobs."""
    job = record.create(with_bases, "train", "x", preset("tiny", dataset=dataset(), auto_resume=1).model_dump())[0]
    (job.folder / "pid.json").write_text(json.dumps({"pid": 2**22 + 1, "created": 0.0}))
    job.save(state=kind)
    (job.folder / "cancel").write_text(asked_by)
    state = record.read(job.folder)
    assert (state.state, state.died) == (ends, ends == "failed")
    assert queue.tend(with_bases) == ([] if ends == "stopped" else [job.id])
    assert record.wait(job.folder, 120).state == ("stopped" if ends == "stopped" else "finished")


def at_once(gate: Path, code: str) -> list[list[str]]:
    """What four real processes say, each in a line of words, that do the same at the same moment."""
    program = f"""
import time, pathlib
from tools.errors import LooptuneError
from tools.training.config import preset
from tools.training.start import resume_training, start_training
from tools.workspace import Workspace
workspace = Workspace.open()
print("ready", flush=True)
while not pathlib.Path({str(gate)!r}).exists():
    time.sleep(0.001)
{code}
"""
    clients = [
        subprocess.Popen([sys.executable, "-P", "-c", program], stdout=subprocess.PIPE, text=True) for _ in range(4)
    ]
    for client in clients:
        assert client.stdout and client.stdout.readline() == "ready\n"
    gate.touch()
    return [client.communicate(timeout=120)[0].split() for client in clients]


@pytest.mark.slow
def test_two_clients_with_one_key_start_one_run(with_bases: Workspace, dataset: Callable[..., str]) -> None:
    code = f"""
job, new = start_training(workspace, preset("tiny", dataset={dataset()!r}), idempotency_key="nightly")
print(job.id, new)
"""
    said = at_once(with_bases.home / "go", code)
    assert len({run for run, _ in said}) == 1 and sorted(new for _, new in said) == ["False", "False", "False", "True"]
    runs = with_bases.names(with_bases.runs, "state.json")
    assert runs == [said[0][0]]
    state = record.wait(with_bases.run(runs[0]), 120)
    assert state.state == "finished"
    log = (with_bases.run(runs[0]) / "log").read_text()
    assert log.count("step 0: validation loss") == 1, "a second worker was started"


@pytest.mark.slow
def test_two_clients_that_resume_one_run_set_it_going_once(with_bases: Workspace, dataset: Callable[..., str]) -> None:
    job = start(with_bases, dataset(), epochs=6, save_every=1)
    wait_for(job, lambda: (job.folder / "checkpoints" / "step-000003").is_dir())
    kill(job)
    assert record.read(job.folder).state == "failed"
    code = f"""
try:
    print(resume_training(workspace, {job.id!r}).id)
except LooptuneError as error:
    print(type(error).__name__)
"""
    said = sorted(words for (words,) in at_once(with_bases.home / "go", code))
    assert said == ["ConflictError"] * 3 + [job.id]
    assert record.wait(job.folder, 120).state == "finished", record.log_tail(job.folder)
    assert (job.folder / "log").read_text().count("resuming after step") == 1, "a second worker was started"
    steps = [line["step"] for line in read_metrics(job.folder)]
    assert steps == list(range(1, 25))


def test_a_process_of_the_same_number_that_was_started_at_another_time_is_another(
    with_bases: Workspace, dataset: Callable[..., str]
) -> None:
    """The system gives numbers out again: here this test's own process has the one that the worker had."""
    job = record.create(with_bases, "train", "x", preset("tiny", dataset=dataset()).model_dump())[0]
    job.save(state="running")
    mine = psutil.Process()
    (job.folder / "pid.json").write_text(json.dumps({"pid": mine.pid, "created": mine.create_time()}))
    assert has_process(job.folder) and record.read(job.folder).state == "running"
    (job.folder / "pid.json").write_text(json.dumps({"pid": mine.pid, "created": mine.create_time() - 60}))
    assert not has_process(job.folder)
    state = record.read(job.folder)
    assert state.state == "failed" and state.died and f"process {mine.pid}" in state.reason


@pytest.mark.slow
def test_a_cancel_between_packs_is_obeyed_within_five_seconds_and_loses_nothing(
    with_bases: Workspace, dataset: Callable[..., str]
) -> None:
    """One step that would take very long: 20,000 rows in packs of one."""
    import time

    job = start(with_bases, dataset(), batch_size=1024, epochs=100, max_length=128, pack_tokens=128)
    wait_for(job, lambda: "step 0: validation loss" in (job.folder / "log").read_text())
    began = time.monotonic()
    record.cancel(job.folder)
    state = record.wait(job.folder, 30)
    assert state.state == "stopped" and state.reason == "It was asked to stop."
    assert f"resume={job.id!r}" in state.next_step
    assert time.monotonic() - began < 5
    assert list((job.folder / "checkpoints").glob("step-*/progress.json"))


def test_a_queued_job_can_be_cancelled_even_when_its_worker_is_gone(
    with_bases: Workspace, dataset: Callable[..., str]
) -> None:
    job = record.create(with_bases, "train", "x", preset("tiny", dataset=dataset()).model_dump())[0]
    (job.folder / "pid.json").write_text(json.dumps({"pid": 2**22 + 1, "created": 0.0}))
    assert record.cancel(job.folder).state == "stopped"
    assert queue.tend(with_bases) == []


def test_a_full_disk_does_not_keep_anyone_from_reading_a_state(
    with_bases: Workspace, dataset: Callable[..., str], monkeypatch: pytest.MonkeyPatch
) -> None:
    from tools.errors import LimitError

    job = record.create(with_bases, "train", "x", preset("tiny", dataset=dataset()).model_dump())[0]
    (job.folder / "pid.json").write_text(json.dumps({"pid": 2**22 + 1, "created": 0.0}))
    job.save(state="running")

    def full(path: Path, value: Any) -> None:
        raise LimitError("No space left.")

    monkeypatch.setattr(record, "write_json", full)
    assert record.read(job.folder).state == "failed"
