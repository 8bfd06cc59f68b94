"""The curves of a run, as a picture and as text for a terminal.

curves_png(read_metrics(run), title="run-42-0001")        # bytes of a PNG: loss and memory over the steps
curves_text(read_metrics(run), width=80, height=14)       # the loss, drawn with characters
"""

import io
from collections.abc import Sequence
from typing import Any

_POINTS = 400  # a curve needs no more


def series(lines: Sequence[dict[str, Any]], key: str) -> tuple[list[int], list[float]]:
    """The steps at which `key` was measured, and what it was; thinned evenly when there are very many."""
    found = [(line["step"], line[key]) for line in lines if line.get(key) is not None]
    every = -(-len(found) // _POINTS) or 1
    kept = found[::every]
    if found and kept[-1] != found[-1]:
        kept.append(found[-1])
    return [step for step, _ in kept], [value for _, value in kept]


def smoothed(values: Sequence[float]) -> list[float]:
    """The mean of each value and its neighbours, a twentieth of all to either side: batches differ, and hide the way
    the loss takes."""
    reach = len(values) // 20
    windows = (values[max(0, place - reach) : place + reach + 1] for place in range(len(values)))
    return [sum(window) / len(window) for window in windows]


def curves_png(lines: Sequence[dict[str, Any]], title: str, limit_gb: float = 0.0) -> bytes:
    """Loss above, memory below, over the steps; `limit_gb` is drawn as a line."""
    from matplotlib.figure import Figure
    from matplotlib.ticker import MaxNLocator

    figure = Figure(figsize=(7, 5), dpi=110, layout="constrained")
    above, below = figure.subplots(2, 1, sharex=True, height_ratios=[3, 2])
    above.set_title(title, loc="left")
    above.set_ylabel("loss, nats a token")
    below.set_ylabel("memory, GB")
    below.set_xlabel("step")
    if lines:
        _draw_loss(above, lines)
        below.plot(*series(lines, "memory_gb"), color="#3d6b4f", marker=_dot(lines), markersize=3, label="process")
        below.plot(*series(lines, "mlx_memory_gb"), color="#3d6b4f", linestyle=":", label="MLX, peak")
        most = max(line.get("memory_gb") or 0.0 for line in lines)
        if limit_gb:
            below.axhline(limit_gb, color="#b3401f", linestyle="--", linewidth=1, label=f"limit, {limit_gb:g}")
        below.set_ylim(0, 1.15 * max(most, limit_gb))
        below.xaxis.set_major_locator(MaxNLocator(integer=True))
        below.legend(frameon=False, fontsize="small", loc="lower right", ncols=3)
        for axes in (above, below):
            axes.grid(alpha=0.3)
    else:
        for axes in (above, below):
            axes.set(xticks=[], yticks=[])
        above.text(0.5, 0.5, "no step has been made yet", ha="center", va="center", transform=above.transAxes)
    picture = io.BytesIO()
    figure.savefig(picture, format="png")
    return picture.getvalue()


def _dot(lines: Sequence[dict[str, Any]]) -> str:
    """A single point needs a mark to be seen."""
    return "o" if len(lines) == 1 else ""


def _draw_loss(axes: Any, lines: Sequence[dict[str, Any]]) -> None:
    steps, losses = series(lines, "loss")
    axes.plot(steps, losses, color="#b9cbe0", linewidth=1, marker=_dot(lines), label="training, each step")
    axes.plot(steps, smoothed(losses), color="#2f5f96", linewidth=1.8, label="training, smoothed")
    steps, losses = series(lines, "valid_loss")
    if steps:
        axes.plot(steps, losses, color="#b3401f", marker="o", markersize=4, label="validation")
        loss, step = min(zip(losses, steps, strict=True))
        axes.annotate(f"best {loss:.3f}", (step, loss), xytext=(0, 9), textcoords="offset points", ha="center")
    axes.set_ylim(bottom=0)
    axes.legend(frameon=False, fontsize="small", loc="upper right")


def curves_text(lines: Sequence[dict[str, Any]], width: int, height: int, color: bool = True) -> str:
    """The loss over the steps, drawn with characters; nothing before there are two points."""
    steps, losses = series(lines, "loss")
    if len(steps) < 2:
        return ""
    import plotext

    plotext.clear_figure()
    plotext.theme("clear")
    plotext.plotsize(width, height)
    plotext.xticks(sorted({steps[place * (len(steps) - 1) // 4] for place in range(5)}))
    plotext.plot(steps, losses, label="loss", color="blue+")
    valid_steps, valid = series(lines, "valid_loss")
    if valid:
        plotext.scatter(valid_steps, valid, label="validation", marker="o", color="red+")
    drawn = str(plotext.build())
    return drawn if color else str(plotext.uncolorize(drawn))
