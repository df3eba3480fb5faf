"""What in a text is nobody else's business: finding it, saying so in a memory's header, and leaving it out of what is handed out.

Found are what can be checked by its form: e-mail addresses, telephone numbers (libphonenumber's own matcher), payment cards (Luhn), bank
accounts (IBAN check digits), US social security numbers and IP addresses (python-stdnum and the standard library); API keys, private keys and
passwords (`credentials`). Names, addresses of houses and what somebody spells out are not: see the figures in the README. Any other detector
is a callable from a text to findings. What a store records of all this, and what it does for a program that gives none, is `redaction`'s.
"""

from __future__ import annotations

import ipaddress
import re
from collections.abc import Callable, Sequence
from dataclasses import dataclass, field, replace
from typing import Any

from . import credentials
from .errors import InvalidArgument, MissingPackage
from .validate import checked_actors

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

    detect: finds it in a text. raw: grants of those who are given memories as they are, besides their owner; None: whom the store names,
    which in a new one is nobody. Everybody else is given them with each finding replaced by its kind in brackets. Where words cannot be
    replaced (keys and values, adapters), they are given nothing that was made from memories with findings.

    A store records that it was opened with one: from then on it holds for every program, also for those that give none. The first says who
    is given it raw; a later one may name fewer, for its own process; more are named by `MemOS.allow_raw`.
    """

    detect: Detector
    raw: frozenset[str] | None = None


def checked_sensitivity(sensitivity: Any) -> Sensitivity | None:
    """The sensitivity that was given, or None."""
    if sensitivity is None:
        return None
    if not isinstance(sensitivity, Sensitivity):
        raise InvalidArgument(f"sensitivity: a Sensitivity is needed, not {type(sensitivity).__name__}")
    if not callable(sensitivity.detect):
        raise InvalidArgument("sensitivity: detect: a callable from a text to findings is needed")
    return sensitivity if sensitivity.raw is None else replace(sensitivity, raw=checked_actors(sensitivity.raw, "raw"))


def redacted(text: str, findings: Sequence[Finding]) -> str:
    """A text with each finding replaced by its kind in brackets; of those that overlap, the one that begins first, or else is longer."""
    parts, end = list[str](), 0
    for found in sorted(findings, key=lambda f: (f.start, -f.end)):
        if found.start >= end:
            parts += [text[end : found.start], f"[{found.kind}]"]
        end = max(end, found.end)
    return "".join([*parts, text[end:]])


@dataclass(frozen=True, slots=True)
class CheckedForms:
    """The detector of this module, which a store can make again by its region."""

    region: str
    _find: Detector = field(repr=False, compare=False)

    def __call__(self, text: str) -> Sequence[Finding]:
        """What is found in a text."""
        return self._find(text)


def checked_forms(region: str = "US") -> CheckedForms:
    """The detector of this module. region: of telephone numbers that are written without their country's. Raises MissingPackage."""
    try:
        import phonenumbers
        from stdnum import iban, luhn
        from stdnum.us import ssn

        opens = credentials.spans()
    except ImportError as error:
        raise MissingPackage(
            f"finding what is sensitive needs {error.name}: pip install 'memos-adapters[sensitivity]'"
        ) from error

    def detect(text: str) -> list[Finding]:
        found = [Finding(*span) for span in opens(text)]
        begun = {f.start for f in found}  # "password@host" in an address is none of mail
        found += [Finding("email", m.start(), m.end()) for m in _EMAIL.finditer(text) if m.start() not in begun]
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

    return CheckedForms(region, detect)


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
