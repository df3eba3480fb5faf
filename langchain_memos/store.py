"""A LangGraph store over the engine: `MemOSStore`.

Translates operations into `MemOS.items` and back. What is kept, found, filtered and expired, the engine says.
"""

from __future__ import annotations

import asyncio
import os
from collections.abc import Iterable, Mapping, Sequence
from concurrent.futures import Future
from datetime import timedelta
from types import TracebackType
from typing import Any, Self

from langgraph.store.base import (
    BaseStore,
    GetOp,
    IndexConfig,
    InvalidNamespaceError,
    Item,
    ListNamespacesOp,
    MatchCondition,
    Op,
    PutOp,
    Result,
    SearchItem,
    SearchOp,
    TTLConfig,
    get_text_at_path,
    tokenize_path,
)

from memos_core import InvalidArgument, Items, MemCube, MemOS, Namespace, SourceKind
from memos_core import Item as Kept

from .engine import Engine
from .identity import checked_user
from .sweeper import Sweeper

_WHOLE = "$"  # the path of a value itself
_EVERY = 5  # minutes between two sweeps, if nobody says otherwise
_UNFIT = frozenset("'\"`\\;(){}[]")  # in the name of a filter: what reads like a path expression or a query


class MemOSStore(BaseStore):  # type: ignore[misc]  # LangGraph is untyped to this checker
    """Long-term memory as a LangGraph store: values by namespace and key, with semantic search, filters and time to live.

    Setup:
        ``pip install 'memos-adapters[offline,langchain]'`` (``[langchain]`` alone if you bring your own embedder).

    Instantiate:
        >>> from langchain_memos import MemOSStore
        >>> store = MemOSStore("memories")                                              # doctest: +SKIP

    Invoke:
        >>> store.put(("users", "ann"), "tea", {"content": "Ann takes her tea with lemon."})  # doctest: +SKIP
        >>> store.search(("users", "ann"), query="How does she take her tea?")          # doctest: +SKIP

    Async:
        ``await store.aput(...)``, ``await store.asearch(...)``; the engine works in a thread, never on the event loop.

    Use in an agent:
        >>> agent = create_agent(model, tools, store=store)                             # doctest: +SKIP

        and likewise ``graph.compile(store=store)``. LangMem's tools run on it unchanged.

    An item is a memory like any other: what a graph puts, `MemOS.search` and every other adapter recall, and what was added by
    `MemOS.add(..., key=...)` is an item here, whose value is ``{"content": text, **attributes}``. An item is found by the texts
    at its `index` paths. The whole value ("$", the default) reads as sorted JSON, but for a value whose only member is a
    string, such as LangMem's ``{"content": "..."}``: that reads as the string, which is what a model should be shown.

    Where LangGraph's own stores disagree: `created_at` outlasts an update; without a query the last changed comes first; an
    expired item is gone at once; namespaces without items are not listed; values are copied; comparing what cannot be compared
    is no match; a dotted filter name means first the member of that name, then the nested one; items without a vector come
    last, without a score, and only to fill a page. A batch reads what was there before it, then writes; of several puts under
    one key the last wins. What a value holds must be JSON (numbers finite and of 64 bits).

    All items are one actor's: a namespace is all that keeps users apart, as in LangGraph's own stores. On a LangGraph server, name it
    after whom the server authenticated, such as LangMem's ``("memories", "{langgraph_auth_user_id}")``, never after what a client
    sends, and guard the store's own routes by ``@auth.on.store``.

    One instance serves any number of threads and tasks.

    Args:
        memory: a `MemOS`, or the path of one, opened at first use.
        embed: the embedder, for a path: `Embeddings`, a function (also an async one), "provider:model", or whatever `MemOS`
            takes.
        index: LangGraph's `IndexConfig`: `fields` are the paths that are embedded; `embed` is the embedder, unless given
            above; `dims` is what the embedder says.
        ttl: LangGraph's `TTLConfig`, in minutes. Expired items are always omitted. Reading renews a life when a hundredth of
            it is over.
        actor: whose items these are; None: the actor of the `MemOS`.

    Raises:
        InvalidArgument: for an argument; both a `MemOS` and an embedder.
        InvalidNamespaceError: of a call, for a namespace that LangGraph forbids.
        StoreClosed: of a call, if the `MemOS` that was given is closed.
    """

    supports_ttl = True

    def __init__(
        self,
        memory: MemOS | str | os.PathLike[str],
        *,
        embed: Any = None,
        index: IndexConfig | None = None,
        ttl: TTLConfig | None = None,
        actor: str | None = None,
    ) -> None:
        index = _checked_config(index, "index")
        if embed is not None and index.get("embed") is not None:
            raise InvalidArgument("embed: it is given twice, as embed= and in index")
        self._engine = Engine(memory, index.get("embed") if embed is None else embed)
        self._paths = [_path(p) for p in _checked_paths(index.get("fields") or [_WHOLE])]
        self._actor = None if actor is None else checked_user(actor)
        self.ttl_config = _checked_ttl(ttl)
        self._sweeper = Sweeper(self.sweep_ttl)

    @property
    def memory(self) -> MemOS:
        """The engine, opened now if it was not yet."""
        return self._engine.memory

    # --- operations ----------------------------------------------------------------------------------------------------

    def batch(self, ops: Iterable[Op]) -> list[Result]:
        """Carry out operations: first all that read, then all that write.

        Raises InvalidNamespaceError or InvalidArgument for one of them, before any is carried out.
        """
        checked = [_checked(op) for op in ops]
        kept, gone = self._writes(op for op in checked if isinstance(op, PutOp))
        results: list[Result] = [None] * len(checked)
        items, read = self.memory.items, []
        gets = [(i, op) for i, op in enumerate(checked) if isinstance(op, GetOp) and op.namespace]
        found = items.get([(op.namespace, op.key) for _, op in gets], actor=self._actor)
        for (i, op), cube in zip(gets, found, strict=True):
            results[i] = None if cube is None else Item(**_fields(cube))
            read += [cube] if cube is not None and op.refresh_ttl else []
        for i, op in enumerate(checked):
            if isinstance(op, SearchOp):
                hits = self._search(items, op)
                results[i] = [SearchItem(**_fields(cube), score=score) for cube, score in hits]
                read += [cube for cube, _ in hits] if op.refresh_ttl else []
            elif isinstance(op, ListNamespacesOp):
                results[i] = self._namespaces(items, op)
        if mortal := [(c.namespace, c.key or "") for c in read if c.lifespan.ttl is not None]:
            items.touch(mortal, actor=self._actor)
        if kept:
            items.put(kept, actor=self._actor)
        if gone:
            items.delete(gone, actor=self._actor)
        return results

    async def abatch(self, ops: Iterable[Op]) -> list[Result]:
        """`batch`, beside the event loop."""
        return await asyncio.to_thread(self.batch, list(ops))

    # --- time to live ----------------------------------------------------------------------------------------------------

    def sweep_ttl(self) -> int:
        """Remove expired items for good; how many. Until then they only cannot be seen."""
        return self.memory.items.sweep(actor=self._actor)

    def start_ttl_sweeper(self, sweep_interval_minutes: float | None = None) -> Future[None]:
        """Sweep again and again: after so many minutes each, or as the configuration says, or else five.

        Returns a future that is done when the sweeper has stopped, and whose cancelling stops it; without a `TTLConfig` nothing
        is started, as with LangGraph's stores.
        """
        if not self.ttl_config:
            done: Future[None] = Future()
            done.set_result(None)
            return done
        return self._sweeper.start(
            sweep_interval_minutes or self.ttl_config.get("sweep_interval_minutes") or float(_EVERY)
        )

    def stop_ttl_sweeper(self, timeout: float | None = None) -> bool:
        """Stop sweeping; whether it has stopped within so many seconds (None: wait as long as it takes)."""
        return self._sweeper.stop(timeout)

    # --- life ------------------------------------------------------------------------------------------------------------

    def setup(self) -> None:
        """Open the store, and make it if there is none yet. The first use does so too."""
        _ = self.memory

    def close(self) -> None:
        """Stop sweeping, and let go of the store if it was opened here, by its path."""
        self._sweeper.stop()
        self._engine.close()

    def __enter__(self) -> Self:
        return self

    def __exit__(self, kind: type[BaseException] | None, error: BaseException | None, at: TracebackType | None) -> None:
        self.close()

    async def __aenter__(self) -> Self:
        return self

    async def __aexit__(
        self, kind: type[BaseException] | None, error: BaseException | None, at: TracebackType | None
    ) -> None:
        await asyncio.to_thread(self.close)

    # --- below the operations --------------------------------------------------------------------------------------------

    def _writes(self, ops: Iterable[PutOp]) -> tuple[list[Kept], list[tuple[Namespace, str]]]:
        """What to put and what to delete, the last of each name."""
        last = {(op.namespace, op.key): op for op in ops}
        kept = [
            Kept(namespace, key, op.value, self._texts(op), None if op.ttl is None else _minutes(op.ttl))
            for (namespace, key), op in last.items()
            if op.value is not None
        ]
        return kept, [name for name, op in last.items() if op.value is None and name[0]]

    def _texts(self, op: PutOp) -> tuple[str, ...]:
        """What an item is found by."""
        if op.index is False:
            return ()
        if not isinstance(op.value, Mapping):
            raise InvalidArgument(f"value: a mapping is needed, not {type(op.value).__name__}")
        paths = self._paths if op.index is None else [_path(p) for p in _checked_paths(op.index)]
        try:
            return tuple(text for path in paths for text in _texts_at(op.value, path))
        except (TypeError, ValueError, RecursionError) as error:
            raise InvalidArgument(f"value: what is put under {op.key!r:.80} is not plain JSON: {error}") from None

    def _search(self, items: Items, op: SearchOp) -> list[tuple[MemCube, float | None]]:
        where, limit, offset = op.namespace_prefix, op.limit, op.offset
        if limit < 1:
            return []
        filter = _checked_filter(op.filter)
        if not op.query or not op.query.strip():
            cubes = items.list(where, actor=self._actor, filter=filter, limit=limit, offset=offset)
            return [(cube, None) for cube in cubes]
        hits = items.search(op.query, where, actor=self._actor, filter=filter, limit=offset + limit)
        found: list[tuple[MemCube, float | None]] = [(h.cube, h.score) for h in hits]
        if len(found) < offset + limit:  # that is all that has a vector
            there = {cube.id for cube, _ in found}
            others = items.list(where, actor=self._actor, filter=filter, limit=offset + limit)
            found += [(cube, None) for cube in others if cube.id not in there]
        return found[offset : offset + limit]

    def _namespaces(self, items: Items, op: ListNamespacesOp) -> list[Namespace]:
        conditions = op.match_conditions or ()
        prefix = next((_literal(c.path) for c in conditions if c.match_type == "prefix"), ())
        found = {ns for ns in items.namespaces(prefix, actor=self._actor) if all(_matches(c, ns) for c in conditions)}
        if op.max_depth is not None:
            found = {ns[: op.max_depth] for ns in found}
        return sorted(found)[op.offset : op.offset + op.limit]


def _checked(op: Op) -> Op:
    """An operation with its names as they are kept."""
    if isinstance(op, GetOp | PutOp):
        op = op._replace(namespace=_labels(op.namespace), key=str(op.key))
    elif isinstance(op, SearchOp):
        op = op._replace(namespace_prefix=_labels(op.namespace_prefix))
        for name, value in (("limit", op.limit), ("offset", op.offset)):
            if isinstance(value, bool) or not isinstance(value, int) or (name == "offset" and value < 0):
                raise InvalidArgument(f"{name}: a whole number is needed, not {value!r:.80}")
        if op.query is not None and not isinstance(op.query, str):
            raise InvalidArgument(f"query: a string is needed, not {op.query!r:.80}")
    elif isinstance(op, ListNamespacesOp):
        conditions = tuple(c._replace(path=_labels(c.path)) for c in op.match_conditions or ())
        if unknown := [c.match_type for c in conditions if c.match_type not in ("prefix", "suffix")]:
            raise InvalidArgument(f"match_conditions: {unknown[0]!r:.80} is neither 'prefix' nor 'suffix'")
        op = op._replace(match_conditions=conditions)
    else:
        raise InvalidArgument(f"ops: {type(op).__name__} is no operation of a store")
    # what LangGraph's `put` refuses, because operations may come without passing there
    if isinstance(op, PutOp) and op.value is not None and op.namespace[:1] in ((), ("langgraph",)):
        raise InvalidNamespaceError(
            f"namespace: nothing can be put into {op.namespace!r:.80}: it is empty or LangGraph's own"
        )
    return op


def _labels(namespace: Any) -> Namespace:
    """A namespace as a tuple, held to what LangGraph asks of labels (its newest stores check operations too)."""
    if isinstance(namespace, str) or not isinstance(namespace, Sequence):
        raise InvalidNamespaceError(
            f"namespace: a tuple of labels is needed, such as ('users', 'ann'), not {namespace!r:.80}"
        )
    for label in namespace:
        if not isinstance(label, str) or not label or "." in label or "\0" in label:
            raise InvalidNamespaceError(
                f"namespace: labels are non-empty strings without '.' and NUL, not {label!r:.80}"
            )
    return tuple(namespace)


def _fields(cube: MemCube) -> dict[str, Any]:
    """A memory as an item. What was added by `MemOS.add` has its text beside its attributes."""
    own = cube.origin.kind is SourceKind.ITEM
    value = dict(cube.attributes) if own else {"content": cube.text, **cube.attributes}
    return {
        "value": value, "key": cube.key, "namespace": cube.namespace, "created_at": cube.created_at, "updated_at": cube.updated_at,
    }  # fmt: skip


def _texts_at(value: Mapping[str, Any], path: list[str] | str) -> list[str]:
    if path == _WHOLE and len(value) == 1:
        [only] = value.values()
        if isinstance(only, str):
            return [only]
    return get_text_at_path(value, path)  # type: ignore[no-any-return]


def _path(path: str) -> list[str] | str:
    return path if path == _WHOLE else tokenize_path(path)


def _literal(path: Namespace) -> Namespace:
    """The labels before the first wildcard."""
    return path[: path.index("*")] if "*" in path else path


def _matches(condition: MatchCondition, namespace: Namespace) -> bool:
    path = condition.path
    if len(namespace) < len(path):
        return False
    start = 0 if condition.match_type == "prefix" else len(namespace) - len(path)
    return all(wanted in ("*", label) for wanted, label in zip(path, namespace[start:], strict=False))


def _minutes(ttl: Any) -> timedelta:
    if isinstance(ttl, bool) or not isinstance(ttl, int | float):
        raise InvalidArgument(f"ttl: minutes are needed, not {ttl!r:.80}")
    try:
        return timedelta(minutes=ttl)
    except (OverflowError, ValueError):
        raise InvalidArgument(f"ttl: {ttl!r} minutes are no span of time") from None


def _checked_filter(filter: Any) -> Any:
    """Refuse names that read like something else than a name; the rest the engine checks."""
    for name in filter if isinstance(filter, Mapping) else ():
        if isinstance(name, str) and (not name.isprintable() or not _UNFIT.isdisjoint(name)):
            raise InvalidArgument(f"Invalid filter key: {name!r:.80}: names of members, with dots between, are meant")
    return filter


def _checked_paths(paths: Any) -> list[str]:
    if isinstance(paths, str) or not isinstance(paths, Sequence) or not all(isinstance(p, str) and p for p in paths):
        raise InvalidArgument(f"index: a list of paths is needed, such as ['content'], not {paths!r:.80}")
    return list(paths)


def _checked_config(config: Any, argument: str) -> Any:
    if config is not None and not isinstance(config, Mapping):
        raise InvalidArgument(f"{argument}: a mapping is needed, not {type(config).__name__}")
    return dict(config or {})


def _checked_ttl(ttl: Any) -> TTLConfig | None:
    config = _checked_config(ttl, "ttl")
    for name in ("default_ttl", "sweep_interval_minutes"):
        value = config.get(name)
        if value is not None and _minutes(value) <= timedelta(0):
            raise InvalidArgument(f"ttl: {name} is a number of minutes above 0, not {value!r}")
    return config or None
