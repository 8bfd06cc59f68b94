"""What is wrong with one row that has the right shape.

    row_errors(7, row)      # [RowError(line=7, field='output', code='secret', message=…)]
    row_doubts(row)         # ['sql: …'], what may be wrong

Codes: placeholder, secret, control and encoding (what should not be in any text, `leftovers`); markup (tool calls), tag
(metadata tags), context_window (its parts), code (blocks and written files that do not parse), contradiction (levels,
policies and rules that disagree), too_long.
"""

import ast
import json
from collections.abc import Iterable, Iterator
from typing import Any

from tools.data.code import code_errors, file_errors
from tools.data.examples import MAX_FIELD, Example
from tools.data.leftovers import Problem, text_problems
from tools.data.lines import RowError
from tools.errors import InputError
from tools.policy.levels import LEVELS, PreservationLevel, is_always_strict, level_of
from tools.policy.markup import find_calls
from tools.policy.tags import check_rule, find_tags

_WINDOW: dict[str, type] = {
    "system_prompt": str,
    "conversation_history": list,
    "active_rules": list,
    "project_context": str,
    "role_expectations": str,
    "knowledge_updates": dict,
}
_MAY_BE_EMPTY = ("conversation_history", "knowledge_updates")
_SQL = "sql: "
_ROLES = ("system", "user", "assistant", "tool")


def row_errors(line: int, row: Example) -> list[RowError]:
    """What is wrong with one row that has the right shape; [] when nothing is."""
    found: list[Problem] = []
    said = [("system", row.system)] + [(f"history.{i}", turn) for i, pair in enumerate(row.history) for turn in pair]
    for field, text in (*said, ("instruction", row.instruction), ("input", row.input)):
        if text:
            found += text_problems(field, text)
    answer = row.output if isinstance(row.output, str) else "\n".join(_strings(row.output))
    found += text_problems("output", answer, asked=row.question)
    if isinstance(row.output, dict):
        if (length := len(row.answer)) > MAX_FIELD:
            found.append(("output", "too_long", f"expected at most {MAX_FIELD} characters, got {length}"))
        else:
            found += _window_problems(row, row.output)
    elif row.kind == "context_window":
        found.append(("output", "context_window", "expected an object with content and context_window, got text"))
    found += _answer_problems(row)
    found += _level_problems(row)
    return [RowError(line=line, field=field, code=code, message=message) for field, code, message in found]


def row_doubts(row: Example) -> list[str]:
    """What may be wrong with the answer: SQL that does not parse, since the grammar knows no dialect's own words."""
    text = row.text
    return [p for p in code_errors(text) if p.startswith(_SQL)] if "sql" in text.lower() and "```" in text else []


def _strings(value: Any) -> Iterator[str]:
    """Every text in a JSON value, keys too, in their order."""
    if isinstance(value, str):
        yield value
    elif isinstance(value, dict):
        for key, inner in value.items():
            yield str(key)
            yield from _strings(inner)
    elif isinstance(value, list):
        for inner in value:
            yield from _strings(inner)


def _level_problems(row: Example) -> list[Problem]:
    """A level that the row's rules do not allow, and a policy that the level does not allow."""
    level = LEVELS[row.metadata.preservation_level]
    if loosened := _loosened(level.name, row.metadata.rule_compliance):
        return [("metadata.preservation_level", "contradiction", loosened)]
    if row.metadata.modification_policy not in level.policies:
        allowed = ", ".join(level.policies)
        message = f"{row.metadata.modification_policy} contradicts level {level.name}, which allows {allowed}"
        return [("metadata.modification_policy", "contradiction", message)]
    return []


def _loosened(level: PreservationLevel, rules: Iterable[str]) -> str:
    """How `level` contradicts `rules`, in words; '' when it does not."""
    rules = list(rules)
    if level_of(level, rules) == level:
        return ""
    always = next(rule for rule in rules if is_always_strict(rule))
    return f"level {level} contradicts {always}, which is always strict"


def _answer_problems(row: Example) -> list[Problem]:
    """Tool calls, metadata tags and code in the answer."""
    found: list[Problem] = []
    text = row.text
    if "<tool" in text or "</tool" in text:
        try:
            for call in find_calls(text):
                if call.name == "fs.write" and not call.arguments["path"].endswith(".sql"):
                    found += [("output", "code", error) for error in file_errors(call.arguments["path"], call.body)]
        except InputError as error:
            found.append(("output", "markup", error.message))
    found += _tag_problems(row, text)
    if "```" in text or "~~~" in text:
        found += [("output", "code", problem) for problem in code_errors(text) if not problem.startswith(_SQL)]
    elif problem := _json_problem(text.strip()):
        found.append(("output", "code", problem))
    return found


def _tag_problems(row: Example, text: str) -> list[Problem]:
    """Metadata tags that are broken, that contradict themselves, or that say something else than the row."""
    try:
        tags = find_tags(text)
    except InputError as error:
        return [("output", "tag", error.message)]
    if not tags:
        return []
    found = [f"the answer's tag: {loosened}" for tag in tags if (loosened := _loosened(tag.level, tag.rules))]
    # an answer of several parts has a tag for each, and the row is as strict as its strictest part
    strictest = min((level_of(tag.level, tag.rules) for tag in tags), key=list(LEVELS).index)
    if row.metadata.preservation_level != strictest:
        found.append(f"the answer's tag says {strictest}, the row's metadata {row.metadata.preservation_level}")
    # the row may rest on more rules than its tags say, as prose beside tagged code does, but on no fewer
    claimed = row.metadata.rule_compliance
    missing = list(dict.fromkeys(rule for tag in tags for rule in tag.rules if rule not in claimed))
    if claimed and missing:
        found.append(f"the answer's tag names {', '.join(missing)}, the row's metadata only {', '.join(claimed)}")
    return [("output", "contradiction", message) for message in found]


def _json_problem(text: str) -> str:
    """Why an answer that begins as JSON is none (a Python literal may begin so as well)."""
    if not text.startswith(('{"', '[{"', "{\n")):
        return ""
    try:
        json.JSONDecoder().raw_decode(text)
    except (ValueError, RecursionError) as error:
        try:
            ast.parse(text, mode="eval")
        except (SyntaxError, ValueError, RecursionError, MemoryError):
            return f"json: {error}"
    return ""


def _window_problems(row: Example, output: dict[str, Any]) -> list[Problem]:
    """The parts that a context window misses or has in the wrong form, and metadata of its own that disagrees."""
    found: list[Problem] = []
    content, window = output.get("content"), output.get("context_window")
    if not isinstance(content, str) or not content.strip():
        found.append(("output.content", "context_window", "expected the answer's text"))
    if not isinstance(window, dict):
        return [*found, ("output.context_window", "context_window", f"expected an object with {', '.join(_WINDOW)}")]
    for part, kind in _WINDOW.items():
        at = f"output.context_window.{part}"
        value = window.get(part)
        if part not in window:
            found.append((at, "context_window", "is missing"))
        elif not isinstance(value, kind):
            found.append((at, "context_window", f"expected {kind.__name__}, got {type(value).__name__}"))
        elif not value and part not in _MAY_BE_EMPTY:
            found.append((at, "context_window", "is empty"))
        elif problem := _part_problem(part, value):
            found.append((at, *problem))
    return found + _window_metadata_problems(row, output.get("metadata"))


def _part_problem(part: str, value: Any) -> tuple[str, str] | None:
    """Code and message of the first item of a window's part that is not what a client can adopt."""
    if part == "conversation_history":
        for number, turn in enumerate(value):
            if not isinstance(turn, dict) or turn.get("role") not in _ROLES or not _says(turn.get("content")):
                return "context_window", f"item {number}: expected role ({', '.join(_ROLES)}) and content as text"
    elif part == "knowledge_updates":
        for word, meaning in value.items():
            if not word.strip() or not _says(meaning):
                return "context_window", f"{word!r:.60}: expected a word and its meaning as text"
    elif part == "active_rules":
        for rule in value:
            try:
                check_rule(str(rule))
            except InputError as error:
                return "tag", error.message
    return None


def _says(value: Any) -> bool:
    return isinstance(value, str) and bool(value.strip())


def _window_metadata_problems(row: Example, metadata: Any) -> list[Problem]:
    """The metadata inside a window's output is what the client adopts, so it says what the row's own says."""
    if not isinstance(metadata, dict):
        return [("output.metadata", "context_window", "is missing")]
    found: list[Problem] = []
    own = row.metadata.model_dump(include={"preservation_level", "modification_policy", "rule_compliance"})
    for field, mine in own.items():
        if (field in metadata or field == "preservation_level") and metadata.get(field) != mine:
            message = f"the window says {metadata.get(field)!r:.120}, the row's metadata {mine!r:.120}"
            found.append((f"output.metadata.{field}", "contradiction", message))
    return found
