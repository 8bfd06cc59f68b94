"""What changed between two pieces of code, by their syntax trees.

spans = [Span("moderate", (0, len(a)), (0, len(b)))]
compare_code(a, b, "python", spans, Meaning(None))
"""

import re
from bisect import bisect_right
from collections.abc import Hashable, Sequence
from dataclasses import replace

from tools.policy.canonical import canonical
from tools.policy.changes import (
    Change,
    ChangeKind,
    Span,
    became,
    byte,
    character,
    cut,
    lines,
    missing,
    opcodes,
    reach,
    shown,
)  # fmt: skip
from tools.policy.compare_text import compare_lines, compare_sql, compare_strict, compare_ungrammatical
from tools.policy.facts import Fact, facts, lost
from tools.policy.meaning import Meaning
from tools.policy.tokens import Form, Token
from tools.syntax import GRAMMARS


def compare_code(original: str, modified: str, language: str, spans: Sequence[Span], meaning: Meaning) -> list[Change]:
    """What changed in code, each of `spans` by its own level."""
    found: list[Change] = []
    for span in spans:
        if span.level == "strict":
            found += [c.moved(span.place[0], span.other[0]) for c in compare_strict(*cut(original, modified, span))]
    looser = [span for span in spans if span.level != "strict"]
    if not looser or all(one == other for one, other in (cut(original, modified, span) for span in looser)):
        return found
    if language not in GRAMMARS:
        for span in looser:
            one, other = cut(original, modified, span)
            found += [
                c.moved(span.place[0], span.other[0])
                for c in compare_ungrammatical(one, other, language, span, meaning)
            ]
        return found
    form, changed = canonical(original, language), canonical(modified, language)
    if form.broken:
        for span in looser:
            one, other = cut(original, modified, span)
            compared = compare_sql(one, other) if language == "sql" else compare_lines(one, other)
            found += [c.moved(span.place[0], span.other[0]) for c in compared]
        return found
    if changed.broken:
        message = f"it was {language} and does not parse any more: {changed.broken}"
        row = re.search(r"line (\d+)", changed.broken)
        at = lines(modified)[0][int(row[1]) - 1][0] if row and int(row[1]) <= len(lines(modified)[0]) else 0
        return [*found, Change("syntax", message, 0, 0, at, at)]
    return [*found, *_Trees(original, modified, language, form, changed, list(spans), meaning).compare()]


class _Trees:
    """Two texts of a language that both parse."""

    def __init__(
        self,
        original: str,
        modified: str,
        language: str,
        form: Form,
        changed: Form,
        spans: list[Span],
        meaning: Meaning,
    ) -> None:
        self.original, self.modified, self.language = original, modified, language
        self.form, self.changed, self.spans, self.meaning = form, changed, spans, meaning
        self.data, self.other = (t.encode(errors="surrogatepass") for t in (original, modified))
        self.ends = [byte(original, span.place[1]) for span in spans]
        self.other_ends = [byte(modified, span.other[1]) for span in spans]

    def compare(self) -> list[Change]:
        found: list[Change] = []
        parts, paths = _split(self.form.tokens, self.ends)
        others, other_paths = _split(self.changed.tokens, self.other_ends)
        same = True
        for index, span in enumerate(self.spans):
            if span.level == "strict":
                continue
            keys, other_keys = [t.key for t in parts[index]], [t.key for t in others[index]]
            if index and paths[index] != other_paths[index]:
                message = "the code around this part has changed, and what the part does with it"
                found.append(Change("structure", message, *span.place, *span.other))
            if keys == other_keys:
                continue
            if span.level == "moderate" or span.exact:
                same = False
                found += self._tokens(parts[index], others[index])
            else:
                found += self._facts(index, span)
        return found + self._directives(same)

    def _tokens(self, one: list[Token], other: list[Token]) -> list[Change]:
        found = []
        for a, b, c, d in opcodes([t.key for t in one], [t.key for t in other]):
            start, end = reach(one, a, b)
            other_start, other_end = reach(other, c, d)
            was, now = shown(self.data[start:end]), shown(self.other[other_start:other_end])
            change = self._change("structure", "", start, end, other_start, other_end)
            found.append(replace(change, message=became(was, now)))
        return found

    def _facts(self, index: int, span: Span) -> list[Change]:
        def within(found: list[Fact], ends: list[int]) -> list[Fact]:
            return [f for f in found if min(bisect_right(ends, f.start), len(ends) - 1) == index]

        kept = within(facts(self.original, self.language), self.ends)
        now = within(facts(self.modified, self.language), self.other_ends)
        found = [self._change(fact.kind, missing(fact), fact.start, fact.end, 0, 0) for fact in lost(kept, now)]
        one, other = cut(self.original, self.modified, span)
        if problem := self.meaning.problem(one, other, code=True):
            found.append(Change("meaning", problem, *span.place, *span.other))
        return found

    def _directives(self, same: bool) -> list[Change]:
        """Comments with an effect that went, came, or came to stand elsewhere."""
        if all(span.level == "strict" for span in self.spans):
            return []
        strict = [i for i, span in enumerate(self.spans) if span.level == "strict"]
        moderate = all(span.level != "flexible" for span in self.spans)

        def keyed(form: Form, ends: list[int]) -> list[tuple[Hashable, tuple[int, int]]]:
            return [
                ((d.said, d.after if same and moderate else 0, d.trailing), (d.start, d.end))
                for d in form.directives
                if "METADATA:" not in d.said and bisect_right(ends, d.start) not in strict
            ]

        one, other = keyed(self.form, self.ends), keyed(self.changed, self.other_ends)
        found = []
        for a, b, c, d in opcodes([key for key, _ in one], [key for key, _ in other]):
            start, end = (one[a][1][0], one[b - 1][1][1]) if b > a else (0, 0)
            other_start, other_end = (other[c][1][0], other[d - 1][1][1]) if d > c else (0, 0)
            was, now = shown(self.data[start:end]), shown(self.other[other_start:other_end])
            message = f"a comment with an effect: {became(was, now)}"
            found.append(self._change("directive", message, start, end, other_start, other_end))
        return found

    def _change(self, kind: ChangeKind, message: str, start: int, end: int, other_start: int, other_end: int) -> Change:
        return Change(
            kind, message, character(self.data, start), character(self.data, end),
            character(self.other, other_start), character(self.other, other_end),
        )  # fmt: skip


def _split(tokens: list[Token], ends: list[int]) -> tuple[list[list[Token]], list[tuple[str, ...]]]:
    """The tokens of each part, and the nodes that are open where each part begins."""
    parts: list[list[Token]] = [[] for _ in ends]
    paths: list[tuple[str, ...]] = [() for _ in ends]
    path: list[str] = []
    current, reached = 0, 0
    for token in tokens:
        is_close = token.key[0] == ">" and len(token.key) == 1
        index = current if is_close else min(bisect_right(ends, token.start), len(ends) - 1)
        if not is_close and index > current and reached <= token.start:
            for part in range(current + 1, index + 1):
                paths[part] = tuple(path)
            current = index
        parts[max(index, current) if not is_close else current].append(token)
        if is_close:
            path.pop()
        elif token.key[0] == "<" and len(token.key) == 2 and token.start == token.end:
            path.append(token.key[1])
        reached = max(reached, token.end)
    return parts, paths
