"""Progress and results for a terminal: bars where a person looks, plain lines in a pipe. All on stderr, but the table.

with show_demo() as say: run_demo(workspace, say)
with show_job("run-42-0001", folder) as show: show(state)      # on a terminal with the loss as a curve
"""

import sys
import time
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from pathlib import Path

from rich.console import Console, ConsoleOptions, Group, RenderResult
from rich.live import Live
from rich.progress import BarColumn, MofNCompleteColumn, Progress, TextColumn, TimeElapsedColumn
from rich.table import Table
from rich.text import Text

from tools.demo import DemoResult, Event
from tools.jobs.record import State

EVERY_SECONDS = 5.0  # between two lines of progress in a pipe
_COLUMNS = {"base": "base", "adapter": "tuned", "f16": "GGUF f16", "q4_k_m": "Q4_K_M"}


@contextmanager
def show_demo() -> Iterator[Callable[[Event], None]]:
    """What shows the demo's events."""
    console = Console(stderr=True, highlight=False)
    with _bars(console) as update:

        def say(event: Event) -> None:
            if event.total or event.step:
                update(event.stage, event.message, event.step, event.total, event.metrics)
            elif event.message and event.message not in ("starting", "loading the base"):
                update(event.stage, "", 0, 0, {})
                console.print(f"[bold]{event.stage:9}[/bold] {event.message}", soft_wrap=True)

        yield say


@contextmanager
def show_job(title: str, folder: Path | None = None) -> Iterator[Callable[[State], None]]:
    """What shows a job's states; with its `folder`, on a terminal, a training's loss as a curve above the bar."""
    console = Console(stderr=True, highlight=False)
    with _bars(console, folder) as update:
        yield lambda state: update(title, state.message, state.step, state.total, state.metrics)


Update = Callable[[str, str, int, int, dict[str, float]], None]


class _Curve:
    """The loss of a run, drawn anew when its metrics have changed."""

    def __init__(self, folder: Path) -> None:
        self.folder = folder
        self.seen, self.drawn = -1, ""

    def __rich_console__(self, console: Console, options: ConsoleOptions) -> RenderResult:
        from tools.training.charts import curves_text
        from tools.training.metrics import read_metrics

        path = self.folder / "metrics.jsonl"
        size = path.stat().st_size if path.exists() else 0
        if size != self.seen:
            self.seen = size
            width, height = min(options.max_width, 100), min(16, console.height - 5)
            self.drawn = curves_text(read_metrics(self.folder), width, height) if height > 5 else ""
        yield Text.from_ansi(self.drawn)


@contextmanager
def _bars(console: Console, folder: Path | None = None) -> Iterator[Update]:
    if not console.is_terminal:
        yield _lines()
        return
    bars = Progress(
        TextColumn("{task.description:9}"), BarColumn(bar_width=28), MofNCompleteColumn(), TimeElapsedColumn()
    )
    figures = Text()  # in a line of their own: beside the bar they would squeeze it
    parts = Group(*([_Curve(folder)] if folder else []), bars, figures)
    with Live(parts, console=console, refresh_per_second=2, transient=not folder):
        task = bars.add_task("", total=None)

        def update(stage: str, message: str, step: int, total: int, metrics: dict[str, float]) -> None:
            figures.plain = figures_of(metrics) or message
            bars.update(task, description=stage, completed=step, total=total or None)

        yield update


def _lines() -> Update:
    last = ("", "", 0.0)

    def update(stage: str, message: str, step: int, total: int, metrics: dict[str, float]) -> None:
        nonlocal last
        line = f"{stage:9} {step}/{total} {message} {figures_of(metrics)}".rstrip()
        due = stage != last[0] or time.monotonic() - last[2] > EVERY_SECONDS or step == total
        if total and due and line != last[1]:
            last = (stage, line, time.monotonic())
            sys.stderr.write(line + "\n")
            sys.stderr.flush()

    return update


def figures_of(metrics: dict[str, float]) -> str:
    """Loss, tokens per second, memory and time left of a training, as far as they are known."""
    parts = []
    for key, form in (
        ("loss", "loss {:.3f}"),
        ("valid_loss", "valid {:.3f}"),
        ("tokens_per_second", "{:.0f} tokens/s"),
        ("memory_gb", "{:.1f} GB"),
        ("seconds_left", "{:.0f} s left"),
    ):
        if key in metrics:
            parts.append(form.format(metrics[key]))
    return ", ".join(parts)


def demo_table(result: DemoResult) -> str:
    """The demo's table and answer, as text."""
    table = Table(title="What was learned, what was kept, what survived quantization", title_justify="left")
    table.add_column("")
    for label in result.models:
        table.add_column(_COLUMNS.get(label, label), justify="right")
    rows = (
        ("recall", "{:.0%}"),
        ("controls", "{:.0%}"),
        ("perplexity", "{:.2f}"),
        ("size_mb", "{:.0f}"),
        ("tokens_per_second", "{:.0f}"),
    )
    for key, form in rows:
        table.add_row(key.replace("_", " "), *(form.format(model[key]) for model in result.models.values()))
    console = Console(width=100, highlight=False, record=True, file=sys.stderr, quiet=True)
    console.quiet = False
    with console.capture() as captured:
        console.print(table)
    probes = next(iter(result.models.values()))
    return (
        f"{captured.get()}over {probes['probes']} probes and {probes['control_count']} controls; "
        f"{result.seconds:.0f} s, at most {result.peak_memory_gb} GB\n\n"
        f"{result.question}\n{result.answer}\n\n{result.gguf}"
    )
