"""The training loop: packed passes, LoRA and AdamW on MLX, from wherever a run stands to its end.

    trainer = Trainer(config, base, job, train_rows, valid_rows)
    result = trainer.train()

Loss is taken of answers only. Several processes may share the rows of every step (tools.training.group): each runs
this loop, and the first alone writes. A run that is killed goes on from its last checkpoint with the same result as one
that was not: the data order is a pure function of (seed, step), and each step seeds its own dropout.
`tools.training.run` puts a trainer into a run's folder.
"""

import math
import time
from collections import deque
from collections.abc import Iterator
from pathlib import Path
from typing import Any

from tools.data.examples import Example
from tools.data.tokens import encode
from tools.errors import InputError
from tools.files import require_space, sweep
from tools.jobs.record import Cancelled, Job, now
from tools.models.bases import BaseInfo
from tools.models.load import device
from tools.training.config import TrainingConfig
from tools.training.endings import bad_validation, figures, keep_bad_step, over_limit
from tools.training.estimate import size_bytes
from tools.training.group import Group, parts
from tools.training.memory import CACHE_GB, Footprint, OverLimit, bound_gb, keep_below
from tools.training.metrics import Clock, Metrics
from tools.training.schedule import batch_places, learning_rate, step_count, valid_places


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
        group: Group | None = None,
    ) -> None:
        self.config, self.base, self.job, self.run = config, base, job, job.folder
        self.group = group or Group()
        self.device = device()
        import mlx.core as mx
        import mlx.optimizers as optim
        from mlx_lm.tuner.utils import linear_to_lora_layers

        from tools.training.checkpoints import lora_parameters
        from tools.training.passes import Passes, load_for_training

        # what MLX keeps of freed buffers counts as this process's memory, so it is bounded
        mx.set_cache_limit(round(CACHE_GB * 1e9))
        self.model, tokenizer = load_for_training(base, config)
        self.rows = train_rows
        self.train_data = encode(tokenizer, train_rows, config.max_length)
        self.valid_rows = len(valid_rows)
        if not valid_rows:
            raise InputError("The dataset has no validation rows.", "call validate_dataset again")
        evaluated = [valid_rows[place] for place in valid_places(len(valid_rows), config.seed)]
        self.valid_data = encode(tokenizer, evaluated, config.max_length).rows
        if cut := self.train_data.cut:
            lines = ", ".join(str(place + 1) for place in cut[:20])
            job.log(
                f"{len(cut)} rows are longer than {config.max_length} tokens and are cut: lines {lines} of train.jsonl"
            )
        mx.random.seed(config.seed)
        self.model.freeze()
        linear_to_lora_layers(self.model, -1, lora_parameters(config))
        self.model.train()
        self.passes = Passes(self.model, config)
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
            "peak_memory_gb": 0.0,
            "begun": None,  # the line of a step that is made, but not yet validated and recorded
        }
        self.parameters = sum(value.size for _, value in self._trainable())
        if not self.parameters:
            raise InputError(
                f"None of the matrices {', '.join(config.targets)} is in {base.name} under such a name.",
                "leave `targets` out: every linear layer then gets an adapter",
            )
        kept = config.keep_checkpoints + 3  # the best, the adapter, and the one that is being written
        if self.group.lead:
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
            CheckError: the loss, or the validation loss, is not a number.
        """
        self._resume()
        recent: deque[tuple[int, float]] = deque(maxlen=10)
        done = int(self.progress.get("step", 0))
        try:
            self._look()
            if done == 0:
                self._validate(0)
            elif not self.progress["begun"] and (
                done > self.steps or (done == self.steps and self.progress["best_loss"] is None)
            ):
                self.job.state.total = done  # it was asked to end where it stands
                self._validate(done)
                self._save(done)
            while self.progress["begun"] or (done < self.steps and not self._patience_is_over()):
                if not self.progress["begun"]:
                    self.progress["begun"] = self._make_step(done)
                    done += 1
                    self.progress["step"] = done
                line = self.progress["begun"]
                recent.append((line["tokens"], line["step_seconds"]))
                better = False
                if done % self.config.eval_every == 0 or done >= self.steps:
                    better = self._validate(done)
                    line["valid_loss"] = round(self.progress["valid_loss"], 5)
                self.progress["begun"] = None
                self._record(done, line, recent)
                last = done >= self.steps or self._patience_is_over()
                if better or last or done % self.config.save_every == 0:
                    self._save(done)
                self.job.show()
                self._look()
        except Cancelled:
            self._save(done)
            raise
        except OverLimit as over:
            self._save(done)
            raise over_limit(self, over.gb) from over
        finally:
            if self.metrics is not None:
                self.metrics.close()
        return figures(self, done)

    def _make_step(self, done: int) -> dict[str, Any]:
        """Make the step after `done`; returns its line for the metrics."""
        began = time.perf_counter()
        with self.clock("step"):
            figures, tokens, read, padding = self._step(done)
        seconds = time.perf_counter() - began
        for name, value in (("tokens", tokens), ("read", read), ("padding", padding), ("seconds", seconds)):
            self.progress[name] += value
        return {**figures, "tokens": tokens, "step_seconds": round(seconds, 4)}

    def _patience_is_over(self) -> bool:
        return 0 < self.config.patience <= int(self.progress["since_best"])

    def _look(self) -> None:
        """Between two packs, where a training can end without losing anything.

        Raises:
            OverLimit, Cancelled: it has to end here.
        """
        over = 0.0
        try:
            keep_below(self.memory, bound_gb(self.config.memory_limit_gb) / self.config.nproc)
        except OverLimit as error:
            over = error.gb
        # all processes end together, whichever of them has to
        if over := self.group.most(over):
            raise OverLimit(over)
        if self.group.most(self.job.cancelled):
            raise Cancelled

    def _save(self, step: int) -> None:
        from tools.training import checkpoints

        self.progress["peak_memory_gb"] = self._machine_gb(self.memory.peak)
        if not self.group.lead:
            return
        with self.clock("checkpoint"):
            checkpoints.save(
                self.run, step, self.model, self.optimizer, self.progress, self.config, self.base, self.min_free_gb
            )

    def _machine_gb(self, gb: float) -> float:
        """What all processes of one machine hold when the largest of them holds `gb`."""
        return self.group.most(gb) * self.config.nproc

    def _resume(self) -> None:
        from tools.training import checkpoints

        if self.group.lead:
            sweep(self.run)  # what a kill left of an adapter that was being written
        folder = checkpoints.latest(self.run, self.job.log) if self.group.lead else None
        found = int(self.group.most(checkpoints.step_of(folder) if folder else -1))
        if found >= 0:
            folder = checkpoints.at(self.run, found)
            self.progress = {**self.progress, **checkpoints.restore(folder, self.model, self.optimizer, self.config)}
            self.memory.peak = max(self.memory.peak, self.progress["peak_memory_gb"] / self.config.nproc)
            self.job.log(f"resuming after step {self.progress['step']}")
        # a run killed before its first checkpoint starts again, and so does its record
        done = int(self.progress.get("step", 0)) - bool(self.progress["begun"])
        self.metrics = Metrics(self.run, done) if self.group.lead else None

    def _in_turn(self, packs: list[Any]) -> Iterator[Any]:
        """The packs, with a look before each but the first, in every process as often as in the one with most packs."""
        for number in range(int(self.group.most(len(packs)))):
            if number:
                self._look()
            if number < len(packs):
                yield packs[number]

    def _step(self, step: int) -> tuple[dict[str, Any], int, int, int]:
        """One optimizer step; returns its mean loss and the gradient's norm, the tokens of its rows, those that went
        through the model (a shared beginning once a pack), and padding.

        However many packs the rows take, the gradient is that of the whole batch.
        """
        import mlx.core as mx
        import mlx.optimizers as optim
        from mlx.utils import tree_map

        group = self.group
        places = batch_places(len(self.train_data.rows), self.config, step)
        rows = [self.train_data.rows[place] for place in places]
        trained = sum(row.trained for row in rows)
        mx.random.seed((self.config.seed * 1_000_003 + step) * group.size + group.rank)
        total, gradients = 0.0, None
        batch = self.passes.groups(parts(rows, group.size)[group.rank])
        for packs in self._in_turn(batch):
            loss, part = self.passes.gradients(packs, trained)
            gradients = part if gradients is None else tree_map(mx.add, gradients, part)
            mx.eval(gradients)
            total += loss
        total, gradients = group.total(total), group.sum(gradients)
        packs = [pack for packs in batch for pack in packs]
        gradients, length = optim.clip_grad_norm(gradients, self.config.clip_norm)
        self.optimizer.learning_rate = learning_rate(self.config, step, self.steps)
        self.optimizer.update(self.model, gradients)
        mx.eval(self.model.trainable_parameters(), self.optimizer.state, length)
        norm = float(length.item())
        if not (math.isfinite(total) and math.isfinite(norm)):
            keep_bad_step(self, step, places, total, norm)
        return (
            {"loss": round(total, 5), "gradient_norm": round(norm, 5)},
            sum(len(row.ids) for row in rows),
            int(group.total(sum(len(pack.tokens) for pack in packs))),
            int(group.total(sum(pack.padding for pack in packs))),
        )

    def _record(self, step: int, figures: dict[str, Any], recent: deque[tuple[int, float]]) -> None:
        import mlx.core as mx

        memory = self._machine_gb(self.memory.look())
        if self.metrics is None:
            return
        speed = sum(t for t, _ in recent) / sum(s for _, s in recent)
        left = (self.steps - step) * sum(s for _, s in recent) / len(recent)
        line = {
            "step": step,
            **figures,
            "learning_rate": round(learning_rate(self.config, step - 1, self.steps), 8),
            "tokens_per_second": round(speed, 1),
            "memory_gb": round(memory, 3),
            "mlx_memory_gb": round(mx.get_peak_memory() / 1e9, 3),
            "time": now(),
        }
        self.metrics.write(line)
        shown = {key: float(value) for key, value in line.items() if key not in ("step", "tokens", "time")}
        self.job.state.metrics.update(shown, seconds_left=round(left, 1))
        self.job.state.step, self.job.state.total, self.job.state.message = step, self.steps, "training"

    def _validate(self, step: int) -> bool:
        """Measure the validation loss; the adapter of the best one is kept. Returns whether this one is the best.

        Raises:
            CheckError: it is not a number.
        """
        with self.clock("evaluate"):
            mean = self._valid_loss()
        if not math.isfinite(mean):  # nothing is less than a NaN: it would stay the best for ever
            raise bad_validation(self, step, mean)
        self.job.state.metrics["valid_loss"] = round(mean, 5)
        self.job.log(f"step {step}: validation loss {mean:.4f}")
        if step == 0:
            self.progress["valid_loss_before"] = mean
            return False
        self.progress["valid_loss"] = mean
        if self.progress["best_loss"] is not None and not mean < self.progress["best_loss"]:
            self.progress["since_best"] += 1
            return False
        from tools.training import checkpoints

        self.progress.update(best_loss=mean, best_step=step, since_best=0)
        if self.group.lead:
            checkpoints.keep_adapter(self.run, self.model, self.config, self.base)
        return True

    def _valid_loss(self) -> float:
        self.model.eval()
        mine = self.passes.groups(parts(self.valid_data, self.group.size)[self.group.rank])
        total = sum(self.passes.loss(packs) for packs in self._in_turn(mine))
        self.model.train()
        return self.group.total(total) / sum(row.trained for row in self.valid_data)
