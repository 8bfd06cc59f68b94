"""Graders: whether an answer is right. Each is a rule that a person can read; a probe may have several.

    Grader(type="contains", value="Paris").right("It is Paris.")      # True

`contains`: the words, whatever the case and the white space. `not_contains`: the opposite. `regex`, `not_regex`: a
Python regular expression is found, or is not. `exact`: the whole answer, without outer white space.
"""

import re
from typing import Literal

from pydantic import BaseModel, ConfigDict, Field, model_validator


class Grader(BaseModel):
    """One rule."""

    model_config = ConfigDict(extra="forbid", frozen=True)

    type: Literal["contains", "not_contains", "regex", "not_regex", "exact"]
    value: str = Field(min_length=1, max_length=1000)

    @model_validator(mode="after")
    def _compiles(self) -> "Grader":
        if self.type.endswith("regex"):
            try:
                re.compile(self.value)
            except re.error as error:
                raise ValueError(f"not a regular expression: {error}") from error
        return self

    def right(self, answer: str) -> bool:
        """Whether `answer` passes."""
        if self.type == "exact":
            return answer.strip() == self.value.strip()
        if self.type in ("contains", "not_contains"):
            return (normal(self.value) in normal(answer)) == (self.type == "contains")
        return (re.search(self.value, answer) is not None) == (self.type == "regex")


def normal(text: str) -> str:
    """`text` in lower case, with single spaces."""
    return " ".join(text.casefold().split())
