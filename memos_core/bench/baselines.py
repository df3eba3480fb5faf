"""What the engine is measured against, in the same run and on the same vectors: exact dense search, BM25, the two added,
LanceDB's own hybrid search, and LangGraph's stores.

A ranking is `(question, its vector, k) -> row numbers, best first`. Packages that are not installed are left out by name.
"""

from __future__ import annotations

import re
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


def rankings(folder: str, texts: Sequence[str], vectors: Vectors) -> dict[str, Ranking]:
    """All that rank one list of texts, by name."""
    lance = LanceTable(folder, texts, vectors)
    unit = vectors / np.linalg.norm(vectors, axis=1, keepdims=True)

    def dense(question: str, vector: Vectors, k: int) -> list[int]:
        return _best(unit @ vector, k)

    def added(question: str, vector: Vectors, k: int) -> list[int]:
        return _best(_scaled(unit @ vector) + _scaled(lance.word_scores(question)), k)

    return {
        "exact dense": dense,
        "BM25 (LanceDB)": lambda question, vector, k: _best(lance.word_scores(question), k),
        "dense + BM25, half each": added,
        "LanceDB hybrid (RRF)": lance.hybrid,
    }


class LanceTable:
    """A plain LanceDB table with its full-text index (BM25 over English stems) and, from 20,000 rows on, a vector index."""

    def __init__(self, path: str, texts: Sequence[str], vectors: Vectors, users: Sequence[str] | None = None) -> None:
        import lancedb  # a baseline: the engine itself knows it in `vault` alone
        import pyarrow as pa
        from lancedb.index import FTS, Bitmap, IvfSq

        self._rows, width = vectors.shape
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

    def word_scores(self, question: str) -> Scores:
        """BM25 of every row; 0 where no word is shared."""
        found = self._table.search(_words(question), query_type="fts").limit(self._rows).to_arrow()
        scores = np.zeros(self._rows)
        scores[found["row"].to_numpy()] = found["_score"].to_numpy()
        return scores

    def hybrid(self, question: str, vector: Vectors, k: int, user: str | None = None) -> list[int]:
        """Row numbers by its hybrid search with the default fusion (reciprocal ranks), best first."""
        query = self._table.search(query_type="hybrid").vector(vector).text(_words(question))
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
    index: Any = {"dims": width, "embed": lambda texts: embed(list(texts)).tolist()}
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
        # the field is named with each memory: SqliteStore passes over the one in its configuration
        store.batch([PutOp(("memories", users[r]), str(r), {"text": texts[r]}, ["text"]) for r in rows])


def _words(text: str) -> str:
    """Without quotes: a question in quotes would be a phrase."""
    return " ".join(_WORD.findall(text))


def _scaled(scores: Any) -> Scores:
    low, high = float(scores.min()), float(scores.max())
    return np.asarray((scores - low) / max(high - low, 1e-9), float)


def _best(scores: Any, k: int) -> list[int]:
    return np.argsort(-scores, kind="stable")[:k].tolist()  # type: ignore[no-any-return]
