"""Export a run: fuse, compare, convert, quantize, and write the model's manifest.

run_job(workspace, job)            # what the worker calls; job.config is an ExportConfig

models/NAME/  f16.gguf  q4_k_m.gguf     the model, whole and quantized
              lora.gguf                 the adapter alone, for a base GGUF
              importance.gguf           what quantizing weighed errors by
              tensors.json              the type of every tensor of the quantized file
              Modelfile  README.md      for `ollama create`; how to serve it elsewhere
              manifest.json             what it was made from, by hash, and what it really is
"""

import os
import platform
import shutil
from importlib.metadata import version
from pathlib import Path
from typing import Annotated, Any

from pydantic import BaseModel, ConfigDict, Field, model_validator

from tools.data.datasets import read_split
from tools.data.tokens import encode
from tools.errors import CheckError, ConflictError, InputError
from tools.evaluation.probes import read_retention
from tools.export.agreement import compare, require_agreement
from tools.export.chain import Link, add, hashes, read_sealed, trained_chain, write_sealed
from tools.export.fuse import fuse
from tools.export.gguf import QuantType, convert, quantize_file, tensor_types, tensors
from tools.export.importance import measure_importance
from tools.export.lora import convert_adapter
from tools.export.serving import write_serving
from tools.files import read_json, require_space, sha256, whole_folder, write_json
from tools.jobs import record
from tools.jobs.record import Job, now
from tools.models.bases import base_folder, describe
from tools.models.load import load_tokenizer
from tools.workspace import Workspace, check_name

_STAGES = 5
_EVERY = 8  # which of the general passages logits are compared on: two of prose and one of code
_COMPARED_ROWS = 256  # and tokens of training rows under the chat template, where an adapter acts most


class ExportConfig(BaseModel):
    """What to export: the run whose adapter is fused, or a model to quantize again; the new model's name and type."""

    model_config = ConfigDict(extra="forbid")

    run: str = ""
    model: str = ""
    name: str
    type: QuantType = "q4_k_m"
    importance_tokens: Annotated[
        int, Field(ge=0, le=200_000, description="training tokens that the importance matrix is measured on; 0: none")
    ] = 0

    @model_validator(mode="after")
    def _one_source(self) -> "ExportConfig":
        if bool(self.run) == bool(self.model):
            raise ValueError("expected either `run` or `model`")
        return self


def start_export(
    workspace: Workspace,
    run: str,
    name: str,
    kind: QuantType,
    idempotency_key: str = "",
    model: str = "",
    importance_tokens: int = 0,
) -> tuple[Job, bool]:
    """Queue an export of a run, or of an exported `model` in another type, and start its worker; without a name the
    new model is called after the run's dataset, or after the model and the type.

    Raises:
        InputError: not exactly one of `run` and `model`.
        what `require_exportable` raises.
    """
    if bool(run) == bool(model):
        raise InputError("Expected either `run` or `model`.", "read run://index and model://index")
    if not name:
        stem = f"{model}-{kind}" if model else str(record.Job(workspace.run(run)).config.get("dataset", run))
        name, number = stem, 1
        while (workspace.models / name).exists():
            number += 1
            name = f"{stem}-{number}"
    config = ExportConfig(run=run, model=model, name=name, type=kind, importance_tokens=importance_tokens)
    earlier = record.find(workspace, idempotency_key)
    if earlier is None:
        require_exportable(workspace, config)
    else:  # the name that was free then is taken now
        config = config.model_copy(update={"name": earlier.config.get("name", name)})
    job, new = record.create(workspace, "quantize", config.name, config.model_dump(), idempotency_key)
    if new:
        record.start(workspace, job)
    return job, new


def require_exportable(workspace: Workspace, config: ExportConfig) -> None:
    """Check what can be checked at once.

    Raises:
        NotFoundError: no such run or model.
        InputError: an importance matrix was asked for and cannot be used or measured.
        CheckError: it is not a finished training, or the model's files are not what was exported.
        ConflictError: a model of that name exists.
    """
    check_name(config.name, "model name")
    if config.importance_tokens and config.type == "f16":
        raise InputError("An importance matrix is for quantizing, and f16 is not quantized.", "leave it out")
    if config.model:
        manifest = read_sealed(workspace.model(config.model) / "manifest.json")
        if config.importance_tokens:
            _require_adapter(workspace, config.model, manifest["made_from"])
    elif (state := read_json(workspace.run(config.run) / "state.json")) and (
        state["kind"] != "train" or state["state"] != "finished"
    ):
        raise CheckError(
            f"{config.run} is {record.NOUNS[state['kind']]} that is {state['state']}; only a finished training can be "
            "exported.",
            f"start_training(resume={config.run!r}) goes on, and start_training(resume={config.run!r}, "
            "settings={'epochs': 0.01}) ends it where it stands"
            if state["kind"] == "train" and state["state"] == "stopped"
            else f"call training_status(run={config.run!r})",
        )
    if (workspace.models / config.name).exists():
        raise ConflictError(f"The model {config.name!r} exists already.", "choose another name")


def _require_adapter(workspace: Workspace, model: str, made_from: dict[str, Any]) -> None:
    """Raises InputError when the adapter that `model` was made of, with which importance is measured, is gone."""
    adapter = workspace.runs / made_from["run"] / "adapter" / "adapters.safetensors"
    if not adapter.is_file() or sha256(adapter) != made_from["adapter_sha256"]:
        raise InputError(
            f"An importance matrix is measured with the adapter of {made_from['run']}, of which {model!r} was made, "
            "and that is gone or another by now.",
            f"leave importance_tokens out: the matrix of {model!r}, if it has one, is taken",
        )


def run_job(workspace: Workspace, job: Job) -> dict[str, Any]:
    """Make models/NAME from the adapter of a run, or from an exported model; nothing of it is left when a stage fails.

    Returns:
        the model's name, its files with size and tensor types, and the fused model's agreement with the adapter.

    Raises:
        CheckError: fusing or quantizing went wrong, or what it is made from is not what it was.
        LimitError: the disk is full.
        Cancelled: it was asked to stop.
    """
    config = ExportConfig.model_validate(job.config)
    require_exportable(workspace, config)
    job.report(0, _STAGES, message="reading what it is made from")
    with whole_folder(workspace.models / config.name) as folder:
        source = (
            _from_model(workspace, config, folder, job) if config.model else _from_run(workspace, config, folder, job)
        )
        quantized = _quantize(config, folder, job)
        files = {name: _described(folder / name, config.type) for name in dict.fromkeys(("f16.gguf", quantized))}
        write_json(folder / "tensors.json", tensors(folder / quantized))
        base, adapter = (workspace.home / source.pop(part) for part in ("base_path", "adapter_path"))
        write_serving(folder, config.name, quantized, load_tokenizer(base), base, adapter)
        chain = [Link.model_validate(link) for link in source.pop("chain")]
        versions = {name: version(name) for name in ("looptune", "mlx", "mlx-lm", "llama-cpp-python")}
        chain = add(chain, "gguf", hashes(folder, f"models/{config.name}"), {"type": config.type, **versions})
        manifest = {
            "name": config.name,
            "created": now(),
            "files": files,
            **source,
            "importance": (folder / "importance.gguf").is_file(),
            "versions": versions,
            "platform": platform.platform(),
            "chain": [link.model_dump() for link in chain],
        }
        write_sealed(folder / "manifest.json", manifest)
        job.report(_STAGES, message="done")
    return {"model": config.name, "files": files, "fused": manifest["fused"]}


def _from_run(workspace: Workspace, config: ExportConfig, folder: Path, job: Job) -> dict[str, Any]:
    """f16.gguf, lora.gguf and importance.gguf in `folder`; returns what the manifest says of their making."""
    run = workspace.run(config.run)
    trained = read_json(run / "state.json")["result"]
    base, adapter = base_folder(workspace, trained["base"]), run / "adapter"
    info = describe(base)
    if info.sha256 != trained["base_sha256"]:
        raise CheckError(
            f"The base {info.name!r} is not the one that {config.run} was trained on.", "train again on this base"
        )
    needed = info.parameters * 2 * 2 + info.parameters  # fused and f16 in two bytes each, quantized in one
    require_space(workspace.models, needed, workspace.settings.min_free_gb, "This export")
    chain = trained_chain(workspace, config.run)
    fused = folder / "fused"
    fused.mkdir()
    job.report(message="fusing")
    matrices = fuse(base, adapter, fused, lambda done, total: job.report(message=f"fusing, {done} of {total} parts"))
    job.report(1, message="comparing logits")
    rows = _training_tokens(workspace, trained["dataset"], base, _COMPARED_ROWS)
    agreement = compare(base, adapter, fused, [p.text for p in read_retention()[::_EVERY]], rows)
    job.log(f"fused against adapter: {agreement}")
    require_agreement(agreement)
    chain = add(chain, "fused", {}, {**hashes(fused, "fused")})
    job.report(2, message="converting to GGUF")
    convert(fused, folder / "f16.gguf", lambda _said: job.report())
    shutil.rmtree(fused)  # only a way station, and as large as the f16 file
    convert_adapter(adapter, folder / "f16.gguf", folder / "lora.gguf")
    made_from = {
        "run": config.run,
        "adapter_sha256": sha256(adapter / "adapters.safetensors"),
        "base": info.name,
        "base_sha256": info.sha256,
        "dataset": trained["dataset"],
        "dataset_sha256": trained["dataset_sha256"],
    }
    if config.importance_tokens:
        _measure_importance(workspace, config, made_from, folder, job)
    return {
        "made_from": made_from,
        "fused": {"matrices": matrices, **agreement.model_dump()},
        "chain": [link.model_dump() for link in chain],
        "base_path": f"bases/{base.name}",
        "adapter_path": f"runs/{config.run}/adapter",
    }


def _measure_importance(
    workspace: Workspace, config: ExportConfig, made_from: dict[str, Any], folder: Path, job: Job
) -> None:
    """importance.gguf in `folder`, measured on rows of the run's dataset with its adapter in place."""
    job.report(3, message="measuring what matters on training rows")
    base, adapter = base_folder(workspace, made_from["base"]), workspace.run(made_from["run"]) / "adapter"
    ids = _training_tokens(workspace, made_from["dataset"], base, config.importance_tokens)
    measure_importance(base, adapter, ids, folder / "f16.gguf", folder / "importance.gguf")


def _from_model(workspace: Workspace, config: ExportConfig, folder: Path, job: Job) -> dict[str, Any]:
    """The same, from the files of an exported model; they are linked where the disk allows that."""
    source = workspace.model(config.model)
    manifest = read_sealed(source / "manifest.json")
    size = (source / "f16.gguf").stat().st_size
    require_space(workspace.models, 2 * size, workspace.settings.min_free_gb, "This export")
    known = {path.rpartition("/")[2]: digest for path, digest in manifest["chain"][-1]["files"].items()}
    for name in ("f16.gguf", "lora.gguf", "importance.gguf"):
        if name not in known or (name == "importance.gguf" and config.importance_tokens):
            continue
        if sha256(source / name) != known[name]:
            raise CheckError(f"{name} of {config.model!r} is not what was exported.", "export the run again")
        try:
            os.link(source / name, folder / name)
        except OSError:  # another disk, or one without links
            shutil.copyfile(source / name, folder / name)
    if config.importance_tokens:
        _measure_importance(workspace, config, manifest["made_from"], folder, job)
    run, base = manifest["made_from"]["run"], manifest["made_from"]["base"]
    return {
        "made_from": {**manifest["made_from"], "model": config.model},
        "fused": manifest["fused"],
        "chain": manifest["chain"][:-1],
        "base_path": f"bases/{base}",
        "adapter_path": f"runs/{run}/adapter",
    }


def _quantize(config: ExportConfig, folder: Path, job: Job) -> str:
    """Quantize f16.gguf in `folder`; returns the name of the file."""
    if config.type == "f16":
        return "f16.gguf"
    job.report(4, message=f"quantizing to {config.type}")
    importance = folder / "importance.gguf"

    def told(done: int, total: int) -> None:
        job.report(message=f"quantizing to {config.type}" + (f", {done} of {total} tensors" if total else ""))

    target = folder / f"{config.type}.gguf"
    quantize_file(folder / "f16.gguf", target, config.type, importance if importance.is_file() else None, told)
    return target.name


def _training_tokens(workspace: Workspace, dataset: str, base: Path, tokens: int) -> list[tuple[int, ...]]:
    """Training rows under the chat template, as many as hold `tokens` tokens."""
    rows, left = [], tokens
    for row in encode(load_tokenizer(base), read_split(workspace, dataset)[0], 512).rows:
        if left <= 0:
            break
        rows.append(row.ids[:left])
        left -= len(row.ids)
    return rows


def _described(path: Path, kind: str) -> dict[str, Any]:
    return {
        "size_mb": round(path.stat().st_size / 1e6, 1),
        "sha256": sha256(path),
        **tensor_types(path, kind if path.stem == kind else "").model_dump(),
    }
