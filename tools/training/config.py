"""A training recipe: every field, its unit and its bounds; presets are complete recipes by name.

    config = preset("smollm2-135m", dataset="forty-two", learning_rate=3e-4)

A config refuses unknown keys and contradictions when it is made. A step is `batch_size` rows; they pass through the
model in packs of at most `pack_tokens` tokens whose gradients are added up, so memory is decided by the pack and the
result by the batch. Fields in RESUMABLE change neither rows nor numbers, so a resumed run may change them; `epochs` it
may lower, to end sooner.
"""

import difflib
from pathlib import Path
from typing import Annotated, Any, Literal, get_args

import yaml
from pydantic import (
    BaseModel,
    ConfigDict,
    Field,
    IPvAnyAddress,
    ValidationError,
    field_serializer,
    model_validator,
)

from tools.errors import InputError, NotFoundError

_PRESETS = Path(__file__).with_name("presets")
# Shorter names, which scripts may keep using.
ALIASES = {"embedded": "smollm2-135m", "qwen2.5-coder-7b": "qwen2.5-coder-7b-m1max"}
ARGUMENTS = ("dataset", "preset")  # of a call, and so no settings
RESUMABLE = (
    "pack_tokens",
    "gradient_checkpointing",
    "memory_limit_gb",
    "save_every",
    "keep_checkpoints",
    "auto_resume",
    "epochs",
)
Target = Literal["q_proj", "k_proj", "v_proj", "o_proj", "gate_proj", "up_proj", "down_proj"]
ALL_LINEARS: tuple[Target, ...] = get_args(Target)


class TrainingConfig(BaseModel):
    """One LoRA training. The adapter's output is scaled by alpha / rank (Hu et al. 2021, arXiv:2106.09685)."""

    model_config = ConfigDict(extra="forbid", frozen=True)

    preset: Annotated[str, Field(description="the recipe this came from")] = ""
    base: Annotated[str, Field(description="name of the base model")]
    dataset: Annotated[str, Field(description="name of a valid dataset")]
    device: Annotated[
        Literal["any", "metal", "cuda", "cpu"], Field(description="what the recipe is meant for; a plan reckons for it")
    ] = "any"
    rank: Annotated[int, Field(ge=1, le=256, description="rank of LoRA's matrices")] = 16
    alpha: Annotated[float, Field(gt=0, le=1024, description="LoRA's alpha; the scale is alpha / rank")] = 32
    targets: Annotated[
        list[Target], Field(min_length=1, description="matrices of each layer that get an adapter; all by default")
    ] = list(ALL_LINEARS)
    dropout: Annotated[float, Field(ge=0, lt=1, description="dropout on LoRA's input")] = 0.0
    learning_rate: Annotated[float, Field(gt=0, le=0.1, description="peak rate of AdamW")] = 2e-4
    warmup_steps: Annotated[int, Field(ge=0, description="steps of linear warm-up")] = 0
    schedule: Annotated[Literal["cosine", "constant"], Field(description="rate after warm-up")] = "cosine"
    batch_size: Annotated[int, Field(ge=1, le=1024, description="rows of one optimizer step")] = 8
    epochs: Annotated[float, Field(gt=0, le=100, description="passes over the training rows")] = 1
    max_length: Annotated[
        int, Field(ge=16, le=32768, description="tokens after which a row is cut; a plan names such rows")
    ] = 512
    pack_tokens: Annotated[
        int,
        Field(ge=16, le=32768, description="tokens of one forward pass; rows are packed end to end up to it"),
    ] = 1024
    clip_norm: Annotated[float, Field(gt=0, description="bound on the gradient's norm")] = 1.0
    weight_decay: Annotated[float, Field(ge=0, le=1, description="AdamW's weight decay")] = 0.01
    gradient_checkpointing: Annotated[bool, Field(description="recompute layers to save memory")] = False
    eval_every: Annotated[int, Field(ge=1, description="steps between validation losses")] = 50
    patience: Annotated[
        int, Field(ge=0, description="evaluations without a better validation loss after which it ends; 0: never")
    ] = 0
    save_every: Annotated[int, Field(ge=1, description="steps between checkpoints")] = 50
    keep_checkpoints: Annotated[int, Field(ge=1, le=100, description="newest checkpoints kept, beside the best")] = 2
    auto_resume: Annotated[
        int, Field(ge=0, le=100, description="how often it goes on by itself after its worker died; 0: never")
    ] = 0
    seed: Annotated[int, Field(ge=0, lt=2**32, description="of the data order and LoRA's start")] = 42
    memory_limit_gb: Annotated[
        float, Field(gt=0, le=4096, description="of all its processes on a machine; it saves and stops before it")
    ] = 16.0
    nproc: Annotated[
        int, Field(ge=1, le=64, description="processes on each machine, which share the rows of every step")
    ] = 1
    hosts: Annotated[
        list[IPvAnyAddress],
        Field(max_length=64, description="addresses of the machines, this one first; empty: this one alone"),
    ] = []

    @field_serializer("hosts")
    def _plain(self, hosts: list[IPvAnyAddress]) -> list[str]:
        return [str(host) for host in hosts]

    @model_validator(mode="after")
    def _consistent(self) -> "TrainingConfig":
        if self.pack_tokens < self.max_length:
            raise ValueError(
                f"pack_tokens ({self.pack_tokens}) must hold at least one row of max_length ({self.max_length})"
            )
        if len(set(self.targets)) < len(self.targets):
            raise ValueError(f"targets names a matrix twice: {', '.join(self.targets)}")
        if self.batch_size < self.processes:
            raise ValueError(
                f"batch_size ({self.batch_size}) must hold at least one row for each of {self.processes} processes"
            )
        return self

    @property
    def processes(self) -> int:
        """How many train together, on all machines."""
        return self.nproc * max(1, len(self.hosts))

    @property
    def scale(self) -> float:
        """What mlx-lm calls `scale`."""
        return self.alpha / self.rank


def preset_names() -> list[str]:
    """The recipes that ship."""
    return sorted(path.stem for path in _PRESETS.glob("*.yaml"))


def preset_keys(name: str) -> dict[str, Any]:
    """What the recipe `name` says, as its file says it; a test holds it against the model."""
    return dict(yaml.safe_load((_PRESETS / f"{name}.yaml").read_text(encoding="utf-8")))


def preset(name: str, /, **changes: Any) -> TrainingConfig:
    """The recipe `name` with `changes`; `dataset` has to be among them.

    Raises:
        NotFoundError: no such preset.
        InputError: a change is unknown or out of range; each is named.
    """
    name = ALIASES.get(name, name)
    if name not in preset_names():
        raise NotFoundError.named("preset", name, [*preset_names(), *ALIASES], "name one of these")
    recipe = preset_keys(name)
    longest = changes.get("max_length", recipe["max_length"])
    if isinstance(longest, int):  # a pack holds at least one row
        recipe["pack_tokens"] = max(recipe.get("pack_tokens", 1024), longest)
    try:
        return TrainingConfig.model_validate({**recipe, "preset": name, **changes})
    except ValidationError as error:
        raise InputError(describe(error), "call plan_training with values in range") from error


def resumed(config: TrainingConfig, changes: dict[str, Any]) -> TrainingConfig:
    """`config` with `changes` of what a resumed run may change.

    Raises:
        InputError: another field is among them, a value is out of range, or the epochs became more.
    """
    if fixed := sorted(set(changes) - set(RESUMABLE)):
        raise InputError(
            f"A run that goes on keeps its {', '.join(fixed)}: another value would be another training. It may change "
            f"{', '.join(RESUMABLE)}.",
            "leave the others out, or start a new training",
        )
    try:
        changed = TrainingConfig.model_validate({**config.model_dump(), **changes})
    except ValidationError as error:
        raise InputError(describe(error), "give values in range") from error
    if changed.epochs > config.epochs:
        raise InputError(
            f"A run that goes on may end sooner than after its {config.epochs:g} epochs, not later; got "
            f"{changed.epochs:g}: its rate has come down already.",
            "give fewer epochs, or start a new training",
        )
    return changed


def describe(error: ValidationError) -> str:
    """What a pydantic error says, in one sentence a field: expected what, got what."""
    known = ", ".join(field for field in TrainingConfig.model_fields if field not in ARGUMENTS)
    parts = []
    for problem in error.errors(include_url=False):
        field = ".".join(str(part) for part in problem["loc"]) or "config"
        if problem["type"] == "extra_forbidden":
            near = difflib.get_close_matches(field, TrainingConfig.model_fields, 1)
            parts.append(f"{field} is not a setting (known: {known}{f'; did you mean {near[0]}?' if near else ''})")
        else:
            parts.append(f"{field}: {problem['msg'].lower()}, got {problem['input']!r:.80}")
    return "; ".join(parts) + "."
