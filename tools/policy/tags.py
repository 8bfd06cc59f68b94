"""Rule tags and the metadata tag that closes an answer, or a part of it: written and read by one parser.

check_rule("concept:42_harmony")
render("strict", ["concept:42_harmony"])
# <!-- METADATA: preservation_level=strict, rule_compliance=["concept:42_harmony"] -->
find_tags("…<!-- METADATA: preservation_level=strict, rule_compliance=[] -->")    # [Tag(level='strict', rules=())]

A tag that is shown is no tag: in an inline code span, inside another comment, in a string of code, or in a fenced
block that is not code. In code it stands in a comment, after what it covers; inside a fence it speaks for the
code of that block only (`Tag.fenced`), so that an example cannot loosen the text around it.
"""

import json
import re
from bisect import bisect_right
from collections.abc import Sequence
from dataclasses import dataclass, field
from typing import cast

from tools.errors import InputError
from tools.policy.levels import LEVELS, RULE_FAMILIES, PreservationLevel
from tools.syntax import blocks, comments, known_language

_RULE = re.compile(rf"(?:{'|'.join(RULE_FAMILIES)}):[a-z0-9][a-z0-9_.-]*")
_TAG = re.compile(r"<!--\s*METADATA\b.*?(?:-->|\Z)", re.DOTALL)
_FORM = re.compile(
    r"<!--\s*METADATA:\s*preservation_level=(?P<level>\w+),\s*rule_compliance=(?P<rules>\[.*\])\s*-->", re.DOTALL
)
_MARKER = re.compile(r"\s*(?:#|//|--|/\*|\*|;|%)+[!*]*\s*")  # what opens a comment, where no grammar says it
_TEXTS = ("", "markdown", "html", "xml")  # languages in which a bare tag is a comment of its own
_SHOWN = ("", "markdown")  # languages of fenced blocks in which a tag is an example
_TICKS = re.compile(r"`+")
_LONG_LINE = 5000  # no person writes one; code spans are not looked for in it


@dataclass(frozen=True)
class Tag:
    """What a metadata tag says of the answer, or of the part of it that it closes; where it stands in the text.

    `end` is where its comment ends, in code as well; `fenced`: it stands in a fenced block, and covers code of it only.
    """

    level: PreservationLevel
    rules: tuple[str, ...]
    start: int = field(default=0, compare=False)
    end: int = field(default=0, compare=False)
    fenced: bool = field(default=False, compare=False)


def check_rule(tag: str) -> str:
    """`tag` itself when it is `family:name` of a known family.

    Raises:
        InputError: it is not.
    """
    if not _RULE.fullmatch(tag):
        raise InputError(
            f"Expected a rule tag 'family:name' with a family of {', '.join(RULE_FAMILIES)}; got {tag!r:.120}.",
            "write it like 'pattern:domain_errors'",
        )
    return tag


def render(level: PreservationLevel, rules: Sequence[str]) -> str:
    """The metadata tag of an answer.

    Raises:
        InputError: there is no such level or rule family.
    """
    _check_level(level)
    return (
        f"<!-- METADATA: preservation_level={level}, rule_compliance={json.dumps([check_rule(r) for r in rules])} -->"
    )


def find_tags(text: str, language: str = "") -> list[Tag]:
    """The metadata tags in `text`, in order; with `language`, the text is code and not Markdown.

    Raises:
        InputError: one is not well-formed, or names an unknown level or rule family.
    """
    if "METADATA" not in text:
        return []
    language = known_language(language)
    if language not in _TEXTS:
        return _in_code(text, language)
    fences = blocks(text)
    spans = [(fence.start, fence.end) for fence in fences]
    tags = [
        _tag(found.group(0), found.start(), found.end())
        for found in _TAG.finditer(text)
        if not _around(spans, found.start()) and not _is_shown(text, found)
    ]
    for fence in fences:
        if fence.language not in _SHOWN:
            tags += _in_code(text[fence.start : fence.end], fence.language, fence.start)
    return sorted(tags, key=lambda tag: tag.start)


def _in_code(code: str, language: str, offset: int = 0) -> list[Tag]:
    """The tags in comments of `code`, which stands at `offset` of its text; in a fence, each after something."""
    found = list(_TAG.finditer(code))
    if not found:
        return []
    places = comments(code, language)
    tags: list[Tag] = []
    covered = 0  # up to here, code is covered by the tags before
    for match in found:
        place: tuple[int, int] | None
        if language in _TEXTS:
            place = match.span()
        elif places is None:
            place = _comment_line(code, match)
        else:
            place = _around(places, match.start())
            place = None if place and _is_nested(code, match, place[0]) else place
        if place is None or (offset and not code[covered : place[0]].strip()):
            continue
        tags.append(_tag(match.group(0), offset + match.start(), offset + place[1], fenced=offset > 0))
        covered = place[1]
    return tags


def _around(spans: list[tuple[int, int]], place: int) -> tuple[int, int] | None:
    """The one of the sorted `spans` in which `place` lies."""
    index = bisect_right(spans, place, key=lambda span: span[0]) - 1
    return spans[index] if index >= 0 and place < spans[index][1] else None


def _comment_line(code: str, found: re.Match[str]) -> tuple[int, int] | None:
    """The comment around a tag in code without a grammar: a line that a comment's sign opens."""
    begin = code.rfind("\n", 0, found.start()) + 1
    if not _MARKER.fullmatch(code, begin, found.start()):
        return None
    end = code.find("\n", found.end())
    rest = code[found.end() : end if end >= 0 else len(code)]
    return (begin, found.end() + len(rest.rstrip())) if rest.strip() in ("", "*/") else None


def _is_nested(text: str, found: re.Match[str], begin: int) -> bool:
    """Whether another `<!--` is still open on the tag's line, from `begin`."""
    begin = max(begin, text.rfind("\n", 0, found.start()) + 1)
    return text.rfind("<!--", begin, found.start()) > text.rfind("-->", begin, found.start())


def _is_shown(text: str, found: re.Match[str]) -> bool:
    """Whether a tag in prose stands in an inline code span, or inside a comment that was opened on its line."""
    begin = text.rfind("\n", 0, found.start()) + 1
    end = text.find("\n", found.start())
    end = len(text) if end < 0 else end
    if end - begin > _LONG_LINE:
        return _is_nested(text, found, begin)
    runs = [(run.start(), run.end() - run.start()) for run in _TICKS.finditer(text, begin, end)]
    next_alike: list[int] = [0] * len(runs)
    latest: dict[int, int] = {}
    for index in range(len(runs) - 1, -1, -1):
        next_alike[index] = latest.get(runs[index][1], -1)
        latest[runs[index][1]] = index
    index = 0
    while index < len(runs) and runs[index][0] < found.start():
        closing = next_alike[index]
        if closing > index and runs[closing][0] > found.start():
            return True
        index = closing + 1 if closing > index else index + 1
    return _is_nested(text, found, begin)


def _check_level(level: str) -> PreservationLevel:
    if level not in LEVELS:
        raise InputError(
            f"The metadata tag has the level {level!r:.60}; the levels are {', '.join(LEVELS)}.", "take one of them"
        )
    return cast(PreservationLevel, level)


def _tag(text: str, start: int, end: int, fenced: bool = False) -> Tag:
    form = _FORM.fullmatch(text)
    try:
        rules = json.loads(form["rules"]) if form else None
    except (ValueError, RecursionError):
        rules = None
    if form is None or not isinstance(rules, list) or not all(isinstance(rule, str) for rule in rules):
        raise InputError(f"The metadata tag {text[:120]!r} is not well-formed.", f"write {render('strict', [])}")
    return Tag(_check_level(form["level"]), tuple(check_rule(rule) for rule in rules), start, end, fenced)
