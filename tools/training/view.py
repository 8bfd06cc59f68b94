"""A job as data for a picture: where it stands, its curves, its settings and the end of its log.

    run_view(workspace.run("run-forty-two-0001"))
    masks, note = masks_for(workspace, "forty-two")     # how its rows look as tokens, for tools.data.view

Curves are lists of [step, value], thinned to some 400 points. Losses are nats a token, memory is GB (10⁹ bytes).
"""

import functools
from datetime import datetime
from pathlib import Path
from typing import Any

from tools.data.view import Masks
from tools.errors import LooptuneError
from tools.jobs.record import Job, State, log_tail, read
from tools.models.bases import EMBEDDED, base_folder, base_names
from tools.training.charts import series
from tools.training.metrics import read_metrics
from tools.workspace import Workspace

CURVES = ("loss", "valid_loss", "memory_gb", "tokens_per_second")
_SPARKS = "▁▂▃▄▅▆▇█"
_RESULT = (
    "valid_loss_before",
    "valid_loss",
    "best_step",
    "tokens_per_second",
    "peak_memory_gb",
    "training_seconds",
    "stopped_early",
    "model",
)


def run_view(folder: Path) -> dict[str, Any]:
    """Everything that the run view draws, as JSON data."""
    state = read(folder)
    config = Job(folder).config
    train = state.kind == "train"
    view: dict[str, Any] = {
        **state.model_dump(include={"id", "kind", "state", "message", "reason", "next_step", "step", "total"}),
        "name": state.id,
        "metrics": state.metrics,
        "result": {key: state.result[key] for key in _RESULT if key in state.result},
        "seconds": _seconds(state),
        "about": f"{config['dataset']} on {config['base']}" if train else state.kind,
        "limit_gb": config.get("memory_limit_gb"),
        "settings": {key: value for key, value in config.items() if isinstance(value, str | int | float | bool | list)}
        if train
        else {},
        "log": log_tail(folder, 12),
    }
    if train:
        lines = read_metrics(folder)
        view["series"] = {key: [list(point) for point in zip(*series(lines, key), strict=True)] for key in CURVES}
    return view


def told(view: dict[str, Any]) -> str:
    """The view in a few lines, for who cannot see it; the loss as a row of blocks."""
    lines = [f"{view['id']} ({view['about']}) is {view['state']}, {view['step']} of {view['total']}. {view['message']}"]
    losses = [value for _, value in view.get("series", {}).get("loss", [])]
    if len(losses) > 1:
        lines.append(f"Loss {losses[0]:.3f} {sparks(losses)} {losses[-1]:.3f}")
    for name, form in (
        ("valid_loss", "validation loss {:.4f}"),
        ("memory_gb", "{:.2f} GB of memory"),
        ("tokens_per_second", "{:.0f} tokens/s"),
        ("seconds_left", "{:.0f} s left"),
    ):
        if name in view["metrics"] and (name != "seconds_left" or view["state"] == "running"):
            limit = f" of {view['limit_gb']:g} allowed" if name == "memory_gb" and view["limit_gb"] else ""
            lines.append(form.format(view["metrics"][name]) + limit)
    return "\n".join(
        [*lines, " ".join(filter(None, [view["reason"], view["next_step"] and f"Next: {view['next_step']}"]))]
    )


def sparks(values: list[float], width: int = 24) -> str:
    """The course of `values` as at most `width` blocks of text."""
    every = -(-len(values) // width)
    shown = [sum(part) / len(part) for part in (values[i : i + every] for i in range(0, len(values), every))]
    low, span = min(shown), (max(shown) - min(shown)) or 1.0
    return "".join(_SPARKS[round((value - low) / span * (len(_SPARKS) - 1))] for value in shown)


def _seconds(state: State) -> float | None:
    if not (state.started and state.finished):
        return None
    return (datetime.fromisoformat(state.finished) - datetime.fromisoformat(state.started)).total_seconds()


def masks_for(workspace: Workspace, dataset: str) -> tuple[Masks | None, str]:
    """The tokenizer and longest row of the newest training on `dataset`, or of the embedded base; nothing is unpacked.

    Returns:
        None and the reason when the base does not stand ready.
    """
    base, longest = EMBEDDED, 512
    for name in reversed(workspace.names(workspace.runs, "job.json")):
        config = Job(workspace.runs / name).config
        if name.startswith("run-") and config.get("dataset") == dataset:
            base, longest = str(config["base"]), int(config["max_length"])
            break
    if "/" not in base and base_names(workspace).get(base) != "ready":
        return None, f"Tokens are shown once the base {base!r} is unpacked, which a training does."
    try:
        return Masks(_tokenizer(base_folder(workspace, base)), base, longest), ""
    except LooptuneError as error:
        return None, f"No tokens: {error}"


@functools.lru_cache(maxsize=2)
def _tokenizer(folder: Path) -> Any:
    from tools.models.load import load_tokenizer

    return load_tokenizer(folder)
