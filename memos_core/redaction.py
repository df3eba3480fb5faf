"""What a store leaves out for whom, whoever opens it.

That a store holds what is sensitive is a rule of the store: who is given it raw, and what finds it again. A program that opens it with a
`Sensitivity` adds its detector; one that gives none gets the store's own, by the region that was recorded. Where the store's detector cannot
be made again (it was a program's own, or its packages are missing), nothing is guessed: of a memory with tags, others are given the tags in
brackets and none of its words, and what such a program writes is tagged "unchecked" until a program with the detector reads or writes it.
"""

from __future__ import annotations

import logging
from collections.abc import Callable, Iterator, Mapping, Sequence
from dataclasses import dataclass, replace
from datetime import datetime
from typing import Any, Self

from . import grants
from .errors import AccessDenied, InvalidArgument, MissingPackage
from .rules import Rules
from .sensitivity import CheckedForms, Detector, Finding, Sensitivity, checked_forms, redacted
from .types import Event, MemCube, Text

log = logging.getLogger("memos_core")
RULE = "sensitivity"
UNCHECKED = "unchecked"
"""The tag of what was written where the store's detector was not at hand."""

_OF_TAGS = "US"  # region of the detector for tags that came with a load, in a store that records none


@dataclass(frozen=True, slots=True)
class Recorded:
    """What a store says of what is sensitive in it.

    by: who recorded it first, and may say who is given it raw; None where tags came with a load and nobody said anything yet. raw: to whom.
    regions: of the `checked_forms` that look for it. own: whether a program's own detector does. since: what was stored before this time was
    not looked at by all of them.
    """

    by: str | None = None
    raw: frozenset[str] = frozenset()
    regions: tuple[str, ...] = ()
    own: bool = False
    since: datetime | None = None

    @classmethod
    def read(cls, rule: Mapping[str, Any]) -> Self:
        """From the rule of a store."""
        since = None if rule["since"] is None else datetime.fromisoformat(rule["since"])
        return cls(rule["by"], frozenset(rule["raw"]), tuple(rule["regions"]), rule["own"], since)

    @property
    def rule(self) -> dict[str, Any]:
        """As a rule of the store."""
        since = None if self.since is None else self.since.isoformat()
        return {"by": self.by, "raw": sorted(self.raw), "regions": list(self.regions), "own": self.own, "since": since}

    def joined(self, given: Sensitivity, who: str, since: datetime | None) -> Recorded:
        """With what a program that opens the store brings. Raises InvalidArgument for one that would give it raw to others."""
        raw = frozenset(map(str, given.raw or ()))
        if self.by is not None and not grants.within(raw, self.raw):
            more = sorted(one for one in raw if not grants.within(frozenset({one}), self.raw))
            raise InvalidArgument(
                f"sensitivity: raw: this store does not give {', '.join(more)} what is sensitive as it is: {self.by!r} names them by "
                "MemOS.allow_raw or memosctl allow-raw, or leave them out"
            )
        region = given.detect.region if isinstance(given.detect, CheckedForms) else None
        regions = self.regions if region is None or region in self.regions else (*self.regions, region)
        joined = replace(self, regions=regions, own=self.own or region is None)
        if self.by is None:
            joined = replace(joined, by=who, raw=raw)
        return joined if joined == self else replace(joined, since=since)


@dataclass(frozen=True, slots=True)
class Redaction:
    """What is looked for in one process, and who is given it.

    raw: grants of those who are given memories as they are, besides their owner. looking: finds what is sensitive in any text. tagged_only:
    finds it in what is tagged, where nothing is looked for. lacks: whether some detector of the store is not at hand. since: what was
    stored before it was not looked at by all of them.
    """

    raw: frozenset[str]
    looking: tuple[Detector, ...] = ()
    tagged_only: tuple[Detector, ...] = ()
    lacks: bool = False
    since: datetime | None = None

    def tagged(self, cube: MemCube, old: MemCube | None = None) -> MemCube:
        """A memory whose header says what kinds were found in it, besides what it says already. old: its version before."""
        tags = {*cube.sensitivity, *_kinds_in(cube, self.looking)}
        if self.lacks:
            says_new = old is None or (old.payload, old.attributes) != (cube.payload, cube.attributes)
            tags |= {UNCHECKED} if says_new else set()
        elif self.looking:
            tags.discard(UNCHECKED)
        found = tuple(sorted(tags))
        return cube if found == cube.sensitivity else replace(cube, sensitivity=found)

    def is_raw(self, who: str, cube: MemCube) -> bool:
        """Whether an actor is given a memory as it is."""
        return who == cube.access.owner or grants.holds(self.raw, who)

    def is_plain(self, cube: MemCube) -> bool:
        """Whether there is nothing in a memory that is left out for anybody."""
        return not self._kinds(cube)

    def shown(self, who: str, cube: MemCube) -> MemCube:
        """A memory as an actor is given it."""
        return cube if self.is_raw(who, cube) else self.redacted(cube)

    def told(self, who: str, event: Event) -> Event:
        """An event as an actor is told of it: its details are whose act it was."""
        if not event.detail or who == event.actor or grants.holds(self.raw, who):
            return event
        if self.lacks:
            return replace(event, detail=f"[{UNCHECKED}]")
        return replace(event, detail=redacted(event.detail, _found(event.detail, self.looking)))

    def redacted(self, cube: MemCube) -> MemCube:
        """A memory without what was found in it. Of one with a tag for which nothing is found now, nothing is left but its tags."""
        if self.lacks:
            kinds = self._kinds(cube)
            return _withheld(cube, kinds) if kinds else cube
        detectors = self.looking or (self.tagged_only if cube.sensitivity else ())
        if not detectors and not cube.sensitivity:
            return cube
        found = set[str]()

        def without(text: str, name: str) -> str:
            findings = _found(text, detectors, name)
            found.update(f.kind for f in findings)
            return redacted(text, findings)

        left = _each_text(cube, without)
        if set(cube.sensitivity) - found - ({UNCHECKED} if self.looking else set()):
            return _withheld(cube, found.union(cube.sensitivity))
        return left if found else cube

    def leaving(self, who: str | None, cube: MemCube) -> MemCube:
        """A memory as it leaves the store for an actor (None: for those who are not given it raw): without the tags of what is not in it
        any more, or it would be withheld where it arrives."""
        if who is not None and self.is_raw(who, cube):
            return cube
        left = self.redacted(cube)
        return replace(left, sensitivity=()) if left.sensitivity else left

    def _kinds(self, cube: MemCube) -> set[str]:
        kinds = {*cube.sensitivity, *_kinds_in(cube, self.looking)}
        if self.looking and not self.lacks:
            kinds.discard(UNCHECKED)
        elif self.lacks and self.since is not None and cube.updated_at < self.since:
            kinds.add(UNCHECKED)
        return kinds


class Redactions:
    """The redaction of one store in one process, as its rules say now. Safe for many threads."""

    def __init__(self, rules: Rules, given: Sensitivity | None) -> None:
        self._rules = rules
        self._given = given
        self._made: tuple[Mapping[str, Any] | None, Redaction | None] = (None, None)
        self._warned = False
        self._forms: dict[str, Detector | None] = {}

    def now(self) -> Redaction | None:
        """By the rules as they were last read, which every verb does when it asks who acts; None where nothing is sensitive."""
        rules = self._rules.known
        if self._made[0] is not rules:
            rule = rules.get(RULE)
            self._made = (rules, None if rule is None else self._of(Recorded.read(rule)))
        return self._made[1]

    def given(self) -> Sensitivity | None:
        """What this process gave, as far as the store still lets it: for a copy of the store."""
        given, said = self._given, self.recorded()
        if given is None or given.raw is None or said is None:
            return given
        return replace(given, raw=grants.meet(said.raw, frozenset(map(str, given.raw))))

    def recorded(self) -> Recorded | None:
        """What the store says."""
        rule = self._rules.all().get(RULE)
        return None if rule is None else Recorded.read(rule)

    def is_news(self, who: str) -> bool:
        """Whether the store does not say yet what its opener gave. Raises InvalidArgument for one that gives it raw to others."""
        if self._given is None:
            return False
        known = self.recorded() or Recorded()
        return known.joined(self._given, who, known.since) != known

    def record(self, who: str, since: datetime | None) -> Recorded | None:
        """Let the store say what its opener gave; what it says then, None where that is no news. The caller is the only writer."""
        if self._given is None or not self.is_news(who):
            return None
        joined = (self.recorded() or Recorded()).joined(self._given, who, since)
        self._rules.put({RULE: joined.rule})
        self._rules.all()
        return joined

    def allow(self, raw: frozenset[str], who: str, opener: str) -> None:
        """Say who is given it raw, from now on. The caller is the only writer. Raises InvalidArgument where nothing is recorded, AccessDenied."""
        known = self.recorded()
        if known is None:
            raise InvalidArgument(
                "readers: this store records nothing that is sensitive: open it with sensitivity= first"
            )
        if who != (known.by or opener):
            raise AccessDenied(
                f"{known.by or opener!r} says who is given what is sensitive here as it is, and {str(who)!r} is not"
            )
        self._rules.put({RULE: replace(known, by=str(who), raw=frozenset(map(str, raw))).rule})
        if (
            self._given is not None and self._given.raw is not None
        ):  # what was just said is not narrowed by what was said before
            self._given = replace(self._given, raw=None)
        self._rules.all()

    def _of(self, said: Recorded) -> Redaction:
        given = self._given
        raw = said.raw if given is None or given.raw is None else grants.meet(said.raw, frozenset(map(str, given.raw)))
        made = [self._made_for(region) for region in said.regions]
        if given is not None and not (isinstance(given.detect, CheckedForms) and given.detect.region in said.regions):
            made.append(given.detect)
        looking = tuple(d for d in made if d is not None)
        has_own = given is not None and not isinstance(given.detect, CheckedForms)
        lacks = len(looking) < len(made) or (said.own and not has_own)
        if lacks and not self._warned:
            self._warned = True
            why = (
                "its packages are missing: pip install 'memos-adapters[sensitivity]'"
                if len(looking) < len(made)
                else "give sensitivity="
            )
            log.warning(
                "%s was written with a detector of what is sensitive that is not at hand here (%s): others are given none of the words of tagged "
                "memories, and what is written is tagged %r", self._rules.path, why, UNCHECKED,
            )  # fmt: skip
        forms = None if looking or said.own else self._made_for(_OF_TAGS)
        return Redaction(raw, looking, () if forms is None else (forms,), lacks, said.since)

    def _made_for(self, region: str) -> Detector | None:
        """The detector of a region; None where its packages are missing."""
        if region not in self._forms:
            try:
                self._forms[region] = checked_forms(region)
            except MissingPackage:
                self._forms[region] = None
        return self._forms[region]


def note_tags(rules: Rules, tagged: bool) -> None:
    """Let it be known that there is something with tags in a store, before it is there: it is redacted, though nobody opened this store
    with a `Sensitivity`."""
    if tagged and RULE not in rules.all():
        rules.put({RULE: Recorded().rule})


def _found(text: str, detectors: Sequence[Detector], name: str = "") -> list[Finding]:
    """What is found in a text; in a value that has a name, also by the name: that "hunter2" is a password, only it says."""
    found = [finding for detect in detectors for finding in detect(text)]
    if name:
        said = f"{name}: "
        begins = len(said)
        named = (f for detect in detectors for f in detect(said + text) if f.end > begins)
        found += [Finding(f.kind, max(0, f.start - begins), f.end - begins) for f in named]
    return found


def _kinds_in(cube: MemCube, detectors: Sequence[Detector]) -> set[str]:
    return {f.kind for text, name in _texts(cube) for f in _found(text, detectors, name)} if detectors else set()


def _withheld(cube: MemCube, kinds: set[str]) -> MemCube:
    """A memory of which nothing is left but what it was found to hold."""
    said = f"[{', '.join(sorted(kinds))}]"
    return _each_text(cube, lambda text, name: said if text else text)


def _each_text(cube: MemCube, change: Callable[[str, str], str]) -> MemCube:
    """A memory with its text, and each string among its attributes (given with its name), changed; and without the hash of a text that is
    another now."""
    attributes = {name: _each(value, change, name) for name, value in cube.attributes.items()}
    if not isinstance(cube.payload, Text):
        return replace(cube, attributes=attributes)
    text = change(cube.text, "")
    origin = cube.origin if text == cube.text else replace(cube.origin, digest=None)
    return replace(cube, payload=Text(text), origin=origin, attributes=attributes)


def _each(value: Any, change: Callable[[str, str], str], name: str) -> Any:
    if isinstance(value, str):
        return change(value, name)
    if isinstance(value, Mapping):
        return {inner: _each(one, change, inner) for inner, one in value.items()}
    return [_each(one, change, name) for one in value] if isinstance(value, list) else value


def _texts(cube: MemCube) -> Iterator[tuple[str, str]]:
    """All strings of a memory that say something, each with its name among the attributes."""
    yield cube.text, ""
    pending: list[tuple[Any, str]] = [(value, name) for name, value in cube.attributes.items()]
    while pending:
        value, name = pending.pop()
        if isinstance(value, str):
            yield value, name
        elif isinstance(value, Mapping):
            pending += [(one, inner) for inner, one in value.items()]
        elif isinstance(value, list):
            pending += [(one, name) for one in value]
