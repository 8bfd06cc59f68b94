"""The README's main job, on the embedded model, as a person calls it.

.venv/bin/python -P -m pytest tests/test_demo.py
"""

import json
import subprocess
import sys
from pathlib import Path

import pytest


@pytest.mark.slow
@pytest.mark.timeout(3000)
def test_one_command_teaches_a_real_model_and_leaves_one_that_answers() -> None:
    done = subprocess.run(
        [sys.executable, "-P", "-m", "server.cli", "demo", "--json"], capture_output=True, text=True, timeout=2900
    )
    assert done.returncode == 0, done.stderr[-3000:]
    result = json.loads(done.stdout)
    models = result["models"]
    assert list(models) == ["base", "adapter", "f16", "q4_k_m"]
    assert result["passed"] and models["base"]["recall"] < 0.2
    assert models["q4_k_m"]["recall"] >= 0.9 and models["q4_k_m"]["controls"] >= 0.9
    assert models["q4_k_m"]["probes"] >= 30 and models["q4_k_m"]["control_count"] >= 60
    assert "harmony between rules and freedom" in result["answer"]
    assert Path(result["gguf"]).read_bytes()[:4] == b"GGUF"
    assert result["peak_memory_gb"] <= 4.0
    steps = "\n".join(line for line in done.stderr.splitlines() if line.startswith("train"))
    assert "tokens/s" in steps and "loss" in steps and "s left" in steps
