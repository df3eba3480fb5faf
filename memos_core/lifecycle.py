"""How a memory changes: states, legal moves between them, and new versions. Pure: records and a time in, records out.

The paper names the states and contradicts itself on their number (arXiv 2507.03724: five in 5.2, four and "frozen" in
5.4.3); this is our table:

    generated, activated, merged   live: searched, changed
    archived                       kept, found only by id; `restore` brings it back
    frozen                         live and readable, but unchangeable until unfrozen
    expired                        taken back by a rollback; never returned, until another rollback brings it back or a tick removes it

`TRANSITIONS` is every change of state with what triggers it and what it does; `memosctl lifecycle` prints it.
"""

from __future__ import annotations

from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass, replace
from datetime import datetime
from typing import Any, Literal

from .errors import IllegalTransition, InvalidArgument
from .types import Access, Link, MemCube, State, Text

Mode = Literal["overwrite", "append", "merge"]

SEARCHED = (State.GENERATED, State.ACTIVATED, State.MERGED, State.FROZEN)
"""States in which a search returns a memory."""

LIVE = (State.GENERATED, State.ACTIVATED, State.MERGED)
KEPT = (*LIVE, State.ARCHIVED)


@dataclass(frozen=True, slots=True)
class Transition:
    """What a trigger does to a memory in one of some states (None: there is none yet), and its effect.

    to: the state after it; None where the memory is gone; "same" where only a version is added; "before" for the one in which it was
    frozen.
    """

    trigger: str
    of: tuple[State | None, ...]
    to: State | Literal["same", "before"] | None
    effect: str


TRANSITIONS: tuple[Transition, ...] = (
    Transition("add", (None,), State.GENERATED, "stored with its vector, before it returns; found by searching"),
    Transition("put without text", (None,), State.ARCHIVED, "kept without a vector; found by its name"),
    Transition("convert", (None, *KEPT, State.EXPIRED), State.ACTIVATED, "a memory in another form is there and used; an adapter that failed its gate is generated, and is not"),
    Transition("update, restore", LIVE, "same", "a new version; what was made from the words before leaves the search"),
    Transition("update", (State.ARCHIVED,), "same", "a new version, which stays out of search"),
    Transition("merge", LIVE, State.MERGED, "update(mode='merge') adds lines, fuse other memories, which it is linked to from then on"),
    Transition("add again", LIVE, "same", "the same key or message with other words: a new version"),
    Transition("add again", (State.ARCHIVED, State.EXPIRED), State.GENERATED, "back in search with what was said now; an expired one has no past for its readers"),
    Transition("restore", (State.ARCHIVED,), State.ACTIVATED, "back in search, with the words of an earlier version"),
    Transition("archive", LIVE, State.ARCHIVED, "out of search, kept, found by its id; also fuse, for what went into another memory"),
    Transition("archive", (State.ARCHIVED,), "same", "nothing"),
    Transition("outdate", LIVE, State.ARCHIVED, "what it was made from says something else now; it is out of search"),
    Transition("supersede", LIVE, State.ARCHIVED, "another statement took its place, and says since when"),
    Transition("freeze", KEPT, State.FROZEN, "as it is: not changed, not deleted, not expired; its readers can change"),
    Transition("freeze", (State.FROZEN,), "same", "nothing"),
    Transition("unfreeze", (State.FROZEN,), "before", "what its time, or a rule, says of it holds again"),
    Transition("unfreeze", KEPT, "same", "nothing"),
    Transition("share", (*KEPT, State.FROZEN), "same", "other readers and writers at once, and for what was made from it the fewer of both"),
    Transition("rollback", KEPT, State.EXPIRED, "to before it was there: returned to nobody, and a rollback to when it was there brings it back"),
    Transition("tick after its time", (*KEPT, State.EXPIRED), None, "gone as if deleted; it was returned to nobody since its time was over"),
    Transition("delete, forget, retention, purge", (*KEPT, State.EXPIRED), None, "gone with all versions and all that was made from it; purge takes what is over or taken back"),
)  # fmt: skip
"""Every change of state that there is. What is not here raises IllegalTransition, or NotFound for what has expired."""


def _moves(state: State) -> frozenset[State]:
    found = {t.to for t in TRANSITIONS if state in t.of and isinstance(t.to, State)}
    return frozenset({*found, *(KEPT if state is State.FROZEN else ())} - {state})


MOVES: Mapping[State, frozenset[State]] = {state: _moves(state) for state in State}
"""From which state to which others, as the table says."""


def has_expired(cube: MemCube, now: datetime) -> bool:
    """Whether its time is over, also before anybody swept it. A frozen memory does not expire (legal hold)."""
    if cube.state is State.FROZEN:
        return False
    return cube.state is State.EXPIRED or ((end := cube.lifespan.ends_at) is not None and end <= now)


def is_searched(cube: MemCube) -> bool:
    """Whether it is found by what it says: then indexes hold its words and its vector."""
    return cube.state in SEARCHED


def needs_vector(old: MemCube, new: MemCube) -> bool:
    """Whether a memory is found by other words than before: an archived one has no vector, and gets one when it comes back."""
    return is_searched(new) and new.text != "" and (not is_searched(old) or old.text != new.text)


def provenance(sources: Iterable[MemCube]) -> tuple[str, ...]:
    """Of what is made from memories: theirs, each once."""
    return tuple(dict.fromkeys(id for cube in sources for id in cube.provenance))


def is_passage(cube: MemCube) -> bool:
    """Whether it is one of the further texts of an item, which is what they say and who may read them."""
    return any(link.relation == "passage" for link in cube.lineage)


def revise(
    cube: MemCube,
    now: datetime,
    *,
    text: str | None = None,
    attributes: Mapping[str, Any] | None = None,
    mode: Mode = "overwrite",
) -> MemCube:
    """The next version after an edit.

    overwrite: what is given replaces what was. append: the text goes below the old one, attributes are added key by key.
    merge: like append, but lines that the memory already has are not repeated; the state becomes merged.
    """
    if mode not in ("overwrite", "append", "merge"):
        raise InvalidArgument(f"mode: {mode!r} is none of 'overwrite', 'append', 'merge'")
    if text is None and attributes is None:
        raise InvalidArgument("text, attributes: give at least one of them to update")
    if text is not None and not isinstance(cube.payload, Text):
        raise InvalidArgument(f"text: memory {cube.id} is held as {cube.kind}, which has no text to change")
    _require_unfrozen(cube)
    known = dict(cube.attributes) if mode != "overwrite" else {}
    new = cube if attributes is None else replace(cube, attributes={**known, **attributes})
    if text is not None:
        new = replace(new, payload=Text(_joined(cube.text, text, mode)))
        if mode == "overwrite" and (attributes is not None or not cube.attributes):
            new = replace(new, sensitivity=())  # nothing of what it held is left
    if mode == "merge" and cube.state is not State.MERGED:
        new = replace(new, state=_moved(cube, State.MERGED))
    return _next(new, now)


def replaced(old: MemCube, new: MemCube) -> MemCube:
    """The next version of a memory that its owner adds again under its key: all is as given now but what the engine keeps
    (identity, creation, usage, priority)."""
    _require_unfrozen(old)
    state = State.GENERATED if old.state in (State.ARCHIVED, State.EXPIRED) else old.state
    kept = replace(
        new, version=old.version, state=state, created_at=old.created_at, usage=old.usage, priority=old.priority,
    )  # fmt: skip
    return _next(kept, new.updated_at)


def said_again(old: MemCube, text: str, now: datetime) -> MemCube:
    """The next version of a message that comes again with other words; an archived one is back in search with them."""
    new = revise(old, now, text=text)
    return replace(new, state=_moved(old, State.GENERATED)) if old.state is State.ARCHIVED else new


def refined(old: MemCube, said: MemCube, now: datetime) -> MemCube:
    """The next version of a statement that was said more exactly, with the turns of both as its sources."""
    _require_unfrozen(old)
    links = dict.fromkeys((*old.lineage, *said.lineage))
    return _next(replace(old, payload=said.payload, origin=said.origin, lineage=tuple(links)), now)


def restored(current: MemCube, past: MemCube, now: datetime) -> MemCube:
    """A new version with the content of an old one. Access, lifespan and state stay as they are today: going back in
    time must not bring back a reader whose right was withdrawn."""
    _require_unfrozen(current)
    content = replace(
        current, payload=past.payload, kind=past.kind, semantic_type=past.semantic_type, tags=past.tags,
        attributes=past.attributes, lineage=past.lineage, sensitivity=tags_of(current, past),
    )  # fmt: skip
    if current.state is State.ARCHIVED:  # bringing it back is what was asked for
        content = replace(content, state=State.ACTIVATED, lifespan=replace(current.lifespan, valid_until=None))
    return _next(content, now)


def tags_of(current: MemCube, past: MemCube) -> tuple[str, ...]:
    """Of a memory that says again what it said, what is sensitive in it: what was found then, and, where it says that today, today."""
    says_it_today = (current.payload, current.attributes) == (past.payload, past.attributes)
    return tuple(sorted({*past.sensitivity, *(current.sensitivity if says_it_today else ())}))


def with_access(cube: MemCube, access: Access, now: datetime) -> MemCube:
    """The next version, for other readers and writers. Allowed while frozen: a right must be revocable at once."""
    return _next(replace(cube, access=access), now)


def superseded(cube: MemCube, valid_until: datetime, now: datetime) -> MemCube:
    """The next version of a statement that stopped being true: archived, with the end of its validity."""
    _require_unfrozen(cube)
    lifespan = replace(cube.lifespan, valid_until=valid_until)
    return _next(replace(cube, lifespan=lifespan, state=_moved(cube, State.ARCHIVED)), now)


def fused(cube: MemCube, others: Sequence[MemCube], access: Access, now: datetime) -> MemCube:
    """The next version of a memory that others go into: their lines behind its own, none twice, their tags, and a link to each."""
    _require_unfrozen(cube)
    text = cube.text
    for other in others:
        text = _joined(text, other.text, "merge")
    links = (*cube.lineage, *(Link(other.id, other.version, "merged") for other in others))
    tags = dict.fromkeys((*cube.tags, *(tag for other in others for tag in other.tags)))
    state = cube.state if cube.state is State.MERGED else _moved(cube, State.MERGED)
    origin = replace(cube.origin, provenance=provenance([cube, *others]))
    new = replace(
        cube,
        sensitivity=tuple(sorted({*cube.sensitivity, *(tag for other in others for tag in other.sensitivity)})),
        origin=origin,
        payload=Text(text),
        lineage=tuple(dict.fromkeys(links)),
        tags=tuple(tags),
        access=access,
        state=state,
    )
    return _next(new, now)


def superseding(cube: MemCube, old: MemCube) -> MemCube:
    """The new statement, linked to the one that it takes the place of."""
    return replace(cube, lineage=(*cube.lineage, Link(old.id, old.version, "supersedes")))


def archive(cube: MemCube, now: datetime) -> MemCube:
    """The next version, out of search. Archiving twice changes nothing."""
    if cube.state is State.ARCHIVED:
        return cube
    _require_unfrozen(cube)
    return _next(replace(cube, state=_moved(cube, State.ARCHIVED)), now)


def freeze(cube: MemCube, now: datetime) -> MemCube:
    """The next version, unchangeable. Freezing twice changes nothing."""
    if cube.state is State.FROZEN:
        return cube
    lifespan = replace(cube.lifespan, frozen_from=cube.state)
    return _next(replace(cube, state=_moved(cube, State.FROZEN), lifespan=lifespan), now)


def unfreeze(cube: MemCube, now: datetime) -> MemCube:
    """The next version, in the state in which it was frozen. Unfreezing what is not frozen changes nothing."""
    if cube.state is not State.FROZEN:
        return cube
    back = cube.lifespan.frozen_from or State.GENERATED
    lifespan = replace(cube.lifespan, frozen_from=None)
    return _next(replace(cube, state=_moved(cube, back), lifespan=lifespan), now)


def _next(cube: MemCube, now: datetime) -> MemCube:
    return replace(cube, version=cube.version + 1, updated_at=max(now, cube.updated_at))


def _moved(cube: MemCube, to: State) -> State:
    if to not in MOVES[cube.state]:
        raise IllegalTransition(f"memory {cube.id} is {cube.state} and cannot become {to}")
    return to


def _require_unfrozen(cube: MemCube) -> None:
    if cube.state is State.FROZEN:
        raise IllegalTransition(f"memory {cube.id} is frozen: unfreeze it before changing it")


def _joined(old: str, new: str, mode: Mode) -> str:
    if mode == "overwrite":
        return new
    if mode == "append":
        return f"{old}\n{new}"
    lines = old.split("\n")
    seen = set(lines)
    return "\n".join([*lines, *(line for line in new.split("\n") if line not in seen)])
