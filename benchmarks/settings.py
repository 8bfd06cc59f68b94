"""What single settings of a training do, measured on the embedded model: the plots of docs/settings-explained.md.

    .venv/bin/python -P benchmarks/settings.py --write docs      # about ten minutes on two cores; picture and table
    .venv/bin/python -P benchmarks/settings.py --timed           # speeds too, where nothing else is at work
    .venv/bin/python -P benchmarks/settings.py --quick --json    # the tiny base, a minute: whether it runs, no result

One dataset, one seed, one pass; each training differs from the first in one setting and runs as a job of its own, one
after the other. Reported: the validation loss after it and the largest memory; both hardly depend on what else
the machine does. A small dataset and one seed: read the direction and the size of an effect, not its last digit.
"""

import argparse
import json
import platform
import sys
import tempfile
from datetime import date
from importlib.metadata import version
from pathlib import Path
from typing import Any

from tools.data.generate import generate
from tools.data.validate import validate_dataset
from tools.errors import CheckError
from tools.files import write_bytes, write_text
from tools.jobs import record
from tools.settings import Settings
from tools.training.config import preset
from tools.workspace import Workspace

BASE = {"epochs": 1.0, "warmup_steps": 0, "eval_every": 1000, "save_every": 1000}
TRIED: dict[str, list[Any]] = {
    "learning_rate": [3e-5, 6e-4, 1e-2],
    "rank": [2, 16, 64],
    "alpha": [4, 32, 256],
    "batch_size": [2, 8, 32],
    "schedule": ["cosine", "constant"],
    "gradient_checkpointing": [False, True],
    "pack_tokens": [256, 1024, 4096],
    "max_length": [64, 512],
    "base": ["smollm2-135m-instruct", "smollm2-135m-instruct-4bit"],
}
# of these, memory and speed are what changes; of the others, the loss
ABOUT_MEMORY = ("gradient_checkpointing", "pack_tokens", "base")
_MARKS = ("<!-- settings: benchmarks/settings.py --write -->", "<!-- end of settings -->")


def measure(workspace: Workspace, rows: int, quick: bool, only: str = "") -> list[dict[str, Any]]:
    """Train once for each value, the common values once only; a line each."""
    tried = {name: values for name, values in TRIED.items() if not only or name in only.split(",")}
    generate(workspace, cards=["definition/forty-two"], count=rows, seed=42, name="settings")
    validate_dataset(workspace, "settings")
    name = "tiny" if quick else "embedded"
    usual = preset(name, dataset="settings", **BASE)
    done: dict[str, dict[str, Any]] = {}
    found = []
    for setting, values in tried.items():
        for value in values:
            value = value.replace("smollm2-135m-instruct", "tiny") if quick and setting == "base" else value
            config = preset(name, dataset="settings", **{**BASE, setting: value}).model_dump()
            key = json.dumps(config, sort_keys=True)
            if key not in done:
                done[key] = _train(workspace, config)
            is_usual = config[setting] == getattr(usual, setting)
            found.append({"setting": setting, "value": value, "usual": is_usual, **done[key]})
            print(f"{setting}={value}: {done[key]}", file=sys.stderr, flush=True)
    return found


def _train(workspace: Workspace, config: dict[str, Any]) -> dict[str, Any]:
    job, _ = record.create(workspace, "train", "settings", config)
    record.start(workspace, job)
    while (state := record.wait(job.folder, 5)).state in record.ACTIVE:
        pass
    if state.state != "finished":
        return {"valid_loss": None, "tokens_per_second": None, "peak_memory_gb": None, "reason": state.reason}
    result = state.result
    return {
        "valid_loss_before": round(result["valid_loss_before"], 3),
        "valid_loss": round(result["valid_loss"], 3),
        "tokens_per_second": round(result["tokens_per_second"]),
        "peak_memory_gb": round(result["peak_memory_gb"], 2),
        "truncated_rows": result.get("truncated_rows"),
    }


def picture(found: list[dict[str, Any]]) -> bytes:
    """Small bars side by side, one plot a setting, as SVG."""
    import io

    import matplotlib

    matplotlib.use("Agg")
    import matplotlib.pyplot as plt

    settings = list(dict.fromkeys(line["setting"] for line in found))
    across = min(3, len(settings))
    down = -(-len(settings) // across)
    figure, grid = plt.subplots(down, across, figsize=(9.5, 2.5 * down), constrained_layout=True, squeeze=False)
    places = list(grid.flat)
    before = next(line["valid_loss_before"] for line in found if line.get("valid_loss_before"))
    for place, setting in zip(places, settings, strict=False):
        lines = [line for line in found if line["setting"] == setting]
        key = "peak_memory_gb" if setting in ABOUT_MEMORY else "valid_loss"
        names = [
            f"{line['value']}".replace("smollm2-135m-instruct", "f32").replace("f32-4bit", "4-bit") for line in lines
        ]
        heights = [line[key] if line[key] is not None else 0.0 for line in lines]
        bars = place.bar(names, heights, color=["#3b6ea8" if line["usual"] else "#a9c1dc" for line in lines])
        labels = ["no number" if line[key] is None else f"{line[key]:g}" for line in lines]
        place.bar_label(bars, labels, fontsize=8)
        place.set_title(f"{setting}: {'GB' if key == 'peak_memory_gb' else 'validation loss'}", fontsize=9)
        place.margins(y=0.25)
        place.tick_params(labelsize=8)
        if key == "valid_loss":
            place.axhline(before, color="#999999", linewidth=0.8, linestyle="--")
    for place in places[len(settings) :]:
        place.axis("off")
    figure.suptitle("Dark: the preset's value. Dashed: before training.", fontsize=9)
    buffer = io.BytesIO()
    with matplotlib.rc_context({"svg.hashsalt": "looptune"}):
        figure.savefig(buffer, format="svg", metadata={"Date": None})
    plt.close(figure)
    return buffer.getvalue()


def markdown(found: list[dict[str, Any]], rows: int, timed: bool) -> str:
    """The table, with what it was measured on."""
    lines = [
        (
            f"{rows} rows of the card `definition/forty-two`, one pass, seed 42; mlx {version('mlx')}, "
            f"{platform.system()} {platform.machine()}, CPU, {date.today():%d %B %Y}. Values in bold are the preset's."
        ),
        "",
        f"| setting | value | validation loss | GB |{' tokens/s |' if timed else ''}",
        f"|---|---|---|---|{'---|' if timed else ''}",
    ]
    for line in found:
        value = f"**{line['value']}**" if line["usual"] else f"{line['value']}"
        if line["valid_loss"] is None:
            lines.append(f"| {line['setting']} | {value} | {line['reason']} | |{' |' if timed else ''}")
        else:
            speed = f" {line['tokens_per_second']} |" if timed else ""
            lines.append(
                f"| {line['setting']} | {value} | {line['valid_loss']:.2f} | {line['peak_memory_gb']:.2f} |{speed}"
            )
    return "\n".join(lines)


def main() -> int:
    """The command."""
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--quick", action="store_true", help="the tiny base, few rows")
    parser.add_argument("--timed", action="store_true", help="with tokens a second; only where nothing else runs")
    parser.add_argument("--json", action="store_true", help="print one JSON value")
    parser.add_argument("--only", default="", help="of the settings only these, with commas between them")
    parser.add_argument("--rows", type=int, default=60, help="rows of the dataset")
    parser.add_argument("--write", type=Path, help="the docs folder: renew picture and table in it")
    given = parser.parse_args()
    rows = 40 if given.quick else given.rows
    with tempfile.TemporaryDirectory(prefix="looptune-settings-") as folder:
        found = measure(Workspace.open(Settings(home=Path(folder))), rows, given.quick, given.only)
    if given.write:
        page = given.write / "settings-explained.md"
        text = page.read_text(encoding="utf-8")
        before, opening, rest = text.partition(_MARKS[0])
        _, closing, after = rest.partition(_MARKS[1])
        if not opening or not closing:
            raise CheckError(f"{page} has no place for the table.", f"put {_MARKS[0]} and {_MARKS[1]} into it")
        write_text(page, f"{before}{_MARKS[0]}\n\n{markdown(found, rows, given.timed)}\n\n{_MARKS[1]}{after}")
        write_bytes(given.write / "images" / "settings.svg", picture(found))
    print(json.dumps(found) if given.json else markdown(found, rows, given.timed))
    return 0


if __name__ == "__main__":
    sys.exit(main())
