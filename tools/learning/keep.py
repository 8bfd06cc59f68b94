"""Keep the insights that were found in a transcript or a diff, as memories.

    found = keep_insights(workspace, "User: From now on, commit messages are in English.")
    found[0].kept.entry.status      # 'approved': sure enough; what is less sure is pending, and waits for a yes
    approve(workspace, "mem-…")     # the yes

The user's own words count as such (tools/memory/conflicts.py: they win over what others say), but only when it is sure
that they were meant to be remembered.
"""

from pydantic import BaseModel

from tools.errors import ConflictError
from tools.learning.detect import Candidate, find_candidates
from tools.learning.diffs import is_diff
from tools.memory.entries import SURE, Entry
from tools.memory.kept import Kept
from tools.memory.store import MemoryStore
from tools.workspace import Workspace


class Insight(BaseModel):
    """A candidate, and what became of it; `kept` is None when it was only looked for."""

    candidate: Candidate
    kept: Kept | None = None


def keep_insights(workspace: Workspace, text: str, keep: bool = True) -> list[Insight]:
    """The insights in `text`, surest first; with `keep` they are remembered, pending below a confidence of 0.8.

    Raises:
        InputError, LimitError, ConflictError, MissingError: as `MemoryStore.remember`.
    """
    memory, origin = MemoryStore(workspace), "diff" if is_diff(text) else "transcript"
    found = []
    for candidate in find_candidates(text):
        said = origin == "transcript" and candidate.confidence >= SURE
        kept = None
        if keep:
            source = f"user, in a {origin}" if said else origin
            kept = memory.remember(
                candidate.text,
                candidate.kind,
                source=source,
                confidence=candidate.confidence,
                priority=_priority(candidate),
            )
        found.append(Insight(candidate=candidate, kept=kept))
    return found


def approve(workspace: Workspace, id: str) -> Entry:
    """Say yes to a pending insight, which then wins over what it contradicts; one that holds already stays as it is.

    Raises:
        NotFoundError: there is none of this id.
        ConflictError: it is archived.
    """
    memory = MemoryStore(workspace)
    entry = memory.get(id)
    if entry.status == "archived":
        raise ConflictError(f"{id} is archived.", "remember its text again to bring it back")
    if entry.status != "pending":
        return entry
    return memory.remember(entry.text, entry.kind, source=entry.source, status="approved").entry


def _priority(candidate: Candidate) -> float:
    """What was corrected three times is the most urgent; what was only said to be remembered the least."""
    return {"correction": 0.9, "rule": 0.7, "definition": 0.6}.get(candidate.kind, 0.5)
