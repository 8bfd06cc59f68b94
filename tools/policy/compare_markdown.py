"""What changed in prose with fenced blocks of code: the prose word for word or by meaning, the code as code.

compare_markdown(a, b, "", [Span("moderate", (0, len(a)), (0, len(b)))], Meaning(None))
"""

import re
from collections.abc import Sequence
from dataclasses import replace

from tools.policy.changes import Change, Span, cut
from tools.policy.compare_code import compare_code
from tools.policy.compare_text import compare_flexible_prose, compare_strict, compare_words
from tools.policy.meaning import Meaning
from tools.syntax import Block, blocks


def compare_markdown(
    original: str, modified: str, language: str, spans: Sequence[Span], meaning: Meaning
) -> list[Change]:
    """What changed in prose with fenced blocks, each of `spans` by its own level; `language` is not looked at."""
    found: list[Change] = []
    fences, others = blocks(original), blocks(modified)
    for span in spans:
        one, other = cut(original, modified, span)
        if one == other:
            continue
        mine = [block for block in fences if span.place[0] <= block.start < span.place[1]]
        theirs = [block for block in others if span.other[0] <= block.start < span.other[1]]
        loose = any(inner.level != span.level for inner in span.inner)
        if span.level == "strict" and not (loose and len(mine) == len(theirs)):
            found += [c.moved(span.place[0], span.other[0]) for c in compare_strict(one, other)]
            continue
        if span.level == "flexible" and not span.exact:
            texts = _blanked(original, mine, span.place), _blanked(modified, theirs, span.other)
            found += [c.moved(span.place[0], span.other[0]) for c in compare_flexible_prose(*texts, meaning)]
        if len(mine) != len(theirs):
            found += _unpaired(original, modified, mine, theirs, span, meaning)
            continue
        place, other_place = span.place[0], span.other[0]
        for block, its in zip([*mine, None], [*theirs, None], strict=True):
            end, other_end = (block.start, its.start) if block and its else (span.place[1], span.other[1])
            if span.level != "flexible" or span.exact:
                compare = compare_strict if span.level == "strict" else compare_words
                compared = compare(original[place:end], modified[other_place:other_end])
                found += [c.moved(place, other_place) for c in compared]
            if block and its:
                found += _compare_block(original, modified, block, its, span, meaning)
                place, other_place = block.end, its.end
    return found


def _compare_block(
    original: str, modified: str, block: Block, its: Block, span: Span, meaning: Meaning
) -> list[Change]:
    """The code of two fenced blocks, by the tags that it has itself, and else as the text around it."""
    one, other = original[block.start : block.end], modified[its.start : its.end]
    parts: list[Span] = []
    place = other_place = 0
    for tag in span.inner:
        if block.start <= tag.place[0] < block.end and its.start <= tag.other[0] < its.end:
            end, other_end = tag.place[1] - block.start, tag.other[1] - its.start
            parts.append(Span(tag.level, (place, end), (other_place, other_end), span.exact))
            place, other_place = end, other_end
    if not parts and len(block.code) != len(one):
        one, other = block.code, its.code  # the fence is indented, as in a list
    if not parts or one[place:].strip() or other[other_place:].strip():
        parts.append(Span(span.level, (place, len(one)), (other_place, len(other)), span.exact))
    language = block.language if block.language == its.language else ""
    return [c.moved(block.start, its.start) for c in compare_code(one, other, language, parts, meaning)]


def _unpaired(
    original: str, modified: str, mine: list[Block], theirs: list[Block], span: Span, meaning: Meaning
) -> list[Change]:
    """Texts with different numbers of fenced blocks: free at flexible, as long as the code keeps what it has to."""
    if span.level != "flexible" or span.exact or span.inner:
        message = f"there were {len(mine)} blocks of code and are {len(theirs)}"
        one, other = cut(original, modified, span)
        words = [c.moved(span.place[0], span.other[0]) for c in compare_words(one, other)]
        return [Change("code", message, *span.place, *span.other), *words]
    found: list[Change] = []
    for language in sorted({block.language for block in mine}):
        one = "\n\n".join(block.code for block in mine if block.language == language)
        other = "\n\n".join(block.code for block in theirs if block.language == language)
        whole = Span("flexible", (0, len(one)), (0, len(other)))
        changes = compare_code(one, other, language, [whole], meaning)
        found += [replace(c, start=mine[0].start, end=mine[0].end, other_start=0, other_end=0) for c in changes]
    return found


def _blanked(text: str, fences: list[Block], place: tuple[int, int]) -> str:
    """The prose of a stretch of Markdown, with blanks in place of its code, so that places stay."""
    parts, at = [], place[0]
    for fence in fences:
        parts += [text[at : fence.start], re.sub(r"[^\n]", " ", text[fence.start : fence.end])]
        at = fence.end
    return "".join([*parts, text[at : place[1]]])
