"""Train a LoRA adapter on MLX: the loop, and how a run's folder fills.

    run_job(workspace, job)          # what the worker calls; job.config is a TrainingConfig

    runs/ID/  metrics.jsonl          a line a step: loss, tokens per second, memory, rate
              checkpoints/step-N/    from which the run goes on exactly
              adapter/               the adapter of the best validation loss; loads in mlx-lm as it is

Loss is taken of answers only. A run that is killed goes on from its last checkpoint with the same result as one that
was not: the data order is a pure function of (seed, step), and each step seeds its own dropout.
"""

import json
import math
import random
import shutil
import time
from collections import deque
from pathlib import Path
from typing import Any

import psutil

from tools.data.datasets import read_split
from tools.data.tokens import Encoded, EncodedRow, encode
from tools.errors import CheckError, InputError, LimitError
from tools.files import read_json, require_space, whole_folder, write_json, write_text
from tools.jobs.record import Job, fingerprint
from tools.models.bases import base_folder, describe
from tools.models.load import device, load
from tools.training.config import TrainingConfig
from tools.training.plan import speed_key
from tools.workspace import Workspace

VALID_ROWS = 32  # validation loss is measured on at most this many rows


def run_job(workspace: Workspace, job: Job) -> dict[str, Any]:
    """Train as `job.config` says, from the last checkpoint when there is one.

    Returns:
        steps, seconds, losses, trained tokens, tokens per second, peak memory (GB), hashes of what went in.

    Raises:
        Cancelled: it was asked to stop; a checkpoint was written first.
        LimitError: memory or disk would be exceeded.
        CheckError: the loss is not a number.
    """
    config = TrainingConfig.model_validate(job.config)
    job.report(message="loading the base")
    base = base_folder(workspace, config.base)
    train_rows, valid_rows, manifest = read_split(workspace, config.dataset)
    trainer = Trainer(config, base, job, train_rows, valid_rows, workspace.settings.min_free_gb)
    result = trainer.train()
    info = describe(base)
    _remember_speed(workspace, job, speed_key(info, config), result["read_tokens"] / result["training_seconds"])
    return {
        **result,
        "dataset": config.dataset,
        "dataset_sha256": manifest.rows_sha256,
        "train_sha256": manifest.train_sha256,
        "base": config.base,
        "base_sha256": info.sha256,
        "config": fingerprint(config.model_dump()),
    }


def _remember_speed(workspace: Workspace, job: Job, key: str, tokens_per_second: float) -> None:
    """Keep the measured speed for the next plan."""
    kept = workspace.home / "cache" / "speeds.json"
    with workspace.lock("cache"):
        speeds = read_json(kept) if kept.is_file() else {}
        speeds[key] = {"tokens_per_second": round(tokens_per_second, 1), "run": job.id}
        write_json(kept, speeds)


def data_order(rows: int, seed: int, epoch: int) -> list[int]:
    """The order of rows in an epoch: a pure function of its arguments."""
    order = list(range(rows))
    random.Random(f"{seed}:{epoch}").shuffle(order)
    return order


def batch(rows: list[EncodedRow], config: TrainingConfig, step: int) -> list[EncodedRow]:
    """The rows of step `step` (from 0); a batch may span two epochs, and no row is ever left out."""
    places = range(step * config.batch_size, (step + 1) * config.batch_size)
    orders = {epoch: data_order(len(rows), config.seed, epoch) for epoch in {p // len(rows) for p in places}}
    return [rows[orders[p // len(rows)][p % len(rows)]] for p in places]


def step_count(rows: int, config: TrainingConfig) -> int:
    """Optimizer steps of a whole training."""
    return max(1, math.ceil(rows * config.epochs / config.batch_size))


def learning_rate(config: TrainingConfig, step: int, steps: int) -> float:
    """The rate of step `step` (from 0): linear warm-up, then constant or a cosine down to a fiftieth."""
    warmup = min(config.warmup_steps, steps - 1)
    if step < warmup:
        return config.learning_rate * (step + 1) / (warmup + 1)
    if config.schedule == "constant":
        return config.learning_rate
    done = (step - warmup) / max(1, steps - warmup)
    return config.learning_rate * (0.02 + 0.98 * 0.5 * (1 + math.cos(math.pi * done)))


class Trainer:
    """A model with its adapter, optimizer and data; `train()` takes it from wherever it stands to the end."""

    def __init__(
        self,
        config: TrainingConfig,
        base: Path,
        job: Job,
        train_rows: list[Any],
        valid_rows: list[Any],
        min_free_gb: float = 0.5,
    ) -> None:
        self.config, self.base, self.job, self.run = config, base, job, job.folder
        self.device = device()
        import mlx.core as mx
        import mlx.optimizers as optim
        from mlx_lm.tuner.utils import linear_to_lora_layers

        from tools.training.packed import check_layout

        # what MLX keeps of freed buffers counts as this process's memory, so it is bounded
        mx.set_cache_limit(256_000_000)
        self.model, tokenizer = load(base)
        check_layout(self.model)
        self.train_data = self._encoded(tokenizer, train_rows)
        self.valid_data = self._encoded(tokenizer, valid_rows[:VALID_ROWS]).rows
        mx.random.seed(config.seed)
        self.model.freeze()
        linear_to_lora_layers(self.model, -1, {"rank": config.rank, "scale": config.scale, "dropout": config.dropout})
        self.model.train()
        self.optimizer = optim.AdamW(learning_rate=0.0, weight_decay=config.weight_decay, bias_correction=True)
        self.optimizer.init(self.model.trainable_parameters())
        mx.eval(self.model.parameters(), self.optimizer.state)
        self.steps = step_count(len(self.train_data.rows), config)
        self.progress: dict[str, Any] = {"best_loss": None, "best_step": 0, "tokens": 0, "read": 0, "seconds": 0.0}
        adapter_bytes = 4 * sum(v.size for _, v in self._trainable())
        require_space(self.run, 12 * adapter_bytes, min_free_gb, "The checkpoints of this training")

    def _encoded(self, tokenizer: Any, rows: list[Any]) -> Encoded:
        return encode(tokenizer, rows, self.config.max_length)

    def _trainable(self) -> list[tuple[str, Any]]:
        from mlx.utils import tree_flatten

        return list(tree_flatten(self.model.trainable_parameters()))

    def train(self) -> dict[str, Any]:
        """Run every step that is left; returns the figures of the whole run."""
        from tools.training import checkpoints

        self._resume()
        recent: deque[tuple[int, float]] = deque(maxlen=10)
        started = int(self.progress.get("step", 0))
        for step in range(started, self.steps):
            if step == started:
                self._validate(step, initial=started == 0)
            began = time.perf_counter()
            loss, tokens, read = self._step(step)
            seconds = time.perf_counter() - began
            recent.append((tokens, seconds))
            self.progress["tokens"] += tokens
            self.progress["read"] += read
            self.progress["seconds"] += seconds
            self._record(step + 1, loss, recent)
            done = step + 1
            if done % self.config.eval_every == 0 or done == self.steps:
                self._validate(done)
            self.progress["step"] = done
            if done % self.config.save_every == 0 or done == self.steps or (self.run / "cancel").exists():
                checkpoints.save(self.run, done, self.model, self.optimizer, self.progress, self.config, self.base)
            self.job.report()
        return self._finish()

    def _resume(self) -> None:
        from tools.training import checkpoints

        folder = checkpoints.latest(self.run)
        if folder is None:
            # a run killed before its first checkpoint starts again, and so does its record
            (self.run / "metrics.jsonl").unlink(missing_ok=True)
            return
        self.progress = checkpoints.restore(folder, self.model, self.optimizer)
        done = self.progress["step"]
        self.job.log(f"resuming after step {done}")
        kept = [line for line in read_metrics(self.run) if line["step"] <= done]
        write_text(self.run / "metrics.jsonl", "".join(json.dumps(line) + "\n" for line in kept))

    def _step(self, step: int) -> tuple[float, int, int]:
        """One optimizer step; returns the mean loss of its trained tokens, the tokens of its rows, and those that
        went through the model (a shared beginning once a pack)."""
        import mlx.core as mx
        import mlx.nn as nn
        import mlx.optimizers as optim
        from mlx.utils import tree_map

        from tools.training.packed import pack_loss, packs_of

        rows = batch(self.train_data.rows, self.config, step)
        trained = sum(row.trained for row in rows)
        mx.random.seed(self.config.seed * 1_000_003 + step)
        loss_and_grad = nn.value_and_grad(
            self.model, lambda pack: pack_loss(self.model, pack, self.config.gradient_checkpointing) / trained
        )
        total, gradients = 0.0, None
        packs = packs_of(rows, self.config.pack_tokens)
        for pack in packs:
            loss, part = loss_and_grad(pack)
            gradients = part if gradients is None else tree_map(mx.add, gradients, part)
            mx.eval(loss, gradients)
            total += loss.item()
        if not math.isfinite(total):
            raise CheckError(
                f"The loss of step {step + 1} is {total}.",
                "lower learning_rate, and start again; the last checkpoint is whole",
            )
        gradients, _ = optim.clip_grad_norm(gradients, self.config.clip_norm)
        self.optimizer.learning_rate = learning_rate(self.config, step, self.steps)
        self.optimizer.update(self.model, gradients)
        mx.eval(self.model.trainable_parameters(), self.optimizer.state)
        return total, sum(len(row.ids) for row in rows), sum(len(pack.tokens) for pack in packs)

    def _record(self, step: int, loss: float, recent: deque[tuple[int, float]]) -> None:
        memory = psutil.Process().memory_info().rss / 1e9
        if memory > self.config.memory_limit_gb:
            raise LimitError(
                f"The training uses {memory:.1f} GB, more than its limit of {self.config.memory_limit_gb:.1f} GB.",
                "lower batch_size, pack_tokens or max_length, or set gradient_checkpointing=true",
            )
        speed = sum(t for t, _ in recent) / sum(s for _, s in recent)
        left = (self.steps - step) * sum(s for _, s in recent) / len(recent)
        line = {
            "step": step,
            "loss": round(loss, 5),
            "learning_rate": round(learning_rate(self.config, step - 1, self.steps), 8),
            "tokens_per_second": round(speed, 1),
            "memory_gb": round(memory, 3),
        }
        with (self.run / "metrics.jsonl").open("a", encoding="utf-8") as stream:
            stream.write(json.dumps(line) + "\n")
        figures = {key: float(value) for key, value in line.items() if key != "step"}
        self.progress["peak_memory_gb"] = max(memory, self.progress.get("peak_memory_gb", 0.0))
        self.job.state.metrics.update(figures, seconds_left=round(left, 1))
        self.job.state.step, self.job.state.total, self.job.state.message = step, self.steps, "training"

    def _validate(self, step: int, initial: bool = False) -> None:
        """Measure the validation loss; the adapter of the best one is the one that is kept."""
        if not self.valid_data:
            raise InputError("The dataset has no validation rows.", "call validate_dataset again")
        import mlx.core as mx

        from tools.training.packed import pack_loss, packs_of

        self.model.eval()
        total = 0.0
        for pack in packs_of(self.valid_data, self.config.pack_tokens):
            loss: Any = pack_loss(self.model, pack)
            mx.eval(loss)
            total += loss.item()
        self.model.train()
        mean = total / sum(row.trained for row in self.valid_data)
        self.job.state.metrics["valid_loss"] = round(mean, 5)
        self.job.log(f"step {step}: validation loss {mean:.4f}")
        if initial:
            self.progress["valid_loss_before"] = mean
            return
        self.progress["valid_loss"] = mean
        if self.progress["best_loss"] is None or mean < self.progress["best_loss"]:
            self.progress.update(best_loss=mean, best_step=step)
            self._keep_best()

    def _keep_best(self) -> None:
        from tools.training.checkpoints import save_adapter

        fresh, best = self.run / "adapter.new", self.run / "adapter"
        shutil.rmtree(fresh, ignore_errors=True)
        with whole_folder(fresh) as folder:
            save_adapter(folder, self.model, self.config, self.base)
        shutil.rmtree(best, ignore_errors=True)
        fresh.rename(best)

    def _finish(self) -> dict[str, Any]:
        data = self.train_data
        if not (self.run / "adapter").exists():
            self._keep_best()
        return {
            "steps": self.steps,
            "rows": len(data.rows),
            "truncated_rows": data.truncated,
            "dropped_rows": data.dropped,
            "tokens": self.progress["tokens"],
            "read_tokens": self.progress["read"],
            "training_seconds": round(max(self.progress["seconds"], 0.001), 3),
            "tokens_per_second": round(self.progress["tokens"] / max(self.progress["seconds"], 1e-9), 1),
            "peak_memory_gb": round(self.progress.get("peak_memory_gb", 0.0), 3),
            "valid_loss_before": round(self.progress.get("valid_loss_before", math.nan), 4),
            "valid_loss": round(self.progress["best_loss"], 4),
            "best_step": self.progress["best_step"],
            "trainable_parameters": sum(value.size for _, value in self._trainable()),
            "device": self.device,
        }


def read_metrics(run: Path) -> list[dict[str, Any]]:
    path = run / "metrics.jsonl"
    if not path.exists():
        return []
    lines = []
    for text in path.read_text(encoding="utf-8").splitlines():
        try:
            lines.append(json.loads(text))
        except ValueError:  # the line that a kill cut short
            break
    return lines
