"""The importance matrix: which inputs of each matrix are large on the run's own training data.

    measure_importance(base, adapter, ids, f16, path)       # path becomes a GGUF that llama-quantize reads too
    read_importance(path)                                    # mean square of each input, by tensor name

Quantizing rounds less where it matters more: llama.cpp weighs each column's error by the mean square of its input. It
is measured on the model as it was trained, base plus adapter, layer by layer.
"""

from collections.abc import Sequence
from pathlib import Path
from typing import Any

from tools.errors import InputError
from tools.export.layers import run_layers
from tools.export.names import TensorNames

_SUM, _COUNT = ".in_sum2", ".counts"


def measure_importance(base: Path, adapter: Path, ids: Sequence[Sequence[int]], f16: Path, path: Path) -> int:
    """Write the importance matrix of `ids`, rows of tokens, in llama.cpp's own format; returns how many matrices.

    Raises:
        InputError: llama.cpp has no name for one of the matrices.
    """
    import mlx.core as mx
    import mlx.nn as nn
    import numpy as np
    from gguf import GGUFWriter
    from mlx.utils import tree_flatten

    sums: dict[str, Any] = {}

    class Recorder(nn.Module):  # type: ignore[misc, name-defined, unused-ignore]
        """A linear layer that adds up the squares of what comes in."""

        def __init__(self, inner: Any, name: str) -> None:
            super().__init__()
            self.inner, self.name = inner, name

        def __call__(self, x: Any) -> Any:
            square = mx.square(x.astype(mx.float32)).reshape(-1, x.shape[-1]).sum(axis=0)
            before = sums.get(self.name)
            sums[self.name] = square if before is None else before + square
            return self.inner(x)

    def record(number: int, layer: Any) -> None:
        mx.eval(list(sums.values()))  # those of the layer before, so that its activations are let go
        linear = [
            (name, module)
            for name, module in tree_flatten(layer.leaf_modules(), is_leaf=nn.Module.is_module)
            if isinstance(module, nn.Linear | nn.QuantizedLinear)
        ]
        for name in {n.removesuffix(".linear") for n, _ in linear}:
            parent, _, last = name.rpartition(".")
            holder = layer
            for part in parent.split(".") if parent else []:
                holder = holder[part]
            holder[last] = Recorder(holder[last], f"model.layers.{number}.{name}")

    run_layers(base, adapter, ids, record)
    names = TensorNames(f16)
    tokens = sum(map(len, ids))
    writer = GGUFWriter(path, arch="")
    writer.add_type("imatrix")
    writer.add_array("imatrix.datasets", ["the run's training rows"])
    writer.add_uint32("imatrix.chunk_count", len(ids))
    writer.add_uint32("imatrix.chunk_size", max(map(len, ids)))
    for name, value in sorted(sums.items()):
        writer.add_tensor(f"{names.gguf(name)}{_SUM}", np.asarray(value, dtype=np.float32)[None])
        writer.add_tensor(f"{names.gguf(name)}{_COUNT}", np.full((1, 1), tokens, np.float32))
    writer.write_header_to_file()
    writer.write_kv_data_to_file()
    writer.write_tensors_to_file()
    writer.close()
    return len(sums)


def read_importance(path: Path) -> dict[str, Any]:
    """The mean square of each input, by tensor name.

    Raises:
        InputError: it is no importance matrix.
    """
    from gguf import GGUFReader

    try:
        found = {str(t.name): t.data for t in GGUFReader(path).tensors}
    except (ValueError, OSError) as error:
        raise InputError(f"{path.name} is not a whole GGUF file: {error}", "measure it again") from error
    names = [name.removesuffix(_SUM) for name in found if name.endswith(_SUM)]
    if not names:
        raise InputError(f"{path.name} holds no importance matrix.", "measure it again")
    return {name: (found[name + _SUM] / found[name + _COUNT]).reshape(-1) for name in names}
