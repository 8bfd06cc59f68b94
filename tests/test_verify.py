"""What is deployed is what was made: one flipped byte anywhere is found, and only what is whole is promoted.

.venv/bin/python -P -m pytest tests/test_verify.py
"""

import json
import shutil
import subprocess
import sys
from pathlib import Path
from typing import Any

import pytest

from tools.errors import CheckError, InputError, MissingError, NotFoundError
from tools.export.chain import SHIPPED, read_sealed
from tools.export.promotion import Check, last_checks, list_models, promote, promoted, rollback
from tools.export.verify import require_intact, verify
from tools.files import read_json
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


def test_the_chain_goes_from_the_cards_to_the_evaluation(exported: Workspace) -> None:
    stages = chained(exported)
    assert list(stages) == [
        "cards", "rows", "dataset", "run", "base", "checkpoint", "adapter", "fused", "gguf", "evaluation"
    ]  # fmt: skip
    assert f"{SHIPPED}/cards/definition/forty-two.yaml" in stages["cards"]
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
    assert verify(exported, "holds").model_dump(include={"ok", "broken"}) == {"ok": True, "broken": []}


def test_one_flipped_byte_in_any_artefact_is_found(exported: Workspace, monkeypatch: pytest.MonkeyPatch) -> None:
    # the bases and the cards are shared with other tests, so they are copied before they are harmed
    shared = exported.bases.resolve()
    exported.bases.unlink()
    shutil.copytree(shared / "tiny", exported.bases / "tiny")
    cards = exported.home / "own-shipped"
    shutil.copytree(shipped_data(), cards)
    monkeypatch.setattr("tools.export.chain.shipped_data", lambda: cards)
    paths = {path: stage for stage, files in chained(exported).items() for path in files}
    assert len(paths) > 25
    for path, stage in paths.items():
        place = cards.joinpath(*Path(path).parts[1:]) if path.startswith(f"{SHIPPED}/") else exported.home / path
        whole = flip(place)
        broken = verify(exported, "holds").broken
        assert [(b.stage, b.path) for b in broken] == [(stage, path)], path
        place.write_bytes(whole)
    assert verify(exported, "holds").ok


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
    assert verify(exported, "holds", fuse_again=True).ok
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


def test_a_model_that_failed_is_promoted_only_by_force_and_with_its_reason(exported: Workspace) -> None:
    with pytest.raises(CheckError, match=r"recall is 0\.5"):
        promote(exported, "holds", FAILED)
    with pytest.raises(CheckError, match="not been evaluated"):
        promote(exported, "holds", [])
    assert promoted(exported) is None
    promote(exported, "holds", FAILED, force="the demo is on Monday")
    record = read_json(exported.models / "promoted.json")
    assert (record["model"], record["forced"]) == ("holds", "the demo is on Monday")
    assert record["failed"].startswith("recall is 0.5") and record["log"][-1]["forced"] == "the demo is on Monday"


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
    with pytest.raises(MissingError):
        rollback(exported)


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
    assert looptune("models", status=0)[0]["promoted"]
    with pytest.raises(NotFoundError):
        verify(exported, "nope")
