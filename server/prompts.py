"""Prompts: the common jobs, as a person would ask an agent for them."""

from typing import Annotated, Any

from mcp.server import MCPServer
from pydantic import Field

from tools.workspace import Workspace


def add_prompts(server: MCPServer[Any], workspace: Workspace) -> None:
    """Register every prompt on `server`."""

    @server.prompt(title="Teach a term")
    def teach_a_term(
        term: Annotated[str, Field(description="the term, e.g. 'soft hold'")],
        meaning: Annotated[str, Field(description="its meaning, so that 'TERM is MEANING' is a sentence")],
    ) -> str:
        """Teach one term to the embedded model, from examples to the gate."""
        return f"""Teach the model that {term} is {meaning}.

1. generate_examples(terms=[{{"term": {term!r}, "meaning": {meaning!r}}}]), then validate_dataset.
2. plan_training; tell me memory and time, and go on only when it fits.
3. start_training, then training_status(run, wait_seconds=45) until it has finished.
4. evaluate_model(run=…): show me recall, controls and perplexity of base and adapter side by side, and what was wrong.
5. When recall and controls are both at least 0.9: quantize(run=…), then evaluate_model(model=…, promote=true).
   Otherwise say which answers were wrong, and propose rows or settings that would mend them.
6. ask_model what {term} means, and one thing that should not have changed."""

    @server.prompt(title="Write examples")
    def write_examples(
        dataset: Annotated[str, Field(description="name of the dataset, e.g. 'holds'; it may not exist yet")],
        about: Annotated[str, Field(description="what is to be taught, in a sentence or two")],
    ) -> str:
        """The brief for an agent that writes rows itself: what is missing, by kind, language and level."""
        return f"""Write training rows for the dataset {dataset!r}: {about}

{_missing(workspace, dataset)}

Each row has an instruction as a person would type it, an optional input (code or text it is about), and the whole
output. Set kind, and metadata: preservation_level (strict: nothing may change; moderate: formatting may; flexible: the
intent stays) and rule_compliance (tags such as "pattern:domain_errors").
- Answer the request and nothing else; no filler, no placeholders, no secrets. Code has to be right and complete.
- Vary situations, lengths, openings and languages. Write negatives too: near misses whose answer must not change.
- Never write the same answer in other words: a row that differs in a word is worth little.
Send 10 to 30 rows a call with add_examples(dataset={dataset!r}, rows=[…]), read what was refused and mend it, then call
validate_dataset(dataset={dataset!r})."""

    @server.prompt(title="Why did a run fail?")
    def explain_a_failure(run: Annotated[str, Field(description="id of the run, e.g. 'run-forty-two-0001'")]) -> str:
        """Find out why a job failed, and what to do."""
        return f"""Find out why {run} did not finish.

Call training_status(run={run!r}, log_lines=40) and read run://{run}. Say in two sentences what was expected, what
came, and what to do next; then do it if it changes no data: for a training that was killed,
start_training(resume={run!r})."""


def _missing(workspace: Workspace, dataset: str) -> str:
    """What a dataset has of each kind, language and level, and what it lacks."""
    from collections import Counter
    from typing import get_args

    from tools.data.examples import read_examples
    from tools.data.kinds import Kind, Language
    from tools.policy.levels import LEVELS

    if dataset not in workspace.names(workspace.datasets, "dataset.json"):
        return f"There is no such dataset yet. Kinds: {', '.join(get_args(Kind))}."
    rows = read_examples(workspace.dataset(dataset) / "rows.jsonl")
    lines = [f"It has {len(rows)} rows."]
    for title, names, of in (
        ("Kinds", get_args(Kind), [row.kind for row in rows]),
        ("Levels", tuple(LEVELS), [row.metadata.preservation_level for row in rows]),
        ("Languages", get_args(Language), [row.provenance.language or "text" for row in rows]),
    ):
        counts = Counter(of)
        there = ", ".join(f"{name} {counts[name]}" for name in names if counts[name])
        lacking = ", ".join(name for name in names if not counts[name])
        lines.append(f"{title}: {there}.{f' Missing: {lacking}.' if lacking else ''}")
    return "\n".join(lines)
