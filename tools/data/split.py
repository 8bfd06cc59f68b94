"""Split rows 80/20 so that no phrasing stands on both sides.

    train, valid = split(rows, seed=42)

Rows made by one phrasing of one section (and rows that ask the same) are twins: they go to the same side. Each kind
and section is split on its own, so both sides have the same mixture.
"""

import random
from collections import defaultdict

from tools.data.datasets import section
from tools.data.examples import Example


def split(rows: list[Example], seed: int, share: float = 0.2) -> tuple[list[Example], list[Example]]:
    """Training and validation rows, in their old order.

    Args:
        share: the part of rows that goes to validation, as near as whole groups allow.
    """
    strata: dict[tuple[str, str], dict[str, list[int]]] = defaultdict(lambda: defaultdict(list))
    for index, row in enumerate(rows):
        phrasing = row.provenance.template.partition("+")[0] or row.question.casefold()
        strata[row.kind, section(row)][phrasing].append(index)
    valid: set[int] = set()
    owed = 0.0
    for stratum in sorted(strata):
        groups = strata[stratum]
        names = sorted(groups)
        random.Random(f"{seed}:{stratum}").shuffle(names)
        owed += share * sum(len(groups[name]) for name in names)
        # the last group always stays in training, so that nothing is only ever tested
        for name in names[:-1]:
            if len(groups[name]) <= owed + 0.5:
                valid.update(groups[name])
                owed -= len(groups[name])
            if owed < 0.5:
                break
    return (
        [row for index, row in enumerate(rows) if index not in valid],
        [row for index, row in enumerate(rows) if index in valid],
    )
