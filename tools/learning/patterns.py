"""The patterns by which tools/learning/detect.py tells a sentence that is worth remembering from one that is not.

    DEFINES     sentences that give a term a meaning; groups `term` and `meaning`
    SAYS        sentences that ask to be remembered, or state a rule; the insight is the group `what`, or else the whole

The first of DEFINES and then SAYS that fits decides. What fits one of the others (`REPORTED`, `HEDGED`, …) is none.
"""

import re
from typing import NamedTuple

from tools.memory.kinds import EntryKind

EVERY = r"(?:always|never(?:\s+ever)?|do\s+not\s+ever|don't\s+(?:you\s+)?ever)"
LEAD = (
    r"(?:\w+[.!]\s+)?(?:(?:please|and|so|but|also|important|ok|okay|no|nope|well|first|second|note|btw|fyi|by\s+the\s+way|"
    r"just\s+so\s+you\s+know|once\s+and\s+for\s+all|one\s+(?:more\s+)?thing|general\s+rule|reminder|heads-up|heads\s+up)[,:]?\s+)*"
)
_OURS = (
    r"(?:in|for|of)\s+(?:this|our)\s+(?:\w+\s+)?"
    r"(?:project|repo|repository|team|api|codebase|code|monorepo|house|shop|company|service|app)|\bhere\b|"
    r"\bamong us\b"
)
_TERM = r"['\"‘“]?(?P<term>[\w.-]+(?:\s[\w.-]+){0,3}?)['\"’”]?"
_BE = r"(?:is|are|means|stands\s+for|denotes)"
# Not what a rule says of the present: "we never deployed", "it has always been".
_PAST = r"(?!\w+ed\b|had\b|were\b|really\b|got\b|knew\b|did\b|saw\b|been\b|thought\b)"
_NO_VERB = (
    r"(?!mind\b|and\b|or\b|again\b|been\b|had\b|have\b|thought\b|knew\b|saw\b|an?\s|the\s|nice\b|good\b|great\b|"
    r"happy\b|glad\b|fun\b)"
)
_PLURAL = (
    r"\b(?!this\b|its\b|is\b|was\b|has\b|does\b|always\b)\w+(?:[^s\s]s|ies|data|people|children)"
    r"(?:\s+(?:in|of|for|to|from|with|on)\s+[\w\s-]+?)?"
)


class Rule(NamedTuple):
    """A pattern over one sentence, and what a sentence that fits it is."""

    why: str
    kind: EntryKind
    confidence: float
    pattern: re.Pattern[str]


def _rules(why: str, kind: EntryKind, *patterns: tuple[float, str]) -> list[Rule]:
    return [Rule(why, kind, sure, re.compile(text, re.IGNORECASE | re.DOTALL)) for sure, text in patterns]


DEFINES = _rules(
    "a term defined",
    "definition",
    (0.9, rf"^by\s+(?!the way\b){_TERM},?\s+(?:we|i)\s+mean\s+(?P<meaning>.+)"),
    (0.9, rf"when\s+(?:i|we)\s+say\s+{_TERM},?\s+(?:i|we)\s+mean\s+(?P<meaning>.+)"),
    (0.9, rf"the\s+(?:term|word)\s+{_TERM}\s+{_BE}\s+(?P<meaning>.+)"),
    (0.85, r"^['\"‘“](?P<term>[^'\"’”]{1,40})['\"’”]\s+(?:means|stands for|denotes)\s+(?P<meaning>.+)"),
    (
        0.85,
        (
            r"^(?:here\s+)?we\s+call\s+(?P<meaning>(?:the|an?)\s+[^,;]{3,80}?)\s+"
            r"(?P<term>(?:the|an?)\s+[\w-]+(?:\s[\w-]+)?|['\"‘“][^'\"’”]+['\"’”])[.!]*$"
        ),
    ),
    (
        0.85,
        (
            rf"^(?:{_OURS}|for us|to us),?\s+(?:an?\s+|the\s+)?"
            rf"(?!lot\b|way\b|problem\b|it\b|this\b|that\b|there\b){_TERM}\s+(?:is|are|means)\s+"
            r"(?P<meaning>(?:an?|the|any\w*|every\w*|one|what|when)\s.+)"
        ),
    ),
    (0.9, rf"^definition:\s*(?:an?\s+|the\s+)?{_TERM}\s+{_BE}\s+(?P<meaning>.+)"),
    (
        0.9,
        rf"^(?:an?\s+|the\s+)?{_TERM},?\s+in\s+our\s+(?:words|terms|language|jargon),?\s+{_BE}\s+(?P<meaning>.+)",
    ),
    (0.9, rf"^what\s+(?:i|we)\s+mean\s+(?:by|with)\s+{_TERM}\s+is\s+(?P<meaning>.+)"),
    (0.9, rf"^{_TERM},?\s+is\s+(?:what|how)\s+we\s+call\s+(?P<meaning>.+)"),
    (0.9, rf"^(?:the\s+thing|what)\s+we\s+call\s+(?:an?\s+|the\s+)?{_TERM}\s+is\s+(?P<meaning>.+)"),
    (0.9, rf"^we\s+speak\s+of\s+(?:an?\s+|the\s+)?{_TERM}\s+(?P<meaning>(?:when|if|where)\s.+)"),
    (0.9, rf"^(?:glossary|new term)\b[^:]*:\s*{_TERM}\s*(?:=|:|means|is)\s*(?P<meaning>.+)"),
)
# Only of a sentence that was asked to be remembered: 'A soft hold is a reservation that …'.
NAMES = re.compile(
    rf"^(?:an?\s+|the\s+)?{_TERM}\s+(?:is|means|stands\s+for)\s+(?P<meaning>(?:an?|the)\s.+)", re.I | re.S
)

SAYS = [
    *_rules(
        "remember",
        "insight",
        (
            0.95,
            (
                rf"(?:^|[.,;:!]\s+|\b(?:and|but|please)\s+){LEAD}"
                r"(?:remember(?:\s+(?:this|that))?|don't\s+forget|do\s+not\s+forget)"
                r"\s*(?::|,?\s+that\b|(?<=that)\s)\s*(?P<what>.+)"
            ),
        ),
        (0.9, rf"^{LEAD}remember\s+(?P<what>(?:the|our)\s+[\w\s]+:\s*.+)"),
        (0.9, r"keep\s+in\s+mind\s*(?::|that\b)\s*(?P<what>.+)"),
        (
            0.9,
            (
                rf"^{LEAD}(?:note\s+for\s+later|make\s+a\s+note|take\s+a\s+note|for\s+the\s+record|for\s+next\s+time|"
                r"save\s+(?:this|that)(?:\s+for\s+\w+(?:\s\w+)?)?)\s*[:,-]\s*(?P<what>.+)"
            ),
        ),
        (
            0.9,
            (
                r"^(?P<what>.+?),\s+(?:please\s+)?(?:write|note|remember|keep)\s+(?:that|this)"
                r"(?:\s+(?:down|in\s+mind))?[.!]*$"
            ),
        ),
    ),
    *_rules(
        "remember to",
        "rule",
        (0.85, rf"^{LEAD}(?:can|could|will)?\s*(?:you\s+)?(?:please\s+)?remember\s+to\s+(?P<what>{EVERY}\s+.+)"),
    ),
    *_rules(
        "from now on",
        "rule",
        (
            0.9,
            (
                r"(?:^|[,;:.]\s+|\b(?:but|and|so|please)\s+)(?:from\s+(?:now|here|today)\s+on(?:wards?)?|going\s+forward|"
                r"in\s+(?:the\s+)?future|starting\s+(?:today|now)|as\s+of\s+(?:now|today)|henceforth|for\s+the\s+future)\b"
                r",?:?\s+(?:please\s+)?(?P<what>.{6,})"
            ),
        ),
        (0.85, r"^for\s+(?:all|every)\s+future\s+(?P<what>\w+.+)"),
        (0.85, r"^once\s+and\s+for\s+all[,:]\s*(?P<what>.+)"),
        (
            0.8,
            r"^(?P<what>(?:no\s+more|please|i\s+want|i'd\s+like|we|you)\s+.+?),?\s+from\s+now\s+on(?:,?\s+(?:please|thanks))?[.!]*$",
        ),
    ),
    *_rules(
        "said before",
        "correction",
        (
            0.85,
            (
                rf"^(?:{LEAD})?(?:you\s+keep\s+forgetting|(?:as\s+)?i\s+(?:have\s+)?told\s+you|as\s+i\s+said)"
                r"[^:]{0,30}:\s*(?P<what>.+)"
            ),
        ),
    ),
    *_rules(
        "a decision",
        "rule",
        (0.8, rf"^(?:{LEAD})?we\s+(?:have\s+)?(?:agreed|decided|settled)\s+(?:on|that|to)\s+.+"),
    ),
    *_rules("a decision", "rule", (0.85, r"^(?:it's|it\s+is|that's)\s+(?:decided|settled)\s*[:,]\s*(?P<what>.+)")),
    *_rules(
        "a rule",
        "rule",
        (
            0.85,
            (
                r"^(?:the\s+)?(?:rule|convention|policy|standard)(?:\s+number\s+\w+)?\s+"
                r"(?:for\s+this\s+\w+|here|in\s+this\s+\w+|of\s+ours)\s*(?::|is(?:\s+that)?)\s*(?P<what>.+)"
            ),
        ),
        (
            0.85,
            (
                r"^our\s+(?:\w+\s+)?(?:rule|convention|policy|standard|agreement)\s+(?:is|says)\s*(?::|that)?\s*"
                r"(?P<what>.+)"
            ),
        ),
        (
            0.8,
            r"^(?:we|here\s+we)\s+have\s+(?:a|the)\s+(?:rule|convention|policy)\s+that\s+(?P<what>.+?)(?:,\s+so\b.*)?$",
        ),
    ),
    *_rules(
        "a rule",
        "rule",
        (
            0.85,
            r"^(?P<what>.+?)(?:,|;|\s+-)\s+that(?:'s|\s+is)\s+(?:the|our|a)\s+(?:rule|convention|policy|standard|agreement)\b",
        ),
        (0.85, rf"^(?:{LEAD})?(?:whatever\s+you\s+do|under\s+no\s+circumstances?|at\s+no\s+point),?\s+(?P<what>.+)"),
        (
            0.85,
            rf"^(?:{LEAD})?(?:in|for)\s+(?:this|our)\s+\w+,?\s+we\s+(?:do\s+not\s+|don't\s+|only\s+)?{_PAST}\w+\s+.+",
        ),
        (0.85, rf"^(?:{LEAD})?we\s+(?:do\s+not|don't)\s+(?!have\b|know\b|need\b|see\b|think\b|want\b)\w+.*(?:{_OURS})"),
        (
            0.85,
            (
                rf"^(?:{LEAD})?i\s+(?:never\s+want|(?:don't|do\s+not)\s+(?:ever\s+)?want|would\s+rather\s+not|'d\s+rather\s+not)\s+"
                r"to\s+see\b.+"
            ),
        ),
        (0.85, r"^(?:my|our)\s+(?:standing|usual|only|one|old)\s+(?:request|rule|wish)\s*[:,]\s*(?P<what>.+)"),
        (0.8, r"^it\s+goes\s+without\s+saying\s+that\s+(?P<what>.+)"),
        (0.75, rf"^(?:{LEAD})?(?:nobody|no\s+one)\s+(?!knows|told|said|wants|likes|cares)\w+s\b.+"),
        (0.75, rf"^(?:{LEAD})?(?:treat|handle|store|log|write|name|check|wrap)\s+(?:all|every|each)\b.+"),
        (0.75, rf"^(?:{LEAD})?[\w\s-]*{_PLURAL}\s+must\s+(?:not\s+)?\w+.*"),
        (0.75, r"^(?:the|an?)\s+[\w\s-]+\s+only\s+ever\s+\w+s\s+.+"),
        (0.85, rf"^(?:{LEAD})?i(?:'d|\s+would)\s+rather\s+not\s+see\b.+"),
        (
            0.7,
            (
                rf"^(?:{LEAD})?(?:keep|put|write|add|use|run|name|give|check|wrap|log|return|treat|test)\b.*"
                r"\b(?:in|for|with|on|at|before|after)\s+(?:every|each|all|any)\s+\w+.*"
            ),
        ),
        (
            0.75,
            rf"^(?:{LEAD})?(?:every|each|all|no)\s+(?!time\b)[\w-]+(?:\s[\w-]+){{0,4}}?\s+(?:needs?|must|has\s+to|have\s+to|gets?|requires?|may|should|goes|go)\s+.+",
        ),
    ),
    *_rules(
        "every time", "rule", (0.8, r"^(?:every\s+time|each\s+time|whenever)\s+(?:you|we|someone|somebody)\s+.+,.+")
    ),
    *_rules(
        "always, never",
        "rule",
        (
            0.85,
            rf"^(?:can|could|will|would)\s+you\s+(?:please\s+)?(?:make\s+sure|ensure)\s+(?:that\s+)?(?P<what>.*\b{EVERY}\b.+)",
        ),
        (0.85, rf"^{LEAD}(?:make\s+sure|ensure|see\s+to\s+it)\s+(?:that\s+)?(?P<what>.*\b{EVERY}\b.+)"),
        (0.9, rf"^{LEAD}(?:i\s+want\s+you\s+to\s+|you\s+are\s+to\s+)?{EVERY}\s+{_NO_VERB}\w+\s+.+"),
        (0.85, r"^(?:please\s+)?(?:stop|quit)\s+\w+ing\b.+"),
        (0.85, r"^(?:please\s+)?(?:i\s+|we\s+)?prefer\s+.+,\s+always\b.*"),
        (0.85, rf"(?:^|[,;.:]\s+|\b(?:and|so|that)\s+)we\s+{EVERY}\s+{_PAST}\w+"),
        (0.85, rf"\b(?:must|should|shall|has\s+to|have\s+to)\s+{EVERY}\b"),
        (0.85, rf"(?:{_OURS}).*\b{EVERY}\s+{_PAST}\w+"),
        (0.75, rf"^(?:{LEAD})?(?:\w+[,]?\s+)?[\w\s-]*{_PLURAL}\s+(?:are\s+)?(?:always|never)\s+{_PAST}\w+"),
    ),
]
# A sentence that points back: what stands before it is meant.
POINTS_BACK = re.compile(
    r"^(?:so\s+|and\s+|please\s+)*(?:(?:remember|note|keep|write|save)\s+(?:that|this|it|the\s+decision)"
    r"(?:\s+(?:down|in\s+mind|term|rule|one|decision|please))?|don't\s+forget\s+(?:that|this|it)|always|"
    r"no\s+exceptions?|without\s+exception)(?:\s+(?:for|please)\b[^:]*)?[.!]*$",
    re.IGNORECASE,
)
REPORTED = re.compile(
    r"\b(?:says|said|say|wrote|writes|told|tells|thinks?|believes?|claims?|according\s+to|reads:|message\s+is|"
    r"heard|they\s+say|you\s+know\s+what)\b(?!\s+[\w\s]+,?\s+(?:i|we)\s+mean)",
    re.IGNORECASE,
)
HEDGED = re.compile(
    r"^(?:if|suppose|imagine|what\s+if|maybe|perhaps|assuming|say)\b|\b(?:probably|not\s+sure|maybe|perhaps|i\s+wonder|"
    r"i\s+guess|most\s+likely|as\s+you\s+(?:can\s+)?see|(?:before|until)\s+i|let's\s+decide|just\s+(?:this\s+)?once|rule\s+of\s+thumb|for\s+this\s+(?:task|time)\s+only|would\s+be)\b",
    re.IGNORECASE,
)
HABIT = re.compile(
    r"^(?:\w+,\s+)?(?:i|it|it's|this|that|he|she|my\s+\w+|you)\s+(?:am\s+|is\s+|was\s+)?(?:just\s+)?(?:always|never)\b|"
    r"\b(?:always|never)\s+(?:have|has|had|was|were|did|used\s+to)\b(?!\s+to\b)",
    re.IGNORECASE,
)
# What the world says of these holds everywhere: it is no project's own.
GENERAL = re.compile(
    r"^(?:an?\s+|the\s+)?(?:python|java|javascript|typescript|rust|go|golang|c\+\+|http|https|linux|windows|macos|git|"
    r"css|html|sql|postgres|sqlite|json|yaml|unicode|ieee)\b(?!.*\b(?:our|we|here)\b)",
    re.IGNORECASE,
)
TASK = re.compile(
    r"^(?:please\s+|can\s+you\s+)?(?:translate|write\s+an?|rename|grep|fix\s+the\s+typo|explain|"
    r"add\s+the\s+(?:sentence|line|text))\b",
    re.IGNORECASE,
)
JOKE = re.compile(r"\b(?:lol|rofl|haha\w*|hehe\w*|just\s+kidding|jk|joking)\b|😂|🤣|;-?\)|:-?D\b", re.IGNORECASE)
SMILED = re.compile(r":-?\)|😀|😄|🙂")
TRIGGER = re.compile(r"\b(?:always|never|remember|from\s+now\s+on|must|should)\b", re.IGNORECASE)
QUOTED = re.compile(r"\"[^\"\n]*\"|“[^”\n]*”|(?<!\w)'[^'\n]*'(?!\w)|‘[^’\n]*’|`[^`\n]*`")
# A question that is a request all the same.
ASKED_FOR = (
    r"(?:can|could|will|would)\s+you\s+(?:please\s+)?(?:remember\s+to|make\s+sure|ensure)\b.*\b(?:always|never)\b"
)
