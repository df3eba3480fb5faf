"""Who may do what. Pure: knows rights, not storage.

The right to read is also a database filter (`filters.readable_by`), so what an actor may not read is never fetched; the
functions here decide on memories already in hand, and are the ones that the filter must agree with.
"""

from __future__ import annotations

from collections.abc import Iterable
from dataclasses import replace

from .errors import AccessDenied, InvalidArgument, NotFound
from .types import PUBLIC, Access, MemCube


def readers_of(access: Access) -> frozenset[str]:
    """Everybody who may read, the owner and the writers among them."""
    return access.readers | access.writers | {access.owner}


def may_read(actor: str, access: Access) -> bool:
    """Whether the actor may read."""
    return not readers_of(access).isdisjoint((actor, PUBLIC))


def may_write(actor: str, access: Access) -> bool:
    """Whether the actor may change the content."""
    return actor == access.owner or not access.writers.isdisjoint((actor, PUBLIC))


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
    readers: frozenset[str] | None = None  # None: everybody, until a source says otherwise
    for access in parts:
        theirs = readers_of(access)
        if PUBLIC in theirs:
            continue
        readers = theirs if readers is None else readers & theirs
    if readers is None:
        return Access(owner=actor, readers=frozenset({PUBLIC}))
    return Access(owner=actor, readers=readers - {actor})


def within(access: Access, most: Access) -> bool:
    """Whether everybody whom an access lets read may read by another one too."""
    return PUBLIC in readers_of(most) or readers_of(access) <= readers_of(most)


def narrowed(access: Access, most: Access) -> Access:
    """An access without the readers and writers that another one does not let read. The owner stays."""
    rest = readers_of(most)
    if PUBLIC in rest:
        return access
    readers = (rest if PUBLIC in readers_of(access) else access.readers & rest) - {access.owner}
    writers = rest if PUBLIC in access.writers else access.writers & rest
    return replace(access, readers=readers, writers=writers)


def shared(access: Access, readers: frozenset[str], writers: frozenset[str]) -> Access:
    """The access after its owner named exactly these readers and writers."""
    return replace(access, readers=readers, writers=writers)
