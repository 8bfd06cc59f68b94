"""Rule tags and the metadata tag that closes an answer.

check_rule("concept:42_harmony")
render("strict", ["concept:42_harmony"])
# <!-- METADATA: preservation_level=strict, rule_compliance=["concept:42_harmony"] -->
"""

import json
import re
from collections.abc import Sequence

from tools.errors import InputError
from tools.policy.levels import RULE_FAMILIES, PreservationLevel

_RULE = re.compile(rf"(?:{'|'.join(RULE_FAMILIES)}):[a-z0-9][a-z0-9_.-]*")


def check_rule(tag: str) -> str:
    """`tag` itself when it is `family:name` of a known family.

    Raises:
        InputError: it is not.
    """
    if not _RULE.fullmatch(tag):
        raise InputError(
            f"Expected a rule tag 'family:name' with a family of {', '.join(RULE_FAMILIES)}; got {tag!r}.",
            "write it like 'pattern:domain_errors'",
        )
    return tag


def render(level: PreservationLevel, rules: Sequence[str]) -> str:
    """The metadata tag of an answer."""
    return f"<!-- METADATA: preservation_level={level}, rule_compliance={json.dumps(list(rules))} -->"
