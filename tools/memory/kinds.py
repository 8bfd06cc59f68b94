"""The kinds and states of memory, apart from the store so that they can be named without loading it."""

from typing import Literal

EntryKind = Literal["fact", "definition", "pattern", "rule", "correction", "insight", "run_note"]

# pending: waits for a yes. approved: holds. trained: a run was taught it. verified: a model answered it right.
# archived: the model knows it, or somebody put it away; default queries do not return it.
EntryStatus = Literal["pending", "approved", "trained", "verified", "archived"]
