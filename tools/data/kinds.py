"""The kinds of rows, the languages of their code and how hard they are, apart from rows, to be named cheaply."""

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
Difficulty = Literal["basic", "intermediate", "advanced"]
