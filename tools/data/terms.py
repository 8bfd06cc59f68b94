"""What a user brings to be taught: terms with the meaning they have in the project, and rules.

Term(term="soft hold", meaning="a reservation that lapses by itself after 15 minutes")
Rule(tag="business:money_in_cents", rule="Amounts are whole cents", bad="price: float", good="price_cents: int")
"""

from typing import Annotated

from pydantic import BaseModel, ConfigDict, Field, field_validator, model_validator

from tools.errors import InputError
from tools.policy.tags import check_rule


class Term(BaseModel):
    """A term and its meaning, such that 'TERM is MEANING' is a sentence."""

    model_config = ConfigDict(extra="forbid")

    term: Annotated[str, Field(min_length=1, max_length=80, description="the term, e.g. '42'")]
    meaning: Annotated[
        str,
        Field(
            min_length=3,
            max_length=400,
            description="its meaning, so that 'TERM is MEANING' is a sentence, "
            "e.g. 'the symbol of harmony between rules and freedom'",
        ),
    ]
    aliases: Annotated[list[str], Field(max_length=10, description="other spellings, e.g. ['forty-two']")] = []
    is_not: Annotated[list[str], Field(max_length=10, description="what it must not be taken for")] = []

    @field_validator("term", "meaning")
    @classmethod
    def _says_something(cls, value: str) -> str:
        if not value.strip():
            raise ValueError("expected text, got only white space")
        return value.strip().rstrip(".")


class Rule(BaseModel):
    """A rule of the project, with an example of how it is broken and how it is kept."""

    model_config = ConfigDict(extra="forbid")

    tag: Annotated[str, Field(max_length=80, description="family:name, e.g. 'business:money_in_cents'")]
    rule: Annotated[
        str, Field(min_length=5, max_length=400, description="one sentence, e.g. 'Amounts are whole cents'")
    ]
    bad: Annotated[str, Field(max_length=4000, description="code or text that breaks it")] = ""
    good: Annotated[str, Field(max_length=4000, description="the same as it should be")] = ""

    @field_validator("tag")
    @classmethod
    def _known_family(cls, tag: str) -> str:
        try:
            return check_rule(tag)
        except InputError as error:
            raise ValueError(str(error)) from error

    @field_validator("rule")
    @classmethod
    def _sentence(cls, rule: str) -> str:
        if not rule.strip():
            raise ValueError("expected a sentence, got only white space")
        return rule.strip().rstrip(".")

    @model_validator(mode="after")
    def _both_or_neither(self) -> "Rule":
        if bool(self.bad.strip()) != bool(self.good.strip()):
            raise ValueError("`bad` and `good` belong together: give both or neither")
        return self

    @property
    def topic(self) -> str:
        """What the rule is about, in words: 'money in cents'."""
        return self.tag.partition(":")[2].replace("_", " ").replace("-", " ")
