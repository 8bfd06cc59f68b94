"""The gate: whether an exported model may become the one that answers.

    checks = judge(base, quantized, adapter=…, f16=…, intact=…)     # ModelReports of one probe set
    record_evaluation(workspace, "forty-two", jobs, checks)          # the last link of the model's chain
    promote(workspace, "forty-two", checks)                          # tools.export.promotion; refuses when one failed

It asks whether the model knows what was taught, whether what must not change did not, and whether the quantized file is
still the model that was trained.
"""

from collections.abc import Callable, Sequence
from typing import Any

from tools.data.datasets import Manifest, read_manifest
from tools.errors import InputError, MissingError, NotFoundError
from tools.evaluation import compare
from tools.evaluation.compare import EvaluationConfig, Target, read_report
from tools.evaluation.probes import read_retention, suite_names
from tools.export.chain import SHIPPED, Link, add, hashes, read_sealed, write_sealed
from tools.export.judge import HELD_BACK, Bars, judge
from tools.export.likeness import Likeness, likeness
from tools.export.promotion import Check, promote, reason
from tools.export.verify import EVALUATION, verify
from tools.files import read_json
from tools.jobs import record
from tools.jobs.record import Job, now
from tools.settings import shipped_data
from tools.workspace import Workspace

LIKENESS_TOKENS = 4096  # at most; the general texts that ship hold about 2,200


class GateConfig(EvaluationConfig):
    """An evaluation of a base and an exported model, with the gate after it; `force` is a reason to promote anyway."""

    model: str
    promote: bool = False
    force: str = ""


def start_evaluation(
    workspace: Workspace,
    *,
    run: str = "",
    model: str = "",
    against: str = "",
    probes: str = "",
    promote: bool = False,
    force: str = "",
    max_tokens: int = 32,
    tools: dict[str, dict[str, Any]] | None = None,
    idempotency_key: str = "",
) -> tuple[Job, bool]:
    """Queue an evaluation of a run's adapter, or the gate of an exported model, and start its worker.

    Without `probes`, the probe set of the card that the dataset was made from is asked, or else the dataset's own.

    Args:
        against: a run, an exported model or a base to compare with, instead of the run's or model's own base.
        force: with `promote`, a reason to promote even if a check fails; it is recorded.
        tools: input schemas of the server's own tools, for graders of tool calls.

    Raises:
        InputError: not exactly one of `run` and `model`, `promote` without `model`, `force` without
            `promote`.
        NotFoundError, MissingError, CheckError: what is named is not there, or not finished.
    """
    if bool(run) == bool(model) or (promote and not model) or (force and not promote):
        raise InputError(
            "Expected either `run` (a training) or `model` (an exported model), `promote` only with `model`, and "
            "`force` only with `promote`.",
            "read run://index and model://index",
        )
    if run:
        config = record.Job(workspace.run(run)).config
        dataset, base = str(config.get("dataset", "")), str(config.get("base", ""))
        targets = [Target(label="base", base=base), Target(label="adapter", run=run)]
    else:
        manifest = read_json(workspace.model(model) / "manifest.json")
        dataset, base = manifest["made_from"]["dataset"], manifest["made_from"]["base"]
        files = [Target(label=name.removesuffix(".gguf"), model=model, file=name) for name in manifest["files"]]
        trained = Target(label="adapter", run=manifest["made_from"]["run"])
        targets = [Target(label="base", base=base), *([trained] if _is_there(workspace, trained) else []), *files]
    if against:
        # the first is what the others are compared with; the gate still needs the base
        targets = [compare.named_target(workspace, against), *(targets if model else targets[1:])]
    for target in targets:
        compare.open_target(workspace, target)
    probes = probes or _probes_of(read_manifest(workspace.dataset(dataset)))
    compare.find_suite(workspace, probes, dataset)
    asked: dict[str, Any] = {"targets": targets, "probes": probes, "dataset": dataset}
    asked |= {"max_tokens": max_tokens, "tools": tools or {}}
    settings = GateConfig(**asked, model=model, promote=promote, force=force) if model else EvaluationConfig(**asked)
    job, new = record.create(
        workspace, "gate" if model else "evaluate", model or dataset, settings.model_dump(), idempotency_key
    )
    if new:
        record.start(workspace, job)
    return job, new


def _is_there(workspace: Workspace, target: Target) -> bool:
    """Whether the run that a model came from still is, so that its adapter can be asked the same."""
    try:
        compare.open_target(workspace, target)
    except (NotFoundError, MissingError):
        return False
    return True


def _probes_of(manifest: Manifest) -> str:
    """The shipped probe set of the only card that a dataset was made from, if there is one."""
    names = {source.rpartition("/")[2] for source in manifest.sources}
    return name if len(names) == 1 and (name := names.pop()) in suite_names() else ""


def run_job(workspace: Workspace, job: Job) -> dict[str, Any]:
    """Evaluate base, adapter and every file of a model, compare the quantized file with f16 token by token, judge, and
    promote the model when that was asked for.

    Returns:
        `models` (summaries by label), `likeness`, `checks`, `passed`, `reason`, and whether it was `promoted`.

    Raises:
        what `compare.run_job` raises.
    """
    config = GateConfig.model_validate(job.config)
    result = compare.run_job(workspace, job)
    reports = {target.label: read_report(job.folder, target.label) for target in config.targets}
    last = config.targets[-1].label
    like = None
    if last != "f16" and "f16" in reports:
        job.report(message="comparing the quantized file with f16, token by token")
        like = measure_likeness(workspace, config.model, LIKENESS_TOKENS, lambda done, of: job.report())
    intact = verify(workspace, config.model)
    checks = judge(
        reports["base"],
        reports[last],
        Bars() if config.probes in suite_names() else HELD_BACK,
        adapter=reports.get("adapter"),
        f16=reports.get("f16") if last != "f16" else None,
        intact=intact.ok,
    )
    failed = reason(checks)
    record_evaluation(workspace, config.model, [job.id], checks, like)
    if config.promote and (not failed or config.force.strip()):
        promote(workspace, config.model, checks, config.force)
    return {
        **result,
        "likeness": like.model_dump() if like else None,
        "broken": [part.model_dump() for part in intact.broken],
        "checks": [check.model_dump() for check in checks],
        "passed": not failed,
        "reason": failed,
        "promoted": config.promote and bool(not failed or config.force.strip()),
    }


def measure_likeness(
    workspace: Workspace, model: str, tokens: int, told: Callable[[int, int], None] | None = None
) -> Likeness:
    """A model's quantized file against its f16 file on general text.

    Raises:
        InputError: it has no quantized file, or one cannot be loaded.
    """
    folder = workspace.model(model)
    names = list(read_json(folder / "manifest.json")["files"])
    if len(names) < 2:
        raise InputError(f"{model!r} holds only {names[0]}.", "quantize the run to another type")
    texts = [passage.text for passage in read_retention()]
    return likeness(folder / names[0], folder / names[-1], texts, tokens, told)


def record_evaluation(
    workspace: Workspace, model: str, jobs: Sequence[str], checks: Sequence[Check], like: Likeness | None = None
) -> None:
    """Add the reports of `jobs` and what the gate said to the model's chain of hashes.

    Raises:
        InputError: the model's manifest is not what was written.
    """
    folder = workspace.model(model)
    manifest = read_sealed(folder / "manifest.json")
    files: dict[str, str] = {}
    suites = {"probes/retention.jsonl"}
    for job in jobs:
        run = workspace.run(job)
        files |= hashes(run, f"runs/{job}", ["job.json"]) | hashes(run / "reports", f"runs/{job}/reports")
        suites |= {f"probes/{part}.jsonl" for part in (read_json(run / "job.json")["config"].get("probes"),) if part}
    files |= hashes(shipped_data(), SHIPPED, sorted(suites))
    values = {
        "checks": [check.model_dump() for check in checks],
        "passed": not reason(checks),
        "likeness": like.model_dump() if like else None,
        "at": now(),
    }
    with workspace.lock("models"):
        path = folder / EVALUATION
        links = [Link.model_validate(link) for link in read_sealed(path)["chain"]] if path.is_file() else []
        links = add(links, "evaluation", files, {"manifest": manifest["sha256"], **values})
        chain = [link.model_dump() for link in links]
        write_sealed(path, {"model": model, "manifest_sha256": manifest["sha256"], "chain": chain})
