"""One meaning to a term: what the core dataset says that its words mean, and where it says two things.

    several_meanings(stated(rows))      # ["'copy' has 2 meanings: 'one booklet' (context_window/choir), …"]

Meanings are stated by the rules that ship, by the glossary in the guide for cards, by definition cards (their term and
its other spellings), and by the `knowledge_updates` of context windows. A rule tag, a word of the glossary and the term
of a card mean the same wherever they stand. Any other word is a project's own, and means one thing within its card.
"""

import re
from collections import defaultdict
from collections.abc import Iterable, Iterator
from dataclasses import dataclass

from tools.data.cards import read_card
from tools.data.examples import Example
from tools.data.lessons import is_lesson, read_lesson
from tools.errors import InputError
from tools.policy.rules import shipped_rules
from tools.policy.tags import check_rule
from tools.settings import shipped_data

_GLOSSARY = re.compile(r"^## Words with one meaning\n(.*?)^## ", re.MULTILINE | re.DOTALL)


@dataclass(frozen=True)
class Meaning:
    """What `place` (a card, say) says that `word` means; `shared` when it speaks for the whole project."""

    word: str
    meaning: str
    place: str
    shared: bool


def stated(rows: Iterable[Example]) -> list[Meaning]:
    """Every meaning that the rules, the glossary, the definition cards and the context windows of `rows` state.

    Raises:
        InputError: a card or the glossary is broken.
    """
    rules = [Meaning(tag, meaning, "policy/rules.yaml", shared=True) for tag, meaning in shipped_rules().items()]
    return [*rules, *_of_glossary(), *_of_cards(), *_of_windows(rows)]


def several_meanings(statements: Iterable[Meaning]) -> list[str]:
    """The words that have more than one meaning, each with its meanings and where they stand."""
    statements = list(statements)
    shared = {_plain(one.word) for one in statements if one.shared}
    found: dict[tuple[str, str], dict[str, Meaning]] = defaultdict(dict)
    for one in statements:
        word = _plain(one.word)
        scope = "" if word in shared or _is_rule(word) else one.place
        found[scope, word].setdefault(_plain(one.meaning), one)
    return [
        f"{next(iter(meanings.values())).word!r} has {len(meanings)} meanings: "
        + ", ".join(f"{one.meaning!r} ({one.place})" for one in meanings.values())
        for meanings in found.values()
        if len(meanings) > 1
    ]


def _of_glossary() -> Iterator[Meaning]:
    glossary = _GLOSSARY.search((shipped_data() / "cards" / "README.md").read_text(encoding="utf-8"))
    for entry in " ".join(glossary[1].split()).split(" · ") if glossary else [""]:
        word, colon, meaning = entry.partition(": ")
        if not colon:
            raise InputError(
                f"The glossary of cards/README.md holds {entry[:80]!r}.", "write it as 'word: meaning · word: meaning'"
            )
        yield Meaning(word, meaning, "cards/README.md", shared=True)


def _of_cards() -> Iterator[Meaning]:
    for path in sorted((shipped_data() / "cards" / "definition").glob("*.yaml")):
        place = f"definition/{path.stem}"
        if is_lesson(path):
            lesson = read_lesson(path)
            yield Meaning(lesson.term, lesson.meaning, place, shared=True)
        else:
            card = read_card(place)
            yield from (Meaning(word, card.meaning, place, shared=True) for word in (card.term, *card.aliases))


def _of_windows(rows: Iterable[Example]) -> Iterator[Meaning]:
    for row in rows:
        window = row.output.get("context_window") if isinstance(row.output, dict) else None
        updates = window.get("knowledge_updates") if isinstance(window, dict) else None
        for word, meaning in updates.items() if isinstance(updates, dict) else ():
            yield Meaning(word, str(meaning), row.provenance.card, shared=False)


def _plain(text: str) -> str:
    """`text` without what makes no difference of meaning: case, white space, code marks, a closing stop."""
    return " ".join(text.replace("`", "").casefold().split()).rstrip(".")


def _is_rule(word: str) -> bool:
    try:
        return check_rule(word) == word
    except InputError:
        return False
