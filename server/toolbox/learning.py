"""The tool that closes the learning loop: integrate_insights.

What is learned during the day is found or remembered, taught at night, and leaves memory once the model knows it.
"""

from typing import Annotated, Any

from mcp.server import MCPServer
from mcp.types import CallToolResult
from pydantic import Field

from server import answers
from server.definitions import writes
from server.errors import told
from server.states import started
from server.toolbox.training import Key
from tools.workspace import Workspace


def add_learning_tools(server: MCPServer[Any], workspace: Workspace) -> None:
    """Register the learning loop's tool on `server`; nothing is opened until it is called."""

    @server.tool(title="Integrate insights", annotations=writes(idempotent=True))
    @told
    def integrate_insights(
        run: Annotated[str, Field(max_length=64, description="a training or model, e.g. 'run-night-0001'")],
        idempotency_key: Key = "",
    ) -> Annotated[CallToolResult, answers.Started]:
        """Ask a model what memory taught it, in a job: what it knows leaves memory, what it lost comes back. Use it
        after a training on rows from memory. Then call training_status."""
        from tools.learning.integrate import start_integration

        return started(*start_integration(workspace, run, idempotency_key))
