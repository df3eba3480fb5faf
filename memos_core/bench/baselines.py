"""What the engine is measured against, in the same run and on the same vectors: exact dense search, BM25, the two added,
LanceDB's own hybrid search, and LangGraph's stores.

A ranking is `(question, its vector, k) -> row numbers, best first`. Packages that are not installed are left out by name.
"""

from __future__ import annotations

import re
from collections import Counter
from collections.abc import Callable, Iterator, Sequence
from contextlib import ExitStack, closing, contextmanager
from datetime import timedelta
from importlib import import_module
from importlib.util import find_spec
from typing import Any

import numpy as np

from . import Vectors

Ranking = Callable[[str, Vectors, int], list[int]]
Scores = np.ndarray[Any, np.dtype[np.float64]]
Search = Callable[[str, str | None], list[str]]  # a question, in one user's memories or in all; the texts found

_WORD = re.compile(r"\w+")
_ROWS = 1_000  # rows a batch: SQLite takes a limited number of values in one statement
INDEX_FROM = 20_000  # rows from which the reference advises a vector index


def dense(vectors: Vectors) -> Ranking:
    """Exact cosine."""
    unit = vectors / np.linalg.norm(vectors, axis=1, keepdims=True)
    return lambda question, vector, k: _best(unit @ vector, k)


def lexical(texts: Sequence[str]) -> Ranking:
    """BM25 alone."""
    words = BM25(texts)
    return lambda question, vector, k: _best(words.scores(question), k)


def added(texts: Sequence[str], vectors: Vectors, share: float = 0.5) -> Ranking:
    """Dense and BM25 scores, each scaled to [0, 1] for the question, added with fixed weights."""
    words = BM25(texts)
    unit = vectors / np.linalg.norm(vectors, axis=1, keepdims=True)

    def rank(question: str, vector: Vectors, k: int) -> list[int]:
        both = share * _scaled(unit @ vector) + (1 - share) * _scaled(words.scores(question))
        return _best(both, k)

    return rank


class BM25:
    """Okapi BM25 (Robertson & Zaragoza 2009) over folded words, nothing stemmed or left out."""

    def __init__(self, texts: Sequence[str], k1: float = 1.2, b: float = 0.75) -> None:
        self._k1 = k1
        counts = [Counter(_words(t)) for t in texts]
        lengths = np.array([sum(c.values()) for c in counts], float)
        self._norm = k1 * (1 - b + b * lengths / max(float(lengths.mean()), 1.0))
        self._postings: dict[str, list[tuple[int, int]]] = {}
        for row, found in enumerate(counts):
            for word, times in found.items():
                self._postings.setdefault(word, []).append((row, times))

    def scores(self, question: str) -> Scores:
        """One score a text."""
        total = np.zeros(len(self._norm))
        for word in dict.fromkeys(_words(question)):
            if word in self._postings:
                rows, times = (np.array(x) for x in zip(*self._postings[word], strict=True))
                rarity = np.log1p((len(total) - len(rows) + 0.5) / (len(rows) + 0.5))
                total[rows] += rarity * times * (self._k1 + 1) / (times + self._norm[rows])
        return total


class LanceHybrid:
    """A plain LanceDB table with its full-text index, its vector index from 20,000 rows on, and its hybrid search with the
    default fusion (reciprocal ranks)."""

    def __init__(self, path: str, texts: Sequence[str], vectors: Vectors, users: Sequence[str] | None = None) -> None:
        import lancedb  # a baseline: the engine itself knows it in `vault` alone
        import pyarrow as pa
        from lancedb.index import FTS, Bitmap, IvfSq

        width = vectors.shape[1]
        flat = pa.FixedSizeListArray.from_arrays(pa.array(np.ascontiguousarray(vectors, np.float32).ravel()), width)
        columns = {"row": pa.array(range(len(texts))), "text": pa.array(texts), "vector": flat}
        columns["user"] = pa.array(users or [""] * len(texts))
        # as the engine opens it: every read sees what any process wrote
        self._table = lancedb.connect(path, read_consistency_interval=timedelta(0)).create_table(
            "raw", data=pa.table(columns)
        )
        self._table.create_index("text", config=FTS())
        self._table.create_index("user", config=Bitmap())
        self.indexed = len(texts) >= INDEX_FROM
        if self.indexed:
            self._table.create_index("vector", config=IvfSq(distance_type="cosine"))

    def rank(self, question: str, vector: Vectors, k: int, user: str | None = None) -> list[int]:
        """Row numbers, best first."""
        query = self._table.search(query_type="hybrid").vector(vector).text(" ".join(_words(question)))
        query = query.distance_type("cosine").refine_factor(5) if self.indexed else query.distance_type("cosine")
        if user is not None:
            query = query.where(f"user = '{user}'")
        return query.limit(k).to_arrow()["row"].to_pylist()  # type: ignore[no-any-return]


@contextmanager
def langgraph_store(
    path: str | None, texts: Sequence[str], users: Sequence[str], embed: Callable[[Sequence[str]], Vectors], width: int
) -> Iterator[Search]:
    """LangGraph's SqliteStore (with sqlite-vec) in a file, or its InMemoryStore without one: exact dense search."""
    # lists of floats, as its contract says: that is what it is given in use
    index: Any = {"dims": width, "embed": lambda texts: embed(list(texts)).tolist(), "fields": ["text"]}
    with ExitStack() as stack:
        if path is None:
            from langgraph.store.memory import InMemoryStore

            store: Any = InMemoryStore(index=index)
        else:
            from langgraph.store.sqlite import SqliteStore

            driver = sqlite_driver()
            assert driver is not None
            connection = stack.enter_context(
                closing(driver.connect(path, check_same_thread=False, isolation_level=None))
            )
            store = SqliteStore(connection, index=index)
            store.setup()
        _load(store, texts, users)

        def search(question: str, user: str | None) -> list[str]:
            where = ("memories",) if user is None else ("memories", user)
            return [item.value["text"] for item in store.search(where, query=question, limit=10)]

        yield search


def sqlite_driver() -> Any:
    """Python's sqlite3, or, where that was built without loading of extensions, pysqlite3; None if neither can."""
    for name in ("sqlite3", "pysqlite3.dbapi2"):
        if installed(name.partition(".")[0]):
            driver = import_module(name)
            if hasattr(driver.Connection, "enable_load_extension"):
                return driver
    return None


def installed(*modules: str) -> bool:
    """Whether all of these can be imported."""
    try:
        return all(find_spec(m) is not None for m in modules)
    except ModuleNotFoundError:  # a parent package is missing
        return False


def _load(store: Any, texts: Sequence[str], users: Sequence[str]) -> None:
    from langgraph.store.base import PutOp

    for start in range(0, len(texts), _ROWS):
        rows = range(start, min(start + _ROWS, len(texts)))
        store.batch([PutOp(("memories", users[r]), str(r), {"text": texts[r]}) for r in rows])


def _words(text: str) -> list[str]:
    return _WORD.findall(text.casefold())


def _scaled(scores: Any) -> Scores:
    low, high = float(scores.min()), float(scores.max())
    return np.asarray((scores - low) / max(high - low, 1e-9), float)


def _best(scores: Any, k: int) -> list[int]:
    return np.argsort(-scores, kind="stable")[:k].tolist()  # type: ignore[no-any-return]
