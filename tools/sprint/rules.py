"""A sprint's rules: what to teach, with what, within which budget, and when it is done. A small YAML file.

    sprint = read_sprint(Path("soft-hold.yaml"))     # docs/loop.md has a whole one

    name: soft-hold
    teach:    {terms: [{term: soft hold, meaning: a reservation that lapses by itself after 15 minutes}], rows: 240}
    train:    {preset: embedded, settings: {epochs: 1.0}}
    budget:   {minutes: 15, memory_gb: 4, disk_gb: 2}
    criteria: [{name: recall, check: adapter.recall >= 0.9}]
    adapt:    2

A criterion is shown by evidence. `check` is an expression over the figures of this sprint (tools/sprint/figures.py)
and decides whether the loop adapts; beside `command` it is over that command's JSON. `test`, `command` and `document`
are run or read when the report is made; of several, each has to hold. `open` says that there is none, and why.
"""

from pathlib import Path
from typing import Annotated, Any

import yaml
from pydantic import BaseModel, ConfigDict, Field, ValidationError, model_validator

from tools.data.kinds import Kind
from tools.data.terms import Rule, Term
from tools.errors import InputError, LooptuneError, NotFoundError
from tools.export.gguf import QuantType
from tools.learning.material import REPLAY
from tools.sprint import expressions
from tools.sprint.commands import refused
from tools.sprint.figures import KNOWN, is_late
from tools.training.config import TrainingConfig, preset
from tools.workspace import Workspace, check_name

MAX_BYTES = 200_000


class _Strict(BaseModel):
    model_config = ConfigDict(extra="forbid")


class Teach(_Strict):
    """What is taught: terms, rules and cards, made into `rows` rows; or the insights that wait in the memory, with
    `replay` as the share of rows of what was learned before; or a dataset that is there already."""

    terms: list[Term] = []
    rules: list[Rule] = []
    cards: list[str] = []
    kinds: list[Kind] = []
    memory: bool = False
    replay: Annotated[float, Field(ge=0, le=0.9)] = REPLAY
    dataset: str = ""
    rows: Annotated[int, Field(ge=10, le=20_000)] = 400
    seed: Annotated[int, Field(ge=0, lt=2**32)] = 42

    @model_validator(mode="after")
    def _something(self) -> "Teach":
        given = bool(self.terms or self.rules or self.cards or self.kinds)
        if sum((given, self.memory, bool(self.dataset))) != 1:
            raise ValueError("expected either `dataset`, `memory: true`, or some of `terms`, `rules`, `cards`, `kinds`")
        if "replay" in self.model_fields_set and not self.memory:
            raise ValueError("`replay` belongs to `memory: true`")
        return self


class Train(_Strict):
    """The recipe: a preset, and what is changed of it."""

    preset: str = "embedded"
    settings: dict[str, int | float | str | bool | list[str]] = {}


class Evaluate(_Strict):
    """Which probes are asked (by default the dataset's own), and the longest answer in tokens."""

    probes: str = ""
    max_tokens: Annotated[int, Field(ge=1, le=1024)] = 32


class Budget(_Strict):
    """What a cycle may take: minutes at work, memory of a training and disk, in GB."""

    minutes: Annotated[float, Field(gt=0, le=10_080)] = 120
    memory_gb: Annotated[float, Field(gt=0, le=4096)] = 16
    disk_gb: Annotated[float, Field(gt=0, le=4096)] = 10


class Archive(_Strict):
    """What becomes of a training that met its criteria."""

    quantize: QuantType = "q4_k_m"
    promote: bool = True
    integrate_insights: bool = True


class Criterion(_Strict):
    """One acceptance criterion, and what shows that it is met."""

    name: Annotated[str, Field(min_length=1, max_length=80)]
    text: Annotated[str, Field(max_length=400)] = ""
    check: str = ""
    test: list[str] = []
    command: str = ""
    document: str = ""
    section: str = ""
    says: list[str] = []
    open: str = ""

    @model_validator(mode="after")
    def _evidence(self) -> "Criterion":
        shown = bool(self.check or self.test or self.command or self.document)
        if shown == bool(self.open):
            raise ValueError(
                f"{self.name}: expected `check`, `test`, `command` or `document` (of several, each has to hold), or "
                "else `open` with the reason"
            )
        if (self.section or self.says) and not self.document:
            raise ValueError(f"{self.name}: `section` and `says` belong to `document`")
        if self.command and (why := refused(self.command)):
            raise ValueError(
                f"{self.name}: `command` is a command of looptune that changes nothing; {why}; got {self.command!r}"
            )
        return self

    @property
    def decides(self) -> bool:
        """Whether the loop adapts until it is met."""
        return bool(self.check) and not self.command

    @property
    def rule(self) -> expressions.Rule:
        """The parsed `check` of a criterion that decides."""
        return expressions.parse(self.check, KNOWN)

    @property
    def late(self) -> bool:
        """Whether it can only be judged on the exported model."""
        return is_late(self.rule.names)


class Sprint(_Strict):
    """A whole sprint file."""

    name: Annotated[str, Field(max_length=32)]
    goal: Annotated[str, Field(max_length=500)] = ""
    teach: Teach
    train: Train = Train()
    evaluate: Evaluate = Evaluate()
    budget: Budget = Budget()
    criteria: Annotated[list[Criterion], Field(min_length=1, max_length=300)]
    adapt: Annotated[int, Field(ge=0, le=10, description="how often at most")] = 2
    archive: Archive = Archive()

    @property
    def deciding(self) -> list[Criterion]:
        """The criteria over this sprint's own figures."""
        return [criterion for criterion in self.criteria if criterion.decides]


def parse_sprint(text: str) -> Sprint:
    """The sprint that a YAML text holds; what can be checked before anything runs is checked here.

    Raises:
        InputError: it is no YAML mapping, a field is unknown or out of range, a criterion names a figure that there
            is not, or a setting is none of the preset's.
    """
    if len(text.encode()) > MAX_BYTES:
        raise InputError(
            f"Expected a sprint file of at most {MAX_BYTES} bytes, got {len(text.encode())}.", "shorten it"
        )
    try:
        value: Any = yaml.safe_load(text)
    except yaml.YAMLError as error:
        raise InputError(f"Expected YAML: {error}", "mend the line it names") from error
    if not isinstance(value, dict):
        raise InputError(f"Expected a mapping with name, teach and criteria; got {type(value).__name__}.", _EXAMPLE)
    try:
        sprint = Sprint.model_validate(value)
        check_name(sprint.name, "sprint name")
        names = [criterion.name for criterion in sprint.criteria]
        if twice := sorted({name for name in names if names.count(name) > 1}):
            raise InputError(f"Two criteria are named {twice[0]!r}.", "give each its own name")
        if not sprint.deciding:
            raise InputError(
                "No criterion is over the sprint's own figures, so nothing says when it is done.", _EXAMPLE
            )
        for criterion in sprint.deciding:
            criterion.rule  # noqa: B018  # raises for a figure that there is not
        recipe(sprint, sprint.train.settings)
    except ValidationError as error:
        parts = []
        for problem in error.errors(include_url=False):
            place = ".".join(str(part) for part in problem["loc"]) or "sprint"
            parts.append(f"{place}: {problem['msg']}")
        raise InputError("; ".join(parts[:6]) + ".", _EXAMPLE) from error
    return sprint


def recipe(sprint: Sprint, settings: dict[str, Any]) -> TrainingConfig:
    """The sprint's preset with `settings`, on any dataset. Raises InputError, NotFoundError."""
    if "dataset" in settings:
        raise InputError("A sprint's dataset is what it teaches, not a setting.", "name it as teach.dataset")
    return preset(sprint.train.preset, dataset="any", **settings)


def read_sprint(path: Path) -> tuple[Sprint, str]:
    """The sprint in a file, and the file's text. Raises InputError, NotFoundError."""
    try:
        if path.stat().st_size > MAX_BYTES:
            raise InputError(f"{path} has more than {MAX_BYTES} bytes.", "a sprint file is small")
        text = path.read_text(encoding="utf-8")
    except FileNotFoundError as error:
        raise NotFoundError(f"There is no sprint file {path}.", "name a YAML file, or a sprint that ships") from error
    except (OSError, UnicodeDecodeError) as error:
        raise InputError(f"Expected a sprint file in UTF-8: {path}: {error}", "name a YAML file") from error
    try:
        return parse_sprint(text), text
    except LooptuneError as error:
        raise type(error)(f"{path.name}: {error.message}", error.next_step) from error


def shipped_sprints() -> dict[str, Path]:
    """The sprint files that ship, by name."""
    from tools.settings import shipped_data

    return {path.stem: path for path in sorted((shipped_data() / "sprints").glob("*.yaml"))}


def sprint_text(workspace: Workspace, name: str) -> str:
    """The text of a sprint file by name: one of the workspace's `sprints/`, or one that ships. Raises NotFoundError."""
    check_name(name, "sprint name")
    own = {path.stem: path for path in (workspace.home / "sprints").glob("*.yaml")}
    known = {**shipped_sprints(), **own}
    if name not in known:
        raise NotFoundError.named("sprint", name, known, "name one, or put NAME.yaml into the workspace's sprints/")
    return read_sprint(known[name])[1]


_EXAMPLE = "docs/loop.md shows a whole sprint file"
