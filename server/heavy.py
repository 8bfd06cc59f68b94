"""Calls that take long: word that they are going on, an end after forty seconds, and an end when nobody waits any more.

    heavy = Heavy()
    plan = await heavy(ctx, "reading the rows", lambda: plan_training(workspace, recipe))   # what loads models
    job = await aside(ctx, "reading the probes", lambda: start_evaluation(workspace))       # what only reads files
    report = await watched(ctx, "reading the rows", future)                                 # what is at work already

What loads models shares one thread. A thread cannot be stopped from outside, so work that can end by itself is given
`gone`, an event that is set once its caller left: cancelled, or told that it took too long.
"""

import asyncio
import threading
import time
from collections.abc import Callable
from concurrent.futures import ThreadPoolExecutor
from typing import Any, TypeVar

from mcp.server.mcpserver import Context

from tools.errors import LimitError

SECONDS = 1.0  # after which, and in which steps, a client hears that a call is going on
LONGEST = 40.0  # seconds; a host gives up at 45 or 60, and an answer that says what to do comes before that
Message = str | Callable[[], str]

_Result = TypeVar("_Result")


class Late(LimitError):
    """A call that took too long."""


class Heavy:
    """Runs what loads models, in one thread (MLX's streams belong to a thread), and says that it is going on."""

    def __init__(self) -> None:
        self._thread = ThreadPoolExecutor(max_workers=1, thread_name_prefix="heavy")

    async def __call__(
        self,
        ctx: Context[Any],
        message: Message,
        work: Callable[[], _Result],
        gone: threading.Event | None = None,
    ) -> _Result:
        """What `work` returns.

        Raises:
            Late: its turn did not come, or it did not end, in time.
        """
        job = self._thread.submit(work)
        try:
            return await watched(ctx, message, asyncio.wrap_future(job), gone)
        except Late as error:
            if not job.cancel():  # it had begun
                raise
            raise Late(
                f"Another call that loads a model is still at work, and this one waited {LONGEST:g} s for its turn.",
                "call again in a moment",
            ) from error


async def aside(ctx: Context[Any], message: Message, work: Callable[[], _Result]) -> _Result:
    """What `work` returns, done in a thread beside the others, for what loads no model. Raises Late."""
    return await watched(ctx, message, asyncio.ensure_future(asyncio.to_thread(work)))


async def watched(
    ctx: Context[Any], message: Message, future: "asyncio.Future[_Result]", gone: threading.Event | None = None
) -> _Result:
    """What `future` gives; as long as it goes on, the client is told so each second.

    Raises:
        Late: it did not end in time. What has not begun never will; what is at work is only not waited for.
    """
    began = time.monotonic()
    try:
        while (left := began + LONGEST - time.monotonic()) > 0:
            if (await asyncio.wait({future}, timeout=min(SECONDS, left)))[0]:
                return future.result()
            said = message if isinstance(message, str) else message()
            await ctx.report_progress(round(time.monotonic() - began, 1), None, said)
        raise Late(
            f"It did not end within {LONGEST:g} s, so it is no longer waited for.",
            "call again, since what was loaded stays loaded; or ask for less at a time",
        )
    finally:
        if gone is not None:
            gone.set()
        future.cancel()
