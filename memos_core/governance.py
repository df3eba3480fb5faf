"""Who may do what. Pure: knows rights, not storage.

The right to read is also a database filter (`filters.readable_by`), so what an actor may not read is never fetched; the
functions here decide on memories already in hand, and are the ones that the filter must agree with.
"""

from __future__ import annotations

from collections.abc import Iterable
from dataclasses import replace

from . import grants
from .errors import AccessDenied, InvalidArgument, NotFound
from .types import PUBLIC, Access, MemCube


def readers_of(access: Access) -> frozenset[str]:
    """Every grant to read, the owner and the writers among them."""
    readers = access.readers | access.writers | {access.owner}
    return readers if access.within is None else grants.meet(readers, access.within)


def may_read(actor: str, access: Access) -> bool:
    """Whether the actor may read."""
    return grants.holds(readers_of(access), actor)


def could_read(actor: str, access: Access) -> bool:
    """Whether there is a group and a calling context in which the actor may read."""
    return bool(grants.meet(frozenset({actor}), readers_of(access)))


def may_write(actor: str, access: Access) -> bool:
    """Whether the actor may change the content."""
    return may_read(actor, access) and (actor == access.owner or grants.holds(access.writers, actor))


def require_read(actor: str, cube: MemCube) -> None:
    """Raise NotFound if the actor may not read: for it, the memory does not exist."""
    if not may_read(actor, cube.access):
        raise NotFound(f"no memory {cube.id!r}")


def require_write(actor: str, cube: MemCube) -> None:
    """Raise what the actor is entitled to know: `NotFound` if it may not even read, else `AccessDenied`."""
    require_read(actor, cube)
    if not may_write(actor, cube.access):
        raise AccessDenied(
            f"{actor!r} may read memory {cube.id} but not change it: ask its owner to share(writers=...)"
        )


def require_owner(actor: str, cube: MemCube) -> None:
    """Like `require_write`, for what only the owner may do: delete, share, freeze, archive."""
    require_read(actor, cube)
    require_owned(actor, cube.id, cube.access.owner)


def require_owned(actor: str, id: str, owner: str) -> None:
    """Raise AccessDenied for a memory that the actor may read and that is another's."""
    if actor != owner:
        raise AccessDenied(f"only the owner of memory {id} may do this, and {actor!r} is not")


def derived_access(actor: str, sources: Iterable[Access]) -> Access:
    """Access of something made by `actor` from sources: the intersection of their readers, never more.

    Raises InvalidArgument without a source: what comes from nowhere has no readers to inherit.
    """
    parts = list(sources)
    if not parts:
        raise InvalidArgument("sources: a derived memory needs at least one")
    owner, common = str(actor), grants.meet_all(readers_of(access) for access in parts)
    if PUBLIC in common or owner in common:
        return Access(owner, readers=common - {owner})
    return Access(owner, readers=common, within=common)


def within(access: Access, most: Access) -> bool:
    """Whether everybody whom an access lets read may read by another one too, whoever is in which group."""
    return grants.within(readers_of(access), readers_of(most))


def narrowed(access: Access, most: Access) -> Access:
    """An access without the readers and writers that another one does not let read. The owner stays, within what it lets."""
    rest = readers_of(most)
    if PUBLIC in rest:
        return access
    readers = (rest if PUBLIC in readers_of(access) else grants.meet(access.readers, rest)) - {access.owner}
    within = access.within
    if access.owner not in rest:
        within = rest if within is None else grants.meet(within, rest)
    return replace(access, readers=readers, writers=grants.meet(access.writers, rest), within=within)


def shared(access: Access, readers: frozenset[str], writers: frozenset[str]) -> Access:
    """The access after its owner named exactly these readers and writers."""
    return replace(access, readers=readers, writers=writers)
