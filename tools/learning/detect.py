"""Find what is worth remembering in a transcript or a diff that the agent passes.

    find_candidates("User: From now on, commit messages are in English.")
    # [Candidate(text='commit messages are in English', kind='rule', confidence=0.9, why='from now on')]

By rule, not by a model, so that each candidate has a reason that can be read: explicit words ("remember this", "from
now on", "always", "never"), a correction made three times (tools/learning/corrections.py), a term defined, and in diffs
the same words in documents (tools/learning/diffs.py). Only what the user says counts; questions, quotations, jokes,
code and what was only so in the past do not. benchmarks/insights.py measures precision and recall on labelled snippets.
"""

import re
from collections.abc import Iterable, Iterator

from pydantic import BaseModel, Field

from tools.learning import patterns
from tools.learning.corrections import repeated
from tools.learning.diffs import documents_of, is_diff, replaced_often
from tools.memory.kinds import EntryKind

_LONGEST = 600  # characters of a sentence; what is longer is pasted, not said
LEAST = 0.55  # a candidate below this confidence is not worth a question
_DOCUMENT = 0.05  # what stands in a project's own documents was thought over
_SMILE = 0.3
_TURN = re.compile(
    r"^\s*(?:[A-Z][a-z]{2}\s+)?(?P<who>user|human|me|assistant|ai|agent|model|system|tool)\s*:\s*", re.IGNORECASE
)
_SENTENCE = re.compile(r"(?<=[.!?])\s+(?=[\"'(A-Z0-9a-z])|\n+")
_USER = ("user", "human", "me")


class Candidate(BaseModel):
    """Something that may be worth remembering."""

    text: str
    kind: EntryKind
    confidence: float = Field(ge=0, le=1)
    why: str


def find_candidates(text: str) -> list[Candidate]:
    """What is worth remembering in a message, a transcript (`User:`, `Assistant:`) or a unified diff, surest first.

    Of a transcript only what the user says counts; text without such marks is taken for the user's.
    """
    if is_diff(text):
        found = [*_of_documents(documents_of(text)), *_as_candidates(replaced_often(text), 0.7)]
    else:
        turns = user_turns(text)
        corrected = _as_candidates(repeated(turns), 0.9)
        words = [candidate.text.casefold() for candidate in corrected]
        found = [*corrected, *(c for turn in turns for c in _of_turn(turn) if c.text.casefold() not in words)]
    best: dict[str, Candidate] = {}
    for candidate in found:
        key = " ".join(re.findall(r"\w+", candidate.text.casefold()))
        if candidate.confidence >= LEAST and (key not in best or best[key].confidence < candidate.confidence):
            best[key] = candidate
    return sorted(best.values(), key=lambda candidate: -candidate.confidence)


def user_turns(text: str) -> list[str]:
    """What the user says, turn by turn, without code blocks, quoted lines and comments."""
    text = re.sub(r"^(```|~~~).*?^\1\s*$", "", text, flags=re.DOTALL | re.MULTILINE)
    turns: list[tuple[str, list[str]]] = [("user", [])]
    for line in text.splitlines():
        if line.lstrip().startswith((">", "//", "/*", "# ", "--", "<!--")):
            continue
        if turn := _TURN.match(line):
            turns.append((turn["who"].casefold(), []))
            line = line[turn.end() :]
        turns[-1][1].append(line)
    return [said for who, lines in turns if who in _USER and (said := "\n".join(lines).strip())]


def _of_turn(turn: str) -> Iterator[Candidate]:
    if patterns.JOKE.search(turn):
        return
    before, found = "", None
    for sentence in _sentences(turn):
        if patterns.POINTS_BACK.match(sentence) and before:
            text, kind = (found.text, found.kind) if found else (_clean(before), _kind(before, "insight"))
            yield Candidate(text=text, kind=kind, confidence=0.9, why="remember")
            continue
        before, found = sentence, _of_sentence(sentence)
        if found:
            yield found


def _of_documents(lines: Iterable[tuple[str, str, str]]) -> Iterator[Candidate]:
    """Candidates in lines that a diff adds to documents: (path, term, text), the term where the line defines one."""
    for path, term, line in lines:
        if term:
            yield Candidate(text=f"{term}: {line}", kind="definition", confidence=0.85, why=f"a term defined in {path}")
            continue
        for sentence in _sentences(line):
            if candidate := _of_sentence(sentence):
                sure = min(1.0, candidate.confidence + _DOCUMENT)
                yield candidate.model_copy(update={"confidence": sure, "why": f"{candidate.why}, in {path}"})


def _of_sentence(sentence: str) -> Candidate | None:
    plain = patterns.QUOTED.sub(lambda quoted: "…" if patterns.TRIGGER.search(quoted[0]) else quoted[0], sentence)
    plain = re.sub(r",\s*(?:ok|okay|right|yes|please|alright)\?$", "", plain)
    asks = plain.endswith("?")
    if asks and not re.match(patterns.ASKED_FOR, plain, re.I):
        return None
    if patterns.REPORTED.search(plain) and not re.match(r".*\bwhen\s+(?:i|we)\s+say\b", plain, re.I):
        return None
    if patterns.HEDGED.search(plain) or patterns.TASK.match(plain) or patterns.GENERAL.match(plain):
        return None
    for rule in (*patterns.DEFINES, *patterns.SAYS):
        if not (found := rule.pattern.search(plain)):
            continue
        if (
            rule.why == "always, never"
            and not asks
            and patterns.HABIT.search(plain)
            and not re.search(r"\bprefer\b", plain, re.I)
        ):
            return None
        groups = found.groupdict()
        what = groups.get("what") or plain
        sure = rule.confidence - (_SMILE if patterns.SMILED.search(sentence) else 0.0)
        named = patterns.NAMES.match(what) if rule.why == "remember" else None
        if rule.kind == "definition" or named:
            term, meaning = (named or found)["term"], (named or found)["meaning"]
            return Candidate(text=defined(term, meaning), kind="definition", confidence=round(sure, 2), why=rule.why)
        return Candidate(text=_clean(what), kind=_kind(what, rule.kind), confidence=round(sure, 2), why=rule.why)
    return None


def defined(term: str, meaning: str) -> str:
    """A definition as one sentence: 'soft hold: a reservation …' is how terms.py reads it back."""
    term = re.sub(r"^(?:an?|the|our)\s+", "", term.strip(" '\"‘’“”"), flags=re.IGNORECASE)
    return f"{term}: {meaning.strip().rstrip('.!')}"


def _kind(text: str, kind: EntryKind) -> EntryKind:
    """What was only said to be remembered may be a rule or a definition all the same."""
    if kind != "insight":
        return kind
    if any(rule.pattern.search(text) for rule in patterns.DEFINES):
        return "definition"
    return "rule" if re.search(r"\b(?:always|never|must|only|needs?|every|each)\b", text, re.IGNORECASE) else "insight"


def _sentences(text: str) -> list[str]:
    lines = re.sub(r"^\s*(?:[-*+]|\d+[.)])\s+", "", text, flags=re.MULTILINE)
    return [
        sentence.strip()
        for sentence in _SENTENCE.split(lines)
        if len(sentence) <= _LONGEST and len(sentence.split()) > 1
    ]


def _clean(text: str) -> str:
    text = re.sub(f"^{patterns.LEAD}", "", " ".join(text.split()), flags=re.IGNORECASE).strip(" ,;:-")
    return (
        text[:1].upper() + text[1:] if text[:1].islower() and " " in text and not re.match(r"\w+[_.\d]", text) else text
    )


def _as_candidates(corrections: Iterable[tuple[str, str, int]], sure: float) -> list[Candidate]:
    return [
        Candidate(text=f"Use {right}, not {wrong}", kind="correction", confidence=sure, why=f"corrected {times} times")
        for right, wrong, times in corrections
    ]
