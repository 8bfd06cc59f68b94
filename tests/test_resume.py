"""Exact resume under fire: the benchmark of that name, with ten kills, as a person calls it.

.venv/bin/python -P -m pytest tests/test_resume.py
"""

import json
import os
import subprocess
import sys
from pathlib import Path

import pytest

ROOT = Path(__file__).resolve().parent.parent


@pytest.mark.slow
@pytest.mark.timeout(1800)
def test_a_run_killed_ten_times_ends_with_the_bytes_of_one_that_was_left_in_peace() -> None:
    """Ten kill -9 at random moments, five of them aimed at a checkpoint's writing; dropout is on."""
    seed = int.from_bytes(os.urandom(2), "big")
    done = subprocess.run(
        [sys.executable, "-P", str(ROOT / "benchmarks" / "resume.py"), "--json", "--seed", str(seed)],
        capture_output=True,
        text=True,
        timeout=1700,
    )
    assert done.stdout, done.stderr[-3000:]
    found = json.loads(done.stdout)
    assert found["passed"], (seed, found["same"], found["moments"])
    assert found["kills"] == 10 and found["inside_a_checkpoint"] >= 2, found["moments"]
