"""What the memory answers: what became of a text that was remembered, and what the store is made of.

kept = MemoryStore(workspace).remember("Refunds within 14 days.", kind="rule")
kept.new, [conflict.holds for conflict in kept.conflicts]
"""

from pydantic import BaseModel, Field

from tools.memory.entries import Entry


class Alike(BaseModel):
    """A known entry that says nearly the same as a new one."""

    id: str
    text: str
    similarity: float


class Conflict(BaseModel):
    """Two entries that contradict each other, and which of them holds."""

    id: str = Field(description="the entry that was known before")
    known: str
    new: str
    reason: str
    holds: str = Field(description="id of the entry that wins; both are kept")
    rule: str

    @classmethod
    def of(cls, new: Entry, known: Entry, reason: str, winner: Entry, rule: str) -> "Conflict":
        """The conflict of two entries, one of which is the `winner`."""
        return cls(id=known.id, known=known.text, new=new.text, reason=reason, holds=winner.id, rule=rule)


class Kept(BaseModel):
    """What became of a text that was to be remembered."""

    entry: Entry
    new: bool
    changed: bool = Field(description="a known entry learned something: a tag, a link, more confidence")
    near: list[Alike] = []
    conflicts: list[Conflict] = []


class StoreInfo(BaseModel):
    """What the store is made of and how much is in it."""

    embedding_model: str
    dimensions: int
    count: int
    by_status: dict[str, int]
    by_kind: dict[str, int]
    waiting: int = Field(description="entries not yet in Chroma; they are searched too")
    path: str
    server: str = Field(description="the Chroma server; '' when the index is in the workspace")
