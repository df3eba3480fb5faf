"""Memories as keys and values: made, opened, outdated, deleted, damaged; and answers that do not depend on any of it."""

from __future__ import annotations

from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest

from memos_core import (
    AccessDenied,
    IllegalTransition,
    Ineffective,
    InvalidArgument,
    Kind,
    KVCache,
    MemCube,
    MemOS,
    ModelMismatch,
    NotFound,
    OutOfMemory,
    Policy,
    State,
    Steering,
    Unsupported,
)
from tests.networks import random_model

QUESTION = "Which colour does house 3 have?"


def told(memory: MemOS, count: int = 12, **options: Any) -> list[MemCube]:
    return [memory.add(f"The colour of house {i} is number {i * 7}.", **options)[0] for i in range(count)]


def blobs(memory: MemOS, tmp_path: Path) -> set[str]:
    folder = tmp_path / "store" / "blobs"
    return {f.name for f in folder.iterdir()} if folder.exists() else set()


@pytest.fixture
def memory(open_store: Callable[..., MemOS]) -> MemOS:
    return open_store(model=random_model())


def kept(memory: MemOS, cubes: list[MemCube], **options: Any) -> MemCube:
    [cube] = memory.convert([c.id for c in cubes], Kind.ACTIVATION, **options)
    return cube


def test_keys_and_values_are_a_memory_made_from_exact_versions(memory: MemOS) -> None:
    cubes = told(memory)
    cube = kept(memory, cubes)
    assert cube.kind is Kind.ACTIVATION
    assert isinstance(cube.payload, KVCache)
    assert cube.payload.tokens > 100
    assert {(link.id, link.version) for link in cube.lineage} == {(c.id, 1) for c in cubes}
    assert memory.get(cube.id).payload == cube.payload
    assert [e.verb for e in memory.log(subject=cube.id)] == ["convert"]


def test_the_same_memories_for_the_same_model_are_kept_once(memory: MemOS, tmp_path: Path) -> None:
    cubes = told(memory)
    first, again = kept(memory, cubes), kept(memory, cubes[::-1])
    assert again == first
    assert len(blobs(memory, tmp_path)) == 1


def test_what_is_kept_is_opened_from_disk_and_the_answer_is_the_same(
    memory: MemOS, open_store: Callable[..., MemOS]
) -> None:
    cubes = told(memory)
    before = memory.generate(QUESTION, max_tokens=12)
    cube = kept(memory, cubes)
    fresh = open_store(model=random_model())  # another process would have nothing in memory either
    after = fresh.generate(QUESTION, max_tokens=12)
    assert isinstance(cube.payload, KVCache)
    assert after.usage.cached == cube.payload.tokens
    assert {c.id for c in after.brief.cubes} == {c.id for c in cubes}
    assert before.usage.cached == 0
    again = fresh.generate(QUESTION, max_tokens=12)
    assert again.text == after.text
    assert again.usage.prefilled == 1


def test_search_and_brief_do_not_see_what_has_no_text(memory: MemOS) -> None:
    cube = kept(memory, told(memory))
    assert cube.id not in {h.cube.id for h in memory.search(QUESTION, k=50)}
    assert cube.id not in {c.id for c in memory.brief(QUESTION, max_tokens=5000).cubes}


def test_a_changed_source_makes_it_unreachable_at_once(memory: MemOS, tmp_path: Path) -> None:
    cubes = told(memory)
    cube = kept(memory, cubes)
    memory.update(cubes[3].id, "House 3 was painted red.")
    assert memory.get(cube.id).state is State.ARCHIVED
    reply = memory.generate(QUESTION, max_tokens=4)
    assert any(c.text == "House 3 was painted red." for c in reply.brief.cubes)
    assert not any(c.text == cubes[3].text for c in reply.brief.cubes)
    memory.tick()
    assert blobs(memory, tmp_path) == set()


def test_it_can_be_made_again_after_a_change(memory: MemOS, tmp_path: Path) -> None:
    cubes = told(memory)
    kept(memory, cubes)
    memory.update(cubes[3].id, "House 3 was painted red.")
    again = kept(memory, cubes)
    assert again.state is State.ACTIVATED
    memory.tick()
    assert len(blobs(memory, tmp_path)) == 1
    memory.update(cubes[3].id, cubes[3].text)  # back to the words of the first
    first = kept(memory, cubes)
    assert first.state is State.ACTIVATED
    assert memory.generate(QUESTION, max_tokens=4).usage.cached > 100


def test_deleting_a_source_deletes_it_and_its_bytes_before_it_returns(memory: MemOS, tmp_path: Path) -> None:
    cubes = told(memory)
    cube = kept(memory, cubes)
    memory.generate(QUESTION, max_tokens=4)
    receipt = memory.delete(cubes[0].id)
    assert cube.id in receipt.derived
    assert blobs(memory, tmp_path) == set()
    with pytest.raises(NotFound):
        memory.get(cube.id)
    reply = memory.generate(QUESTION, max_tokens=4)
    assert cubes[0].id not in {c.id for c in reply.brief.cubes}


def test_what_is_held_in_memory_of_a_deleted_one_is_dropped(memory: MemOS) -> None:
    cubes = told(memory)
    memory.generate(QUESTION, max_tokens=4)
    assert memory._model is not None
    before = memory._model.shelf.held().blocks
    memory.delete([c.id for c in cubes])
    after = memory._model.shelf.held().blocks
    assert after < before
    assert after <= 1  # the header of every brief holds nobody's words


def test_giving_it_up_keeps_the_text(memory: MemOS, tmp_path: Path) -> None:
    cubes = told(memory)
    cube = kept(memory, cubes)
    back = memory.convert(cube.id, Kind.PLAINTEXT)
    assert {c.id for c in back} == {c.id for c in cubes}
    assert blobs(memory, tmp_path) == set()
    assert len(memory.search(QUESTION, k=50)) == len(cubes)


def test_a_frozen_one_is_not_given_up(memory: MemOS) -> None:
    cube = kept(memory, told(memory))
    memory.freeze(cube.id)
    with pytest.raises(IllegalTransition):
        memory.convert(cube.id, Kind.PLAINTEXT)


def test_text_to_text_is_the_memory_itself(memory: MemOS) -> None:
    [cube] = told(memory, 1)
    assert memory.convert(cube.id, "plaintext") == [cube]


# --- whose it is --------------------------------------------------------------------------------------------------------


def test_it_serves_nobody_outside_the_readers_of_all_sources(memory: MemOS) -> None:
    cubes = told(memory, 6)
    for cube in cubes[:3]:
        memory.share(cube.id, readers=["bob", "cid"])
    for cube in cubes[3:]:
        memory.share(cube.id, readers=["bob"])
    made = kept(memory, cubes)
    assert made.access.readers == {"bob"}
    assert memory.get(made.id, actor="bob").id == made.id
    with pytest.raises(NotFound):
        memory.get(made.id, actor="cid")
    theirs = memory.generate(QUESTION, actor="cid", max_tokens=3)
    assert {c.id for c in theirs.brief.cubes} <= {c.id for c in cubes[:3]}
    assert memory.generate(QUESTION, actor="bob", max_tokens=3).usage.cached > 0
    memory.share(cubes[0].id)  # withdrawn
    with pytest.raises(NotFound):
        memory.get(made.id, actor="bob")


def test_a_reader_cannot_give_up_the_owners(memory: MemOS) -> None:
    cubes = told(memory, 3)
    for cube in cubes:
        memory.share(cube.id, readers=["bob"])
    made = kept(memory, cubes)
    with pytest.raises(AccessDenied):
        memory.convert(made.id, Kind.PLAINTEXT, actor="bob")
    assert memory.get(made.id)


def test_two_actors_never_share_what_is_held(memory: MemOS) -> None:
    for who in ("ann", "bob"):
        told(memory, 3, actor=who)
    memory.generate(QUESTION, max_tokens=3)
    assert memory.generate(QUESTION, actor="bob", max_tokens=3).usage.cached == 0


def test_what_cannot_be_read_cannot_be_converted(memory: MemOS) -> None:
    cubes = told(memory, 2)
    with pytest.raises(NotFound):
        memory.convert([c.id for c in cubes], Kind.ACTIVATION, actor="bob")


# --- what goes wrong ------------------------------------------------------------------------------------------------------


@pytest.mark.parametrize("harm", ["truncated", "flipped", "gone", "emptied", "flipped head"])
def test_a_damaged_file_costs_time_and_never_the_answer(memory: MemOS, tmp_path: Path, harm: str) -> None:
    cubes = told(memory)
    cube = kept(memory, cubes)
    assert isinstance(cube.payload, KVCache)
    assert memory._model is not None
    whole = memory.generate(QUESTION, max_tokens=6)
    memory._model.shelf.clear()
    file = tmp_path / "store" / "blobs" / cube.payload.blob
    data = bytearray(file.read_bytes())
    if harm == "gone":
        file.unlink()
    else:
        at = 20 if harm == "flipped head" else len(data) - 100
        data[at] ^= 1
        file.write_bytes({"truncated": data[: len(data) // 2], "emptied": b""}.get(harm, data))
    reply = memory.generate(QUESTION, max_tokens=6)
    assert reply.usage.cached == 0
    assert {c.id for c in reply.brief.cubes} == {c.id for c in cubes}
    if harm in ("truncated", "flipped"):  # the manifest was whole, so it was opened, and the prompt is the same
        assert reply.text == whole.text
    failed = [e for e in memory.log() if e.outcome == "failed"]
    assert len(failed) == 1
    assert cube.payload.blob in failed[0].detail
    if harm == "gone":
        assert kept(memory, cubes).payload == cube.payload  # made again from the text
        assert memory.generate(QUESTION, max_tokens=6).text == whole.text


def test_another_models_is_not_opened(open_store: Callable[..., MemOS]) -> None:
    first = open_store(model=random_model())
    cubes = told(first)
    kept(first, cubes)
    other = open_store(model=random_model(seed=1))
    reply = other.generate(QUESTION, max_tokens=4)
    assert reply.usage.cached == 0
    assert kept(other, cubes).payload != kept(first, cubes).payload


def test_a_budget_of_the_disk_is_not_exceeded(open_store: Callable[..., MemOS], tmp_path: Path) -> None:
    memory = open_store(model=random_model(), policy=Policy(kv_disk_bytes=200_000))
    cubes = told(memory, 6)
    with pytest.raises(OutOfMemory, match="kv_disk_bytes"):
        kept(memory, cubes)
    assert blobs(memory, tmp_path) == set()


def test_eight_bits_are_smaller_and_close(open_store: Callable[..., MemOS]) -> None:
    exact, coarse = open_store(model=random_model()), open_store(model=random_model(), policy=Policy(kv_bits=8))
    cubes = told(exact)
    whole, eighth = kept(exact, cubes), kept(coarse, cubes)
    assert isinstance(whole.payload, KVCache)
    assert isinstance(eighth.payload, KVCache)
    assert eighth.payload.bytes < 0.45 * whole.payload.bytes


def test_wrong_arguments_are_refused_by_name(memory: MemOS) -> None:
    [cube] = told(memory, 1)
    with pytest.raises(InvalidArgument, match="to: 'kv'"):
        memory.convert(cube.id, "kv")
    with pytest.raises(InvalidArgument, match="ids"):
        memory.convert([], Kind.ACTIVATION)
    with pytest.raises(InvalidArgument, match="temperature"):
        memory.generate("hello", temperature=-1)
    with pytest.raises(InvalidArgument, match="there is no top_x"):
        memory.generate("hello", top_x=1)
    with pytest.raises(InvalidArgument, match="nobody asks"):
        memory.generate([{"role": "system", "content": "You are kind."}])
    made = kept(memory, [cube])
    with pytest.raises(InvalidArgument, match="held as activation"):
        memory.convert(made.id, Kind.ACTIVATION)


def test_memories_of_namespaces_with_nothing_in_common_are_refused(memory: MemOS) -> None:
    [a], [b] = memory.add("one", namespace=("x", "y")), memory.add("two", namespace=("z",))
    with pytest.raises(InvalidArgument, match="namespace"):
        memory.convert([a.id, b.id], Kind.ACTIVATION)


def test_without_a_model_it_says_how_to_give_one(open_store: Callable[..., MemOS]) -> None:
    memory = open_store()
    [cube] = told(memory, 1)
    with pytest.raises(InvalidArgument, match=r"MemOS\(\.\.\., model=LocalModel"):
        memory.convert(cube.id, Kind.ACTIVATION)
    with pytest.raises(InvalidArgument, match="LocalModel"):
        memory.generate("hello")
    assert memory.convert(cube.id, Kind.ACTIVATION, model=random_model())


def test_a_model_whose_caches_cannot_be_cut_answers_and_refuses_to_keep(open_store: Callable[..., MemOS]) -> None:
    memory = open_store(model=random_model("sliding"))
    cubes = told(memory, 3)
    first = memory.generate(QUESTION, max_tokens=4)
    assert memory.generate(QUESTION, max_tokens=4).text == first.text
    with pytest.raises(Unsupported, match="cannot be cut"):
        kept(memory, cubes)


# --- side by side -----------------------------------------------------------------------------------------------------------


def two_halves(memory: MemOS) -> tuple[list[MemCube], MemCube, MemCube]:
    cubes = told(memory)
    return cubes, kept(memory, cubes[:6]), kept(memory, cubes[6:])


def test_composed_passages_are_opened_as_one(memory: MemOS) -> None:
    cubes, first, second = two_halves(memory)
    both = memory.compose([first.id, second.id])
    assert [link.id for link in both.lineage] == [first.id, second.id]
    assert 0 < both.attributes["recomputed"] <= 0.2
    assert memory.compose([first.id, second.id]) == both
    assert memory._model is not None
    memory._model.shelf.clear()
    reply = memory.generate(QUESTION, max_tokens=4)
    assert {c.id for c in reply.brief.cubes} == {c.id for c in cubes}
    assert memory.lineage(both.id).parents


def test_one_that_strays_is_not_used_any_more(memory: MemOS) -> None:
    """A network of random weights attends to everything alike, so what is computed apart is far off."""
    cubes, first, second = two_halves(memory)
    exact = memory.generate(QUESTION, max_tokens=4)
    memory.compose([first.id, second.id])
    assert memory._answering is not None
    for i in range(12):
        memory.generate(f"{QUESTION} ({i})", max_tokens=1)
    watch = memory._answering.guard.state
    assert watch.compared >= 4
    assert watch.on == (watch.mean <= 0.05)
    assert exact.text
    assert len(cubes) == 12


def test_deleting_a_source_deletes_what_was_composed_of_it(memory: MemOS, tmp_path: Path) -> None:
    cubes, first, second = two_halves(memory)
    both = memory.compose([first.id, second.id])
    receipt = memory.delete(cubes[0].id)
    assert {first.id, both.id} <= set(receipt.derived)
    assert len(blobs(memory, tmp_path)) == 1
    assert memory.get(second.id)


def test_what_cannot_be_composed_is_refused(memory: MemOS) -> None:
    cubes, first, _ = two_halves(memory)
    with pytest.raises(InvalidArgument, match="two memories"):
        memory.compose([first.id])
    with pytest.raises(InvalidArgument, match="convert them"):
        memory.compose([first.id, cubes[7].id])
    memory.update(cubes[0].id, "House 0 is no more.")
    with pytest.raises(InvalidArgument, match="convert them"):
        memory.compose([first.id, kept(memory, cubes[8:]).id])


# --- steering vectors -------------------------------------------------------------------------------------------------------

PAIRS = [(f"Today is day {i}, and all is well. Yes!", f"Today is day {i}, and all is lost. No!") for i in range(16)]


def test_a_steering_vector_is_a_memory_and_steers_the_answers_that_name_it(memory: MemOS) -> None:
    cube = memory.add_steering("cheer", PAIRS)
    assert isinstance(cube.payload, Steering)
    assert cube.attributes["effect"] >= 0.1
    plain = memory.generate(QUESTION, max_tokens=12)
    steered = memory.generate(QUESTION, max_tokens=12, steer={cube.id: 4.0})
    assert steered.text != plain.text
    assert memory.generate(QUESTION, max_tokens=12).text == plain.text
    assert memory.generate(QUESTION, max_tokens=12, steer={cube.id: 0.0}).text == plain.text


def test_one_that_does_not_work_is_refused_and_not_stored(memory: MemOS, tmp_path: Path) -> None:
    with pytest.raises(Ineffective):
        memory.add_steering("noise", [(str(i * 7919 % 1009), str(i * 104729 % 1013)) for i in range(16)])
    assert memory.stats().memories == 0
    assert blobs(memory, tmp_path) == set()


def test_a_vector_under_its_key_again_is_the_next_version(memory: MemOS, tmp_path: Path) -> None:
    first = memory.add_steering("cheer", PAIRS)
    second = memory.add_steering("cheer", PAIRS[::-1])
    assert (second.id, second.version) == (first.id, 2)
    memory.tick()
    assert len(blobs(memory, tmp_path)) == 1


def test_a_vector_of_another_model_or_a_memory_that_is_none_does_not_steer(open_store: Callable[..., MemOS]) -> None:
    first, other = open_store(model=random_model()), open_store(model=random_model(seed=1))
    cube = first.add_steering("cheer", PAIRS)
    with pytest.raises(ModelMismatch, match="weights"):
        other.generate(QUESTION, steer={cube.id: 1.0})
    [note] = told(first, 1)
    with pytest.raises(InvalidArgument, match="no steering vector"):
        first.generate(QUESTION, steer={note.id: 1.0})
    with pytest.raises(NotFound):
        first.generate(QUESTION, actor="bob", steer={cube.id: 1.0})
