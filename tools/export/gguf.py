"""GGUF files: made from a Hugging Face folder by llama.cpp's own converter, quantized by llama.cpp, and read.

convert(fused, path)                                         # f16
quantize_file(path, target, "q4_k_m", importance=matrix)     # in a process of its own, which can be stopped
tensor_types(target)                                         # what the tensors really are
"""

import re
import sys
from collections import Counter
from collections.abc import Callable
from pathlib import Path
from typing import Any, Literal, get_args

from pydantic import BaseModel

from tools.errors import CheckError, InputError
from tools.export.process import Watch, run

QuantType = Literal["q4_k_m", "q5_k_m", "q6_k", "q8_0", "f16", "q2_k", "q3_k_s", "q3_k_m", "q3_k_l", "q4_k_s", "q5_k_s"]
QUANT_TYPES: tuple[QuantType, ...] = get_args(QuantType)
_LONG = 6 * 3600  # seconds; a 7B takes minutes
_BLOCK = 256  # weights that a K-quant packs together, all of one row
_STEP = re.compile(r"\[\s*(\d+)/\s*(\d+)\]")  # how llama.cpp counts tensors
Told = Callable[[int, int], None]  # tensors done, of how many; may raise to stop


class TensorTypes(BaseModel):
    """What a GGUF's tensors really are. `fallbacks` are matrices whose rows are no multiple of 256, which a K-quant
    cannot pack, so llama.cpp gave them another type; `note` says so."""

    architecture: str
    types: dict[str, int]
    bits_per_weight: float
    parameters: int
    fallbacks: int = 0
    note: str = ""


def convert(folder: Path, target: Path, watch: Watch | None = None) -> None:
    """Write the model in `folder` as an f16 GGUF; the converter's words go to stderr.

    Raises:
        InputError: the converter refused it; the end of what it said is in the message.
    """
    command = [sys.executable, "-P", "-m", "convert_hf_to_gguf", str(folder), "--outfile", str(target)]
    status, said = run([*command, "--outtype", "f16"], watch, _LONG)
    sys.stderr.write(said)
    if status or not target.is_file():
        raise InputError(
            f"llama.cpp's converter does not take this model: {' '.join(said.split())[-400:]}",
            "use a base of an architecture that llama.cpp knows",
        )


def quantize_file(
    source: Path, target: Path, kind: QuantType, importance: Path | None = None, told: Told | None = None
) -> None:
    """Quantize an f16 GGUF, in a process of its own; `target` appears only when it is whole.

    Args:
        importance: an importance matrix (tools/export/importance.py), or none.
        told: follows the tensors; what it raises ends the process.

    Raises:
        CheckError: llama.cpp refused; the end of what it said is in the message.
    """
    part = target.with_name(f".{target.name}.part")

    def watch(said: str) -> None:
        steps = _STEP.findall(said[-4000:])
        if told:
            told(*map(int, steps[-1])) if steps else told(0, 0)

    command = [sys.executable, "-P", "-m", "tools.export.quantizer", str(source), str(part), kind]
    try:
        status, said = run([*command, *([str(importance)] if importance else [])], watch, _LONG)
        if status or not part.is_file():
            raise CheckError(
                f"llama.cpp could not quantize {source.name} to {kind} (status {status}): "
                f"{' '.join(said.split())[-400:]}",
                "read the job's log",
            )
        watch(said)  # a small model is done between two looks
        part.replace(target)
    finally:
        part.unlink(missing_ok=True)


def tensor_types(path: Path, kind: str = "") -> TensorTypes:
    """Count the tensors of a GGUF by type. `kind`: what was asked for, so that fallbacks can be told.

    Raises:
        InputError: it is not a whole GGUF.
    """
    architecture, tensors = _read(path)
    weights = sum(size for _, _, _, size, _ in tensors)
    fell = [(t, shape) for _, t, shape, _, _ in tensors if _fell_back(kind, shape)]
    note = ""
    if fell:
        rows = ", ".join(str(n) for n in sorted({shape[0] for _, shape in fell}))
        taken = ", ".join(sorted({t for t, _ in fell}))
        note = (
            f"{len(fell)} of {len(tensors)} tensors have rows of {rows} weights, no multiple of {_BLOCK}, which "
            f"{kind.upper()} cannot pack: llama.cpp made them {taken} instead."
        )
    return TensorTypes(
        architecture=architecture,
        types=dict(Counter(t for _, t, _, _, _ in tensors).most_common()),
        bits_per_weight=round(8 * sum(n for _, _, _, _, n in tensors) / weights, 2),
        parameters=weights,
        fallbacks=len(fell),
        note=note,
    )


def tensors(path: Path) -> dict[str, str]:
    """The type of every tensor of a GGUF, by name. Raises InputError as `tensor_types` does."""
    return {name: kind for name, kind, _, _, _ in _read(path)[1]}


def open_header(path: Path) -> Any:
    """A `gguf.GGUFReader` that passes over arrays: a vocabulary's hundred thousand texts take it seconds.

    Raises:
        ValueError, OSError: it is not a whole GGUF.
    """
    import numpy as np
    from gguf import GGUFReader, GGUFValueType

    class Header(GGUFReader):  # type: ignore[misc]
        def _get_field_parts(self, orig_offs: int, raw_type: int) -> Any:
            if GGUFValueType(raw_type) != GGUFValueType.ARRAY:
                return super()._get_field_parts(orig_offs, raw_type)
            item, length = self._get(orig_offs, np.uint32), self._get(orig_offs + 4, np.uint64)
            kind, place = GGUFValueType(int(item[0])), orig_offs + 12
            if kind == GGUFValueType.STRING:
                data = memoryview(self.data)
                for _ in range(int(length[0])):
                    place += 8 + int.from_bytes(data[place : place + 8], "little")
            else:
                place += int(length[0]) * np.dtype(self.gguf_scalar_to_np[kind]).itemsize
            return place - orig_offs, [item, length], [], [GGUFValueType.ARRAY, kind]

    return Header(path)


def _fell_back(kind: str, shape: list[int]) -> bool:
    return "_k" in kind and len(shape) > 1 and shape[0] % _BLOCK != 0


def _read(path: Path) -> tuple[str, list[tuple[str, str, list[int], int, int]]]:
    """The architecture, and of each tensor: name, type, shape (rows' length first), weights, bytes."""
    try:
        reader = open_header(path)
        found = [
            (str(t.name), str(t.tensor_type.name), [int(n) for n in t.shape], int(t.n_elements), int(t.n_bytes))
            for t in reader.tensors
        ]
        return str(reader.fields["general.architecture"].contents()), found
    except (ValueError, OSError, KeyError, IndexError) as error:
        raise InputError(f"{path.name} is not a whole GGUF file: {error}", "make it again with quantize") from error
