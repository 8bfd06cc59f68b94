"""Draws what a demo printed as a picture of a terminal: the picture of README and index.

    looptune demo 2>&1 | tee demo.log
    .venv/bin/python -P docs/picture.py demo.log docs/images/demo.svg

What stands before the first stage is left out, and so are lines of progress (such as `train 24/128`), but each stage's
last; the workspace's folder is shown as ~/.looptune. Nothing else is changed.
"""

import re
import sys
from pathlib import Path

from rich.console import Console
from rich.text import Text

WIDTH = 110
_STAGES = ("generate", "validate", "plan", "train", "evaluate", "export", "gate")
_PROGRESS = re.compile(r"(\w+) +\d+/\d+ ")


def told(log: str) -> list[str]:
    """The lines that stay: each stage's own words, the last of its progress, and the table with what follows it."""
    kept: list[str] = []
    lines = log.splitlines()
    begin = next(place for place, line in enumerate(lines) if line.startswith("generate"))
    for line in lines[begin:]:
        line = re.sub(r"\S+(?=/models/)", "~/.looptune", line)
        now, before = _PROGRESS.match(line), _PROGRESS.match(kept[-1]) if kept else None
        if now and before and now[1] == before[1]:
            kept.pop()
        kept.append(line)
    end = next(place for place, line in enumerate(kept) if line.endswith(".gguf"))
    return kept[: end + 1]


def svg(lines: list[str]) -> str:
    """A terminal's picture, in fonts that the reader has."""
    console = Console(record=True, width=WIDTH, file=open("/dev/null", "w"), highlight=False)  # noqa: PTH123, SIM115
    console.print(Text("$ looptune demo", style="bold"))
    for line in lines:
        stage = re.match(r"(\w+) {2,}", line)
        text = Text(line)
        if stage and stage[1] in _STAGES:
            text.stylize("bold cyan", 0, stage.end())
        console.print(text, soft_wrap=False)
    drawn = console.export_svg(title="looptune")
    drawn = re.sub(r"@font-face \{.*?\}", "", drawn, flags=re.DOTALL)
    return re.sub(r"font-family: Fira Code, monospace", "font-family: ui-monospace, Menlo, Consolas, monospace", drawn)


if __name__ == "__main__":
    source, target = map(Path, sys.argv[1:3])
    target.write_text(svg(told(source.read_text(encoding="utf-8"))), encoding="utf-8")
