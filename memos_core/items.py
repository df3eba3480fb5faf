"""Items: a key-value view over memories, for whoever thinks in names: a store, a chat history, a buffer.

An item is a memory of its actor with a key: `attributes` is its value, `text` what it is found by. What it is found by
besides, its passages, are memories derived from it, with its value, access and life; they go into the store in the same
commit, so that no reader and no kill sees an item with the passages of another version of it. An item that is found by
nothing is archived at birth and has no vector: kept, listed, found by its name. `MemOS.add(key=...)` makes the same
memory, so that both ways meet.
"""

from __future__ import annotations

import builtins
import uuid
from collections.abc import Callable, Iterable, Iterator, Mapping, Sequence
from dataclasses import replace
from datetime import datetime, timedelta
from itertools import islice
from typing import Any

import numpy as np

from . import conditions, filters, keyed, lifecycle
from .codec import checked_text
from .embedding import Embedding
from .errors import InvalidArgument
from .fork import Refusing, watch
from .governance import readers_of
from .tables import Candidate, Vector
from .types import Event, Hit, Item, MemCube, Namespace
from .upkeep import Upkeep
from .validate import checked_actor, checked_end, checked_namespace, checked_number
from .vault import ALL, Vault
from .writing import Writer

# in the class below `list` is a verb, and the type is `builtins.list`
_KEYED, _PASSAGES = "key IS NOT NULL", f"semantic_type = '{keyed.PASSAGE}'"
_AT_ONCE = 500  # items of which passages are asked for at once
_NEWEST, _OLDEST = ("-updated_at", "key", "id"), ("position", "happened_at", "id")
_MARGIN, _GROWTH = 16, 4  # nearest memories asked for beyond the page, and by how much more if they do not fill it
_DIGITS = 6  # of a score that count: the rest differs with how many were scored at once


class Items(Refusing):
    """The items of one store. Safe for many threads. Each actor has its own: what others share is found by `MemOS.search`."""

    def __init__(
        self,
        vault: Vault,
        writer: Writer,
        embedding: Embedding,
        upkeep: Upkeep,
        clock: Callable[[], datetime],
        actor: str,
    ) -> None:
        self.path = vault.path
        self._vault = vault
        self._writer = writer
        self._embedding = embedding
        self._upkeep = upkeep
        self._clock = clock
        self._actor = actor
        self._last = 0
        self._whole = vault.db.transactions.whole
        watch(self)

    # --- writing -------------------------------------------------------------------------------------------------------

    def put(self, items: Sequence[Item], *, actor: str | None = None) -> builtins.list[MemCube]:
        """Store values under their keys, all of them in one commit; the memories that hold them, in order.

        A key that exists gets the next version: `created_at` and who else may read it stay, its life begins anew. Of several
        items of one name the last wins.

        Raises:
            InvalidArgument: for a value that is not plain JSON, a name, a life. IllegalTransition: an item is frozen. Nothing
            was written then.
        """
        who, now = self._who(actor), self._clock()
        drafts = [[self._vault.retained(c) for c in keyed.drafted(item, who, now)] for item in items]
        wanted = {d[0].id: d for d in drafts}
        if not wanted:
            return []
        texts = [c.text for d in wanted.values() for c in d if c.text]
        vectors: dict[str, Vector] = {}
        # what is there already is not embedded; a single text is looked for only once, under the lock
        self._embed(vectors, texts if len(texts) == 1 else _new_texts(keyed.changes(wanted, self._stored(wanted), now)))
        with self._vault.writing():
            changes = self._placed(keyed.changes(wanted, self._stored(wanted), now), now)
            self._embed(vectors, _new_texts(changes))
            known = [(c.old, c.new) for c in changes if c.old is not None]
            put = self._vault.put(
                [c.old for c in changes], [c.new for c in changes], [vectors[c.new.text] if c.says_new else None for c in changes]
            )  # fmt: skip
            self._tell(who, changes, now)
            self._writer.carry_on([o for o, _ in known], [n for _, n in known], who, spare={c.new.id for c in changes})
        self._upkeep.after_write()
        stored = {cube.id: cube for cube in put}
        return [stored[d[0].id] for d in drafts]

    def delete(self, names: Iterable[keyed.Name], *, actor: str | None = None) -> int:
        """Remove items with their versions and all that was derived from them; how many were there. Raises IllegalTransition,
        and removes nothing, if one is frozen."""
        who, now = self._who(actor), self._clock()
        with self._vault.writing():
            rows = self._vault.by_ids(keyed.ids(names, who))
            self._writer.remove(rows, who, now)
        self._upkeep.after_write()
        return sum(not lifecycle.has_expired(r.cube, now) for r in rows)

    def touch(self, names: Iterable[keyed.Name], ttl: timedelta | None = None, *, actor: str | None = None) -> None:
        """Let the lives of items begin anew, now: of this span, or (None) each of the one that it was put with. It makes no
        version; a life of which less than a hundredth is over is left as it is."""
        who, now = self._who(actor), self._clock()
        end = checked_end(ttl, now)
        span = None if end is None else end - now
        ids = dict.fromkeys(keyed.ids(names, who))
        if not keyed.renewed(self._stored(ids).values(), span, now):
            return
        with self._vault.writing():
            pairs = keyed.renewed(self._stored(ids).values(), span, now)
            self._vault.renew([old for old, _ in pairs], [new for _, new in pairs])
        self._upkeep.after_write()

    def sweep(self, *, actor: str | None = None) -> int:
        """Remove the actor's items whose time is over; how many. What a legal hold holds waits for that, and what a rollback took back can
        still be brought back. (`MemOS.tick` does so with all that is over, whoever owns it.)"""
        who, now = self._who(actor), self._clock()
        over = filters.all_of(_owned(who), _KEYED, filters.lapsed(now))
        removed = self._writer.forgetting.remove_over(over, now).get(who, ())
        self._upkeep.after_write()
        return sum(len(r.ids) for r in removed)

    # --- reading -------------------------------------------------------------------------------------------------------

    def get(self, names: Iterable[keyed.Name], *, actor: str | None = None) -> builtins.list[MemCube | None]:
        """The items of these names, in order; None for one that is not there for the actor, or has expired."""
        who, now = self._who(actor), self._clock()
        ids = keyed.ids(names, who)
        found = {r.cube.id: r.cube for r in self._whole(lambda: self._vault.by_ids(list(dict.fromkeys(ids))))}
        live = {id: cube for id, cube in found.items() if not lifecycle.has_expired(cube, now)}
        return [live.get(id) for id in ids]

    def list(
        self,
        namespace: Sequence[str] = (),
        *,
        actor: str | None = None,
        filter: Mapping[str, Any] | None = None,
        limit: int = 100,
        offset: int = 0,
        oldest_first: bool = False,
    ) -> builtins.list[MemCube]:
        """Items at or below a namespace, those that changed last first, or in the order of their creation.

        Args:
            filter: conditions on the value, see `conditions`.
        """
        who, now = self._who(actor), self._clock()
        limit, offset = checked_number(limit, "limit"), _checked_offset(offset)
        where, rest = self._where(who, namespace, filter, now)
        where, order = filters.all_of(where, _KEYED), _OLDEST if oldest_first else _NEWEST
        if rest is None:
            rows = self._whole(lambda: self._vault.rows(where, limit=limit, offset=offset, order=order))
            return [r.cube for r in rows]

        def matching() -> builtins.list[MemCube]:
            cubes = self._in_pages(where, offset + limit + _MARGIN, order)
            return [*islice((c for c in cubes if conditions.holds(rest, c.attributes)), offset, offset + limit)]

        return self._whole(matching)

    def search(
        self,
        query: str,
        namespace: Sequence[str] = (),
        *,
        actor: str | None = None,
        filter: Mapping[str, Any] | None = None,
        limit: int = 10,
        offset: int = 0,
    ) -> builtins.list[Hit]:
        """Items at or below a namespace, nearest to the query first, each once: the score is the cosine of the best of its
        texts, in [-1, 1]. Of equally near ones that which changed last comes first."""
        who, now = self._who(actor), self._clock()
        limit, offset = checked_number(limit, "limit"), _checked_offset(offset)
        if not isinstance(query, str) or not query.strip():
            raise InvalidArgument("query: there is no text in it")
        checked_text(query, "query")
        where, rest = self._where(who, namespace, filter, now)
        where = filters.all_of(where, filters.in_states(lifecycle.SEARCHED))
        self._vault.revision()  # a closed store is said to be closed before anything is embedded
        vector = self._embedding.one(query)
        hits = self._whole(lambda: self._nearest(vector, where, rest, offset + limit))[offset:]
        self._upkeep.count(hits, now)
        return hits

    def _nearest(self, vector: Vector, where: str, rest: Mapping[str, Any] | None, wanted: int) -> builtins.list[Hit]:
        asked = wanted + _MARGIN
        while True:
            near = self._vault.near(vector, filters.all_of(where, f"{_KEYED} OR {_PASSAGES}"), min(asked, ALL))
            scores = _cosines(vector, near)
            best = self._best(near, scores, where, rest)
            hits = [Hit(c, s, ("meaning",)) for c, s in sorted(best, key=lambda b: (-b[1], *_newest(b[0])))]
            # equally near ones that were not brought might come first by their order
            if len(near) < asked or (len(hits) >= wanted and hits[wanted - 1].score > min(scores)):
                return hits[:wanted]
            asked *= _GROWTH

    def namespaces(self, prefix: Sequence[str] = (), *, actor: str | None = None) -> builtins.list[Namespace]:
        """The namespaces at or below a prefix that hold items, sorted."""
        where, _ = self._where(self._who(actor), prefix, None, self._clock())
        paths = self._whole(lambda: self._vault.distinct("namespace", filters.all_of(where, _KEYED)))
        return sorted(filters.decode_namespace(path) for path in paths)

    # --- below the verbs -------------------------------------------------------------------------------------------------

    def _who(self, actor: str | None) -> str:
        return self._actor if actor is None else checked_actor(actor)

    def _where(
        self, who: str, namespace: Sequence[str], filter: Mapping[str, Any] | None, now: datetime
    ) -> tuple[str, Mapping[str, Any] | None]:
        """What the store tests of an item, and the filter, if that is not all of it."""
        test = conditions.of_value(filter)
        under = filters.under(checked_namespace(namespace, root=True))
        where = filters.all_of(_owned(who), under, filters.current(now), None if test is None else test.sql)
        return where, filter if test is not None and not test.exact else None

    def _in_pages(self, where: str, size: int, order: Sequence[str]) -> Iterator[MemCube]:
        start = 0
        while page := self._vault.rows(where, limit=min(size, ALL), offset=start, order=order):
            yield from (row.cube for row in page)
            start, size = start + len(page), size * _GROWTH

    def _best(
        self, near: Sequence[Candidate], scores: Sequence[float], where: str, rest: Mapping[str, Any] | None
    ) -> builtins.list[tuple[MemCube, float]]:
        """The items that are among the nearest, or have a passage there, each with its best score."""
        cubes = [c.cube for c in near]
        of = [c.id if c.key is not None else keyed.item_of(c) for c in cubes]
        items = {c.id: c for c in cubes if c.key is not None}
        above = sorted({id for id in of if id is not None} - items.keys())
        items |= {r.cube.id: r.cube for r in self._vault.by_ids(above, filters.all_of(where, _KEYED))}
        best: dict[str, float] = {}
        for id, score in zip(of, scores, strict=True):
            if id in items and (rest is None or conditions.holds(rest, items[id].attributes)):
                best[id] = max(score, best.get(id, score))
        return [(items[id], score) for id, score in best.items()]

    def _stored(self, ids: Iterable[str]) -> dict[str, MemCube]:
        """The items of these ids and all of their passages, by id."""
        ids = list(ids)
        firsts = {keyed.passage_id(id, 1): id for id in ids}
        found = {r.cube.id: r.cube for r in self._vault.by_ids([*ids, *firsts])}
        several = [id for first, id in firsts.items() if first in found]  # there may be a second one, and so on
        for start in range(0, len(several), _AT_ONCE):
            parents = filters.contains_any("parents", several[start : start + _AT_ONCE])
            rows = self._vault.rows(filters.all_of(parents, _PASSAGES))
            found |= {r.cube.id: r.cube for r in rows if lifecycle.is_passage(r.cube)}
        return found

    def _tell(self, who: str, changes: Sequence[keyed.Change], now: datetime) -> None:
        events = [Event(str(uuid.uuid4()), now, who, c.verb, c.new.id, c.new.version) for c in changes]
        self._vault.record(events, [readers_of(c.new.access) for c in changes])

    def _embed(self, known: dict[str, Vector], texts: Iterable[str]) -> None:
        new = [t for t in dict.fromkeys(texts) if t not in known]
        known.update(zip(new, self._embedding.many(new), strict=True))

    def _placed(self, changes: Sequence[keyed.Change], now: datetime) -> builtins.list[keyed.Change]:
        """With each new item's place in the order of creation, also where a clock stands still."""
        placed = []
        for change in changes:
            if change.old is None and change.new.key is not None:
                self._last = max(self._last + 1, round(now.timestamp() * 1e6))
                origin = replace(change.new.origin, position=self._last)
                change = replace(change, new=replace(change.new, origin=origin))
            placed.append(change)
        return placed


def _owned(who: str) -> str:
    return filters.all_of(filters.readable_by(who), f"owner = {filters.literal(who)}")


def _new_texts(changes: Iterable[keyed.Change]) -> list[str]:
    return [c.new.text for c in changes if c.says_new]


def _newest(cube: MemCube) -> tuple[float, str, str]:
    """Sorts as the columns `_NEWEST` do."""
    return -cube.updated_at.timestamp(), cube.key or "", cube.id


def _cosines(vector: Vector, near: Sequence[Candidate]) -> list[float]:
    if not near:
        return []
    vectors = np.stack([c.vector for c in near if c.vector is not None]).astype(np.float64)
    sizes = np.linalg.norm(vectors, axis=1) * np.linalg.norm(vector.astype(np.float64))
    return [round(float(s), _DIGITS) for s in vectors @ vector / np.where(sizes == 0, 1, sizes)]


def _checked_offset(offset: Any) -> int:
    if isinstance(offset, bool) or not isinstance(offset, int) or offset < 0:
        raise InvalidArgument(f"offset: a whole number from 0 is needed, not {offset!r}")
    return min(offset, ALL // 2)
