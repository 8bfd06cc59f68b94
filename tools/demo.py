"""The whole way of the data, in one file: a real model is taught what 42 means, and it is proved.

    result = run_demo(Workspace.open(Settings()), say)     # `looptune demo`

generate → validate → plan → train → evaluate → fuse, convert, quantize → evaluate again → gate → promote → ask.
Each stage is a call that the MCP tools make too; training, evaluation and export run in worker processes.
"""

import threading
import time
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from dataclasses import dataclass, field
from typing import Any

import psutil
from pydantic import BaseModel

from tools.data.generate import generate
from tools.data.validate import validate_dataset
from tools.errors import CheckError
from tools.evaluation.compare import EvaluationConfig, ModelReport, Target, read_report
from tools.export.gate import LIKENESS_TOKENS as GATE_TOKENS
from tools.export.gate import measure_likeness, record_evaluation
from tools.export.judge import judge
from tools.export.promotion import Check, promote, reason
from tools.export.quantize import ExportConfig
from tools.export.verify import verify
from tools.inference.ask import ask
from tools.jobs import record
from tools.jobs.record import JobKind, State
from tools.training.config import preset
from tools.training.plan import plan_training
from tools.workspace import Workspace

CARD, PROBES, QUESTION = "definition/forty-two", "forty-two", "What does 42 mean?"
ROWS = 960
LIKENESS_TOKENS = 384  # a few seconds; as many as the gate of evaluate_model takes would be half a minute


@dataclass
class Event:
    """Something to show: the beginning of a stage, its progress, or what came out of it."""

    stage: str
    message: str = ""
    step: int = 0
    total: int = 0
    metrics: dict[str, float] = field(default_factory=dict)


Say = Callable[[Event], None]


class DemoResult(BaseModel):
    """What `looptune demo --json` prints. Shares from 0 to 1; memory is the largest of all processes together."""

    passed: bool
    reason: str
    seconds: float
    peak_memory_gb: float
    model: str
    gguf: str
    question: str
    answer: str
    models: dict[str, dict[str, Any]]
    checks: list[Check]
    stages: dict[str, float]
    dataset: dict[str, Any]
    plan: dict[str, Any]
    training: dict[str, Any]
    export: dict[str, Any]
    likeness: dict[str, Any]


def run_demo(workspace: Workspace, say: Say = lambda event: None, rows: int = ROWS) -> DemoResult:
    """Run the main job on the embedded base.

    Raises:
        LooptuneError: a stage could not be done; a gate that says no is not an error but `passed=False`.
    """
    began = time.monotonic()
    stages = _Stages(say)
    with _peak_memory() as memory:
        with stages("generate"):
            manifest = generate(workspace, cards=[CARD], count=rows, seed=42)
            stages.tell(f"dataset {manifest.name}: {manifest.rows} rows, " + _counts(manifest.sections))
        with stages("validate"):
            report, manifest = validate_dataset(workspace, manifest.name)
            if not report.ok:
                raise CheckError(f"The dataset has {len(report.errors)} errors.", "see its report.json")
            stages.tell(f"no errors; split into {manifest.train_rows} for training, {manifest.valid_rows} held back")
        with stages("plan"):
            config = preset("embedded", dataset=manifest.name)
            plan = plan_training(workspace, config)
            stages.tell(
                f"{plan.steps} steps over {plan.tokens} tokens: about {plan.seconds:.0f} s and "
                f"{plan.peak_memory_gb:.1f} of {plan.limit_gb:.1f} GB ({plan.basis})"
            )
            if not plan.fits:
                raise CheckError(plan.advice, "free memory, and try again")
        with stages("train"):
            training = _run(workspace, "train", manifest.name, config.model_dump(), stages)
            stages.tell(
                f"validation loss {training.result['valid_loss_before']:.2f} → {training.result['valid_loss']:.2f}, "
                f"{training.result['tokens_per_second']:.0f} tokens/s"
            )
        with stages("evaluate"):
            targets = [Target(label="base", base=config.base), Target(label="adapter", run=training.id)]
            evaluated, reports = _evaluate(workspace, manifest.name, targets, stages)
        with stages("export"):
            name = _free_name(workspace, "forty-two")
            export = _run(
                workspace, "quantize", name, ExportConfig(run=training.id, name=name).model_dump(), stages
            ).result
            stages.tell(f"fused against adapter: KL {export['fused']['kl']:.1g} nats a token; {_tensors(export)}")
        with stages("gate"):
            targets = [Target(label=kind, model=name, file=f"{kind}.gguf") for kind in ("f16", "q4_k_m")]
            evaluated_again, exported = _evaluate(workspace, manifest.name, targets, stages)
            reports |= exported
            like = measure_likeness(workspace, name, LIKENESS_TOKENS)
            checks = judge(
                reports["base"],
                reports["q4_k_m"],
                adapter=reports["adapter"],
                f16=reports["f16"],
                intact=verify(workspace, name).ok,
            )
            failed = reason(checks)
            record_evaluation(workspace, name, [evaluated, evaluated_again], checks, like)
            stages.tell(
                f"Q4_K_M against f16, a short look at {like.tokens} tokens (evaluate_model takes {GATE_TOKENS}): KL "
                f"{like.kl:.3f} nats a token, {like.same_best:.1%} the same best token"
            )
            if not failed:
                promote(workspace, name, checks)
            stages.tell(failed or f"passed; {name} is promoted")
        with stages("ask"):
            answer = ask(workspace, QUESTION, model=name, max_tokens=60).answer
    return DemoResult(
        passed=not failed,
        reason=failed,
        seconds=round(time.monotonic() - began, 1),
        peak_memory_gb=round(memory.peak / 1e9, 2),
        model=name,
        gguf=str(workspace.models / name / "q4_k_m.gguf"),
        question=QUESTION,
        answer=answer,
        models={label: report.summary() for label, report in reports.items()},
        checks=checks,
        stages=stages.seconds,
        dataset=manifest.model_dump(),
        plan=plan.model_dump(),
        training={"run": training.id, **training.result},
        export=export,
        likeness=like.model_dump(),
    )


def _evaluate(
    workspace: Workspace, dataset: str, targets: list[Target], stages: "_Stages"
) -> tuple[str, dict[str, ModelReport]]:
    """The id of the evaluation, and its reports by label."""
    config = EvaluationConfig(targets=targets, probes=PROBES, dataset=dataset)
    state = _run(workspace, "evaluate", dataset, config.model_dump(), stages)
    return state.id, {target.label: read_report(workspace.run(state.id), target.label) for target in targets}


def _run(workspace: Workspace, kind: JobKind, title: str, config: dict[str, Any], stages: "_Stages") -> State:
    """Start a job and follow it to its end. Raises CheckError when it does not finish."""
    job, _ = record.create(workspace, kind, title, config)
    record.start(workspace, job)
    try:
        while (state := record.wait(job.folder, 0.5)).state in record.ACTIVE:
            stages.progress(state)
    except BaseException:
        record.cancel(job.folder)
        raise
    if state.state != "finished":
        raise CheckError(f"{state.id} {state.state}: {state.reason}", state.next_step or f"read {job.folder / 'log'}")
    return state


def _free_name(workspace: Workspace, stem: str) -> str:
    """`stem`, with a number when earlier demos took it."""
    number, name = 1, stem
    while (workspace.models / name).exists():
        number += 1
        name = f"{stem}-{number}"
    return name


def _counts(sections: dict[str, int]) -> str:
    return ", ".join(f"{count} {name}" for name, count in sorted(sections.items(), key=lambda item: -item[1]))


def _tensors(export: dict[str, Any]) -> str:
    name, file = next(reversed(export["files"].items()))
    types = ", ".join(f"{count} {kind}" for kind, count in file["types"].items())
    return f"{name}: {file['size_mb']:.0f} MB, {file['bits_per_weight']} bits a weight ({types})"


class _Stages:
    """Names, times and progress of the stages."""

    def __init__(self, say: Say) -> None:
        self.say, self.now = say, ""
        self.seconds: dict[str, float] = {}

    @contextmanager
    def __call__(self, name: str) -> Iterator[None]:
        began, self.now = time.monotonic(), name
        self.say(Event(name))
        yield
        self.seconds[name] = round(time.monotonic() - began, 1)

    def tell(self, message: str) -> None:
        self.say(Event(self.now, message))

    def progress(self, state: State) -> None:
        self.say(Event(self.now, state.message, state.step, state.total, dict(state.metrics)))


@dataclass
class _Memory:
    peak: int = 0


@contextmanager
def _peak_memory(every: float = 0.5) -> Iterator[_Memory]:
    """The largest resident memory of this process and its workers together, in bytes, sampled."""
    memory, stop = _Memory(), threading.Event()

    def watch() -> None:
        me = psutil.Process()
        while not stop.wait(every):
            total = 0
            for process in [me, *me.children(recursive=True)]:
                try:
                    total += process.memory_info().rss
                except psutil.Error:
                    continue
            memory.peak = max(memory.peak, total)

    watcher = threading.Thread(target=watch, daemon=True)
    watcher.start()
    try:
        yield memory
    finally:
        stop.set()
        watcher.join()
