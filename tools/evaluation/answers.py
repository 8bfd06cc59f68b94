"""Answers given once are not asked for again: an evaluation that was killed goes on, a repeated one is instant.

    kept = KeptAnswers(workspace.home / "cache" / "answers", model, suite.probes, max_tokens=32)
    texts = ask_all(engine_of, model, probes, 32, kept, said)

    cache/answers/KEY.jsonl      a line for each batch of answers, and one for the figures

The key is made of the model's bytes, of what is asked and of what asks, so that nothing stale can come back. Graders
are not part of it: answers are graded afresh each time. Batches are the same whether an evaluation was interrupted or
not, so the answers are, too.
"""

import hashlib
import json
import os
from collections.abc import Callable, Sequence
from functools import partial
from importlib.metadata import version
from itertools import groupby
from pathlib import Path
from typing import Any

from tools.evaluation.probes import Probe
from tools.files import full_disk, sha256
from tools.inference.engine import Engine, Model
from tools.jobs.record import fingerprint

_BATCH = {"mlx": 48, "gguf": 8}  # prompts between two writes; MLX decodes that many together
_PARTS = ("*.json", "*.jinja", "*.safetensors")  # what of a model's folder its answers depend on


def model_hash(model: Model) -> str:
    """SHA-256 over everything that decides a model's answers: weights, tokenizer, chat template, adapter."""
    if model.gguf is not None:
        return sha256(model.gguf)
    assert model.folder is not None
    whole = hashlib.sha256()
    for folder in filter(None, (model.folder, model.adapter)):
        for path in sorted({path for pattern in _PARTS for path in folder.glob(pattern)}):
            whole.update(f"{path.name} {sha256(path)}\n".encode())
    return whole.hexdigest()


class KeptAnswers:
    """What a model has answered and how it was measured, in a file that grows batch by batch."""

    def __init__(self, folder: Path, model_sha256: str, kind: str, probes: Sequence[Probe], max_tokens: int) -> None:
        asked = [(probe.prompt, probe.max_tokens or max_tokens) for probe in probes]
        asks = version("llama-cpp-python") if kind == "gguf" else f"{version('mlx')} {version('mlx-lm')}"
        self.path = folder / f"{fingerprint([model_sha256, asked, asks])}.jsonl"
        self.batches = _batches(asked, _BATCH[kind])
        self._lines: dict[str, Any] = {}
        if self.path.is_file():
            for line in self.path.read_text(encoding="utf-8", errors="replace").splitlines():
                try:
                    self._lines.update(json.loads(line))
                except ValueError:  # the line that was being written when the process was killed
                    continue

    @property
    def figures(self) -> dict[str, float]:
        """What was measured besides the answers."""
        return dict(self._lines.get("figures", {}))

    def get(self, batch: int) -> list[str] | None:
        """The answers of a batch, when they are there."""
        found = self._lines.get(str(batch))
        return found if isinstance(found, list) and len(found) == len(self.batches[batch]) else None

    def put(self, name: str, value: Any) -> None:
        """Keep a batch of answers, or the figures; on disk when this returns."""
        self._lines[name] = value
        try:
            self.path.parent.mkdir(parents=True, exist_ok=True)
            with self.path.open("a", encoding="utf-8") as stream:
                stream.write("\n" + json.dumps({name: value}, ensure_ascii=False) + "\n")
                stream.flush()
                os.fsync(stream.fileno())
        except OSError as error:
            raise full_disk(self.path, error) from error


def _told(said: Callable[[int], None], before: int, more: int) -> None:
    said(before + more)


def _batches(asked: Sequence[tuple[str, int]], size: int) -> list[list[int]]:
    """Indices of what is asked, in batches of one answer length and like prompt length."""
    order = sorted(range(len(asked)), key=lambda i: (asked[i][1], len(asked[i][0]), i))
    groups = [list(group) for _, group in groupby(order, key=lambda i: asked[i][1])]
    return [group[begin : begin + size] for group in groups for begin in range(0, len(group), size)]


def ask_all(
    engine: Callable[[], Engine],
    probes: Sequence[Probe],
    max_tokens: int,
    kept: KeptAnswers,
    said: Callable[[int], None],
) -> tuple[list[str], int]:
    """Every answer, in the order of `probes`, and how many of them were there already.

    Args:
        engine: opens the model, and is called only when something has to be asked.
        said: told how many answers there are; may raise to stop, and what was answered is kept.
    """
    texts = [""] * len(probes)
    done = known = 0
    for number, batch in enumerate(kept.batches):
        answers = kept.get(number)
        if answers is None:
            longest = probes[batch[0]].max_tokens or max_tokens
            answers = engine().answer([probes[i].prompt for i in batch], longest, partial(_told, said, done))
            kept.put(str(number), answers)
        else:
            known += len(batch)
        for i, text in zip(batch, answers, strict=True):
            texts[i] = text
        done += len(batch)
        said(done)
    return texts, known
