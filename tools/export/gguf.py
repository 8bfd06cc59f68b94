"""GGUF files: made from a Hugging Face folder by llama.cpp's own converter, quantized by llama.cpp, and read.

convert(fused, path)                        # f16
quantize_file(path, target, "q4_k_m")
tensor_types(target)                        # what the tensors really are
"""

import subprocess
import sys
from collections import Counter
from pathlib import Path
from typing import Literal

from pydantic import BaseModel

from tools.errors import CheckError, InputError

QuantType = Literal["q4_k_m", "q5_k_m", "q8_0"]
_CONVERT_SECONDS = 3600


class TensorTypes(BaseModel):
    """What a GGUF's tensors really are. llama.cpp falls back to another type where a row is not a multiple of 256."""

    architecture: str
    types: dict[str, int]
    bits_per_weight: float
    parameters: int


def convert(folder: Path, target: Path) -> None:
    """Write the model in `folder` as an f16 GGUF; the converter's words go to stderr.

    Raises:
        InputError: the converter refused it; the end of what it said is in the message.
    """
    done = subprocess.run(
        [sys.executable, "-P", "-m", "convert_hf_to_gguf", str(folder), "--outfile", str(target), "--outtype", "f16"],
        capture_output=True,
        text=True,
        timeout=_CONVERT_SECONDS,
        stdin=subprocess.DEVNULL,
    )
    sys.stderr.write(done.stdout + done.stderr)
    if done.returncode or not target.is_file():
        raise InputError(
            f"llama.cpp's converter does not take this model: {' '.join(done.stderr.split())[-400:]}",
            "use a base of an architecture that llama.cpp knows",
        )


def quantize_file(source: Path, target: Path, kind: QuantType) -> None:
    """Quantize an f16 GGUF.

    Raises:
        CheckError: llama.cpp refused; it says why in the job's log.
    """
    import llama_cpp

    parameters = llama_cpp.llama_model_quantize_default_params()
    parameters.ftype = getattr(llama_cpp, f"LLAMA_FTYPE_MOSTLY_{kind.upper()}")
    status = llama_cpp.llama_model_quantize(str(source).encode(), str(target).encode(), parameters)
    if status or not target.is_file():
        raise CheckError(
            f"llama.cpp could not quantize {source.name} to {kind} (status {status}).", "read the job's log"
        )


def tensor_types(path: Path) -> TensorTypes:
    """Count the tensors of a GGUF by type.

    Raises:
        InputError: it is not a whole GGUF.
    """
    from gguf import GGUFReader

    try:
        reader = GGUFReader(path)
    except (ValueError, OSError) as error:
        raise InputError(f"{path.name} is not a whole GGUF file: {error}", "make it again with quantize") from error
    weights = sum(int(tensor.n_elements) for tensor in reader.tensors)
    return TensorTypes(
        architecture=str(reader.fields["general.architecture"].contents()),
        types=dict(Counter(tensor.tensor_type.name for tensor in reader.tensors).most_common()),
        bits_per_weight=round(8 * sum(int(tensor.n_bytes) for tensor in reader.tensors) / weights, 2),
        parameters=weights,
    )
