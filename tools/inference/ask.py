"""Ask a model a question.

    ask(workspace, "What does 42 mean?")                    # the promoted model
    ask(workspace, "…", model="forty-two")                  # an exported model, a run's adapter, or a base

A loaded model stays loaded for the next question, one at a time.
"""

import threading
import time
from pathlib import Path

from pydantic import BaseModel

from tools.errors import InputError, MissingError, NotFoundError
from tools.files import read_json
from tools.inference.engine import Engine, Model, open_engine
from tools.models.bases import EMBEDDED, base_folder, base_names
from tools.workspace import Workspace, check_name

MAX_PROMPT = 8000


class Answer(BaseModel):
    """What a model said."""

    answer: str
    model: str
    kind: str
    seconds: float


def ask(workspace: Workspace, prompt: str, model: str = "", max_tokens: int = 200) -> Answer:
    """The greedy answer of `model`: an exported model, a run, or a base. Without a name, of the promoted model, or
    else of the newest exported one.

    Raises:
        InputError: the prompt is empty or too long.
        NotFoundError: nothing is known by that name.
        MissingError: there is no model yet, or it is not ready.
    """
    if not prompt.strip() or len(prompt) > MAX_PROMPT:
        raise InputError(
            f"Expected a prompt of 1 to {MAX_PROMPT} characters, got {len(prompt)}.", "ask one question at a time"
        )
    if not 1 <= max_tokens <= 2000:
        raise InputError(f"Expected max_tokens of 1 to 2000, got {max_tokens}.", "200 is enough for most answers")
    chosen, kind = resolve(workspace, model or default_model(workspace))
    with _lock:
        engine = _opened(chosen)
        began = time.monotonic()
        text = engine.answer([prompt], max_tokens)[0]
    return Answer(answer=text, model=chosen.name, kind=kind, seconds=round(time.monotonic() - began, 2))


def default_model(workspace: Workspace) -> str:
    """The promoted model, or the newest exported one. Raises MissingError when there is none."""
    promoted = workspace.models / "promoted.json"
    names = workspace.names(workspace.models, "manifest.json")
    if promoted.is_file() and (name := str(read_json(promoted)["model"])) in names:
        return name
    if not names:
        raise MissingError(
            "No model has been exported yet.", f"train and quantize one, or ask the untrained base: model={EMBEDDED!r}"
        )
    return names[-1]


def resolve(workspace: Workspace, name: str) -> tuple[Model, str]:
    """What `name` stands for, and of which kind it is: `gguf`, `adapter` or `base`.

    Raises:
        NotFoundError, MissingError.
    """
    check_name(name, "model name")
    models = workspace.names(workspace.models, "manifest.json")
    if name in models:
        files = read_json(workspace.models / name / "manifest.json")["files"]
        return Model(name, gguf=workspace.models / name / next(reversed(files))), "gguf"
    runs = workspace.names(workspace.runs, "state.json")
    if name in runs:
        adapter = workspace.runs / name / "adapter"
        if not (adapter / "adapters.safetensors").is_file():
            raise MissingError(f"{name} holds no adapter (yet).", f"call training_status(run={name!r})")
        base = read_json(workspace.runs / name / "job.json")["config"]["base"]
        return Model(name, folder=base_folder(workspace, base), adapter=adapter), "adapter"
    bases = base_names(workspace)
    if name not in bases:
        raise NotFoundError.named(
            "model, run or base", name, [*models, *runs, *bases], "read model://index and run://index"
        )
    return Model(name, folder=base_folder(workspace, name)), "base"


_lock = threading.Lock()
_loaded: tuple[Path, Engine] | None = None


def _opened(model: Model) -> Engine:
    """The engine of `model`; the one that was loaded before makes room."""
    global _loaded
    key = model.gguf or model.adapter or model.folder
    assert key is not None
    if _loaded is None or _loaded[0] != key:
        if _loaded is not None:
            _loaded[1].close()
            _loaded = None
        _loaded = (key, open_engine(model))
    return _loaded[1]
