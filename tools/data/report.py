"""What validation found, for people: Markdown, one self-contained HTML page, and a picture.

    markdown(report, "holds")
    html(report, "holds")           # light and dark, nothing is loaded from elsewhere
    png(report, "holds")            # bytes; for an agent that looks at pictures
    write_reports(folder, report, "holds")      # report.json, report.md, report.html
    report_folder(workspace, path)              # where the report of a file goes that belongs to no dataset

The texts of rows are somebody else's, so they are escaped wherever they stand.
"""

import hashlib
import io
from collections.abc import Iterable, Sequence
from html import escape
from pathlib import Path
from typing import TYPE_CHECKING, Any

from tools.data.token_report import Part, Sample
from tools.files import write_json, write_text
from tools.workspace import Workspace, slug

if TYPE_CHECKING:  # it imports this module, to write its report
    from tools.data.validate import Report

_ROWS = 50  # how many errors, clusters and leaks a page lists
_LINES = 12  # how many line numbers of one cluster

Bars = list[tuple[str, int]]
Table = tuple[Sequence[str], Sequence[Sequence[Any]]]


def write_reports(folder: Path, report: "Report", name: str) -> None:
    """Write `report` as data, as Markdown and as a page into `folder`."""
    write_json(folder / "report.json", report.model_dump())
    write_text(folder / "report.md", markdown(report, name))
    write_text(folder / "report.html", html(report, name))


def report_folder(workspace: Workspace, path: Path) -> Path:
    """The folder for the report of the file `path`, the same each time; files of one name in two folders have two."""
    path = path.resolve()
    return workspace.reports / f"{slug(path.stem)}-{hashlib.sha256(str(path).encode()).hexdigest()[:8]}"


def markdown(report: "Report", name: str) -> str:
    """The report as Markdown."""
    parts = [f"# Validation of {name}", _verdict(report), *(f"- {warning}" for warning in report.warnings)]
    for title, bars in _charts(report).items():
        parts += [f"## {title}", _markdown_table((("", "rows", "share"), _with_shares(bars)))]
    for title, table in _tables(report).items():
        parts += [f"## {title}", _markdown_table(table)]
    for sample in report.tokens.samples if report.tokens else []:
        parts += [_sample(sample), _indented(sample.text)]
    return "\n\n".join(parts) + "\n"


def html(report: "Report", name: str) -> str:
    """The report as one HTML page."""
    figures = report.statistics
    tiles = [
        ("rows", report.rows, ""),
        ("errors", sum(figures["errors"].values()), "bad"),
        ("exact duplicates", figures["duplicate_rows"]["exact"], "bad"),
        ("near duplicates", figures["duplicate_rows"]["near"], "fair"),
        ("contradictions", figures["contradictory_questions"], "bad"),
        ("leaks", len(report.leaks), "fair"),
    ]
    body = [f"<h1>{escape(name)}</h1>", f'<p class="verdict {_class(report)}">{escape(_verdict(report))}</p>']
    body.append('<div class="tiles">')
    body += [f'<div class="{kind if n else ""}"><b>{n:,}</b>{escape(label)}</div>' for label, n, kind in tiles]
    body.append("</div>")
    if report.warnings:
        body.append("<ul>" + "".join(f"<li>{escape(warning)}</li>" for warning in report.warnings) + "</ul>")
    body.append('<div class="charts">')
    body += [
        f"<figure><figcaption>{escape(t)}</figcaption>{_svg(t, bars)}</figure>" for t, bars in _charts(report).items()
    ]
    body.append("</div>")
    for title, table in _tables(report).items():
        body.append(f"<h2>{escape(title)}</h2>{_html_table(table)}")
    for sample in report.tokens.samples if report.tokens else []:
        text = "".join(_marked(part) for part in sample.parts)
        body.append(f"<p>{escape(_sample(sample))}</p><pre>{text}</pre>")
    begin, _, end = _PAGE.partition("BODY")
    return begin.replace("TITLE", escape(name)) + "\n".join(body) + end


def png(report: "Report", name: str) -> bytes:
    """The charts and the verdict as one picture, 1200 by 800."""
    from matplotlib.backends.backend_agg import FigureCanvasAgg
    from matplotlib.figure import Figure

    figure = Figure(figsize=(12, 8), dpi=100, layout="constrained")
    FigureCanvasAgg(figure)
    figure.suptitle(f"{_plain(name)}\n{_plain(_verdict(report))}", fontsize=12, wrap=True)
    charts = _charts(report)
    if len(charts) > 4:  # errors matter more than levels
        del charts["Preservation levels"]
    for place, (title, bars) in enumerate(charts.items(), start=1):
        axes = figure.add_subplot(2, 2, place)
        shown = bars[:12][::-1]
        drawn = axes.barh([_plain(label)[:40] for label, _ in shown], [count for _, count in shown], color="#3b6fb6")
        axes.bar_label(drawn, padding=3, fontsize=8)
        axes.set_title(title, fontsize=10)
        axes.margins(x=0.12)
        axes.set_ylim(len(shown) - 0.4 - max(6, len(shown)), len(shown) - 0.4)  # a single bar is no wall
        axes.tick_params(labelsize=8)
        axes.spines[["top", "right"]].set_visible(False)
    stream = io.BytesIO()
    figure.savefig(stream, format="png", metadata={"Software": None})
    return stream.getvalue()


def _plain(text: str) -> str:
    """`text` without what matplotlib would read as a formula."""
    return text.replace("$", r"\$")


def _verdict(report: "Report") -> str:
    figures = report.statistics
    errors, repeated = sum(figures["errors"].values()), figures["duplicate_rows"]
    found = [
        f"{errors:,} errors" if errors else "no errors",
        f"{repeated['exact']:,} exact and {repeated['near']:,} near duplicates",
        f"{figures['contradictory_questions']:,} contradictions",
    ]
    return f"{'Ready to train on' if report.ok else 'Not ready'}: {report.rows:,} rows, {', '.join(found)}."


def _class(report: "Report") -> str:
    return "good" if report.ok else "bad"


def _charts(report: "Report") -> dict[str, Bars]:
    """The distributions, each as labelled counts."""
    figures = report.statistics
    charts: dict[str, Bars] = {}
    if report.rows:
        lengths = figures["output_histogram"]
        charts["Length of the answers (characters)"] = [(f"to {b['up_to']:,}", b["rows"]) for b in lengths]
        for title, name in (("Kinds", "kinds"), ("Preservation levels", "levels"), ("Languages", "languages")):
            charts[title] = list(figures[name].items())[:12]
    if figures["errors"]:
        charts["Errors by code"] = list(figures["errors"].items())[:12]
    return charts


def _tables(report: "Report") -> dict[str, Table]:
    figures, tokens = report.statistics, report.tokens
    tables: dict[str, Table] = {}
    if report.errors:
        rows = [(e.line, e.field, e.code, e.message) for e in report.errors[:_ROWS]]
        tables[_first("Errors", len(report.errors))] = (("line", "field", "code", "what is wrong"), rows)
    if report.duplicates:
        shown = [(d.kind, _lines(d.lines), d.similarity, d.text) for d in report.duplicates[:_ROWS]]
        heads = ("kind", "lines", "similarity", "what they share")
        tables[_first("Rows that repeat each other", len(report.duplicates))] = (heads, shown)
    if report.contradictions:
        doubts = [(_lines(c.lines),) for c in report.contradictions[:_ROWS]]
        tables[_first("One question, several answers", len(report.contradictions))] = (("lines",), doubts)
    if report.leaks:
        leaked = [(k.valid_line, k.train_line, k.kind, k.similarity) for k in report.leaks[:_ROWS]]
        heads = ("held-out line", "training line", "kind", "similarity")
        tables[_first("Held-out rows near a training row", len(report.leaks))] = (heads, leaked)
    if report.rows:
        tables["Diversity"] = (
            ("figure", "value", "beside it"),
            [
                ("distinct / all 4-grams of the answers", figures["distinct_4grams"], "Alpaca: 0.91"),
                ("gzip ratio of the answers", figures["gzip_ratio"], "Alpaca: 2.7"),
                *_neighbours(figures["neighbours"], report.rows),
                _share("commonest opening of three words", figures["commonest_opening"]),
                *(
                    [_share("largest template", figures["largest_template"])]
                    if figures["largest_template"]["rows"]
                    else []
                ),
            ],
        )
        spread = ("min", "median", "p95", "max")
        tables["Lengths in characters"] = (
            ("", *spread),
            [
                (part, *(figures[f"{part}_characters"][s] for s in spread))
                for part in ("instruction", "input", "output")
            ],
        )
        filled = [(name, f"{share:.1%}") for name, share in figures["completeness"].items()]
        tables["Completeness"] = (("field", "rows that have it"), filled)
    if tokens:
        tables[f"Tokens, at most {tokens.max_length} a row"] = (
            ("figure", "value"),
            [
                ("rows that were tokenized", tokens.rows),
                ("tokens", tokens.tokens["sum"]),
                ("of a row: median, 95 of 100, longest", _spread(tokens.tokens)),
                ("trained tokens", tokens.trained_tokens["sum"]),
                ("rows cut off", tokens.truncated_rows),
                ("their lines", _lines(tokens.truncated_lines, tokens.truncated_rows) or "none"),
                ("tokens lost by that", tokens.lost_tokens),
                ("end tokens lost by that", tokens.lost_end_tokens),
                ("rows without a trained token", tokens.untrained_rows),
                ("lines of those", _lines(tokens.untrained_lines, tokens.untrained_rows) or "none"),
            ],
        )
    return tables


def _spread(tokens: dict[str, int]) -> str:
    return f"{tokens['median']:,}, {tokens['p95']:,}, {tokens['max']:,}"


def _sample(sample: Sample) -> str:
    cut = f", {sample.cut} more cut off" if sample.cut else ""
    return f"Line {sample.line} ({sample.why}): {sample.trained} of {sample.tokens} tokens trained{cut}."


def _marked(part: Part) -> str:
    return f"<mark>{escape(part.text)}</mark>" if part.trained else escape(part.text)


def _share(label: str, commonest: dict[str, Any]) -> tuple[str, str, str]:
    return label, f"{commonest['share']:.1%}", commonest["text"]


def _neighbours(shares: dict[str, Any], rows: int) -> list[tuple[str, str, str]]:
    sampled = f"of {shares['rows']:,} rows drawn at random" if shares["rows"] < rows else "of all rows"
    return [
        ("questions with a neighbour above 0.9 (TF-IDF)", f"{shares['prompts_above_0.9']:.1%}", sampled),
        ("answers with a neighbour above 0.9", f"{shares['outputs_above_0.9']:.1%}", sampled),
        ("answers with a neighbour above 0.8", f"{shares['outputs_above_0.8']:.1%}", f"{sampled}; Alpaca: 3.5 %"),
    ]


def _first(title: str, count: int) -> str:
    return title if count <= _ROWS else f"{title} (the first {_ROWS} of {count:,})"


def _lines(lines: list[int], count: int = 0) -> str:
    """The first lines, of `count` in all."""
    over = max(count, len(lines)) - _LINES
    more = f" and {over:,} more" if over > 0 else ""
    return ", ".join(map(str, lines[:_LINES])) + more


def _with_shares(bars: Bars) -> list[Sequence[Any]]:
    total = sum(count for _, count in bars) or 1
    return [(label, count, f"{count / total:.1%}") for label, count in bars]


def _markdown_table(table: Table) -> str:
    heads, rows = table

    def line(cells: Iterable[Any]) -> str:
        return f"| {' | '.join(_cell(cell) for cell in cells)} |"

    return "\n".join([line(heads), f"|{'---|' * len(heads)}", *map(line, rows)])


def _cell(value: Any) -> str:
    """A value in a Markdown table: one line, with nothing that Markdown or HTML would act on."""
    text = escape(" ".join(str(value).split()), quote=False)
    return "".join(f"\\{sign}" if sign in "\\`*_{}[]|!" else sign for sign in text)


def _indented(text: str) -> str:
    return "\n".join(f"    {line}" for line in text.splitlines())


def _html_table(table: Table) -> str:
    heads, rows = table
    head = "".join(f"<th>{escape(str(cell))}</th>" for cell in heads)
    lines = ["<tr>" + "".join(_html_cell(cell) for cell in row) + "</tr>" for row in rows]
    return f'<div class="wide"><table><tr>{head}</tr>{"".join(lines)}</table></div>'


def _html_cell(value: Any) -> str:
    number = isinstance(value, int | float)
    return f"<td{' class=number' if number else ''}>{escape(f'{value:,}' if number else str(value))}</td>"


def _svg(title: str, bars: Bars) -> str:
    """Horizontal bars with their counts."""
    most = max((count for _, count in bars), default=0) or 1
    height = 22 * len(bars)
    drawn = []
    for place, (label, count) in enumerate(bars):
        y, width = 22 * place, round(230 * count / most, 1)
        drawn.append(
            f'<text x="118" y="{y + 15}" text-anchor="end">{escape(label[:17])}</text>'
            f'<rect x="124" y="{y + 3}" width="{max(width, 1)}" height="16" rx="2"/>'
            f'<text x="{130 + width}" y="{y + 15}">{count:,}</text>'
        )
    return f'<svg viewBox="0 0 420 {height}" role="img" aria-label="{escape(title)}">{"".join(drawn)}</svg>'


_PAGE = """<!doctype html>
<html lang="en">
<head>
<meta charset="utf-8">
<meta name="viewport" content="width=device-width, initial-scale=1">
<meta http-equiv="Content-Security-Policy" content="default-src 'none'; style-src 'unsafe-inline'">
<title>TITLE</title>
<style>
:root { color-scheme: light dark; --ink: #1d2430; --soft: #5b6472; --paper: #fff; --line: #dfe3e8; --bar: #3b6fb6;
  --good: #1f7a46; --bad: #b3261e; --fair: #8a5a00; --mark: #fff0b8; }
@media (prefers-color-scheme: dark) { :root { --ink: #e6e9ee; --soft: #9aa3b0; --paper: #14171c; --line: #2c323b;
  --bar: #6fa0e0; --good: #5fc48a; --bad: #ff8a80; --fair: #e0b050; --mark: #4a3f12; } }
body { font: 15px/1.5 system-ui, sans-serif; color: var(--ink); background: var(--paper); max-width: 62rem;
  margin: 2rem auto; padding: 0 1rem; }
h1 { margin: 0; font-size: 1.6rem; } h2 { margin: 2rem 0 .5rem; font-size: 1.1rem; }
.verdict { font-size: 1.05rem; margin: .3rem 0 1rem; }
.good { color: var(--good); } .bad { color: var(--bad); } .fair { color: var(--fair); }
.tiles { display: flex; flex-wrap: wrap; gap: .75rem; }
.tiles div { border: 1px solid var(--line); border-radius: 8px; padding: .5rem .9rem; min-width: 7rem; }
.tiles b { display: block; font-size: 1.4rem; font-variant-numeric: tabular-nums; }
.charts { display: grid; grid-template-columns: repeat(auto-fit, minmax(22rem, 1fr)); gap: 1rem 2rem;
  margin-top: 1.5rem; }
figure { margin: 0; } figcaption { font-weight: 600; margin-bottom: .3rem; }
svg { width: 100%; height: auto; }
svg text { font: 12px system-ui, sans-serif; fill: var(--ink); } rect { fill: var(--bar); }
.wide { overflow-x: auto; }
table { border-collapse: collapse; min-width: 60%; }
th, td { text-align: left; vertical-align: top; padding: .3rem .8rem .3rem 0; border-bottom: 1px solid var(--line);
  overflow-wrap: break-word; }
td:last-child { overflow-wrap: anywhere; }
th { color: var(--soft); font-weight: 600; } td.number { font-variant-numeric: tabular-nums; }
pre { white-space: pre-wrap; overflow-wrap: anywhere; border: 1px solid var(--line); border-radius: 8px;
  padding: .8rem; }
mark { background: var(--mark); color: inherit; }
</style>
</head>
<body>
BODY
</body>
</html>
"""
