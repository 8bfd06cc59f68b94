"""Commands on datasets: `looptune validate`, `looptune dataset build`, `use` and `export`."""

import json
import sys
from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Any

import typer

from tools.errors import InputError, NotFoundError
from tools.files import read_json
from tools.settings import Settings
from tools.workspace import Workspace

if TYPE_CHECKING:
    from tools.data.fix import Fixed
    from tools.data.validate import Report

_SHOWN = 50  # findings of each sort that are printed; --json has all that a report lists
data_app = typer.Typer()
dataset_app = typer.Typer(no_args_is_help=True, help="The datasets that ship, and rows for other trainers.")
Json = Annotated[bool, typer.Option("--json", help="print one JSON value and nothing else")]


def _out(text: str) -> None:
    sys.stdout.write(text + "\n")


def _json(value: Any) -> None:
    _out(json.dumps(value, ensure_ascii=False, indent=1))


@data_app.command()
def validate(
    path: Annotated[
        Path,
        typer.Argument(
            help="a JSON or JSONL file, a folder with train.jsonl and valid.jsonl, or the name of a dataset in the "
            "workspace"
        ),
    ],
    report_folder: Annotated[
        Path | None, typer.Option("--report", help="a folder for the report: Markdown, an HTML page and a picture")
    ] = None,
    base: Annotated[
        str, typer.Option(help="a base: count tokens under its own tokenizer, and show what the loss is taken of")
    ] = "",
    max_length: Annotated[
        int, typer.Option(min=16, help="with --base: tokens a row may have, as the preset says")
    ] = 512,
    fix: Annotated[
        bool, typer.Option("--fix", help="first write a repaired copy of the dataset, and check that")
    ] = False,
    as_json: Json = False,
) -> None:
    """Check the rows of a file or a dataset: errors by line and field, duplicates, contradictions, leaks, statistics.

    Of a folder both files are checked, and with --json their findings name the file."""
    from tools.data.fix import fix_dataset
    from tools.data.report import png, write_reports
    from tools.data.validate import validate_dataset, validate_file, validate_split
    from tools.files import write_bytes

    workspace = Workspace.open(Settings())
    is_name = not path.exists() and path.name == str(path) and not path.suffix
    if fix and not is_name:
        raise InputError(
            f"Expected the name of a dataset with --fix, got {str(path)!r}.", "bring the rows with add_examples"
        )
    if not (is_name or path.exists()):
        raise InputError(f"There is no file {path}.", "name a JSON or JSONL file, or a dataset of the workspace")
    tokenizer = None
    if base:
        from tools.models.bases import base_folder
        from tools.models.load import load_tokenizer

        tokenizer = load_tokenizer(base_folder(workspace, base))
    fixed = fix_dataset(workspace, path.name) if fix else None
    name = fixed.dataset if fixed else path.name
    if path.is_dir() and not is_name:
        reports = validate_split(path, tokenizer, max_length)
    elif is_name:
        reports = {name: validate_dataset(workspace, name, tokenizer, max_length)[0]}
    else:
        reports = {name: validate_file(path, tokenizer, max_length)}
    for part, report in reports.items() if report_folder else ():
        folder = report_folder / Path(part).stem if report_folder and len(reports) > 1 else report_folder
        assert folder
        write_reports(folder, report, part)
        write_bytes(folder / "report.png", png(report, part))
    if as_json:
        _json(_as_data(reports) | ({"repaired": fixed.model_dump(mode="json")} if fixed else {}))
    else:
        if fixed:
            _show_changes(fixed)
        for part, report in reports.items():
            _show(report, f"{part} " if len(reports) > 1 else "")
    if not all(report.ok for report in reports.values()):
        raise typer.Exit(1)


def _as_data(reports: "dict[str, Report]") -> dict[str, Any]:
    """One report as it is; those of several files together, with the file that each finding is of."""
    if len(reports) == 1:
        (report,) = reports.values()
        return report.model_dump()
    data = {part: report.model_dump() for part, report in reports.items()}
    listed = ("errors", "duplicates", "contradictions", "leaks")
    return {
        "rows": sum(report["rows"] for report in data.values()),
        **{key: [{"file": part, **one} for part, report in data.items() for one in report[key]] for key in listed},
        "warnings": [f"{part}: {warning}" for part, report in data.items() for warning in report["warnings"]],
        "statistics": {part: report["statistics"] for part, report in data.items()},
        "tokens": {part: report["tokens"] for part, report in data.items()},
    }


def _show(report: "Report", part: str) -> None:
    """The findings for a person; `part` stands before each line number."""
    for error in report.errors[:_SHOWN]:
        _out(f"{part}line {error.line} {error.field}: {error.message}")
    for duplicate in report.duplicates[:_SHOWN]:
        lines = ", ".join(map(str, duplicate.lines))
        _out(f"{part}lines {lines}: {duplicate.kind} duplicates ({duplicate.similarity})")
    for contradiction in report.contradictions[:_SHOWN]:
        _out(f"{part}lines {', '.join(map(str, contradiction.lines))}: one question, different answers")
    for leak in report.leaks[:_SHOWN]:
        same = "asks what" if leak.kind == "exact" else "is nearly what"
        _out(f"leak: valid.jsonl line {leak.valid_line} {same} train.jsonl line {leak.train_line} does")
    for warning in report.warnings:
        _out(f"warning: {warning}")
    if report.tokens:
        _out(report.tokens.summary())
        for sample in report.tokens.samples:
            _out(f"line {sample.line} ({sample.why}), what is trained in ⟦ ⟧:\n{sample.text}")
    _out(f"{part}{report.rows} rows, {report.error_count} errors")


def _show_changes(fixed: "Fixed") -> None:
    """What was repaired, and the file that lists all of it."""
    for change in fixed.changes[:_SHOWN]:
        _out(f"{change.action}: line {change.line} {change.field}: {change.message}")
    _out(f"{fixed.summary()}; {fixed.file} lists each of {len(fixed.changes)} changes")


@dataset_app.command("build")
def dataset_build(
    name: Annotated[str, typer.Argument(help="core: the dataset that is made from the cards")] = "core",
    check: Annotated[bool, typer.Option("--check", help="compare with what is committed, and write nothing")] = False,
    as_json: Json = False,
) -> None:
    """Rebuild the core dataset from its cards, or check that it is what they make."""
    from tools.data.core import ALL, COUNTS, EXECUTED, build, differences
    from tools.data.measures import BARS
    from tools.settings import shipped_data

    if name != "core":
        raise NotFoundError.named("shipped dataset", name, ["core"], "name it")
    folder = shipped_data() / "core"
    changed = differences(folder) if check else []
    manifest = read_json(folder / "dataset.json") if check else build(folder)
    counts = {**manifest["kinds"], ALL: manifest["rows"]}
    if as_json:
        bars: dict[str, Any] = {key: bar for key, (bar, _) in BARS.items()}
        _json(
            {
                "figures": manifest["figures"],
                "bars": bars,
                "counts": counts,
                "count_bars": COUNTS,
                "executed_rows": manifest["executed_rows"],
                "statistics": manifest["statistics"],
                "differences": changed,
            }
        )
    else:
        for key, (least, most) in COUNTS.items():
            _out(f"{key:30} {counts[key]:<8} {least} to {most}")
        for key, value in manifest["figures"].items():
            bar, at_most = BARS[key]
            _out(f"{key:30} {value:<8g} at {'most' if at_most else 'least'} {bar:g}")
        _out(f"{'rows with errors':30} {sum(manifest['statistics']['errors'].values()):<8} at most 0")
        _out(f"{'contradictory questions':30} {manifest['statistics']['contradictory_questions']:<8} at most 0")
        _out(f"{'rows executed in the tests':30} {manifest['executed_rows']:<8} at least {EXECUTED}")
        if changed:
            _out(f"not what the cards make: {', '.join(changed)}")
    if changed:
        raise typer.Exit(1)


@dataset_app.command("use")
def dataset_use(
    name: Annotated[str, typer.Argument(help="core: the dataset that is made from the cards")] = "core",
    to: Annotated[str, typer.Option("--as", help="its name in the workspace")] = "",
    as_json: Json = False,
) -> None:
    """Bring a dataset that ships into the workspace, valid and split, so that it can be planned and trained on."""
    from tools.data.core import use

    if name != "core":
        raise NotFoundError.named("shipped dataset", name, ["core"], "name it")
    manifest = use(Workspace.open(Settings()), to or name)
    if as_json:
        _json(manifest.model_dump())
    else:
        _out(f"{manifest.name}: {manifest.train_rows} rows to train on, {manifest.valid_rows} to validate with")
        _out(f"Next: `looptune plan --dataset {manifest.name}`")


@dataset_app.command("export")
def dataset_export(
    name: Annotated[str, typer.Argument(help="a valid dataset of the workspace")],
    messages: Annotated[
        Path | None,
        typer.Option(help="chat rows, for mlx-lm, TRL, LLaMA-Factory and axolotl: a folder, or a .jsonl file"),
    ] = None,
    alpaca: Annotated[
        Path | None, typer.Option(help="plain Alpaca rows, for LLaMA-Factory and axolotl: a folder, or a .jsonl file")
    ] = None,
    as_json: Json = False,
) -> None:
    """Write the rows for another trainer: train.jsonl and valid.jsonl into a folder, or all of them into one file."""
    from tools.data.export import export_dataset

    wanted = {form: to for form, to in (("messages", messages), ("alpaca", alpaca)) if to}
    if not wanted:
        raise InputError("Expected --messages, --alpaca or both.", f"looptune dataset export {name} --messages FOLDER")
    workspace = Workspace.open(Settings())
    written = {form: export_dataset(workspace, name, form, to) for form, to in wanted.items()}
    if as_json:
        _json({form: {str(path): rows for path, rows in files.items()} for form, files in written.items()})
    else:
        for files in written.values():
            for path, rows in files.items():
                _out(f"{path}: {rows} rows")
