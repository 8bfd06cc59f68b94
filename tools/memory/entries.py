"""What a memory is: its fields and their bounds, the filter that selects some, and the checks that both pass.

entry = new_entry("Amounts are kept in cents.", kind="rule", tags=["business:money_in_cents"], source="user")
entry.id            # 'mem-…', made from kind and text, so that the same thing is kept once
Filter(kinds=["rule"], tags=["business:*"])
"""

import hashlib
import re
import unicodedata
from collections.abc import Iterable, Sequence
from datetime import UTC, datetime
from typing import Annotated, Any, TypeVar, get_args

from pydantic import BaseModel, ConfigDict, Field, ValidationError, model_validator

from tools.errors import InputError
from tools.memory.kinds import EntryKind, EntryStatus
from tools.policy.levels import PreservationLevel, level_of
from tools.policy.tags import check_rule

MAX_CHARACTERS = 8000
MAX_TAGS = 20
MAX_TAG_CHARACTERS = 64
MAX_SOURCE_CHARACTERS = 200
MAX_LINKS = 100
SURE = 0.8  # from this confidence on, what is remembered holds without a yes

_ID = re.compile(r"mem-[0-9a-f]{12}")
_Model = TypeVar("_Model", bound=BaseModel)
Share = Annotated[float, Field(ge=0, le=1)]


class Entry(BaseModel):
    """One thing remembered."""

    model_config = ConfigDict(extra="forbid")

    id: str
    text: str
    kind: EntryKind
    tags: list[str] = Field(default=[], description="rule tags, such as business:money_in_cents, and plain words")
    level: PreservationLevel = Field(
        default="moderate", description="how far others may change it; strict by the tags business:* and security:*"
    )
    source: str = Field(default="agent", description="who said it; what 'user' said wins over what others said")
    confidence: Share = 0.9
    priority: Share = 0.5
    created: str = Field(description="ISO-8601, UTC")
    updated: str = Field(description="ISO-8601, UTC: the last change of any field")
    status: EntryStatus = "approved"
    examples: list[str] = Field(default=[], description="ids of the rows that were made from it")
    runs: list[str] = Field(default=[], description="ids of the trainings that were taught it")
    superseded_by: str = Field(default="", description="id of the entry that contradicts it and wins")
    verified_by: str = Field(default="", description="the run or model that answered its probes right, last looked")
    misses: int = Field(default=0, ge=0, description="trainings that did not teach it, or lost it again")

    @model_validator(mode="after")
    def _as_strict_as_its_tags(self) -> "Entry":
        self.level = level_of(self.level, self.tags)
        return self


class Filter(BaseModel):
    """Which entries; every condition that is given has to hold. Without `statuses`, archived ones are left out."""

    model_config = ConfigDict(extra="forbid", frozen=True)

    kinds: list[EntryKind] = []
    tags: list[str] = Field(default=[], description="all of these; 'business:*' stands for a family")
    levels: list[PreservationLevel] = []
    statuses: list[EntryStatus] = []
    source: str = ""
    since: datetime | None = Field(default=None, description="created at or after this")
    until: datetime | None = Field(default=None, description="created before this")

    def says(self) -> bool:
        """Whether any condition is given."""
        return any(getattr(self, name) for name in type(self).model_fields)


EVERYTHING = Filter(statuses=list(get_args(EntryStatus)))


def new_entry(text: str, kind: EntryKind = "fact", tags: Sequence[str] = (), **fields: Any) -> Entry:
    """An entry made now, from the fields that a caller may give; `status` follows from source and confidence.

    Raises:
        InputError: an argument is not as expected.
    """
    text = check_text(text, "text", MAX_CHARACTERS)
    moment = now()
    given = {name: value for name, value in fields.items() if value is not None}
    entry = parsed(
        Entry,
        {
            **given,
            "id": entry_id(check_kind(kind), text),
            "text": text,
            "kind": kind,
            "tags": check_rules(check_tags(tags)),
            "source": check_text(given.get("source", "agent"), "source", MAX_SOURCE_CHARACTERS),
            "created": moment,
            "updated": moment,
            "examples": check_links(given.get("examples", ())),
            "runs": check_links(given.get("runs", ())),
        },
    )
    if "status" not in given:
        entry.status = "approved" if is_user(entry.source) or entry.confidence >= SURE else "pending"
    return entry


def is_user(source: str) -> bool:
    """Whether the user said it in so many words."""
    return source.split(",")[0].split(":")[0].strip().casefold() == "user"


def now() -> str:
    """This moment, as entries carry it."""
    return datetime.now(UTC).isoformat(timespec="microseconds")


def entry_id(kind: str, text: str) -> str:
    """The id of the entry of this kind and text; white space makes no difference."""
    normalized = " ".join(unicodedata.normalize("NFC", text).split())
    return "mem-" + hashlib.sha256(f"{kind}\n{normalized}".encode()).hexdigest()[:12]


def is_id(id: str) -> bool:
    """Whether `id` has the form of an entry's id."""
    return bool(_ID.fullmatch(id))


def parsed(model: type[_Model], values: dict[str, Any]) -> _Model:
    """`values` as a `model`. Raises InputError with the first field that is not as expected."""
    try:
        return model.model_validate(values)
    except ValidationError as error:
        first = error.errors(include_url=False)[0]
        where = ".".join(str(part) for part in first["loc"]) or "value"
        raise InputError(f"{where}: {first['msg']}; got {first['input']!r:.120}.", f"mend {where}") from error


def check_kind(kind: EntryKind) -> EntryKind:
    """`kind` itself. Raises InputError."""
    if kind not in get_args(EntryKind):
        raise InputError(
            f"Expected a kind of {', '.join(get_args(EntryKind))}; got {str(kind)[:80]!r}.",
            "use 'fact' when none of the others fits",
        )
    return kind


def check_text(text: str, what: str, most: int) -> str:
    """`text` without the white space around it. Raises InputError."""
    text = text.strip()
    if not 1 <= len(text) <= most:
        raise InputError(
            f"A {what} has 1 to {most} characters; this one has {len(text)}.",
            f"give a {what} that is shorter" if text else f"give a {what}",
        )
    if "\0" in text or any("\ud800" <= character <= "\udfff" for character in text):
        raise InputError(
            f"A {what} is Unicode text; this one holds a NUL character or half of a surrogate pair.",
            "leave these characters out",
        )
    return text


def check_tags(tags: Sequence[str]) -> list[str]:
    """`tags` without repetitions. Raises InputError."""
    if isinstance(tags, str):
        raise InputError(f"Expected a list of tags; got the text {tags[:80]!r}.", f"write [{tags[:64]!r}]")
    if len(tags) > MAX_TAGS:
        raise InputError(f"An entry has {MAX_TAGS} tags at most; got {len(tags)}.", "keep the most telling ones")
    return unique(check_text(tag, "tag", MAX_TAG_CHARACTERS) for tag in tags)


def check_rules(tags: list[str]) -> list[str]:
    """`tags` themselves. A tag with a colon is a rule tag, of a family that there is; one without is a plain word.

    Raises:
        InputError: a family is unknown; 'busines:x' would not be strict, and nobody would notice.
    """
    for tag in tags:
        if ":" in tag:
            check_rule(tag)
    return tags


def check_links(links: Sequence[str]) -> list[str]:
    """`links` without repetitions. Raises InputError."""
    if isinstance(links, str) or len(links) > MAX_LINKS:
        raise InputError(f"Expected a list of {MAX_LINKS} ids at most; got {str(links)[:80]!r}.", "give their ids")
    return unique(check_text(link, "link", MAX_SOURCE_CHARACTERS) for link in links)


def check_between(what: str, value: float, least: float, most: float) -> None:
    """Raises InputError when `value` is not from `least` to `most`."""
    if not least <= value <= most:
        raise InputError(f"Expected a {what} from {least} to {most}; got {value}.", f"choose a {what} between them")


def unique(names: Iterable[str]) -> list[str]:
    """`names` in their order, each once."""
    return list(dict.fromkeys(names))
