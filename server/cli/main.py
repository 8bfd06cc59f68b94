"""The debug CLI: `looptune --help`.

`demo` runs the main job; `tools`, `call` and `resource` go through a real MCP session over stdio, so what works here
works for an agent. Progress is bars on a terminal and plain lines in a pipe, on stderr; stdout is the result, and with
`--json` one JSON value and nothing else. Exit status: 0 done; 1 a check, a gate or a tool that was called said no, or a
job failed; 2 wrong use.
"""

import json
import shlex
import sys
import time
from pathlib import Path
from typing import Annotated, Any

import typer

from server import names
from server.cli import shell
from server.cli.arguments import Commands, SetsFields, arguments, as_declared, near
from server.cli.dataset import data_app, dataset_app
from server.cli.evaluation import evaluation_app, probes_app
from server.cli.install import install_app
from server.cli.learning import insights_app
from server.cli.loop import loop_app
from server.cli.memory import memory_app
from server.cli.models import models_app
from server.cli.views import views_app
from server.cli.watch import watch_app
from tools.errors import ConflictError, InputError, LooptuneError, NotFoundError
from tools.jobs import record
from tools.jobs.queue import tend
from tools.settings import Settings
from tools.workspace import Workspace

app = typer.Typer(
    cls=Commands,
    no_args_is_help=True,
    add_completion=True,
    pretty_exceptions_enable=False,
    help="Teach a small local coding model the rules of a project, and prove what was learned.",
)
app.add_typer(data_app)
app.add_typer(dataset_app, name="dataset")
app.add_typer(memory_app, name="memory")
app.add_typer(insights_app, name="insights")
app.add_typer(loop_app, name="loop")
app.add_typer(probes_app, name="probes")
app.add_typer(evaluation_app, name="evaluation")
app.add_typer(install_app)
app.add_typer(models_app)
app.add_typer(views_app)
app.add_typer(watch_app)
Json = Annotated[bool, typer.Option("--json", help="print one JSON value and nothing else")]


def main() -> None:
    """The console script: foreseen failures become one line on stderr and a status."""
    try:
        app()
    except LooptuneError as error:
        sys.stderr.write(f"looptune: {shell.told(str(error))}\n")
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
    from server.cli.show import demo_table, show_demo
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
def serve(
    http: Annotated[
        bool, typer.Option("--http", help="over HTTP on the loopback address instead, with a token")
    ] = False,
    port: Annotated[int, typer.Option(min=0, max=65535, help="with --http; 0 takes any free one")] = 8765,
) -> None:
    """The MCP server over stdin and stdout, as a host starts it, or over HTTP."""
    if http:
        from server.http import serve_http

        serve_http(Settings(), port)
        return
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
    from server.cli.show import EVERY_SECONDS

    given = arguments(values or [], args)

    async def ask(client: Any) -> Any:
        schemas = {t.name: t.input_schema.get("properties", {}) for t in (await client.list_tools()).tools}
        declared = schemas.get(tool, {})
        passed = {key: as_declared(key, value, declared.get(key, {})) for key, value in given.items()}
        said = -EVERY_SECONDS

        async def progress(done: float, total: float | None, message: str | None) -> None:
            nonlocal said
            if (now := time.monotonic()) < said + EVERY_SECONDS:
                return
            said = now
            sys.stderr.write(f"  {message or ''}{f' {done:g} of {total:g}' if total else ''}\n")

        return await client.call_tool(tool, passed, progress_callback=progress)

    result = _session(ask)
    text = "\n".join(part.text for part in result.content if part.type == "text")
    if result.is_error:
        sys.stderr.write(f"looptune: {shell.told(text)}\n")
        raise typer.Exit(1)
    if as_json:
        _json(result.structured_content)
    else:
        _out(shell.told(text))


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


@app.command(cls=SetsFields)
def plan(
    preset: Annotated[str, typer.Option(help="a recipe, e.g. smollm2-135m")] = "smollm2-135m",
    dataset: Annotated[str, typer.Option(help="a valid dataset; by default the newest, or an assumed one")] = "",
    changes: Annotated[list[str] | None, typer.Option("--set", help="key=value, e.g. --set rank=8")] = None,
    as_json: Json = False,
) -> None:
    """Memory, steps, tokens and time of a training, before it runs."""
    from tools.training.config import TrainingConfig
    from tools.training.config import preset as recipe

    workspace = Workspace.open(Settings())
    newest = workspace.names(workspace.datasets, "dataset.json")[-1:]
    given = arguments(changes or [], "")
    try:
        config = recipe(preset, **{**given, "dataset": dataset or "".join(newest)})
    except InputError as error:
        meant = near(given, list(TrainingConfig.model_fields))
        words = " ".join(f"--set {shell.word(key, value)}" for key, value in meant.items())
        step = "give values in range" if meant == given else f"`looptune plan --preset {shlex.quote(preset)} {words}`"
        raise InputError(error.message, step) from error
    from tools.training.plan import plan_training

    found = plan_training(workspace, config)
    if as_json:
        _json(found.model_dump())
    else:
        _out(found.verdict)
        parts = ", ".join(f"{name} {value:.2f}" for name, value in found.memory_parts_gb.items())
        each = f" of each of {found.processes} processes" if found.processes > 1 else ""
        _out(f"    memory{each}, GB: {parts}")
        kept = found.activations_gb
        _out(
            f"    activations, GB: {kept['with_checkpointing']:.2f} with gradient checkpointing, "
            f"{kept['without_checkpointing']:.2f} without"
        )
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
    run: Annotated[str, typer.Argument(help="id of a run, from `looptune runs`", autocompletion=names.runs)],
    follow: Annotated[bool, typer.Option("--follow", help="until it ends")] = False,
    as_json: Json = False,
) -> None:
    """Where a run stands; with --follow, its progress until it ends. Exit status 1: it failed, or is a gate that said
    no."""
    from server.cli.show import show_job
    from server.states import status as for_programs
    from server.states import told_state

    workspace = Workspace.open(Settings())
    folder = workspace.run(run)
    tend(workspace)
    if follow:
        with show_job(run, folder) as show:
            while (state := record.read(folder)).state in record.ACTIVE:
                show(state)
                time.sleep(0.5)
                tend(workspace)
            show(state)
    state = record.read(folder)
    if as_json:
        _json({**state.model_dump(), "next_step": for_programs(state, []).next_step})
    else:
        measured = state.state == "finished" and state.kind in ("evaluate", "gate")
        answers = f"Its answers, side by side: `looptune evaluation show {state.id}`"
        _out(shell.told(told_state(state, [answers] if measured else [])))
    if state.state == "failed" or state.result.get("passed") is False:
        raise typer.Exit(1)


@app.command()
def doctor(
    model: Annotated[str, typer.Option(help="instead: load this base, run or exported model, and ask it")] = "",
    as_json: Json = False,
) -> None:
    """What is installed, which device and BLAS, which models; what is missing and how to get it. With --model, whether
    that one answers, how fast, and in how much memory."""
    from tools.doctor import examine, try_model

    if model:
        trial = try_model(Workspace.open(Settings()), model)
        if as_json:
            _json(trial.model_dump())
        else:
            _out(f"{trial.model} ({trial.kind}, {trial.size_gb} GB) was asked: {trial.prompt}\n\n{trial.answer}\n")
            _out(
                f"loaded in {trial.load_seconds} s, first token after {trial.first_token_seconds} s, {trial.tokens} "
                f"tokens at {trial.tokens_per_second} a second, at most {trial.peak_memory_gb} GB"
            )
        return

    findings = examine(Workspace.open(Settings()))
    if as_json:
        _json([finding.model_dump() for finding in findings])
    else:
        marks = {"ok": "ok ", "warning": "!  ", "missing": "NO "}
        for finding in findings:
            mend = f"  → {shell.as_commands(finding.mend)}" if finding.mend else ""
            _out(f"{marks[finding.status]} {finding.name}: {finding.value}{mend}")
    if any(finding.status == "missing" for finding in findings):
        raise typer.Exit(1)


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
    from server.cli.client_rules import CLIENTS, FILES, client_rules
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


def _session(ask: Any) -> Any:
    """What `ask(client)` returns, over a real stdio session with a server of its own."""
    import os

    import anyio
    from mcp import Client, StdioServerParameters
    from mcp.shared.exceptions import MCPError

    from server.loop_agent import unwrapped

    own = {key: value for key, value in os.environ.items() if key.startswith("LOOPTUNE_")}
    parameters = StdioServerParameters(command=sys.executable, args=["-P", "-m", "server"], env=own)

    async def run() -> Any:
        async with Client(parameters) as client:
            return await ask(client)

    try:
        with unwrapped(), unwrapped(MCPError):
            return anyio.run(run)
    except MCPError as error:  # what the server refused
        raise InputError(str(error), "`looptune tools` and `looptune resource` list what there is") from None


if __name__ == "__main__":
    main()
