"""Memories from other systems into the store: which of them are new, which say something else now. Acts through the vault."""

from __future__ import annotations

from collections.abc import Callable, Iterable, Iterator, Sequence
from datetime import datetime
from itertools import islice

from . import lifecycle
from .codec import checked_attributes, checked_text
from .embedding import Embedding, spoken
from .errors import InvalidArgument
from .importers import Foreign
from .items import Items
from .placement import message_key
from .tables import Vector
from .types import Access, Item, Kind, MemCube, Namespace, Origin, SourceKind, State, Text
from .validate import checked_namespace, checked_tags, checked_word
from .vault import Vault
from .writing import Writer

_SOME = 500  # memories of one commit


class Bringer:
    """What comes into one store from elsewhere. Safe for many threads."""

    def __init__(
        self, vault: Vault, writer: Writer, embedding: Embedding, items: Items, clock: Callable[[], datetime]
    ) -> None:
        self._vault = vault
        self._writer = writer
        self._embedding = embedding
        self._items = items
        self._clock = clock

    def bring(
        self, who: str, memories: Iterable[Foreign | Item], where: Namespace, progress: Callable[[int, int], None]
    ) -> tuple[int, int]:
        """Take memories in, below a namespace; how many there were, and how many of them were new or had changed."""
        count = written = 0
        for some in _batches(memories):
            items = [m for m in some if isinstance(m, Item)]
            written += self._put(who, items, where) + self._add(
                who, [m for m in some if not isinstance(m, Item)], where
            )
            count += len(some)
            progress(count, count)
        return count, written

    def _put(self, who: str, items: Sequence[Item], where: Namespace) -> int:
        placed = [Item((*where, *i.namespace), i.key, i.value, i.texts, i.ttl) for i in items]
        there = self._items.get([(i.namespace, i.key) for i in placed], actor=who) if placed else []
        new = [i for i, known in zip(placed, there, strict=True) if known is None or known.attributes != i.value]
        self._items.put(new, actor=who)
        return len(new)

    def _add(self, who: str, memories: Sequence[Foreign], where: Namespace) -> int:
        drafts = {d.id: d for d in (self._draft(who, m, where) for m in memories)}
        there = {r.cube.id: r.cube for r in self._vault.by_ids(list(drafts))}
        vectors = self._vectors([d for d in drafts.values() if _is_news(there.get(d.id), d)])
        with self._vault.writing():
            there = {r.cube.id: r.cube for r in self._vault.by_ids(list(drafts))}
            news = [d for d in drafts.values() if _is_news(there.get(d.id), d)]
            vectors |= self._vectors([d for d in news if d.id not in vectors])
            old = [there.get(d.id) for d in news]
            now = self._clock()
            new = [d if o is None else lifecycle.revise(o, now, text=d.text) for o, d in zip(old, news, strict=True)]
            self._vault.put(old, new, [vectors[d.id] for d in news])
            known = [(o, n) for o, n in zip(old, new, strict=True) if o is not None]
            self._writer.tell(
                who, "add", [n for o, n in zip(old, new, strict=True) if o is None], now, detail="brought in"
            )
            self._writer.tell(who, "update", [n for _, n in known], now, detail="brought in")
            self._writer.carry_on([o for o, _ in known], [n for _, n in known], who)
        return len(new)

    def _vectors(self, cubes: Sequence[MemCube]) -> dict[str, Vector]:
        made = self._embedding.many([spoken(c.origin.speaker, c.text) for c in cubes])
        return dict(zip((c.id for c in cubes), made, strict=True))

    def _draft(self, who: str, memory: Foreign, where: Namespace) -> MemCube:
        if not isinstance(memory, Foreign):
            raise InvalidArgument(f"memories: what an importer reads is needed, not {type(memory).__name__}")
        namespace, now = checked_namespace((*where, *memory.namespace)), self._clock()
        if not memory.text.strip():
            raise InvalidArgument(f"memory {memory.id}: there is no text in it")
        session = checked_word(memory.session, "session")
        name = f"{memory.source}:{memory.id}"
        return MemCube(
            id=message_key(who, namespace, session, name), version=1, kind=Kind.PLAINTEXT, state=State.GENERATED, namespace=namespace,
            payload=Text(checked_text(memory.text, "text")),
            origin=Origin(
                SourceKind.IMPORT, stored_at=now, occurred_at=memory.occurred_at, role=memory.role, speaker=checked_word(memory.speaker, "name"),
                session=session, position=memory.position, message_id=name, source=memory.source,
            ),
            access=Access(who), created_at=now, updated_at=now, semantic_type=checked_word(memory.semantic_type, "semantic_type"),
            tags=checked_tags(memory.tags), attributes=checked_attributes(memory.attributes),
        )  # fmt: skip


def _is_news(there: MemCube | None, draft: MemCube) -> bool:
    """Whether it is not here, or says something else there than when it was brought in. What was changed here stays as it is here."""
    return there is None or (there.version == 1 and there.text != draft.text and there.state is not State.FROZEN)


def _batches(memories: Iterable[Foreign | Item]) -> Iterator[list[Foreign | Item]]:
    rest = iter(memories)
    while some := list(islice(rest, _SOME)):
        yield some
