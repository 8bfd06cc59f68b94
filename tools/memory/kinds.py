"""The kinds of memory, apart from the store so that they can be named without loading it."""

from typing import Literal

EntryKind = Literal["fact", "definition", "pattern", "rule", "correction", "insight", "run_note"]
