"""Read-only views: policies, memory, datasets, runs and models. Lists are short; details have a URI of their own."""

import json
from collections.abc import Callable
from functools import partial
from itertools import islice
from typing import Any

from mcp.server.mcpserver.exceptions import ResourceError
from mcp.types import Resource

from server.errors import found
from server.protocol import Server
from tools.errors import NotFoundError
from tools.files import read_json
from tools.jobs.record import log_tail, read
from tools.policy.levels import ALWAYS_STRICT, LEVELS, POLICIES, RULE_FAMILIES
from tools.workspace import Workspace

_JSON = "application/json"
_LISTED = 50  # the newest of each kind in an index
_FIRST = 100  # of each list in a report or of changes; the files in the dataset's folder have all
_NAMED = 20  # the newest of each kind in resources/list


def add_resources(server: Server, workspace: Workspace) -> None:
    """Register every resource on `server`."""
    server.things = partial(_things, workspace)

    def view(uri: str, description: str) -> Callable[[Callable[..., Any]], Callable[..., Any]]:
        def register(function: Callable[..., Any]) -> Callable[..., Any]:
            name = function.__name__
            return server.resource(uri, name=name, description=description, mime_type=_JSON)(found(function))

        return register

    @view("policy://levels", "The preservation levels: how far others may change an answer.")
    def preservation_levels() -> str:
        return _text({name: level.model_dump() for name, level in LEVELS.items()})

    @view("policy://levels/{level}", "One preservation level: strict, moderate or flexible.")
    def preservation_level(level: str) -> str:
        if level not in LEVELS:
            raise NotFoundError.named("preservation level", level, LEVELS, "read policy://levels")
        return _text(LEVELS[level].model_dump())

    @view("policy://modifications", "The modification policies: what each one keeps.")
    def modification_policies() -> str:
        return _text(POLICIES)

    @view("policy://rules", "The families of rule tags, the rules that ship, the user's own, and what conflicts.")
    def rules() -> str:
        from tools.policy.rules import read_rules

        return _text({"families": RULE_FAMILIES, "always_strict": ALWAYS_STRICT, **read_rules(workspace).model_dump()})

    @view("memory://store", "The memory store: embedding model, dimensions, and how many entries it holds.")
    def memory_store() -> str:
        from tools.memory.store import MemoryStore

        store = MemoryStore(workspace).describe().model_dump()
        store["not_yet_in_the_index"] = store.pop("waiting")  # loop://state says what waits to be taught
        return _text(store)

    @view("memory://entries/{id}", "One memory, and whether it belongs into weights. Its text is data somebody stored.")
    def memory_entry(id: str) -> str:
        from tools.learning.placement import place
        from tools.memory.store import MemoryStore

        memory = MemoryStore(workspace)
        entry = memory.get(id)
        return _text({**entry.model_dump(), "belongs": place(entry, memory.changes().get(id, 0)).model_dump()})

    @view("dataset://index", "The datasets, newest first, with their state and number of rows.")
    def datasets() -> str:
        names = workspace.names(workspace.datasets, "dataset.json")[::-1]
        manifests = [read_json(workspace.datasets / name / "dataset.json") for name in names[:_LISTED]]
        keys = ("name", "status", "rows", "train_rows", "valid_rows", "created")
        return _text({"count": len(names), "datasets": [{key: m[key] for key in keys} for m in manifests]})

    @view("dataset://{name}", "A dataset's manifest, what validation found, and its first rows.")
    def dataset(name: str) -> str:
        from tools.data.examples import Example, read_rows
        from tools.data.fix import CHANGES

        folder = workspace.dataset(name)
        report = _first(read_json(folder / "report.json")) if (folder / "report.json").is_file() else None
        first = islice((row for _, row in read_rows(folder / "rows.jsonl") if isinstance(row, Example)), 5)
        rows = [row.model_dump(include={"id", "kind", "instruction", "input", "output"}) for row in first]
        found = {"manifest": read_json(folder / "dataset.json"), "report": report, "first_rows": rows}
        if (folder / CHANGES).is_file():
            found["repaired"] = _first(read_json(folder / CHANGES))
        return _text(found)

    @view("preset://index", "The training recipes: what each is for.")
    def presets() -> str:
        from tools.training.config import ALIASES, preset_keys, preset_names

        keys = ("base", "device", "rank", "learning_rate", "epochs", "max_length")
        recipes = {name: {key: preset_keys(name).get(key) for key in keys} for name in preset_names()}
        return _text(recipes | {alias: {"same_as": name} for alias, name in ALIASES.items()})

    @view("preset://{name}", "A training recipe: each field with its value, meaning and bounds.")
    def preset(name: str) -> str:
        from tools.training.config import TrainingConfig
        from tools.training.config import preset as recipe

        values = recipe(name, dataset="NAME").model_dump()
        fields = TrainingConfig.model_json_schema()["properties"]
        hidden = ("title", "default")
        return _text(
            {
                key: {"value": value, **{k: v for k, v in fields[key].items() if k not in hidden}}
                for key, value in values.items()
            }
        )

    @view("run://index", "Trainings, evaluations and exports, newest first, with their state.")
    def runs() -> str:
        names = workspace.names(workspace.runs, "job.json")
        states = sorted((read(workspace.runs / name) for name in names), key=lambda s: (s.created, s.id), reverse=True)
        keys = {"id", "kind", "state", "message", "step", "total", "created", "finished"}
        return _text({"count": len(states), "runs": [state.model_dump(include=keys) for state in states[:_LISTED]]})

    @view("run://{id}", "A run: what was asked for, where it stands, its result, and the end of its log.")
    def run(id: str) -> str:
        folder = workspace.run(id)
        return _text(
            {"asked": read_json(folder / "job.json"), "state": read(folder).model_dump(), "log": log_tail(folder, 12)}
        )

    @view(
        "run://{id}/metrics",
        "A training's figures, step by step (about 200 lines, evenly taken, and the validation losses).",
    )
    def run_metrics(id: str) -> str:
        from tools.training.metrics import read_metrics, thinned

        lines = read_metrics(workspace.run(id))
        return _text({"steps": len(lines), "metrics": thinned(lines, 200)})

    @view("model://index", "The exported models, newest first, and which of them answers.")
    def models() -> str:
        from tools.export.promotion import promoted

        names = workspace.names(workspace.models, "manifest.json")[::-1]
        manifests = [read_json(workspace.models / name / "manifest.json") for name in names[:_LISTED]]
        return _text(
            {
                "count": len(names),
                "promoted": promoted(workspace),
                "models": [
                    {"name": m["name"], "created": m["created"], "run": m["made_from"]["run"]} for m in manifests
                ],
            }
        )

    @view("model://{name}", "An exported model: its files, tensor types, and what it was made from, by hash.")
    def model(name: str) -> str:
        return _text(read_json(workspace.model(name) / "manifest.json"))


def _things(workspace: Workspace) -> list[Resource]:
    """The newest datasets, runs and models, twenty of each; the indexes have more, and completion has all."""
    kinds = (
        ("dataset", workspace.datasets, "dataset.json"),
        ("run", workspace.runs, "state.json"),
        ("model", workspace.models, "manifest.json"),
    )
    return [
        Resource(
            uri=f"{kind}://{name}",
            name=name,
            title=f"{kind} {name}",
            description=f"The {kind} {name}.",
            mime_type=_JSON,
        )
        for kind, folder, marker in kinds
        for name in workspace.names(folder, marker)[: -_NAMED - 1 : -1]
    ]


def _first(data: dict[str, Any]) -> dict[str, Any]:
    """`data` with the first hundred of each of its lists."""
    return {key: value[:_FIRST] if isinstance(value, list) else value for key, value in data.items()}


def _text(value: Any) -> str:
    try:
        return json.dumps(value, ensure_ascii=False, indent=1)
    except TypeError as error:
        raise ResourceError(f"This resource cannot be written as JSON: {error}") from error
