"""Fusing, converting and quantizing: the file that is deployed is the model that was measured.

.venv/bin/python -P -m pytest tests/test_export.py
"""

from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
from conftest import TINY

from tools.errors import CheckError, ConflictError, InputError
from tools.evaluation.compare import ModelReport
from tools.export.fuse import Agreement, compare, fuse, require_agreement
from tools.export.gate import Bars, judge, promote, promoted, reason
from tools.export.gguf import convert, quantize_file, tensor_types
from tools.export.quantize import ExportConfig, require_exportable
from tools.files import read_json, write_json
from tools.jobs import record
from tools.jobs.worker import main as do_job
from tools.models.bases import EMBEDDED
from tools.models.load import load_tokenizer
from tools.training.config import preset
from tools.workspace import Workspace

STRINGS = [
    "What does 42 mean?",
    "0123456789 3.14 1e-9 v2.10.3",
    "def f(x: int) -> int:\n    return x ** 2\n",
    "\t\ttabs  and   spaces \n\n",
    "naïve café Straße Ελληνικά",
    "你好，世界",
    "emoji 🙂👩‍💻",
    "<|im_start|>user",
    "a" * 300,
    "SELECT * FROM t WHERE a <> 'b';",
    "",
]


def report(label: str, **changes: Any) -> ModelReport:
    figures: dict[str, Any] = {
        "recall": 0.95, "controls": 0.95, "probes": 40, "control_count": 70, "families": {}, "perplexity": 15.0,
        "tokens_per_second": 1.0, "size_mb": 1.0, "seconds": 1.0, "suite": "s", "suite_sha256": "x",
    }  # fmt: skip
    return ModelReport(label=label, **{**figures, **changes})


BASE = report("base", recall=0.0, perplexity=13.0)


def trained_run(workspace: Workspace, dataset: str) -> str:
    job, _ = record.create(
        workspace, "train", dataset, preset("embedded", dataset=dataset, base=TINY, learning_rate=0.01).model_dump()
    )
    assert do_job(job.folder) == 0
    return job.id


def test_a_run_becomes_a_gguf_with_a_manifest_that_names_what_it_came_from(
    with_bases: Workspace, dataset: Callable[..., str]
) -> None:
    run = trained_run(with_bases, dataset())
    config = ExportConfig(run=run, name="holds")
    job, _ = record.create(with_bases, "quantize", "holds", config.model_dump())
    assert do_job(job.folder) == 0, record.read(job.folder).reason
    manifest = read_json(with_bases.model("holds") / "manifest.json")
    assert manifest["fused"]["kl"] < 1e-3 and manifest["fused"]["matrices"] == 14
    assert manifest["made_from"]["run"] == run and len(manifest["made_from"]["adapter_sha256"]) == 64
    assert set(manifest["files"]) == {"f16.gguf", "q4_k_m.gguf"}
    assert sum(manifest["files"]["q4_k_m.gguf"]["types"].values()) == 20
    with pytest.raises(ConflictError, match="exists already"):
        require_exportable(with_bases, config)


def test_an_export_that_fails_leaves_nothing(
    with_bases: Workspace, dataset: Callable[..., str], monkeypatch: pytest.MonkeyPatch
) -> None:
    run = trained_run(with_bases, dataset())

    def refuse(*_: Any) -> None:
        raise CheckError("llama.cpp could not quantize", "read the log")

    monkeypatch.setattr("tools.export.quantize.quantize_file", refuse)
    job, _ = record.create(with_bases, "quantize", "holds", ExportConfig(run=run, name="holds").model_dump())
    assert do_job(job.folder) == 1
    assert "could not quantize" in record.read(job.folder).reason
    assert not list(with_bases.models.iterdir())


def test_fusing_gives_the_adapters_model_and_a_wrong_fusion_is_noticed(
    with_bases: Workspace, dataset: Callable[..., str], tmp_path: Path
) -> None:
    run = with_bases.run(trained_run(with_bases, dataset()))
    base, adapter, fused = with_bases.bases / TINY, run / "adapter", tmp_path / "fused"
    fused.mkdir()
    assert fuse(base, adapter, fused) == 14
    texts = ["What does soft hold mean in this project?", "def f(x):\n    return x + 1\n"]
    require_agreement(compare(base, adapter, fused, texts))
    with pytest.raises(CheckError, match="not the trained one"):
        require_agreement(compare(base, adapter, base, texts))
    with pytest.raises(CheckError):
        require_agreement(Agreement(kl=0.0, same_best=0.5, max_difference=0.0, tokens=10))
    write_json(adapter / "adapter_config.json", {"lora_parameters": {"scale": 20.0}})
    wrong = tmp_path / "wrong"
    wrong.mkdir()
    fuse(base, adapter, wrong)
    write_json(adapter / "adapter_config.json", read_json(run / "checkpoints" / "step-000004" / "adapter_config.json"))
    with pytest.raises(CheckError, match="not the trained one"):
        require_agreement(compare(base, adapter, wrong, texts))


def test_token_ids_agree_with_llama_cpp(with_bases: Workspace, tmp_path: Path) -> None:
    import llama_cpp

    gguf = tmp_path / "tiny.gguf"
    convert(with_bases.bases / TINY, gguf)
    llama = llama_cpp.Llama(str(gguf), vocab_only=True, verbose=False)
    tokenizer = load_tokenizer(with_bases.bases / EMBEDDED)
    for text in STRINGS:
        ours = tokenizer.encode(text, add_special_tokens=False)
        assert llama.tokenize(text.encode(), add_bos=False, special=True) == ours, text
    llama.close()


@pytest.mark.parametrize("kind", ["q5_k_m", "q8_0"])
def test_every_quantization_names_the_types_it_really_used(with_bases: Workspace, tmp_path: Path, kind: Any) -> None:
    convert(with_bases.bases / TINY, tmp_path / "f16.gguf")
    quantize_file(tmp_path / "f16.gguf", tmp_path / "small.gguf", kind)
    types = tensor_types(tmp_path / "small.gguf")
    assert types.architecture == "llama" and 4 < types.bits_per_weight < 10
    (tmp_path / "torn.gguf").write_bytes((tmp_path / "small.gguf").read_bytes()[:1000])
    with pytest.raises(InputError, match="not a whole GGUF"):
        tensor_types(tmp_path / "torn.gguf")


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
