"""What opens something: API keys, private keys and passwords in a text.

Keys are known by their form, by the plugins of Yelp's detect-secrets (their patterns alone: nothing is asked of a network), and by a few
prefixes of issuers that it does not know. It reads source code, where a password stands in quotes behind a name; people say theirs. So what
follows a word such as "password" or "api key" is found by patterns of this module, in English, with the word itself in some other languages.
A word that stands in a dictionary is taken for a password only where the sentence ends with it: "my password is strict" is none.
"""

from __future__ import annotations

import re
from collections.abc import Callable, Iterable, Iterator
from typing import Any, cast

Spans = Callable[[str], Iterator[tuple[str, int, int]]]
"""From a text to what is found there: its kind and its stretch, [start, end)."""

API_KEY, PASSWORD, PRIVATE_KEY = "api_key", "password", "private_key"

_ISSUED = re.compile(
    r"(?<![\w-])(?:github_pat_\w{22,}|sk-(?:ant|proj|svcacct|or)-[\w-]{20,}|sk-[A-Za-z0-9]{32,}|sk-[\w-]*[A-Za-z0-9]{20}T3BlbkFJ[A-Za-z0-9]{20}|AIza[\w-]{35}|hf_[A-Za-z0-9]{30,}"
    r"|gsk_[A-Za-z0-9]{40,}|[srp]k_(?:live|test)_[A-Za-z0-9]{16,}|whsec_[A-Za-z0-9+/]{24,}|xapp-[\w-]{20,}|npm_[A-Za-z0-9]{36}"
    r"|ya29\.[\w-]{20,}|dckr_pat_[\w-]{20,})"
)
# addresses are found anyway; of a private key the library knows the first line alone; its pattern for OpenAI takes the square of a text's length
_OURS = ("Public IP (ipv4)", "Private Key", "OpenAI Token")
_PRIVATE = re.compile(
    r"-----BEGIN [A-Z0-9 ]*PRIVATE KEY(?: BLOCK)?-----.*?(?:-----END [A-Z0-9 ]*PRIVATE KEY(?: BLOCK)?-----|\Z)", re.S
)
_WORD = r"(?:pass[ -]?(?:word|code|phrase|wd)|passwd|pwd|pw|pswd|[kp]ass?wort|kennwort|contraseña|mot de passe|senha|wachtwoord|lösenord)s?"
_ASIDE = r"(?:\s+(?:(?:for|of|to|at|on|in)(?:\s+[\w'’.@-]+){1,5}?|(?:that\s+)?(?:i|we|you|they|he|she)\s+(?:use|have|got|chose|set|gave)))?"
_SAID = (
    r"(?:\s*(?:(?:is|was|are|will be|ist|es|est)(?:\s+(?:now|still|just|simply|currently))?\s*:?\s+|(?::=|=>|->|→|[:=])\s*|\s[-–]\s"
    r"|\s(?:changed\s+)?to\s+))"
)
_TAKEN = r"""(?:"(?P<quoted>[^"\n]+)"|'(?P<single>[^'\n]+)'|`(?P<code>[^`\n]+)`|“(?P<curly>[^”\n]+)”|(?P<plain>[^\s"'`“]\S*))"""
_PASSWORD = re.compile(rf"(?<![^\W_]){_WORD}[\"'\]]{{0,2}}(?:['’]s\s+|{_ASIDE}{_SAID}){_TAKEN}", re.I)
_PHRASE = re.compile(r"(?<!\w)pass[ -]?phrase(?:\s*[:=]\s*|\s+is:?\s+)(?P<plain>[^.\n\"'`]+)", re.I)
_BESIDE = re.compile(rf"(?<!\w){_WORD}\s+{_TAKEN}", re.I)  # "with password hunter2"
_SET_TO = re.compile(
    rf"(?<!\w)(?:chang|set|reset|updat|switch)\w*\s+(?:\w+\s+){{0,4}}?{_WORD}{_ASIDE}\s+to\s+{_TAKEN}", re.I
)
_IS_MINE = re.compile(
    rf"(?<!\S){_TAKEN}\s*(?:is|was|,? as)\s+(?:my|our|the|her|his|their|your|a)\s+(?:[\w-]+\s+){{0,2}}?{_WORD}(?!\w)",
    re.I,
)
_CODE = re.compile(
    rf"(?<!\w)(?:door|vault|alarm|gate|garage|safe|lock|entry|entrance|security|access)(?:['’]s)?\s+(?:code|combination){_ASIDE}{_SAID}{_TAKEN}",
    re.I,
)
_PASS = re.compile(rf"(?<!\w)pass(?:\s+is\s+|\s*[:=]\s*){_TAKEN}", re.I)
_PIN = re.compile(
    r"(?<!\w)pin(?:\s*(?:code|number))?(?:\s+(?:for|of|to)(?:\s+[\w'’-]+){1,4}?)?\s*(?:is|:|=|was)\s*(?P<plain>\d{4,8})(?!\d)",
    re.I,
)
_LOGIN = re.compile(
    r"(?<!\w)(?:creds|credentials|log[ -]?in(?: data)?)\s*(?:are|is|:|=)\s*(?!https?:)[^\s/:]+\s*[/:]\s*(?P<plain>\S+)",
    re.I,
)
_KEY = re.compile(
    r"(?<![A-Za-z])(?:(?:api|access|secret|auth|service|account|app|client|license|licence|bearer|refresh)[ _-]?(?:key|token|secret)s?|apikey|token|bearer"
    rf"|secret(?:[ _-]access)?(?:[ _-]key)?|(?:wi-?fi|wlan|wpa2?|network|encryption|signing|ssh)[ _-]key)[\"'\]]{{0,2}}(?:{_ASIDE}{_SAID}|\s+(?!for\s|of\s|to\s|at\s|on\s|in\s)){_TAKEN}",
    re.I,
)
_LEAST_KEY, _LONG_KEY = (
    8,
    20,
)  # characters of a key that is known only by the word before it, and of one of letters alone
_BOTH, _DIGITS = re.compile(r"[^\W\d].*\d|\d.*[^\W\d]"), re.compile(r"\d{2}")

# most texts have neither, and are passed over at the cost of two looks
_NAMED = re.compile(
    r"pass|pswd|pwd|pw\b|wort|kasswo|contrase|mot de|senha|wachtw|senord|pin\b|creds|credential|log[ -]?in|key|token|secret|bearer|code\b|combination",
    re.I,
)
_LONG = re.compile(r"\S{11}|:/")

_ENDS = re.compile(r"\s*(?:$|[.,;:!?)\n]|(?:and|but|so|for|on|please|by the way)\b)", re.I)
_HOW_IT_IS = """
    a absent again also always an and any available bad being blank broken case-sensitive changed changing complex compromised correct
    default different done due easy empty encrypted enough expired expiring false fine for forgotten given gone good guessable hard hashed here hers
    hidden his how important in incorrect insecure instead invalid it known leaked long lost managed mandatory masked mine missing my needed never
    new no none not nothing now off ok okay old on one optional ours out outdated over private protected public random readable
    redacted rejected required reset right rotated safe salted saved secret secure sensitive set shared short simple soon stale stolen
    stored strict strong that the their theirs there this too true unchanged unique unknown unsafe up us useless valid very visible weak what where
    working wrong your yours
"""
_DESCRIBES = re.compile(r"(?:ed|ing|able|ible|ly|ful|less|ous|ive)$", re.I)
_PLAIN_WORDS = frozenset(_HOW_IT_IS.split())
_SAYS_HOW = _PLAIN_WORDS - {
    "correct",
    "easy",
    "good",
    "long",
    "old",
    "new",
    "strong",
    "secret",
    "random",
    "broken",
    "lost",
    "short",
    "weak",
}


def spans() -> Spans:
    """What finds them. Raises ImportError without detect-secrets."""
    patterns = _patterns()

    def find(text: str) -> Iterator[tuple[str, int, int]]:
        if _NAMED.search(text):
            yield from _told(text)
        if not _LONG.search(text):
            return
        for match in _PRIVATE.finditer(text):
            yield PRIVATE_KEY, match.start(), match.end()
        for kind, pattern, is_valid in patterns:
            for match in pattern.finditer(text):
                if is_valid(match[0]):  # of an address with a password in it, that alone
                    yield kind, *_stripped(text, *match.span(1 if kind == PASSWORD else 0))
        for match in _ISSUED.finditer(text):
            yield API_KEY, match.start(), match.end()

    return find


def _patterns() -> list[tuple[str, re.Pattern[str], Callable[[str], bool]]]:
    """The patterns of the library's plugins for the keys of issuers: whole matches, since its own search gives parts of some of them."""
    from detect_secrets.core.plugins.util import get_mapping_from_secret_type_to_class
    from detect_secrets.plugins.base import RegexBasedDetector

    found: list[tuple[str, re.Pattern[str], Callable[[str], bool]]] = []
    plugins: dict[str, Any] = get_mapping_from_secret_type_to_class()
    for name, plugin in sorted(plugins.items()):
        if not issubclass(plugin, RegexBasedDetector) or name in _OURS:
            continue
        kind = PASSWORD if name == "Basic Auth Credentials" else API_KEY
        is_valid: Callable[[str], bool] = getattr(plugin, "is_formally_valid", _always)
        found += [(kind, pattern, is_valid) for pattern in cast("Iterable[re.Pattern[str]]", plugin.denylist)]
    return found


def _always(text: str) -> bool:
    return True


def _stripped(text: str, start: int, end: int) -> tuple[int, int]:
    """A stretch without the spaces around it, which some patterns take along."""
    part = text[start:end]
    return start + len(part) - len(part.lstrip()), end - len(part) + len(part.rstrip())


def _told(text: str) -> Iterator[tuple[str, int, int]]:
    """What somebody says that it is a password or a key."""
    for pattern in (_PASSWORD, _SET_TO, _IS_MINE):
        for match in pattern.finditer(text):
            if (span := _value(match)) is not None and _is_password(text, match, span):
                yield PASSWORD, *span
    for pattern, needed in ((_BESIDE, _BOTH), (_PASS, _BOTH), (_CODE, _DIGITS)):
        for match in pattern.finditer(text):
            if (span := _value(match)) is not None and needed.search(text[slice(*span)]):
                yield PASSWORD, *span
    for match in _PHRASE.finditer(text):
        words = match["plain"].split()
        if len(words) > 2 and words[0].casefold() not in _SAYS_HOW:
            yield PASSWORD, *_stripped(text, *match.span("plain"))
    for pattern in (_PIN, _LOGIN):
        for match in pattern.finditer(text):
            if (span := _value(match)) is not None:
                yield PASSWORD, *span
    for match in _KEY.finditer(text):
        span = _value(match)
        size = 0 if span is None else span[1] - span[0]
        if span is not None and size >= _LEAST_KEY and (size >= _LONG_KEY or _is_mixed(text[slice(*span)])):
            yield API_KEY, *span


def _value(match: re.Match[str]) -> tuple[int, int] | None:
    """Where a value stands: within its quotes, or without the sentence's marks behind it."""
    name = next(n for n, value in match.groupdict().items() if value is not None)
    start, end = match.span(name)
    if name == "plain":
        end = start + len(match[name].rstrip(".,;:?)”’\"'"))
        if end == start:
            return None
    return start, end


def _is_password(text: str, match: re.Match[str], span: tuple[int, int]) -> bool:
    value = text[slice(*span)]
    if value.casefold().rstrip("…") in _PLAIN_WORDS or value.startswith(("[", "<", "{", "***")):
        return False  # a word that says how it is, or a placeholder
    if _is_mixed(value) or match.groupdict()["plain"] is None:
        return True
    if match.re is _IS_MINE or len(value) < 4 or _DESCRIBES.search(value):
        return False
    return _ENDS.match(text, span[1]) is not None


def _is_mixed(value: str) -> bool:
    """Whether it has more than the letters of a word: digits, marks or capitals within."""
    inner = value.strip("-")
    return bool(re.search(r"\d|[^\w'’-]|[a-z][A-Z]|_", inner)) and not re.fullmatch(r"\d{1,3}|\w+/\w+", inner)
