"""A training recipe: every field, its unit and its bounds; presets are complete recipes by name.

    config = preset("embedded", dataset="forty-two", learning_rate=3e-4)

A config refuses unknown keys and contradictions when it is made.
"""

from pathlib import Path
from typing import Annotated, Any, Literal

import yaml
from pydantic import BaseModel, ConfigDict, Field, ValidationError, model_validator

from tools.errors import InputError, NotFoundError

_PRESETS = Path(__file__).with_name("presets")


class TrainingConfig(BaseModel):
    """One LoRA training. The adapter's output is scaled by alpha / rank (Hu et al. 2021, arXiv:2106.09685)."""

    model_config = ConfigDict(extra="forbid", frozen=True)

    preset: Annotated[str, Field(description="the recipe this came from")] = ""
    base: Annotated[str, Field(description="name of the base model")]
    dataset: Annotated[str, Field(description="name of a valid dataset")]
    rank: Annotated[int, Field(ge=1, le=256, description="rank of LoRA's matrices")] = 16
    alpha: Annotated[float, Field(gt=0, le=1024, description="LoRA's alpha; the scale is alpha / rank")] = 32
    dropout: Annotated[float, Field(ge=0, lt=1, description="dropout on LoRA's input")] = 0.0
    learning_rate: Annotated[float, Field(gt=0, le=0.1, description="peak rate of AdamW")] = 2e-4
    warmup_steps: Annotated[int, Field(ge=0, description="steps of linear warm-up")] = 0
    schedule: Annotated[Literal["cosine", "constant"], Field(description="rate after warm-up")] = "cosine"
    batch_size: Annotated[int, Field(ge=1, le=1024, description="rows of one optimizer step")] = 8
    epochs: Annotated[float, Field(gt=0, le=100, description="passes over the training rows")] = 1
    max_length: Annotated[int, Field(ge=16, le=32768, description="tokens after which a row is cut")] = 512
    pack_tokens: Annotated[
        int,
        Field(ge=16, le=32768, description="tokens of one forward pass; rows are packed end to end up to it"),
    ] = 1024
    clip_norm: Annotated[float, Field(gt=0, description="bound on the gradient's norm")] = 1.0
    weight_decay: Annotated[float, Field(ge=0, le=1, description="AdamW's weight decay")] = 0.01
    gradient_checkpointing: Annotated[bool, Field(description="recompute layers to save memory")] = False
    eval_every: Annotated[int, Field(ge=1, description="steps between validation losses")] = 50
    save_every: Annotated[int, Field(ge=1, description="steps between checkpoints")] = 50
    seed: Annotated[int, Field(ge=0, lt=2**32, description="of the data order and LoRA's start")] = 42
    memory_limit_gb: Annotated[float, Field(gt=0, le=4096, description="the worker stops beyond it")] = 16.0

    @model_validator(mode="after")
    def _consistent(self) -> "TrainingConfig":
        if self.pack_tokens < self.max_length:
            raise ValueError(
                f"pack_tokens ({self.pack_tokens}) must hold at least one row of max_length ({self.max_length})"
            )
        return self

    @property
    def scale(self) -> float:
        """What mlx-lm calls `scale`."""
        return self.alpha / self.rank


def preset_names() -> list[str]:
    """The recipes that ship."""
    return sorted(path.stem for path in _PRESETS.glob("*.yaml"))


def preset(name: str, /, **changes: Any) -> TrainingConfig:
    """The recipe `name` with `changes`; `dataset` has to be among them.

    Raises:
        NotFoundError: no such preset.
        InputError: a change is unknown or out of range; each is named.
    """
    if name not in preset_names():
        raise NotFoundError.named("preset", name, preset_names(), "name one of these")
    recipe = yaml.safe_load((_PRESETS / f"{name}.yaml").read_text(encoding="utf-8"))
    recipe.setdefault("pack_tokens", max(1024, int(changes.get("max_length", recipe["max_length"]))))
    try:
        return TrainingConfig.model_validate({**recipe, "preset": name, **changes})
    except ValidationError as error:
        raise InputError(describe(error), "call plan_training with values in range") from error


def describe(error: ValidationError) -> str:
    """What a pydantic error says, in one sentence a field: expected what, got what."""
    known = ", ".join(TrainingConfig.model_fields)
    parts = []
    for problem in error.errors(include_url=False):
        field = ".".join(str(part) for part in problem["loc"]) or "config"
        if problem["type"] == "extra_forbidden":
            parts.append(f"{field} is not a setting (known: {known})")
        else:
            parts.append(f"{field}: {problem['msg'].lower()}, got {problem['input']!r:.80}")
    return "; ".join(parts) + "."
