"""Chat templates that come with a model: each is tried once in a process of its own, before it runs in ours.

    require_harmless(template, "holds")      # InputError when it takes seconds, gigabytes, or writes without end

A chat template is a program that its model brings along. Jinja's sandbox keeps it from files and classes, but not from
two nested loops over a hundred thousand each, nor from `'x' * 4000000000`, which is computed when it is compiled. To
run it alone:

    python -P -m tools.models.templates < template.jinja
"""

import hashlib
import subprocess
import sys
from contextlib import suppress
from typing import Any

from tools.errors import InputError

CPU_SECONDS = 2  # a template that people use takes milliseconds
SECONDS = 60.0  # by the clock: the machine may be busy, and the process has to start
MEMORY_BYTES = 1_000_000_000
MOST_TEXT = 1_000_000  # characters around one word
_ASKED = [{"role": "user", "content": "Hello"}]
_tried: set[str] = set()


def require_harmless(template: str, whose: str) -> None:
    """Try `template` on one short question. What it gets wrong otherwise is for the one who renders it to say.

    Raises:
        InputError: it does not end, takes too much memory, or writes too much text.
    """
    sha = hashlib.sha256(template.encode("utf-8", "surrogatepass")).hexdigest()
    if sha in _tried:
        return
    command = [sys.executable, "-P", "-m", __name__]
    try:
        done = subprocess.run(
            command, input=template.encode("utf-8", "replace"), capture_output=True, timeout=SECONDS, check=False
        )
        wrong = done.stdout.decode("utf-8", "replace").strip() if done.returncode else ""
        if done.returncode and not wrong:
            wrong = f"takes more than {CPU_SECONDS} s or {MEMORY_BYTES / 1e9:g} GB for one word"
    except subprocess.TimeoutExpired:
        wrong = f"has not ended after {SECONDS:.0f} s"
    if wrong:
        raise InputError(
            f"The chat template of {whose} {wrong}, so it is not used.", "take the model from where you can trust it"
        )
    _tried.add(sha)


def require_harmless_each(templates: Any, whose: str) -> None:
    """The same for what a tokenizer calls its template: a text, several by name, or none."""
    for template in templates.values() if isinstance(templates, dict) else [templates]:
        if isinstance(template, str):
            require_harmless(template, whose)


def _render(template: str) -> str:
    """The template around one question, in the sandbox that transformers and llama.cpp's binding use."""
    import jinja2
    import jinja2.ext
    from jinja2.sandbox import ImmutableSandboxedEnvironment

    class Generation(jinja2.ext.Extension):
        tags = {"generation"}  # noqa: RUF012  # as the class above declares it

        def parse(self, parser: jinja2.parser.Parser) -> Any:
            next(parser.stream)
            return parser.parse_statements(("name:endgeneration",), drop_needle=True)

    def refuse(message: str) -> None:
        raise jinja2.TemplateError(message)

    environment = ImmutableSandboxedEnvironment(
        trim_blocks=True, lstrip_blocks=True, extensions=[Generation, jinja2.ext.loopcontrols]
    )
    given = {"messages": _ASKED, "tools": None, "documents": None, "bos_token": "<s>", "eos_token": "</s>"}
    functions = {"raise_exception": refuse, "strftime_now": lambda form: form}
    return environment.from_string(template).render(**given, **functions, add_generation_prompt=True)


def main() -> int:
    """Try the template on stdin, within bounds; 1 when it went beyond them."""
    import resource

    with suppress(ValueError, OSError):  # a system that knows no such limit still has the clock
        resource.setrlimit(resource.RLIMIT_CPU, (CPU_SECONDS, CPU_SECONDS))
        resource.setrlimit(resource.RLIMIT_AS, (MEMORY_BYTES, MEMORY_BYTES))
    template = sys.stdin.buffer.read().decode("utf-8", "replace")
    try:
        text = _render(template)
    except MemoryError:
        sys.stdout.write(f"takes more than {MEMORY_BYTES / 1e9:g} GB for one word\n")
        return 1
    except Exception:  # whatever a broken template raises: whoever renders it says so
        return 0
    if len(text) > MOST_TEXT:
        sys.stdout.write(f"writes {len(text)} characters around one word\n")
        return 1
    return 0


if __name__ == "__main__":
    sys.exit(main())
