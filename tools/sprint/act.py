"""Act: rows, their validation, a plan that fits the budget, and the training. One phase of tools/sprint/phases.py."""

from typing import Any

from tools.sprint import figures
from tools.sprint.work import Step, give_up, is_spent

_LEAST_SHARE = 0.25  # of the planned epochs: a training that is cut further would prove nothing
_SPARE = 0.9  # of the minutes left, that a training may be planned to take


async def act(step: Step) -> None:
    """Rows, their validation, a plan that fits the budget, and the training."""
    cycle, attempt = step.cycle, step.cycle.attempt
    if not attempt.run:
        if not attempt.planned:
            if is_spent(step, "act") or not await _data(step) or not await _plan(step):
                return
            attempt.planned = True
            step.save()  # the same key asks for the same settings, however often this is done
        key = f"{cycle.id}-train-{attempt.number}"
        arguments: dict[str, Any] = {"preset": step.sprint.train.preset, "settings": attempt.settings}
        started = await step.agent.call("start_training", dataset=attempt.dataset, idempotency_key=key, **arguments)
        attempt.run = started["id"]
        step.log("act", f"{attempt.run} was started." if started["new"] else f"{attempt.run} had been started already.")
        cycle.waiting = attempt.run
        return
    status = await step.follow(attempt.run)
    if attempt.resume:
        if status is not None and status["state"] in ("stopped", "failed"):
            await step.agent.call("start_training", resume=attempt.run)
            status, cycle.waiting = None, attempt.run
        attempt.resume = False
    if status is None:
        if step.minutes_left <= 0:
            await step.agent.call("cancel_training", run=attempt.run)
            cycle.waiting = ""
            give_up(step, "act", f"The {step.sprint.budget.minutes:g} minutes are spent; {attempt.run} was stopped.")
        return
    if status["state"] != "finished":
        attempt.failure = f"{attempt.run} {status['state']}: {status['reason']}"
        step.log("act", attempt.failure)
        cycle.phase = "adapt"
        return
    result = status["result"]
    attempt.figures |= figures.of_training(result)
    step.log(
        "act",
        f"{attempt.run} finished: {result['steps']} steps, validation loss {result['valid_loss_before']} → "
        f"{result['valid_loss']}, {result['peak_memory_gb']} GB, {result['tokens_per_second']} tokens/s.",
    )
    cycle.phase = "test"


async def _data(step: Step) -> bool:
    """Give the attempt a valid dataset; False when that cannot be."""
    cycle, attempt, teach = step.cycle, step.cycle.attempt, step.sprint.teach
    if teach.dataset:
        attempt.dataset = teach.dataset
    elif earlier := next((a for a in cycle.attempts[:-1] if a.rows == attempt.rows and a.dataset), None):
        attempt.dataset = earlier.dataset
        attempt.figures |= {k: v for k, v in earlier.figures.items() if k.startswith("data.")}
        return True
    else:
        given = {"seed", "replay"} if teach.memory else {"terms", "rules", "cards", "kinds", "seed"}
        asked: dict[str, Any] = {"source": "memory" if teach.memory else "given", **teach.model_dump(include=given)}
        name = f"{cycle.id}-rows-{attempt.rows}"
        made = await step.agent.call("generate_examples", **asked, count=attempt.rows, name=name)
        attempt.dataset = made["dataset"]
        parts = ", ".join(f"{count} {part}" for part, count in made["sections"].items())
        step.log("act", f"{made['dataset']} holds {made['rows']} rows: {parts}. {' '.join(made['notes'])}".strip())
    checked = await step.agent.call("validate_dataset", dataset=attempt.dataset)
    attempt.figures |= figures.of_data(checked)
    if not checked["ok"]:
        give_up(step, "act", f"{attempt.dataset} has {checked['error_count']} errors: {checked['errors'][:3]}")
    return bool(checked["ok"])


async def _plan(step: Step) -> bool:
    """Make the attempt's settings fit memory, disk and the minutes left; False when that cannot be."""
    attempt, recipe = step.cycle.attempt, step.sprint.train.preset

    async def planned() -> dict[str, Any]:
        asked = {"dataset": attempt.dataset, "preset": recipe, "settings": attempt.settings}
        return await step.agent.call("plan_training", **asked)

    plan = await planned()
    if not plan["fits"]:
        pack, longest = int(plan["fits_up_to"]["pack_tokens"]), int(plan["settings"]["max_length"])
        if pack < longest:
            give_up(step, "act", f"{plan['verdict']} {plan['advice']}")
            return False
        attempt.settings["pack_tokens"] = pack
        step.log("act", f"Packs of {pack} tokens instead of {plan['settings']['pack_tokens']}.", plan["verdict"])
        plan = await planned()
    if step.cycle.disk_gb + plan["disk_gb"] > step.sprint.budget.disk_gb:
        give_up(
            step, "act", f"The training needs {plan['disk_gb']:.2f} GB of disk beside {step.cycle.disk_gb:.2f} GB used."
        )
        return False
    if plan["seconds"] / 60 > _SPARE * step.minutes_left:
        share = _SPARE * step.minutes_left * 60 / plan["seconds"]
        if share < _LEAST_SHARE:
            give_up(
                step,
                "act",
                f"The training would take {plan['seconds'] / 60:.1f} minutes, and {step.minutes_left:.1f} are left.",
            )
            return False
        attempt.settings["epochs"] = round(plan["settings"]["epochs"] * share, 4)
        step.log(
            "act",
            f"Epochs {plan['settings']['epochs']:g} → {attempt.settings['epochs']:g}.",
            f"As planned it would take {plan['seconds'] / 60:.1f} minutes, and {step.minutes_left:.1f} are left.",
        )
        plan = await planned()
    step.log("act", f"{plan['verdict']} {plan['steps']} steps, about {plan['seconds']:.0f} s ({plan['basis']}).")
    return True
