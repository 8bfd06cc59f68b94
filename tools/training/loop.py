"""Train a LoRA adapter on MLX: the loop, and how a run's folder fills.

    run_job(workspace, job)          # what the worker calls; job.config is a TrainingConfig

    runs/ID/  setup.json             settings, versions, device, hashes of what went in
              metrics.jsonl          a line a step; tensorboard/ holds the same
              checkpoints/step-N/    from which the run goes on exactly; best.json names the best
              adapter/               the adapter of the best validation loss; loads in mlx-lm as it is
              profile.json           what it took of the machine
              bad-step.json          the rows of the step whose loss was not a number

Loss is taken of answers only. A run that is killed goes on from its last checkpoint with the same result as one that
was not: the data order is a pure function of (seed, step), and each step seeds its own dropout.
"""

import math
import shutil
import time
from collections import deque
from pathlib import Path
from typing import Any

from tools.data.datasets import read_split
from tools.data.examples import Example
from tools.data.tokens import encode
from tools.errors import CheckError, InputError, MissingError
from tools.files import read_json, require_space, whole_folder, write_json
from tools.jobs.record import Cancelled, Job, Stopped, fingerprint, now
from tools.models.bases import BaseInfo, base_folder, describe
from tools.models.load import device, load
from tools.training.config import TrainingConfig
from tools.training.estimate import fitting_settings, size_bytes, speed_key
from tools.training.memory import Footprint, OverLimit, keep_below
from tools.training.metrics import Clock, Metrics, profile
from tools.training.schedule import batch_places, learning_rate, step_count
from tools.training.setup import describe_setup, keep_setup
from tools.workspace import Workspace

VALID_ROWS = 32  # validation loss is measured on at most this many rows


def run_job(workspace: Workspace, job: Job) -> dict[str, Any]:
    """Train as `job.config` says, from the last checkpoint when there is one.

    Returns:
        steps, seconds, losses, trained tokens, tokens per second, peak memory (GB), hashes of what went in.

    Raises:
        Stopped: it was asked to stop, or came near its memory limit; a checkpoint was written first.
        LimitError: the disk has no room for a checkpoint.
        CheckError: the loss is not a number, or a resumed run would find other data.
        MissingError: the recipe is for another device.
    """
    config = TrainingConfig.model_validate(job.config)
    clock, where = Clock(), device()
    if config.device not in ("any", where):
        raise MissingError(
            f"This recipe is for {config.device}, and this machine computes on {where}.",
            "run it there, or set device='any' and plan it again",
        )
    job.report(message="loading the base")
    with Footprint(where) as memory, clock("load"):
        base = base_folder(workspace, config.base)
        train_rows, valid_rows, manifest = read_split(workspace, config.dataset)
        info = describe(base)
        for change in keep_setup(job.folder, describe_setup(config, info, base, manifest, where)):
            job.log(f"since this run began, {change}")
        trainer = Trainer(config, base, job, train_rows, valid_rows, workspace.settings.min_free_gb)
    with Footprint(where) as running:
        trainer.memory, trainer.clock, trainer.info = running, clock, info
        running.peak = memory.peak
        result = trainer.train()
    took = profile(job.folder, clock, result["peak_memory_gb"])
    write_json(job.folder / "profile.json", took)
    _remember_speed(workspace, job, speed_key(info, config), result["read_tokens"] / result["training_seconds"])
    return {
        **result,
        "dataset": config.dataset,
        "dataset_sha256": manifest.rows_sha256,
        "train_sha256": manifest.train_sha256,
        "base": config.base,
        "base_sha256": info.sha256,
        "config": fingerprint(config.model_dump()),
        "profile": took,
    }


def _remember_speed(workspace: Workspace, job: Job, key: str, tokens_per_second: float) -> None:
    """Keep the measured speed for the next plan."""
    kept = workspace.home / "cache" / "speeds.json"
    with workspace.lock("cache"):
        speeds = read_json(kept) if kept.is_file() else {}
        speeds[key] = {"tokens_per_second": round(tokens_per_second, 1), "run": job.id}
        write_json(kept, speeds)


class Trainer:
    """A model with its adapter, optimizer and data; `train()` takes it from wherever it stands to the end."""

    def __init__(
        self,
        config: TrainingConfig,
        base: Path,
        job: Job,
        train_rows: list[Example],
        valid_rows: list[Example],
        min_free_gb: float = 0.5,
    ) -> None:
        self.config, self.base, self.job, self.run = config, base, job, job.folder
        self.device = device()
        import mlx.core as mx
        import mlx.optimizers as optim
        from mlx_lm.tuner.utils import linear_to_lora_layers

        from tools.training.checkpoints import lora_parameters
        from tools.training.packed import check_layout

        # what MLX keeps of freed buffers counts as this process's memory, so it is bounded
        mx.set_cache_limit(256_000_000)
        self.model, tokenizer = load(base)
        check_layout(self.model)
        self.rows = train_rows
        self.train_data = encode(tokenizer, train_rows, config.max_length)
        self.valid_data = encode(tokenizer, valid_rows[:VALID_ROWS], config.max_length).rows
        if cut := self.train_data.cut:
            lines = ", ".join(str(place + 1) for place in cut[:20])
            job.log(
                f"{len(cut)} rows are longer than {config.max_length} tokens and are cut: lines {lines} of train.jsonl"
            )
        mx.random.seed(config.seed)
        self.model.freeze()
        linear_to_lora_layers(self.model, -1, lora_parameters(config))
        self.model.train()
        self.optimizer = optim.AdamW(learning_rate=0.0, weight_decay=config.weight_decay, bias_correction=True)
        self.optimizer.init(self.model.trainable_parameters())
        mx.eval(self.model.parameters(), self.optimizer.state)
        self.steps = step_count(len(self.train_data.rows), config)
        self.progress: dict[str, Any] = {
            "best_loss": None,
            "best_step": 0,
            "since_best": 0,
            "tokens": 0,
            "read": 0,
            "padding": 0,
            "seconds": 0.0,
        }
        self.parameters = sum(value.size for _, value in self._trainable())
        kept = config.keep_checkpoints + 3  # the best, the adapter, and the one that is being written
        require_space(self.run, kept * size_bytes(self.parameters), min_free_gb, "The checkpoints of this training")
        self.min_free_gb = min_free_gb
        self.memory, self.clock = Footprint(self.device), Clock()
        self.info: BaseInfo | None = None

    def _trainable(self) -> list[tuple[str, Any]]:
        from mlx.utils import tree_flatten

        return list(tree_flatten(self.model.trainable_parameters()))

    def train(self) -> dict[str, Any]:
        """Run every step that is left; returns the figures of the whole run.

        Raises:
            Stopped: it was asked to stop, or came near its memory limit; a checkpoint was written first.
            CheckError: the loss is not a number.
        """
        self._resume()
        recent: deque[tuple[int, float]] = deque(maxlen=10)
        done = int(self.progress.get("step", 0))
        try:
            self._look()
            if done == 0:
                self._validate(0)
            while done < self.steps and not self._patience_is_over():
                began = time.perf_counter()
                with self.clock("step"):
                    figures, tokens, read, padding = self._step(done)
                seconds = time.perf_counter() - began
                recent.append((tokens, seconds))
                self.progress["tokens"] += tokens
                self.progress["read"] += read
                self.progress["padding"] += padding
                self.progress["seconds"] += seconds
                done += 1
                self.progress["step"] = done
                better = False
                if done % self.config.eval_every == 0 or done == self.steps:
                    better = self._validate(done)
                    figures["valid_loss"] = round(self.progress["valid_loss"], 5)
                self._record(done, figures, recent)
                last = done == self.steps or self._patience_is_over()
                if better or last or done % self.config.save_every == 0:
                    self._save(done)
                self._look()
                self.job.report()
        except Cancelled:
            self._save(done)
            raise
        except OverLimit as over:
            self._save(done)
            raise self._over(over) from over
        finally:
            self.metrics.close()
        return self._finish(done)

    def _patience_is_over(self) -> bool:
        return 0 < self.config.patience <= int(self.progress["since_best"])

    def _look(self) -> None:
        """Between two packs, where a training can end without losing anything.

        Raises:
            OverLimit, Cancelled: it has to end here.
        """
        keep_below(self.memory, self.config.memory_limit_gb)
        if self.job.cancelled:
            raise Cancelled

    def _over(self, over: OverLimit) -> Stopped:
        limit = self.config.memory_limit_gb
        rows = self.train_data.rows
        changes = fitting_settings(self.info, self.config, rows, over.gb, limit, self.device) if self.info else {}
        again = f"start_training(resume={self.job.id!r}, settings={changes})"
        return Stopped(
            f"memory limit: the training came to {over.gb:.2f} GB, and {limit:.2f} GB is its limit. A checkpoint was "
            "kept, nothing is lost.",
            f"{again} goes on and fits by the estimate"
            if changes
            else "no smaller pack fits: raise memory_limit_gb when resuming, or take a smaller base",
        )

    def _save(self, step: int) -> None:
        from tools.training import checkpoints

        with self.clock("checkpoint"):
            checkpoints.save(
                self.run,
                step,
                self.model,
                self.optimizer,
                {**self.progress, "peak_memory_gb": self.memory.peak},
                self.config,
                self.base,
                self.min_free_gb,
            )

    def _resume(self) -> None:
        from tools.training import checkpoints

        folder = checkpoints.latest(self.run, self.job.log)
        if folder is not None:
            self.progress = checkpoints.restore(folder, self.model, self.optimizer, self.config)
            self.memory.peak = max(self.memory.peak, self.progress["peak_memory_gb"])
            self.job.log(f"resuming after step {self.progress['step']}")
        # a run killed before its first checkpoint starts again, and so does its record
        self.metrics = Metrics(self.run, int(self.progress.get("step", 0)))

    def _step(self, step: int) -> tuple[dict[str, Any], int, int, int]:
        """One optimizer step; returns its mean loss and the gradient's norm, the tokens of its rows, those that went
        through the model (a shared beginning once a pack), and padding.

        However many packs the rows take, the gradient is that of the whole batch.
        """
        import mlx.core as mx
        import mlx.nn as nn
        import mlx.optimizers as optim
        from mlx.utils import tree_map

        from tools.training.packed import pack_loss, packs_of

        places = batch_places(len(self.train_data.rows), self.config, step)
        rows = [self.train_data.rows[place] for place in places]
        trained = sum(row.trained for row in rows)
        mx.random.seed(self.config.seed * 1_000_003 + step)
        loss_and_grad = nn.value_and_grad(
            self.model, lambda pack: pack_loss(self.model, pack, self.config.gradient_checkpointing) / trained
        )
        total, gradients = 0.0, None
        packs = packs_of(rows, self.config.pack_tokens)
        for number, pack in enumerate(packs):
            if number:
                self._look()
            loss, part = loss_and_grad(pack)
            gradients = part if gradients is None else tree_map(mx.add, gradients, part)
            mx.eval(loss, gradients)
            total += loss.item()
        gradients, length = optim.clip_grad_norm(gradients, self.config.clip_norm)
        self.optimizer.learning_rate = learning_rate(self.config, step, self.steps)
        self.optimizer.update(self.model, gradients)
        mx.eval(self.model.trainable_parameters(), self.optimizer.state, length)
        norm = float(length.item())
        if not (math.isfinite(total) and math.isfinite(norm)):
            self._keep_bad(step, places, total, norm)
        return (
            {"loss": round(total, 5), "gradient_norm": round(norm, 5)},
            sum(len(row.ids) for row in rows),
            sum(len(pack.tokens) for pack in packs),
            sum(pack.padding for pack in packs),
        )

    def _keep_bad(self, step: int, places: list[int], loss: float, norm: float) -> None:
        """Write down the rows of a step whose loss or gradient is not a number, and stop.

        Raises:
            CheckError: always.
        """
        lines = [self.train_data.places[place] for place in places]
        write_json(
            self.run / "bad-step.json",
            {
                "step": step + 1,
                "loss": str(loss),
                "gradient_norm": str(norm),
                "learning_rate": learning_rate(self.config, step, self.steps),
                "lines": [line + 1 for line in lines],
                "rows": [self.rows[line].model_dump() for line in lines],
            },
        )
        raise CheckError(
            f"The loss of step {step + 1} is {loss}, its gradient's norm {norm}. The step's rows are in "
            f"{self.run / 'bad-step.json'}; the last checkpoint is from before it.",
            "look at those rows, lower learning_rate, and start again",
        )

    def _record(self, step: int, figures: dict[str, Any], recent: deque[tuple[int, float]]) -> None:
        import mlx.core as mx

        speed = sum(t for t, _ in recent) / sum(s for _, s in recent)
        left = (self.steps - step) * sum(s for _, s in recent) / len(recent)
        line = {
            "step": step,
            **figures,
            "learning_rate": round(learning_rate(self.config, step - 1, self.steps), 8),
            "tokens_per_second": round(speed, 1),
            "memory_gb": round(self.memory.look(), 3),
            "mlx_memory_gb": round(mx.get_peak_memory() / 1e9, 3),
            "step_seconds": round(recent[-1][1], 4),
            "time": now(),
        }
        self.metrics.write(line)
        shown = {key: float(value) for key, value in line.items() if key not in ("step", "time")}
        self.job.state.metrics.update(shown, seconds_left=round(left, 1))
        self.job.state.step, self.job.state.total, self.job.state.message = step, self.steps, "training"

    def _validate(self, step: int) -> bool:
        """Measure the validation loss; the adapter of the best one is kept. Returns whether this one is the best."""
        if not self.valid_data:
            raise InputError("The dataset has no validation rows.", "call validate_dataset again")
        with self.clock("evaluate"):
            mean = self._valid_loss()
        self.job.state.metrics["valid_loss"] = round(mean, 5)
        self.job.log(f"step {step}: validation loss {mean:.4f}")
        if step == 0:
            self.progress["valid_loss_before"] = mean
            return False
        self.progress["valid_loss"] = mean
        if self.progress["best_loss"] is not None and not mean < self.progress["best_loss"]:
            self.progress["since_best"] += 1
            return False
        self.progress.update(best_loss=mean, best_step=step, since_best=0)
        self._keep_best()
        return True

    def _valid_loss(self) -> float:
        import mlx.core as mx

        from tools.training.packed import pack_loss, packs_of

        self.model.eval()
        total = 0.0
        for pack in packs_of(self.valid_data, self.config.pack_tokens):
            loss: Any = pack_loss(self.model, pack)
            mx.eval(loss)
            total += loss.item()
        self.model.train()
        return total / sum(row.trained for row in self.valid_data)

    def _keep_best(self) -> None:
        from tools.training.checkpoints import save_adapter

        fresh, best = self.run / "adapter.new", self.run / "adapter"
        shutil.rmtree(fresh, ignore_errors=True)
        with whole_folder(fresh) as folder:
            save_adapter(folder, self.model, self.config, self.base)
        shutil.rmtree(best, ignore_errors=True)
        fresh.rename(best)

    def _finish(self, done: int) -> dict[str, Any]:
        data, progress = self.train_data, self.progress
        early = done < self.steps
        return {
            "reason": f"No better validation loss in {progress['since_best']} evaluations, so it ended early."
            if early
            else f"All {self.steps} steps are done.",
            "steps": done,
            "planned_steps": self.steps,
            "stopped_early": early,
            "rows": len(data.rows),
            "truncated_rows": data.truncated,
            "dropped_rows": data.dropped,
            "tokens": progress["tokens"],
            "read_tokens": progress["read"],
            "padding_share": round(progress["padding"] / max(1, progress["read"]), 4),
            "training_seconds": round(max(progress["seconds"], 0.001), 3),
            "tokens_per_second": round(progress["tokens"] / max(progress["seconds"], 1e-9), 1),
            "peak_memory_gb": round(self.memory.peak, 3),
            "valid_loss_before": round(progress["valid_loss_before"], 4),
            "valid_loss": round(progress["best_loss"], 4),
            "best_step": progress["best_step"],
            "trainable_parameters": self.parameters,
            "device": self.device,
        }
