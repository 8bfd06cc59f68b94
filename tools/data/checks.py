"""What is wrong with one row that has the right shape.

    row_errors(7, row)      # [RowError(line=7, field='output', code='secret', message=…)]

Codes: placeholder, secret, control and encoding (what should not be in any text); markup (tool calls), tag (metadata
tags), context_window (its parts), code (blocks that do not parse), contradiction (levels that disagree), too_long.
Every text is searched for plain words first, and by a regular expression only where one of them stands.
"""

import ast
import json
import re
from typing import Any

from tools.data.code import code_errors
from tools.data.examples import MAX_FIELD, Example
from tools.data.lines import RowError
from tools.errors import InputError
from tools.policy.levels import LEVELS
from tools.policy.markup import find_calls
from tools.policy.tags import check_rule, find_tags

# Leftovers of templates and of other models' habits: a word that announces one → what it looks like. These patterns
# take time in proportion to the text, whatever the text is.
_PLACEHOLDERS = {
    "{{": re.compile(r"(?<!\$)\{\{\s*\w+\s*\}\}"),
    "todo:": re.compile(r"\bTODO:"),
    "fixme:": re.compile(r"\bFIXME:"),
    "as an ai ": re.compile(r"\bas an ai (?:language )?(?:model|assistant)\b", re.IGNORECASE),
    "[insert": re.compile(r"\[insert\b[^\]\n]*\]?", re.IGNORECASE),
    "[your ": re.compile(r"\[your [^\]\n]{1,40}\]", re.IGNORECASE),
    "lorem ipsum": re.compile(r"lorem ipsum", re.IGNORECASE),
    "<placeholder": re.compile(r"<placeholder\b[^>\n]{0,60}>", re.IGNORECASE),
}
_LEFT_TO_DO = re.compile(r"(?:^|#|//|--|/\*)[ \t]*(?:TODO|FIXME|XXX)\b", re.MULTILINE)  # in answers only
_ASSIGNED = r"""\s{0,4}[:=]\s{0,4}["'](?=[^"'\s]{0,60}\d)(?=[^"'\s]{0,60}[A-Za-z])[\w+/=.-]{16,60}["']"""
_SECRETS = {
    "-----begin ": re.compile(r"-----BEGIN [A-Z ]*PRIVATE KEY"),
    "akia": re.compile(r"\bAKIA[0-9A-Z]{16}\b"),
    "asia": re.compile(r"\bASIA[0-9A-Z]{16}\b"),
    "ghp_": re.compile(r"\bghp_[A-Za-z0-9]{36}\b"),
    "gho_": re.compile(r"\bgho_[A-Za-z0-9]{36}\b"),
    "ghs_": re.compile(r"\bghs_[A-Za-z0-9]{36}\b"),
    "github_pat_": re.compile(r"\bgithub_pat_\w{40,}"),
    "glpat-": re.compile(r"\bglpat-[\w-]{20,}"),
    "sk-": re.compile(r"\bsk-[A-Za-z0-9_-]{32,}"),
    "_live_": re.compile(r"\b[sr]k_live_[A-Za-z0-9]{20,}"),
    "xox": re.compile(r"\bxox[abeoprs]-[A-Za-z0-9-]{20,}"),
    "aiza": re.compile(r"\bAIza[\w-]{35}\b"),
    "hf_": re.compile(r"\bhf_[A-Za-z0-9]{30,}\b"),
    "npm_": re.compile(r"\bnpm_[A-Za-z0-9]{36}\b"),
    "pypi-": re.compile(r"\bpypi-[\w-]{50,}"),
    "api": re.compile(rf"\bapi[_-]?key{_ASSIGNED}", re.IGNORECASE),
    "secret": re.compile(rf"secret(?:[_-]?key)?{_ASSIGNED}", re.IGNORECASE),
    "token": re.compile(rf"token{_ASSIGNED}", re.IGNORECASE),
    "eyj": re.compile(r"\beyJ[\w-]{10,500}\.eyJ[\w-]{10,500}\.[\w-]{10}"),
}
_MOJIBAKE = re.compile(r"â€.|Ã[\x80-\xbf]|Â[\xa0-\xbf]")
_CONTROL = re.compile("[\x00-\x08\x0b\x0c\x0e-\x1f\x7f\u202a-\u202e\u2066-\u2069\ufeff\ufffd]")
_INLINE_CODE = re.compile(r"`[^`\n]*`")
_WINDOW: dict[str, type] = {
    "system_prompt": str,
    "conversation_history": list,
    "active_rules": list,
    "project_context": str,
    "role_expectations": str,
    "knowledge_updates": dict,
}
_MAY_BE_EMPTY = ("conversation_history", "knowledge_updates")


def row_errors(line: int, row: Example) -> list[RowError]:
    """What is wrong with one row that has the right shape; [] when nothing is."""
    found: list[tuple[str, str, str]] = []
    answer = row.answer
    said = [("system", row.system)] + [(f"history.{i}", turn) for i, pair in enumerate(row.history) for turn in pair]
    for field, text in (*said, ("instruction", row.instruction), ("input", row.input), ("output", answer)):
        if text:
            found += _text_problems(field, text)
    if isinstance(row.output, dict):
        if len(answer) > MAX_FIELD:
            found.append(("output", "too_long", f"expected at most {MAX_FIELD} characters, got {len(answer)}"))
        found += _window_problems(row, row.output)
    elif row.kind == "context_window":
        found.append(("output", "context_window", "expected an object with content and context_window, got text"))
    found += _answer_problems(row)
    level = LEVELS[row.metadata.preservation_level]
    policy = row.metadata.modification_policy
    if policy not in level.policies:
        allowed = ", ".join(level.policies)
        message = f"{policy} contradicts level {level.name}, which allows {allowed}"
        found.append(("metadata.modification_policy", "contradiction", message))
    return [RowError(line=line, field=field, code=code, message=message) for field, code, message in found]


def _text_problems(field: str, text: str) -> list[tuple[str, str, str]]:
    """Leftovers, secrets, and characters that no text should hold."""
    found = []
    lowered = text.lower()
    for sign, pattern in _PLACEHOLDERS.items():
        if sign in lowered and (match := pattern.search(_prose(text) if sign == "{{" else text)):
            found.append((field, "placeholder", f"placeholder left in: {match.group(0)[:60]!r}"))
            break
    else:
        if field == "output" and (match := _LEFT_TO_DO.search(text)):
            found.append((field, "placeholder", f"placeholder left in: {match.group(0).strip()[:60]!r}"))
    for sign, pattern in _SECRETS.items():
        if sign in lowered and (match := pattern.search(text)):
            found.append((field, "secret", f"secret left in: {match.group(0)[:8] + '…'!r}"))
            break
    if not text.isascii() and (match := _MOJIBAKE.search(text)):
        found.append((field, "encoding", f"decoded with the wrong encoding: {match.group(0)!r}"))
    if match := _CONTROL.search(text):
        sign = match.group(0)
        name = "a NUL character" if sign == "\x00" else f"the character U+{ord(sign):04X}"
        found.append((field, "encoding" if sign == "\ufffd" else "control", f"holds {name}"))
    return found


def _prose(text: str) -> str:
    """`text` without its code, in which braces are a template's own."""
    kept, fenced = [], False
    for line in text.split("\n"):
        if line.lstrip().startswith(("```", "~~~")):
            fenced = not fenced
        elif not fenced:
            kept.append(line)
    return _INLINE_CODE.sub("", "\n".join(kept))


def _answer_problems(row: Example) -> list[tuple[str, str, str]]:
    """Tool calls, metadata tags and code in the answer."""
    found = []
    text = row.text
    if "<tool" in text or "</tool" in text:
        try:
            find_calls(text)
        except InputError as error:
            found.append(("output", "markup", error.message))
    try:
        levels = [tag.level for tag in find_tags(text)]
        # an answer of several parts has a tag for each, and the row is as strict as its strictest part
        if levels and row.metadata.preservation_level != (strictest := min(levels, key=list(LEVELS).index)):
            message = f"the answer's tag says {strictest}, the row's metadata {row.metadata.preservation_level}"
            found.append(("output", "contradiction", message))
    except InputError as error:
        found.append(("output", "tag", error.message))
    if "```" in text or "~~~" in text:
        found += [("output", "code", problem) for problem in code_errors(text)]
    elif problem := _json_problem(text.strip()):
        found.append(("output", "code", problem))
    return found


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


def _window_problems(row: Example, output: dict[str, Any]) -> list[tuple[str, str, str]]:
    """The parts that a context window misses, and a level of its own that disagrees."""
    found = []
    content, window, metadata = output.get("content"), output.get("context_window"), output.get("metadata")
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
    rules = window.get("active_rules")
    for rule in rules if isinstance(rules, list) else []:
        try:
            check_rule(str(rule))
        except InputError as error:
            found.append(("output.context_window.active_rules", "tag", error.message))
    if not isinstance(metadata, dict):
        found.append(("output.metadata", "context_window", "is missing"))
    elif (level := metadata.get("preservation_level")) != row.metadata.preservation_level:
        message = f"the window says {level!r}, the row's metadata {row.metadata.preservation_level!r}"
        found.append(("output.metadata.preservation_level", "contradiction", message))
    return found
