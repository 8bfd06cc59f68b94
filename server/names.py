"""Names for shell completion: what the workspace holds. A shell asks on each Tab, so nothing heavy is imported.

typer.Argument(autocompletion=runs)
"""

from tools.settings import Settings
from tools.workspace import Workspace


def runs(incomplete: str) -> list[str]:
    """The jobs, newest first."""
    workspace = Workspace.open(Settings())
    return [name for name in reversed(workspace.names(workspace.runs, "state.json")) if name.startswith(incomplete)]


def datasets(incomplete: str) -> list[str]:
    """The datasets, newest first."""
    workspace = Workspace.open(Settings())
    found = reversed(workspace.names(workspace.datasets, "dataset.json"))
    return [name for name in found if name.startswith(incomplete)]


def models(incomplete: str) -> list[str]:
    """The exported models, newest first."""
    workspace = Workspace.open(Settings())
    return [
        name for name in reversed(workspace.names(workspace.models, "manifest.json")) if name.startswith(incomplete)
    ]


def tags(incomplete: str) -> list[str]:
    """The rule tags that have a meaning: those that ship, and the user's own."""
    from tools.errors import InputError
    from tools.policy.rules import read_rules, shipped_rules

    try:
        known = read_rules(Workspace.open(Settings())).meanings()
    except InputError:  # doctor says what is wrong with the user's file
        known = shipped_rules()
    return [tag for tag in sorted(known) if tag.startswith(incomplete)]


def to_look_at(incomplete: str) -> list[str]:
    """What `looptune open` shows."""
    return [*datasets(incomplete), *runs(incomplete)]
