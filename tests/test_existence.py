"""Whether there is a memory that an actor may not see shows neither in words nor in work: the same is done as if there were none."""

from __future__ import annotations

import sys
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import lancedb
import pytest

import memos_core
from memos_core import Access, MemOS, NotFound, Sensitivity
from tests.test_forgetting import keep_tensors
from tests.words import WordsEmbedder

OURS = tuple(str(Path(str(module.__file__)).parent) for module in (memos_core, lancedb))
ABSENT, OTHER = "00000000-0000-4000-8000-000000000000", "00000000-0000-4000-8000-000000000001"

VERBS: dict[str, Callable[[MemOS, str], Any]] = {
    "get": lambda memory, id: memory.get(id, actor="bob"),
    "get a version": lambda memory, id: memory.get(id, version=1, actor="bob"),
    "history": lambda memory, id: memory.history(id, actor="bob"),
    "lineage": lambda memory, id: memory.lineage(id, actor="bob"),
    "follow": lambda memory, id: memory.follow(id, actor="bob"),
    "log": lambda memory, id: memory.log(subject=id, actor="bob"),
    "update": lambda memory, id: memory.update(id, "mine now", actor="bob"),
    "restore": lambda memory, id: memory.restore(id, 1, actor="bob"),
    "share": lambda memory, id: memory.share(id, ["bob"], actor="bob"),
    "archive": lambda memory, id: memory.archive(id, actor="bob"),
    "freeze": lambda memory, id: memory.freeze(id, actor="bob"),
    "unfreeze": lambda memory, id: memory.unfreeze(id, actor="bob"),
    "delete": lambda memory, id: memory.delete(id, actor="bob"),
    "delete several": lambda memory, id: memory.delete([id, OTHER], actor="bob"),
    "fuse": lambda memory, id: memory.fuse([id, OTHER], actor="bob"),
    "dump": lambda memory, id: memory.dump(f"{memory.path}-dump", ids=[id], actor="bob"),
    "search": lambda memory, id: memory.search("secret tea", filter={"key": id}, actor="bob"),
    "brief": lambda memory, id: memory.brief("secret tea", actor="bob"),
    "archived": lambda memory, id: memory.archived(key=id, actor="bob"),
    "group": lambda memory, id: memory.members(id, actor="bob"),
}


def work(act: Callable[[], object]) -> tuple[list[tuple[str, str]], object]:
    """Every call that is made in the engine and in the database's package, in order, and what came of it, without ids."""
    calls: list[tuple[str, str]] = []

    def note(frame: Any, event: str, _: Any) -> None:
        if event == "call" and frame.f_code.co_filename.startswith(OURS):
            calls.append((frame.f_code.co_filename, frame.f_code.co_qualname))

    sys.setprofile(note)
    try:
        came = act()
    except NotFound as error:
        came = str(error)
    finally:
        sys.setprofile(None)
    return calls, came


@pytest.fixture(scope="module")
def hiding(tmp_path_factory: pytest.TempPathFactory) -> Iterator[tuple[MemOS, str]]:
    """A store, and the id of a memory in it that bob may not see."""
    path = tmp_path_factory.mktemp("hiding") / "store"
    with MemOS(path, embed=WordsEmbedder(), actor="ann", sensitivity=Sensitivity(lambda text: [])) as memory:
        [hidden] = memory.add("secret tea", key="key", access=Access("ann", frozenset({"cleo"})))
        memory.update(hidden.id, "secret tea, and milk")
        keep_tensors(memory, hidden, b"tensors")
        memory.group("red", ["cleo"])
        memory.add("bob's own tea", actor="bob")
        yield memory, hidden.id


@pytest.mark.parametrize("verb", VERBS)
def test_the_same_is_done_for_what_is_hidden_and_for_what_is_not_there(verb: str, hiding: tuple[MemOS, str]) -> None:
    memory, hidden = hiding
    name = {"search": "key", "archived": "key", "group": "red"}.get(verb, hidden)
    act = VERBS[verb]
    for id in (name, ABSENT):
        work(lambda id=id: act(memory, id))  # what is remembered from then on is remembered of both
    (one, found), (other, none) = (work(lambda id=id: act(memory, id)) for id in (name, ABSENT))
    assert one == other
    assert str(found).replace(name, "ID") == str(none).replace(ABSENT, "ID")
    assert len(one) > 5
