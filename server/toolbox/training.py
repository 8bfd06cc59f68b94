"""The tools of a training, and of every job: plan_training, start_training, training_status, cancel_training."""

import asyncio
import time
from typing import TYPE_CHECKING, Annotated, Any, Literal

from mcp.server import MCPServer
from mcp.server.mcpserver import Context
from mcp.types import CallToolResult
from pydantic import Field

from server import answers
from server.answers import answered
from server.definitions import reads, writes
from server.errors import told
from server.heavy import Heavy
from server.states import concise, curves, line, started, status, told_state
from tools.errors import InputError
from tools.jobs import record
from tools.jobs.queue import tend
from tools.workspace import Workspace

if TYPE_CHECKING:
    from tools.training.config import TrainingConfig

Overrides = Annotated[
    dict[str, Any],
    Field(
        max_length=32,
        description="changes to the preset's fields (preset://NAME), e.g. {'learning_rate': 3e-4, 'epochs': 2}",
    ),
]
Dataset = Annotated[str, Field(max_length=64, description="a dataset, e.g. 'holds' (dataset://index)")]
Preset = Annotated[str, Field(max_length=64, description="a recipe, e.g. 'smollm2-135m' (preset://index)")]
Key = Annotated[str, Field(max_length=100, description="one job a key, e.g. 'night-4'")]


def add_training_tools(server: MCPServer[Any], workspace: Workspace, heavy: Heavy) -> None:
    @server.tool(title="Plan a training", annotations=reads())
    @told
    async def plan_training(
        dataset: Dataset,
        ctx: Context[Any],
        preset: Preset = "embedded",
        settings: Overrides = {},  # noqa: B006
    ) -> Annotated[CallToolResult, answers.Planned]:
        """Say what a training would take (peak memory, steps, tokens, time, rows cut off) and whether it fits, without
        starting it. Use it before start_training, with the same arguments."""
        recipe = _recipe(preset, dataset, settings)

        def work() -> Any:
            from tools.training import plan

            return plan.plan_training(workspace, recipe)

        plan = await heavy(ctx, "reading the rows and measuring this machine", work)
        step = f"start_training(dataset={dataset!r}, preset={preset!r})" if plan.fits else "change settings, plan again"
        return answered(
            f"{plan.verdict} {plan.steps} steps over {plan.tokens} tokens, about {plan.seconds:.0f} s ({plan.basis}), "
            f"{plan.disk_gb:.2f} GB of disk. {' '.join(plan.assumptions)} {plan.advice} Next: {step}.",
            answers.Planned(**plan.model_dump(include=set(answers.Planned.model_fields)), settings=recipe.model_dump()),
        )

    @server.tool(title="Start a training", annotations=writes())
    @told
    def start_training(
        dataset: Annotated[
            str, Field(max_length=64, description="a valid dataset, e.g. 'holds'; not with `resume`")
        ] = "",
        preset: Preset = "embedded",
        settings: Overrides = {},  # noqa: B006
        resume: Annotated[
            str,
            Field(
                max_length=64,
                description="instead: a stopped or failed run to go on with, e.g. 'run-holds-0001'; `settings` may "
                "then change what alters no numbers, e.g. pack_tokens",
            ),
        ] = "",
        idempotency_key: Key = "",
    ) -> Annotated[CallToolResult, answers.Started]:
        """Train a LoRA adapter in a process of its own and return the run's id at once. Use it after plan_training said
        that it fits. Then follow it with training_status(run, wait_seconds=45)."""
        from tools.training.start import resume_training, start_training

        if bool(dataset) == bool(resume):
            raise InputError("Expected either `dataset` or `resume`.", "name a valid dataset of dataset://index")
        if resume:
            job, new = resume_training(workspace, resume, dict(settings)), True
        else:
            job, new = start_training(workspace, _recipe(preset, dataset, settings), idempotency_key)
        return started(job, new)

    @server.tool(title="Status of a job", annotations=reads())
    @told
    async def training_status(
        run: Annotated[str, Field(max_length=64, description="any job, e.g. 'run-holds-0001' (run://index)")],
        ctx: Context[Any],
        wait_seconds: Annotated[
            float, Field(ge=0, le=45, description="seconds to wait for its end, with progress")
        ] = 0,
        log_lines: Annotated[int, Field(ge=0, le=50, description="last lines of its log, e.g. 20 when it failed")] = 0,
        detail: Annotated[
            Literal["concise", "full"], Field(description="full: with answers, ids, and curves as a picture")
        ] = "concise",
    ) -> Annotated[CallToolResult, answers.Status]:
        """Where a job stands: step, figures, time left, and its result at the end. Use it after starting one, again and
        again until its state is finished; it says what to call next."""
        folder = workspace.run(run)
        tend(workspace)
        deadline = time.monotonic() + wait_seconds
        while (state := record.read(folder)).state in record.ACTIVE and time.monotonic() < deadline:
            await ctx.report_progress(state.step, state.total or None, line(state))
            await asyncio.sleep(min(1.0, max(0.05, deadline - time.monotonic())))
            tend(workspace)
        log = record.log_tail(folder, log_lines) if log_lines else []
        picture = b""
        if detail == "full" and state.kind == "train":
            picture = await heavy(ctx, "drawing the curves", lambda: curves(folder, state))
        value = status(state, log)
        if detail == "concise":
            value.result = concise(state.result)
        return answered(told_state(state, log), value, picture, [f"run://{run}"])

    @server.tool(title="Cancel a job", annotations=writes(idempotent=True))
    @told
    def cancel_training(
        run: Annotated[str, Field(max_length=64, description="a running or queued job, e.g. 'run-holds-0001'")],
    ) -> Annotated[CallToolResult, answers.Asked]:
        """Stop a job at its next step; what is finished is kept. Use it when a job is no longer wanted. A training goes
        on from its checkpoint with start_training(resume=run)."""
        folder = workspace.run(run)
        state = record.read(folder)
        if state.state != "stopped":
            state = record.cancel(folder)
        step = state.next_step if state.state == "stopped" else f"training_status(run={run!r})"
        return answered(f"{run} is {state.state}. Next: {step}.", answers.Asked(id=run, state=state.state))


def _recipe(preset: str, dataset: str, settings: dict[str, Any]) -> "TrainingConfig":
    """The recipe that a call describes. Raises InputError and NotFoundError."""
    from tools.training import config

    if own := [key for key in config.ARGUMENTS if key in settings]:
        raise InputError(
            f"`settings` holds {' and '.join(own)}, which are arguments of their own.",
            "leave them out of `settings`, and call again with dataset=… and preset=…",
        )
    return config.preset(preset, **settings, dataset=dataset)
