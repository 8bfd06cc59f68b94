"""A dataset as data for a picture: what it is made of, what repeats, and rows to page through with their loss mask.

    dataset_view(workspace, "holds", first=0, count=10, find="hold")
    dataset_view(workspace, "holds", masks=Masks(tokenizer, "smollm2-135m-instruct", 512))

What validation found comes from its report; a dataset that was never validated has none, and the view says so.
"""

from collections.abc import Iterator
from dataclasses import dataclass
from itertools import islice
from pathlib import Path
from typing import Any

from tools.data.datasets import read_manifest
from tools.data.examples import Example, read_rows
from tools.data.tokens import encode_row, pieces
from tools.files import read_json
from tools.workspace import Workspace

_LISTED = 50  # errors and groups of duplicates
_LINES = 20  # lines of one group
_SHOWN = 4000  # characters of a question or an answer
_TOKENS = 1500  # tokens of a row


@dataclass(frozen=True)
class Masks:
    """What is needed to show which tokens are trained: a tokenizer, its base's name, and where rows are cut."""

    tokenizer: Any
    base: str
    max_length: int


def dataset_view(
    workspace: Workspace, name: str, first: int = 0, count: int | None = 10, find: str = "", masks: Masks | None = None
) -> dict[str, Any]:
    """Everything that the dataset view draws, as JSON data.

    Args:
        first, count: which rows, of those that hold `find` in question or answer, whatever its case; with None all.

    Raises:
        NotFoundError: no such dataset.
    """
    folder = workspace.dataset(name)
    manifest = read_manifest(folder)
    view = manifest.model_dump(include={"name", "status", "rows", "train_rows", "valid_rows", "kinds", "sections"})
    material = [*manifest.terms, *manifest.sources]
    view["about"] = ", ".join(material[:4]) + (f" and {len(material) - 4} more" if len(material) > 4 else "")
    view["report"] = (folder / "report.json").is_file() and manifest.status != "draft"
    if view["report"]:
        view |= _found(read_json(folder / "report.json"))
    else:
        view["warnings"] = ["It has not been validated yet, so nothing is known of duplicates and errors."]
    view["page"] = _page(folder, first, count, find.casefold(), manifest.rows, masks)
    return view


def told(view: dict[str, Any]) -> str:
    """The view in a few lines, for who cannot see it."""
    kinds = ", ".join(f"{count} {kind}" for kind, count in view["kinds"].items())
    split = f"{view['train_rows']} for training, {view['valid_rows']} held back"
    lines = [f"{view['name']} is {view['status']}: {view['rows']} rows ({kinds}), {split}."]
    if view["report"]:
        repeated = view["duplicate_rows"]
        lines.append(
            f"{view['error_count']} errors, {repeated['exact']} exact and {repeated['near']} near duplicates, "
            f"{view['contradictions']} contradictions."
        )
    lines += view["warnings"]
    page = view["page"]
    lines.append(f"Rows {page['first'] + 1} to {page['first'] + len(page['rows'])} of {page['total']} (data):")
    lines += [f"line {r['line']} {r['kind']}: {r['question'][:90]!r} → {r['answer'][:90]!r}" for r in page["rows"][:5]]
    return "\n".join(lines)


def _found(report: dict[str, Any]) -> dict[str, Any]:
    figures = report["statistics"]
    return {
        "levels": figures.get("levels", {}),
        "lengths": figures.get("output_histogram", []),
        "error_count": sum(figures.get("errors", {}).values()),
        "errors": report["errors"][:_LISTED],
        "duplicate_rows": figures["duplicate_rows"],
        "duplicates": [{**d, "lines": d["lines"][:_LINES]} for d in report["duplicates"][:_LISTED]],
        "duplicate_groups": len(report["duplicates"]),
        "contradictions": figures["contradictory_questions"],
        "warnings": report["warnings"],
    }


def _page(folder: Path, first: int, count: int | None, find: str, rows: int, masks: Masks | None) -> dict[str, Any]:
    held = _held_back(folder)
    if find:
        lines = [line for line, row in _examples(folder) if find in f"{row.question}\n{row.answer}".casefold()]
        chosen = lines[first:] if count is None else lines[first : first + count]
        shown, total = list(_examples(folder, set(chosen))) if chosen else [], len(lines)
    else:
        stop = None if count is None else first + count
        shown, total = list(islice(_examples(folder), first, stop)), rows
    return {
        "first": first,
        "count": count or len(shown),
        "total": total,
        "base": masks.base if masks else "",
        "max_length": masks.max_length if masks else 0,
        "note": "",
        "rows": [_row(line, row, held, masks) for line, row in shown],
    }


def _examples(folder: Path, only: set[int] | None = None) -> Iterator[tuple[int, Example]]:
    for line, row in read_rows(folder / "rows.jsonl", only):
        if isinstance(row, Example):
            yield line, row


def _held_back(folder: Path) -> set[str] | None:
    """The held-out rows as text; None before there is a split."""
    path = folder / "valid.jsonl"
    return set(path.read_text(encoding="utf-8").splitlines()) if path.is_file() else None


def _row(line: int, row: Example, held: set[str] | None, masks: Masks | None) -> dict[str, Any]:
    part = "" if held is None else "held back" if row.model_dump_json() in held else "training"
    shown: dict[str, Any] = {
        "line": line,
        "part": part,
        "kind": row.kind,
        "level": row.metadata.preservation_level,
        "rules": row.metadata.rule_compliance[:6],
        "question": row.question[:_SHOWN],
        "answer": row.answer[:_SHOWN],
        "system": row.system[:_SHOWN],
        "history": [[question[:_SHOWN], answer[:_SHOWN]] for question, answer in row.history[:10]],
    }
    return shown | _masked(row, masks) if masks else shown


def _masked(row: Example, masks: Masks) -> dict[str, Any]:
    """The row's tokens as pieces of text; `spans` are the trained ones, the last `cut` are beyond the longest row."""
    encoded = encode_row(masks.tokenizer, row)
    kept = encoded.cut(masks.max_length) if encoded.start < masks.max_length else None
    texts, place_of = pieces(masks.tokenizer, encoded.ids[:_TOKENS])
    ends = kept.spans or ((kept.start, len(kept.ids)),) if kept else ()
    last = len(place_of) - 1
    return {
        "tokens": texts,
        "spans": [[place_of[min(begin, last)], place_of[min(end, last)]] for begin, end in ends],
        "trained": kept.trained if kept else 0,
        "length": len(encoded.ids),
        "cut": len(texts) - place_of[min(masks.max_length, last)],
    }
