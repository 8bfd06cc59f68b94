"""What a user brings to be taught: terms with the meaning they have in the project, and rules.

Term(term="soft hold", meaning="a reservation that lapses by itself after 15 minutes", is_not=["a lock"])
Rule(tag="business:money_in_cents", rule="Amounts are whole cents", bad="price: float", good="price_cents: int")
"""

from typing import Annotated, Literal

from pydantic import BaseModel, ConfigDict, Field, field_validator, model_validator

from tools.errors import InputError
from tools.policy.tags import check_rule


class Term(BaseModel):
    """A term and its meaning, such that 'TERM is MEANING' is a sentence.

    `aliases` are other spellings, `is_not` what it is taken for wrongly, `code` the languages in which rows show it, in
    a docstring, a comment or a constant. The names say so; descriptions would cost every conversation bytes.
    """

    model_config = ConfigDict(extra="forbid")

    term: Annotated[str, Field(min_length=1, max_length=80)]
    meaning: Annotated[
        str,
        Field(
            min_length=3,
            max_length=400,
            description="'TERM is MEANING' is a sentence",
        ),
    ]
    aliases: Annotated[list[str], Field(max_length=10)] = []
    is_not: Annotated[list[str], Field(max_length=10)] = []
    code: Annotated[list[Literal["python", "typescript"]], Field(max_length=2)] = []

    @field_validator("term", "meaning")
    @classmethod
    def _says_something(cls, value: str) -> str:
        if not value.strip():
            raise ValueError("expected text, got only white space")
        if len(value.strip().splitlines()) > 1:
            raise ValueError("expected one line")
        return value.strip().rstrip(".")

    @field_validator("is_not")
    @classmethod
    def _short_texts(cls, values: list[str]) -> list[str]:
        said = list(dict.fromkeys(value.strip().rstrip(".") for value in values))
        if not all(1 <= len(value) <= 400 for value in said):
            raise ValueError("expected texts of 1 to 400 characters, such as 'a lock in the database'")
        return said

    @model_validator(mode="after")
    def _is_not_what_it_is(self) -> "Term":
        is_it = {text.casefold() for text in (self.term, self.meaning, *self.aliases)}
        if both := next((text for text in self.is_not if text.casefold() in is_it), None):
            raise ValueError(f"{both!r} is said to be the term and not to be it: keep one of them")
        breaks = next((sign for sign in ('"', "\\", "*/") if sign in self.meaning), None)
        if self.code and (breaks or not names_in_code(self.term)):
            raise ValueError(
                f"`code` needs a term of plain words, which code can be named after, and a meaning without quotes; "
                f"got {breaks or self.term!r}"
            )
        return self


class Rule(BaseModel):
    """A rule of the project in one sentence, with an example of how it is broken and how it is kept, as text or as code
    in `language`, which is guessed when it is not said."""

    model_config = ConfigDict(extra="forbid")

    tag: Annotated[str, Field(max_length=80, description="family:name")]
    rule: Annotated[str, Field(min_length=5, max_length=400)]
    bad: Annotated[str, Field(max_length=4000, description="what breaks it")] = ""
    good: Annotated[str, Field(max_length=4000, description="the same, mended")] = ""
    language: Annotated[str, Field(max_length=20)] = ""

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


def names_in_code(term: str) -> dict[str, str]:
    """What `term` is called in code, as a type, a constant and a value; {} for a term of which no name can be made.

    'soft hold' → {"type": "SoftHold", "constant": "SOFT_HOLD", "value": "soft_hold"}
    """
    words = term.replace("-", " ").split()
    if not words or not all(word.isascii() and word.isalnum() for word in words) or words[0][0].isdigit():
        return {}
    return {
        "type": "".join(word[:1].upper() + word[1:] for word in words),
        "constant": "_".join(words).upper(),
        "value": "_".join(words).lower(),
    }
