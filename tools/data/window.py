"""A context window: what the output of a row is when it is an object, and not text.

    ContextOutput.model_json_schema()     # as datasets/schema.json publishes it

Rows are read with whatever object their output is, and `tools.data.checks` names each part that is missing or wrong, in
its own words; this is the form that it asks for, and a test holds the two together.
"""

from typing import Annotated, Literal

from pydantic import BaseModel, Field

from tools.policy.levels import RULE_FAMILIES, ModificationPolicy, PreservationLevel

Rule = Annotated[str, Field(pattern=rf"^(?:{'|'.join(RULE_FAMILIES)}):[a-z0-9][a-z0-9_.-]*$")]
Text = Annotated[str, Field(min_length=1, pattern=r"\S")]


class Said(BaseModel):
    """A turn of the conversation that went before."""

    role: Annotated[Literal["system", "user", "assistant", "tool"], Field(description="who spoke")]
    content: Annotated[Text, Field(description="what was said")]


class ContextWindow(BaseModel):
    """What a client adopts in place of its own context; all six parts have to be there."""

    system_prompt: Annotated[Text, Field(description="the system prompt that it works under")]
    conversation_history: Annotated[list[Said], Field(description="the turns that went before; may be empty")]
    active_rules: Annotated[list[Rule], Field(min_length=1, description="tags of the rules that are in force")]
    project_context: Annotated[Text, Field(description="what has to be known of the project")]
    role_expectations: Annotated[Text, Field(description="how to answer in this role")]
    knowledge_updates: Annotated[
        dict[Annotated[str, Field(pattern=r"\S")], Text], Field(description="words and what they mean; may be empty")
    ]


class WindowMetadata(BaseModel):
    """How far others may change the window; what stands here too of the row's own metadata is the same there."""

    preservation_level: Annotated[PreservationLevel, Field(description="that of the row")]
    rule_compliance: Annotated[list[Rule], Field(description="tags of the rules that it rests on")] = []
    modification_policy: Annotated[ModificationPolicy | None, Field(description="that of the row")] = None
    source: Annotated[str, Field(description="who is speaking")] = ""


class ContextOutput(BaseModel):
    """The answer's text, the window, and how far both may be changed."""

    content: Annotated[Text, Field(description="the text of the answer")]
    context_window: Annotated[ContextWindow, Field(description="the window")]
    metadata: Annotated[WindowMetadata, Field(description="how far both may be changed")]
