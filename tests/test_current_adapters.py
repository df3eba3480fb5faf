"""An adapter says what its memories say now, to those who may read them, and was verified; or it is not used, asked, fused or kept."""

from __future__ import annotations

import re
from collections.abc import Callable, Sequence
from dataclasses import dataclass, replace
from datetime import timedelta
from pathlib import Path
from typing import Any

import pytest

from memos_core import (
    AccessDenied,
    Conflict,
    InvalidArgument,
    Kind,
    LocalModel,
    MemCube,
    MemOS,
    NotFound,
    State,
)
from memos_core.blobs import digest
from memos_core.distillation import Distillation
from memos_core.elicit import Elicited
from memos_core.gate import Scores
from memos_core.sensitivity import Finding, Sensitivity
from tests.conftest import Clock
from tests.networks import random_model
from tests.test_adapters import FAST, QUESTION, SHUT, Believing, known, learned, phrased, told
from tests.test_parametric import saved, some_lora


@pytest.fixture(scope="module")
def model() -> LocalModel:
    return random_model(short=True)


@pytest.fixture
def memory(open_store: Callable[..., MemOS], model: LocalModel) -> MemOS:
    return open_store(model=model, distillation=FAST)


@pytest.fixture
def adopted(memory: MemOS, model: LocalModel, tmp_path: Path) -> MemCube:
    return memory.adopt(saved(tmp_path / "theirs", some_lora(model, 5, rank=2)))


@dataclass(frozen=True, slots=True)
class Saying(Believing):
    """Whatever adapter is asked says a text, and something happens meanwhile."""

    text: str = ""
    meanwhile: Callable[[], object] = int

    def elicited(self, *asked: Any) -> list[Elicited]:
        self.meanwhile()
        return [Elicited("Is it so?", self.text, self.text, 1.0, 3, 4)]


class Doubting(Distillation):
    """Of what a lesson teaches, only house 1 is known."""

    __slots__ = ()

    def verified(self, *asked: Any) -> Scores:
        scores = super().verified(*asked)
        known = [p.text for p in asked[2].points if "house 1" in p.text]
        return replace(scores, learned=tuple(digest(text.encode()) for text in known))


def saying(text: str, meanwhile: Callable[[], object] = int) -> Saying:
    return Saying(FAST.phrasing, FAST.recipe, FAST.plan, FAST.gate, text=text, meanwhile=meanwhile)


def found(memory: MemOS, **options: Any) -> set[str]:
    return {h.cube.text for h in memory.search("colour of house 0", k=9, **options)}


# --- asked back ------------------------------------------------------------------------------------------------------------------


def test_what_was_deleted_meanwhile_is_not_brought_back(memory: MemOS) -> None:
    cubes = told(memory)
    cube = learned(memory, cubes)
    how = saying(cubes[0].text, lambda: memory.delete(cubes[0].id))
    with pytest.raises(Conflict):
        memory.elicit(cube.id, distillation=how)
    assert cubes[0].text not in found(memory)


def test_what_is_no_longer_shared_is_not_brought_back_for_its_former_readers(
    memory: MemOS,
) -> None:
    cubes = told(memory)
    for one in cubes:
        memory.share(one.id, readers=["bob"])
    cube = learned(memory, cubes)
    how = saying(cubes[0].text, lambda: memory.share(cubes[0].id))
    assert len(memory.elicit(cube.id, distillation=how)) == 1
    assert cubes[0].text not in found(memory, actor="bob")


@pytest.mark.parametrize("frozen", [False, True])
def test_what_was_changed_is_not_brought_back(memory: MemOS, frozen: bool) -> None:
    cubes = told(memory)
    cube = learned(memory, cubes)
    if frozen:
        memory.freeze(cube.id)
    how = saying(cubes[0].text)
    memory.update(cubes[0].id, "House 0 was painted red.")
    with pytest.raises(InvalidArgument, match="outdated"):
        memory.elicit(cube.id, distillation=how)
    assert cubes[0].text not in found(memory)


def test_what_ends_ends_in_every_form(memory: MemOS, clock: Clock) -> None:
    cubes = [*told(memory, 2), *told(memory, 1, ttl=timedelta(hours=1), namespace=("default", "brief"))]
    cube = learned(memory, cubes)
    how = saying("It is so.")
    [back] = memory.elicit(cube.id, distillation=how)
    assert memory.elicit(cube.id, distillation=how) == [back]
    assert back.lifespan.expires_at == cubes[2].lifespan.expires_at
    clock.forward(hours=2)
    assert "It is so." not in found(memory)
    with pytest.raises(InvalidArgument, match="ended"):
        memory.elicit(cube.id, distillation=how)
    with pytest.raises(NotFound):
        learned(memory, cubes)


def test_one_that_failed_its_gate_is_not_asked(memory: MemOS) -> None:
    cube = learned(memory, told(memory), distillation=replace(FAST, gate=SHUT))
    with pytest.raises(InvalidArgument, match="failed its gate"):
        memory.elicit(cube.id, distillation=saying("It is so."))


def test_what_is_shown_with_words_left_out_is_not_learned(open_store: Callable[..., MemOS], model: LocalModel) -> None:
    numbers = Sensitivity(lambda text: [Finding("number", m.start(), m.end()) for m in re.finditer(r"\d{4}", text)])
    heard: list[str] = []

    def phrasing(texts: Sequence[str]) -> Any:
        heard.extend(texts)
        return phrased(texts)

    memory = open_store(model=model, distillation=replace(FAST, phrasing=phrasing), sensitivity=numbers)
    [cube] = memory.add("The code of house 3 is 4711.")
    memory.share(cube.id, readers=["bob"])
    with pytest.raises(AccessDenied):
        learned(memory, [cube], actor="bob")
    assert heard == []
    mine = learned(memory, [cube])
    with pytest.raises(InvalidArgument):
        memory.elicit(mine.id, actor="bob")


# --- used ------------------------------------------------------------------------------------------------------------------------


def test_what_it_was_not_found_to_know_stays_in_the_brief(memory: MemOS) -> None:
    cubes = told(memory)
    learned(memory, cubes, distillation=Doubting(FAST.phrasing, FAST.recipe, FAST.plan, FAST.gate))
    brief = memory.generate(QUESTION, max_tokens=2).brief
    assert [c.id for c in brief.known] == [cubes[1].id]
    assert {c.id for c in brief.cubes} == {cubes[0].id, cubes[2].id}


def test_archived_sources_are_not_learned(memory: MemOS) -> None:
    cubes = told(memory)
    memory.archive(cubes[0].id)
    with pytest.raises(InvalidArgument, match="archived"):
        learned(memory, cubes)


def test_nothing_is_beside_the_model_once_an_answer_that_ran_with_it_is_over(memory: MemOS, model: LocalModel) -> None:
    cubes = told(memory)
    learned(memory, cubes)
    pieces = memory.stream(QUESTION, max_tokens=12)
    next(pieces)
    memory.delete(cubes[0].id)
    list(pieces)
    assert memory._adapters.weights.beside(model).held == {}


def test_what_another_process_deleted_is_let_go_of(open_store: Callable[..., MemOS], model: LocalModel) -> None:
    here, there = open_store(model=model, distillation=FAST), open_store()
    cubes = told(here)
    cube = learned(here, cubes)
    known(here)
    assert here._adapters.weights.is_beside(model, cube)
    there.delete([c.id for c in cubes])
    here.tick()
    assert here._adapters.weights.beside(model).held == {}


def test_the_gate_that_is_asked_for_last_counts(memory: MemOS) -> None:
    cubes = told(memory)
    first = learned(memory, cubes)
    strict = learned(memory, cubes, distillation=replace(FAST, gate=SHUT))
    assert (strict.id, strict.state) == (first.id, State.GENERATED)
    assert known(memory) == set()
    assert learned(memory, cubes).state is State.ACTIVATED
    assert known(memory) == {c.id for c in cubes}


def test_another_phrasing_makes_another_adapter(memory: MemOS) -> None:
    cubes = told(memory)
    other = replace(FAST, phrasing=lambda texts: phrased(texts))
    assert learned(memory, cubes).id != learned(memory, cubes, distillation=other).id


def test_one_loaded_elsewhere_is_used_there(
    memory: MemOS, open_store: Callable[..., MemOS], model: LocalModel, tmp_path: Path
) -> None:
    """Under other ids, and another owner."""
    cubes = told(memory)
    learned(memory, cubes)
    memory.dump(tmp_path / "dump")
    other = open_store(path=tmp_path / "other", model=model, distillation=FAST, actor="zoe")
    other.load(tmp_path / "dump")
    assert {c.text for c in other.generate(QUESTION, max_tokens=2).brief.known} == {c.text for c in cubes}


# --- adopted -----------------------------------------------------------------------------------------------------------------------


def test_an_adopted_one_is_kept_while_it_is_archived(memory: MemOS, adopted: MemCube) -> None:
    """Nothing is left that it could be made of again."""
    memory.archive(adopted.id)
    memory.tick()
    memory.purge()
    back = memory.restore(adopted.id, adopted.version)
    assert memory._adapters.weights.of(back).made == "adopted"


def test_an_adopted_one_can_be_verified_later(memory: MemOS, adopted: MemCube, tmp_path: Path) -> None:
    assert adopted.state is State.GENERATED
    again = memory.adopt(tmp_path / "theirs", lesson=phrased(["The colour of house 3 is number 21."]))
    assert again.id == adopted.id
    assert again.state is State.ACTIVATED


def test_what_nobody_verified_does_not_pass_as_a_part(memory: MemOS, adopted: MemCube) -> None:
    whole = memory.fuse([learned(memory, told(memory)).id, adopted.id])
    assert whole.state is State.GENERATED
    assert any("never verified" in failure for failure in whole.attributes["failures"])


def test_what_was_fused_with_an_adopted_one_is_made_again_from_its_texts(memory: MemOS, adopted: MemCube) -> None:
    cubes = told(memory)
    whole = memory.fuse([learned(memory, cubes).id, adopted.id])
    twice = memory.fuse([whole.id, learned(memory, told(memory, 5)[3:]).id])
    assert {link.id for link in twice.lineage} >= {adopted.id}
    memory.delete(cubes[0].id)
    for _ in range(4):
        memory.tick()
    assert list(memory._adapters.rebuilds.wanted()) == []
    assert {c.id for c in cubes[1:]} <= known(memory)


# --- fused and made again ------------------------------------------------------------------------------------------------------------


def test_a_frozen_one_of_words_that_changed_is_not_fused(memory: MemOS) -> None:
    cubes = told(memory, 4)
    first, second = learned(memory, cubes[:2]), learned(memory, cubes[2:])
    memory.freeze(first.id)
    memory.update(cubes[0].id, "House 0 was painted red.")
    with pytest.raises(InvalidArgument, match="outdated"):
        memory.fuse([first.id, second.id])


def test_a_rebuild_that_cannot_be_is_told_of_once_and_ticks_go_on(open_store: Callable[..., MemOS]) -> None:
    def broken(texts: Sequence[str]) -> Any:
        raise KeyError("no such phrase")

    memory = open_store(model=random_model(), distillation=replace(FAST, phrasing=broken))
    cubes = told(memory)
    learned(memory, cubes, distillation=FAST)
    memory.delete(cubes[0].id)
    memory.tick()
    memory.tick()
    [failed] = [e for e in memory.log() if e.outcome == "failed"]
    assert "no such phrase" in failed.detail
    assert list(memory._adapters.rebuilds.wanted()) == []
    assert memory.convert(cubes[1].id, Kind.PLAINTEXT)
