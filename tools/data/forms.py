"""The forms in which rows come, brought to Alpaca's fields.

    alpaca({"messages": [{"role": "user", "content": "Hi"}, {"role": "assistant", "content": "Hello."}]})
    # {'instruction': 'Hi', 'output': 'Hello.'}

Five forms: Alpaca (instruction, input, output, with looptune's own fields), `messages` (chat), `conversations` (chat as
ShareGPT writes it), `prompt` and `completion` (both text, or both messages), and `text`. docs/dataset-format.md shows
each.
"""

from collections.abc import Mapping
from types import MappingProxyType
from typing import Any

CONTINUE = "Continue this text."
_SHAREGPT = {"human": "user", "gpt": "assistant"}


class FormError(Exception):
    """What keeps a value from being a row: the field, a code, and the reason."""

    def __init__(self, field: str, code: str, message: str) -> None:
        super().__init__(message)
        self.field, self.code, self.message = field, code, message


def alpaca(value: dict[str, Any]) -> dict[str, Any]:
    """`value` with Alpaca's fields. A row that has them comes back as it is, but for fields that are null, which are
    left out, and for Alpaca's own `text` column, which says the other three again.

    Raises:
        FormError: none of the forms, a chat that is no chat, or a text too short to be continued.
    """
    if "instruction" in value or "output" in value:
        if None in value.values() or "text" in value:
            return {key: part for key, part in value.items() if part is not None and key != "text"}
        return value
    if "messages" in value:
        return _chat(value["messages"], "messages")
    if "conversations" in value:
        system = value.get("system")
        system = _content(system, "system") if system else ""
        return _chat(value["conversations"], "conversations", "from", "value", _SHAREGPT, system)
    if "prompt" in value or "completion" in value:
        return _completion(value)
    if "text" in value:
        return _text(value["text"])
    keys = ", ".join(sorted(map(str, value))[:6])[:80] or "none"
    expected = "instruction and output, messages, conversations, prompt and completion, or text"
    raise FormError("", "form", f"expected {expected}; got {keys}")


def _chat(
    turns: Any,
    field: str,
    who: str = "role",
    what: str = "content",
    roles: Mapping[str, str] = MappingProxyType({}),
    system: str = "",
) -> dict[str, Any]:
    """System (optional), then user and assistant in turn; the last answer is the output, the rest its history. Turns
    have `who` and `what`; `roles` are what others call the roles."""
    if not isinstance(turns, list) or not turns:
        raise FormError(field, "type", f"expected a list of messages, got {_shown(turns)}")
    said: list[str] = []
    for number, turn in enumerate(turns):
        at = f"{field}.{number}"
        if not isinstance(turn, dict):
            raise FormError(at, "type", f"expected an object with {who} and {what}, got {_shown(turn)}")
        role, content = turn.get(who), _content(turn.get(what), f"{at}.{what}")
        role = roles.get(role, role) if isinstance(role, str) else role
        if role in ("system", "developer") and number == 0:
            system = content
            continue
        expected = "assistant" if len(said) % 2 else "user"
        if role != expected:
            raise FormError(f"{at}.{who}", "turns", f"expected the turn of the {expected}, got {_shown(role)}")
        said.append(content)
    if len(said) < 2 or len(said) % 2:
        raise FormError(field, "turns", "the last message has to be the assistant's, after one of the user")
    row: dict[str, Any] = {"instruction": said[-2], "output": said[-1]}
    if system:
        row["system"] = system
    if said[:-2]:
        row["history"] = list(zip(said[:-2:2], said[1:-2:2], strict=True))
    return row


def _content(content: Any, field: str) -> str:
    """The text of a message: a string, or parts of type `text`, joined by line breaks."""
    if isinstance(content, str):
        return content
    if not isinstance(content, list) or not content:
        raise FormError(field, "type", f"expected text or a list of parts, got {_shown(content)}")
    texts = []
    for number, part in enumerate(content):
        text = part.get("text") if isinstance(part, dict) and part.get("type", "text") == "text" else part
        if not isinstance(text, str):
            raise FormError(f"{field}.{number}", "type", f"expected a part of type text, got {_shown(part)}")
        texts.append(text)
    return "\n".join(texts)


def _completion(value: dict[str, Any]) -> dict[str, Any]:
    for field in ("prompt", "completion"):
        if field not in value:
            raise FormError(field, "missing", f"expected {field} beside the other of prompt and completion")
    prompt, completion = value["prompt"], value["completion"]
    if isinstance(prompt, list) and isinstance(completion, list):
        return _chat([*prompt, *completion], "prompt+completion")
    for field, text in (("prompt", prompt), ("completion", completion)):
        if not isinstance(text, str):
            raise FormError(field, "type", f"expected text (or messages in both), got {_shown(text)}")
    return {"instruction": prompt, "output": completion}


def _text(text: Any) -> dict[str, Any]:
    """Plain text becomes a continuation: its first line (or sentence, or third of its words) is given."""
    if not isinstance(text, str):
        raise FormError("text", "type", f"expected text, got {_shown(text)}")
    text = text.strip()
    words = text.split(" ")
    for mark in ("\n", ". "):
        head, found, tail = text.partition(mark)
        if found and tail.strip():
            return {"instruction": CONTINUE, "input": (head + found).rstrip(), "output": tail.strip()}
    if len(words) < 3:
        raise FormError("text", "too_short", "expected at least three words, of which the last are learned")
    third = -(-len(words) // 3)
    return {"instruction": CONTINUE, "input": " ".join(words[:third]), "output": " ".join(words[third:]).strip()}


def _shown(value: Any) -> str:
    plain = isinstance(value, str | int | float | None)
    return repr(value)[:60] if plain else f"a value of type {type(value).__name__}"
