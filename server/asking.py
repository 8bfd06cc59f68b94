"""A person's yes to what cannot be undone, where the client can ask for it.

consent: Annotated[ElicitationResult[Yes], Resolve(ask)]     # `ask` returns Elicit(…, Yes), or Yes
"""

from typing import Any

from mcp.server.mcpserver import AcceptedElicitation, Context
from pydantic import BaseModel, Field


class Yes(BaseModel):
    """The answer of a person, or of an agent that said confirm=true."""

    yes: bool = Field(default=False, description="go on")


def can_ask(ctx: Context[Any]) -> bool:
    """Whether this client can put a question to a person."""
    if ctx.protocol_version is None:  # called without a client
        return False
    capabilities = ctx.client_capabilities
    return capabilities is not None and capabilities.elicitation is not None


def is_yes(outcome: Any) -> bool:
    """Whether the outcome of a question is a yes; declining, closing it, and a no are all a no."""
    return isinstance(outcome, AcceptedElicitation) and bool(outcome.data.yes)
