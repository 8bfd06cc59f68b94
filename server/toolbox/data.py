"""The tools that make data: generate_examples, add_examples."""

from typing import Annotated, Any, Literal

from mcp.server import MCPServer
from mcp.types import CallToolResult
from pydantic import Field

from server import answers
from server.answers import answered
from server.definitions import writes
from server.errors import told
from tools.data.kinds import Kind
from tools.data.terms import Rule, Term
from tools.errors import InputError
from tools.workspace import Workspace

Name = Annotated[str, Field(max_length=64)]


def add_data_tools(server: MCPServer[Any], workspace: Workspace) -> None:
    @server.tool(title="Generate examples", annotations=writes())
    @told
    def generate_examples(
        terms: Annotated[
            list[Term],
            Field(
                max_length=100,
                description="e.g. [{'term': 'soft hold', 'meaning': 'a reservation that lapses'}]",
            ),
        ] = [],  # noqa: B006  (pydantic copies defaults)
        rules: Annotated[
            list[Rule],
            Field(
                max_length=100,
                description="e.g. [{'tag': 'rule:no_print', 'rule': 'Log, never print'}]",
            ),
        ] = [],  # noqa: B006
        cards: Annotated[list[Name], Field(max_length=100, description="e.g. ['definition/forty-two']")] = [],  # noqa: B006
        kinds: Annotated[
            list[Kind], Field(max_length=7, description="adds the cards of these kinds, e.g. ['oodatcaa']")
        ] = [],  # noqa: B006
        count: Annotated[
            int,
            Field(
                ge=10, le=20_000, description="960 teach one term and keep most controls; 400 teach it and overshoot"
            ),
        ] = 400,
        seed: Annotated[int, Field(ge=0, le=2**32 - 1, description="same seed, same rows")] = 42,
        name: Annotated[str | None, Field(max_length=64, description="e.g. 'forty-two'")] = None,
        source: Annotated[Literal["given", "memory"], Field(description="memory: the insights that wait")] = "given",
        replay: Annotated[float, Field(ge=0, le=0.9, description="share of earlier insights")] = 0.3,
    ) -> Annotated[CallToolResult, answers.Generated]:
        """Make a dataset that teaches terms or rules, from shipped cards, or from memory: many phrasings, and more
        rows that must not change. Use it first. Then call validate_dataset."""
        if source == "memory":
            if terms or rules or cards or kinds:
                raise InputError(
                    "Expected either source='memory', which teaches all that waits there and nothing else, or terms, "
                    "rules, cards or kinds.",
                    "leave them out, or make two datasets",
                )
            from tools.learning.material import generate_from_memory

            made = generate_from_memory(workspace, count, seed, name, replay)
        else:
            from tools.data.generate import generate

            made = generate(
                workspace, terms=terms, rules=rules, cards=cards, kinds=kinds, count=count, seed=seed, name=name
            )
        parts = ", ".join(f"{n} {part}" for part, n in made.sections.items())
        text = f"Dataset {made.name!r} holds {made.rows} rows: {parts}. {' '.join(made.notes)} "
        return answered(
            f"{text}Next: validate_dataset(dataset={made.name!r}).",
            answers.Generated(dataset=made.name, rows=made.rows, sections=made.sections, notes=made.notes),
            links=[f"dataset://{made.name}"],
        )

    @server.tool(title="Add examples", annotations=writes(idempotent=True))
    @told
    def add_examples(
        dataset: Annotated[str, Field(max_length=64, description="a dataset, made when there is none, e.g. 'holds'")],
        rows: Annotated[
            list[dict[str, Any]],
            Field(
                min_length=1,
                max_length=500,
                description="instruction, output, and if need be input, kind, metadata, provenance, e.g. "
                "[{'instruction': 'What is a soft hold?', 'output': '…'}]",
            ),
        ],
    ) -> Annotated[CallToolResult, answers.AddedRows]:
        """Add rows that you wrote; each is accepted or refused with the reason, and near-duplicates are named. Use it
        when you are the teacher (the prompt write_examples says what is missing). Then call validate_dataset."""
        from tools.data import add

        added = add.add_examples(workspace, dataset, rows)
        counts = {name: added.count(name) for name in ("added", "known", "refused")}
        refused = [f"row {o.index}: {o.reason}" for o in added.outcomes if o.outcome == "refused"][:5]
        near = [
            f"row {o.index}: its {o.alike} is near that of {o.near} ({o.similarity})" for o in added.outcomes if o.near
        ]
        text = (
            f"{counts['added']} added, {counts['known']} known already, {counts['refused']} refused; {dataset!r} has "
        )
        return answered(
            f"{text}{added.rows} rows. {'; '.join([*refused, *near[:5]])} Next: validate_dataset(dataset={dataset!r}).",
            answers.AddedRows(
                dataset=dataset, rows=added.rows, **counts, outcomes=[o.model_dump() for o in added.outcomes]
            ),
        )
