"""Loaded models, kept for the next question within a bound on memory, and let go when nobody asks.

    with warm.engine(model, limit_bytes) as engine: engine.generate(…)

The one that was asked longest ago makes room first. One question is answered at a time.
"""

import threading
import time
from collections import OrderedDict
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass

from tools.errors import LimitError, LooptuneError
from tools.inference.engine import Engine, Model, open_engine

IDLE_SECONDS = 900.0


@dataclass
class _Kept:
    engine: Engine
    bytes: int
    used: float


class Warm:
    """Engines by what they were loaded from; a file that changed is another model."""

    def __init__(self, idle_seconds: float = IDLE_SECONDS) -> None:
        self._kept: OrderedDict[tuple[str, ...], _Kept] = OrderedDict()
        self._lock = threading.RLock()
        self._idle = idle_seconds
        self._timer: threading.Timer | None = None

    @contextmanager
    def engine(self, model: Model, limit_bytes: float) -> Iterator[Engine]:
        """The engine of `model`, loaded when it is not there yet; others make room for it.

        Raises:
            LimitError: it alone needs more than `limit_bytes`.
            InputError: it cannot be loaded.
        """
        with self._lock:
            key, needed = _key(model), needs_bytes(model)
            if needed > limit_bytes:
                raise LimitError(
                    f"{model.name} needs about {needed / 1e9:.1f} GB, and loaded models may take "
                    f"{limit_bytes / 1e9:.1f} GB.",
                    "ask a smaller quantization, or raise LOOPTUNE_WARM_MEMORY_GB",
                )
            if key not in self._kept:
                while self._kept and needed + sum(kept.bytes for kept in self._kept.values()) > limit_bytes:
                    self._kept.popitem(last=False)[1].engine.close()
                self._kept[key] = _Kept(open_engine(model), needed, time.monotonic())
            self._kept.move_to_end(key)
            try:
                yield self._kept[key].engine
            except LooptuneError:  # such as a prompt that is too long: the model is as it was
                raise
            except BaseException:
                # what was interrupted in the middle may be in any state
                self._kept.pop(key).engine.close()
                raise
            self._kept[key].used = time.monotonic()
            self._watch()

    def names(self) -> list[str]:
        """What is loaded, the one asked last at the end."""
        with self._lock:
            return [key[0] for key in self._kept]

    def let_go(self, unused_seconds: float = 0.0) -> int:
        """Close what nobody asked for `unused_seconds`; returns how many are still loaded."""
        with self._lock:
            now = time.monotonic()
            for key in [key for key, kept in self._kept.items() if now - kept.used >= unused_seconds]:
                self._kept.pop(key).engine.close()
            return len(self._kept)

    def _watch(self) -> None:
        if self._timer is not None:
            self._timer.cancel()
        self._timer = threading.Timer(self._idle, self._expire)
        self._timer.daemon = True
        self._timer.start()

    def _expire(self) -> None:
        if self.let_go(self._idle):
            with self._lock:
                self._watch()


def needs_bytes(model: Model) -> int:
    """About what `model` takes once loaded: its file, and what MLX makes of it on a CPU (f32 weights)."""
    if model.gguf is not None:
        return model.size_bytes
    from tools.models.bases import describe
    from tools.models.load import device

    assert model.folder is not None
    return max(model.size_bytes, describe(model.folder).parameters * 4 if device() == "cpu" else 0)


def _key(model: Model) -> tuple[str, ...]:
    parts = [model.gguf, model.folder, model.adapter and model.adapter / "adapters.safetensors"]
    stamps = [f"{path}:{path.stat().st_mtime_ns}:{path.stat().st_size}" for path in parts if path]
    return (model.name, *stamps)
