"""How long a training takes, by what it goes into.

    speed = speed_of(workspace, info, config, here, where)          # measured by an earlier run, or reckoned
    seconds_by(info, config, rows, steps, speed, where)             # load, steps, unpacking, evaluations, checkpoints

A speed is taken from an earlier run of the same base on this machine, or else from a matrix product measured now:
training reads 4 · parameters operations a token (forward, and back through the activations; frozen weights need no
gradient), 2 · parameters more when layers are computed twice, and an evaluation 2 · parameters.
"""

from dataclasses import dataclass

from tools.files import read_json
from tools.models.bases import BaseInfo
from tools.models.blas import matmul_gflops
from tools.training.config import TrainingConfig
from tools.training.estimate import lora_parameters, size_bytes, speed_key, unpacks
from tools.training.rows import Rows
from tools.workspace import Workspace

# Of the machine's measured matrix speed, the share a training reaches (SmolLM2-135M on 2 cores, packs of 400 tokens).
_EFFICIENCY = {"cpu": 0.45, "metal": 0.5, "cuda": 0.4}
# Operations a second of devices that are not this one, both guesses: 98 tokens/s of an 8B model in 4 bits with
# checkpointing on an M1 Max, passed on without a source; a tenth of an RTX 4090's 165 TFLOP/s.
ELSEWHERE = {"metal": 4.8e12, "cuda": 16.5e12}
_LOAD_SECONDS = 8.0
_WRITTEN = 200e6  # bytes of checkpoints a second, hashed and flushed: assumed, of a laptop's disk
_UNPACK_SECONDS = 8.6e-9 / 2  # for a weight of 4 bits on a CPU (docs/benchmarks.md); two threads share the work


@dataclass(frozen=True)
class Speed:
    """Tokens a second through the model in training, and where the figure comes from."""

    tokens: float
    basis: str
    measured: bool = False  # by a training, so that it knows what unpacking takes


def speed_of(workspace: Workspace, info: BaseInfo, config: TrainingConfig, here: str, where: str) -> Speed:
    """How fast this base trains on `where`; `here` is what this machine computes on."""
    # processes of one machine share its cores or its GPU
    operations = _operations(config) * info.parameters / max(1, len(config.hosts))
    if where != here:
        known = ELSEWHERE.get(where) or matmul_gflops() * 1e9
        return Speed(known / operations, f"assumed for {where}, not measured")
    kept = workspace.home / "cache" / "speeds.json"
    earlier = read_json(kept).get(speed_key(info, config)) if kept.is_file() and info.sha256 else None
    if earlier:
        return Speed(float(earlier["tokens_per_second"]), f"measured by {earlier['run']}", measured=True)
    gflops, share = matmul_gflops(), _EFFICIENCY[here]
    said = f"{gflops:.0f} GFLOP/s measured now, of which training reaches {share:.0%}"
    return Speed(gflops * 1e9 * share / operations, said)


def _operations(config: TrainingConfig) -> int:
    """A token's in training, for each parameter."""
    return 6 if config.gradient_checkpointing else 4


def seconds_by(
    info: BaseInfo, config: TrainingConfig, rows: Rows, steps: int, speed: Speed, where: str
) -> dict[str, float]:
    """Seconds by what they go into."""
    rated = {*range(0, steps + 1, config.eval_every), steps}
    saved = {*range(config.save_every, steps + 1, config.save_every), *rated} - {0}  # each one may be the best so far
    unpacking = 0.0
    if unpacks(info, config, where) and not speed.measured:
        # once forward, once backward, and once more when a layer is computed twice
        trained = rows.passes * (3 if config.gradient_checkpointing else 2)
        evaluated = len(rated) * -(-rows.evaluated // config.pack_tokens)
        unpacking = (trained + evaluated) * info.parameters * _UNPACK_SECONDS
    return {
        "load": _LOAD_SECONDS + info.size_bytes / 1e9,
        "steps": rows.read / speed.tokens,
        "unpacking": unpacking,
        "evaluations": len(rated) * rows.evaluated * 2 / _operations(config) / speed.tokens,
        "checkpoints": len(saved) * size_bytes(lora_parameters(info, config)) / _WRITTEN,
    }
