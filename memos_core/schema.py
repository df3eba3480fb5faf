"""Whether a store's tables are those that this version writes: found at opening, and named. Knows their names and columns; changes nothing."""

from __future__ import annotations

from contextlib import AbstractContextManager
from typing import Any, Protocol

from .compaction import TABLES
from .errors import Damaged, SchemaMismatch
from .manifest import Manifest
from .tables import LATER, lacking
from .types import SCHEMA

WHOLE = "copy the store whole, while nobody writes, or take a backup"
_MADE = tuple(name for name in TABLES if name not in LATER)  # with the store, beside the cubes


class Tables(Protocol):
    """What is asked of the database; see there."""

    path: str

    @property
    def manifest(self) -> Manifest:
        """As last seen."""

    def names(self) -> list[str]:
        """The tables that are there."""

    def at(self, name: str, version: int | None) -> Any:
        """A table by name."""

    def look_again(self) -> None:
        """Read the manifest."""

    def guarded(self, table: str) -> AbstractContextManager[None]:
        """Raise what the database raises as one of our errors."""


def require_tables(db: Tables) -> None:
    """Raise Damaged for a table that is not there though the manifest names it, SchemaMismatch for one that every store of this schema has
    and for one of other columns."""
    there = db.names()
    if db.manifest.cubes not in there:  # perhaps only because a re-embedding has just put another in its place
        db.look_again()
        there = db.names()
    for name in (db.manifest.cubes, *db.manifest.pinned):
        if name not in there:
            raise Damaged(f"{db.path}/{name}.lance is missing, and the manifest names it: {WHOLE}")
    if gone := [name for name in _MADE if name not in there]:
        raise SchemaMismatch(
            f"{db.path} lacks what a store of schema {SCHEMA} has: the table {', '.join(gone)}. Another version of memos-adapters wrote "
            f"it: use that one. Or it is a part of a store: {WHOLE}"
        )
    for name in (db.manifest.cubes, *(n for n in TABLES if n in there)):
        require_columns(db, name, db.manifest.dimension)


def require_columns(db: Tables, name: str, dimension: int) -> None:
    """Raise SchemaMismatch for a table of other columns. dimension: of the vectors, if it is one of cubes."""
    with db.guarded(name):
        said = lacking(name, db.at(name, None).schema, dimension)
    if said is not None:
        raise SchemaMismatch(
            f"{db.path}/{name}.lance has {said}: another version of memos-adapters wrote it, use that one"
        )
