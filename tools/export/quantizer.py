"""The process that quantizes one file, so that it can be ended at any time.

    python -P -m tools.export.quantizer F16.gguf TARGET.gguf q4_k_m [IMPORTANCE.gguf]

llama.cpp's own words, a line a tensor, go to stderr.
"""

import ctypes
import sys
from pathlib import Path
from typing import Any

from tools.export.importance import read_importance


def main(source: str, target: str, kind: str, importance: str = "") -> int:
    """Quantize; returns llama.cpp's status."""
    import llama_cpp

    def say(_level: int, text: bytes, _data: Any) -> None:
        sys.stderr.write(text.decode("utf-8", "replace"))
        sys.stderr.flush()

    log = llama_cpp.llama_log_callback(say)  # has to live as long as llama.cpp may call it
    llama_cpp.llama_log_set(log, ctypes.c_void_p(0))
    parameters = llama_cpp.llama_model_quantize_default_params()
    parameters.ftype = getattr(llama_cpp, f"LLAMA_FTYPE_MOSTLY_{kind.upper()}")
    kept: list[Any] = []  # llama.cpp takes addresses, so what they point to has to stay
    if importance:
        parameters.imatrix = _entries(read_importance(Path(importance)), kept)
    return int(llama_cpp.llama_model_quantize(source.encode(), target.encode(), parameters))


def _entries(matrix: dict[str, Any], kept: list[Any]) -> Any:
    """The array that llama.cpp takes, closed by an entry without a name."""
    import llama_cpp
    import numpy as np

    entry = llama_cpp.llama_cpp.llama_model_imatrix_data
    array = (entry * (len(matrix) + 1))()
    for place, (name, values) in enumerate(matrix.items()):
        data = np.ascontiguousarray(values, dtype=np.float32)
        kept.append(data)
        array[place].name = name.encode()
        array[place].data = data.ctypes.data_as(ctypes.POINTER(ctypes.c_float))
        array[place].size = data.size
    kept.append(array)
    return ctypes.cast(array, ctypes.POINTER(entry))


if __name__ == "__main__":
    sys.exit(main(*sys.argv[1:]))
