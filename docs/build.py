"""Writes docs/reference/*.md from the code, so that what they say cannot drift from it.

    .venv/bin/python -P docs/build.py            # write what changed
    .venv/bin/python -P docs/build.py --check    # name what is not as the code has it, and end with status 1

pages() -> {"tools.md": text, …}: what an MCP client sees (tools, resources, prompts), what typer knows of the command
line, and what pydantic knows of presets, settings and rows. A test compares the pages with what is committed.
"""

import argparse
import json
import os
import sys
from collections.abc import Iterable
from pathlib import Path
from typing import Any

FOLDER = Path(__file__).resolve().parent / "reference"
_NOTE = "<!-- Written by docs/build.py from the code: change the code, then `make docs`. -->"


def pages() -> dict[str, str]:
    """Every page of the reference by its file name."""
    listed = _listed()
    made = {
        "tools.md": _tools(listed["tools"]),
        "resources.md": _resources(listed["resources"], listed["templates"]),
        "prompts.md": _prompts(listed["prompts"]),
        "cli.md": _cli(),
        "presets.md": _presets(),
        "settings.md": _settings(),
        "rows.md": _rows(),
    }
    return {name: f"{text.strip()}\n\n{_NOTE}\n" for name, text in made.items()}


def _listed() -> dict[str, list[Any]]:
    """What a client is told by the server, over an empty workspace."""
    import anyio
    from mcp import Client

    from server.app import build_server

    async def ask() -> dict[str, list[Any]]:
        async with Client(build_server()) as client:
            return {
                "tools": (await client.list_tools()).tools,
                "resources": (await client.list_resources()).resources,
                "templates": (await client.list_resource_templates()).resource_templates,
                "prompts": (await client.list_prompts()).prompts,
            }

    return anyio.run(ask)


def _tools(tools: list[Any]) -> str:
    parts = [
        "# Tools",
        (
            "What an agent sees: `show`, then the others in the order of the data. `looptune call NAME key=value` "
            "calls one from a shell, `looptune tools --json` prints the schemas."
        ),
        _table(("tool", "what it does"), [(f"[`{t.name}`](#{t.name})", _first(t.description)) for t in tools]),
    ]
    for tool in tools:
        hints = tool.annotations
        traits = [
            "reads only" if hints and hints.read_only_hint else "writes",
            *(["may destroy"] if hints and hints.destructive_hint else []),
            *(["safe to repeat"] if hints and hints.idempotent_hint else []),
        ]
        schema, result = tool.input_schema, tool.output_schema or {}
        parts += [f"## {tool.name}", f"{_line(tool.description)}\n\n*{tool.title}; {', '.join(traits)}.*"]
        if schema.get("properties"):
            parts.append(_arguments(schema))
        if result.get("properties"):
            names = ", ".join(f"`{name}` ({_type(field, result)})" for name, field in result["properties"].items())
            parts.append(f"Returns {names}.")
    return "\n\n".join(parts)


def _arguments(schema: dict[str, Any]) -> str:
    """A table of arguments, and one for each kind of object in them."""
    needed = schema.get("required", [])
    rows = [
        (
            f"`{name}`",
            _type(field, schema),
            "required" if name in needed else f"`{_plain(field.get('default'))}`",
            _line(field.get("description", "")),
        )
        for name, field in schema["properties"].items()
    ]
    parts = [_table(("argument", "type", "default", ""), rows)]
    for name, inner in schema.get("$defs", {}).items():
        if inner.get("properties"):
            parts += [f"`{name}`: {_line(inner.get('description', ''))}", _arguments(inner)]
    return "\n\n".join(parts)


def _resources(resources: list[Any], templates: list[Any]) -> str:
    rows = [(f"`{r.uri}`", _line(r.description)) for r in resources]
    rows += [(f"`{t.uri_template}`", _line(t.description)) for t in templates]
    return "\n\n".join(
        [
            "# Resources",
            (
                "Read-only views, as JSON. `looptune resource URI` reads one from a shell; without a URI it lists "
                "them. Those with braces take a name or an id."
            ),
            _table(("resource", "what it shows"), sorted(rows)),
        ]
    )


def _prompts(prompts: list[Any]) -> str:
    parts = ["# Prompts", "The common jobs, as a person would ask an agent for them. Hosts show them as commands."]
    for prompt in prompts:
        parts += [f"## {prompt.name}", f"{_sentence(prompt.title)} {_line(prompt.description)}"]
        if prompt.arguments:
            rows = [
                (f"`{a.name}`", "required" if a.required else "optional", _line(a.description or ""))
                for a in prompt.arguments
            ]
            parts.append(_table(("argument", "", ""), rows))
    return "\n\n".join(parts)


def _cli() -> str:
    import typer
    from typer.cli import get_docs_for_click

    from server.cli.main import app

    command = typer.main.get_command(app)
    with typer.Context(command) as context:
        text = get_docs_for_click(obj=command, ctx=context, name="looptune", title="The command line")
    opening = (
        "\n\nExit status: 0 done; 1 a check, a gate or a tool that was called said no (also to a name that it does not "
        "know), or a job failed; 2 wrong use. With `--json`, stdout is one JSON value and nothing else; progress and "
        "messages go to stderr."
    )
    title, _, rest = text.partition("\n")
    return f"{title}{opening}\n{rest}"


def _presets() -> str:
    from tools.training.config import ALIASES, RESUMABLE, TrainingConfig, preset_keys, preset_names

    names = preset_names()
    recipes = {name: preset_keys(name) for name in names}
    schema = TrainingConfig.model_json_schema()
    fields = {name: field for name, field in schema["properties"].items() if name not in ("preset", "dataset")}
    resuming = dict.fromkeys(RESUMABLE, " (may change on resuming)") | {"epochs": " (may be lowered on resuming)"}
    also = ", ".join(f"`{alias}` stands for `{name}`" for alias, name in ALIASES.items())
    values = [
        (f"`{name}`", *(f"`{_plain(recipe[name])}`" if name in recipe else "" for recipe in recipes.values()))
        for name in fields
        if any(name in recipe for recipe in recipes.values())
    ]
    meanings = [
        (
            f"`{name}`",
            _type(field, schema),
            f"`{_plain(field['default'])}`" if "default" in field else "required",
            _line(field.get("description", "")) + resuming.get(name, ""),
        )
        for name, field in fields.items()
    ]
    return "\n\n".join(
        [
            "# Presets",
            (
                f"A preset is a complete recipe; any field of it can be overridden, in a tool's `settings` or with "
                f"`looptune plan --set key=value`. {also}. [Training](../training.md) says what each is meant for."
            ),
            _table(("field", *(f"`{name}`" for name in names)), values),
            "What a preset leaves empty has the default below.",
            "## Fields",
            _table(("field", "type", "default", "meaning"), meanings),
        ]
    )


def _settings() -> str:
    from tools.settings import Settings

    schema = Settings.model_json_schema()
    plain = {name: field.default for name, field in Settings.model_fields.items()}
    rows = [
        (
            f"`LOOPTUNE_{name.upper()}`",
            _type(field, schema),
            f"`{_plain(str(plain[name]) if isinstance(plain[name], Path) else plain[name])}`",
            _line(field.get("description", "")),
        )
        for name, field in schema["properties"].items()
    ]
    return "\n\n".join(
        [
            "# Settings",
            (
                "Read from the environment. A host that starts the server passes them in its `env` block "
                "(`looptune print-config HOST`)."
            ),
            _table(("variable", "type", "default", "meaning"), rows),
        ]
    )


def _rows() -> str:
    from tools.data.schema import row_schema

    schema = row_schema()
    parts = [
        "# Row schema",
        (
            "One row of a dataset. The same as JSON Schema: [schema.json](../../datasets/schema.json); with examples "
            "of each kind and of the other forms that are read: [the dataset format](../dataset-format.md)."
        ),
        _fields(schema, schema),
    ]
    for name, inner in schema.get("$defs", {}).items():
        if inner.get("properties"):
            parts += [f"## {name}", _line(inner.get("description", "")), _fields(inner, schema)]
    return "\n\n".join(parts)


def _fields(part: dict[str, Any], whole: dict[str, Any]) -> str:
    needed = part.get("required", [])
    rows = []
    for name, field in part["properties"].items():
        default = (
            "required" if name in needed else f"`{_plain(field['default'])}`" if "default" in field else "optional"
        )
        rows.append((f"`{name}`", _type(field, whole), default, _line(field.get("description", ""))))
    return _table(("field", "type", "default", "meaning"), rows)


def _type(field: dict[str, Any], whole: dict[str, Any]) -> str:
    """A JSON Schema type in words, with its bounds."""
    if "$ref" in field:
        name = field["$ref"].rpartition("/")[2]
        inner = whole.get("$defs", {}).get(name, {})
        return f"`{name}`" if inner.get("properties") else _type(inner, whole)
    if "const" in field:
        return f"`{field['const']}`"
    if "enum" in field:
        return ", ".join(f"`{value}`" for value in field["enum"])
    if options := field.get("anyOf") or field.get("oneOf"):
        return " or ".join(_type(option, whole) for option in options)
    kind = field.get("type", "anything")
    if isinstance(kind, list):
        return " or ".join(_type({**field, "type": one}, whole) for one in kind)
    names = {"string": "text", "integer": "whole number", "boolean": "true or false", "null": "null"}
    said = names.get(kind, kind)
    if kind == "array" and (pair := field.get("prefixItems")):
        return f"[{', '.join(_type(part, whole) for part in pair)}]"
    if kind == "array":
        inner = _type(field["items"], whole) if field.get("items") else ""
        said = f"list of ({inner})" if " " in inner else f"list of {inner}" if inner else "list"
    bounds = _bounds(field)
    return f"{said}, {bounds}" if bounds else said


def _bounds(field: dict[str, Any]) -> str:
    low, high = field.get("minimum"), field.get("maximum")
    said = []
    if low is not None and high is not None:
        said.append(f"{low:,} to {high:,}")
    else:
        for key, word in (("minimum", "at least"), ("exclusiveMinimum", "above"), ("maximum", "at most")):
            if key in field:
                said.append(f"{word} {field[key]:,}")
    if "exclusiveMaximum" in field:
        said.append(f"below {field['exclusiveMaximum']:,}")
    if "maxLength" in field:
        said.append(f"up to {field['maxLength']:,} characters")
    if "maxItems" in field:
        said.append(f"at most {field['maxItems']}")
    return ", ".join(said)


def _plain(value: Any) -> str:
    """A value as JSON says it."""
    return json.dumps(value, ensure_ascii=False, default=str) if not isinstance(value, str) else f'"{value}"'


def _line(text: str) -> str:
    return " ".join((text or "").split())


def _sentence(text: str) -> str:
    """With a full stop, unless it ends in a mark of its own."""
    return text if text.endswith(("?", "!", ".")) else f"{text}."


def _first(text: str) -> str:
    """The first sentence."""
    return _line(text).partition(". ")[0].rstrip(".") + "."


def _table(head: Iterable[str], rows: Iterable[Iterable[str]]) -> str:
    def row(cells: Iterable[str]) -> str:
        return "| " + " | ".join(cell.replace("|", "\\|").replace("\n", " ") for cell in cells) + " |"

    head = list(head)
    return "\n".join([row(head), "|" + "---|" * len(head), *map(row, rows)])


def main() -> int:
    """The command: write, or with --check only compare."""
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--check", action="store_true", help="compare with what is there, and write nothing")
    check = parser.parse_args().check
    wanted = pages()
    there = {path.name: path.read_text(encoding="utf-8") for path in FOLDER.glob("*.md")}
    changed = sorted(name for name in wanted.keys() | there.keys() if wanted.get(name) != there.get(name))
    if not check:
        FOLDER.mkdir(exist_ok=True)
        for name in changed:
            if name in wanted:
                (FOLDER / name).write_text(wanted[name], encoding="utf-8")
            else:
                (FOLDER / name).unlink()
    print(f"{'not as the code has it' if check else 'written'}: {', '.join(changed) or 'nothing'}")
    return 1 if check and changed else 0


if __name__ == "__main__":
    os.environ.setdefault("COLUMNS", "100")
    sys.exit(main())
