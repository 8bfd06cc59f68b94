"""A repaired copy of a dataset under a new name; the original is not touched.

    fixed = fix_dataset(workspace, "holds")     # holds-fixed, or with a number when that is taken
    fixed.changes     # [Change(line=3, action='mended', field='output', message='line ends'), …]
    fixed.file        # changes.json in the new dataset, which lists them all

Mended: byte order marks, line ends, white space around a text, control characters, a modification policy that the level
does not allow. Dropped: rows that still have errors, and all but the first of rows that say the same. Questions with
several answers stay, since only a person knows which answer is right.
"""

from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any, Literal

from pydantic import BaseModel

from tools.data.checks import row_errors
from tools.data.datasets import Manifest, create, kept_material, read_manifest
from tools.data.examples import Example, parse_row
from tools.data.lines import json_values
from tools.data.repeats import Prints
from tools.errors import InputError
from tools.files import write_json
from tools.policy.levels import LEVELS
from tools.workspace import Workspace

CHANGES = "changes.json"
_TEXTS = ("instruction", "input", "output", "system")
_INVISIBLE = {ord(sign): None for sign in "\ufeff\u200b\u2060"} | {
    code: None for code in (*range(32), 127) if chr(code) not in "\t\n\r"
}


class Change(BaseModel):
    """What was done with a line of the original."""

    line: int
    action: Literal["mended", "dropped"]
    field: str
    message: str


class Fixed(BaseModel):
    """The new dataset, and every change that led to it."""

    dataset: str
    rows: int
    mended: int
    dropped: int
    changes: list[Change]
    file: Path

    def summary(self) -> str:
        """What was done, in a sentence."""
        return f"{self.dataset}: {self.mended} rows mended, {self.dropped} dropped"


def fix_dataset(
    workspace: Workspace, name: str, new_name: str | None = None, watch: Callable[[int], None] | None = None
) -> Fixed:
    """Write the rows of dataset `name` that are right or can be mended as a draft dataset, `NAME-fixed` by default.

    Every change stands in its changes.json. The rows pass by twice and are never held; `watch` is told how many there
    were so far, every thousand.

    Raises:
        NotFoundError: no such dataset.
        InputError: no row is left, or the file cannot be read at all.
        ConflictError: `new_name` is taken by other rows.
    """
    folder = workspace.dataset(name)
    old = read_manifest(folder)
    changes: list[Change] = []
    if not sum(1 for _ in fixed_rows(folder / "rows.jsonl", changes, watch)):
        raise InputError(f"No row of {name!r} can be mended.", f"validate_dataset(dataset={name!r}) says why")
    mended = len({change.line for change in changes if change.action == "mended"})
    dropped = len({change.line for change in changes if change.action == "dropped"})
    made: Manifest = create(
        workspace,
        new_name,
        fixed_rows(folder / "rows.jsonl", [], watch),
        title=f"{name}-fixed",
        seed=old.seed,
        sources=old.sources,
        notes=[*old.notes, f"Repaired from {name!r}: {mended} rows mended, {dropped} dropped."],
        terms=old.terms,
        material=kept_material(folder),
    )
    file = workspace.dataset(made.name) / CHANGES
    fixed = Fixed(dataset=made.name, rows=made.rows, mended=mended, dropped=dropped, changes=changes, file=file)
    write_json(file, {"of": name, **fixed.model_dump(include={"mended", "dropped", "changes"})})
    return fixed


def fixed_rows(path: Path, changes: list[Change], watch: Callable[[int], None] | None = None) -> Iterator[Example]:
    """The rows of `path` that are right or can be mended; what was done is added to `changes`."""
    prints = Prints(signatures=False)
    first: dict[tuple[int, int], int] = {}
    for passed, (line, value) in enumerate(json_values(path)):
        if watch and passed % 1000 == 0:
            watch(passed)
        made = [] if not isinstance(value, dict) else _mend(value, line)
        row = parse_row(value, line)
        errors = row if isinstance(row, list) else row_errors(line, row)
        if errors or isinstance(row, list):
            changes += [Change(line=line, action="dropped", field=e.field, message=e.message) for e in errors]
            continue
        prints.add(line, row)
        same = first.setdefault((prints.asked[-1], prints.answered[-1]), line)
        if same != line:
            changes.append(Change(line=line, action="dropped", field="", message=f"says the same as line {same}"))
            continue
        changes += made
        yield row


def _mend(value: dict[str, Any], line: int) -> list[Change]:
    """Mend what can be mended in `value` itself."""
    found: list[Change] = []

    def mended(field: str, message: str) -> None:
        found.append(Change(line=line, action="mended", field=field, message=message))

    for field in _TEXTS:
        text = value.get(field)
        if not isinstance(text, str):
            continue
        clean = text.replace("\r\n", "\n").replace("\r", "\n")
        if clean != text:
            mended(field, "line ends")
        if (visible := clean.translate(_INVISIBLE)) != clean:
            mended(field, "invisible and control characters removed")
        if (stripped := visible.strip()) != visible:
            mended(field, "white space around the text removed")
        value[field] = stripped
    metadata = value.get("metadata")
    level = LEVELS.get(str(metadata.get("preservation_level", "moderate"))) if isinstance(metadata, dict) else None
    if level and metadata and metadata.get("modification_policy", "preserve_structure") not in level.policies:
        metadata["modification_policy"] = level.policies[0]
        mended("metadata.modification_policy", f"{level.policies[0]}, as level {level.name} asks for")
    return found
