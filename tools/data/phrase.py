"""Phrasings: Jinja2 templates with an id, rendered in a sandbox with nothing undefined."""

from jinja2 import StrictUndefined
from jinja2.sandbox import SandboxedEnvironment

from tools.data.cards import Phrasing

_environment = SandboxedEnvironment(undefined=StrictUndefined, autoescape=False)


def render(phrasing: Phrasing, variables: dict[str, str]) -> str:
    """The text of `phrasing` with its slots filled."""
    return _environment.from_string(phrasing.text).render(variables)


def capital(text: str) -> str:
    """A sentence that a template began with a term or an article still opens with a capital."""
    return text[:1].upper() + text[1:]
