"""What is deployed is what was made: one flipped byte anywhere is found, and only what is whole is promoted.

.venv/bin/python -P -m pytest tests/test_verify.py
"""

import json
import os
import re
import shutil
import subprocess
import sys
from fnmatch import fnmatchcase
from pathlib import Path
from typing import Any

import pytest

from tools.data.datasets import read_manifest, write_manifest
from tools.errors import CheckError, InputError, MissingError, NotFoundError
from tools.evaluation.compare import read_report
from tools.evaluation.matrix import Verdict
from tools.export.chain import Link, add, read_sealed, trained_chain, write_sealed
from tools.export.gate import take_verdicts
from tools.export.promotion import Check, last_checks, list_models, promote, promote_anew, promoted, rollback, withdraw
from tools.export.quantize import ExportConfig
from tools.export.verify import require_intact, verify
from tools.files import read_json, sha256, write_json
from tools.inference.ask import default_model
from tools.jobs import record
from tools.jobs.worker import main as do_job
from tools.settings import shipped_data
from tools.workspace import Workspace

PASSED = [Check(name="recall", value=1.0, bar=">= 0.9", passed=True)]
FAILED = [Check(name="recall", value=0.5, bar=">= 0.9", passed=False)]


def flip(path: Path, place: int = -1) -> bytes:
    """Change one byte, in the middle by default; returns what was there."""
    data = path.read_bytes()
    place = len(data) // 2 if place < 0 else place
    path.write_bytes(data[:place] + bytes([data[place] ^ 1]) + data[place + 1 :])
    return data


def looptune(*words: str, status: int) -> Any:
    command = [sys.executable, "-P", "-m", "server.cli", *words, "--json"]
    done = subprocess.run(command, capture_output=True, text=True, timeout=300)
    assert done.returncode == status, done.stderr
    return json.loads(done.stdout)


def chained(workspace: Workspace) -> dict[str, list[str]]:
    """The files of each stage."""
    folder = workspace.model("holds")
    links = read_sealed(folder / "manifest.json")["chain"] + read_sealed(folder / "evaluation.json")["chain"]
    return {link["stage"]: list(link["files"]) for link in links}


def own_shipped(workspace: Workspace, monkeypatch: pytest.MonkeyPatch) -> Path:
    """A copy of the shipped data that may be edited."""
    shipped = workspace.home / "own-shipped"
    shutil.copytree(shipped_data(), shipped)
    monkeypatch.setattr("tools.export.chain.shipped_data", lambda: shipped)
    return shipped


def test_the_chain_goes_from_the_cards_to_the_evaluation(exported: Workspace) -> None:
    stages = chained(exported)
    assert list(stages) == [
        "cards", "rows", "dataset", "run", "base", "checkpoint", "adapter", "fused", "gguf", "evaluation"
    ]  # fmt: skip
    assert stages["cards"] == [
        f"datasets/holds/sources/{name}.yaml"
        for name in ("cards/definition/forty-two", "templates/definition", "templates/general")
    ]
    names = {Path(path).name for path in stages["gguf"]}
    assert {
        "f16.gguf",
        "q4_k_m.gguf",
        "lora.gguf",
        "importance.gguf",
        "tensors.json",
        "Modelfile",
        "README.md",
    } == names
    found = verify(exported, "holds")
    assert found.ok and not found.broken
    assert found.notes == [
        "The fused weights are not kept: looptune verify holds --fused makes and compares them again."
    ]


# What lies in the folders of a model, its run, its dataset and its gate, and is in no chain, with the reason.
LEFT_OUT = {
    "bases/*/.sha256": "what was computed of the weights, and by when they changed",
    "datasets/*/report.*": "made from the rows, anew by each validation",
    "runs/*/spare": "zeros, which make room on a full disk",
    "runs/*/tensorboard/*": "the figures of metrics.jsonl once more",
    "runs/gate-*/state.json": "written after the link that holds its verdict",
    "runs/quant-*/*": "what was asked for and what came of it stands in the manifest",
}
ROOMS = ("bases/tiny", "datasets", "models", "runs")


def test_one_flipped_byte_in_any_artefact_is_found(exported: Workspace) -> None:
    # the bases are shared with other tests, so they are copied before they are harmed
    shared = exported.bases.resolve()
    exported.bases.unlink()
    shutil.copytree(shared / "tiny", exported.bases / "tiny")
    stages = {path: stage for stage, files in chained(exported).items() for path in files}
    found = [
        p.relative_to(exported.home).as_posix() for r in ROOMS for p in (exported.home / r).rglob("*") if p.is_file()
    ]
    for pattern in LEFT_OUT:
        assert [path for path in found if fnmatchcase(path, pattern)], f"{pattern} leaves out nothing"
    harmed = [path for path in found if not any(fnmatchcase(path, pattern) for pattern in LEFT_OUT)]
    assert len(harmed) > 40 and {"setup.json", "profile.json", "written.json"} <= {Path(p).name for p in harmed}
    for path in harmed:
        whole = flip(exported.home / path)
        broken = {b.path: b.stage for b in verify(exported, "holds").broken}
        assert path in broken and broken[path] == stages.get(path, broken[path]), path
        (exported.home / path).write_bytes(whole)
    assert verify(exported, "holds").ok


def test_the_probes_of_a_dataset_are_in_the_chain(exported: Workspace) -> None:
    folder = exported.datasets / "holds"
    probe = {"id": "p1", "family": "f", "kind": "probe", "prompt": "?", "graders": [{"type": "exact", "value": "x"}]}
    (folder / "probes.jsonl").write_text(json.dumps(probe) + "\n")
    sha = sha256(folder / "probes.jsonl")
    write_manifest(folder, read_manifest(folder).model_copy(update={"probes": 1, "probes_sha256": sha}))
    config = ExportConfig(run="run-holds-0001", name="asked")
    job, _ = record.create(exported, "quantize", "asked", config.model_dump())
    assert do_job(job.folder) == 0, record.read(job.folder).reason
    assert verify(exported, "asked").ok
    flip(folder / "probes.jsonl")
    assert [(b.stage, b.path) for b in verify(exported, "asked").broken] == [("dataset", "datasets/holds/probes.jsonl")]


@pytest.mark.parametrize(
    "part", ["adapter/adapters.safetensors", "adapter/adapter_config.json", "checkpoints/*/optimizer.safetensors",
             "checkpoints/*/progress.json", "checkpoints/best.json", "setup.json", "profile.json", "metrics.jsonl",
             "written.json"],
)  # fmt: skip
def test_what_was_damaged_between_training_and_export_is_not_exported(exported: Workspace, part: str) -> None:
    run = exported.run("run-holds-0001")
    path = next(run.glob(part))
    flip(path)
    name = re.escape(path.relative_to(run).as_posix())
    with pytest.raises(CheckError, match=f"{name} of run-holds-0001 is not what its training wrote"):
        trained_chain(exported, "run-holds-0001")
    path.unlink()
    with pytest.raises(CheckError, match=f"{name} of run-holds-0001 is missing"):
        trained_chain(exported, "run-holds-0001")


def test_a_base_that_was_damaged_without_a_trace_is_not_exported(exported: Workspace) -> None:
    shared = exported.bases.resolve()
    exported.bases.unlink()
    shutil.copytree(shared / "tiny", exported.bases / "tiny")
    weights = exported.bases / "tiny" / "model.safetensors"
    before = weights.stat()
    flip(weights)
    os.utime(weights, ns=(before.st_atime_ns, before.st_mtime_ns))
    with pytest.raises(CheckError, match="'tiny' is not the one that was trained on"):
        trained_chain(exported, "run-holds-0001")


def test_checkpoints_that_made_room_do_not_hold_up_an_export(exported: Workspace) -> None:
    shutil.rmtree(exported.run("run-holds-0001") / "checkpoints")
    assert [link.files for link in trained_chain(exported, "run-holds-0001") if link.stage == "checkpoint"] == [{}]


def test_a_model_of_an_earlier_version_verifies_and_says_what_its_chain_lacks(exported: Workspace) -> None:
    folder, run = exported.model("holds"), exported.run("run-holds-0001")
    (folder / "evaluation.json").unlink()
    (run / "written.json").unlink()
    manifest = read_sealed(folder / "manifest.json")
    links: list[Link] = []
    for link in map(Link.model_validate, manifest["chain"]):
        files = {
            p: sha
            for p, sha in link.files.items()
            if Path(p).name not in ("setup.json", "profile.json", "written.json")
        }
        links = add(links, link.stage, files, link.values)
    write_sealed(folder / "manifest.json", {**manifest, "chain": [link.model_dump() for link in links]})
    found = verify(exported, "holds")
    assert found.ok
    lacking, unwritten, fused = found.notes
    assert "lacks runs/run-holds-0001/setup.json, runs/run-holds-0001/profile.json:" in lacking
    assert "wrote no hashes down" in unwritten and "--fused" in fused
    state = read_json(run / "state.json")
    del state["result"]["written_sha256"]
    write_json(run / "state.json", state)
    assert trained_chain(exported, "run-holds-0001")


def test_shipped_cards_and_templates_may_be_edited_later_but_not_the_copies_that_a_dataset_keeps(
    exported: Workspace, monkeypatch: pytest.MonkeyPatch
) -> None:
    shipped = own_shipped(exported, monkeypatch)
    with (shipped / "templates" / "definition.yaml").open("a") as template:
        template.write("# edited after the training\n")
    (shipped / "cards" / "definition" / "forty-two.yaml").unlink()
    assert verify(exported, "holds").ok
    kept = exported.datasets / "holds" / "sources" / "templates" / "definition.yaml"
    assert kept.read_bytes() == (shipped_data() / "templates" / "definition.yaml").read_bytes()
    flip(kept)
    found = verify(exported, "holds").broken
    path = "datasets/holds/sources/templates/definition.yaml"
    assert [(b.stage, b.path, b.problem) for b in found] == [("cards", path, "is not what it was")]


@pytest.mark.parametrize("name", ["manifest.json", "evaluation.json"])
def test_a_flipped_byte_anywhere_in_the_record_itself_is_found(exported: Workspace, name: str) -> None:
    path = exported.model("holds") / name
    size = path.stat().st_size
    for place in [*range(0, size, max(1, size // 60)), size - 1]:
        whole = flip(path, place)
        with pytest.raises(InputError):
            read_sealed(path)
        path.write_bytes(whole)
    flip(path, size // 3)
    found = verify(exported, "holds")
    assert not found.ok and found.broken[0].path == f"models/holds/{name}"


def test_what_is_missing_is_named(exported: Workspace) -> None:
    (exported.datasets / "holds" / "rows.jsonl").unlink()
    broken = verify(exported, "holds").broken
    assert [(b.path, b.problem) for b in broken] == [("datasets/holds/rows.jsonl", "is missing")]
    with pytest.raises(CheckError, match=r"rows\.jsonl is missing"):
        require_intact(exported, "holds")


def test_the_fused_weights_come_out_the_same_again(exported: Workspace) -> None:
    again = verify(exported, "holds", fuse_again=True)
    assert again.ok and not again.notes
    scale = exported.home / next(p for p in chained(exported)["adapter"] if p.endswith("adapter_config.json"))
    scale.write_text(scale.read_text().replace("2.0", "2.5"))
    stages = {b.stage for b in verify(exported, "holds", fuse_again=True).broken}
    assert stages == {"adapter", "fused"}


def test_the_command_says_it_as_data_with_status_1(exported: Workspace) -> None:
    assert looptune("verify", "holds", status=0)["ok"]
    flip(exported.model("holds") / "q4_k_m.gguf")
    found = looptune("verify", "holds", status=1)
    assert not found["ok"] and found["broken"][0]["path"] == "models/holds/q4_k_m.gguf"


def test_the_gate_recorded_what_it_measured(exported: Workspace) -> None:
    link = read_json(exported.model("holds") / "evaluation.json")["chain"][-1]
    assert link["values"]["likeness"]["tokens"] >= 2000
    assert 0 <= link["values"]["likeness"]["kl"] < 1
    names = [check.name for check in last_checks(exported, "holds")]
    assert {"recall", "controls", "recall_lost", "controls_broken", "perplexity_quantized", "intact"} <= set(names)
    assert next(check for check in last_checks(exported, "holds") if check.name == "intact").passed


def test_an_agents_verdicts_on_the_gate_go_into_the_models_chain(exported: Workspace) -> None:
    kept = exported.model("holds") / "evaluation.json"
    run = next(Path(path).parts[1] for path in read_json(kept)["chain"][-1]["files"])
    probe = read_report(exported.run(run), "q4_k_m").answers[0]
    take_verdicts(exported, run, [Verdict(id=probe.id, label="q4_k_m", right=False, reason="It is rude.")])
    assert len(read_json(kept)["chain"]) == 2
    assert verify(exported, "holds").ok
    assert next(check for check in last_checks(exported, "holds") if check.name == "intact").passed
    flip(exported.run(run) / "reports" / "q4_k_m.json")
    assert not verify(exported, "holds").ok


def test_a_model_that_failed_is_promoted_only_by_force_and_with_its_reason(exported: Workspace) -> None:
    with pytest.raises(CheckError, match=r"recall is 0\.5"):
        promote(exported, "holds", FAILED)
    with pytest.raises(CheckError, match="not been evaluated"):
        promote(exported, "holds", [])
    assert promoted(exported) is None
    promote(exported, "holds", FAILED, force="the demo is on Monday")
    kept = read_json(exported.models / "promoted.json")
    assert (kept["model"], kept["forced"]) == ("holds", "the demo is on Monday")
    assert kept["failed"].startswith("recall is 0.5") and kept["log"][-1]["forced"] == "the demo is on Monday"


def test_force_says_in_the_record_that_the_files_are_not_what_was_exported(exported: Workspace) -> None:
    flip(exported.models / "holds" / "q4_k_m.gguf")
    with pytest.raises(CheckError, match=r"intact is 0 .*holds/q4_k_m.gguf is not what it was"):
        promote_anew(exported, "holds")
    promote_anew(exported, "holds", force="only to look at it")
    kept = read_json(exported.models / "promoted.json")
    assert "holds/q4_k_m.gguf is not what it was" in kept["failed"] == kept["log"][-1]["failed"]
    assert [check["name"] for check in kept["checks"]].count("intact") == 1


def test_a_model_without_an_evaluation_is_not_promoted_by_its_hashes_alone(exported: Workspace) -> None:
    (exported.models / "holds" / "evaluation.json").unlink()
    with pytest.raises(CheckError, match="it has not been evaluated"):
        promote_anew(exported, "holds")


def test_a_promotion_can_be_rolled_back(exported: Workspace) -> None:
    shutil.copytree(exported.models / "holds", exported.models / "later")
    with pytest.raises(MissingError, match="No other model"):
        rollback(exported)
    promote(exported, "holds", PASSED)
    promote(exported, "later", PASSED)
    assert [(m.name, m.promoted) for m in list_models(exported)] == [("holds", False), ("later", True)]
    assert rollback(exported) == "holds" and promoted(exported) == "holds"
    assert [entry["action"] for entry in read_json(exported.models / "promoted.json")["log"]] == [
        "promote",
        "promote",
        "rollback",
    ]
    with pytest.raises(MissingError, match="rollback --none"):
        rollback(exported)


def test_the_first_promotion_can_be_taken_back_and_the_history_says_so(exported: Workspace) -> None:
    promote(exported, "holds", FAILED, force="only to look at it")
    assert [model.forced for model in list_models(exported)] == ["only to look at it"]
    assert withdraw(exported) == "holds" and promoted(exported) is None
    assert [(model.promoted, model.forced) for model in list_models(exported)] == [(False, "")]
    with pytest.raises(MissingError, match="the gate refused every exported one"):
        default_model(exported)
    with pytest.raises(MissingError, match="No model is promoted"):
        withdraw(exported)
    promote(exported, "holds", PASSED)
    log = read_json(exported.models / "promoted.json")["log"]
    assert [(entry["action"], entry["model"]) for entry in log] == [
        ("promote", "holds"),
        ("withdraw", ""),
        ("promote", "holds"),
    ]


def test_a_rollback_to_a_broken_model_is_refused(exported: Workspace) -> None:
    shutil.copytree(exported.models / "holds", exported.models / "later")
    promote(exported, "holds", PASSED)
    promote(exported, "later", PASSED)
    flip(exported.models / "holds" / "q4_k_m.gguf")
    with pytest.raises(CheckError, match="not what was exported"):
        rollback(exported)
    assert promoted(exported) == "later"


def test_models_are_listed_and_rolled_back_from_the_command_line(exported: Workspace) -> None:
    listed = looptune("models", status=0)
    assert [(m["name"], m["promoted"], m["passed"]) for m in listed] == [("holds", False, False)]
    assert looptune("promote", "holds", "--force", "to try it", status=0) == {
        "promoted": "holds",
        "forced": "to try it",
    }
    (line,) = looptune("models", status=0)
    assert line["promoted"] and line["forced"] == "to try it"
    assert looptune("rollback", "--none", status=0) == {"promoted": None}
    assert not looptune("models", status=0)[0]["promoted"]
    with pytest.raises(NotFoundError):
        verify(exported, "nope")
