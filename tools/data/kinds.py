"""The kinds of rows, and the languages of their code, apart from the rows so that they can be named cheaply."""

from typing import Literal

Kind = Literal[
    "procedural",
    "definition",
    "context_window",
    "metadata_tagging",
    "rule_compliance",
    "oodatcaa",
    "memory_operation",
]
Language = Literal["python", "typescript", "go", "rust", "sql", "shell", "json", "yaml", "text"]
