"""A term that the user brings, with the meaning it has in the project.

Term(term="soft hold", meaning="a reservation that lapses by itself after 15 minutes")
"""

from typing import Annotated

from pydantic import BaseModel, ConfigDict, Field, field_validator


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
