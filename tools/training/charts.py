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


def curves_png(lines: Sequence[dict[str, Any]], title: str) -> bytes:
    """Loss above, memory below, over the steps."""
    from matplotlib.figure import Figure
    from matplotlib.ticker import MaxNLocator

    figure = Figure(figsize=(7, 5), dpi=110, layout="constrained")
    above, below = figure.subplots(2, 1, sharex=True, height_ratios=[3, 2])
    above.plot(*series(lines, "loss"), color="#7a9cc6", linewidth=1, label="training")
    steps, losses = series(lines, "valid_loss")
    if steps:
        above.plot(steps, losses, color="#b3401f", marker="o", markersize=4, label="validation")
        best = min(zip(losses, steps, strict=True))
        above.annotate(f"{best[0]:.3f}", (best[1], best[0]), xytext=(0, 6), textcoords="offset points", ha="center")
    above.set_ylabel("loss, nats a token")
    above.set_title(title, loc="left")
    below.plot(*series(lines, "memory_gb"), color="#3d6b4f", label="process")
    below.plot(*series(lines, "mlx_memory_gb"), color="#3d6b4f", linestyle=":", label="MLX, peak")
    below.set_ylabel("memory, GB")
    below.set_ylim(bottom=0)
    below.set_xlabel("step")
    below.xaxis.set_major_locator(MaxNLocator(integer=True))
    for axes in (above, below):
        axes.grid(alpha=0.3)
        if lines:
            axes.legend(frameon=False, fontsize="small")
    picture = io.BytesIO()
    figure.savefig(picture, format="png")
    return picture.getvalue()


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
