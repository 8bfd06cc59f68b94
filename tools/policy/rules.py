"""The rules that tags name: those that ship, and the user's own in the workspace.

    book = read_rules(Workspace.open())
    book.meanings()["business:paid_order"]
    book.conflicts      # what of the user's file does not count, and why

The user's own stand in `rules.yaml` of the workspace, in the form of datasets/policy/rules.yaml: tag → its meaning.
Where both define a tag, the shipped meaning counts, since it is what the shipped rows teach; the conflict is said.
"""

from collections.abc import Iterable
from pathlib import Path
from typing import Any

import yaml
from pydantic import BaseModel

from tools.errors import InputError
from tools.policy.tags import check_rule
from tools.settings import shipped_data
from tools.workspace import Workspace

MAX_BYTES = 200_000
MAX_MEANING = 500


class Conflict(BaseModel):
    """An own rule that does not count: which, why, and what to do."""

    rule: str
    problem: str
    next_step: str


class RuleBook(BaseModel):
    """Every rule by its tag. `own` holds those of the user's that count."""

    shipped: dict[str, str]
    own: dict[str, str]
    conflicts: list[Conflict]
    file: str

    def meanings(self) -> dict[str, str]:
        """Tag → meaning, shipped and own."""
        return {**self.shipped, **self.own}


def shipped_rules() -> dict[str, str]:
    """The rules that ship with looptune, tag → meaning."""
    return _read(shipped_data() / "policy" / "rules.yaml")


def rules_file(workspace: Workspace) -> Path:
    """Where the user's own rules stand."""
    return workspace.home / "rules.yaml"


def read_rules(workspace: Workspace) -> RuleBook:
    """The shipped rules and the user's own; conflicts are reported, not raised.

    Raises:
        InputError: the user's file is no YAML, or no mapping of tags of known families to meanings.
    """
    shipped, path = shipped_rules(), rules_file(workspace)
    own = _read(path) if path.is_file() else {}
    book = RuleBook(shipped=shipped, own={}, conflicts=[], file=str(path))
    alike = {_plain(rule): rule for rule in shipped}
    for rule, meaning in own.items():
        known = alike.get(_plain(rule))
        if known is None:
            alike[_plain(rule)] = rule
            book.own[rule] = meaning
            continue
        if known == rule and meaning == shipped.get(rule):
            continue  # the same, twice
        if known == rule:
            problem = f"the shipped rule says {shipped[rule]!r}, this one {meaning!r}; the shipped one counts"
        else:
            problem = f"it is too much like {known!r} to be told apart; {known!r} counts"
        book.conflicts.append(Conflict(rule=rule, problem=problem, next_step=f"rename it in {path}"))
    return book


def lookalikes(tags: Iterable[str], meanings: Iterable[str]) -> dict[str, str]:
    """Those of `tags` that have no meaning and differ only by `-`, `_` or `.` from one that has, and that one."""
    known = set(meanings)
    alike = {_plain(rule): rule for rule in known}
    return {tag: alike[_plain(tag)] for tag in sorted(set(tags) - known) if _plain(tag) in alike}


def _plain(rule: str) -> str:
    """A tag without what people mix up: `pattern:domain-errors` is `pattern:domain_errors`."""
    return rule.replace("-", "_").replace(".", "_")


def _read(path: Path) -> dict[str, str]:
    if path.stat().st_size > MAX_BYTES:
        raise InputError(f"{path} is larger than {MAX_BYTES} bytes.", "keep rules to a line each")
    try:
        found: Any = yaml.load(path.read_text(encoding="utf-8"), Loader=_OneOfEach) or {}  # noqa: S506 (a SafeLoader)
    except (OSError, UnicodeDecodeError, yaml.YAMLError, RecursionError) as error:
        raise InputError(f"{path} is not YAML: {' '.join(str(error).split())}", "mend it") from error
    if not isinstance(found, dict):
        raise InputError(f"{path}: expected rules as 'family:name': meaning, got {type(found).__name__}.", "mend it")
    for rule, meaning in found.items():
        check_rule(str(rule))
        if not isinstance(meaning, str) or not 0 < len(meaning.strip()) <= MAX_MEANING:
            raise InputError(
                f"{path}: the meaning of {rule!r} is 1 to {MAX_MEANING} characters of text; got {meaning!r:.80}.",
                "say it in a line",
            )
    return {rule: meaning.strip() for rule, meaning in found.items()}


class _OneOfEach(yaml.SafeLoader):
    """YAML in which a key that stands twice is an error, instead of the last one silently winning."""


def _mapping(loader: _OneOfEach, node: yaml.MappingNode) -> dict[Any, Any]:
    keys = [loader.construct_object(key, deep=True) for key, _ in node.value]
    if twice := next((key for key in keys if keys.count(key) > 1), None):
        raise yaml.YAMLError(f"{twice!r} stands twice")
    return {k: loader.construct_object(v, deep=True) for k, (_, v) in zip(keys, node.value, strict=True)}


_OneOfEach.add_constructor(yaml.resolver.BaseResolver.DEFAULT_MAPPING_TAG, _mapping)
