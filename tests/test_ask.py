"""Asking a model: options, what an answer carries, models kept warm, and the files for serving it elsewhere.

.venv/bin/python -P -m pytest tests/test_ask.py
"""

import contextlib
import json
import os
import re
import shlex
import shutil
import socket
import subprocess
import sys
import time
import urllib.request
from importlib.util import find_spec
from pathlib import Path
from typing import Any

import pytest

from server.toolbox.proof import _told_answer
from tools.errors import InputError, LimitError
from tools.export.serving import ChatParts, chat_parts, modelfile, renderer
from tools.inference import ask as asking
from tools.inference.ask import Answer, ask
from tools.inference.engine import Model, Options, cut, open_engine
from tools.inference.extras import extras
from tools.inference.warm import Warm, needs_bytes
from tools.models.bases import EMBEDDED
from tools.models.load import load_tokenizer
from tools.settings import Settings
from tools.workspace import Workspace

TAG = '<!-- METADATA: preservation_level=strict, rule_compliance=["pattern:domain_errors"] -->'


@pytest.fixture(autouse=True)
def nothing_warm() -> Any:
    yield
    asking.warm.let_go()


@pytest.mark.parametrize("kind", ["gguf", "adapter", "base"])
def test_every_kind_of_model_answers_within_the_options(exported: Workspace, kind: str) -> None:
    run = exported.names(exported.runs, "adapter/adapters.safetensors")[0]
    name = {"gguf": "holds", "adapter": run, "base": "tiny"}[kind]
    heard: list[tuple[str, int]] = []
    answer = ask(exported, "What does 42 mean?", name, 6, heard=lambda text, tokens: heard.append((text, tokens)))
    assert (answer.kind, answer.model) == (kind, name)
    assert answer.tokens <= 6 and answer.finish in ("stop", "length") and answer.first_token_seconds > 0
    assert not heard or heard[-1][0].strip() == answer.answer


@pytest.mark.slow
@pytest.mark.parametrize("name", ["holds", "tiny"])
def test_a_seed_gives_the_same_answer_again_and_another_seed_another(exported: Workspace, name: str) -> None:
    said = [ask(exported, "Say something.", name, 12, temperature=1.5, seed=seed).answer for seed in (1, 1, 2)]
    assert said[0] == said[1] != said[2]


@pytest.mark.parametrize("name", ["holds", "tiny"])
def test_an_answer_ends_before_a_stop_text(exported: Workspace, name: str) -> None:
    whole = ask(exported, "What does 42 mean?", name, 8).answer
    assert len(whole) > 3
    word = whole[len(whole) // 2 :][:2]
    cut_short = ask(exported, "What does 42 mean?", name, 8, stop=[word])
    assert cut_short.answer == whole[: whole.find(word)].strip() and cut_short.finish == "stop"


def test_an_answer_can_be_stopped_and_the_model_still_answers(exported: Workspace) -> None:
    def enough(text: str, tokens: int) -> None:
        raise KeyboardInterrupt

    with pytest.raises(KeyboardInterrupt):
        ask(exported, "What does 42 mean?", "holds", 8, heard=enough)
    assert ask(exported, "What does 42 mean?", "holds", 8).tokens


def test_options_out_of_range_are_refused(exported: Workspace) -> None:
    for options in ({"max_tokens": 0}, {"temperature": 3.0}, {"stop": [""]}, {"stop": ["x"] * 9}):
        with pytest.raises(InputError, match="Expected"):
            ask(exported, "What?", "holds", **options)  # type: ignore[arg-type]
    with pytest.raises(InputError, match="does not fit"):
        ask(exported, "\u6f22 " * 3900, "holds", 4)


@pytest.mark.slow
def test_models_stay_warm_within_the_bound_and_the_oldest_makes_room(exported: Workspace) -> None:
    folder = exported.model("holds")
    small, large = (Model(name, gguf=folder / f"{name}.gguf") for name in ("q4_k_m", "f16"))
    kept = Warm()
    both = needs_bytes(small) + needs_bytes(large)
    with kept.engine(small, both) as first:
        pass
    with kept.engine(small, both) as again:
        assert again is first
    with kept.engine(large, both):
        assert kept.names() == ["q4_k_m", "f16"]
    with kept.engine(small, both - 1):
        assert kept.names() == ["f16", "q4_k_m"]  # it was there, so nothing has to go
    base = Model("tiny", folder=exported.bases / "tiny")
    with kept.engine(base, needs_bytes(base) + needs_bytes(small)):
        assert kept.names() == ["q4_k_m", "tiny"]
    with pytest.raises(LimitError, match="WARM_MEMORY_GB"), kept.engine(large, 1000):
        pass
    assert kept.let_go(unused_seconds=3600) == 2 and kept.let_go() == 0


def test_a_model_that_nobody_asks_is_let_go_by_itself(exported: Workspace) -> None:
    kept = Warm(idle_seconds=0.01)
    with kept.engine(Model("q4", gguf=exported.model("holds") / "q4_k_m.gguf"), 1e12):
        assert kept.names() == ["q4"]
    timer = kept._timer
    while timer is not None and kept.names():
        timer.join()
        timer = kept._timer
    assert kept.names() == []


def test_the_bound_is_a_setting(exported: Workspace) -> None:
    tight = Workspace(exported.home, Settings(warm_memory_gb=0.000001))
    with pytest.raises(LimitError):
        ask(tight, "What does 42 mean?", "holds", 4)


def test_extras_are_read_from_an_answer() -> None:
    call = "<tool:memory.query query='money'></tool>"
    found = extras(f"Raise DomainError.\n{call}\n{TAG}")
    assert found.metadata == [{"preservation_level": "strict", "rule_compliance": ["pattern:domain_errors"]}]
    assert found.tool_calls == [
        {"name": "memory.query", "arguments": {"query": "money"}, "body": "", "server_tool": "query_memory"}
    ]
    assert found.context_window is None and found.problems == []
    assert found.summary() == "level strict, a call of memory.query"
    assert extras("Just text.") == extras("") and extras("Just text.").summary() == ""


def test_a_context_window_is_read_whole_or_fenced() -> None:
    window = {"system_prompt": "You know the rules.", "active_rules": ["rule:no_print"]}
    value = {"content": f"Done.\n{TAG}", "context_window": window, "metadata": {"preservation_level": "moderate"}}
    for text in (json.dumps(value), f"```json\n{json.dumps(value, indent=1)}\n```"):
        found = extras(text)
        assert found.context_window == window
        assert [m["preservation_level"] for m in found.metadata] == ["moderate", "strict"]


def test_markup_that_is_wrong_is_named_and_does_not_hurt() -> None:
    found = extras("<tool:nope x='1'></tool>\n<!-- METADATA: preservation_level=loose, rule_compliance=[] -->")
    assert len(found.problems) == 2 and not found.tool_calls and not found.metadata


def test_the_answer_of_the_tool_carries_the_extras(exported: Workspace, monkeypatch: pytest.MonkeyPatch) -> None:
    from tools.inference.engine import Generated

    said = Generated(f"Done.\n{TAG}", 9, "stop", 0.1, 0.2)
    monkeypatch.setattr("tools.inference.gguf_engine.GgufEngine.generate", lambda *_: said)
    answer = ask(exported, "What?", "holds")
    assert isinstance(answer, Answer) and answer.metadata[0]["preservation_level"] == "strict"


@pytest.mark.parametrize(
    ("seconds", "said"), [(1.0, "the model is loaded now. Next: ask again."), (34.0, "Next: ask what")]
)
def test_who_waited_for_the_loading_is_told_to_ask_again(seconds: float, said: str) -> None:
    answer = Answer(
        answer="A soft", model="holds", kind="gguf", seconds=seconds, tokens=2, finish="time", first_token_seconds=0.5,
        tokens_per_second=2.0, **extras("A soft").model_dump(),
    )  # fmt: skip
    text = _told_answer(answer, "")
    assert f"It was cut after {seconds:.0f} s." in text and said in text


def test_text_is_cut_before_the_first_stop() -> None:
    assert cut("one two three", ["three", "two"]) == ("one ", True)
    assert cut("one", []) == ("one", False)


def go(template: str, messages: list[dict[str, str]]) -> str:
    """What Go's text/template writes, for the actions that our templates use."""
    parts = re.split(r"\{\{(.*?)\}\}", template)

    def true(condition: str, message: dict[str, str] | None) -> bool:
        if found := re.fullmatch(r'eq \.Role "(\w+)"', condition):
            assert message is not None
            return message["role"] == found.group(1)
        assert condition == 'not (eq (index .Messages 0).Role "system")', condition
        return messages[0]["role"] != "system"

    def run(place: int, message: dict[str, str] | None, on: bool) -> tuple[str, int, str]:
        """The text from `place` to the else or end that closes it; where that stands, and what it says."""
        said = ""
        while place < len(parts):
            if place % 2 == 0:
                said += parts[place] if on else ""
                place += 1
                continue
            action = parts[place].strip()
            if action == "end" or action.startswith("else"):
                return said, place, action
            if action == ".Content":
                assert message is not None or not on
                said += message["content"] if on and message is not None else ""
                place += 1
            elif action == "range .Messages":
                for one in messages:
                    text, end, _ = run(place + 1, one, on)
                    said += text
                place = end + 1
            else:
                done, closing = False, action
                while closing != "end":
                    taken = on and not done and true(closing.removeprefix("else ").removeprefix("if "), message)
                    text, place, closing = run(place + 1, message, taken)
                    said, done = said + text, done or taken
                place += 1
        return said, place, ""

    return run(0, None, True)[0]


def conversations() -> list[list[dict[str, str]]]:
    system, user, answer = (
        {"role": role, "content": f" {role}\n\n<b>text</b>, with 'quotes' "} for role in ("system", "user", "assistant")
    )
    return [[user], [system, user], [user, answer, user], [system, user, answer, user, answer, user]]


def check_ollama(tokenizer: Any, default: str) -> None:
    """Ollama's template writes the tokens that training did; `default` stands in the base's own system message."""
    parts = chat_parts(renderer(tokenizer))
    assert parts is not None and default in parts.default
    text = modelfile("q4_k_m.gguf", parts, [tokenizer.eos_token])
    assert text.startswith("FROM ./q4_k_m.gguf\n") and 'PARAMETER stop "<|im_end|>"' in text
    found = re.search(r'TEMPLATE """(.*)"""', text, re.DOTALL)
    assert found
    for messages in conversations():
        written = tokenizer.encode(go(found.group(1), messages), add_special_tokens=False)
        assert written == list(tokenizer.apply_chat_template(messages, add_generation_prompt=True))


def check_chats(gguf: Path, tokenizer: Any) -> None:
    """llama.cpp reads each conversation as the tokens that training wrote, and no other tokens before them."""
    engine: Any = open_engine(Model("chats", gguf=gguf))
    seen: list[int] = []
    whole = engine.llama.eval
    engine.llama.eval = lambda ids: (seen.extend(ids), whole(ids))[1]
    for messages in conversations():
        engine.llama.reset()
        seen.clear()
        engine.llama.create_chat_completion(messages, max_tokens=1, temperature=0)
        asked = list(tokenizer.apply_chat_template(messages, add_generation_prompt=True))
        assert seen[: len(asked)] == asked
    engine.llama.reset()
    seen.clear()
    engine.generate("What does 42 mean?", Options(max_tokens=1))
    alone = [{"role": "user", "content": "What does 42 mean?"}]
    asked = list(tokenizer.apply_chat_template(alone, add_generation_prompt=True))
    assert seen[: len(asked)] == asked
    engine.close()


def test_ollamas_template_writes_the_tokens_that_training_did(with_bases: Workspace) -> None:
    check_ollama(load_tokenizer(with_bases.bases / EMBEDDED), "named SmolLM")


def test_a_chat_template_that_is_not_made_of_pieces_gets_no_go_template() -> None:
    def counting(messages: Any, answer: bool) -> str:
        return "".join(f"[{n}]{m['role']}:{m['content']}" for n, m in enumerate(messages)) + ("[a]" if answer else "")

    def refusing(messages: Any, answer: bool) -> str:
        raise ValueError("no system messages")

    assert chat_parts(counting) is None and chat_parts(refusing) is None
    assert "TEMPLATE" not in modelfile("q.gguf", None, [])
    plain = ChatParts(default="", system=("S", "\n"), user=("U", "\n"), assistant=("A", "\n"))
    assert chat_parts(lambda messages, answer: plain.text(messages, answer)) == plain


def test_the_model_folder_says_how_to_serve_it(exported: Workspace) -> None:
    text = (exported.model("holds") / "README.md").read_text()
    for command in ("llama-server -m q4_k_m.gguf", "ollama create holds -f Modelfile", "mlx_lm.server --model"):
        assert command in text
    base, adapter = re.findall(r"mlx_lm.generate --model (\S+) --adapter-path (\S+)", text)[0]
    assert Path(base, "config.json").is_file() and Path(adapter).name == "adapter"


def test_a_prompt_of_the_gguf_is_to_the_token_what_training_wrote(exported: Workspace) -> None:
    check_chats(exported.model("holds") / "q4_k_m.gguf", load_tokenizer(exported.bases / "tiny"))


def serves(port: int, server: "subprocess.Popen[bytes]", log: Path) -> str:
    """What a server answers that speaks as OpenAI's does."""
    deadline = time.monotonic() + 120
    while True:
        with contextlib.suppress(OSError), socket.create_connection(("127.0.0.1", port), timeout=1):
            break
        assert server.poll() is None and time.monotonic() < deadline, log.read_text()
        time.sleep(0.1)
    asked = {"messages": [{"role": "user", "content": "What does 42 mean?"}], "max_tokens": 4, "temperature": 0}
    request = urllib.request.Request(
        f"http://127.0.0.1:{port}/v1/chat/completions",
        json.dumps(asked).encode(),
        {"Content-Type": "application/json"},
    )
    with urllib.request.urlopen(request, timeout=120) as answer:
        return str(json.load(answer)["choices"][0]["message"]["content"])


@pytest.mark.slow
def test_each_command_in_the_readme_of_a_model_runs_where_its_program_is_there(
    exported: Workspace, tmp_path: Path
) -> None:
    folder, programs = exported.model("holds"), Path(sys.executable).parent
    env = {**os.environ, "PATH": f"{programs}:{os.environ['PATH']}", "HF_HUB_OFFLINE": "1"}
    blocks = re.findall(r"```sh\n(.*?)```", (folder / "README.md").read_text(), re.DOTALL)
    lines = [line for block in blocks for line in block.splitlines()]
    ran, left = [], []
    for line in lines:
        words = shlex.split(line, comments=True)
        name = words[2] if words[:2] == ["python", "-m"] else words[0]
        if not shutil.which(words[0], path=env["PATH"]) or (
            name == "llama_cpp.server" and not find_spec("starlette_context")
        ):
            left.append(name)
            continue
        ran.append(words[3] if words[:3] == ["python", "-P", "-m"] else name)
        if "--port" not in words:
            done = subprocess.run(words, cwd=folder, env=env, capture_output=True, text=True, timeout=200)
            assert done.returncode == 0, f"{line}\n{done.stdout}{done.stderr}"
            continue
        with socket.socket() as free:
            free.bind(("127.0.0.1", 0))
            port = free.getsockname()[1]
        words[words.index("--port") + 1] = str(port)
        log = tmp_path / "log"
        with log.open("wb") as stream:
            server = subprocess.Popen(words, cwd=folder, env=env, stdout=stream, stderr=stream)
        try:
            assert isinstance(serves(port, server, log), str)
        finally:
            server.terminate()
            server.wait(timeout=30)
    assert {"looptune", "convert_hf_to_gguf", "mlx_lm.server", "mlx_lm.generate"} <= set(ran)
    assert set(left) <= {"llama-server", "ollama", "llama_cpp.server"}
    assert (folder / "base.gguf").read_bytes()[:4] == b"GGUF"
