"""Graders: whether an answer is right, without a judge model. Each is a rule that a person can read.

    grader({"type": "contains", "value": "Paris"}).problem("It is Paris.")       # '': nothing is wrong
    grader({"type": "tag", "level": "strict", "rules": ["security:*"]}).problem(answer)

    contains, not_contains   the words, whatever the case and the white space
    regex, not_regex         a Python regular expression is found, or is not, in 2 seconds at most
    exact                    the whole answer, without outer white space
    json_schema              the JSON in the answer fits a schema (no schema is ever fetched)
    tag                      the metadata tag: level, rules, and the modification policy that it has to allow
    context_window           a complete context window, with these rules active
    tool_call                a call by name and arguments, which this server's own tool accepts
    code                     code that parses, and runs against a small test in a bounded process
    all_of, any_of, not      combinations
    agent                    for an agent to judge by a rubric; its verdicts come back marked as such

`problem` says why an answer is wrong, or ''. Whether a tool accepts a call is asked of `accepts`, which comes from
the server (see `tools.evaluation.calls`); without it only the markup is checked.
"""

from collections.abc import Callable, Iterator
from fnmatch import fnmatchcase
from typing import Annotated, Any, Literal

from pydantic import BaseModel, ConfigDict, Field, TypeAdapter, field_validator, model_validator

from tools.data.code import code_errors, run_after
from tools.errors import InputError, LimitError, LooptuneError
from tools.evaluation.calls import find_json, normal
from tools.policy.levels import LEVELS, ModificationPolicy, PreservationLevel, level_of, stricter
from tools.policy.markup import TOOLS, Call, find_calls
from tools.policy.tags import find_tags
from tools.syntax import blocks, guess_language, known_language

Accepts = Callable[[Call], str]  # what this server's own tool has against a call, or ''
_SHOWN = 120
_SECONDS = 2  # for one pattern on one answer


class _Rule(BaseModel):
    """What every grader has: a verdict with its reason."""

    model_config = ConfigDict(extra="forbid", frozen=True, serialize_by_alias=True, validate_by_name=True)

    def problem(self, answer: str, accepts: Accepts | None = None) -> str:
        """Why `answer` is wrong; '' when it is right."""
        raise NotImplementedError

    def right(self, answer: str, accepts: Accepts | None = None) -> bool:
        """Whether `answer` passes."""
        return not self.problem(answer, accepts)


class Text(_Rule):
    """Words or a pattern that an answer has, or has not."""

    type: Literal["contains", "not_contains", "regex", "not_regex", "exact"]
    value: str = Field(min_length=1, max_length=1000)

    @model_validator(mode="after")
    def _compiles(self) -> "Text":
        if self.type.endswith("regex"):
            import regex

            try:
                regex.compile(self.value)
            except regex.error as error:
                raise ValueError(f"not a regular expression: {error}") from error
        return self

    def problem(self, answer: str, accepts: Accepts | None = None) -> str:
        shown = f"{self.value[:_SHOWN]!r}"
        if self.type == "exact":
            return "" if answer.strip() == self.value.strip() else f"is not exactly {shown}"
        if self.type in ("contains", "not_contains"):
            found = normal(self.value) in normal(answer)
        else:
            found = _is_found(self.value, answer)
        if found == (not self.type.startswith("not_")):
            return ""
        return f"has {shown}" if found else f"lacks {shown}"


class JsonSchema(_Rule):
    """JSON that fits a JSON Schema (2020-12): the answer itself, its JSON block, or the first JSON in it."""

    type: Literal["json_schema"]
    schema_: dict[str, Any] = Field(alias="schema")

    @field_validator("schema_")
    @classmethod
    def _is_a_schema(cls, schema: dict[str, Any]) -> dict[str, Any]:
        from jsonschema import Draft202012Validator
        from jsonschema.exceptions import SchemaError

        try:
            Draft202012Validator.check_schema(schema)
        except SchemaError as error:
            raise ValueError(f"not a JSON Schema: {error.message}") from error
        return schema

    def problem(self, answer: str, accepts: Accepts | None = None) -> str:
        from jsonschema import Draft202012Validator
        from jsonschema.validators import extend
        from referencing import Registry
        from referencing.exceptions import Unresolvable

        try:
            value = find_json(answer)
            # with a registry of its own, a "$ref" elsewhere is refused and not fetched
            validator = extend(Draft202012Validator, {"pattern": _pattern})
            error = next(validator(self.schema_, registry=Registry()).iter_errors(value), None)
        except (InputError, Unresolvable) as refusal:
            return str(getattr(refusal, "message", refusal))
        return f"{error.json_path}: {error.message[:_SHOWN]}" if error else ""


class TagIs(_Rule):
    """The metadata tag of an answer. Of several, the strictest level counts, and the rules of all of them.

    A rule may be a pattern such as `security:*`. `policy` is a modification policy that the level has to allow.
    """

    type: Literal["tag"]
    level: PreservationLevel | None = None
    rules: list[str] = []
    policy: ModificationPolicy | None = None

    def problem(self, answer: str, accepts: Accepts | None = None) -> str:
        try:
            tags = find_tags(answer)
        except LooptuneError as error:
            return error.message
        if not tags:
            return "has no metadata tag"
        level, given = tags[0].level, {rule for tag in tags for rule in tag.rules}
        for tag in tags:
            level = stricter(level, level_of(tag.level, tag.rules))
        if self.level and level != self.level:
            return f"the tag's level is {level}, not {self.level}"
        if lacking := _unmet(self.rules, given):
            return f"the tag lacks {lacking}"
        if self.policy and self.policy not in LEVELS[level].policies:
            return f"level {level} does not allow {self.policy}"
        return ""


class Window(_Rule):
    """A context window that is complete, as validation of rows means it, with these rules active.

    `words`: text that each has to stand somewhere in the window. `level`: that of the answer's metadata.
    """

    type: Literal["context_window"]
    rules: list[str] = []
    words: list[str] = []
    level: PreservationLevel | None = None

    def problem(self, answer: str, accepts: Accepts | None = None) -> str:
        from tools.data.checks import row_errors
        from tools.data.examples import Example, Metadata

        try:
            output = find_json(answer, lambda value: isinstance(value, dict) and "context_window" in value)
        except InputError as error:
            return error.message
        metadata = output.get("metadata")
        level = metadata.get("preservation_level") if isinstance(metadata, dict) else None
        if level not in LEVELS:
            return "the window's metadata has no preservation level"
        if self.level and level != self.level:
            return f"the window's level is {level}, not {self.level}"
        row = Example(
            kind="context_window", instruction="?", output=output, metadata=Metadata(preservation_level=level)
        )
        for found in row_errors(1, row):
            if found.code in ("context_window", "tag") and found.field.startswith("output"):
                return f"{found.field.removeprefix('output.')}: {found.message}"
        if lacking := _unmet(self.rules, {str(rule) for rule in output["context_window"]["active_rules"]}):
            return f"{lacking} is not among the active rules"
        text = normal(str(output))
        return next((f"the window lacks {word!r}" for word in self.words if normal(word) not in text), "")


class ToolCall(_Rule):
    """A tool call in the answer. An argument is given as its text, or as a text grader; `body` likewise."""

    type: Literal["tool_call"]
    name: str
    arguments: dict[str, str | Text] = {}
    body: str | Text | None = None

    @field_validator("name")
    @classmethod
    def _known(cls, name: str) -> str:
        if name not in TOOLS:
            raise ValueError(f"there is no tool {name!r}; known: {', '.join(TOOLS)}")
        return name

    def problem(self, answer: str, accepts: Accepts | None = None) -> str:
        try:
            calls = [call for call in find_calls(answer) if call.name == self.name]
        except InputError as error:
            return error.message
        if not calls:
            return f"does not call {self.name}"
        problems = [self._against(call, accepts) for call in calls]
        return "" if "" in problems else problems[0]

    def _against(self, call: Call, accepts: Accepts | None) -> str:
        for key, wanted in self.arguments.items():
            if key not in call.arguments:
                return f"{self.name} is called without {key}"
            if problem := _differs(wanted, call.arguments[key]):
                return f"{self.name}: {key} {problem}"
        if self.body is not None and (problem := _differs(self.body, call.body)):
            return f"{self.name}: the body {problem}"
        return accepts(call) if accepts else ""


class Code(_Rule):
    """Code that parses. With `test`, Python that runs after the answer's own, in a bounded process (`run_after`)."""

    type: Literal["code"]
    language: str = "python"
    test: str = Field(default="", max_length=8000)

    @model_validator(mode="after")
    def _only_python_runs(self) -> "Code":
        if self.test and known_language(self.language) != "python":
            raise ValueError(f"`test` runs Python only, not {self.language}")
        return self

    def problem(self, answer: str, accepts: Accepts | None = None) -> str:
        language = known_language(self.language)
        if "```" not in answer and "~~~" not in answer and guess_language(answer) == language:
            answer = f"```{language}\n{answer}\n```"  # nothing but code needs no fence
        if not any(block.language == language and block.code.strip() for block in blocks(answer)):
            return f"has no {language} code"
        try:
            problem = next(iter(code_errors(answer)), "")
        except LooptuneError as error:
            return error.message
        return problem or (run_after(answer, self.test) if self.test else "")


class AllOf(_Rule):
    """Every one of several."""

    type: Literal["all_of"]
    graders: list["Grader"] = Field(min_length=1, max_length=100)

    def problem(self, answer: str, accepts: Accepts | None = None) -> str:
        return next(filter(None, (grader.problem(answer, accepts) for grader in self.graders)), "")


class AnyOf(_Rule):
    """One of several at least."""

    type: Literal["any_of"]
    graders: list["Grader"] = Field(min_length=1, max_length=100)

    def problem(self, answer: str, accepts: Accepts | None = None) -> str:
        problems = []
        for grader in self.graders:
            problems.append(grader.problem(answer, accepts))
            if not problems[-1]:
                return ""
        return f"none of {len(problems)}: {problems[0]}"


class Not(_Rule):
    """The opposite."""

    type: Literal["not"]
    grader: "Grader"

    def problem(self, answer: str, accepts: Accepts | None = None) -> str:
        if self.grader.problem(answer, accepts):
            return ""
        found = getattr(self.grader, "graders", [self.grader])
        hit = next((grader for grader in found if not grader.problem(answer, accepts)), self.grader)
        return f"passes what it must not: {str(hit.model_dump(exclude_defaults=True))[:_SHOWN]}"


class Agent(_Rule):
    """An agent judges, by what `rubric` asks; a rule cannot, so to a rule every answer is right."""

    type: Literal["agent"]
    rubric: str = Field(min_length=5, max_length=2000)

    def problem(self, answer: str, accepts: Accepts | None = None) -> str:
        return ""


Grader = Annotated[
    Text | JsonSchema | TagIs | Window | ToolCall | Code | AllOf | AnyOf | Not | Agent, Field(discriminator="type")
]
for _combination in (AllOf, AnyOf, Not):
    _combination.model_rebuild()
_ADAPTER: TypeAdapter[Grader] = TypeAdapter(Grader)


def grader(value: dict[str, Any]) -> Grader:
    """The grader that `value` describes. Raises pydantic's ValidationError."""
    return _ADAPTER.validate_python(value)


def parts(one: Grader) -> list[Grader]:
    """`one` and every grader in it."""
    inner = [one.grader] if isinstance(one, Not) else one.graders if isinstance(one, AllOf | AnyOf) else []
    return [one, *(part for child in inner for part in parts(child))]


def _is_found(pattern: str, text: str) -> bool:
    """Python's own `re` cannot be stopped, and some patterns try more ways than there are seconds.

    Raises:
        LimitError: the pattern took too long.
    """
    import regex

    try:
        return regex.search(pattern, text, timeout=_SECONDS) is not None
    except TimeoutError as error:
        raise LimitError(
            f"Expected a pattern that is done with {len(text)} characters in {_SECONDS} s; got {pattern[:_SHOWN]!r}.",
            "write it without one repetition inside another, and evaluate again: the answers are kept",
        ) from error


def _pattern(validator: Any, pattern: str, instance: Any, schema: Any) -> Iterator[Any]:
    """JSON Schema's keyword of that name, within the same bound."""
    from jsonschema.exceptions import ValidationError

    if validator.is_type(instance, "string") and not _is_found(pattern, instance):
        yield ValidationError(f"{instance!r} does not match {pattern!r}")


def _differs(wanted: str | Text, given: str) -> str:
    if isinstance(wanted, Text):
        return wanted.problem(given)
    return "" if normal(wanted) == normal(given) else f"is {given[:_SHOWN]!r}, not {wanted[:_SHOWN]!r}"


def _unmet(wanted: list[str], given: set[str]) -> str:
    """The first of the wanted rules, or patterns of rules, that is not given."""
    return next((rule for rule in wanted if not any(fnmatchcase(one, rule) for one in given)), "")
