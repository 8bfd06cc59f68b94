"""Export a run: fuse, compare, convert, quantize, and write the model's manifest.

run_job(workspace, job)            # what the worker calls; job.config is an ExportConfig

models/NAME/  f16.gguf  q4_k_m.gguf     the model, whole and quantized
              manifest.json             what it was made from, by hash, and what it really is
              Modelfile                 for `ollama create`
"""

import platform
from importlib.metadata import version
from pathlib import Path
from typing import Any

from pydantic import BaseModel, ConfigDict

from tools.errors import CheckError, ConflictError
from tools.evaluation.probes import read_retention
from tools.export.fuse import compare, fuse, require_agreement
from tools.export.gguf import QuantType, convert, quantize_file, tensor_types
from tools.files import read_json, require_space, sha256, whole_folder, write_json, write_text
from tools.jobs import record
from tools.jobs.record import Job, now
from tools.models.bases import base_folder, describe, weight_files
from tools.workspace import Workspace, check_name

_STAGES = 4
_COMPARED = 6  # texts on which logits are compared


class ExportConfig(BaseModel):
    """What to export: the run whose adapter is fused, the model's name, and the quantization."""

    model_config = ConfigDict(extra="forbid")

    run: str
    name: str
    type: QuantType = "q4_k_m"


def start_export(
    workspace: Workspace, run: str, name: str, kind: QuantType, idempotency_key: str = ""
) -> tuple[Job, bool]:
    """Queue an export and start its worker; without a name the model is called after the run's dataset.

    Raises:
        what `require_exportable` raises.
    """
    if not name:
        dataset = str(read_json(workspace.run(run) / "job.json")["config"].get("dataset", run))
        name, number = dataset, 1
        while (workspace.models / name).exists():
            number += 1
            name = f"{dataset}-{number}"
    config = ExportConfig(run=run, name=name, type=kind)
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
        NotFoundError: no such run.
        CheckError: it is not a finished training.
        ConflictError: a model of that name exists.
    """
    check_name(config.name, "model name")
    state = read_json(workspace.run(config.run) / "state.json")
    if state["kind"] != "train" or state["state"] != "finished":
        raise CheckError(
            f"{config.run} is a {state['kind']} that is {state['state']}; only a finished training can be exported.",
            f"call training_status(run={config.run!r})",
        )
    if (workspace.models / config.name).exists():
        raise ConflictError(f"The model {config.name!r} exists already.", "choose another name")


def run_job(workspace: Workspace, job: Job) -> dict[str, Any]:
    """Make models/NAME from the adapter of a run; nothing of it is left when a stage fails.

    Returns:
        the model's name, its files with size and tensor types, and the fused model's agreement with the adapter.

    Raises:
        CheckError: fusing or quantizing went wrong.
        LimitError: the disk is full.
        Cancelled: it was asked to stop.
    """
    config = ExportConfig.model_validate(job.config)
    require_exportable(workspace, config)
    run = workspace.run(config.run)
    trained = read_json(run / "state.json")["result"]
    base = base_folder(workspace, read_json(run / "job.json")["config"]["base"])
    info = describe(base)
    needed = info.parameters * 2 * 2 + info.parameters  # fused and f16 in two bytes each, quantized in one
    require_space(workspace.models, needed, workspace.settings.min_free_gb, "This export")
    with whole_folder(workspace.models / config.name) as folder:
        with whole_folder(folder / "fused") as fused:
            job.report(0, _STAGES, message="fusing")
            matrices = fuse(base, run / "adapter", fused)
        fused = folder / "fused"
        job.report(1, message="comparing logits")
        agreement = compare(base, run / "adapter", fused, [p.text for p in read_retention()[:_COMPARED]])
        job.log(f"fused against adapter: {agreement}")
        require_agreement(agreement)
        job.report(2, message="converting to GGUF")
        convert(fused, folder / "f16.gguf")
        _remove(fused)
        job.report(3, message=f"quantizing to {config.type}")
        quantize_file(folder / "f16.gguf", folder / f"{config.type}.gguf", config.type)
        files = {name: _described(folder / name) for name in ("f16.gguf", f"{config.type}.gguf")}
        manifest = {
            "name": config.name,
            "created": now(),
            "files": files,
            "made_from": {
                "run": config.run,
                "adapter_sha256": sha256(run / "adapter" / "adapters.safetensors"),
                "base": info.name,
                "base_sha256": info.sha256,
                "dataset": trained["dataset"],
                "dataset_sha256": trained["dataset_sha256"],
            },
            "fused": {"matrices": matrices, **agreement.model_dump()},
            "versions": {name: version(name) for name in ("looptune", "mlx", "mlx-lm", "llama-cpp-python")},
            "platform": platform.platform(),
        }
        write_text(folder / "Modelfile", f"FROM ./{config.type}.gguf\nPARAMETER temperature 0\n")
        write_json(folder / "manifest.json", manifest)
        job.report(_STAGES, message="done")
    return {"model": config.name, "files": files, "fused": manifest["fused"]}


def _described(path: Path) -> dict[str, Any]:
    return {
        "size_mb": round(path.stat().st_size / 1e6, 1),
        "sha256": sha256(path),
        **tensor_types(path).model_dump(),
    }


def _remove(fused: Path) -> None:
    """The fused weights are only a way station, and as large as the f16 file."""
    for path in weight_files(fused):
        path.unlink()
    for path in fused.iterdir():
        path.unlink()
    fused.rmdir()
