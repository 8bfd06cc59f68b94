"""How a training ends: its figures, what it suggests at its memory limit, and the rows of a step that went wrong.

result = figures(trainer, steps_done)
foresee(trainer)                                      # raises Stopped when the largest pack would not fit
raise over_limit(trainer, gb)
keep_bad_step(trainer, step, places, loss, norm)      # always raises
raise bad_validation(trainer, step, loss)
"""

from typing import TYPE_CHECKING, Any

from tools.errors import CheckError
from tools.files import write_json
from tools.jobs.record import Stopped
from tools.training.estimate import fitting_settings, largest_pass
from tools.training.memory import MACHINE_SHARE, bound_gb, machine_gb
from tools.training.schedule import learning_rate

if TYPE_CHECKING:
    from tools.training.loop import Trainer


def figures(trainer: "Trainer", done: int) -> dict[str, Any]:
    """What a whole run came to, after `done` steps; GB are of one machine, all its processes together."""
    data, progress = trainer.train_data, trainer.progress
    early = done < trainer.steps
    return {
        "reason": f"No better validation loss in {progress['since_best']} evaluations, so it ended early."
        if early
        else f"All {trainer.steps} steps are done.",
        "steps": done,
        "planned_steps": trainer.steps,
        "stopped_early": early,
        "rows": len(data.rows),
        "valid_rows": trainer.valid_rows,
        "evaluated_rows": len(trainer.valid_data),
        "truncated_rows": data.truncated,
        "dropped_rows": data.dropped,
        "tokens": progress["tokens"],
        "read_tokens": progress["read"],
        "padding_share": round(progress["padding"] / max(1, progress["read"]), 4),
        "training_seconds": round(max(progress["seconds"], 0.001), 3),
        "tokens_per_second": round(progress["tokens"] / max(progress["seconds"], 1e-9), 1),
        "peak_memory_gb": round(progress["peak_memory_gb"], 3),
        "valid_loss_before": round(progress["valid_loss_before"], 4),
        "valid_loss": round(progress["best_loss"], 4),
        "best_step": progress["best_step"],
        "trainable_parameters": trainer.parameters,
        "device": trainer.device,
        "processes": trainer.group.size,
        "way": trainer.passes.way,
        "lanes": trainer.passes.lanes,
    }


def foresee(trainer: "Trainer") -> None:
    """Look at the largest pack that is to come: memory is watched between packs, so a single one could make the machine
    page before anybody looks.

    Raises:
        Stopped: by the estimate it does not fit.
    """
    if trainer.info is None:
        return
    gb = largest_pass(trainer.info, trainer.config, trainer.train_data.rows, trainer.device)[1]
    if gb > bound_gb(trainer.config.memory_limit_gb) / trainer.config.nproc:
        raise over_limit(trainer, gb, foreseen=True)


def over_limit(trainer: "Trainer", gb: float, foreseen: bool = False) -> Stopped:
    """The end of a training of which a process came to `gb`, or by the estimate would, with settings that fit."""
    config, rows = trainer.config, trainer.train_data.rows
    allowed = bound_gb(config.memory_limit_gb)
    limit = allowed / config.nproc
    changes = fitting_settings(trainer.info, config, rows, gb, limit, trainer.device) if trainer.info else {}
    again = f"start_training(resume={trainer.job.id!r}, settings={changes})"
    whose = f" in one of {config.nproc} processes that share {allowed:.2f} GB" if config.nproc > 1 else ""
    came = (
        f"the largest pack would take the training to {gb:.2f} GB{whose} by the estimate, and {limit:.2f} GB is its "
        "limit. It was not begun, nothing is lost."
        if foreseen
        else f"the training came to {gb:.2f} GB{whose}, and {limit:.2f} GB is its limit. A checkpoint was kept, "
        "nothing is lost."
    )
    return Stopped(
        f"memory limit: {came}",
        f"{again} goes on and fits by the estimate"
        if changes
        else "no smaller pack fits: raise memory_limit_gb when resuming (this machine can give "
        f"{MACHINE_SHARE * machine_gb():.1f} GB), or take a smaller base",
    )


def keep_bad_step(trainer: "Trainer", step: int, places: list[int], loss: float, norm: float) -> None:
    """Write down the rows of a step whose loss or gradient is not a number, and stop.

    Raises:
        CheckError: always.
    """
    lines = [trainer.train_data.places[place] for place in places]
    path = trainer.run / "bad-step.json"
    if trainer.group.lead:
        write_json(
            path,
            {
                "step": step + 1,
                "loss": str(loss),
                "gradient_norm": str(norm),
                "learning_rate": learning_rate(trainer.config, step, trainer.steps),
                "lines": [line + 1 for line in lines],
                "rows": [trainer.rows[line].model_dump() for line in lines],
            },
        )
    raise CheckError(
        f"The loss of step {step + 1} is {loss}, its gradient's norm {norm}: not a number. The step's rows are in "
        f"{path}; the last checkpoint is from before it.",
        "look at those rows, lower learning_rate, and start again",
    )


def bad_validation(trainer: "Trainer", step: int, loss: float) -> CheckError:
    """The end of a training whose validation loss after `step` steps is not a number."""
    if step == 0:
        return CheckError(
            f"The validation loss before the first step is {loss}: the base itself is broken, or these rows break it.",
            f"see that the base answers (`looptune doctor --model {trainer.config.base}`), or take another one",
        )
    return CheckError(
        f"The validation loss after step {step} is {loss}, not a number. The adapter of the best one before it is "
        "kept, and so are the checkpoints.",
        "lower learning_rate, and start again",
    )
