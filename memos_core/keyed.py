"""What an item is as memories, and what there is to write when items are put. Pure.

An item is one memory, named by its owner, namespace and key; its first text is the memory's. Each further text is a passage:
a memory derived from it, with its value, access and life, numbered from 1 so that the next version of the item replaces it.
"""

from __future__ import annotations

from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass, replace
from datetime import datetime, timedelta
from typing import Any

from . import lifecycle, placement
from .codec import checked_attributes, checked_text
from .errors import InvalidArgument
from .types import Access, Item, Kind, Lifespan, Link, MemCube, Namespace, Origin, SourceKind, State, Text
from .validate import checked_end, checked_namespace

Name = tuple[Namespace, str]

PASSAGE = "passage"
"""Relation of a passage to its item, and its semantic type."""

_RENEWED = 100  # a life is renewed when a hundredth of it is over: each renewal writes


@dataclass(frozen=True, slots=True)
class Change:
    """A memory to be written: what it was (None: nothing), what it becomes, and what that is called in the log."""

    old: MemCube | None
    new: MemCube
    verb: str

    @property
    def says_new(self) -> bool:
        """Whether there are words in it that are not embedded yet."""
        return self.new.text != "" and (self.old is None or lifecycle.needs_vector(self.old, self.new))


def ids(names: Iterable[Name], who: str) -> list[str]:
    """The ids of an owner's items of these names."""
    found = []
    for name in names:
        if isinstance(name, str) or not isinstance(name, Sequence) or len(name) != 2:
            raise InvalidArgument(f"names: pairs of a namespace and a key are needed, not {name!r:.80}")
        found.append(placement.stable_id(who, checked_namespace(name[0]), "key", _checked_key(name[1])))
    return found


def passage_id(item: str, number: int) -> str:
    """The id of a passage of the item with this id."""
    return placement.stable_id(item, (), PASSAGE, str(number))


def item_of(passage: MemCube) -> str | None:
    """The id of the item that this is a passage of, if it is one."""
    return next((link.id for link in passage.lineage if link.relation == PASSAGE), None)


def drafted(item: Item, who: str, now: datetime) -> list[MemCube]:
    """The memory that an item makes where there is none yet, and after it its passages. Raises InvalidArgument."""
    if not isinstance(item, Item):
        raise InvalidArgument(f"items: an Item is needed, not {type(item).__name__}")
    if not isinstance(item.value, Mapping):
        raise InvalidArgument(f"value: a mapping is needed, not {type(item.value).__name__}")
    [id], end = ids([(item.namespace, item.key)], who), checked_end(item.ttl, now)
    text, *others = _checked_texts(item.texts) or [""]
    main = MemCube(
        id=id, version=1, kind=Kind.PLAINTEXT, state=State.GENERATED if text else State.ARCHIVED,
        namespace=tuple(item.namespace), payload=Text(text), origin=Origin(SourceKind.ITEM, stored_at=now), access=Access(who),
        created_at=now, updated_at=now, key=item.key, attributes=checked_attributes(item.value, "value"),
        lifespan=Lifespan(end, ttl=None if end is None else end - now),
    )  # fmt: skip
    passages = [
        replace(main, id=passage_id(id, n), key=None, payload=Text(t), semantic_type=PASSAGE)
        for n, t in enumerate(others, 1)
    ]
    return [main, *passages]


def changes(wanted: Mapping[str, Sequence[MemCube]], stored: Mapping[str, MemCube], now: datetime) -> list[Change]:
    """What there is to write.

    wanted: by id, items each with its passages behind it. stored: these items and all of their passages, as far as there are
    any. Passages that the item has no more are archived. Raises IllegalTransition for what is frozen.
    """
    passages: dict[str | None, list[MemCube]] = {}
    for cube in stored.values():
        passages.setdefault(item_of(cube), []).append(cube)
    found = []
    for id, (draft, *texts) in wanted.items():
        item = _becomes(stored.get(id), draft)
        found.append(item)
        kept = [_follows(text, item.new) for text in texts]
        found += [_becomes(stored.get(p.id), p) for p in kept if not _is_there(stored.get(p.id), p)]
        there = {p.id for p in kept}
        left = [p for p in passages.get(id, ()) if p.id not in there and p.state in lifecycle.SEARCHED]
        found += [Change(p, lifecycle.archive(p, now), "outdate") for p in left]
    return found


def renewed(cubes: Iterable[MemCube], ttl: timedelta | None, now: datetime) -> list[tuple[MemCube, MemCube]]:
    """Those whose life begins anew, as they are and as they will be. `ttl`: of this span; None for their own, if any."""
    pairs = []
    for cube in cubes:
        span, end = ttl or cube.lifespan.ttl, cube.lifespan.expires_at
        if span is None or cube.state is State.FROZEN or lifecycle.has_expired(cube, now):
            continue
        if end is None or abs(now + span - end) >= span / _RENEWED:
            pairs.append((cube, replace(cube, lifespan=replace(cube.lifespan, expires_at=now + span, ttl=span))))
    return pairs


def _becomes(old: MemCube | None, new: MemCube) -> Change:
    """What becomes of a memory that is put again: see `lifecycle.replaced`. Besides, who else may read an item stays as its
    owner said (unless its time was over: then it is another one), and so does its place in the order of creation."""
    if old is None:
        return Change(None, new, "add")
    access = new.access if new.key is None or lifecycle.has_expired(old, new.updated_at) else old.access
    origin = replace(new.origin, position=old.origin.position)
    again = lifecycle.replaced(old, replace(new, access=access, origin=origin))
    return Change(old, again if again.text else replace(again, state=State.ARCHIVED), "update")


def _follows(passage: MemCube, item: MemCube) -> MemCube:
    """A passage of just this version of its item."""
    origin = replace(passage.origin, provenance=item.provenance)
    return replace(passage, access=item.access, origin=origin, lineage=(Link(item.id, item.version, PASSAGE),))


def _is_there(stored: MemCube | None, passage: MemCube) -> bool:
    """Whether a stored passage says all that the new one does."""
    if stored is None or stored.state not in lifecycle.SEARCHED:
        return False
    return all(getattr(stored, n) == getattr(passage, n) for n in ("payload", "attributes", "lifespan", "access"))


def _checked_key(key: Any) -> str:
    if not isinstance(key, str):
        raise InvalidArgument(f"key: a string is needed, not {key!r:.80}")
    return checked_text(key, "key")


def _checked_texts(texts: Any) -> list[str]:
    """What there is to be found by, each once. A blank text finds nothing."""
    if isinstance(texts, str) or not isinstance(texts, Sequence) or not all(isinstance(t, str) for t in texts):
        raise InvalidArgument(f"texts: a tuple of strings is needed, not {texts!r:.80}")
    return list(dict.fromkeys(checked_text(t, "texts") for t in texts if t.strip()))
