"""What a run writes while it goes on: a line a step, the same for TensorBoard, and at the end its profile.

runs/ID/  metrics.jsonl    step, loss, valid_loss, learning_rate, gradient_norm, tokens, tokens_per_second (of the
                           last ten steps), memory, time
          tensorboard/     the same scalars; `tensorboard --logdir RUN/tensorboard` shows them
          profile.json     CPU, memory, disk, time by what took it, time per step, tokens

metrics = Metrics(run); metrics.write({"step": 1, "loss": 2.3})
read_metrics(run)          # the lines, without the one that a kill cut short
"""

import json
import time
from collections.abc import Iterator
from contextlib import contextmanager
from importlib.util import find_spec
from pathlib import Path
from typing import Any

import psutil

from tools.files import write_text
from tools.training.memory import high_water_gb

_FLUSH_SECONDS = 10.0
_GROUPS = {
    "loss": "loss/train",
    "valid_loss": "loss/valid",
    "learning_rate": "optimizer/learning_rate",
    "gradient_norm": "optimizer/gradient_norm",
    "tokens_per_second": "speed/tokens_per_second",
    "step_seconds": "speed/step_seconds",
    "memory_gb": "memory/process_gb",
    "mlx_memory_gb": "memory/mlx_gb",
}


def read_metrics(run: Path) -> list[dict[str, Any]]:
    """The lines of a run's metrics.jsonl."""
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


def thinned(lines: list[dict[str, Any]], most: int) -> list[dict[str, Any]]:
    """About `most` lines taken evenly, as many of those with a validation loss, and the last."""
    rated = [place for place, line in enumerate(lines) if "valid_loss" in line]
    kept = {*range(0, len(lines), -(-len(lines) // most) or 1), *rated[:: -(-len(rated) // most) or 1]}
    return [line for place, line in enumerate(lines) if place in kept or place == len(lines) - 1]


class Metrics:
    """The open files of a run's figures. TensorBoard's are written where tensorboardX is installed."""

    def __init__(self, run: Path, done: int) -> None:
        """Go on after step `done`: what a killed run wrote beyond it is dropped."""
        self.path = run / "metrics.jsonl"
        if done:
            kept = [line for line in read_metrics(run) if line["step"] <= done]
            write_text(self.path, "".join(json.dumps(line) + "\n" for line in kept))
        else:
            self.path.unlink(missing_ok=True)
        self._board = _Board(run / "tensorboard", done) if find_spec("tensorboardX") else None

    def write(self, line: dict[str, Any]) -> None:
        """Append a step's figures."""
        with self.path.open("a", encoding="utf-8") as stream:
            stream.write(json.dumps(line) + "\n")
        if self._board is not None:
            self._board.write(line["step"], {name: line[key] for key, name in _GROUPS.items() if key in line})

    def close(self) -> None:
        """Flush and close."""
        if self._board is not None:
            self._board.close()


class _Board:
    """A TensorBoard file, written here and now: tensorboardX's own writer does it in a thread that a full disk ends,
    and whoever writes then waits for it for ever."""

    def __init__(self, folder: Path, done: int) -> None:
        from tensorboardX.event_file_writer import EventsWriter
        from tensorboardX.proto.event_pb2 import Event, SessionLog

        folder.mkdir(exist_ok=True)
        self._file = EventsWriter(str(folder / "events"), f".{done}")  # a second may hold two
        self._flushed = time.monotonic()
        # what an earlier file says beyond step `done` is not to be shown
        self._file.write_event(Event(step=done + 1, session_log=SessionLog(status=SessionLog.START)))

    def write(self, step: int, scalars: dict[str, float]) -> None:
        from tensorboardX.proto.event_pb2 import Event
        from tensorboardX.proto.summary_pb2 import Summary

        values = [Summary.Value(tag=name, simple_value=value) for name, value in scalars.items()]
        self._file.write_event(Event(wall_time=time.time(), step=step, summary=Summary(value=values)))
        if time.monotonic() - self._flushed > _FLUSH_SECONDS:
            self._file.flush()
            self._flushed = time.monotonic()

    def close(self) -> None:
        self._file.close()


class Clock:
    """Seconds by what they went into."""

    def __init__(self) -> None:
        self.began = time.perf_counter()
        self.seconds: dict[str, float] = {"load": 0.0, "step": 0.0, "evaluate": 0.0, "checkpoint": 0.0}

    @contextmanager
    def __call__(self, what: str) -> Iterator[None]:
        began = time.perf_counter()
        try:
            yield
        finally:
            self.seconds[what] += time.perf_counter() - began

    @property
    def total(self) -> float:
        return time.perf_counter() - self.began


def profile(run: Path, clock: Clock, peak_memory_gb: float) -> dict[str, Any]:
    """What the run took of the machine: of the worker that ends it, and step by step of the whole run."""
    process = psutil.Process()
    times = process.cpu_times()
    lines = read_metrics(run)
    timed = [line for line in lines if "step_seconds" in line]
    steps = sorted(line["step_seconds"] for line in timed) or [0.0]
    tokens = sum(line.get("tokens", 0) for line in timed)
    spent = {f"{name}_seconds": round(seconds, 3) for name, seconds in clock.seconds.items()}
    total = clock.total
    written = process.io_counters().write_bytes if hasattr(process, "io_counters") else None
    return {
        "seconds": round(total, 3),
        **spent,
        "other_seconds": round(total - sum(clock.seconds.values()), 3),
        "cpu_seconds": round(times.user + times.system, 3),
        "cpus_used": round((times.user + times.system) / max(total, 1e-9), 2),
        "peak_memory_gb": round(max(peak_memory_gb, high_water_gb()), 3),
        "disk_written_mb": round(written / 1e6, 1) if written is not None else None,
        "run_size_mb": round(sum(p.stat().st_size for p in run.rglob("*") if p.is_file()) / 1e6, 1),
        "steps": len(lines),
        "tokens": tokens,
        "tokens_per_second": round(tokens / max(sum(steps), 1e-9), 1),
        "step_seconds_mean": round(sum(steps) / len(steps), 4),
        "step_seconds_p50": round(steps[len(steps) // 2], 4),
        "step_seconds_p95": round(steps[round(0.95 * (len(steps) - 1))], 4),
        "step_seconds_max": round(steps[-1], 4),
        # what the loop itself adds to a step: records, states, looking after memory; evaluation and checkpoints apart
        "overhead_share": round((total - sum(clock.seconds.values())) / max(total, 1e-9), 4),
    }
