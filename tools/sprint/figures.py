"""The figures that a sprint's criteria may name, and where each comes from.

KNOWN["adapter.recall"]                              # "share of probes answered right, 0 to 1"
figures = of_training(result) | of_evaluation(result)   # from the structured answers of training_status
"""

from collections.abc import Mapping
from typing import Any

_MODELS = {
    "base": "the base, untrained",
    "adapter": "the base with the run's adapter",
    "promoted": "the model that answered before, where it was asked the same probes",
    "fused": "base and adapter fused, where memory and disk held it",
    "f16": "the exported model in f16",
    "quantized": "the exported, quantized model",
}
_OF_A_MODEL = {
    "recall": "share of probes answered right, 0 to 1",
    "controls": "share of controls answered right, 0 to 1",
    "probes": "number of probes",
    "control_count": "number of controls",
    "perplexity": "perplexity of general text",
    "tokens_per_second": "tokens generated a second",
    "size_mb": "size in MB",
    "dealt_p": "chance that the same answers, dealt at random, are right as often",
    "pending": "answers that wait for an agent's verdict",
}
_TRAINING = {
    "steps": "optimizer steps",
    "tokens": "tokens trained on",
    "tokens_per_second": "tokens trained a second",
    "peak_memory_gb": "largest memory of the training, in GB",
    "training_seconds": "seconds in the training loop",
    "truncated_rows": "rows that were cut",
    "valid_loss": "best validation loss",
    "valid_loss_before": "validation loss before the first step",
}
_DATA = {"rows": "rows", "train_rows": "rows trained on", "valid_rows": "rows held back", "error_count": "errors"}
_CHANGES = {
    "fixed": "probes wrong before and right now",
    "broken": "probes and controls right before and wrong now",
    "controls_broken": "controls right before and wrong now",
}
_GATE = {
    "passed": "1 when every check of the gate passed",
    "kl": "KL divergence of quantized and f16, nats a token",
    "same_best": "share of tokens with the same best token in quantized and f16",
}
_LOOP = {"minutes": "minutes the loop was at work", "disk_gb": "GB that the cycle wrote", "adaptations": "adaptations"}

KNOWN: dict[str, str] = {
    **{
        f"{model}.{key}": f"{text}; of {whose}" for model, whose in _MODELS.items() for key, text in _OF_A_MODEL.items()
    },
    **{f"adapter.{key}": f"{text}, against the base" for key, text in _CHANGES.items()},
    **{f"train.{key}": text for key, text in _TRAINING.items()},
    **{f"data.{key}": text for key, text in _DATA.items()},
    **{f"gate.{key}": text for key, text in _GATE.items()},
    **{f"loop.{key}": text for key, text in _LOOP.items()},
}
_LATE = ("fused.", "f16.", "quantized.", "gate.")


def is_late(names: tuple[str, ...]) -> bool:
    """Whether any of the figures is measured only on the exported model."""
    return any(name.startswith(_LATE) for name in names)


def of_data(validated: Mapping[str, Any]) -> dict[str, float]:
    """The figures in the answer of validate_dataset."""
    return _picked("data", validated, _DATA)


def of_training(result: Mapping[str, Any]) -> dict[str, float]:
    """The figures in the result of a training."""
    return _picked("train", result, _TRAINING)


def of_models(result: Mapping[str, Any], names: Mapping[str, str] | None = None) -> dict[str, float]:
    """The figures of every model in the result of an evaluation or a gate; `names` renames labels."""
    found: dict[str, float] = {}
    for label, summary in result["models"].items():
        found |= _picked((names or {}).get(label, label), summary, _OF_A_MODEL)
    change = result.get("matrix", {}).get("adapter")
    if change:
        found |= {f"adapter.{key}": float(len(change[key])) for key in ("fixed", "broken")}
        found["adapter.controls_broken"] = float(change["controls_broken"])
    return found


def of_gate(result: Mapping[str, Any]) -> dict[str, float]:
    """The figures of an exported model's gate; the last file it measured is the quantized one."""
    last = next(reversed(result["models"]))
    found = of_models({"models": result["models"]}, {last: "quantized"})
    if last == "f16":
        found |= _picked("f16", result["models"][last], _OF_A_MODEL)
    return found | {"gate.passed": float(result["passed"])} | _picked("gate", result.get("likeness") or {}, _GATE)


def _picked(stem: str, values: Mapping[str, Any], keys: Mapping[str, str]) -> dict[str, float]:
    numbers = {key: values.get(key) for key in keys}
    return {f"{stem}.{key}": float(value) for key, value in numbers.items() if isinstance(value, int | float)}
