"""Comments with an effect: shebangs, build tags, and what tools read. At moderate they are as fixed as code.

directive("# noqa: S101", "python")     # 'noqa: S101': what has to stay, freed of spacing
directive("# a reason", "python")       # ''
"""

import re

_ANYWHERE = re.compile(
    r"METADATA:|SPDX-|@license\b|vim?:\s|-\*-.*-\*-|fmt:\s*(?:off|on|skip)\b|editorconfig-|cspell:|nosemgrep\b|"
    r"NOSONAR\b|sourceMappingURL=",
    re.IGNORECASE,
)
_BY_LANGUAGE = {
    "python": re.compile(
        r"(?:noqa|nosec|pragma:|type:|mypy:|pyright:|pyre-|ty:|pytype:|pylint:|flake8:|ruff:|isort:|yapf:|autopep8:|"
        r"coding[:=]|cython:|distutils:|noinspection|bandit:|skipcq|/// )",
        re.IGNORECASE,
    ),
    "typescript": re.compile(
        r"@ts-|eslint|prettier-ignore|tslint:|biome-ignore|deno-|@jsx|@flow|\$Flow|istanbul |c8 |v8 |@vitest-|@jest-|"
        r"webpack\w+:|@vite-ignore|[@#]__\w+__|<reference |<amd-|@preserve|globals? \w+(?:[:,]|$)|jshint|oxlint-|!"
    ),
    "go": re.compile(r"Code generated|Output:|Unordered output:|Deprecated:|#nosec"),
    "sql": re.compile(r"\+|!|noqa|sqlfluff:|name:|migrate:|changeset |liquibase |dialect:", re.IGNORECASE),
    "shell": re.compile(r"shellcheck |SBATCH|PBS|\$ -|shfmt:"),
    "yaml": re.compile(r"yamllint|yaml-language-server|checkov:|renovate:|syntax=|cloud-config|noqa"),
}
_BY_LANGUAGE["tsx"] = _BY_LANGUAGE["typescript"]
_INSIDE = re.compile(  # what has its effect wherever it stands in a comment
    r"\bDO NOT EDIT\b|-\*-.*-\*-|METADATA:|#\s*(?:noqa|type:|pylint:|nosec)|"
    r"@(?:ts-|jsx|flow|type\b|typedef\b|satisfies\b|license|preserve|internal\b|deprecated\b)"
)
_SIGN = re.compile(r"^(?:#(?!!)|/[/*]+|--|\*)\s*|\s*\*+/$")
# Go reads these only without a space after the slashes; with one, they are prose.
_GO = re.compile(r"//(?:go:|export |line |nolint|lint:)|// ?\+build\b|/\*line ")
_GO_PROSE = re.compile(r"//\s+(?:go:|nolint|export |lint:)")


def directive(comment: str, language: str, first: bool = False) -> str:
    """What of `comment` has an effect, with its spacing evened out; '' when it has none. `first`: at the very start."""
    if comment.startswith("#!"):
        return comment.strip() if first else ""
    if language == "go" and _GO.match(comment):
        return comment.strip()
    if language == "go" and _GO_PROSE.match(comment):
        return ""
    said = " ".join(_SIGN.sub("", comment.strip()).split())
    special = _BY_LANGUAGE.get(language)
    return said if _ANYWHERE.match(said) or (special and special.match(said)) or _INSIDE.search(said) else ""
