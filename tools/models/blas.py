"""A real BLAS for MLX on a Linux CPU.

MLX's Linux wheel links the reference BLAS, whose matrix products run at 2 to 5 GFLOP/s. `libmlx.so` imports plain
`cblas_sgemm`, so a BLAS that is loaded with global symbols before the first `import mlx` takes its place. The one
from PyPI, scipy-openblas32, has its symbols under the prefix `scipy_`; patchelf makes a copy with the plain names.
On Metal and CUDA none of this applies.

    use_fast_blas(cache)   # before the first `import mlx.core`; returns what is in use, for records and `doctor`

    python -P -m tools.models.blas   # which BLAS, and its measured speed
"""

import ctypes
import importlib.util
import os
import subprocess
import sys
import tempfile
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

from tools.errors import MissingError
from tools.settings import Settings

# What libmlx.so imports; its LAPACK stays the wheel's own.
_SYMBOLS = ("cblas_sgemm", "cblas_dgemm", "cblas_cgemm")
_in_use: str | None = None
_library: ctypes.CDLL | None = None


def use_fast_blas(cache: Path | None = None) -> str:
    """Load OpenBLAS in place of MLX's reference BLAS, once per process.

    Args:
        cache: folder for the renamed copy of the library (36 MB); by default `cache/` of the workspace.

    Returns:
        The name of the BLAS in use: `openblas …`, `reference (reason)`, or `accelerate` off Linux.
    """
    global _in_use
    if _in_use is None:
        _in_use = _load(cache or Settings().home / "cache")
    return _in_use


def _load(cache: Path) -> str:
    if sys.platform != "linux":
        return "accelerate"
    # mx.compile's CPU path starts a C++ compiler at run time (27 s on the first step) and gains nothing here.
    os.environ.setdefault("MLX_DISABLE_COMPILE", "1")
    if "mlx.core" in sys.modules:
        return "reference (mlx was imported first)"
    try:
        library = _renamed_copy(cache)
        loaded = ctypes.CDLL(str(library), mode=ctypes.RTLD_GLOBAL)
    except (OSError, MissingError, subprocess.CalledProcessError) as error:
        return f"reference ({error})"
    global _library
    _library = loaded
    config = loaded.scipy_openblas_get_config
    config.restype = ctypes.c_char_p
    return str(config().decode().split("USE")[0].strip().lower())


@contextmanager
def shared_by(callers: int) -> Iterator[None]:
    """While it lasts, each matrix product takes its share of the threads, for `callers` that compute at once. Where MLX
    has another BLAS, nothing changes."""
    if _library is None or callers == 1:
        yield
        return
    threads = _library.scipy_openblas_get_num_threads()
    _library.scipy_openblas_set_num_threads(ctypes.c_int(max(1, threads // callers)))
    try:
        yield
    finally:
        _library.scipy_openblas_set_num_threads(ctypes.c_int(threads))


def _renamed_copy(cache: Path) -> Path:
    """The path of the copy with plain names, made when it is not there yet."""
    if importlib.util.find_spec("scipy_openblas32") is None:
        raise MissingError("scipy-openblas32 is not installed")
    import scipy_openblas32

    source = next(Path(scipy_openblas32.get_lib_dir()).glob("libscipy_openblas*.so"))
    copy = cache / f"openblas-{scipy_openblas32.__version__}-{source.stat().st_size}.so"
    if copy.exists():
        return copy
    patchelf = Path(sys.executable).parent / "patchelf"
    cache.mkdir(parents=True, exist_ok=True)
    with tempfile.TemporaryDirectory(dir=cache) as folder:
        names, renamed = Path(folder, "names"), Path(folder, "renamed.so")
        names.write_text("".join(f"scipy_{symbol} {symbol}\n" for symbol in _SYMBOLS))
        subprocess.run(
            [
                str(patchelf) if patchelf.exists() else "patchelf",
                "--rename-dynamic-symbols",
                str(names),
                "--output",
                str(renamed),
                str(source),
            ],
            check=True,
            capture_output=True,
        )
        renamed.replace(copy)
    return copy


def matmul_gflops(size: int = 1024, repeats: int = 5) -> float:
    """Measured speed of an f32 matrix product of `size`³, in GFLOP/s (2·size³ operations each)."""
    import time

    import mlx.core as mx

    a, b = mx.random.normal((size, size)), mx.random.normal((size, size))
    mx.eval(a @ b)
    started = time.perf_counter()
    for _ in range(repeats):
        mx.eval(a @ b)
    return 2 * size**3 * repeats / (time.perf_counter() - started) / 1e9


if __name__ == "__main__":
    sys.stdout.write(f"{use_fast_blas()}: {matmul_gflops():.0f} GFLOP/s\n")
