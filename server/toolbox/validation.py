"""The tool with which an agent validates a dataset or a file, with its report as an answer.

add_validation_tool(server, workspace, heavy)      # `heavy` runs what loads a tokenizer in the server's one thread
"""

import asyncio
import time
from collections.abc import Callable
from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Any

from mcp.server import MCPServer
from mcp.server.mcpserver import Context
from mcp.types import CallToolResult
from pydantic import Field

from server import answers
from server.answers import answered
from server.definitions import Detail, writes
from server.errors import told
from server.heavy import Heavy, watched
from tools.errors import InputError, LimitError
from tools.workspace import Workspace

if TYPE_CHECKING:
    from tools.data.fix import Fixed
    from tools.data.validate import Report


SECONDS = 25  # for the rows to pass by; what follows takes about half as long again
SECONDS_WITH_BASE = 12  # counting tokens of 20,000 rows takes about twenty seconds more


def add_validation_tool(server: MCPServer[Any], workspace: Workspace, heavy: Heavy) -> None:
    """Register `validate_dataset` on `server`."""

    @server.tool(title="Validate", annotations=writes(idempotent=True))
    @told
    async def validate_dataset(
        ctx: Context[Any],
        dataset: Annotated[str, Field(max_length=64, description="e.g. 'holds' (dataset://index)")] = "",
        path: Annotated[
            str,
            Field(max_length=4096, description="instead: a JSON or JSONL file in an allowed root, e.g. '/a.jsonl'"),
        ] = "",
        fix: Annotated[bool, Field(description="first write a repaired copy")] = False,
        picture: Annotated[bool, Field(description="its charts, as an image")] = False,
        base: Annotated[str, Field(max_length=200, description="also cuts and mask, e.g. of 'tiny'")] = "",
        max_length: Annotated[int, Field(ge=16, le=32_768, description="tokens a row, with base")] = 512,
        detail: Detail = "concise",
    ) -> Annotated[CallToolResult, answers.Validated]:
        """Check every row (schema, leftovers, secrets, duplicates, contradictions, leaks) and, when nothing is wrong,
        split the dataset 80/20. Use it after each change of a dataset. Then call plan_training."""
        if bool(dataset) == bool(path) or (fix and path):
            raise InputError(
                "Expected either `dataset` or `path`, and `fix` only with a dataset.",
                "name a dataset of dataset://index",
            )

        rows_so_far, began = [0], time.monotonic()
        seconds = SECONDS_WITH_BASE if base else SECONDS

        def watch(rows: int) -> None:
            rows_so_far[0] = rows
            if time.monotonic() - began > seconds:
                raise LimitError(
                    f"{rows:,} rows were checked in {seconds} s and there are more, but a call has to end soon.",
                    f"run `looptune validate {dataset or path}` in a shell: it takes its time, and does the same",
                )

        def work() -> CallToolResult:
            return _validate(workspace, dataset, path, fix, picture, base, max_length, detail, watch)

        def said() -> str:
            return f"{rows_so_far[0]:,} rows checked"

        if base:
            return await heavy(ctx, said, work)
        return await watched(ctx, said, asyncio.ensure_future(asyncio.to_thread(work)))


def _validate(
    workspace: Workspace,
    dataset: str,
    path: str,
    fix: bool,
    picture: bool,
    base: str,
    max_length: int,
    detail: str,
    watch: Callable[[int], None],
) -> CallToolResult:
    from tools.data import validate
    from tools.data.fix import fix_dataset
    from tools.data.report import png, report_folder, write_reports

    tokenizer = None
    if base:
        from tools.models.bases import base_folder
        from tools.models.load import load_tokenizer

        tokenizer = load_tokenizer(base_folder(workspace, base))
    fixed = fix_dataset(workspace, dataset, watch=watch) if fix else None
    dataset = fixed.dataset if fixed else dataset
    if path:
        file = workspace.readable(path)
        report, manifest = validate.validate_file(file, tokenizer, max_length, watch), None
        folder = report_folder(workspace, file)
        write_reports(folder, report, file.name)
    else:
        report, manifest = validate.validate_dataset(workspace, dataset, tokenizer, max_length, watch)
        folder = workspace.dataset(dataset)
    shown = 100 if detail == "full" else 5
    rows = (manifest.train_rows, manifest.valid_rows) if manifest else (0, 0)
    return answered(
        f"{_said(report, dataset, rows, fixed)} Report: {folder / 'report.html'}",
        answers.Validated(
            dataset=dataset,
            ok=report.ok,
            rows=report.rows,
            train_rows=rows[0],
            valid_rows=rows[1],
            error_count=report.error_count,
            errors=[e.model_dump() for e in report.errors[:shown]],
            duplicates=[{**d.model_dump(), "lines": d.lines[:shown]} for d in report.duplicates[:shown]],
            contradictions=[c.model_dump() for c in report.contradictions[:shown]],
            leaks=[leak.model_dump() for leak in report.leaks[:shown]],
            warnings=report.warnings,
            statistics=report.statistics if detail == "full" else {},
            tokens=report.tokens.model_dump(exclude=None if detail == "full" else {"samples"}) if report.tokens else {},
            changes=[c.model_dump() for c in fixed.changes[:shown]] if fixed else [],
            report=str(folder),
        ),
        png(report, dataset or Path(path).name) if picture else b"",
        [f"dataset://{dataset}"] if dataset else [(folder / "report.html").as_uri()],
    )


def _said(report: "Report", dataset: str, rows: tuple[int, int], fixed: "Fixed | None") -> str:
    """What came out, and what to call next."""
    said = f"{fixed.summary()}; {fixed.file} lists each of {len(fixed.changes)} changes. " if fixed else ""
    warnings = " ".join(report.warnings)
    if not report.ok:
        first = "; ".join(f"line {e.line} {e.field}: {e.message}" for e in report.errors[:5])
        said += (
            f"{report.rows} rows, {report.error_count} errors, {len(report.duplicates)} duplicates, "
            f"{len(report.contradictions)} contradictions. {first} Next: mend them, then validate again."
        )
    elif dataset:
        said += f"{report.rows} rows, no errors: {rows[0]} for training, {rows[1]} held back. {warnings} "
        said += f"Next: plan_training(dataset={dataset!r})."
    else:
        said += f"{report.rows} rows, no errors. {warnings}"
    if report.tokens:
        said += f" {report.tokens.summary()}"
        if report.tokens.samples:
            shown = report.tokens.samples[0]
            said += f" What is trained of line {shown.line} stands in ⟦ ⟧: {shown.text[:500]}"
    return said
