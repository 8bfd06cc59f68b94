"""The CLI's commands on exported models: `looptune models`, `verify`, `promote`, `rollback`.

Exit status: 0 done, 1 something is broken or a check said no, 2 wrong use.
"""

import json
import sys
from typing import Annotated, Any

import typer

from server import names
from tools.settings import Settings
from tools.workspace import Workspace

models_app = typer.Typer()
Json = Annotated[bool, typer.Option("--json", help="print one JSON value and nothing else")]
Model = Annotated[
    str, typer.Argument(help="name of an exported model, from `looptune models`", autocompletion=names.models)
]


def _out(value: Any, as_json: bool) -> None:
    sys.stdout.write((json.dumps(value, ensure_ascii=False, indent=1) if as_json else str(value)) + "\n")


@models_app.command()
def models(as_json: Json = False) -> None:
    """The exported models, and which of them answers (*)."""
    from tools.export.promotion import list_models

    listed = list_models(Workspace.open(Settings()))
    if as_json:
        _out([line.model_dump() for line in listed], True)
        return
    if not listed:
        _out("There is no model yet: `looptune demo`, or `looptune call quantize run=…`.", False)
    gate = {True: "passed", False: "did not pass", None: "not evaluated"}
    for line in listed:
        mark = "*" if line.promoted else " "
        _out(
            f"{mark} {line.name}  {line.file}  {line.size_mb:.0f} MB, {line.bits_per_weight} bits a weight  "
            f"gate: {gate[line.passed]}  from {line.run}{f'  promoted by force: {line.forced}' if line.forced else ''}",
            False,
        )


@models_app.command()
def verify(
    model: Model,
    fused: Annotated[bool, typer.Option("--fused", help="fuse again too, and compare: as much disk as f16")] = False,
    as_json: Json = False,
) -> None:
    """Compute every hash anew, from the model's files back to the cards; exit status 1 when one is broken."""
    from tools.export.verify import verify as compute

    found = compute(Workspace.open(Settings()), model, fused)
    if as_json:
        _out(found.model_dump(), True)
    else:
        for part in found.broken:
            _out(f"{part.stage}: {part.path} {part.problem}", False)
        _out(f"{model}: {'intact' if found.ok else 'BROKEN'}, {found.files} files", False)
        for note in found.notes:
            _out(note, False)
    if not found.ok:
        raise typer.Exit(1)


@models_app.command()
def promote(
    model: Model,
    force: Annotated[str, typer.Option(help="the reason to promote even if a check failed; it is kept")] = "",
    as_json: Json = False,
) -> None:
    """Let a model answer that passed the gate before (`evaluate_model` with `model` runs it) and is still intact."""
    from tools.export.promotion import promote_anew

    overruled = promote_anew(Workspace.open(Settings()), model, force)
    if overruled:
        sys.stderr.write(f"The gate is overruled: {overruled}. Kept as the reason: {force.strip()}\n")
    _out({"promoted": model, "forced": force} if as_json else f"{model} answers from now on", as_json)


@models_app.command()
def rollback(
    none: Annotated[bool, typer.Option("--none", help="leave no model promoted, as before the first")] = False,
    as_json: Json = False,
) -> None:
    """Let the model that answered before answer again."""
    from tools.export.promotion import rollback as go_back
    from tools.export.promotion import withdraw

    workspace = Workspace.open(Settings())
    if none:
        name = withdraw(workspace)
        _out({"promoted": None} if as_json else f"No model is promoted any more; {name} was", as_json)
    else:
        name = go_back(workspace)
        _out({"promoted": name} if as_json else f"{name} answers again", as_json)
