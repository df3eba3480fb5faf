"""The chain over the events: each says with its link what came before it. Pure: knows what is told, not where it is kept.

The link of an event is the SHA-256 of the link before it and of everything that is stored of the event: change, remove, insert or
reorder one and its link, or that of the next, no longer fits. The `Head` says how far the chain reaches, so that a lost end shows.

Anybody can compute a SHA-256, so links alone do not say who added an event. With a key (`AuditKey`) each link is also signed: DIGEST.KEY.SEAL,
where KEY tells which key it was and SEAL is the HMAC-SHA256 of the digest (RFC 2104; Python's own `hmac`, which is OpenSSL's: kept well by
many, and nothing to install). Who has the key verifies both; who has not still verifies the digests.
"""

from __future__ import annotations

import hmac
import json
import zlib
from collections.abc import Iterable, Sequence
from dataclasses import dataclass, field
from datetime import UTC
from hashlib import sha256
from typing import Any, Literal

from .errors import InvalidArgument
from .types import Event

GENESIS = "0" * 64
"""The link before the first event."""
LEAST_KEY = 32
"""Bytes of a key: as many as the hash has, as RFC 2104 advises."""
LOST = "the head of the chain was missing: events before this one may be, too"
FORGED = "the log before this event did not end in one that was signed with its key: verify it"
STARTED = "from here on the log is signed, with key {}"
ROTATED = "from here on the log is signed with key {}; before it with {}"


@dataclass(frozen=True, slots=True)
class AuditKey:
    """A secret that events are signed with. `id` tells keys apart and reveals nothing of the secret."""

    secret: bytes = field(repr=False)
    id: str = field(init=False)

    def __post_init__(self) -> None:
        # 64 bits of the HMAC of a fixed text
        object.__setattr__(self, "id", hmac.digest(self.secret, b"memos audit key", "sha256").hex()[:16])

    def sealed(self, digest: str) -> str:
        """The link of an event with this digest, signed."""
        return f"{digest}.{self.id}.{hmac.digest(self.secret, f'memos audit event {digest}'.encode(), 'sha256').hex()}"


def checked_keys(given: Any) -> tuple[AuditKey, ...]:
    """The keys of a log, the newest first: bytes, or several of them. Raises InvalidArgument, and quotes none."""
    if given is None:
        return ()
    if isinstance(given, str) or not isinstance(given, bytes | Sequence):
        raise InvalidArgument(
            f"audit_key: bytes are needed, or a list of them with the newest key first, not {type(given).__name__}"
        )
    secrets = [given] if isinstance(given, bytes) else list(given)
    for secret in secrets:
        if not isinstance(secret, bytes) or len(secret) < LEAST_KEY:
            raise InvalidArgument(
                f"audit_key: each key is at least {LEAST_KEY} bytes, such as secrets.token_bytes({LEAST_KEY})"
            )
    if not secrets or len(set(secrets)) < len(secrets):
        raise InvalidArgument("audit_key: at least one key is needed, and none twice")
    return tuple(AuditKey(secret) for secret in secrets)


@dataclass(frozen=True, slots=True)
class Head:
    """The end of the chain: the number of the last event, its link, and how many rows there are (fewer, if some were taken away)."""

    number: int = 0
    link: str = GENESIS
    rows: int = 0

    def __str__(self) -> str:
        return f"{self.number}:{self.link}"


@dataclass(frozen=True, slots=True)
class Told:
    """An event as it is stored: who besides its actor may see it, which write a deletion takes back, its number from 1, and its link."""

    event: Event
    readers: tuple[str, ...]
    seq: int | None
    number: int
    link: str
    checksum: int


@dataclass(frozen=True, slots=True)
class Audit:
    """What a verification found.

    events: how many there are. head: where the chain ends, to be kept elsewhere and given to the next verification.
    faults: each thing that is not as it was written, with its place.
    unchecked: what could not be checked, each in words.
    signed: events that carry a signature. authentic: those of them whose signature was checked with a key, and is right.
    """

    events: int
    head: str
    faults: tuple[str, ...]
    unchecked: tuple[str, ...] = ()
    signed: int = 0
    authentic: int = 0

    @property
    def sound(self) -> bool:
        """Whether nothing is wrong with what was checked; `outcome` says what that was."""
        return not self.faults

    @property
    def outcome(self) -> Literal["broken", "linked", "authentic"]:
        """One of three.

        "broken": there are faults. "linked": every link fits, which whoever can write to the store's files can bring about.
        "authentic": besides, every event since the oldest of the keys that were given was written by somebody who has one of them.
        """
        if self.faults:
            return "broken"
        return "authentic" if self.authentic else "linked"


def checksum(event: Event) -> int:
    """CRC-32 of what an event says."""
    return zlib.crc32(repr(tuple(str(getattr(event, name)) for name in Event.__slots__)).encode())


def parts(link: str) -> tuple[str, str, str]:
    """The digest, the id of the key and the seal of a link; without a signature the last two are empty."""
    digest, signer, seal, *_ = (*link.split("."), "", "")
    return digest, signer, seal


def linked(previous: str, told: Told, signer: str = "") -> str:
    """The digest of an event that comes after another one with this link; signer: the id of the key that it is signed with."""
    event = told.event
    said = [
        told.number, event.id, event.at.astimezone(UTC).isoformat(), event.actor, event.verb, event.subject, event.version, event.outcome,
        event.detail, told.readers, told.seq, *([signer] if signer else ()),
    ]  # fmt: skip
    return sha256(f"{previous}{json.dumps(said)}".encode()).hexdigest()


def chained(
    events: Sequence[Event],
    readers: Sequence[Iterable[str]],
    seqs: Sequence[int | None],
    head: Head,
    key: AuditKey | None = None,
) -> tuple[list[Told], Head]:
    """Events as they are to be stored behind a head, signed if there is a key, and the head after them."""
    link, found = head.link, []
    for number, (event, seen_by, seq) in enumerate(zip(events, readers, seqs, strict=True), head.number + 1):
        told = Told(event, tuple(sorted(seen_by)), seq, number, "", checksum(event))
        link = linked(link, told) if key is None else key.sealed(linked(link, told, key.id))
        found.append(Told(event, told.readers, seq, number, link, told.checksum))
    return found, Head(head.number + len(found), link, head.rows + len(found))


def caught_up(head: Head, after: Sequence[Told]) -> Head:
    """The head after events that were stored behind it by a process that was killed before it could say so."""
    return Head(after[-1].number, after[-1].link, head.rows + len(after)) if after else head


def notices(
    link: str, behind: Sequence[Told], keys: Sequence[AuditKey], named: str
) -> tuple[Literal["ok", "failed"], str] | None:
    """What a log must say of itself before it goes on, with how it ended: that its key begins or changes, or that what it ends in was
    not signed as it must be. None: nothing.

    link: of its last event. behind: events that its head does not know. named: the key that the store says it is signed with.
    """
    _, signer, _ = parts(link)
    if not signer and not named:
        return "ok", STARTED.format(keys[0].id)
    if any(not _is_authentic(text, keys) for text in (link, *(one.link for one in behind))):
        return "failed", FORGED
    return ("ok", ROTATED.format(keys[0].id, signer)) if signer != keys[0].id else None


def _is_authentic(link: str, keys: Sequence[AuditKey]) -> bool:
    digest, signer, _ = parts(link)
    return any(hmac.compare_digest(key.sealed(digest).encode(), link.encode()) for key in keys if key.id == signer)


class _Signatures:
    """The signatures of a log, in its order. Once signed it stays so, and from one key it goes on to newer ones only.

    known: the number of the first event that is signed with a key that was given. Its link tells of all that was written before, so
    none of that was changed since.
    """

    def __init__(self, keys: Sequence[AuditKey], named: str) -> None:
        self._keys = keys
        self._rank = {key.id: rank for rank, key in enumerate(keys)}
        self._named = named
        self._oldest = len(keys)  # that may still sign
        self._signers: dict[str, int] = {}
        self.known = self.signed = self.authentic = 0

    def faults_of(self, one: Told) -> str | None:
        """What is wrong with an event's."""
        _, signer, _ = parts(one.link)
        if not signer:
            return f"event {one.number} is not signed, and some before it are" if self.signed else None
        self.signed += 1
        self._signers[signer] = one.number
        if not self._keys:
            return None
        if signer not in self._rank and not self.known:  # perhaps of a key before those that were given
            return None
        self.known = self.known or one.number
        if signer not in self._rank:
            return f"event {one.number} is signed with key {signer}, which is none of those that were given"
        if self._rank[signer] > self._oldest:
            return f"event {one.number} is signed with key {signer}, which is older than that of an event before it"
        self._oldest = self._rank[signer]
        if not _is_authentic(one.link, self._keys):
            return f"event {one.number} is not authentic: its signature is not that of key {signer}"
        self.authentic += 1
        if one.event.verb == "audit" and one.event.detail == FORGED:
            return f"event {one.number} says that the log before it did not end in a signed event"
        return None

    def lacking(self) -> str | None:
        """What is wrong where a signature must be and none is."""
        if self._named and self._named not in self._signers:
            return f"the store says that its log is signed with key {self._named}, and no event is: events were cut off"
        if self._keys and not self.signed:
            return "no event is signed: the log was never opened with a key, or was cut back to before it was"
        if self._keys and not self.known:
            named = " and ".join(self._signers)
            return f"no event is signed with a key that was given; they are signed with {named}"
        return None

    def unchecked(self, count: int, expected: str | None) -> list[str]:
        """What of a log of so many events was not checked."""
        found = []
        if not self.signed:
            words = (
                "who wrote the events: the log has no key, so whoever can write to its files can add events that fit"
            )
            found.append(words if expected is None else f"{words}, after the head that was kept too")
        elif not self._keys:
            named = " and ".join(self._signers)
            found.append(
                f"who wrote the events: they are signed with key {named}, and no key was given: links alone were checked"
            )
        elif self.known > 1:
            found.append(
                f"who wrote events 1 to {self.known - 1}: they are from before the keys that were given. They are as they were when "
                "the oldest of these began"
            )
        if expected is None:
            found.append(
                "whether the log was cut off at its end, and its head turned back: a head that was kept elsewhere shows it"
            )
        return found


def examined(
    told: Iterable[Told],
    head: Head | None,
    expected: str | None = None,
    *,
    keys: Sequence[AuditKey] = (),
    named: str = "",
) -> Audit:
    """Hold all that is stored, in the order of its numbers, against its links and the head (None: there is none where one must be).

    expected: a head that was kept elsewhere, as text; the chain must have reached exactly that once.
    keys: with which it must be signed, the newest first; none: signatures are not checked.
    named: the key that the store says its log is signed with.
    """
    faults: list[str] = []
    last, link, count, known = 0, GENESIS, 0, {0: GENESIS}
    anchor, signatures = head or Head(), _Signatures(keys, named)
    for one in told:
        count += 1
        if one.number == last:
            faults.append(f"event {one.number} is there more than once")
            continue
        if one.number != last + 1:
            faults.append(f"{_some(last + 1, one.number - 1)} missing")
        elif not _fits(link, one):
            faults.append(f"event {one.number} is not as it was written, or the one before it is not")
        if (wrong := signatures.faults_of(one)) is not None:
            faults.append(wrong)
        last, link = one.number, one.link
        if str(last) in (str(anchor.number), (expected or "").split(":")[0]):
            known[last] = link
    if head is None:
        faults.append("the head of the chain is missing: whether its last events are there cannot be said")
    if anchor.number > last:
        faults.append(f"{_some(last + 1, anchor.number)} missing")
    elif known.get(anchor.number, anchor.link) != anchor.link:
        faults.append(f"event {anchor.number} is not the one that the head of the chain names")
    if expected is not None and expected not in (f"{n}:{told_link}" for n, told_link in known.items()):
        faults.append(f"the chain did not come by the head {expected}")
    if (lacking := signatures.lacking()) is not None:
        faults.append(lacking)
    unchecked = signatures.unchecked(count, expected)
    return Audit(count, f"{last}:{link}", tuple(faults), tuple(unchecked), signatures.signed, signatures.authentic)


def _fits(previous: str, one: Told) -> bool:
    digest, signer, _ = parts(one.link)
    return linked(previous, one, signer) == digest and checksum(one.event) == one.checksum


def _some(first: int, last: int) -> str:
    return f"event {first} is" if first == last else f"events {first} to {last} are"
