"""Prompts: the common jobs, as a person would ask an agent for them."""

from typing import Annotated, Any

from mcp.server import MCPServer
from pydantic import Field


def add_prompts(server: MCPServer[Any]) -> None:
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

    @server.prompt(title="Why did a run fail?")
    def explain_a_failure(run: Annotated[str, Field(description="id of the run, e.g. 'run-forty-two-0001'")]) -> str:
        """Find out why a job failed, and what to do."""
        return f"""Find out why {run} did not finish.

Call training_status(run={run!r}, log_lines=40) and read run://{run}. Say in two sentences what was expected, what
came, and what to do next; then do it if it changes no data: for a training that was killed,
start_training(resume={run!r})."""
