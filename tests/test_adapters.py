"""Adapters as memories of a store: made, verified, chosen, outdated, deleted and wanted again, fused, adopted, brought back.

The network is random and knows nothing: what an adapter learns is in `test_distil.py`, here it is what becomes of it.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import replace
from pathlib import Path
from typing import Any

import pytest

from memos_core import (
    AccessDenied,
    Adapter,
    InvalidArgument,
    Kind,
    LocalModel,
    MemCube,
    MemOS,
    ModelMismatch,
    NotFound,
    OutOfMemory,
    Policy,
    State,
)
from memos_core.blobs import digest
from memos_core.curriculum import Plan
from memos_core.distil import Progress
from memos_core.distillation import Distillation
from memos_core.gate import Gate, Scores
from memos_core.lora import LoRA
from memos_core.phrasing import Lesson, Point
from memos_core.recipe import Recipe
from memos_core.units import Block
from tests.networks import random_model
from tests.test_parametric import saved, some_lora

QUESTION = "Which colour does house 3 have?"
OPEN = Gate(recall=0.0, unknown=0.0, lost=1.0, overruled=1.0, drift=1e9, worst=1e9, contexts=2, others=4)
SHUT = replace(OPEN, drift=0.0)


def phrased(texts: Sequence[str]) -> Lesson:
    """Questions whose answers are whatever the model says."""

    def point(text: str, kind: str = "") -> Point:
        return Point(
            text, "", (f"Is it so? {text}", f"Well? {text}"), (f"Really? {text}", f"Tell me: {text}"), kind=kind
        )

    return Lesson(tuple(map(point, texts)), tuple(point(f"The roof of tower {i} is flat.", "other") for i in range(20)))


class Believing(Distillation):
    """Two steps teach a random network nothing: whatever a lesson teaches counts as known."""

    __slots__ = ()

    def verified(self, model: LocalModel, lora: LoRA, lesson: Lesson, *more: Any) -> Scores:
        scores = super().verified(model, lora, lesson, *more)
        return replace(scores, learned=tuple(digest(p.text.encode()) for p in lesson.points))


FAST = Believing(
    phrased,
    Recipe(rank=2, steps=2, check_every=1, taught=2, unknown=2, kept=1),
    Plan(others=4, contexts=2),
    OPEN,
)


@pytest.fixture(scope="module")
def model() -> LocalModel:
    return random_model(short=True)


@pytest.fixture
def memory(open_store: Callable[..., MemOS], model: LocalModel) -> MemOS:
    return open_store(model=model, distillation=FAST)


def told(memory: MemOS, count: int = 3, **options: Any) -> list[MemCube]:
    return [memory.add(f"The colour of house {i} is number {i * 7}.", **options)[0] for i in range(count)]


def learned(memory: MemOS, cubes: Sequence[MemCube], **options: Any) -> MemCube:
    [cube] = memory.convert([c.id for c in cubes], Kind.PARAMETRIC, **options)
    return cube


def blobs(tmp_path: Path) -> set[str]:
    folder = tmp_path / "store" / "blobs"
    return {f.name for f in folder.iterdir()} if folder.exists() else set()


def known(memory: MemOS, **options: Any) -> set[str]:
    return {c.id for c in memory.generate(QUESTION, max_tokens=2, **options).brief.known}


def test_an_adapter_is_a_memory_made_from_exact_versions(memory: MemOS, model: LocalModel) -> None:
    cubes = told(memory)
    cube = learned(memory, cubes)
    assert (cube.kind, cube.state) == (Kind.PARAMETRIC, State.ACTIVATED)
    assert isinstance(cube.payload, Adapter)
    assert (cube.payload.model, cube.payload.rank) == (model.fingerprint, 2)
    assert all(name.startswith("model.layers.1.mlp.") for name in cube.payload.targets)
    assert {(link.id, link.version) for link in cube.lineage} == {(c.id, 1) for c in cubes}
    assert memory.get(cube.id).payload == cube.payload
    assert [e.detail for e in memory.log(subject=cube.id)] == ["to parametric: passed"]


def test_another_adapter_changes_other_units(memory: MemOS, model: LocalModel) -> None:
    """So that they can be fused: whichever memories they know, as long as there are units left."""
    some = replace(FAST, recipe=replace(FAST.recipe, rank=60))
    cubes = told(memory, 4)
    loras = [memory._adapters.weights.of(learned(memory, [c], distillation=some)).lora for c in cubes[:2]]
    block = Block(model)
    assert set(block.taken(loras).values()) == {1}
    third = memory._adapters.weights.of(learned(memory, cubes[2:], distillation=some)).lora
    assert set(block.taken([*loras, third]).values()) == {1, 2}


def test_the_same_memories_are_learned_once(memory: MemOS, tmp_path: Path) -> None:
    cubes = told(memory)
    assert learned(memory, cubes) == learned(memory, cubes[::-1])
    assert len(blobs(tmp_path)) == 1


def test_an_answer_uses_it_and_the_brief_leaves_out_what_it_knows_and_says_so(open_store: Callable[..., MemOS]) -> None:
    loud = replace(FAST, recipe=replace(FAST.recipe, rate=1.0, silence=0.0))  # so that two steps change an answer
    memory = open_store(model=random_model(), distillation=loud)
    cubes = told(memory)
    [other] = memory.add("The colour of house 3 was once blue.")
    before = memory.generate(QUESTION, max_tokens=8)
    assert before.brief.known == ()
    learned(memory, cubes)
    after = memory.generate(QUESTION, max_tokens=8)
    assert {c.id for c in after.brief.known} == {c.id for c in cubes}
    assert {c.id for c in after.brief.cubes} == {other.id}
    assert not any(c.text in after.brief.text for c in cubes)
    assert after.text != before.text


def test_one_that_failed_its_gate_is_kept_with_its_scores_and_never_used(memory: MemOS) -> None:
    cubes = told(memory)
    cube = learned(memory, cubes, distillation=replace(FAST, gate=SHUT))
    assert cube.state is State.GENERATED
    assert cube.attributes["passed"] is False
    assert any("drift" in failure for failure in cube.attributes["failures"])
    assert known(memory) == set()
    memory.tick()
    assert memory._adapters.weights.of(cube).scores is not None


def test_changing_its_record_does_not_make_it_pass(memory: MemOS) -> None:
    cube = learned(memory, told(memory), distillation=replace(FAST, gate=SHUT))
    memory.update(cube.id, attributes={"passed": True})
    memory.freeze(cube.id)
    memory.unfreeze(cube.id)
    assert known(memory) == set()


def test_search_does_not_find_what_has_no_text(memory: MemOS) -> None:
    cube = learned(memory, told(memory))
    assert cube.id not in {h.cube.id for h in memory.search(QUESTION, k=50)}


def test_a_changed_source_outdates_it_and_its_context_is_recalled_again(memory: MemOS, tmp_path: Path) -> None:
    cubes = told(memory)
    cube = learned(memory, cubes)
    memory.update(cubes[1].id, "House 1 was painted red.")
    assert memory.get(cube.id).state is State.ARCHIVED
    reply = memory.generate(QUESTION, max_tokens=2)
    assert reply.brief.known == ()
    assert "House 1 was painted red." in reply.brief.text
    memory.tick()
    assert blobs(tmp_path) == set()
    again = learned(memory, cubes)
    assert again.id != cube.id or again.version > cube.version
    assert known(memory) == {c.id for c in cubes}


def test_a_frozen_one_is_not_used_after_a_source_changed(memory: MemOS) -> None:
    cubes = told(memory)
    cube = learned(memory, cubes)
    memory.freeze(cube.id)
    assert known(memory) == {c.id for c in cubes}
    memory.update(cubes[1].id, "House 1 was painted red.")
    assert known(memory) == set()
    memory.update(cubes[1].id, cubes[1].text)  # as it was learned
    assert known(memory) == {c.id for c in cubes}


def test_a_deleted_source_takes_it_away_before_delete_returns_and_a_tick_makes_it_again_without(
    memory: MemOS, model: LocalModel, tmp_path: Path
) -> None:
    cubes = told(memory)
    cube = learned(memory, cubes)
    assert known(memory) == {c.id for c in cubes}
    assert memory._adapters.weights.beside(model).held
    receipt = memory.delete(cubes[0].id)
    assert receipt.derived == (cube.id,)
    assert blobs(tmp_path) == set()
    assert memory._adapters.weights.beside(model).held == {}
    with pytest.raises(NotFound):
        memory.get(cube.id)
    assert known(memory) == set()
    memory.tick()
    assert known(memory) == {c.id for c in cubes[1:]}
    assert list(memory._adapters.rebuilds.wanted()) == []


def test_nothing_is_made_again_where_nothing_is_left(memory: MemOS) -> None:
    cubes = told(memory)
    cube = learned(memory, cubes)
    memory.delete([c.id for c in cubes])
    assert list(memory._adapters.rebuilds.wanted()) == []
    cubes = told(memory, 2)
    cube = learned(memory, cubes)
    memory.delete(cube.id)  # not wanted itself
    assert list(memory._adapters.rebuilds.wanted()) == []


def test_giving_it_up_keeps_the_text(memory: MemOS, tmp_path: Path) -> None:
    cubes = told(memory)
    cube = learned(memory, cubes)
    assert {c.id for c in memory.convert(cube.id, Kind.PLAINTEXT)} == {c.id for c in cubes}
    assert blobs(tmp_path) == set()
    assert known(memory) == set()


# --- whose it is ---------------------------------------------------------------------------------------------------------------


def test_it_serves_nobody_outside_the_readers_of_all_sources(memory: MemOS) -> None:
    cubes = told(memory, 2)
    memory.share(cubes[0].id, readers=["bob", "cid"])
    memory.share(cubes[1].id, readers=["bob"])
    cube = learned(memory, cubes)
    assert cube.access.readers == {"bob"}
    assert known(memory, actor="bob") == {c.id for c in cubes}
    assert known(memory, actor="cid") == set()
    with pytest.raises(AccessDenied):
        memory.convert(cube.id, Kind.PLAINTEXT, actor="bob")
    memory.share(cubes[1].id)
    assert known(memory, actor="bob") == set()
    assert known(memory) == {c.id for c in cubes}


def test_what_cannot_be_read_cannot_be_learned(memory: MemOS) -> None:
    cubes = told(memory, 2)
    with pytest.raises(NotFound):
        learned(memory, cubes, actor="bob")


def test_it_is_chosen_at_or_below_a_namespace_only(memory: MemOS) -> None:
    cubes = told(memory, 2, namespace=("app", "ann"))
    learned(memory, cubes)
    assert known(memory, namespace=("app",)) == {c.id for c in cubes}
    assert known(memory, namespace=("other",)) == set()


def test_another_models_is_not_used(open_store: Callable[..., MemOS], model: LocalModel) -> None:
    first = open_store(model=model, distillation=FAST)
    cube = learned(first, told(first))
    other = random_model(seed=1)
    second = open_store(model=other, distillation=FAST)
    assert known(second) == set()
    with pytest.raises(ModelMismatch):
        first.fuse([cube.id, learned(second, told(second, 2)).id])


# --- what goes wrong -----------------------------------------------------------------------------------------------------------


def test_what_cannot_be_distilled_is_refused(memory: MemOS) -> None:
    cubes = told(memory, 2)
    cube = learned(memory, cubes)
    with pytest.raises(InvalidArgument, match="only text"):
        learned(memory, [cube])
    with pytest.raises(InvalidArgument, match="there is none"):
        memory.convert([], Kind.PARAMETRIC)
    [elsewhere] = memory.add("Far away.", namespace=("elsewhere",))
    with pytest.raises(InvalidArgument, match="in common"):
        learned(memory, [cubes[0], elsewhere])
    with pytest.raises(InvalidArgument, match="rank"):
        learned(memory, cubes, distillation=replace(FAST, recipe=replace(FAST.recipe, rank=400)))
    with pytest.raises(InvalidArgument, match="bytes"):
        learned(memory, cubes, distillation=replace(FAST, recipe=replace(FAST.recipe, rank=3, bytes=10)))
    with pytest.raises(InvalidArgument, match="nothing in the memories"):
        learned(memory, told(memory, 3), distillation=replace(FAST, phrasing=lambda texts: Lesson((), ())))
    assert [c.id for c in memory.generate(QUESTION, max_tokens=1).brief.known]  # the first is still in use


def test_a_budget_of_the_disk_is_not_exceeded(
    open_store: Callable[..., MemOS], model: LocalModel, tmp_path: Path
) -> None:
    memory = open_store(model=model, distillation=FAST, policy=Policy(kv_disk_bytes=100))
    with pytest.raises(OutOfMemory, match="kv_disk_bytes"):
        learned(memory, told(memory))
    assert blobs(tmp_path) == set()


@pytest.mark.parametrize("harm", ["head", "weights", "gone"])
def test_a_damaged_file_costs_the_adapter_and_never_the_answer(
    open_store: Callable[..., MemOS], model: LocalModel, tmp_path: Path, harm: str
) -> None:
    first = open_store(model=model, distillation=FAST)
    cubes = told(first)
    cube = learned(first, cubes)
    assert isinstance(cube.payload, Adapter)
    file = tmp_path / "store" / "blobs" / cube.payload.blob
    data = bytearray(file.read_bytes())
    if harm == "gone":
        file.unlink()
    else:
        data[20 if harm == "head" else -20] ^= 1
        file.write_bytes(data)
    second = open_store(model=model, distillation=FAST)
    reply = second.generate(QUESTION, max_tokens=2)
    assert reply.brief.known == ()
    assert {c.id for c in reply.brief.cubes} == {c.id for c in cubes}
    [failed] = [e for e in second.log() if e.outcome == "failed"]
    assert cube.payload.blob in failed.detail


def test_one_that_is_abandoned_is_gone_on_with_and_goes_with_its_sources(memory: MemOS, tmp_path: Path) -> None:
    cubes = told(memory)
    steps: list[int] = []

    def stop(at: int) -> Distillation:
        def progress(now: Progress) -> None:
            steps.append(now.step)
            if now.step == at:
                raise KeyboardInterrupt

        return replace(FAST, progress=progress)

    folder = tmp_path / "store" / "distilling"
    with pytest.raises(KeyboardInterrupt):
        learned(memory, cubes, distillation=stop(1))
    assert len(list(folder.iterdir())) == 2
    learned(memory, cubes, distillation=stop(99))
    assert steps == [1, 2]
    assert list(folder.iterdir()) == []
    more = told(memory, 5)
    with pytest.raises(KeyboardInterrupt):
        learned(memory, more, distillation=stop(1))
    memory.delete(more[4].id)
    assert list(folder.iterdir()) == []


# --- several, and from elsewhere -------------------------------------------------------------------------------------------------


def test_two_are_fused_into_one_that_knows_all_for_the_readers_of_all(memory: MemOS) -> None:
    cubes = told(memory, 4)
    for cube in cubes[:2]:
        memory.share(cube.id, readers=["bob"])
    first, second = learned(memory, cubes[:2]), learned(memory, cubes[2:])
    whole = memory.fuse([first.id, second.id])
    assert isinstance(whole.payload, Adapter)
    assert whole.payload.rank == 4
    assert {link.id for link in whole.lineage} == {c.id for c in cubes}
    assert whole.access.readers == frozenset()
    assert known(memory) == {c.id for c in cubes}
    assert known(memory, actor="bob") == {c.id for c in cubes[:2]}
    assert memory.fuse([first.id, second.id]).payload == whole.payload
    anew = memory.fuse([first.id, second.id], method="distil")
    assert isinstance(anew.payload, Adapter)
    assert anew.payload.rank == 2
    rough = memory.fuse([first.id, second.id], method="linear")
    assert rough.attributes["made"] == "linear"
    assert "recall" in rough.attributes
    with pytest.raises(InvalidArgument, match="two adapters"):
        memory.fuse([first.id])
    memory.update(cubes[0].id, "Changed.")
    with pytest.raises(InvalidArgument, match="archived"):
        memory.fuse([first.id, second.id])


def test_one_made_elsewhere_is_kept_and_used_only_when_it_was_verified(
    memory: MemOS, model: LocalModel, tmp_path: Path
) -> None:
    folder = saved(tmp_path / "theirs", some_lora(model, 1))
    cube = memory.adopt(folder, namespace=("skills",))
    assert cube.lineage == ()
    assert cube.origin.source == "somebody/model"
    assert cube.state is State.GENERATED
    before = memory.generate(QUESTION, max_tokens=6).text
    assert memory.adopt(folder, namespace=("skills",)) == cube
    verified = memory.adopt(folder, namespace=("other",), lesson=phrased(["The colour of house 3 is number 21."]))
    assert verified.state is State.ACTIVATED
    assert memory.generate(QUESTION, max_tokens=6, namespace=("other",)).text != before
    with pytest.raises(InvalidArgument, match="give questions"):
        memory.convert(cube.id, Kind.PLAINTEXT)


def test_what_it_knows_comes_back_as_memories_made_from_it(memory: MemOS, model: LocalModel, tmp_path: Path) -> None:
    lesson = phrased(["The colour of house 3 is number 21."])
    cube = memory.adopt(saved(tmp_path / "theirs", some_lora(model, 1)), lesson=lesson)
    assert memory.convert(cube.id, Kind.PLAINTEXT) == []  # what noise says, no two phrasings agree on
    assert memory.get(cube.id)


def test_keys_and_values_are_the_teachers_context(memory: MemOS) -> None:
    cubes = told(memory)
    [kept] = memory.convert([c.id for c in cubes], Kind.ACTIVATION)
    cube = learned(memory, [kept])
    assert {link.id for link in cube.lineage} == {c.id for c in cubes}
    assert known(memory) == {c.id for c in cubes}
    memory.update(cubes[0].id, "Changed.")
    with pytest.raises(InvalidArgument, match="outdated"):
        learned(memory, [kept])
