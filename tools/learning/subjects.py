"""What an insight is taught as: a term with its meaning, or a rule with its topic.

    subject(entry)      # Subject(entry=…, card=…) or Subject(entry=…, rule=Rule(tag='rule:utc_database', …))

The topic of a rule is what people ask by. It is the name of the entry's first rule tag, or else the words that carry
the sentence; a tag is better, and `remember` takes one.
"""

import re
from collections.abc import Iterable
from dataclasses import dataclass

from pydantic import ValidationError

from tools.data.cards import DefinitionCard, Phrasings
from tools.data.definitions import card_of
from tools.data.terms import Rule, Term
from tools.errors import InputError
from tools.memory.entries import Entry
from tools.policy.levels import LEVELS, PreservationLevel, level_of
from tools.policy.tags import check_rule

_MOST_WEIGHT = 3
_DEFINITION = re.compile(
    r"^(?:in\s+(?:this|our)\s+project,?\s+|here,?\s+)?(?:an?\s+|the\s+)?(?P<term>[^.:;]{1,60}?)"
    r"(?::\s+|\s+(?:is|are|means|stands\s+for|denotes)\s+)(?P<meaning>.+)",
    re.IGNORECASE | re.DOTALL,
)
_EMPTY_WORDS = """
a always an and any are as at be been being but by can could do does done each every for from get has have how if in
into is it its keep keeps made make makes may might more must need needs never no nor not of on only or our please shall
should so such than that the their them then there these they this those to use used uses using was we were what when
which who will with would you your instead rather put take takes write
"""
_EMPTY = frozenset(_EMPTY_WORDS.split())
_TOPIC_WORDS = 4


@dataclass(frozen=True)
class Subject:
    """An insight in the form that rows are made from; either `card` or `rule` is there."""

    entry: Entry
    card: DefinitionCard | None = None
    rule: Rule | None = None

    @property
    def source(self) -> str:
        """Its name among the sources of a dataset, and in the provenance of its rows."""
        return f"memory/{self.entry.id}"

    @property
    def answer(self) -> str:
        """What an answer that knows it contains."""
        if self.card:
            return self.card.meaning
        assert self.rule
        return self.rule.rule

    @property
    def weight(self) -> int:
        """How much room it gets in a training: more after each training that did not teach it, up to three times."""
        return min(_MOST_WEIGHT, 1 + self.entry.misses)


def subjects(entries: Iterable[Entry], phrasings: Phrasings) -> tuple[list[Subject], list[str]]:
    """The subjects of `entries`, and a note for each that was left out because another one has its term or its tag."""
    found: list[Subject] = []
    notes: list[str] = []
    terms: dict[str, str] = {}
    tags: set[str] = set()
    for entry in entries:
        one = subject(entry, phrasings)
        if one.card:
            known = terms.setdefault(one.card.term.casefold(), entry.id)
            if known != entry.id:
                notes.append(f"{entry.id} was left out: {known} defines {one.card.term!r} too; forget one of them.")
                continue
        elif one.rule:
            one = Subject(entry, rule=one.rule.model_copy(update={"tag": _free(one.rule, tags)}))
        found.append(one)
    return found, notes


def subject(entry: Entry, phrasings: Phrasings) -> Subject:
    """How `entry` is taught. A definition is 'TERM: MEANING' or 'TERM is MEANING'; all else is a rule."""
    text = " ".join(entry.text.split())
    match = _DEFINITION.match(text) if entry.kind == "definition" else None
    if match:
        try:
            term = Term(term=match["term"].strip("'\"‘’“” "), meaning=match["meaning"])
            card = card_of(term, phrasings)
            tags = _rule_tags(entry) or card.rule_compliance
            level = _level(entry, tags)
            metadata = {
                "rule_compliance": tags,
                "preservation_level": level,
                "modification_policy": LEVELS[level].policies[0],
            }
            return Subject(entry, card=card.model_copy(update=metadata))
        except ValidationError:
            pass
    return Subject(entry, rule=Rule(tag=(_rule_tags(entry) or [f"rule:{_topic(text)}"])[0], rule=text[:400]))


def _rule_tags(entry: Entry) -> list[str]:
    """The entry's tags that are rule tags."""
    found = []
    for tag in entry.tags:
        try:
            found.append(check_rule(tag))
        except InputError:
            continue
    return found


def _level(entry: Entry, tags: list[str]) -> PreservationLevel:
    # a definition is strict unless somebody said more
    return level_of("strict" if entry.level == "moderate" else entry.level, tags)


def _topic(text: str) -> str:
    """The words that carry `text`, as the name of a tag."""
    words = [word for word in re.findall(r"[a-z][a-z0-9]*", text.casefold()) if word not in _EMPTY and len(word) > 1]
    return "_".join(dict.fromkeys(words[:_TOPIC_WORDS])) or "practice"


def _free(rule: Rule, taken: set[str]) -> str:
    """The rule's tag; when an earlier rule has it, with the words of the rule."""
    tag, number = rule.tag, 1
    if tag in taken:
        tag = f"{tag}_{_topic(rule.rule)}"[:64]
    stem = tag
    while tag in taken:
        number += 1
        tag = f"{stem}_{number}"
    taken.add(tag)
    return tag
