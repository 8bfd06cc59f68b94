"""What changed between two texts that no grammar is needed for: bytes, words, lines, JSON, YAML, and reworded prose.

compare_strict("a\\n", "a\\r\\n")            # [Change(kind='line_endings', …)]
compare_words("one two", "one  three")       # [Change(kind='words', …)]
"""

import json
import re
from collections.abc import Hashable
from functools import cache
from typing import Any

import yaml

from tools.policy.changes import Change, Span, character, ends, lines, missing, newlines, stretches
from tools.policy.directives import directive
from tools.policy.facts import lost, prose_facts
from tools.policy.meaning import Meaning

_SQL = re.compile(r"--[^\n]*|/\*.*?\*/|'(?:[^']|'')*'|\"[^\"]*\"|`[^`]*`|[A-Za-z_][\w$]*|\d[\w.]*|\S", re.DOTALL)


def compare_strict(original: str, modified: str) -> list[Change]:
    """Every stretch of lines that differs by a byte; other line ends are a change of their own kind."""
    if original == modified:
        return []
    one, other = newlines(original), newlines(modified)
    found: list[Change] = []
    if "".join(one) != "".join(other):
        found = stretches("content", one, other, *lines(original), *lines(modified))
    if (was := ends(original)) != (now := ends(modified)) and "none" not in (was, now):
        message = f"the line ends were {was} and are {now}"
        found.append(Change("line_endings", message, 0, 0, 0, 0))
    return found or [Change("content", "the bytes differ", 0, len(original), 0, len(modified))]


def compare_words(original: str, modified: str) -> list[Change]:
    """Every stretch of words that differs, whatever white space is between them."""
    one, other = list(re.finditer(r"\S+", original)), list(re.finditer(r"\S+", modified))
    return stretches(
        "words",
        [m[0] for m in one],
        [m[0] for m in other],
        [m.span() for m in one],
        len(original),
        [m.span() for m in other],
        len(modified),
    )


def compare_lines(original: str, modified: str) -> list[Change]:
    """Every stretch of lines that differs; blank lines and white space at the ends of lines are free."""
    (spans, length), (others, other_length) = lines(original), lines(modified)
    one = [(original[a:b].rstrip(), (a, b)) for a, b in spans if original[a:b].strip()]
    other = [(modified[a:b].rstrip(), (a, b)) for a, b in others if modified[a:b].strip()]
    return stretches(
        "code",
        [k for k, _ in one],
        [k for k, _ in other],
        [s for _, s in one],
        length,
        [s for _, s in other],
        other_length,
    )


def compare_flexible_prose(original: str, modified: str, meaning: Meaning) -> list[Change]:
    """What a rewording lost: numbers, code spans, quoted words, a no; and whether it says the same."""
    if original.split() == modified.split():
        return []
    data = original.encode(errors="surrogatepass")
    found = [
        Change(f.kind, missing(f), character(data, f.start), character(data, f.end), 0, 0)
        for f in lost(prose_facts(original), prose_facts(modified))
    ]
    if problem := meaning.problem(original, modified):
        found.append(Change("meaning", problem, 0, len(original), 0, len(modified)))
    return found


def compare_ungrammatical(one: str, other: str, language: str, span: Span, meaning: Meaning) -> list[Change]:
    """Code that no grammar here reads: JSON and YAML by what they hold, the rest by lines."""
    if span.level == "flexible" and not span.exact:
        problem = "" if one.split() == other.split() else meaning.problem(one, other, code=True)
        return [Change("meaning", problem, 0, len(one), 0, len(other))] if problem else []
    if language in ("json", "yaml"):
        read = _json_keys if language == "json" else _yaml_keys
        try:
            if read(one) == read(other):
                return []
        except (ValueError, RecursionError, yaml.YAMLError):
            pass
    return compare_lines(one, other)


def _json_keys(text: str) -> object:
    def typed(pairs: list[tuple[str, object]]) -> object:
        return ("object", tuple(pairs))

    return repr(json.loads(text, object_pairs_hook=typed))


def _yaml_keys(text: str) -> list[Hashable]:
    resolver: Any = yaml.SafeLoader("")
    keys: list[Hashable] = [
        directive(line[line.index("#") :].strip(), "yaml", first=text.startswith("#"))
        for line in text.splitlines()
        if "#" in line
    ]
    keys = [key for key in keys if key]
    for event in yaml.parse(text, Loader=yaml.SafeLoader):
        said: Hashable = None
        if isinstance(event, yaml.ScalarEvent):
            said = (event.tag or resolver.resolve(yaml.ScalarNode, event.value, event.implicit), event.value)
        keys.append((type(event).__name__, getattr(event, "anchor", None), getattr(event, "tag", None), said))
    return keys


@cache
def _sql_keywords() -> frozenset[str]:
    import tree_sitter
    import tree_sitter_sql

    language = tree_sitter.Language(tree_sitter_sql.language())
    kinds = (language.node_kind_for_id(i) or "" for i in range(language.node_kind_count))
    return frozenset(kind.removeprefix("keyword_") for kind in kinds if kind.startswith("keyword_"))


def compare_sql(original: str, modified: str) -> list[Change]:
    """SQL in a dialect that the grammar does not read: word by word, keywords in any case, comments free."""

    def tokens(text: str) -> list[tuple[str, tuple[int, int]]]:
        found = []
        for match in _SQL.finditer(text):
            said = match[0]
            if said.startswith(("--", "/*")):
                said = directive(said, "sql")
            elif said.lower() in _sql_keywords():
                said = said.lower()
            if said:
                found.append((said, match.span()))
        return found[:-1] if found and found[-1][0] == ";" else found

    one, other = tokens(original), tokens(modified)
    return stretches(
        "code", [k for k, _ in one], [k for k, _ in other],
        [s for _, s in one], len(original), [s for _, s in other], len(modified),
    )  # fmt: skip
