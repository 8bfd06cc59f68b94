"""What a dataset has and lacks, for those who write its next rows.

    print(brief(workspace, "holds"))

By kind, preservation level and language of code: how many rows there are, what is thin, and what is missing.
"""

from collections import Counter
from collections.abc import Sequence
from typing import get_args

from tools.data.examples import Example, read_examples
from tools.data.kinds import Kind, Language
from tools.data.profile import language_of
from tools.policy.levels import LEVELS
from tools.workspace import Workspace

THIN = 0.05  # the share of rows below which something is there and still hardly taught
NAMES: dict[str, tuple[str, ...]] = {
    "Kinds": get_args(Kind),
    "Levels": tuple(LEVELS),
    "Languages": get_args(Language),
}


def brief(workspace: Workspace, name: str) -> str:
    """What dataset `name` has, what is thin and what is missing, a line for kinds, levels and languages each; for one
    that does not exist yet, what there may be.

    Raises:
        InputError: its rows have errors.
    """
    if name not in workspace.names(workspace.datasets, "dataset.json"):
        lines = [f"{title}: {', '.join(names)}." for title, names in NAMES.items()]
        return "\n".join(["There is no such dataset yet, so everything is missing.", *lines])
    rows = read_examples(workspace.dataset(name) / "rows.jsonl")
    return "\n".join(
        [
            f"It has {len(rows)} rows.",
            _line("Kinds", [row.kind for row in rows]),
            _line("Levels", [row.metadata.preservation_level for row in rows]),
            _line("Languages", [_language(row) for row in rows]),
        ]
    )


def _language(row: Example) -> str:
    """The language of the code in the answer, or what the row's teacher says of code that no fence names."""
    shown = language_of(row)
    return row.provenance.language or shown if shown == "text" else shown


def _line(title: str, found: Sequence[str]) -> str:
    counts = Counter(found)
    names = [*NAMES[title], *sorted(set(counts) - {*NAMES[title]})]
    there = ", ".join(f"{name} {counts[name]}" for name in names if counts[name])
    thin = ", ".join(f"{name} {counts[name]}" for name in names if 0 < counts[name] < THIN * len(found))
    missing = ", ".join(name for name in names if not counts[name])
    lacking = [
        f" Thin (under {THIN:.0%} of the rows): {thin}." if thin else "",
        f" Missing: {missing}." if missing else "",
    ]
    return f"{title}: {there}.{''.join(lacking)}"
