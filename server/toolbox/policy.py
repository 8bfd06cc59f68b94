"""The tool of the policies: check_preservation.

The markup `<tool:policy.check original='…' modified='…' level='moderate'></tool>` of a trained model's answers maps
onto it one to one (tools/policy/markup.py).
"""

from typing import TYPE_CHECKING, Annotated, Any

from mcp.server import MCPServer
from mcp.types import CallToolResult
from pydantic import Field

from server import answers
from server.answers import answered, counted
from server.definitions import reads
from server.errors import told
from tools.policy.levels import PreservationLevel

if TYPE_CHECKING:
    from tools.policy.preserve import Verdict

_TOLD = 8  # violations in the text; the structured content has twenty
_LONGEST = 100_000


def add_policy_tools(server: MCPServer[Any]) -> None:
    """Register the policies' tool on `server`."""

    @server.tool(
        title="Check preservation",
        annotations=reads(),
    )
    @told
    def check_preservation(
        original: Annotated[
            str, Field(max_length=_LONGEST, description="the whole text or file with its tags, e.g. a file's content")
        ],
        modified: Annotated[str, Field(max_length=_LONGEST, description="the same as you would leave it")],
        level: Annotated[PreservationLevel | None, Field(description="instead of the level that the tags say")] = None,
        language: Annotated[str, Field(max_length=40, description="e.g. 'python', 'markdown'; else guessed")] = "",
    ) -> Annotated[CallToolResult, answers.Checked]:
        """Whether a change of a tagged text or file is allowed by its preservation level, with each violation's place,
        diff and tag. Use it before you write or show a text that you changed; where it says no, keep the original."""
        from tools.memory.embedder import embed
        from tools.policy.preserve import check_preservation

        verdict = check_preservation(original, modified, level, language or None, embed=embed)
        return answered(_told(verdict), answers.Checked(**verdict.model_dump()))


def _told(verdict: "Verdict") -> str:
    if verdict.allowed:
        return " ".join([f"Allowed: the {verdict.level} level is kept.", *verdict.notes, "Next: write or show it."])
    found = counted(verdict.violation_count, "violation")
    lines = [f"NOT allowed: {found}. Next: keep the original there, and check again."]
    for one in verdict.violations[:_TOLD]:
        by = f", forbidden by {one.tag}" if one.tag else ""
        lines.append(f"line {one.line} ({one.level}, {one.kind}): {one.message}{by}")
    return "\n".join([*lines, *verdict.notes])
