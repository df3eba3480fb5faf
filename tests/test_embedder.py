"""An embedder is held to its contract and to its store."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from pathlib import Path
from typing import Any

import numpy as np
import pytest

from memos_core import EmbedderFailed, EmbedderMismatch, MemOS, Policy
from memos_core.reembed import reembed
from tests.words import WordsEmbedder


def test_another_embedder_is_refused_by_name(open_store: Callable[..., MemOS]) -> None:
    with open_store(embed=WordsEmbedder()) as memory:
        memory.add("tea")
    for other in (WordsEmbedder(salt="x"), WordsEmbedder(32)):
        with pytest.raises(EmbedderMismatch, match="memosctl reembed"):
            open_store(embed=other)
    assert open_store(embed=WordsEmbedder()).search("tea")


@pytest.mark.parametrize("made", ["words", None])
@pytest.mark.parametrize("other", [{"salt": "x"}, {"dimension": 32}])
def test_without_a_fingerprint_its_vectors_tell(
    made: str | None, other: dict[str, Any], open_store: Callable[..., MemOS]
) -> None:
    with open_store(embed=WordsEmbedder(fingerprint=made)) as memory:
        memory.add("tea")
    for use in (lambda memory: memory.search("tea"), lambda memory: memory.add("cake")):
        with pytest.raises(EmbedderMismatch, match="reembed"):  # at opening, or with the first text
            use(open_store(embed=WordsEmbedder(fingerprint=None, **other)))
    same = open_store(embed=WordsEmbedder(fingerprint=made))
    assert [h.cube.text for h in same.search("tea")] == ["tea"]
    assert same.stats().memories == 1


class Broken(WordsEmbedder):
    """Right until it is told to break."""

    how: Callable[[np.ndarray], Any] | None = None

    def __call__(self, texts: Sequence[str], /) -> Any:
        found = super().__call__(texts)
        return found if self.how is None else self.how(found)


def boom(_: Any) -> Any:
    raise RuntimeError("no model today")


WAYS = {
    "too few": lambda v: v[:-1] if len(v) > 1 else v[:0], "too many": lambda v: np.vstack([v, v]), "none": lambda v: None,
    "NaN": lambda v: v * np.float32("nan"), "infinite": lambda v: v + np.float32("inf"), "words": lambda v: [["a"]] * len(v),
    "flat": lambda v: v[0], "empty": lambda v: v[:, :0], "ragged": lambda v: [[1.0], [1.0, 2.0]], "wider": lambda v: np.hstack([v, v]),
    "narrower": lambda v: v[:, :3], "raising": boom,
}  # fmt: skip


@pytest.mark.parametrize("way", WAYS)
def test_an_embedder_that_breaks_its_contract_writes_nothing(way: str, open_store: Callable[..., MemOS]) -> None:
    embed = Broken()
    memory = open_store(embed=embed)
    [cube] = memory.add("tea")
    memory.search("tea")
    embed.how = WAYS[way]
    for use in (
        lambda: memory.add("cake"), lambda: memory.add(["one", "two"]), lambda: memory.add("cake", key="k"),
        lambda: memory.update(cube.id, "cake"), lambda: memory.search("cake"), lambda: memory.brief("cake"),
    ):  # fmt: skip
        with pytest.raises(EmbedderFailed, match="embed"):
            use()
    embed.how = None
    assert memory.stats().memories == 1
    assert memory.get(cube.id) == cube
    assert len(memory.log()) == 1


def test_a_list_of_lists_is_as_good_as_an_array(open_store: Callable[..., MemOS]) -> None:
    embed = Broken()
    embed.how = lambda v: v.astype(float).tolist()
    memory = open_store(embed=embed)
    memory.add(["tea", "cake"])
    assert memory.search("tea")[0].cube.text == "tea"


@pytest.mark.parametrize("resident", [20_000, 1])
def test_vectors_of_zeros_are_found_by_their_words(resident: int, open_store: Callable[..., MemOS]) -> None:
    embed = Broken()
    embed.how = lambda v: v * 0
    memory = open_store(embed=embed, policy=Policy(resident_memories=resident))
    memory.add(["tea with lemon", "cake", "rain in Rome"])
    assert memory.search("lemon")[0].cube.text == "tea with lemon"


def test_a_batch_is_embedded_at_once_and_nothing_twice(open_store: Callable[..., MemOS]) -> None:
    embed = WordsEmbedder()
    memory = open_store(embed=embed)
    talk = [{"role": "user", "content": f"turn {n}"} for n in range(50)]
    memory.add(talk, session="s")
    assert (embed.calls, embed.texts) == (1, 50)
    memory.add(talk, session="s")
    assert embed.texts == 50


def test_reembedding_changes_vectors_and_nothing_else(tmp_path: Path, open_store: Callable[..., MemOS]) -> None:
    with open_store(embed=WordsEmbedder()) as memory:
        cubes = memory.add([f"note number {n}" for n in range(40)])
        memory.update(cubes[0].id, "changed")
        before = sorted(memory.search("note", k=99), key=lambda h: h.cube.id)
        told = memory.log()
    assert reembed(tmp_path / "store", WordsEmbedder(salt="new")) == 40
    assert reembed(tmp_path / "store", WordsEmbedder(salt="new")) == 0
    with pytest.raises(EmbedderMismatch):
        open_store(embed=WordsEmbedder())
    again = open_store(embed=WordsEmbedder(salt="new"))
    after = sorted(again.search("note", k=99), key=lambda h: h.cube.id)
    assert [h.cube.text for h in after] == [h.cube.text for h in before]
    assert again.log() == told
    assert [c.version for c in again.history(cubes[0].id)] == [1, 2]
    assert again.search("number 7")[0].cube.text == "note number 7"


def test_a_killed_reembedding_goes_on_where_it_stopped(tmp_path: Path, open_store: Callable[..., MemOS]) -> None:
    with open_store(embed=WordsEmbedder()) as memory:
        memory.add([f"note number {n}" for n in range(1_200)])

    class Killed(BaseException):
        pass

    def die(done: int, total: int) -> None:
        raise Killed

    first, second = WordsEmbedder(salt="new"), WordsEmbedder(salt="new")
    with pytest.raises(Killed):
        reembed(tmp_path / "store", first, progress=die)
    with open_store(embed=WordsEmbedder()) as memory:  # until the switch, all is as it was
        assert memory.search("number 7")
        memory.add("one more note")
    assert reembed(tmp_path / "store", second) == 1_201
    assert second.texts < 1_201
    assert len(open_store(embed=WordsEmbedder(salt="new")).search("note", k=2_000)) == 1_201
