"""Whether a training that is killed again and again ends with the bytes of one that was left in peace.

    .venv/bin/python -P benchmarks/resume.py [--quick] [--kills N] [--seed N] [--json]

The real worker, with dropout on, is killed with -9 at random moments, every second time inside a checkpoint's writing,
and resumed after each. Adapter, last checkpoint and every step's loss have to be those of the undisturbed run, and at
least one kill in five has to have left an unfinished checkpoint. `--quick` kills three times instead of ten.
"""

import argparse
import json
import os
import platform
import random
import signal
import sys
import tempfile
import time
from pathlib import Path
from typing import Any

import psutil

from tools.data.generate import generate
from tools.data.validate import validate_dataset
from tools.files import read_json, sha256
from tools.jobs import record
from tools.jobs.process import has_process
from tools.models.blas import use_fast_blas
from tools.settings import Settings
from tools.training.config import preset
from tools.training.metrics import read_metrics
from tools.training.setup import versions
from tools.training.start import resume_training
from tools.workspace import Workspace

STEPS_A_KILL = 8  # at most so many steps pass between two


def finish(job: record.Job) -> None:
    """Wait until the job has ended well."""
    while (state := record.wait(job.folder, 60)).state in record.ACTIVE:
        pass
    if state.state != "finished":
        raise SystemExit(f"{job.id} {state.state}: {state.reason}\n{record.log_tail(job.folder)}")


def wait_for(job: record.Job, sign: Any, poll: float) -> bool:
    """Whether `sign` came true before the job ended."""
    while not sign():
        if not has_process(job.folder):
            return False
        time.sleep(poll)
    return True


def stop_inside(job: record.Job, dice: random.Random) -> None:
    """Stop the job's worker (SIGSTOP) at a random moment of a checkpoint's writing, so that it cannot finish that
    between the look and the kill."""
    process = psutil.Process(read_json(job.folder / "pid.json")["pid"])
    unfinished = (job.folder / "checkpoints").glob
    while wait_for(job, lambda: any(unfinished(".step-*")), 0.0002):
        time.sleep(dice.uniform(0, 0.002))
        process.suspend()
        while process.status() not in (psutil.STATUS_STOPPED, psutil.STATUS_ZOMBIE):
            time.sleep(0.0002)
        if any(unfinished(".step-*")):
            return
        process.resume()


def kill(job: record.Job, dice: random.Random, inside: bool) -> dict[str, Any]:
    """Kill the job's worker at a random moment, or in the middle of writing a checkpoint; says where it stood."""
    checkpoints = job.folder / "checkpoints"
    target = len(read_metrics(job.folder)) + dice.randint(1, STEPS_A_KILL)
    wait_for(job, lambda: len(read_metrics(job.folder)) >= target, 0.005)
    if inside:
        stop_inside(job, dice)
    else:
        time.sleep(dice.uniform(0, 0.3))
    os.kill(read_json(job.folder / "pid.json")["pid"], signal.SIGKILL)
    while has_process(job.folder):
        time.sleep(0.01)
    steps = [line["step"] for line in read_metrics(job.folder)]
    return {
        "step": steps[-1] if steps else 0,
        "unfinished_checkpoints": [path.name.split(".")[1] for path in checkpoints.glob(".step-*")],
        "kept": [path.name for path in sorted(checkpoints.glob("step-*"))],
    }


def outcome(job: record.Job) -> dict[str, Any]:
    """What has to be the same."""
    last = max((job.folder / "checkpoints").glob("step-*"))
    return {
        "adapter": sha256(job.folder / "adapter" / "adapters.safetensors"),
        "last_checkpoint": [sha256(last / f"{name}.safetensors") for name in ("adapters", "optimizer")],
        "losses": [(line["step"], line["loss"], line.get("valid_loss")) for line in read_metrics(job.folder)],
        "best": read_json(job.folder / "checkpoints" / "best.json"),
    }


def run(kills: int, seed: int) -> dict[str, Any]:
    """One undisturbed run and one that is killed `kills` times."""
    began = time.monotonic()
    with tempfile.TemporaryDirectory() as home:
        workspace = Workspace.open(Settings(home=Path(home)))
        blas = use_fast_blas(workspace.home / "cache")
        generate(workspace, cards=["definition/forty-two"], count=40, seed=1, name="rows")
        validate_dataset(workspace, "rows")
        epochs = (kills + 1) * (STEPS_A_KILL + 4) / 4
        config = preset("tiny", dataset="rows", epochs=epochs, dropout=0.1, save_every=2, eval_every=3)
        straight, disturbed = (record.create(workspace, "train", "rows", config.model_dump())[0] for _ in range(2))
        record.start(workspace, straight)
        finish(straight)
        dice, moments = random.Random(seed), []
        record.start(workspace, disturbed)
        for number in range(kills):
            moments.append(kill(disturbed, dice, inside=number % 2 == 1))
            state = record.read(disturbed.folder).state
            if state != "failed":
                raise SystemExit(f"killed {number + 1} times, the run is {state} where it should have failed")
            resume_training(workspace, disturbed.id)
        finish(disturbed)
        one, other = outcome(straight), outcome(disturbed)
    same = {key: one[key] == other[key] for key in one}
    inside = sum(bool(moment["unfinished_checkpoints"]) for moment in moments)
    return {
        "kills": len(moments),
        "inside_a_checkpoint": inside,
        "moments": moments,
        "steps": len(one["losses"]),
        "same": same,
        "passed": all(same.values()) and inside >= max(1, kills // 5),
        "seed": seed,
        "seconds": round(time.monotonic() - began, 1),
        "versions": versions(),
        "blas": blas,
        "machine": f"{os.cpu_count()} × {platform.processor() or platform.machine()}, {platform.platform()}",
    }


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--quick", action="store_true", help="three kills")
    parser.add_argument("--kills", type=int, default=10)
    parser.add_argument("--seed", type=int, default=0, help="of the moments")
    parser.add_argument("--json", action="store_true", help="print one JSON value")
    options = parser.parse_args()
    found = run(3 if options.quick else options.kills, options.seed)
    if options.json:
        print(json.dumps(found))
    else:
        for moment in found["moments"]:
            print(
                f"killed after step {moment['step']:3}, while writing: {moment['unfinished_checkpoints'] or 'nothing'}"
            )
        print(f"same: {found['same']}   {found['seconds']} s, {found['machine']}")
    sys.exit(0 if found["passed"] else 1)


if __name__ == "__main__":
    main()
