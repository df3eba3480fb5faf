"""The searches of the store's bench: the engine's, cold, warm and without a resident set, and its baselines'."""

from __future__ import annotations

import time
from collections.abc import Callable
from contextlib import closing
from dataclasses import asdict
from typing import NoReturn

import numpy as np

from ..sites import Folder
from ..types import Access, Policy
from ..vault import Vault
from ..working_set import Scope
from . import Timing, baselines, progress
from .synthetic import WIDTH, Memories
from .trial import AUDITOR, SMALL, Questions, Run, Target, search_once


def load(run: Run, name: str, memories: Memories) -> list[str]:
    """Add session by session, as it would have come; the ids by row."""
    ids: list[str] = []
    with run.store(name) as memory:
        start = time.perf_counter()
        for rows in memories.conversations():
            first = rows[0]
            added = memory.add(
                [memories.message(r) for r in rows], namespace=(memories.users[first],), actor=memories.users[first],
                session=memories.sessions[first], access=Access(memories.users[first], frozenset({AUDITOR})),
            )  # fmt: skip
            ids += [cube.id for cube in added]
            if len(ids) % 10_000 < len(rows):
                progress(
                    f"loaded {len(ids):,} of {len(memories):,} ({len(ids) / (time.perf_counter() - start):,.0f}/s)"
                )
        seconds = time.perf_counter() - start
        start = time.perf_counter()
        while not memory.tick().compacted:  # somebody else is at it: what was added last may still wait for the next
            time.sleep(0.1)
        upkeep = time.perf_counter() - start
    run.results.setdefault("load", []).append({
        "memories": len(ids), "seconds": round(seconds, 1), "per_second": round(len(ids) / seconds),
        "tick_seconds": round(upkeep, 1),
    })  # fmt: skip
    return ids


def search(run: Run, asked: Questions, asked_few: Questions) -> None:
    """Of one user's part and of the whole, in the large store and in the small one in turns."""
    n, users = len(asked.memories), list(asked.memories.rows)
    one, whole = _labels(asked.memories)
    with run.store("large") as many, run.store("small") as few:
        progress("memos: first searches")
        cold = [search_once(many, asked.texts[0], u)[0] for u in users[-20:]]
        run.searched("memos", f"first of {one}", cold)
        run.searched("memos", f"first of {whole}", [search_once(many, asked.texts[0], AUDITOR)[0]])
        for label, limit in ((one, 10.0), (whole, 30.0)):
            progress(f"memos: searching {label}")
            times: list[float] = []
            times_few: list[float] = []
            found = 0
            for i, text in enumerate(asked.texts):
                who, who_few = (asked.owner(i), asked_few.owner(i)) if label == one else (AUDITOR, AUDITOR)
                seconds, texts = search_once(many, text, who)
                times.append(seconds)
                found += asked.wanted(i) in texts
                times_few.append(search_once(few, asked_few.texts[i], who_few)[0])
            at_many = run.searched("memos", label, times, found / len(times))
            at_few = run.searched("memos", label.replace(f"{n:,}", f"{SMALL:,}"), times_few)
            run.targets.append(Target(f"search, {label}: p50 ms", at_many.p50, limit))
            run.targets.append(Target(f"search, {label}: times that at {SMALL:,}", at_many.p50 / at_few.p50, 3.0))


def _labels(memories: Memories) -> tuple[str, str]:
    """One user's part, and the whole, in words."""
    return f"one user's {len(memories) // len(memories.rows):,} among {len(memories):,}", f"all {len(memories):,}"


def candidates(run: Run, asked: Questions) -> None:
    """One user's part when nothing is kept in memory."""
    progress("memos: searching without a resident set")
    with run.store("large", Policy(resident_memories=0)) as memory:

        def search(i: int, user: str | None) -> list[str]:
            return search_once(memory, asked.texts[i], user or AUDITOR)[1]

        _compare(run, "memos, not resident", asked, 0, search)


def recall(run: Run, asked: Questions, ids: list[str]) -> None:
    """Of the arm that brings candidates by vector, against exact search."""
    progress("memos: recall of the vector arm")
    memories = asked.memories
    with closing(Vault(Folder(run.folder / "large"), Policy(), _unneeded)) as vault:
        for label in _labels(memories):
            shares, times = [], []
            for i, vector in enumerate(asked.vectors):
                whole, user = label.startswith("all"), asked.owner(i)
                rows = np.arange(len(memories)) if whole else np.array(memories.rows[user])
                where = Scope.of(AUDITOR if whole else user, () if whole else (user,)).where
                start = time.perf_counter()
                near = {row.cube.id for row in vault.near(vector, where, 10)}
                times.append(time.perf_counter() - start)
                exact = rows[np.argsort(-(memories.vectors[rows] @ vector))[:10]]
                shares.append(len({ids[r] for r in exact} & near) / 10)
            found = float(np.mean(shares))
            run.results.setdefault("recall", {})[label] = {"recall_at_10": found, **asdict(Timing.of(times))}
            run.targets.append(Target(f"vector recall@10 against exact, {label}", found, 0.98, at_least=True))


def _unneeded() -> NoReturn:
    raise AssertionError("the store is there")


def lancedb(run: Run, asked: Questions) -> None:
    """Of a plain LanceDB table with the same texts and vectors."""
    memories = asked.memories
    progress("raw LanceDB")
    raw = baselines.LanceTable(str(run.folder / "raw"), memories.texts, memories.vectors, memories.users)

    def search(i: int, user: str | None) -> list[str]:
        return [memories.texts[row] for row in raw.hybrid(asked.texts[i], asked.vectors[i], 10, user)]

    _compare(run, "LanceDB hybrid (RRF)", asked, len(asked.texts), search)


def langgraph(run: Run, part: str, asked: Questions) -> None:
    """Of LangGraph's store in memory, or of the one in SQLite."""
    kept = part == "inmemory"
    name = f"LangGraph {'InMemoryStore' if kept else 'SqliteStore'} (dense)"
    if not baselines.installed(*(["langgraph.store.memory"] if kept else ["langgraph.store.sqlite", "sqlite_vec"])):
        run.leave_out(f"{name}: not installed")
        return
    if not kept and baselines.sqlite_driver() is None:
        run.leave_out(f"{name}: this Python's sqlite3 cannot load extensions; pip install pysqlite3-binary")
        return
    progress(name)
    path = None if kept else str(run.folder / "langgraph.db")
    with baselines.langgraph_store(path, asked.memories.texts, asked.memories.users, run.lookup, WIDTH) as search:
        # over all of 100,000 InMemoryStore takes seconds a search: fewer will do
        _compare(run, name, asked, 20 if kept else len(asked.texts), lambda i, user: search(asked.texts[i], user))


def _compare(run: Run, name: str, asked: Questions, whole: int, search: Callable[[int, str | None], list[str]]) -> None:
    """One user's part with all questions, then the whole with `whole` of them."""
    for label, count in zip(_labels(asked.memories), (len(asked.texts), whole), strict=True):
        times, found = [], 0
        for i in range(count):
            user = None if label.startswith("all") else asked.owner(i)
            start = time.perf_counter()
            texts = search(i, user)
            times.append(time.perf_counter() - start)
            found += asked.wanted(i) in texts
        if count:
            run.searched(name, label, times, found / count)
