"""What an answer carries besides its text: metadata tags, a context window, tool calls.

found = extras("…<!-- METADATA: preservation_level=strict, rule_compliance=[] -->")
found.metadata[0]["preservation_level"]     # 'strict'

An answer is data: nothing here is carried out. Markup that is not well-formed is named in `problems`.
"""

import json
import re
from typing import Any

from pydantic import BaseModel

from tools.errors import InputError
from tools.policy.markup import SERVER_TOOLS, find_calls
from tools.policy.tags import find_tags

_FENCED = re.compile(r"\A\s*```(?:json)?\s*\n(.*?)\n\s*```\s*\Z", re.DOTALL)


class Extras(BaseModel):
    """What was found. `tool_calls` name this server's own tool where there is one."""

    metadata: list[dict[str, Any]] = []
    context_window: dict[str, Any] | None = None
    tool_calls: list[dict[str, Any]] = []
    problems: list[str] = []

    def summary(self) -> str:
        """What was found, in a line; empty when nothing was."""
        parts = [f"level {tag.get('preservation_level')}" for tag in self.metadata]
        parts += ["a context window"] if self.context_window else []
        parts += [f"a call of {call['name']}" for call in self.tool_calls]
        return ", ".join([*parts, *self.problems])


def extras(answer: str) -> Extras:
    """Everything that `answer` carries."""
    found = Extras()
    whole = _object(answer)
    text = answer
    if whole is not None and isinstance(whole.get("context_window"), dict):
        found.context_window = whole["context_window"]
        text = str(whole.get("content", ""))
        if isinstance(whole.get("metadata"), dict):
            found.metadata.append(whole["metadata"])
    try:
        found.metadata += [
            {"preservation_level": tag.level, "rule_compliance": list(tag.rules)} for tag in find_tags(text)
        ]
    except InputError as error:
        found.problems.append(error.message)
    try:
        for call in find_calls(text):
            served = {"server_tool": SERVER_TOOLS[call.name]} if call.name in SERVER_TOOLS else {}
            found.tool_calls.append({"name": call.name, "arguments": call.arguments, "body": call.body, **served})
    except InputError as error:
        found.problems.append(error.message)
    return found


def _object(answer: str) -> dict[str, Any] | None:
    """The JSON object that `answer` is, alone or in a fence."""
    fenced = _FENCED.match(answer)
    try:
        value = json.loads(fenced.group(1) if fenced else answer)
    except (ValueError, RecursionError):
        return None
    return value if isinstance(value, dict) else None
