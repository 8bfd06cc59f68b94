"""Whether a changed text keeps what its preservation level demands.

    check_preservation("x = 1\\n", "x=1\\n", level="moderate", language="python").allowed     # True
    check_preservation(answer, changed, embed=embed)     # the level is read from the answer's own metadata tags

strict: byte for byte; line ends are said separately. moderate: the same syntax tree, formatting and comments free,
and prose word for word. flexible: public signatures, raised errors, strings, constants and tagged definitions stay,
and the meaning is near. Parts that rest on security:* or business:* are always strict. A tag covers what stands
between the tag before it, or the start, and itself. What no tag covers takes the level that is given, or else the
strictest that the text has.
"""

from collections.abc import Callable, Iterable

from pydantic import BaseModel

from tools.errors import InputError, LimitError
from tools.policy.changes import Change, ChangeKind, Span
from tools.policy.compare_code import compare_code
from tools.policy.compare_markdown import compare_markdown
from tools.policy.levels import LEVELS, PreservationLevel, level_of, stricter
from tools.policy.meaning import Embed, Meaning
from tools.policy.tags import Tag, find_tags, render
from tools.syntax import guess_language, known_language

MAX_TEXT = 100_000  # characters; error recovery in text that is not what it says it is takes seconds from here on
LISTED = 20
_PROSE = ("", "markdown", "html", "xml")
_LOST = ("signature", "error", "string", "constant", "number", "term", "negation")  # kept or not, without a new place
_DIFF_LINES, _DIFF_WIDTH = 4, 160


class Violation(BaseModel):
    """One change that is not allowed: what and where it is, and the tag that forbids it ('' when no tag covers it)."""

    kind: ChangeKind
    level: PreservationLevel
    message: str
    line: int
    column: int
    modified_line: int
    diff: str
    tag: str


class Verdict(BaseModel):
    """Whether the changes are allowed; `level` is the strictest that was applied, `similarity` the least measured."""

    allowed: bool
    level: PreservationLevel
    language: str
    parts: int
    violations: list[Violation]
    violation_count: int
    similarity: float | None = None
    notes: list[str] = []


def check_preservation(
    original: str,
    modified: str,
    level: PreservationLevel | None = None,
    language: str | None = None,
    *,
    embed: Embed | None = None,
) -> Verdict:
    """Compare `modified` with `original` under the original's own tags, or under `level`.

    Args:
        level: takes the place of the tags' levels; parts that rest on security:* or business:* stay strict.
        language: of code, e.g. 'python'; 'markdown' for prose with fenced blocks. Without it, it is guessed.
        embed: text to vectors, e.g. `tools.memory.embedder.embed`; flexible parts that changed need it.

    Raises:
        InputError: the original has neither tag nor level, or a tag that is not well-formed; or `embed` is missing.
        LimitError: a text is longer than `MAX_TEXT`.
    """
    for name, text in (("original", original), ("modified", modified)):
        if len(text) > MAX_TEXT:
            raise LimitError(
                f"The {name} has {len(text)} characters; at most {MAX_TEXT} are compared.", "compare parts"
            )
    if level is not None and level not in LEVELS:
        raise InputError(f"Expected a level of {', '.join(LEVELS)}; got {level!r:.60}.", "name one of them")
    spoken = known_language(language or "") or guess_language(original)
    tags = find_tags(original, spoken)
    if not tags and level is None:
        raise InputError("The original has no metadata tag, and no level was given.", "pass level='moderate' for code")
    covered = _spans(original, original, tags, tags, level)
    changes: list[Change] = []
    meaning = Meaning(embed)
    if original != modified:
        try:
            others = find_tags(modified, spoken)
            changes = _changed_tags(tags, others)
        except InputError as error:
            others, changes = [], [Change("tag", f"a tag is broken: {error.message}", 0, 0, 0, 0)]
        if [tag.fenced for tag in tags] == [tag.fenced for tag in others]:
            spans = _spans(original, modified, tags, others, level)
            compare = compare_markdown if spoken in _PROSE else compare_code
            changes += compare(original, modified, spoken, spans, meaning)
    return Verdict(
        allowed=not changes,
        level=_strictest(span.level for span in covered),
        language=spoken or "markdown",
        parts=len(covered),
        violations=[_violation(original, modified, change, tags, covered) for change in changes[:LISTED]],
        violation_count=len(changes),
        similarity=meaning.least,
        notes=_notes(tags, level),
    )


def _spans(
    original: str, modified: str, tags: list[Tag], others: list[Tag], given: PreservationLevel | None
) -> list[Span]:
    """What each tag covers in both texts, and what none does; a fenced tag lies inside of one of them."""
    found: list[Span] = []
    place = other_place = 0
    for tag, other in zip(tags, others, strict=True):
        level = level_of(given or tag.level, tag.rules)
        exact = any(rule.startswith("definition:") for rule in tag.rules)
        if tag.fenced:
            continue
        inner = _inner(tags, others, (place, tag.end), level, given, stricter)
        found.append(Span(level, (place, tag.end), (other_place, other.end), exact, inner))
        place, other_place = tag.end, other.end
    if not found or original[place:].strip() or modified[other_place:].strip():
        level = given or _strictest(level_of(tag.level, tag.rules) for tag in tags)
        inner = _inner(tags, others, (place, len(original)), level, given, stricter if given else lambda _, own: own)
        found.append(Span(level, (place, len(original)), (other_place, len(modified)), inner=inner))
    return found


def _inner(
    tags: list[Tag],
    others: list[Tag],
    place: tuple[int, int],
    level: PreservationLevel,
    given: PreservationLevel | None,
    choose: Callable[[PreservationLevel, PreservationLevel], PreservationLevel],
) -> tuple[Span, ...]:
    """The fenced tags within `place`, with the level of the code that each closes; only the ends of these count."""
    return tuple(
        Span(choose(level, level_of(given or tag.level, tag.rules)), (tag.start, tag.end), (other.start, other.end))
        for tag, other in zip(tags, others, strict=True)
        if tag.fenced and place[0] <= tag.start < place[1]
    )


def _changed_tags(tags: list[Tag], others: list[Tag]) -> list[Change]:
    """Tags say what may change, so they may not change themselves; at any level."""
    if [(t, t.fenced) for t in tags] == [(t, t.fenced) for t in others]:
        return []
    for index, (tag, other) in enumerate(zip(tags, others, strict=False)):
        if (tag, tag.fenced) != (other, other.fenced):
            gone = len(others) < len(tags) and others[index:] == tags[index + 1 :][: len(others) - index]
            message = f"the tag {_said(tag)} was removed" if gone else f"the tag {_said(tag)} became {_said(other)}"
            return [Change("tag", message, tag.start, tag.end, other.start, other.end)]
    if len(tags) > len(others):
        tag = tags[len(others)]
        return [Change("tag", f"the tag {_said(tag)} was removed", tag.start, tag.end, 0, 0)]
    other = others[len(tags)]
    return [Change("tag", f"the tag {_said(other)} was added", 0, 0, other.start, other.end)]


def _said(tag: Tag) -> str:
    return render(tag.level, tag.rules)


def _strictest(levels: Iterable[PreservationLevel]) -> PreservationLevel:
    found: PreservationLevel = "flexible"
    for level in levels:
        found = stricter(found, level)
    return found


def _notes(tags: list[Tag], given: PreservationLevel | None) -> list[str]:
    if given is None:
        return []
    loosened = [tag for tag in tags if level_of(given, tag.rules) != tag.level]
    kept = [tag for tag in tags if level_of(given, tag.rules) != given]
    notes = [f"The level {given} was given; {len(loosened)} of {len(tags)} tags say otherwise."] if loosened else []
    return notes + ([f"{len(kept)} parts stay strict: security and business rules always are."] if kept else [])


def _violation(original: str, modified: str, change: Change, tags: list[Tag], spans: list[Span]) -> Violation:
    """A change with its place and its diff, and the tag that covers the place."""
    span = next((s for s in spans if s.place[0] <= change.start < s.place[1]), spans[-1])
    level, tag = span.level, next((t for t in tags if t.end == span.place[1] and not t.fenced), None)
    for inner in span.inner:
        if change.start < inner.place[1] and original.find("```", change.start, inner.place[0]) < 0:
            level, tag = inner.level, next((t for t in tags if t.end == inner.place[1]), tag)
            break
    line_start = original.rfind("\n", 0, change.start) + 1
    return Violation(
        kind=change.kind,
        level=level,
        message=change.message,
        line=original.count("\n", 0, change.start) + 1,
        column=change.start - line_start + 1,
        modified_line=modified.count("\n", 0, change.other_start) + 1,
        diff=_diff(original, modified, change),
        tag=_said(tag) if tag else "",
    )


def _diff(original: str, modified: str, change: Change) -> str:
    """The lines around a change, as a unified diff shows them, cut to a few."""

    def lines(text: str, start: int, end: int, sign: str) -> list[str]:
        begin = text.rfind("\n", 0, start) + 1
        stop = text.find("\n", max(start, end - 1))
        found = text[begin : stop if stop >= 0 else len(text)].replace("\r", "\\r").split("\n")
        shown = [f"{sign}{line[:_DIFF_WIDTH]}" for line in found[:_DIFF_LINES]]
        return shown if len(found) <= _DIFF_LINES else [*shown, f"{sign}… {len(found) - _DIFF_LINES} more lines"]

    if change.kind == "line_endings":
        return ""
    removed = lines(original, change.start, change.end, "-")
    if change.kind in _LOST:
        return "\n".join(removed)
    added = lines(modified, change.other_start, change.other_end, "+")
    return "\n".join([*removed, *added]) if [r[1:] for r in removed] != [a[1:] for a in added] else "\n".join(removed)
