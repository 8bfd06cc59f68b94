"""The memory limit of a training, kept on what the process really holds.

    keep_blocks()                          # before the first array of a training: freed blocks are used again
    with Footprint(device) as memory:      # sampled ten times a second, so that the peak inside a step is seen too
        keep_below(memory, limit_gb)       # between two packs: frees caches on the way, raises OverLimit before it

MLX's own counter leaves out its cache, the tokenizer and Python, and an overrun makes a laptop page for hours, so the
figure is the process's: resident memory, on macOS the footprint, on a GPU at least what MLX holds there.
"""

import ctypes
import gc
import resource
import sys
import threading
from contextlib import suppress
from pathlib import Path
from types import TracebackType

import psutil

FREE_AT = 0.90  # of the limit: caches are given back
STOP_AT = 0.97  # of the limit: the training ends, with a checkpoint
CACHE_GB = 0.256  # of freed buffers, which MLX keeps for itself at most
MACHINE_SHARE = 0.9  # of the machine's memory, the most that a training may take
_SAMPLE_SECONDS = 0.1
# glibc's malloc.h: what to set, and to what; with the library's own values each array comes as fresh, zeroed pages
_M_MMAP_THRESHOLD, _M_TRIM_THRESHOLD, _M_TOP_PAD, _M_ARENA_MAX = -3, -1, -2, -8
_BLOCKS = {_M_ARENA_MAX: 1, _M_MMAP_THRESHOLD: 1 << 30, _M_TRIM_THRESHOLD: 2**31 - 1, _M_TOP_PAD: 64 << 20}
_CONTAINER = (Path("/sys/fs/cgroup/memory.max"), Path("/sys/fs/cgroup/memory/memory.limit_in_bytes"))


def machine_gb() -> float:
    """The memory of this machine, or of the container that this process runs in, in GB."""
    total = psutil.virtual_memory().total
    for path in _CONTAINER:
        with suppress(OSError, ValueError):  # not in a container, or one without a limit, which says "max"
            total = min(total, int(path.read_text()))
    return total / 1e9


def _libc() -> ctypes.CDLL | None:
    """glibc, where it is what this process allocates with."""
    libc = ctypes.CDLL(None) if sys.platform == "linux" else None
    return libc if hasattr(libc, "mallopt") and hasattr(libc, "malloc_trim") else None


def keep_blocks() -> bool:
    """Have glibc keep freed blocks for the next arrays, while this process lasts: MLX's CPU build takes each array from
    malloc, which otherwise gives large ones back to the system at once. Returns whether it was done."""
    libc = _libc()
    return libc is not None and all(libc.mallopt(what, to) for what, to in _BLOCKS.items())


def give_blocks_back() -> None:
    """Have glibc return what is free to the system now."""
    if libc := _libc():
        libc.malloc_trim(0)


def bound_gb(limit_gb: float) -> float:
    """What a training may really use on this machine when it is allowed `limit_gb`: the system needs some itself."""
    return min(limit_gb, MACHINE_SHARE * machine_gb())


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


def high_water_gb() -> float:
    """The largest resident size that this process ever had, in GB. On Linux ru_maxrss would take over that of the
    process that started this one."""
    with suppress(OSError):  # not on Linux
        for line in Path("/proc/self/status").read_text().splitlines():
            if line.startswith("VmHWM:"):
                return int(line.split()[1]) * 1024 / 1e9
    return resource.getrusage(resource.RUSAGE_SELF).ru_maxrss * (1 if sys.platform == "darwin" else 1024) / 1e9


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
    give_blocks_back()
    if max(memory.take(), peak if peak >= STOP_AT * limit_gb else 0.0) >= STOP_AT * limit_gb:
        raise OverLimit(peak)
