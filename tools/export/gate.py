"""The gate: whether an exported model may become the one that answers.

    checks = judge(base, quantized, adapter=…, f16=…, intact=…)     # ModelReports of one probe set
    record_evaluation(workspace, "forty-two", jobs, checks)          # the last link of the model's chain
    promote(workspace, "forty-two", checks)                          # tools.export.promotion; refuses when one failed

It asks whether the model knows what was taught, whether what must not change did not, and whether the quantized file is
still the model that was trained.
"""

from collections.abc import Callable, Sequence
from contextlib import ExitStack
from typing import Any

import psutil

from tools.data.datasets import Manifest, read_manifest
from tools.errors import InputError, LimitError, MissingError, NotFoundError
from tools.evaluation import compare
from tools.evaluation.compare import EvaluationConfig, ModelReport, Target, read_report
from tools.evaluation.matrix import judge as take
from tools.evaluation.probes import CORE, suite_names
from tools.evaluation.scores import Verdict
from tools.export.again import fused_again
from tools.export.chain import Link, add, hashes, read_sealed, write_sealed
from tools.export.judge import HELD_BACK, MANY_KINDS, Bars, judge
from tools.export.likeness import Likeness, likeness, shipped_texts
from tools.export.promotion import Check, promote, reason
from tools.export.verify import EVALUATION, verify
from tools.files import read_json
from tools.inference.engine import Model
from tools.jobs import record
from tools.jobs.record import Job, now
from tools.models.bases import base_folder, describe
from tools.models.load import device
from tools.settings import shipped_data
from tools.workspace import Workspace

LIKENESS_TOKENS = 2200  # a few more than the gate asks for


class GateConfig(EvaluationConfig):
    """An evaluation of a base and an exported model, with the gate after it; `force` is a reason to promote anyway.
    With `fused`, base and adapter are fused again, so that the fused model is asked the same."""

    model: str
    promote: bool = False
    force: str = ""
    fused: bool = False


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
    fused: bool = True,
    idempotency_key: str = "",
) -> tuple[Job, bool]:
    """Queue an evaluation of a run's adapter, or the gate of an exported model, and start its worker.

    Without `probes`, the probe set of the card that the dataset was made from is asked, or else the dataset's own.

    Args:
        against: a run, an exported model or a base to compare with, instead of the run's or model's own base.
        force: with `promote`, a reason to promote even if a check fails; it is recorded.
        tools: input schemas of the server's own tools, for graders of tool calls.
        fused: with `model`, ask the fused model too, where run, memory and disk allow it; the result says when not.

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
    probes = probes or probes_of(read_manifest(workspace.dataset(dataset)))
    compare.find_suite(workspace, probes, dataset)
    asked: dict[str, Any] = {"targets": targets, "probes": probes, "dataset": dataset}
    asked |= {"max_tokens": max_tokens, "tools": tools or {}}
    fused = fused and any(target.label == "adapter" for target in targets)
    settings: EvaluationConfig = EvaluationConfig(**asked)
    if model:
        settings = GateConfig(**asked, model=model, promote=promote, force=force, fused=fused)
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


def probes_of(manifest: Manifest) -> str:
    """The shipped probe set of the only card that a dataset was made from, if there is one, or of many such cards."""
    cards = [source for source in manifest.sources if (shipped_data() / "cards" / f"{source}.yaml").is_file()]
    if len(cards) == 1 and len(manifest.sources) == 1:
        name = cards[0].rpartition("/")[2]
        return name if name in suite_names() else ""
    return CORE if len(cards) == len(manifest.sources) > 1 and not manifest.probes else ""


def run_job(workspace: Workspace, job: Job) -> dict[str, Any]:
    """Evaluate base, adapter, the fused model and every file of a model, compare the quantized file with f16 token by
    token, judge, and promote the model when that was asked for.

    Returns:
        `models` (summaries by label), `likeness`, `checks`, `passed`, `reason`, whether it was `promoted`, and `notes`
        on the fused model.

    Raises:
        what `compare.run_job` raises.
    """
    config = GateConfig.model_validate(job.config)
    result, notes = _measured(workspace, job, config)
    reports = {target.label: read_report(job.folder, target.label) for target in config.targets}
    last = config.targets[-1].label
    like = None
    if last != "f16" and "f16" in reports:
        job.report(message="comparing the quantized file with f16, token by token")
        like = measure_likeness(workspace, config.model, LIKENESS_TOKENS, lambda done, of: job.report())
    intact = verify(workspace, config.model)
    checks = _judged(workspace, config, reports, intact.ok, like)
    failed = reason(checks)
    record_evaluation(workspace, config.model, [job.id], checks, like)
    if config.promote and (not failed or config.force.strip()):
        promote(workspace, config.model, checks, config.force)
    return {
        **result,
        "likeness": like.model_dump() if like else None,
        "damaged_files": [part.model_dump() for part in intact.broken],
        "checks": [check.model_dump() for check in checks],
        "passed": not failed,
        "reason": failed,
        "promoted": config.promote and bool(not failed or config.force.strip()),
        "notes": notes,
    }


def _measured(workspace: Workspace, job: Job, config: GateConfig) -> tuple[dict[str, Any], list[str]]:
    """What `compare.run_job` measures, of the fused model too when there is room for it; and what is to be said."""
    if not config.fused:
        return compare.run_job(workspace, job), []
    manifest = read_sealed(workspace.model(config.model) / "manifest.json")
    opened = [compare.open_target(workspace, target) for target in config.targets]
    place = next(n for n, target in enumerate(config.targets) if target.file)  # before the files made of it
    with ExitStack() as stack:
        notes = []
        try:
            require_memory(workspace, manifest["made_from"]["base"])
            again = fused_again(workspace, manifest, workspace.models, lambda done, of: job.report(message="fusing"))
            folder, different = stack.enter_context(again)
            opened.insert(place, Model("fused", folder=folder))
            if different:
                notes.append(f"{len(different)} fused files came out otherwise than those that were converted.")
        except LimitError as error:
            notes.append(f"The fused model was not asked: {error.message}")
        return compare.run_job(workspace, job, opened), notes


def require_memory(workspace: Workspace, base: str) -> None:
    """Raises LimitError when the fused model of `base`, f32 on a CPU, else f16, does not fit into free memory."""
    needed = describe(base_folder(workspace, base)).parameters * (4 if device() == "cpu" else 2)
    free = psutil.virtual_memory().available
    if needed > free:
        raise LimitError(
            f"It takes {needed / 1e9:.1f} GB of memory, and {free / 1e9:.1f} GB are free.", "free some memory"
        )


def _judged(
    workspace: Workspace, config: GateConfig, reports: dict[str, ModelReport], intact: bool, like: Likeness | None
) -> list[Check]:
    last = config.targets[-1].label
    return judge(
        reports["base"],
        reports[last],
        bars_for(config.probes, workspace.settings.max_controls_broken),
        adapter=reports.get("adapter"),
        f16=reports.get("f16") if last != "f16" else None,
        intact=intact,
        likeness_tokens=like.tokens if like else None,
    )


def take_verdicts(workspace: Workspace, run: str, verdicts: list[Verdict]) -> dict[str, Any]:
    """Take an agent's verdicts into the evaluation `run` and its job's result. When that was the gate of a model, the
    model is judged anew, and that goes into its chain; whether it is promoted stays as it was.

    Returns:
        what `tools.evaluation.matrix.judge` returns.

    Raises:
        NotFoundError: no such evaluation, or a verdict names a model or a probe that it has not; nothing is changed.
    """
    folder = workspace.run(run)
    result = take(folder, verdicts)
    job = Job(folder)
    judged: dict[str, Any] = {}
    if job.state.kind == "gate" and job.state.state == "finished":
        config = GateConfig.model_validate(job.config)
        reports = {target.label: read_report(folder, target.label) for target in config.targets}
        found = job.state.result.get("likeness")
        like = Likeness.model_validate(found) if found else None
        intact = verify(workspace, config.model, but=f"runs/{run}/reports/")
        checks = _judged(workspace, config, reports, intact.ok, like)
        record_evaluation(workspace, config.model, [run], checks, like)
        failed = reason(checks)
        judged = {"checks": [check.model_dump() for check in checks], "passed": not failed, "reason": failed}
    if job.state.state == "finished":
        job.save(result={**job.state.result, **result, **judged})
    return result


def bars_for(probes: str, controls_broken: float = 0.1) -> Bars:
    """What is asked of a model on the probe set `probes`; `controls_broken`: the share that quantizing may break."""
    bars = MANY_KINDS if probes == CORE else Bars() if probes in suite_names() else HELD_BACK
    return bars.model_copy(update={"controls_broken": controls_broken})


def measure_likeness(
    workspace: Workspace, model: str, tokens: int, told: Callable[[int, int], None] | None = None
) -> Likeness:
    """A model's quantized file against its f16 file, on the texts that ship.

    Raises:
        InputError: it has no quantized file, or one cannot be loaded.
    """
    folder = workspace.model(model)
    names = list(read_json(folder / "manifest.json")["files"])
    if len(names) < 2:
        raise InputError(f"{model!r} holds only {names[0]}.", "quantize the run to another type")
    return likeness(folder / names[0], folder / names[-1], shipped_texts(), tokens, told)


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
    for job in jobs:
        run = workspace.run(job)
        files |= hashes(run, f"runs/{job}", ["job.json"]) | hashes(run / "reports", f"runs/{job}/reports")
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
