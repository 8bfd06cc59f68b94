"""The memory limit of a training, kept on what the process really holds.

    with Footprint(device) as memory:      # sampled ten times a second, so that the peak inside a step is seen too
        keep_below(memory, limit_gb)       # between two packs: frees caches on the way, raises OverLimit before it

MLX's own counter leaves out its cache, the tokenizer and Python, and an overrun makes a laptop page for hours, so the
figure is the process's: resident memory, on macOS the footprint, on a GPU at least what MLX holds there.
"""

import gc
import sys
import threading
from types import TracebackType

import psutil

FREE_AT = 0.90  # of the limit: caches are given back
STOP_AT = 0.97  # of the limit: the training ends, with a checkpoint
_SAMPLE_SECONDS = 0.1


class OverLimit(Exception):
    """The process is about to use more than it may; `gb` is what it used."""

    def __init__(self, gb: float) -> None:
        super().__init__(f"{gb:.2f} GB")
        self.gb = gb


def now_gb(device: str) -> float:
    """What this process holds now, in GB."""
    process = psutil.Process()
    held = float(process.memory_info().rss)
    if sys.platform == "darwin":
        full = process.memory_full_info()
        held = max(held, getattr(full, "phys_footprint", full.uss))
    if device != "cpu":
        import mlx.core as mx

        held = max(held, mx.get_active_memory() + mx.get_cache_memory())
    return held / 1e9


class Footprint:
    """Samples `now_gb` in a thread of its own; `peak` is the largest of all, `take()` the largest since the last."""

    def __init__(self, device: str) -> None:
        self.device = device
        self.peak = 0.0
        self._recent = 0.0
        self._end = threading.Event()
        self._thread = threading.Thread(target=self._sample, daemon=True, name="footprint")

    def __enter__(self) -> "Footprint":
        self._thread.start()
        return self

    def __exit__(
        self, _type: type[BaseException] | None, _error: BaseException | None, _at: TracebackType | None
    ) -> None:
        self._end.set()
        self._thread.join()

    def _sample(self) -> None:
        while not self._end.wait(_SAMPLE_SECONDS):
            self.look()

    def look(self) -> float:
        """Sample now; returns what is held, in GB."""
        held = now_gb(self.device)
        self._recent, self.peak = max(self._recent, held), max(self.peak, held)
        return held

    def take(self) -> float:
        """The largest figure since the last call, in GB."""
        self.look()
        recent, self._recent = self._recent, 0.0
        return recent


def keep_below(memory: Footprint, limit_gb: float) -> None:
    """Free caches when the limit comes near.

    Raises:
        OverLimit: that was not enough, or a single pack went up to the limit.
    """
    peak = memory.take()
    if peak < FREE_AT * limit_gb:
        return
    import mlx.core as mx

    mx.clear_cache()
    gc.collect()
    if max(memory.take(), peak if peak >= STOP_AT * limit_gb else 0.0) >= STOP_AT * limit_gb:
        raise OverLimit(peak)
