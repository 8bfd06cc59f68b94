"""Whether two memories say the same, nearly the same, or the opposite, and which of two opposites holds.

    compare("Refunds within 30 days.", "Refunds within 14 days.", ...)    # Relation('contradicts', '30 / 14')

By rule, not by a model, so that each verdict has a reason that can be read: the same sentence with another number,
with and without a "not", or a term with another meaning. What is written in quite different words is not noticed.
"""

import re
from typing import Literal, NamedTuple

from tools.memory.entries import Entry, is_user

NEAR = 0.93  # cosine from which two texts count as saying nearly the same
LOOK = 0.55  # below this cosine, two texts are not compared
_SHARED = 0.6  # share of their words that two sentences about one thing have in common
_SHARED_UNDER_TAG = 0.45  # the same, when they carry the same rule tag

_NEGATIVES = """
not never no none nobody nothing without neither nor cannot forbidden forbid forbids disallow disallowed avoid stop
prohibited dont doesnt isnt arent wont cant mustnt shouldnt instead
"""
_PAIRS = """
always/never required/optional enabled/disabled enable/disable before/after first/last allowed/forbidden
include/exclude more/less above/below minimum/maximum open/closed public/private mutable/immutable
synchronous/asynchronous on/off start/end accept/reject accepted/rejected with/without
"""
_FILLINGS = """
a an and are as at be by for from has have in is it its of on or our that the their this to was we were will you your
must should shall may can do does always all
"""
# A number is a value when it stands after one of the first or before one of the second; else it may be a name, as in
# 'shelf 3', and what is said of shelf 3 does not contradict what is said of shelf 4.
_VALUES_FOLLOW = """
is are be at to in of within after before than least most up by for every until from only exactly about = < > maximum
minimum over under through lasts takes costs
"""
_UNITS = """
ms second seconds minute minutes hour hours day days week weeks month months year years percent euro euros eur cent
cents usd dollars kb mb gb bytes characters lines words tokens times attempts retries degrees metres meters km kg
"""
_NEGATIVE, _FILLING, _BEFORE_VALUE, _AFTER_VALUE = (
    frozenset(words.split()) for words in (_NEGATIVES, _FILLINGS, _VALUES_FOLLOW, _UNITS)
)
# each word, with the number of its pair and its side in it
_OPPOSITES = {
    word: (number, side) for number, pair in enumerate(_PAIRS.split()) for side, word in enumerate(pair.split("/"))
}
_MEANS = re.compile(
    r"^(?:in this project,? |here,? )?(?:an? |the )?(?P<term>[^.:;]{1,60}?)\s+(?:is|are|means|stands for|denotes)\s+"
    r"(?P<meaning>.+)",
    re.IGNORECASE | re.DOTALL,
)


class Relation(NamedTuple):
    """How an entry stands to one that is known."""

    kind: Literal["same", "near", "contradicts"]
    reason: str


def compare(new: Entry, known: Entry, cosine: float) -> Relation | None:
    """How `new` stands to `known`, whose meanings have this cosine; None when they are about different things."""
    if _plain(new.text) == _plain(known.text):
        return Relation("same", "the same words") if new.kind == known.kind else None
    if cosine < LOOK:
        return None
    if reason := _opposite(new, known):
        return Relation("contradicts", reason)
    if cosine >= NEAR and _values(new.text)[1] == _values(known.text)[1]:
        return Relation("near", f"cosine {cosine:.2f}")
    return None


def newer_wins(new: Entry, known: Entry) -> tuple[bool, str]:
    """Whether `new` wins over `known`, which it contradicts, and the rule that says so."""
    if new.status in ("pending", "archived") and known.status != "pending":
        return False, "what waits for a yes, or was put away, wins over nothing"
    if is_user(known.source) and not is_user(new.source):
        return False, "the user's explicit word wins over what others say"
    if is_user(new.source) and not is_user(known.source):
        return True, "the user's explicit word wins over what others say"
    return True, "the newer wins"


def _opposite(new: Entry, known: Entry) -> str:
    """Why the two contradict each other, or ''."""
    (words, numbers), (known_words, known_numbers) = _values(new.text), _values(known.text)
    negative, known_negative = len(words & _NEGATIVE) % 2, len(known_words & _NEGATIVE) % 2
    sides, known_sides = _sides(words), _sides(known_words)
    turned = [number for number in sides.keys() & known_sides.keys() if sides[number] != known_sides[number]]
    topic = {word for word in words if word not in _NEGATIVE and _OPPOSITES.get(word, (-1,))[0] not in turned}
    known_topic = {
        word for word in known_words if word not in _NEGATIVE and _OPPOSITES.get(word, (-1,))[0] not in turned
    }
    topic, known_topic = topic - _FILLING, known_topic - _FILLING
    together = topic | known_topic
    shared = len(topic & known_topic) / len(together) if together else 0.0
    apart = topic ^ known_topic
    one_word = len(topic - known_topic) == 1 == len(known_topic - topic) and not _labels(apart)
    tags = [tag for tag in new.tags if tag in known.tags]
    if one_word and tags and shared >= _SHARED_UNDER_TAG and numbers == known_numbers and new.kind == known.kind:
        return f"under {tags[0]}, {(known_topic - topic).pop()} became {(topic - known_topic).pop()}"
    if shared >= _SHARED and not _labels(apart):
        if numbers and known_numbers and numbers != known_numbers and len(topic - known_topic) <= 1:
            return f"{', '.join(sorted(known_numbers))} became {', '.join(sorted(numbers))}"
        if numbers == known_numbers and (turned or negative != known_negative) and len(apart) <= 3:
            return "one says the opposite of the other"
    return _meanings_differ(new, known)


def _meanings_differ(new: Entry, known: Entry) -> str:
    """One term, defined twice with few words in common."""
    if new.kind != "definition" or known.kind != "definition":
        return ""
    mine, other = _MEANS.match(new.text.strip()), _MEANS.match(known.text.strip())
    if not mine or not other or _plain(mine["term"]) != _plain(other["term"]):
        return ""
    words, known_words = (set(_plain(found["meaning"]).split()) - _FILLING for found in (mine, other))
    shared = len(words & known_words) / max(1, min(len(words), len(known_words)))
    return f"two meanings of {mine['term']!r}" if shared < 0.5 else ""


def _plain(text: str) -> str:
    """`text` in lower case, with nothing but words and numbers."""
    text = text.casefold().replace("'", "").replace("’", "")
    return " ".join(re.findall(r"\w+(?:[.:,]\d+)*", text))


def _values(text: str) -> tuple[set[str], set[str]]:
    """The words of `text`, and the numbers in it that are values rather than names (as 3 is in 'rule 3')."""
    found = re.findall(r"\w+(?:[.:,]\d+)*|[<>=]", text.casefold().replace("'", "").replace("’", ""))
    words: set[str] = set()
    numbers: set[str] = set()
    for place, word in enumerate(found):
        if not word[0].isdigit():
            words.add(word)
            continue
        before = found[place - 1] if place else ""
        after = found[place + 1] if place + 1 < len(found) else ""
        value = before in _BEFORE_VALUE or after in _AFTER_VALUE or not word.isdigit()
        (numbers if value else words).add(word if value else f"#{word}")
    return words, numbers


def _sides(words: set[str]) -> dict[int, int]:
    return dict(_OPPOSITES[word] for word in words if word in _OPPOSITES)


def _labels(words: set[str]) -> bool:
    """Whether two sentences differ in a number that is a name: then they are about two things."""
    return any(word.startswith("#") for word in words)
