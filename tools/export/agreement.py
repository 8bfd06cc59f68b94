"""Whether a fused model is still the trained one: logits of both on fixed prompts, side by side.

    found = compare(base, adapter, fused, texts, rows)
    require_agreement(found)                     # CheckError when fusing lost the tuning

Both models run layer by layer (`tools.export.layers`), so a 7B needs the memory of a layer and of its embedding.

Fused matrices are stored as f16, and that rounding moves logits a little (the figures stand below). Where the two best
tokens are nearer to each other than that, which of them wins is a matter of rounding; such positions are
counted as `ties` and left out of the agreement. The bound on what counts as a tie is fixed here, not taken from the
difference that was found, so a real loss cannot excuse itself.
"""

from collections.abc import Sequence
from pathlib import Path
from typing import Any

from pydantic import BaseModel

from tools.errors import CheckError
from tools.export.layers import run_layers
from tools.models.load import load_tokenizer

# Measured on the embedded base with its first adapter, 2,211 tokens, f16 against f32 weights: KL 2.4e-6, mean
# difference 0.004, largest 0.07, and one best token of all changed, by a margin of 0.002.
MAX_KL = 1e-4
MIN_AGREEMENT = 0.999
MAX_MEAN_DIFFERENCE = 0.02
TIE = 0.02  # logits; five times that mean difference, and one position in a hundred


class Agreement(BaseModel):
    """How near two models are: Kullback-Leibler divergence (nats a token, mean), share of tokens with the same best
    next token (of all, and of those that are no ties), the largest and the mean difference of logits."""

    kl: float
    same_best: float
    same_best_without_ties: float
    ties: int
    max_difference: float
    mean_difference: float
    tokens: int


def compare(
    base: Path, adapter: Path, fused: Path, texts: Sequence[str], rows: Sequence[Sequence[int]] = ()
) -> Agreement:
    """The fused model against base plus adapter, on every token of `texts`, and of `rows`, which are tokens already."""
    tokenizer = load_tokenizer(base)
    ids = [*(tokenizer.encode(text, add_special_tokens=False) for text in texts), *rows]
    before, head_before = run_layers(base, adapter, ids)
    after, head_after = run_layers(fused, None, ids)
    found = Tally()
    for p, q in zip(before, after, strict=True):
        found.add(head_before(p), head_after(q))
    return found.agreement()


class Tally:
    """Sums over pairs of logits, (tokens, vocabulary) each, of a first model and a second."""

    def __init__(self) -> None:
        self.kl = self.total = self.largest = 0.0
        self.same = self.same_sure = self.ties = self.tokens = 0

    def add(self, p: Any, q: Any) -> None:
        """Count the positions of one text."""
        import numpy as np

        best, rows = p.argmax(axis=1), np.arange(len(p))
        equal = best == q.argmax(axis=1)
        two = np.partition(p, -2, axis=1)[:, -2:]
        tied = np.abs(two[:, 0] - two[:, 1]) < TIE
        difference = np.abs(p - q)
        self.total += float(difference.mean(axis=1).sum())
        self.largest = max(self.largest, float(difference.max()))
        log_p, log_q = p - _log_sum(p)[rows, None], q - _log_sum(q)[rows, None]
        self.kl += float((np.exp(log_p) * (log_p - log_q)).sum(dtype=np.float64))
        self.same += int(equal.sum())
        self.same_sure += int((equal & ~tied).sum())
        self.ties += int(tied.sum())
        self.tokens += len(p)

    def agreement(self) -> Agreement:
        """What was counted, over all tokens."""
        return Agreement(
            kl=round(self.kl / self.tokens, 8),
            same_best=round(self.same / self.tokens, 4),
            same_best_without_ties=round(self.same_sure / max(1, self.tokens - self.ties), 5),
            ties=self.ties,
            max_difference=round(self.largest, 5),
            mean_difference=round(self.total / self.tokens, 6),
            tokens=self.tokens,
        )


def _log_sum(logits: Any) -> Any:
    """log Σ exp of each row."""
    import numpy as np

    top = logits.max(axis=1)
    return top + np.log(np.exp(logits - top[:, None]).sum(axis=1, dtype=np.float64)).astype(np.float32)


def require_agreement(found: Agreement) -> None:
    """Raises CheckError when fusing lost the tuning."""
    if not (
        found.kl <= MAX_KL
        and found.same_best_without_ties >= MIN_AGREEMENT
        and found.mean_difference <= MAX_MEAN_DIFFERENCE
    ):
        raise CheckError(
            f"The fused model is not the trained one: KL {found.kl:.2g} (at most {MAX_KL}), same best token "
            f"{found.same_best_without_ties:.4f} (at least {MIN_AGREEMENT}, {found.ties} ties left out), mean "
            f"difference of logits {found.mean_difference:.4f} (at most {MAX_MEAN_DIFFERENCE}).",
            "this is a defect: keep the run and report it with its log",
        )
