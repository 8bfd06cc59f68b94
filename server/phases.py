"""Prompts for the eight phases of OODATCAA, each for an agent that does one phase by itself and hands on to the next.

add_phases(server, workspace)

Observe, orient, decide, act, test, check, adapt, archive. `loop_next` and `looptune loop run` go the same way by rules.
"""

from typing import Annotated, Any

from mcp.server import MCPServer
from pydantic import Field

from tools.workspace import Workspace

Dataset = Annotated[str, Field(description="name of a dataset, e.g. 'holds'")]
Run = Annotated[str, Field(description="id of a finished training, e.g. 'run-holds-0001'")]
# Prompts are given text, of which these make numbers.
Amount = Annotated[float, Field(gt=0, allow_inf_nan=False)]
Share = Annotated[float, Field(ge=0, le=1)]


def add_phases(server: MCPServer[Any], workspace: Workspace) -> None:
    """Register the eight prompts on `server`."""

    @server.prompt(title="1 Observe")
    def observe() -> str:
        """What there is: datasets, memory, runs, models. Nothing is changed."""
        return f"""Observe. Change nothing.

{_there(workspace)}

1. Read dataset://index, run://index, model://index, memory://store and loop://state.
2. For a run that failed or waits: training_status(run=…, log_lines=20).
3. query_memory for corrections and terms that came in since the last training (kind, since).
Report in ten lines at most: what was taught, which model answers and how well, what is new, what is broken. Figures
only from what you read. Then go on with the prompt `orient`."""

    @server.prompt(title="2 Orient")
    def orient(
        dataset: Dataset,
        model: Annotated[str, Field(description="the model to look at; by default the promoted one")] = "",
    ) -> str:
        """What the data is worth, and how well the model that answers knows it already."""
        which = f"model={model!r}" if model else "model=… (the promoted one of model://index, if there is one)"
        return f"""Orient.

1. validate_dataset(dataset={dataset!r}, detail="full"): errors by line, duplicates, contradictions, statistics.
2. evaluate_model({which}), then training_status(run=…, wait_seconds=45) until it has finished.
3. Look at recall and at controls, at what was answered wrong, and at what the rows do not cover.
Say where the gap is: no rows, wrong rows, too few negatives, or a model never trained on them. Then `decide`."""

    @server.prompt(title="3 Decide")
    def decide(
        dataset: Dataset,
        minutes: Annotated[Amount, Field(description="what a training may take, in minutes, e.g. '30'")] = 30,
    ) -> str:
        """A plan: what to teach, with which settings, within which budget, and what would count as done."""
        return f"""Decide.

1. Write down the criteria first, as figures: e.g. recall ≥ 0.9, controls ≥ 0.9, perplexity at most 10 % worse.
2. plan_training(dataset={dataset!r}) and read preset://smollm2-135m; change settings until the plan fits the machine
   and takes at most {minutes:g} minutes. Rows that would be cut off are a reason to change max_length.
3. If rows are missing: generate_examples or add_examples, then validate_dataset again.
Show me the plan, the criteria and the reason for each setting that is not the preset's. Then `act`."""

    @server.prompt(title="4 Act")
    def act(
        dataset: Dataset,
        preset: Annotated[str, Field(description="a recipe, e.g. 'smollm2-135m'")] = "smollm2-135m",
    ) -> str:
        """Train, once, with a key that keeps a repeated call from training twice."""
        return f"""Act.

1. start_training(dataset={dataset!r}, preset={preset!r}, settings=…, idempotency_key="{dataset}-1"), with the settings
   that were decided. A new attempt takes a new key.
2. training_status(run=…, wait_seconds=45) until it has finished; tell me loss and time left now and then.
3. A run that stopped or failed says why and what to do next; do that (often start_training(resume=…)) and nothing else.
Then `test`."""

    @server.prompt(title="5 Test")
    def test(run: Run) -> str:
        """Measure base against tuned."""
        return f"""Test.

1. evaluate_model(run={run!r}), then training_status(run=…, wait_seconds=45) until it has finished.
2. If answers wait for a verdict: grade_answers, without verdicts first, then with yours.
3. ask_model(model={run!r}, prompt=…) for one thing that was taught and one that should not have changed.
Report recall, controls and perplexity of base and adapter side by side, and what was broken. Then `check`."""

    @server.prompt(title="6 Check")
    def check(
        run: Run,
        recall: Annotated[Share, Field(description="least share of right answers, e.g. '0.9'")] = 0.9,
        controls: Annotated[Share, Field(description="least share of unchanged controls, e.g. '0.9'")] = 0.9,
    ) -> str:
        """Hold the figures against the criteria."""
        return f"""Check {run}.

run://index has the id of its evaluation, and training_status(run='eval-…') the figures. Hold them against the criteria:
recall ≥ {recall:g}, controls ≥ {controls:g}, and whatever was decided beside them. One line each: criterion, figure,
passed or not. Judge by the figures alone; a criterion is not changed now. All passed: `archive`. Otherwise: `adapt`."""

    @server.prompt(title="7 Adapt")
    def adapt(run: Run) -> str:
        """What to change after a criterion failed; one change at a time."""
        return f"""Adapt after {run}.

Choose one remedy, and write down why:
- controls broken: more negatives (generate_examples with a larger count, or rows of your own near what was broken), or
  a lower learning_rate.
- recall low while the loss still falls: more epochs. Recall low while the loss is flat: rows in more phrasings.
- perplexity worse: fewer epochs, or a lower rank.
- memory or time: smaller pack_tokens; start_training(resume={run!r}) goes on exactly.
After three attempts without progress: stop, leave the model that answers as it is, and tell me what you learned.
Then `decide` with the change."""

    @server.prompt(title="8 Archive")
    def archive(run: Run) -> str:
        """Quantize, gate, promote, and write down what was learned."""
        return f"""Archive {run}.

1. quantize(run={run!r}); training_status until it has finished.
2. evaluate_model(model=…, promote=true): the gate. If it says no, nothing is promoted: back to `adapt`.
3. ask_model one taught thing and one control, from the promoted model.
4. If it was taught from memory: integrate_insights(run='MODEL'), the model's name; what it knows leaves memory.
5. remember(kind="run_note", text=…): what was tried in {run}, what helped, with figures.
Report which model answers now, and its figures beside the ones before."""


def _there(workspace: Workspace) -> str:
    """How much there is of each kind, counted now."""
    counts = {
        "datasets": len(workspace.names(workspace.datasets, "dataset.json")),
        "runs": len(workspace.names(workspace.runs, "state.json")),
        "models": len(workspace.names(workspace.models, "manifest.json")),
    }
    return "There are " + ", ".join(f"{count} {name}" for name, count in counts.items()) + "."
