"""What should stand in no text of a row: leftovers of templates, secrets, broken characters.

    text_problems("output", "Dear {{ name }},")     # [('output', 'placeholder', "placeholder left in: '{{ name }}'")]

Codes: placeholder, secret, control and encoding. Every text is searched for plain words first, and by a regular
expression only where one of them stands. The patterns take time in proportion to the text, whatever the text is.
"""

import re

Problem = tuple[str, str, str]  # field, code, message

# Leftovers of templates and of other models' habits: a word that announces one → what it looks like.
_PLACEHOLDERS = {
    "{{": re.compile(r"(?<!\$)\{\{\s*\w+\s*\}\}"),
    "todo:": re.compile(r"\bTODO:"),
    "fixme:": re.compile(r"\bFIXME:"),
    "as an ai ": re.compile(r"\bas an ai (?:language )?(?:model|assistant)\b", re.IGNORECASE),
    "[insert": re.compile(r"\[insert\b[^\]\n]*\]?", re.IGNORECASE),
    "[your ": re.compile(r"\[your [^\]\n]{1,40}\]", re.IGNORECASE),
    "lorem ipsum": re.compile(r"lorem ipsum", re.IGNORECASE),
    "<placeholder": re.compile(r"<placeholder\b[^>\n]{0,60}>", re.IGNORECASE),
}
_FIELD = re.compile(r"(?<!\$)\{\{\s*\w+(?:[.-]\w+)*\s*(?:\|\s*\w+\s*)*\}\}")  # {{ user.name | title }}
_TEMPLATE = re.compile(r"\{%|</\w")  # what a template that nobody fenced holds besides
_MAY_BE_GIVEN = ("todo:", "fixme:")  # in code that a request is about, leaving them is the question
_LEFT_TO_DO = re.compile(r"(?:^|#|//|--|/\*)[ \t]*(?:TODO|FIXME|XXX)\b", re.MULTILINE)  # in answers only
# In a sentence, a TODO is a leftover where a value or a passage is missing, and a subject where it has a noun of its
# own ("a TODO comment") or is one state among others.
_NOUNS = r"(?!s\b|-|[ ]+(?:comment|list|item|marker|note|tag|app|entr|line|tracker|file|task)\w*)"
_MISSING = re.compile(
    rf"(?:\b(?:is|are|was|were|equals|returns|costs|takes|because|see|at|after)[ ]+TODO\b{_NOUNS}"
    r"|[\[<]TODO\b[^\]>\n]{0,60}[\]>]"
    r"|\bTODO[ ,;-]{1,3}(?:add|fill|write|insert|replace|implement|finish|complete|explain|describe|update|check|fix"
    r"|remove|change|decide|link|cite|find|ask|confirm|verify|document|test|handle|look|later)\b"
    r"|\bTODO[ ]+(?:ms|seconds?|minutes?|hours?|days?|weeks?|[KMG]B|percent|times|rows|users|requests|cents?|euros?)\b"
    r"|[.!?][ ]+TODO\W*\Z)"
)
_STATES = re.compile(r"\b(?:DONE|DOING|IN[_ -]PROGRESS|BACKLOG|WIP|status|[Kk]anban)\b")

_ASSIGNED = r"""\s{0,4}[:=]\s{0,4}["'](?=[^"'\s]{0,60}\d)(?=[^"'\s]{0,60}[A-Za-z])[\w+/=.-]{16,60}["']"""
_SECRETS = {
    "-----begin ": re.compile(r"-----BEGIN [A-Z ]*PRIVATE KEY"),
    "akia": re.compile(r"\bAKIA[0-9A-Z]{16}\b"),
    "asia": re.compile(r"\bASIA[0-9A-Z]{16}\b"),
    "ghp_": re.compile(r"\bghp_[A-Za-z0-9]{36}\b"),
    "gho_": re.compile(r"\bgho_[A-Za-z0-9]{36}\b"),
    "ghs_": re.compile(r"\bghs_[A-Za-z0-9]{36}\b"),
    "github_pat_": re.compile(r"\bgithub_pat_\w{40,}"),
    "glpat-": re.compile(r"\bglpat-[\w-]{20,}"),
    "sk-": re.compile(r"\bsk-[A-Za-z0-9_-]{32,}"),
    "_live_": re.compile(r"\b[sr]k_live_[A-Za-z0-9]{20,}"),
    "xox": re.compile(r"\bxox[abeoprs]-[A-Za-z0-9-]{20,}"),
    "aiza": re.compile(r"\bAIza[\w-]{35}\b"),
    "hf_": re.compile(r"\bhf_[A-Za-z0-9]{30,}\b"),
    "npm_": re.compile(r"\bnpm_[A-Za-z0-9]{36}\b"),
    "pypi-": re.compile(r"\bpypi-[\w-]{50,}"),
    "api": re.compile(rf"\bapi[_-]?key{_ASSIGNED}", re.IGNORECASE),
    "secret": re.compile(rf"secret(?:[_-]?key)?{_ASSIGNED}", re.IGNORECASE),
    "token": re.compile(rf"token{_ASSIGNED}", re.IGNORECASE),
    "eyj": re.compile(r"\beyJ[\w-]{10,500}\.eyJ[\w-]{10,500}\.[\w-]{10}"),
    # AWS: 40 characters of base64, in which a digit, a small and a capital letter stand
    "access": re.compile(
        r"""(?i:secret[_-]?access[_-]?key)["']?\s{0,4}[:=]\s{0,4}["']?"""
        r"(?=[A-Za-z/+]{0,39}\d)(?=[A-Z0-9/+]{0,39}[a-z])(?=[a-z0-9/+]{0,39}[A-Z])[A-Za-z0-9/+]{40}(?![A-Za-z0-9/+=])"
    ),
}
# A value that may as well be a placeholder: it is looked at too.
_VALUES = {
    "pass": re.compile(
        r"""(?<!enc_)(?<!crypted_)(?<!hash_)(?<!hashed_)(?i:pass(?:word|wd|phrase))["']?\s{0,4}[:=]\s{0,4}["'](?P<value>[^\s"'`<>{}$%*…]{6,60})["']"""
    ),
    "://": re.compile(
        r"\b[a-z][a-z0-9+]{1,30}://[^\s:/@\"'`<>{}]{0,60}:(?P<value>[^\s:/@\"'`<>{}$%*…\[\]]{1,80})@[\w-]"
    ),
}
_NO_SECRET = re.compile(
    r"p[a@]ss|pwd|secret|geheim|example|change|replace|your|test|dummy|fake|placeholder|redacted|xxx|\.\.\.|123|qwerty"
    r"|admin|user|token|env|^postgres$|^root$|^[A-Z][A-Z_]+$"
)

_MOJIBAKE = re.compile(r"â€.|Ã[\x80-\xbf]|Â[\xa0-\xbf]")
_CONTROL = re.compile("[\x00-\x08\x0b\x0c\x0e-\x1f\x7f\u202a-\u202e\u2066-\u2069\ufeff\ufffd]")
_INLINE_CODE = re.compile(r"`[^`\n]*`")


def text_problems(field: str, text: str, asked: str = "") -> list[Problem]:
    """What stands in the text of `field` and should not; `asked` is the request, when the text answers one."""
    found: list[Problem] = []
    lowered = text.lower()
    if left := _placeholder(field, text, lowered, asked):
        found.append((field, "placeholder", f"placeholder left in: {left.strip()[:60]!r}"))
    if secret := _secret(text, lowered):
        found.append((field, "secret", f"secret left in: {secret[:8] + '…'!r}"))
    if not text.isascii() and (match := _MOJIBAKE.search(text)):
        found.append((field, "encoding", f"decoded with the wrong encoding: {match.group(0)!r}"))
    if match := _CONTROL.search(text):
        sign = match.group(0)
        name = "a NUL character" if sign == "\x00" else f"the character U+{ord(sign):04X}"
        found.append((field, "encoding" if sign == "\ufffd" else "control", f"holds {name}"))
    return found


def _placeholder(field: str, text: str, lowered: str, asked: str) -> str:
    for sign, pattern in _PLACEHOLDERS.items():
        if sign not in lowered or (field == "input" and sign in _MAY_BE_GIVEN):
            continue
        match = pattern.search(_prose(text) if sign == "{{" else text)
        if sign == "{{" and not match and not _TEMPLATE.search(text):
            match = _FIELD.search(_prose(text))
        if match:
            return match.group(0)
    if field != "output":
        return ""
    if match := _LEFT_TO_DO.search(text):
        return match.group(0)
    if "TODO" not in text or "todo" in asked.lower() or _STATES.search(text):
        return ""
    match = _MISSING.search(_prose(text))
    return match.group(0) if match else ""


def _secret(text: str, lowered: str) -> str:
    for sign, pattern in _SECRETS.items():
        if sign in lowered and (match := pattern.search(text)):
            return match.group(0)
    for sign, pattern in _VALUES.items():
        if sign in lowered:
            for match in pattern.finditer(text):
                if _is_secret(match["value"], in_address=sign == "://"):
                    return match.group(0)
    return ""


def _is_secret(value: str, in_address: bool) -> bool:
    """Whether `value` is a password, and not a word that stands for one; in an address any other word is one."""
    if _NO_SECRET.search(value) or _NO_SECRET.search(value.lower()):
        return False
    return in_address or bool(re.search(r"[A-Za-z]", value) and re.search(r"[\d!@#&^~+=?]", value))


def _prose(text: str) -> str:
    """`text` without its code, in which braces are a template's own."""
    kept, fenced = [], False
    for line in text.split("\n"):
        if line.lstrip().startswith(("```", "~~~")):
            fenced = not fenced
        elif not fenced:
            kept.append(line)
    return _INLINE_CODE.sub("", "\n".join(kept))
