"""The training loop: the packed pass is the plain one, only answers are trained, figures are kept, bad numbers stop it.

.venv/bin/python -P -m pytest tests/test_training.py
"""

import json
import os
import subprocess
import sys
from collections.abc import Callable, Sequence
from pathlib import Path
from typing import Any

import pytest
from conftest import TINY
from hypothesis import given
from hypothesis import strategies as st
from trainings import job_of, make_lookalike, trained, trainer_of

from tools.data.datasets import read_split
from tools.data.examples import Example, read_examples
from tools.data.tokens import EncodedRow, encode, encode_prompt
from tools.errors import CheckError
from tools.files import read_json, sha256
from tools.jobs import record
from tools.jobs.worker import main as do_job
from tools.models.bases import EMBEDDED
from tools.models.load import load_tokenizer
from tools.training.config import TrainingConfig, preset
from tools.training.loop import Trainer
from tools.training.metrics import read_metrics
from tools.training.plan import plan_training
from tools.training.schedule import VALID_ROWS, batch_places, data_order, step_count, valid_places
from tools.workspace import Workspace

ROOT = Path(__file__).resolve().parent.parent


def with_lora(model: Any, keys: Sequence[str]) -> None:
    """Give `model` an adapter whose B is not zero, which would hide A's gradient."""
    import mlx.core as mx
    from mlx.utils import tree_flatten
    from mlx_lm.tuner.utils import linear_to_lora_layers

    model.freeze()
    mx.random.seed(1)
    linear_to_lora_layers(model, -1, {"rank": 4, "scale": 2.0, "dropout": 0.0, "keys": list(keys)})
    model.train()
    for name, value in tree_flatten(model.trainable_parameters()):
        if name.endswith("lora_b"):
            model.load_weights([(name, mx.random.normal(value.shape) * 0.02)], strict=False)


def row_by_row(model: Any, rows: Sequence[EncodedRow]) -> tuple[Any, Any]:
    """The summed loss of rows, each on its own through the model itself, and its gradients."""
    import mlx.core as mx
    import mlx.nn as nn

    def plain(parameters: Any) -> Any:
        model.update(parameters)
        total = mx.array(0.0)
        for row in rows:
            ids = mx.array(row.ids)[None]
            losses = nn.losses.cross_entropy(model(ids[:, :-1]), ids[:, 1:])
            total = total + losses[0, mx.array(row.positions) - 1].sum()
        return total

    return mx.value_and_grad(plain)(model.trainable_parameters())  # type: ignore[no-any-return]


KEYS = ["self_attn.q_proj", "self_attn.v_proj", "self_attn.o_proj", "mlp.gate_proj", "mlp.up_proj"]


@pytest.mark.slow
@pytest.mark.parametrize(("kind", "bits"), [("llama", 32), ("qwen2", 4), ("mistral", 32), ("qwen3", 32)])
def test_both_ways_through_a_pack_have_the_loss_and_gradients_of_each_row_on_its_own(
    with_bases: Workspace, dataset: Callable[..., str], kind: Any, bits: int, tmp_path: Path
) -> None:
    from tools.models.load import load
    from tools.models.quantized import quantize
    from tools.models.tiny import make_tiny

    base = tmp_path / "full"
    if kind in ("llama", "qwen2"):
        base.mkdir()
        make_tiny(with_bases.bases / EMBEDDED, base, kind=kind)
    else:
        make_lookalike(with_bases.bases / TINY, base, kind)
    if bits == 4:
        full, base = base, tmp_path / "packed"
        base.mkdir()
        quantize(full, base)
    model, tokenizer = load(base, packed=True)
    import mlx.core as mx
    from mlx.utils import tree_flatten

    from tools.training import fast, packed

    chat = Example(instruction="And then?", output="It lapses.", history=[("What is a hold?", "A hold on a seat.")])
    rows = encode(tokenizer, [*read_split(with_bases, dataset())[0][:3], chat], 512).rows
    assert len(rows[-1].spans) == 2
    with_lora(model, KEYS)
    assert packed.fits(model) and not fast.fits(model, dropout=0.1)
    assert fast.fits(model, dropout=0.0) == (kind != "qwen3")
    groups = packed.groups_of(rows, 180, lanes=2)
    assert len(groups) > 1 and max(len(group) for group in groups) == 2

    def packs(way: Any, checkpointing: bool) -> Any:
        def loss(parameters: Any) -> Any:
            model.update(parameters)
            return sum(way(model, pack, checkpointing) for group in groups for pack in group)

        return loss

    parameters = model.trainable_parameters()
    expected, gradients = row_by_row(model, rows)
    for way in (packed.pack_loss, fast.pack_loss) if kind != "qwen3" else (packed.pack_loss,):
        for checkpointing in (False, True):
            found, other_gradients = mx.value_and_grad(packs(way, checkpointing))(parameters)
            assert abs(found.item() - expected.item()) < 1e-5 * abs(expected.item())
            for (name, a), (_, b) in zip(tree_flatten(gradients), tree_flatten(other_gradients), strict=True):
                assert mx.allclose(a, b, rtol=1e-3, atol=1e-4), name


@pytest.mark.slow
@pytest.mark.parametrize("kind", ["granite", "gemma", "smollm3"])
def test_a_model_that_only_looks_like_a_llama_is_trained_row_by_row_on_its_own_function(
    with_bases: Workspace, dataset: Callable[..., str], kind: Any, tmp_path: Path
) -> None:
    """Granite and Gemma multiply what Llama does not, SmolLM3 leaves rotary embeddings out of its first layer here."""
    import mlx.core as mx
    from mlx.utils import tree_flatten, tree_map

    from tools.training import fast, packed
    from tools.training.passes import Passes, load_for_training

    config = preset("tiny", dataset="any")
    model, tokenizer = load_for_training(make_lookalike(with_bases.bases / TINY, tmp_path / kind, kind), config)
    with_lora(model, KEYS)
    rows = encode(tokenizer, read_split(with_bases, dataset())[0][:3], 512).rows
    trained = sum(row.trained for row in rows)
    parameters = model.trainable_parameters()
    expected, gradients = row_by_row(model, rows)
    for checkpointing in (False, True):
        model.update(parameters)
        passes = Passes(model, config.model_copy(update={"gradient_checkpointing": checkpointing}))
        assert (passes.way, passes.lanes) == ("autodiff, row by row", 1)
        parts = [passes.gradients(group, trained) for group in passes.groups(rows)]
        assert len(parts) == len(rows)
        assert sum(loss for loss, _ in parts) * trained == pytest.approx(expected.item(), rel=1e-5)
        found = parts[0][1]
        for _, more in parts[1:]:
            found = tree_map(mx.add, found, more)
        for (name, a), (_, b) in zip(tree_flatten(gradients), tree_flatten(found), strict=True):
            assert mx.allclose(a, b * trained, rtol=1e-3, atol=1e-4), name
        assert sum(passes.loss(group) for group in passes.groups(rows)) == pytest.approx(expected.item(), rel=1e-5)

    model.update(parameters)
    assert not packed.fits(model) and not fast.fits(model, dropout=0.0)
    ((pack,),) = packed.groups_of(rows, 4096)
    wrong = fast.pack_loss(model, pack).item()
    assert abs(wrong - expected.item()) > 1e-4 * expected.item(), "the packed pass would have done as well"


@given(
    rows=st.integers(1, 60),
    batch=st.integers(1, 90),
    epochs=st.integers(1, 3),
    seed=st.integers(0, 2**32 - 1),
)
def test_every_epoch_takes_each_row_once_whatever_the_batch_size(rows: int, batch: int, epochs: int, seed: int) -> None:
    config = TrainingConfig(base="any", dataset="any", batch_size=batch, epochs=epochs, seed=seed)
    steps = step_count(rows, config)
    assert (steps - 1) * batch < rows * epochs <= steps * batch
    backwards = {step: batch_places(rows, config, step) for step in reversed(range(steps))}  # a step knows no other
    places = [place for step in range(steps) for place in batch_places(rows, config, step)]
    assert places == [place for step in range(steps) for place in backwards[step]] and len(places) == steps * batch
    for epoch in range(epochs):
        order = places[epoch * rows : (epoch + 1) * rows]
        assert sorted(order) == list(range(rows)) and order == data_order(rows, seed, epoch)


def test_packs_hold_every_token_of_the_core_rows_once_and_no_other(with_bases: Workspace) -> None:
    """Each row is read back out of its pack: the beginning that the pack's rows share, and its own tokens."""
    from tools.training.packed import groups_of

    tokenizer = load_tokenizer(with_bases.bases / TINY)
    rows = encode(tokenizer, read_examples(ROOT / "datasets" / "core" / "valid.jsonl")[::3], 1024).rows
    config = TrainingConfig(base="any", dataset="any", max_length=1024)
    read = shared = 0
    for step in range(step_count(len(rows), config)):
        batch = [rows[place] for place in batch_places(len(rows), config, step)]
        packs = [pack for group in groups_of(batch, config.pack_tokens, lanes=2) for pack in group]
        # the last token of a row is only predicted
        unpacked = [
            (*pack.tokens[: pack.prefix], *pack.tokens[begin:end]) for pack in packs for begin, end in pack.spans
        ]
        assert sorted(unpacked) == sorted(row.ids[:-1] for row in batch)
        tokens = sum(len(pack.tokens) for pack in packs)
        twice = sum(pack.prefix * (len(pack.spans) - 1) for pack in packs)
        assert tokens + twice == sum(len(row.ids) - 1 for row in batch)
        read, shared = read + tokens, shared + twice
    assert read > shared > 0, "rows under one template begin alike"


def test_only_answers_are_trained_and_every_answer_ends(with_bases: Workspace, dataset: Callable[..., str]) -> None:
    tokenizer = load_tokenizer(with_bases.bases / TINY)
    rows = read_split(with_bases, dataset())[0]
    for row, encoded in zip(rows, encode(tokenizer, rows, 512).rows, strict=True):
        assert list(encoded.ids[: encoded.start]) == encode_prompt(tokenizer, row.question)
        assert tokenizer.decode(list(encoded.ids[encoded.start : -1])) == row.answer
        assert encoded.ids[-1] in tokenizer.eos_token_ids


def test_of_a_conversation_every_answer_is_trained_and_nothing_else(with_bases: Workspace) -> None:
    tokenizer = load_tokenizer(with_bases.bases / TINY)
    history = [("What is a hold?", "A hold on a seat."), ("For how long?", "15 minutes.")]
    encoded = encode(tokenizer, [Example(instruction="And then?", output="It lapses.", history=history)], 512).rows[0]
    texts = [tokenizer.decode(list(encoded.ids[begin : end - 1])) for begin, end in encoded.spans]
    assert texts == ["A hold on a seat.", "15 minutes.", "It lapses."]
    assert all(encoded.ids[end - 1] in tokenizer.eos_token_ids for _, end in encoded.spans)
    assert encoded.trained == sum(end - begin for begin, end in encoded.spans) < len(encoded.ids)
    short = encoded.cut(encoded.spans[1][0] + 1)
    assert short.positions == [*range(*encoded.spans[0]), encoded.spans[1][0]]


@pytest.mark.slow
def test_packs_of_any_size_accumulate_to_the_large_batch(with_bases: Workspace, dataset: Callable[..., str]) -> None:
    """16 rows in one pass, and in packs of about one row, take the optimizer to the same place."""
    import mlx.core as mx

    name, ends, losses = dataset(), [], []
    for pack_tokens in (4096, 64):
        trainer = trainer_of(with_bases, name, batch_size=16, max_length=64, pack_tokens=pack_tokens)
        losses.append([trainer._step(step)[0]["loss"] for step in range(2)])
        ends.append(dict(trainer._trainable()))
    assert losses[0] == pytest.approx(losses[1], abs=1e-4)
    for key, value in ends[0].items():
        assert mx.allclose(value, ends[1][key], rtol=1e-2, atol=2e-5), key


@pytest.mark.slow
def test_some_matrices_can_be_chosen_and_mlx_lm_is_told_which(
    with_bases: Workspace, dataset: Callable[..., str]
) -> None:
    from tools.models.load import load

    job = job_of(with_bases, dataset(), targets=["q_proj", "down_proj"])
    assert trained(job).result["trainable_parameters"] == 2 * 16 * ((64 + 64) + (128 + 64))
    parameters = read_json(job.folder / "adapter" / "adapter_config.json")["lora_parameters"]
    assert parameters["keys"] == ["self_attn.q_proj", "mlp.down_proj"]
    load(with_bases.bases / TINY, job.folder / "adapter")


@pytest.mark.slow
def test_the_adapter_loads_in_plain_mlx_lm(with_bases: Workspace, dataset: Callable[..., str]) -> None:
    job = job_of(with_bases, dataset())
    state = trained(job)
    assert state.state == "finished" and state.result["valid_loss"] < state.result["valid_loss_before"]
    adapter = read_json(job.folder / "adapter" / "adapter_config.json")
    assert adapter["lora_parameters"] == {"rank": 16, "scale": 2.0, "dropout": 0.0} and adapter["num_layers"] == -1
    done = subprocess.run(
        [
            sys.executable, "-P", "-m", "mlx_lm", "generate", "--model", str(with_bases.bases / TINY),
            "--adapter-path", str(job.folder / "adapter"), "--prompt", "Hello", "--max-tokens", "3",
        ],
        capture_output=True, text=True, timeout=120, env={**os.environ, "MLX_DISABLE_COMPILE": "1"},
    )  # fmt: skip
    assert done.returncode == 0 and "Generation: 3 tokens" in done.stdout, done.stderr


@pytest.mark.slow
def test_a_run_ends_early_when_patience_is_over_and_its_best_checkpoint_stays(
    with_bases: Workspace, dataset: Callable[..., str]
) -> None:
    changes = {"learning_rate": 0.1, "schedule": "constant", "warmup_steps": 0, "weight_decay": 0.0, "epochs": 20}
    job = job_of(with_bases, dataset(), patience=2, eval_every=2, save_every=1, keep_checkpoints=2, **changes)
    state = trained(job)
    result = state.result
    assert result["stopped_early"] and result["steps"] == result["best_step"] + 4 < result["planned_steps"]
    assert "No better validation loss in 2 evaluations" in state.reason
    best = read_json(job.folder / "checkpoints" / "best.json")
    assert (best["step"], round(best["valid_loss"], 4)) == (result["best_step"], result["valid_loss"])
    left = sorted(path.name for path in (job.folder / "checkpoints").glob("step-*"))
    last = [f"step-{result['steps'] - back:06d}" for back in (1, 0)]
    assert left == [best["checkpoint"], *last]
    marked = job.folder / "checkpoints" / best["checkpoint"] / "adapters.safetensors"
    assert sha256(marked) == sha256(job.folder / "adapter" / "adapters.safetensors")


@given(rows=st.integers(1, 2000), seed=st.integers(0, 2**32 - 1))
def test_the_rows_of_an_evaluation_stand_evenly_over_the_split(rows: int, seed: int) -> None:
    places = valid_places(rows, seed)
    assert places == valid_places(rows, seed) and len(places) == min(rows, VALID_ROWS)
    gaps = {after - before for before, after in zip([places[-1] - rows, *places], places, strict=False)}
    assert places[0] >= 0 and places[-1] < rows and gaps <= {rows // len(places), -(-rows // len(places))}


@pytest.mark.slow
def test_the_validation_loss_is_measured_on_every_kind_of_rows(
    with_bases: Workspace, dataset: Callable[..., str]
) -> None:
    """The split of the core dataset begins with forty rows of one of its seven kinds."""
    core = read_examples(ROOT / "datasets" / "core" / "valid.jsonl")
    assert {row.kind for row in core[:VALID_ROWS]} != {row.kind for row in core}
    for seed in range(20):
        assert {core[place].kind for place in valid_places(len(core), seed)} == {row.kind for row in core}

    name = dataset(200)
    valid = read_split(with_bases, name)[1]
    plan = plan_training(with_bases, preset("tiny", dataset=name))
    assert (plan.evaluated_rows, plan.valid_rows) == (VALID_ROWS, len(valid)) and len(valid) > VALID_ROWS
    assert f"measured on {VALID_ROWS} of {len(valid)} rows" in " ".join(plan.assumptions)
    trainer = trainer_of(with_bases, name)
    evaluated = [valid[place] for place in valid_places(len(valid), trainer.config.seed)]
    assert trainer.valid_data == encode(load_tokenizer(with_bases.bases / TINY), evaluated, 512).rows
    result = trainer.train()
    assert (result["evaluated_rows"], result["valid_rows"]) == (VALID_ROWS, len(valid))


@pytest.mark.slow
@pytest.mark.parametrize(
    ("moment", "said", "advice"),
    [
        ("the base", "The validation loss before the first step is nan", "looptune doctor --model tiny"),
        ("a step", "The loss of step 2 is nan", "lower learning_rate"),
        ("an evaluation", "The validation loss after step 2 is nan", "lower learning_rate"),
    ],
)
def test_a_loss_that_is_no_number_ends_the_run_as_failed_and_is_never_the_best(
    with_bases: Workspace,
    dataset: Callable[..., str],
    monkeypatch: pytest.MonkeyPatch,
    moment: str,
    said: str,
    advice: str,
) -> None:
    """The model itself is broken at that moment of a whole run."""
    import mlx.core as mx

    job = job_of(with_bases, dataset(), eval_every=2, save_every=1)
    step, validate = Trainer._step, Trainer._validate

    def spoil(trainer: Trainer) -> None:
        norm = trainer.model.model.norm
        norm.weight = mx.full(norm.weight.shape, float("nan"))

    def spoilt_step(self: Trainer, number: int) -> Any:
        if moment == "a step" and number == 1:
            spoil(self)
        found = step(self, number)
        if moment == "an evaluation" and number == 1:
            spoil(self)
        return found

    def spoilt_validation(self: Trainer, number: int) -> bool:
        if moment == "the base":
            spoil(self)
        return validate(self, number)

    monkeypatch.setattr(Trainer, "_step", spoilt_step)
    monkeypatch.setattr(Trainer, "_validate", spoilt_validation)
    assert do_job(job.folder) == 1
    state = record.read(job.folder)
    assert state.state == "failed" and state.reason.startswith(said), state.reason
    assert advice in state.next_step and ("not a number" in state.reason) == (moment != "the base")
    kept = [path.name for path in (job.folder / "checkpoints").glob("step-*")]
    assert kept == ([] if moment == "the base" else ["step-000001"])
    assert not (job.folder / "checkpoints" / "best.json").exists() and not (job.folder / "adapter").exists()


def test_a_loss_that_is_no_number_stops_the_run_and_keeps_the_rows_of_the_step(
    with_bases: Workspace, dataset: Callable[..., str]
) -> None:
    import mlx.core as mx

    name = dataset()
    trainer = trainer_of(with_bases, name)
    trainer._resume()
    trainer._step(0)
    norm = trainer.model.model.norm
    norm.weight = mx.full(norm.weight.shape, float("nan"))
    with pytest.raises(CheckError, match="The loss of step 2 is nan"):
        trainer._step(1)
    bad = read_json(trainer.run / "bad-step.json")
    lines = (with_bases.dataset(name) / "train.jsonl").read_text().splitlines()
    assert bad["step"] == 2 and len(bad["rows"]) == 8
    assert [json.loads(lines[line - 1])["id"] for line in bad["lines"]] == [row["id"] for row in bad["rows"]]


def test_metrics_hold_a_line_a_step_and_tensorboard_and_the_profile_the_same(
    with_bases: Workspace, dataset: Callable[..., str]
) -> None:
    from tensorboardX.proto.event_pb2 import Event

    job = job_of(with_bases, dataset(), eval_every=2)
    result = trained(job).result
    lines = read_metrics(job.folder)
    assert [line["step"] for line in lines] == [1, 2, 3, 4]
    assert {"loss", "learning_rate", "gradient_norm", "tokens_per_second", "memory_gb", "mlx_memory_gb", "time"} <= (
        lines[0].keys()
    )
    assert [line["step"] for line in lines if "valid_loss" in line] == [2, 4]

    scalars: dict[str, dict[int, float]] = {}
    data = next((job.folder / "tensorboard").iterdir()).read_bytes()
    while data:  # a record: length, its checksum, the event, its checksum
        size = int.from_bytes(data[:8], "little")
        event = Event.FromString(data[12 : 12 + size])
        for value in event.summary.value:
            scalars.setdefault(value.tag, {})[event.step] = value.simple_value
        data = data[16 + size :]
    assert scalars["loss/train"] == pytest.approx({line["step"]: line["loss"] for line in lines})
    assert scalars["loss/valid"].keys() == {2, 4} and "memory/process_gb" in scalars

    profile = read_json(job.folder / "profile.json")
    assert result["profile"] == profile and result["padding_share"] == 0.0
    assert 0 < profile["step_seconds_p50"] <= profile["step_seconds_max"] <= profile["seconds"]
    assert profile["cpu_seconds"] > 0 and profile["peak_memory_gb"] >= lines[-1]["memory_gb"]


def test_the_curves_are_a_picture_and_text(tmp_path: Path) -> None:
    from tools.training.charts import curves_png, curves_text

    lines = [
        {
            "step": n,
            "loss": 3 / n,
            "memory_gb": 1.0,
            "mlx_memory_gb": 0.8,
            "valid_loss": 3.1 / n if n % 5 == 0 else None,
        }
        for n in range(1, 31)
    ]
    assert curves_png(lines, "run")[:8] == b"\x89PNG\r\n\x1a\n" and curves_png([], "run")
    drawn = curves_text(lines, 70, 12, color=False)
    assert "loss" in drawn and "validation" in drawn and max(map(len, drawn.splitlines())) <= 70
    assert curves_text(lines[:1], 70, 12) == ""
