"""The debug CLI: `looptune --help`.

`demo` runs the main job; `tools`, `call` and `resource` go through a real MCP session over stdio, so what works here
works for an agent. Progress is bars on a terminal and plain lines in a pipe, on stderr; stdout is the result, and with
`--json` one JSON value and nothing else. Exit status: 0 done, 1 a check or a gate said no, 2 wrong use.
"""

import json
import sys
import time
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Annotated, Any

import typer

from server.evaluation_cli import evaluation_app, probes_app
from server.hosts import PLACES, Host, host_config
from server.memory_cli import memory_app
from server.models_cli import models_app
from tools.errors import ConflictError, InputError, LooptuneError, NotFoundError
from tools.files import read_json
from tools.jobs import record
from tools.jobs.queue import tend
from tools.settings import Settings
from tools.workspace import Workspace

app = typer.Typer(
    no_args_is_help=True,
    add_completion=True,
    pretty_exceptions_enable=False,
    help="Teach a small local coding model the rules of a project, and prove what was learned.",
)
dataset_app = typer.Typer(no_args_is_help=True, help="The datasets that ship.")
app.add_typer(dataset_app, name="dataset")
app.add_typer(memory_app, name="memory")
app.add_typer(probes_app, name="probes")
app.add_typer(evaluation_app, name="evaluation")
app.add_typer(models_app)
Json = Annotated[bool, typer.Option("--json", help="print one JSON value and nothing else")]


def main() -> None:
    """The console script: foreseen failures become one line on stderr and a status."""
    try:
        app()
    except LooptuneError as error:
        sys.stderr.write(f"looptune: {error}\n")
        sys.exit(2 if isinstance(error, (InputError, NotFoundError)) else 1)
    except KeyboardInterrupt:
        sys.stderr.write("looptune: interrupted\n")
        sys.exit(130)


def _out(text: str) -> None:
    sys.stdout.write(text + "\n")
    sys.stdout.flush()


def _json(value: Any) -> None:
    _out(json.dumps(value, ensure_ascii=False, indent=1))


@app.command()
def demo(as_json: Json = False) -> None:
    """Teach the embedded model what 42 means, prove it, and leave a quantized model that answers."""
    from server.show import demo_table, show_demo
    from tools.demo import run_demo

    with show_demo() as say:
        result = run_demo(Workspace.open(Settings()), say)
    if as_json:
        _json(result.model_dump())
    else:
        _out(demo_table(result))
    if not result.passed:
        sys.stderr.write(f"looptune: the gate says no: {result.reason}\n")
        raise typer.Exit(1)


@app.command()
def serve() -> None:
    """The MCP server over stdin and stdout, as a host starts it."""
    from server.__main__ import serve as serve_stdio

    serve_stdio()


@app.command()
def tools(as_json: Json = False) -> None:
    """The tools that an agent sees, with their arguments."""

    async def ask(client: Any) -> Any:
        return (await client.list_tools()).tools

    listed = [tool.model_dump(mode="json", by_alias=True, exclude_none=True) for tool in _session(ask)]
    if as_json:
        _json(listed)
        return
    for tool in listed:
        _out(f"{tool['name']}: {' '.join(tool['description'].split())}")
        required = tool["inputSchema"].get("required", [])
        for name, schema in tool["inputSchema"].get("properties", {}).items():
            need = "required" if name in required else f"default {json.dumps(schema.get('default'))}"
            _out(f"    {name} ({need}): {schema.get('description', '')}")


@app.command()
def call(
    tool: Annotated[str, typer.Argument(help="name of a tool, e.g. training_status")],
    values: Annotated[list[str] | None, typer.Argument(help="arguments as key=value; values may be JSON")] = None,
    args: Annotated[str, typer.Option("--args", help="a JSON object in a file, or - for stdin")] = "",
    as_json: Json = False,
) -> None:
    """Call a tool through a real MCP session."""
    given = _arguments(values or [], args)

    async def ask(client: Any) -> Any:
        schemas = {t.name: t.input_schema.get("properties", {}) for t in (await client.list_tools()).tools}
        arguments = {key: _as_declared(value, schemas.get(tool, {}).get(key, {})) for key, value in given.items()}

        async def progress(done: float, total: float | None, message: str | None) -> None:
            sys.stderr.write(f"  {message or ''} {done:g}{f' of {total:g}' if total else ''}\n")

        return await client.call_tool(tool, arguments, progress_callback=progress)

    result = _session(ask)
    text = "\n".join(part.text for part in result.content if part.type == "text")
    if result.is_error:
        sys.stderr.write(f"looptune: {text}\n")
        raise typer.Exit(1)
    if as_json:
        _json(result.structured_content)
    else:
        _out(text)


@app.command()
def resource(
    uri: Annotated[
        str, typer.Argument(help="such as run://index or policy://levels; without one, all are listed")
    ] = "",
    as_json: Json = False,
) -> None:
    """Read a resource through a real MCP session."""

    async def ask(client: Any) -> Any:
        if uri:
            return [part.text for part in (await client.read_resource(uri)).contents]
        plain = (await client.list_resources()).resources
        templates = (await client.list_resource_templates()).resource_templates
        return {
            **{r.uri: r.description for r in plain},
            **{t.uri_template: t.description for t in templates},
        }

    found = _session(ask)
    if isinstance(found, list):
        _out("\n".join(found))
    elif as_json:
        _json(found)
    else:
        for name, description in found.items():
            _out(f"{name}: {description}")


@app.command()
def validate(
    path: Annotated[Path, typer.Argument(help="a JSON or JSONL file, or the name of a dataset in the workspace")],
    report_folder: Annotated[
        Path | None, typer.Option("--report", help="a folder for the report: Markdown, an HTML page and a picture")
    ] = None,
    as_json: Json = False,
) -> None:
    """Check the rows of a file or a dataset: errors by line and field, duplicates, contradictions, statistics."""
    from tools.data.report import png, write_reports
    from tools.data.validate import validate_dataset, validate_file
    from tools.files import write_bytes

    workspace = Workspace.open(Settings())
    is_name = not path.exists() and path.name == str(path) and not path.suffix
    report = validate_dataset(workspace, path.name)[0] if is_name else validate_file(path)
    if report_folder:
        write_reports(report_folder, report, path.name)
        write_bytes(report_folder / "report.png", png(report, path.name))
    if as_json:
        _json(report.model_dump())
    else:
        for error in report.errors[:50]:
            _out(f"line {error.line} {error.field}: {error.message}")
        for duplicate in report.duplicates[:50]:
            _out(f"lines {', '.join(map(str, duplicate.lines))}: {duplicate.kind} duplicates ({duplicate.similarity})")
        for contradiction in report.contradictions[:50]:
            _out(f"lines {', '.join(map(str, contradiction.lines))}: one question, different answers")
        for warning in report.warnings:
            _out(f"warning: {warning}")
        _out(f"{report.rows} rows, {len(report.errors)} errors")
    if not report.ok:
        raise typer.Exit(1)


@dataset_app.command("build")
def dataset_build(
    name: Annotated[str, typer.Argument(help="core: the dataset that is made from the cards")] = "core",
    check: Annotated[bool, typer.Option("--check", help="compare with what is committed, and write nothing")] = False,
    as_json: Json = False,
) -> None:
    """Rebuild the core dataset from its cards, or check that it is what they make."""
    from tools.data.core import build, differences
    from tools.data.measures import BARS
    from tools.settings import shipped_data

    if name != "core":
        raise NotFoundError.named("shipped dataset", name, ["core"], "name it")
    folder = shipped_data() / "core"
    if check:
        changed = differences(folder)
        figures = read_json(folder / "dataset.json")["figures"] if (folder / "dataset.json").is_file() else {}
    else:
        changed, figures = [], build(folder)
    if as_json:
        _json({"figures": figures, "bars": {key: bar for key, (bar, _) in BARS.items()}, "differences": changed})
    else:
        for key, value in figures.items():
            bar, at_most = BARS[key]
            _out(f"{key:30} {value:<8g} at {'most' if at_most else 'least'} {bar:g}")
        if changed:
            _out(f"not what the cards make: {', '.join(changed)}")
    if changed:
        raise typer.Exit(1)


@app.command()
def plan(
    preset: Annotated[str, typer.Option(help="a recipe, e.g. smollm2-135m")] = "smollm2-135m",
    dataset: Annotated[str, typer.Option(help="a valid dataset; by default the newest, or an assumed one")] = "",
    changes: Annotated[list[str] | None, typer.Option("--set", help="key=value, e.g. --set rank=8")] = None,
    as_json: Json = False,
) -> None:
    """Memory, steps, tokens and time of a training, before it runs."""
    from tools.training.config import preset as recipe

    workspace = Workspace.open(Settings())
    newest = workspace.names(workspace.datasets, "dataset.json")[-1:]
    config = recipe(preset, **{**_arguments(changes or [], ""), "dataset": dataset or "".join(newest)})
    from tools.training.plan import plan_training

    found = plan_training(workspace, config)
    if as_json:
        _json(found.model_dump())
    else:
        _out(found.verdict)
        parts = ", ".join(f"{name} {value:.2f}" for name, value in found.memory_parts_gb.items())
        _out(f"    memory, GB: {parts}")
        most = found.fits_up_to
        _out(f"    fits up to packs of {most['pack_tokens']} tokens, or one row of {most['max_length']} tokens")
        _out(
            f"    {found.steps} steps, {found.tokens} tokens, {found.padding_share:.0%} padding, about "
            f"{found.seconds:.0f} s ({found.basis}), {found.disk_gb:.2f} GB of disk"
        )
        for line in [*found.assumptions, found.advice]:
            if line:
                _out(f"    {line}")
    if not found.fits:
        raise typer.Exit(1)


@app.command()
def runs(as_json: Json = False) -> None:
    """The trainings, evaluations and exports of the workspace, newest last."""
    workspace = Workspace.open(Settings())
    tend(workspace)
    states = sorted(
        (record.read(workspace.runs / name) for name in workspace.names(workspace.runs, "state.json")),
        key=lambda state: (state.created, state.id),
    )
    if as_json:
        _json([state.model_dump() for state in states])
        return
    if not states:
        _out("There is no run yet: `looptune demo`, or `looptune call start_training dataset=…`.")
    for state in states:
        _out(f"{state.id}  {state.state}  {state.step}/{state.total}  {state.message}  {state.reason}".rstrip())


@app.command()
def status(
    run: Annotated[str, typer.Argument(help="id of a run, from `looptune runs`")],
    follow: Annotated[bool, typer.Option("--follow", help="until it ends")] = False,
    as_json: Json = False,
) -> None:
    """Where a run stands; with --follow, its progress until it ends."""
    from server.show import show_job

    workspace = Workspace.open(Settings())
    folder = workspace.run(run)
    tend(workspace)
    if follow:
        with show_job(run, folder) as show:
            while (state := record.read(folder)).state in record.ACTIVE:
                show(state)
                time.sleep(0.5)
            show(state)
    state = record.read(folder)
    if as_json:
        _json(state.model_dump())
    else:
        _out(f"{state.id} is {state.state}: {state.step} of {state.total}. {state.message}. {state.reason}")
        for name, value in {**state.metrics, **state.result}.items():
            _out(f"    {name}: {value}")
        if state.next_step:
            _out(f"Next: {state.next_step}")
    if state.state == "failed":
        raise typer.Exit(1)


@app.command()
def doctor(as_json: Json = False) -> None:
    """What is installed, which device and BLAS, which models; what is missing and how to get it."""
    from tools.doctor import examine

    findings = examine(Workspace.open(Settings()))
    if as_json:
        _json([finding.model_dump() for finding in findings])
    else:
        marks = {"ok": "ok ", "warning": "!  ", "missing": "NO "}
        for finding in findings:
            mend = f"  → {finding.mend}" if finding.mend else ""
            _out(f"{marks[finding.status]} {finding.name}: {finding.value}{mend}")
    if any(finding.status == "missing" for finding in findings):
        raise typer.Exit(1)


@app.command("print-config")
def print_config(
    host: Annotated[str, typer.Argument(help="claude-desktop, claude-code, cursor or vscode")],
    as_json: Json = False,
) -> None:
    """The block that tells a host how to start this server."""
    if host not in PLACES:
        raise NotFoundError.named("host", host, PLACES, "name one of these")
    known: Host = host  # type: ignore[assignment]
    if not as_json:
        sys.stderr.write(f"Put this into {PLACES[host]}\n")
    _json(host_config(known))


@app.command()
def check(
    original: Annotated[Path, typer.Argument(help="the file as it was, with its metadata tags")],
    modified: Annotated[Path, typer.Argument(help="the file as it is now, or - for stdin")],
    level: Annotated[str, typer.Option(help="strict, moderate or flexible; else the tags decide")] = "",
    language: Annotated[str, typer.Option(help="such as python; by default from the file's name")] = "",
    as_json: Json = False,
) -> None:
    """Whether a change keeps what its preservation level demands: each violation with its place and its tag."""
    from tools.memory.embedder import embed
    from tools.policy.preserve import check_preservation
    from tools.syntax import ALIASES, GRAMMARS

    suffix = original.suffix.lstrip(".").casefold()
    known = ALIASES.get(suffix, suffix)
    language = language or (known if known in (*GRAMMARS, "json", "yaml", "markdown") else "")
    verdict = check_preservation(
        _exactly(original),
        _exactly(modified),
        level or None,  # type: ignore[arg-type]  # what is no level is refused with the names there are
        language,
        embed=embed,
    )
    if as_json:
        _json(verdict.model_dump())
    else:
        for found in verdict.violations:
            by = f" [{found.tag}]" if found.tag else ""
            _out(f"{original}:{found.line}:{found.column}: {found.level}, {found.kind}: {found.message}{by}")
            if found.diff:
                _out("\n".join(f"    {line}" for line in found.diff.splitlines()))
        for note in verdict.notes:
            _out(note)
        _out("allowed" if verdict.allowed else f"not allowed: {verdict.violation_count} violations")
    if not verdict.allowed:
        raise typer.Exit(1)


def _exactly(path: Path) -> str:
    """A file's text with its own line ends. Raises InputError."""
    try:
        data = sys.stdin.buffer.read() if str(path) == "-" else path.read_bytes()
        return data.decode("utf-8")
    except (OSError, UnicodeDecodeError) as error:
        raise InputError(f"Expected a text file in UTF-8: {path}: {error}", "name one") from error


@app.command()
def rules(
    client: Annotated[str, typer.Argument(help="cursor, claude or agents")],
    write: Annotated[Path | None, typer.Option("--write", help="write it to this file instead of stdout")] = None,
    force: Annotated[bool, typer.Option("--force", help="overwrite what stands there")] = False,
    as_json: Json = False,
) -> None:
    """The rule file that tells an IDE's agent to respect levels, adopt context windows and call the checker."""
    from server.client_rules import CLIENTS, FILES, client_rules
    from tools.files import write_text

    if client not in CLIENTS:
        raise NotFoundError.named("client", client, CLIENTS, "name one of these")
    text = client_rules(client)  # type: ignore[arg-type]
    if write is not None:
        if write.exists() and not force:
            raise ConflictError(f"{write} exists already.", "look at it, then repeat with --force or another path")
        write_text(write, text)
    if as_json:
        _json({"client": client, "place": FILES[client], "written": str(write) if write else None, "text": text})
    elif write is not None:
        _out(f"wrote {write}")
    else:
        sys.stderr.write(f"Put this into {FILES[client]}\n")
        _out(text.rstrip("\n"))


def _arguments(values: list[str], source: str) -> dict[str, Any]:
    """A tool's arguments from key=value words and a JSON object. Raises InputError."""
    found: dict[str, Any] = {}
    if source:
        try:
            found = json.loads(sys.stdin.read()) if source == "-" else read_json(Path(source))
        except (OSError, ValueError) as error:
            raise InputError(f"Expected a JSON object in {source}: {error}", 'write {"key": value}') from error
        if not isinstance(found, dict):
            raise InputError(f"Expected a JSON object in {source}, got {type(found).__name__}.", "write {…}")
    for word in values:
        key, equals, value = word.partition("=")
        if not equals or not key:
            raise InputError(f"Expected key=value, got {word!r}.", "write for example count=100")
        try:
            found[key] = json.loads(value)
        except ValueError:
            found[key] = value
    return found


def _as_declared(value: Any, schema: dict[str, Any]) -> Any:
    """A word such as 42 is text where the tool declares text."""
    types = {schema.get("type"), *(part.get("type") for part in schema.get("anyOf", []))}
    return str(value) if "string" in types and not types & {"integer", "number"} and _is_number(value) else value


def _is_number(value: Any) -> bool:
    return isinstance(value, int | float) and not isinstance(value, bool)


def _session(ask: Any) -> Any:
    """What `ask(client)` returns, over a real stdio session with a server of its own."""
    import os

    import anyio
    from mcp import Client, StdioServerParameters
    from mcp.shared.exceptions import MCPError

    own = {key: value for key, value in os.environ.items() if key.startswith("LOOPTUNE_")}
    parameters = StdioServerParameters(command=sys.executable, args=["-P", "-m", "server"], env=own)

    async def run() -> Any:
        async with Client(parameters) as client:
            return await ask(client)

    with _mcp_errors(MCPError):
        return anyio.run(run)


@contextmanager
def _mcp_errors(kind: type[Exception]) -> Iterator[None]:
    """What the server refused, as an error of ours; the client may wrap it in a group."""
    try:
        yield
    except* kind as group:
        first: BaseException = group
        while isinstance(first, BaseExceptionGroup):
            first = first.exceptions[0]
        raise InputError(str(first), "`looptune tools` and `looptune resource` list what there is") from None


if __name__ == "__main__":
    main()
