"""Fuzz the reader and the validator of rows, guided by coverage: whatever the bytes are, they are judged.

    .venv/bin/pip install -c constraints.txt atheris
    mkdir /tmp/found && .venv/bin/python -P tests/fuzz_rows.py /tmp/found tests/corpus -max_total_time=300 -timeout=10

Nothing but an error of ours may come out. What libFuzzer finds lies in the working folder as `crash-…`; made smaller
(`-minimize_crash=1`) and put into tests/corpus/, it is judged by the everyday tests from then on.
"""

import sys
import tempfile
from pathlib import Path

import atheris

with atheris.instrument_imports(include=["tools.data", "tools.policy", "tools.syntax"]):
    from tools.data.fix import fixed_rows
    from tools.data.report import html, markdown
    from tools.data.validate import validate_file
from tools.errors import LooptuneError

PLACE = Path(tempfile.mkdtemp(dir="/dev/shm" if Path("/dev/shm").is_dir() else None)) / "rows.jsonl"


def judge(data: bytes) -> None:
    """One input, as the file it would be: read, judged, mended, and its report written."""
    PLACE.write_bytes(data)
    try:
        report = validate_file(PLACE)
    except LooptuneError:
        return
    report.model_dump_json()
    html(report, "fuzz").encode()
    markdown(report, "fuzz").encode()
    for row in fixed_rows(PLACE, []):
        row.model_dump_json()


if __name__ == "__main__":
    atheris.Setup(sys.argv, judge)
    atheris.Fuzz()
