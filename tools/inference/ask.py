"""Ask a model a question.

    ask(workspace, "What does 42 mean?")                    # the promoted model
    ask(workspace, "…", model="forty-two")                  # an exported model, a run's adapter, or a base

    ask(workspace, "…", temperature=0.7, seed=3, stop=["END"], heard=lambda text, tokens: print(text))

A loaded model stays loaded for the next question (`tools.inference.warm`).
"""

import time
from collections.abc import Sequence
from typing import Literal

from tools.errors import InputError, MissingError, NotFoundError
from tools.files import read_json
from tools.inference.engine import Engine, Generated, Heard, Model, Options
from tools.inference.extras import Extras, extras
from tools.inference.warm import Warm
from tools.models.bases import EMBEDDED, base_folder, base_names
from tools.workspace import Workspace, check_name

MAX_PROMPT = 8000


class Enough(Exception):
    """Raised by who hears an answer: it ends here, and its `finish` is `time`."""


class Answer(Extras):
    """What a model said, how it ended, its speed, and what the answer carries (see `Extras`)."""

    answer: str
    model: str
    kind: str
    seconds: float
    tokens: int
    finish: Literal["stop", "length", "time"]
    first_token_seconds: float
    tokens_per_second: float


def ask(
    workspace: Workspace,
    prompt: str,
    model: str = "",
    max_tokens: int = 200,
    *,
    temperature: float = 0.0,
    seed: int = 0,
    stop: Sequence[str] = (),
    heard: Heard | None = None,
) -> Answer:
    """The answer of `model`: an exported model, a run, or a base; without a name, of `default_model`. Temperature 0 is
    greedy; with one and the same seed, the same answer.

    Args:
        heard: told the answer so far as it comes; what it raises ends the answer, and `Enough` leaves what there is.

    Raises:
        InputError: the prompt is empty or too long, or an option is out of range.
        NotFoundError: nothing is known by that name.
        MissingError: there is no model yet, or it is not ready.
        LimitError: the model needs more memory than loaded models may take.
    """
    if not prompt.strip() or len(prompt) > MAX_PROMPT:
        raise InputError(
            f"Expected a prompt of 1 to {MAX_PROMPT} characters, got {len(prompt)}.", "ask one question at a time"
        )
    if not 1 <= max_tokens <= 2000:
        raise InputError(f"Expected max_tokens of 1 to 2000, got {max_tokens}.", "200 is enough for most answers")
    if not 0 <= temperature <= 2:
        raise InputError(f"Expected a temperature of 0 to 2, got {temperature}.", "0 is greedy, 0.7 is lively")
    if len(stop) > 8 or not all(0 < len(word) <= 200 for word in stop):
        raise InputError("Expected at most 8 stop texts of 1 to 200 characters.", "leave `stop` out, or shorten it")
    chosen, kind = resolve(workspace, model or default_model(workspace)[0])
    options = Options(max_tokens, temperature, seed, tuple(stop))
    with warm.engine(chosen, workspace.settings.warm_memory_gb * 1e9) as engine:
        said = _until_enough(engine, prompt, options, heard)
    return Answer(
        answer=said.text,
        model=chosen.name,
        kind=kind,
        seconds=round(said.seconds, 2),
        tokens=said.tokens,
        finish=said.finish,
        first_token_seconds=round(said.first_token_seconds, 3),
        tokens_per_second=round(said.tokens_per_second, 1),
        **extras(said.text).model_dump(),
    )


warm = Warm()


def _until_enough(engine: Engine, prompt: str, options: Options, heard: Heard | None) -> Generated:
    """The engine's answer; when `heard` has had enough, what there is of it, and the model stays loaded."""
    began = time.perf_counter()
    first, latest = 0.0, ("", 0)

    def listening(text: str, tokens: int) -> None:
        nonlocal first, latest
        first, latest = first or time.perf_counter() - began, (text, tokens)
        if heard:
            heard(text, tokens)

    try:
        return engine.generate(prompt, options, listening)
    except Enough:
        text, tokens = latest
        return Generated(text.strip(), tokens, "time", first, time.perf_counter() - began)


def default_model(workspace: Workspace) -> tuple[str, str]:
    """The model that answers when none is named, and why: the promoted one, or else the newest exported one that the
    gate has not refused.

    Raises:
        MissingError: there is none.
    """
    promoted = workspace.models / "promoted.json"
    names = workspace.names(workspace.models, "manifest.json")
    if promoted.is_file() and (name := str(read_json(promoted)["model"])) in names:
        return name, "the promoted model"
    if not names:
        raise MissingError(
            "No model has been exported yet.", f"train and quantize one, or ask the untrained base: model={EMBEDDED!r}"
        )
    allowed = [name for name in names if not _refused(workspace, name)]
    if not allowed:
        raise MissingError(
            f"No model is promoted, and the gate refused every exported one ({', '.join(names[-3:])}).",
            f"ask one by its name, e.g. model={names[-1]!r}, or train again",
        )
    return allowed[-1], "the newest export, since none is promoted"


def _refused(workspace: Workspace, name: str) -> bool:
    """Whether the last evaluation of an exported model said no."""
    path = workspace.models / name / "evaluation.json"
    return path.is_file() and not read_json(path)["chain"][-1]["values"]["passed"]


def resolve(workspace: Workspace, name: str) -> tuple[Model, str]:
    """What `name` stands for, and of which kind it is: `gguf`, `adapter` or `base`.

    Raises:
        NotFoundError, MissingError.
    """
    if "/" not in name:  # else a hub id, which base_folder looks at
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
    if name not in bases and "/" not in name:
        raise NotFoundError.named(
            "model, run or base", name, [*models, *runs, *bases], "read model://index and run://index"
        )
    return Model(name, folder=base_folder(workspace, name)), "base"
