"""What in a text is nobody else's business: finding it, saying so in a memory's header, and leaving it out of what is handed out.

Found are what can be checked by its form: e-mail addresses, telephone numbers (libphonenumber's own matcher), payment cards (Luhn), bank
accounts (IBAN check digits), US social security numbers and IP addresses (python-stdnum and the standard library). Names, addresses of
houses and what somebody spells out are not: see the figures in the README. Any other detector is a callable from a text to findings.
"""

from __future__ import annotations

import ipaddress
import re
from collections.abc import Callable, Iterator, Mapping, Sequence
from dataclasses import dataclass, replace
from typing import Any

from . import grants
from .errors import InvalidArgument, MissingPackage
from .types import Event, MemCube, Text

_EMAIL = re.compile(r"(?<![\w.+-])[\w.+'-]+@(?:[\w-]+\.)+[^\W\d_]{2,}", re.UNICODE)
_CARD = re.compile(r"(?<![\w-])\d(?:[ -]?\d){12,18}(?![\w-])")
_IBAN = re.compile(r"\b[A-Z]{2}\d{2}(?: ?[A-Z0-9]){11,30}\b")
_SSN = re.compile(r"(?<![\w-])\d{3}-\d{2}-\d{4}(?![\w-])")
_IP = re.compile(
    r"(?<![\w.:])(?:\d{1,3}(?:\.\d{1,3}){3}(?!\.?\w)|[0-9a-fA-F]{0,4}(?::[0-9a-fA-F]{0,4}){2,7}(?![\w.:]*\w))"
)


@dataclass(frozen=True, slots=True)
class Finding:
    """A stretch of a text, [start, end), and what is found there, such as "email"."""

    kind: str
    start: int
    end: int


Detector = Callable[[str], Sequence[Finding]]


@dataclass(frozen=True, slots=True)
class Sensitivity:
    """What is looked for, and who is given it.

    detect: finds it in a text. raw: grants of those who are given memories as they are, besides their owner; everybody else is given
    them with each finding replaced by its kind in brackets. Where words cannot be replaced (keys and values, adapters), they are given
    nothing that was made from memories with findings.
    """

    detect: Detector
    raw: frozenset[str] = frozenset()

    def tagged(self, cube: MemCube) -> MemCube:
        """A memory whose header says what kinds were found in it, besides what it says already of what is of no such kind."""
        found = {f.kind for text in _texts(cube) for f in self.detect(text)}
        tags = tuple(sorted({*cube.sensitivity, *found}))
        return cube if tags == cube.sensitivity else replace(cube, sensitivity=tags)

    def is_raw(self, who: str, cube: MemCube) -> bool:
        """Whether an actor is given a memory as it is."""
        return who == cube.access.owner or grants.holds(self.raw, who)

    def shown(self, who: str, cube: MemCube) -> MemCube:
        """A memory as an actor is given it."""
        return cube if self.is_raw(who, cube) else self.redacted(cube)

    def told(self, who: str, event: Event) -> Event:
        """An event as an actor is told of it: its details are whose act it was."""
        if not event.detail or who == event.actor or grants.holds(self.raw, who):
            return event
        return replace(event, detail=redacted(event.detail, self.detect(event.detail)))

    def redacted(self, cube: MemCube) -> MemCube:
        """A memory without what was found in it."""
        payload = Text(redacted(cube.text, self.detect(cube.text))) if isinstance(cube.payload, Text) else cube.payload
        return replace(cube, payload=payload, attributes={n: self._value(v) for n, v in cube.attributes.items()})

    def _value(self, value: Any) -> Any:
        if isinstance(value, str):
            return redacted(value, self.detect(value))
        if isinstance(value, Mapping):
            return {name: self._value(one) for name, one in value.items()}
        return [self._value(one) for one in value] if isinstance(value, list) else value


def checked_sensitivity(sensitivity: Any) -> Sensitivity | None:
    """The sensitivity that was given, or None."""
    if sensitivity is not None and not isinstance(sensitivity, Sensitivity):
        raise InvalidArgument(f"sensitivity: a Sensitivity is needed, not {type(sensitivity).__name__}")
    return sensitivity


def redacted(text: str, findings: Sequence[Finding]) -> str:
    """A text with each finding replaced by its kind in brackets; of those that overlap, the one that begins first, or else is longer."""
    parts, end = list[str](), 0
    for found in sorted(findings, key=lambda f: (f.start, -f.end)):
        if found.start >= end:
            parts += [text[end : found.start], f"[{found.kind}]"]
        end = max(end, found.end)
    return "".join([*parts, text[end:]])


def checked_forms(region: str = "US") -> Detector:
    """The detector of this module. region: of telephone numbers that are written without their country's. Raises MissingPackage."""
    try:
        import phonenumbers
        from stdnum import iban, luhn
        from stdnum.us import ssn
    except ImportError as error:
        raise MissingPackage(
            f"finding what is sensitive needs {error.name}: pip install 'memos-adapters[sensitivity]'"
        ) from error

    def detect(text: str) -> list[Finding]:
        found = [Finding("email", m.start(), m.end()) for m in _EMAIL.finditer(text)]
        found += [
            Finding("card", m.start(), m.end()) for m in _CARD.finditer(text) if luhn.is_valid(re.sub("[ -]", "", m[0]))
        ]
        found += [Finding("iban", *span) for m in _IBAN.finditer(text) if (span := _longest(m, iban.is_valid))]
        found += [Finding("ssn", m.start(), m.end()) for m in _SSN.finditer(text) if ssn.is_valid(m[0])]
        found += [Finding("ip", m.start(), m.end()) for m in _IP.finditer(text) if _is_address(m[0])]
        taken = list(found)
        for match in phonenumbers.PhoneNumberMatcher(text, region):
            if not any(match.start < f.end and f.start < match.end for f in taken):
                found.append(Finding("phone", match.start, match.end))
        return found

    return detect


def _longest(match: re.Match[str], is_valid: Callable[[str], bool]) -> tuple[int, int] | None:
    """The longest beginning of a match that is valid: words in capitals may follow it."""
    for end in range(match.end(), match.start() + 14, -1):
        if is_valid(match.string[match.start() : end]) and match.string[end - 1] != " ":
            return match.start(), end
    return None


def _is_address(text: str) -> bool:
    try:
        ipaddress.ip_address(text)
    except ValueError:
        return False
    return True


def _texts(cube: MemCube) -> Iterator[str]:
    """All strings of a memory that say something."""
    yield cube.text
    pending: list[Any] = [cube.attributes]
    while pending:
        value = pending.pop()
        if isinstance(value, str):
            yield value
        elif isinstance(value, Mapping):
            pending += value.values()
        elif isinstance(value, list):
            pending += value
