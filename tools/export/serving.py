"""What lies beside an exported model, so that others can serve it: Ollama's Modelfile, and a README with the commands.

    parts = chat_parts(render)                # the pieces of a chat template, or None when it is not made of pieces
    write_serving(folder, "q4_k_m.gguf", …)

Ollama writes prompts with a Go template of its own, so the base's chat template has to be said again in Go. The pieces
are taken from the base's template by rendering conversations with it, and what they compose is compared with what the
template writes; a template that they cannot compose gets no TEMPLATE, and Ollama makes one from the GGUF itself.
"""

from collections.abc import Callable, Sequence
from pathlib import Path
from typing import Any

from pydantic import BaseModel

from tools.files import write_text

Messages = Sequence[dict[str, str]]
Render = Callable[[Messages, bool], str]  # a conversation as text, with or without the beginning of an answer


class ChatParts(BaseModel):
    """What stands before and after each message; `default` is written when no system message is given."""

    default: str
    system: tuple[str, str]
    user: tuple[str, str]
    assistant: tuple[str, str]

    def text(self, messages: Messages, answer: bool = True) -> str:
        """A conversation, as the template writes it."""
        said = "" if messages and messages[0]["role"] == "system" else self.default
        for message in messages:
            before, after = getattr(self, message["role"])
            said += before + message["content"] + after
        return said + (self.assistant[0] if answer else "")

    def go_template(self) -> str:
        """The same as a Go template, for Ollama. White space counts in it, so it stands on as few lines as it can."""
        roles = "".join(
            f'{{{{ {"if" if role == "system" else "else if"} eq .Role "{role}" }}}}{before}{{{{ .Content }}}}{after}'
            for role, (before, after) in (("system", self.system), ("user", self.user), ("assistant", self.assistant))
        )
        first = '{{ if not (eq (index .Messages 0).Role "system") }}' + self.default + "{{ end }}"
        body = "{{ range .Messages }}" + roles + "{{ end }}{{ end }}"
        return (first if self.default else "") + body + self.assistant[0]


def renderer(tokenizer: Any) -> Render:
    """The chat template of `tokenizer` as a function."""

    def render(messages: Messages, answer: bool) -> str:
        return str(tokenizer.apply_chat_template(list(messages), tokenize=False, add_generation_prompt=answer))

    return render


def chat_parts(render: Render) -> ChatParts | None:
    """The pieces of a chat template; None when it is not made of pieces."""
    system, user, answer = ({"role": r, "content": f"({r} 1)"} for r in ("system", "user", "assistant"))
    again = {"role": "user", "content": "(user 2)"}
    try:
        alone = _around(render([system], False), system)
        asked = _around(render([system, user], False), user)
        told = _around(render([system, user, answer], False), answer)
        bare = _around(render([user], True), user)
    except Exception:  # whatever a template raises for a conversation that it does not take
        return None
    if alone is None or asked is None or told is None or bare is None:
        return None
    before_user = asked[0].removeprefix(alone[0] + system["content"] + alone[1])
    before_answer = told[0].removeprefix(asked[0] + user["content"] + asked[1])
    if not bare[0].endswith(before_user):
        return None
    parts = ChatParts(
        default=bare[0].removesuffix(before_user),
        system=alone,
        user=(before_user, asked[1]),
        assistant=(before_answer, told[1]),
    )
    pieces = "".join([parts.default, *parts.system, *parts.user, *parts.assistant])
    tries: list[Messages] = [[user], [system, user], [user, answer, again], [system, user, answer, again]]
    same = all(parts.text(m) == render(m, True) for m in tries)
    return parts if same and "{{" not in pieces and '"""' not in pieces else None


def _around(text: str, message: dict[str, str]) -> tuple[str, str] | None:
    before, found, after = text.partition(message["content"])
    return (before, after) if found else None


def modelfile(gguf: str, parts: ChatParts | None, stop: Sequence[str]) -> str:
    """What `ollama create NAME -f Modelfile` reads. Greedy, without a penalty for repeats, as it was measured."""
    lines = [f"FROM ./{gguf}", "PARAMETER temperature 0", "PARAMETER repeat_penalty 1.0"]
    lines += [f'PARAMETER stop "{word}"' for word in stop if '"' not in word]
    if parts is not None:
        lines.append(f'TEMPLATE """{parts.go_template()}"""')
    return "\n".join(lines) + "\n"


def write_serving(folder: Path, name: str, gguf: str, tokenizer: Any, base: Path, adapter: Path) -> None:
    """Write Modelfile and README.md into the model's folder."""
    parts = chat_parts(renderer(tokenizer))
    stop = [tokenizer.eos_token] if tokenizer.eos_token else []
    write_text(folder / "Modelfile", modelfile(gguf, parts, stop))
    lora = _LORA.format(base=base) if (folder / "lora.gguf").is_file() else ""
    template = "says the base's chat template again in Go" if parts else "leaves the chat template to Ollama"
    write_text(
        folder / "README.md",
        _README.format(name=name, gguf=gguf, base=base, adapter=adapter, lora=lora, template=template),
    )


_README = """\
# {name}

`{gguf}` is the model, `f16.gguf` the same unquantized, `manifest.json` what it was made from, by hash.
Run the commands in this folder. Each model answers under the chat template that it carries.

## looptune

```sh
looptune verify {name}                                    # every hash, back to the cards
looptune call ask_model prompt="What does 42 mean?" model={name}
```

## llama.cpp

```sh
llama-server -m {gguf} --jinja --port 8080                # http://127.0.0.1:8080/v1/chat/completions
python -m llama_cpp.server --model {gguf} --port 8080     # pip install 'llama-cpp-python[server]'
```
{lora}
## Ollama

```sh
ollama create {name} -f Modelfile
ollama run {name}
```

The Modelfile {template}.

## mlx-lm

The adapter on its base, unquantized, while both are there:

```sh
mlx_lm.server --model {base} --adapter-path {adapter} --port 8080
mlx_lm.generate --model {base} --adapter-path {adapter} --prompt "What does 42 mean?" --temp 0
```
"""

_LORA = """
`lora.gguf` is the adapter alone: one base serves many of them.

```sh
python -P -m convert_hf_to_gguf {base} --outfile base.gguf --outtype f16
llama-server -m base.gguf --lora lora.gguf --jinja --port 8080
```
"""
