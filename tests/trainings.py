"""What the tests of trainings share: a run of the tiny base, its trainer in this process, a run done here, a worker
killed inside a checkpoint's writing, and bases that look like Llama's.

job = job_of(workspace, "holds", epochs=2); state = trained(job)
"""

import ast
import os
import re
import shutil
import signal
from pathlib import Path
from typing import Any, Literal

import psutil
from conftest import ROOM, TINY

from tools.data.datasets import read_split
from tools.files import read_json, write_json
from tools.jobs import record
from tools.jobs.worker import main as do_job
from tools.training.config import TrainingConfig, preset
from tools.training.loop import Trainer
from tools.workspace import Workspace


def job_of(workspace: Workspace, dataset: str, **changes: Any) -> record.Job:
    plain = {"batch_size": 8, "epochs": 1, "memory_limit_gb": ROOM}
    config = preset("embedded", dataset=dataset, base=TINY, **{**plain, **changes})
    return record.create(workspace, "train", dataset, config.model_dump())[0]


def trainer_of(workspace: Workspace, dataset: str, **changes: Any) -> Trainer:
    job = job_of(workspace, dataset, **changes)
    train, valid, _ = read_split(workspace, dataset)
    return Trainer(TrainingConfig.model_validate(job.config), workspace.bases / TINY, job, train, valid)


def trained(job: record.Job) -> record.State:
    assert do_job(job.folder) == 0, record.read(job.folder).reason
    return record.read(job.folder)


def kill_inside_a_checkpoint(job: record.Job) -> bool:
    """kill -9 while an unfinished checkpoint lies there; whether the run lasted long enough for that.

    The process is stopped first, so that it cannot finish the checkpoint between the look and the kill.
    """
    process = psutil.Process(read_json(job.folder / "pid.json")["pid"])
    unfinished = (job.folder / "checkpoints").glob
    while record.read(job.folder).state in record.ACTIVE:
        if not any(unfinished(".step-*")):
            continue
        os.kill(process.pid, signal.SIGSTOP)
        while process.status() not in (psutil.STATUS_STOPPED, psutil.STATUS_ZOMBIE):
            pass
        if any(unfinished(".step-*")):
            os.kill(process.pid, signal.SIGKILL)
            return True
        os.kill(process.pid, signal.SIGCONT)
    return False


def suggested(state: record.State) -> dict[str, Any]:
    """The settings that a run which stopped at its memory limit says to go on with."""
    found = re.search(r"settings=(\{.*?\})\) goes on and fits", state.next_step)
    assert found, state.next_step
    return dict(ast.literal_eval(found[1]))


Lookalike = Literal["mistral", "qwen3", "granite", "gemma", "smollm3"]
_LOOKS: dict[str, dict[str, Any]] = {
    "mistral": {},
    "qwen3": {},
    "granite": {
        "logits_scaling": 2.0,
        "attention_multiplier": 0.2,
        "embedding_multiplier": 12.0,
        "residual_multiplier": 0.3,
    },
    "gemma": {},
    "smollm3": {"no_rope_layers": [0, 1]},
}


def make_lookalike(tiny: Path, folder: Path, kind: Lookalike) -> Path:
    """The tiny base as another type of model: its matrices are called the same, and mean another function."""
    from safetensors.numpy import load_file, save_file

    shutil.copytree(tiny, folder, ignore=shutil.ignore_patterns(".sha256"))
    config = read_json(folder / "config.json")
    architecture = {"smollm3": "SmolLM3"}.get(kind, kind.capitalize())
    config.update(_LOOKS[kind], model_type=kind, architectures=[f"{architecture}ForCausalLM"])
    write_json(folder / "config.json", config)
    if kind == "qwen3":
        weights = load_file(folder / "model.safetensors")
        for layer in range(config["num_hidden_layers"]):
            for name in ("q_norm", "k_norm"):
                weights[f"model.layers.{layer}.self_attn.{name}.weight"] = weights["model.norm.weight"][:16] * 1.5
        save_file(weights, folder / "model.safetensors", metadata={"format": "pt"})
    return folder
