"""The commands that evidence may run: each with the arguments and options that only read, check or print.

    refused("rules cursor --write x")     # "rules takes --json here, got '--write'"; "" when the command may run

A sprint file may come from an agent, and `looptune loop run` runs its evidence without asking anybody. So what is not
named here is refused, and not the other way round: an option that writes is one that nobody thought of.
"""

import shlex
from dataclasses import dataclass
from pathlib import PurePosixPath


@dataclass(frozen=True)
class Allowed:
    """What a command takes: at most `arguments`, which are files of the checkout where `files` names their endings,
    the options that stand alone (`flags`, of which `needs` have to be there), and those with a value (`values`)."""

    arguments: int = 0
    files: tuple[str, ...] = ()
    flags: tuple[str, ...] = ("--json",)
    needs: tuple[str, ...] = ()
    values: tuple[str, ...] = ()


ANY = ("",)
ALLOWED: dict[str, Allowed] = {
    "check": Allowed(2, files=ANY, values=("--level", "--language")),
    "dataset build": Allowed(1, flags=("--check", "--json"), needs=("--check",)),
    "doctor": Allowed(values=("--model",)),
    "evaluation rows": Allowed(1, flags=(), values=("--limit",)),
    "evaluation show": Allowed(1),
    "models": Allowed(),
    "plan": Allowed(values=("--preset", "--dataset", "--set")),
    "print-config": Allowed(1),
    "resource": Allowed(1),
    "rules": Allowed(1),
    "runs": Allowed(),
    "tools": Allowed(),
    # a dataset by its name would be split and marked as valid, so only files are validated
    "validate": Allowed(1, files=(".json", ".jsonl"), values=("--base", "--max-length")),
    "verify": Allowed(1, flags=("--fused", "--json")),
}


def refused(command: str) -> str:
    """Why evidence may not run `command`; empty when it may."""
    try:
        words = shlex.split(command)
    except ValueError as error:
        return f"it cannot be read: {error}"
    name = next((" ".join(words[:n]) for n in (2, 1) if " ".join(words[:n]) in ALLOWED), "")
    if not words or not name:
        return f"known are {', '.join(ALLOWED)}"
    allowed, rest, arguments, flags = ALLOWED[name], words[len(name.split()) :], [], set()
    while rest:
        word = rest.pop(0)
        option, equals, value = word.partition("=")
        if not word.startswith("-"):
            arguments.append(word)
        elif word in allowed.flags:
            flags.add(word)
        elif option in allowed.values and (equals or rest):
            if not equals:
                value = rest.pop(0)
            if value.startswith("-"):
                return f"{option} needs a value, got {value!r}"
        else:
            options = ", ".join((*allowed.flags, *allowed.values)) or "no options"
            return f"{name} takes {options} here, got {word!r}"
    if missing := [flag for flag in allowed.needs if flag not in flags]:
        return f"{name} needs {', '.join(missing)} here"
    if len(arguments) > allowed.arguments:
        return f"{name} takes at most {allowed.arguments} arguments, got {arguments}"
    for argument in arguments if allowed.files else []:
        path = PurePosixPath(argument)
        if path.is_absolute() or ".." in path.parts or not argument.endswith(allowed.files):
            ends = " or ".join(ending for ending in allowed.files if ending)
            return f"{name} reads files of the checkout{f' in {ends}' if ends else ''}, got {argument!r}"
    return ""
