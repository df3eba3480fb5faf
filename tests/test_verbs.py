"""The verbs of MemOS on plain memories, and what each refuses."""

from __future__ import annotations

import threading
from collections.abc import Callable
from datetime import UTC, datetime, timedelta
from pathlib import Path
from typing import Any

import pytest

from memos_core import (
    Access,
    AccessDenied,
    InvalidArgument,
    Kind,
    MemCube,
    MemOS,
    NotFound,
    Policy,
    SourceKind,
    State,
    StoreClosed,
)  # fmt: skip
from tests.conftest import START, Clock

DAY = timedelta(days=1)


def found(memory: MemOS, query: str = "tea", **options: Any) -> set[str]:
    return {h.cube.text for h in memory.search(query, k=100, **options)}


# --- add -----------------------------------------------------------------------------------------------------------------


def test_a_note_is_stored_with_its_whole_header(memory: MemOS) -> None:
    [cube] = memory.add(
        "Ann drinks tea", namespace=("app", "ann"), session="s", occurred_at=START - DAY, source="diary",
        attributes={"cups": 2, "of": ["green", {"a": None}]}, semantic_type="fact", tags=["drink", "drink", "daily"], ttl=DAY,
    )  # fmt: skip
    assert (cube.version, cube.kind, cube.state) == (1, Kind.PLAINTEXT, State.GENERATED)
    assert (cube.text, cube.namespace, cube.semantic_type) == ("Ann drinks tea", ("app", "ann"), "fact")
    assert cube.tags == ("drink", "daily")
    assert cube.attributes == {"cups": 2, "of": ["green", {"a": None}]}
    assert (cube.created_at, cube.updated_at, cube.origin.stored_at) == (START, START, START)
    assert cube.origin.occurred_at == cube.origin.happened_at == START - DAY
    assert (cube.origin.kind, cube.origin.source, cube.origin.position) == (SourceKind.NOTE, "diary", 0)
    assert cube.access == Access("ann")
    assert cube.lifespan.expires_at == START + DAY
    assert memory.get(cube.id) == cube


def test_a_conversation_keeps_who_said_what_in_which_order(memory: MemOS) -> None:
    talk = [
        {"role": "human", "content": "hello", "name": "Ann", "timestamp": "2026-01-01T10:00:00+02:00"},
        {"role": "ai", "content": "hi", "timestamp": datetime(2026, 1, 1, 9, tzinfo=UTC)},
        "a bare string",
    ]
    one, two, three = memory.add(talk, session="s")
    assert [c.origin.position for c in (one, two, three)] == [0, 1, 2]
    assert (one.origin.role, one.origin.speaker, two.origin.role, three.origin.role) == (
        "user",
        "Ann",
        "assistant",
        None,
    )
    assert one.origin.occurred_at == datetime(2026, 1, 1, 8, tzinfo=UTC)
    assert {c.origin.kind for c in (one, two)} == {SourceKind.MESSAGE}


def test_a_conversation_without_a_session_gets_one_of_its_own(memory: MemOS) -> None:
    first = memory.add([{"role": "user", "content": "hello"}, {"role": "assistant", "content": "hi"}])
    second = memory.add([{"role": "user", "content": "bye"}, {"role": "assistant", "content": "see you"}])
    assert len({c.origin.session for c in first}) == len({c.origin.session for c in (*first, *second)}) - 1 == 1


def test_the_callers_attributes_are_copied(memory: MemOS) -> None:
    attributes = {"a": [1]}
    [cube] = memory.add("tea", attributes=attributes)
    attributes["a"].append(2)
    assert memory.get(cube.id).attributes == {"a": [1]}


BAD_ADD: list[tuple[dict[str, Any], str]] = [
    ({"content": ""}, "content"), ({"content": " \n\t"}, "content"), ({"content": None}, "content"), ({"content": 5}, "content"),
    ({"content": b"x"}, "content"), ({"content": []}, "content"), ({"content": ["ok", ""]}, r"content\[1\]"), ({"content": [["x"]]}, "content"),
    ({"content": {"content": "x"}}, "role"), ({"content": {"role": "emperor", "content": "x"}}, "emperor"),
    ({"content": {"role": ["user"], "content": "x"}}, "role"), ({"content": {"role": "user"}}, "content"),
    ({"content": {"role": "user", "content": [7]}}, "content"), ({"content": {"role": "user", "content": "x", "id": 5}}, "id"),
    ({"content": {"role": "user", "content": "x", "name": 5}}, "name"), ({"content": {"role": "user", "content": "x", "timestamp": 5}}, "timestamp"),
    ({"content": {"role": "user", "content": "x", "timestamp": "2026-01-01T00:00:00"}}, "timestamp"),
    ({"content": {"role": "user", "content": "x", "timestamp": "soon"}}, "timestamp"),
    ({"occurred_at": datetime(2026, 1, 1)}, "occurred_at"), ({"occurred_at": "2026-01-01"}, "occurred_at"), ({"occurred_at": 5}, "occurred_at"),  # noqa: DTZ001
    ({"namespace": "app"}, "namespace"), ({"namespace": ()}, "namespace"), ({"namespace": ("",)}, "namespace"), ({"namespace": ("a", 5)}, "namespace"),
    ({"namespace": None}, "namespace"), ({"namespace": b"ab"}, "namespace"), ({"key": ""}, "key"), ({"key": 5}, "key"),
    ({"content": ["a", "b"], "key": "k"}, "key"), ({"actor": ""}, "actor"), ({"actor": "*"}, "actor"), ({"actor": 5}, "actor"),
    ({"session": ""}, "session"), ({"session": 5}, "session"), ({"source": ""}, "source"), ({"semantic_type": 5}, "semantic_type"),
    ({"attributes": [1]}, "attributes"), ({"attributes": {"a": 1j}}, "attributes"), ({"tags": "work"}, "tags"), ({"tags": [""]}, "tags"),
    ({"tags": [5]}, "tags"), ({"tags": 5}, "tags"), ({"ttl": 0}, "ttl"), ({"ttl": -1}, "ttl"), ({"ttl": True}, "ttl"), ({"ttl": "1"}, "ttl"),
    ({"ttl": float("nan")}, "ttl"), ({"ttl": 1e300}, "ttl"), ({"ttl": timedelta.max}, "ttl"), ({"access": "bob"}, "access"), ({"access": Access("bob")}, "access"),
    ({"access": Access("ann", frozenset({5}))}, "access"), ({"access": Access("ann", frozenset({""}))}, "access"),  # type: ignore[arg-type]
]  # fmt: skip


@pytest.mark.parametrize(("bad", "named"), BAD_ADD, ids=lambda v: ascii(v)[:50])
def test_bad_input_is_refused_by_name_and_nothing_is_written(memory: MemOS, bad: dict[str, Any], named: str) -> None:
    with pytest.raises(InvalidArgument, match=named):
        memory.add(**{"content": "fine", **bad})
    assert memory.stats().memories == 0
    assert memory.log() == []


# --- update, restore, history ----------------------------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("mode", "text", "attributes", "state"),
    [
        ("overwrite", "two\nthree", {"b": 2}, State.GENERATED),
        ("append", "one\ntwo\ntwo\nthree", {"a": 1, "b": 2}, State.GENERATED),
        ("merge", "one\ntwo\nthree", {"a": 1, "b": 2}, State.MERGED),
    ],
)
def test_an_update_is_a_new_version(memory: MemOS, mode: Any, text: str, attributes: Any, state: State) -> None:
    [old] = memory.add("one\ntwo", attributes={"a": 1})
    new = memory.update(old.id, "two\nthree", attributes={"b": 2}, mode=mode)
    assert (new.version, new.text, new.attributes, new.state) == (2, text, attributes, state)
    assert memory.get(old.id) == new
    assert memory.get(old.id, version=1) == old
    assert memory.history(old.id) == [old, new]


def test_attributes_alone_can_be_updated(memory: MemOS) -> None:
    [old] = memory.add("tea", attributes={"a": 1})
    assert memory.update(old.id, attributes={"b": 2}).text == "tea"
    assert memory.update(old.id, attributes={"c": 3}, mode="append").attributes == {"b": 2, "c": 3}


def test_what_was_updated_is_found_by_its_new_words_only(memory: MemOS) -> None:
    [cube] = memory.add("Rome is lovely")
    memory.add("filler about cheese")
    memory.update(cube.id, "Paris is lovely")
    assert memory.search("Paris")[0].cube.text == "Paris is lovely"
    assert "Rome is lovely" not in found(memory, "Rome")


def test_restore_brings_back_content_and_not_access(memory: MemOS) -> None:
    [cube] = memory.add("first", attributes={"n": 1}, tags=["old"], access=Access("ann", frozenset({"bob"})))
    memory.share(cube.id)
    memory.update(cube.id, "second", attributes={"n": 2})
    restored = memory.restore(cube.id, 1)
    assert (restored.version, restored.text, restored.attributes, restored.tags) == (4, "first", {"n": 1}, ("old",))
    assert restored.access == Access("ann")
    with pytest.raises(NotFound):
        memory.get(cube.id, actor="bob")
    assert [c.text for c in memory.history(cube.id)] == ["first", "first", "second", "first"]


REFUSED: list[tuple[Callable[[MemOS, MemCube], object], type[Exception], str]] = [
    (lambda m, c: m.update(c.id), InvalidArgument, "text"),
    (lambda m, c: m.update(c.id, ""), InvalidArgument, "empty"),
    (lambda m, c: m.update(c.id, 5), InvalidArgument, "text"),  # type: ignore[arg-type]
    (lambda m, c: m.update(c.id, "x", mode="replace"), InvalidArgument, "mode"),  # type: ignore[arg-type]
    (lambda m, c: m.update(c.id, attributes=[1]), InvalidArgument, "attributes"),  # type: ignore[arg-type]
    (lambda m, c: m.update("nobody", "x"), NotFound, "nobody"),
    (lambda m, c: m.update(None, "x"), InvalidArgument, "id"),  # type: ignore[arg-type]
    (lambda m, c: m.update([c.id, c.id + "x"], "x"), InvalidArgument, "id"),  # type: ignore[arg-type]
    (lambda m, c: m.get("nobody"), NotFound, "nobody"),
    (lambda m, c: m.get(""), InvalidArgument, "id"),
    (lambda m, c: m.get(5), InvalidArgument, "id"),  # type: ignore[arg-type]
    (lambda m, c: m.get([c.id, "b"]), InvalidArgument, "id"),  # type: ignore[arg-type]
    (lambda m, c: m.get(c.id, version=9), NotFound, "9"),
    (lambda m, c: m.get(c.id, version=0), NotFound, "0"),
    (lambda m, c: m.get(c.id, version=-1), NotFound, "-1"),
    (lambda m, c: m.restore(c.id, 9), NotFound, "9"),
    (lambda m, c: m.restore(c.id, None), InvalidArgument, "version"),  # type: ignore[arg-type]
    (lambda m, c: m.history("nobody"), NotFound, "nobody"),
    (lambda m, c: m.lineage("nobody"), NotFound, "nobody"),
    (lambda m, c: m.delete("nobody"), NotFound, "nobody"),
    (lambda m, c: m.delete([c.id, "nobody"]), NotFound, "nobody"),
    (lambda m, c: m.delete([]), InvalidArgument, "id"),
    (lambda m, c: m.delete(None), InvalidArgument, "id"),  # type: ignore[arg-type]
    (lambda m, c: m.delete(()), InvalidArgument, "namespace"),
    (lambda m, c: m.share("nobody"), NotFound, "nobody"),
    (lambda m, c: m.share(c.id, readers="bob"), InvalidArgument, "readers"),
    (lambda m, c: m.share(c.id, writers="bob"), InvalidArgument, "writers"),
    (lambda m, c: m.share(c.id, readers=[""]), InvalidArgument, "readers"),
    (lambda m, c: m.share(c.id, readers=[5]), InvalidArgument, "readers"),  # type: ignore[list-item]
    (lambda m, c: m.share(c.id, writers=5), InvalidArgument, "writers"),  # type: ignore[arg-type]
    (lambda m, c: m.archive("nobody"), NotFound, "nobody"),
    (lambda m, c: m.freeze("nobody"), NotFound, "nobody"),
    (lambda m, c: m.search(""), InvalidArgument, "query"),
    (lambda m, c: m.search(None), InvalidArgument, "query"),  # type: ignore[arg-type]
    (lambda m, c: m.search("x", k=0), InvalidArgument, "k"),
    (lambda m, c: m.search("x", k=-3), InvalidArgument, "k"),
    (lambda m, c: m.search("x", k=1.5), InvalidArgument, "k"),  # type: ignore[arg-type]
    (lambda m, c: m.search("x", k=True), InvalidArgument, "k"),
    (lambda m, c: m.search("x", namespace="app"), InvalidArgument, "namespace"),
    (lambda m, c: m.search("x", namespace=("",)), InvalidArgument, "namespace"),
    (lambda m, c: m.search("x", kinds=["paper"]), InvalidArgument, "kinds"),
    (lambda m, c: m.search("x", kinds=5), InvalidArgument, "kinds"),  # type: ignore[arg-type]
    (lambda m, c: m.search("x", since="2026-01-01"), InvalidArgument, "since"),
    (lambda m, c: m.search("x", until=datetime(2026, 1, 1)), InvalidArgument, "until"),  # noqa: DTZ001
    (lambda m, c: m.search("x", since=START, until=START), InvalidArgument, "since"),
    (lambda m, c: m.search("x", actor="*"), InvalidArgument, "actor"),
    (lambda m, c: m.brief("x", max_tokens=0), InvalidArgument, "max_tokens"),
    (lambda m, c: m.brief("x", max_tokens="9"), InvalidArgument, "max_tokens"),  # type: ignore[arg-type]
    (lambda m, c: m.brief(""), InvalidArgument, "query"),
    (lambda m, c: m.log(limit=0), InvalidArgument, "limit"),
    (lambda m, c: m.log(subject=5), InvalidArgument, "subject"),  # type: ignore[arg-type]
    (lambda m, c: m.log(since="yesterday"), InvalidArgument, "since"),
    (lambda m, c: m.tick(now=datetime(2026, 1, 1)), InvalidArgument, "now"),  # noqa: DTZ001
]  # fmt: skip


@pytest.mark.parametrize("number", range(len(REFUSED)))
def test_what_cannot_be_done_is_refused_by_name_and_changes_nothing(memory: MemOS, number: int) -> None:
    act, error, named = REFUSED[number]
    [cube] = memory.add("tea")
    with pytest.raises(error, match=named):
        act(memory, cube)
    assert memory.get(cube.id) == cube
    assert [e.verb for e in memory.log()] == ["add"]


# --- search --------------------------------------------------------------------------------------------------------------


def test_scores_lie_between_0_and_1_and_each_hit_says_why(memory: MemOS) -> None:
    for number in range(8):
        memory.add(f"tea number {number}")
    hits = memory.search("tea number 3", k=8)
    assert hits[0].cube.text == "tea number 3"
    assert [h.score for h in hits] == sorted((h.score for h in hits), reverse=True)
    assert all(0 <= h.score <= 1 and h.why for h in hits)
    assert hits == memory.search("tea number 3", k=8)


@pytest.mark.parametrize("resident", [20_000, 3])
def test_search_narrows_by_namespace_time_and_kind(resident: int, open_store: Callable[..., MemOS]) -> None:
    memory = open_store(policy=Policy(resident_memories=resident))
    for day, where in enumerate([("a",), ("a", "b"), ("ab",), ("a", "b", "c")]):
        memory.add(f"tea {day}", namespace=where, occurred_at=START + day * DAY)
    assert found(memory) == {"tea 0", "tea 1", "tea 2", "tea 3"}
    assert found(memory, namespace=("a",)) == {"tea 0", "tea 1", "tea 3"}
    assert found(memory, namespace=["a", "b"]) == {"tea 1", "tea 3"}
    assert found(memory, since=START + DAY) == {"tea 1", "tea 2", "tea 3"}
    assert found(memory, until=START + DAY) == {"tea 0"}
    assert found(memory, since=START + DAY, until=(START + 2 * DAY).isoformat()) == {"tea 1"}
    assert found(memory, kinds=["plaintext"]) == found(memory)
    assert found(memory, kinds=[Kind.ACTIVATION]) == found(memory, kinds=[]) == set()


def test_a_question_finds_the_turn_by_speaker_and_words(memory: MemOS) -> None:
    memory.add(
        [{"role": "user", "content": "I adopted a cat named Miso", "name": "Ann"},
         {"role": "assistant", "content": "Congratulations!"},
         {"role": "user", "content": "The weather is awful today", "name": "Ann"}], session="s",
    )  # fmt: skip
    assert memory.search("Which cat was adopted?")[0].cube.text == "I adopted a cat named Miso"


def test_an_empty_store_answers_with_nothing(memory: MemOS) -> None:
    assert memory.search("tea") == []
    assert memory.brief("tea").text == ""
    assert memory.log() == []
    assert (memory.stats().memories, memory.stats().sessions) == (0, 0)


def test_a_large_scope_ranks_nearly_like_a_resident_one(open_store: Callable[..., MemOS]) -> None:
    words = ["tea", "rain", "train", "Rome", "cat", "bread", "music", "chess", "river", "paper", "stone", "glass"]
    whole = open_store()
    turns = [f"{words[i % 12]} {words[(i * 5 + 1) % 12]} {words[(i * 7 + i // 12) % 12]} item{i}" for i in range(300)]
    for start in range(0, 300, 20):
        whole.add([{"role": "user", "content": t} for t in turns[start : start + 20]], session=f"s{start}")
    parts = open_store(policy=Policy(resident_memories=10))
    firsts = shared = 0
    questions = [turns[i] for i in range(0, 300, 17)]
    for question in questions:
        one = [h.cube.id for h in whole.search(question, k=10)]
        other = [h.cube.id for h in parts.search(question, k=10)]
        firsts += one[0] == other[0]
        shared += len(set(one) & set(other))
    assert firsts >= 0.9 * len(questions)
    assert shared >= 0.6 * 10 * len(questions)


def test_reading_is_counted_when_the_store_ticks(memory: MemOS) -> None:
    [cube] = memory.add("tea")
    memory.search("tea")
    memory.search("tea")
    assert memory.tick().used == 1
    used = memory.get(cube.id)
    assert (used.usage.reads, used.usage.last_read_at, used.version) == (2, START, 1)
    memory.update(cube.id, "green tea")
    assert memory.get(cube.id).usage.reads == 2


# --- closing and the door --------------------------------------------------------------------------------------------------


@pytest.mark.parametrize(
    "use",
    [
        lambda m: m.add("x"), lambda m: m.add("x", key="k"), lambda m: m.search("x"), lambda m: m.brief("x"), lambda m: m.get("x"), lambda m: m.log(),
        lambda m: m.stats(), lambda m: m.tick(), lambda m: m.delete("x"), lambda m: m.update("x", "y"), lambda m: m.history("x"), lambda m: m.lineage("x"),
    ],
)  # fmt: skip
def test_a_closed_store_says_so(memory: MemOS, use: Callable[[MemOS], object]) -> None:
    memory.add("tea")
    memory.search("tea")
    assert not memory.closed
    memory.close()
    memory.close()
    assert memory.closed
    with pytest.raises(StoreClosed, match="closed"):
        use(memory)


def test_a_store_says_where_it_is(open_store: Callable[..., MemOS], tmp_path: Path) -> None:
    assert open_store(path=tmp_path / "here").path == str(tmp_path / "here")


def test_closing_leaves_no_thread_behind(open_store: Callable[..., MemOS]) -> None:
    open_store().close()
    before = threading.active_count()
    for number in range(3):
        with open_store(policy=Policy(compact_every=1)) as memory:
            memory.add(f"tea {number}")
            memory.search("tea")
    assert threading.active_count() <= before


@pytest.mark.parametrize(
    ("options", "named"),
    [
        ({"actor": ""}, "actor"), ({"actor": "*"}, "actor"), ({"embed": 5}, "embed"), ({"reader": 5}, "reader"), ({"policy": None}, "policy"),
        ({"path": 5}, "path"), ({"path": ""}, "path"), ({"path": "a\x00b"}, "path"), ({"policy": {"fsync": True}}, "policy"),
    ],
    ids=repr,
)  # fmt: skip
def test_a_store_is_not_opened_with_nonsense(
    open_store: Callable[..., MemOS], options: dict[str, Any], named: str
) -> None:
    with pytest.raises(InvalidArgument, match=named):
        open_store(**options)


@pytest.mark.parametrize(
    "number",
    [{"candidates": 0}, {"compact_every": 0}, {"resident_memories": -1}, {"lock_seconds": "a"}, {"flush_usage": -1}, {"keep_versions": 5},
     {"lock_seconds": float("inf")}, {"lease_seconds": float("inf")}, {"lease_seconds": 0.5}, {"kv_disk_bytes": -1}, {"kv_disk_bytes": 1e9},
     {"adapter_bytes": -1}, {"kv_bits": 4}],
    ids=repr,
)  # fmt: skip
def test_a_policy_of_impossible_numbers_is_refused(open_store: Callable[..., MemOS], number: dict[str, Any]) -> None:
    with pytest.raises(InvalidArgument, match=next(iter(number))):
        open_store(policy=Policy(**number))


def test_who_acts_is_the_stores_actor_unless_said(open_store: Callable[..., MemOS]) -> None:
    memory = open_store(actor="cleo")
    assert memory.add("tea")[0].access.owner == "cleo"
    assert memory.add("tea", actor="bob")[0].access.owner == "bob"


def test_one_actor_cannot_add_in_anothers_name(memory: MemOS) -> None:
    with pytest.raises(InvalidArgument, match="access"):
        memory.add("tea", access=Access("bob"))
    [cube] = memory.add("tea")
    with pytest.raises(NotFound):
        memory.update(cube.id, "poison", actor="bob")
    memory.share(cube.id, readers=["bob"])
    with pytest.raises(AccessDenied, match="bob"):
        memory.update(cube.id, "poison", actor="bob")


def test_the_log_answers_who_did_what_when(memory: MemOS, clock: Clock) -> None:
    [cube] = memory.add("tea")
    clock.forward(hours=1)
    memory.share(cube.id, writers=["bob"])
    clock.forward(hours=1)
    memory.update(cube.id, "green tea", actor="bob")
    clock.forward(hours=1)
    memory.add("other")
    assert [(e.actor, e.verb, e.version) for e in memory.log(subject=cube.id)] == [
        ("bob", "update", 3),
        ("ann", "share", 2),
        ("ann", "add", 1),
    ]
    assert [e.verb for e in memory.log(by="bob")] == ["update"]
    assert [e.subject for e in memory.log(verb="share")] == [cube.id]
    assert len(memory.log(limit=2)) == 2
    assert memory.log(limit=1)[0].at == clock.now
    assert [e.verb for e in memory.log(since=START + timedelta(hours=1), until=START + timedelta(hours=2))] == ["share"]
    assert {e.outcome for e in memory.log()} == {"ok"}
    assert [e.version for e in memory.log(actor="bob", subject=cube.id)] == [3, 2]
    assert "tea" not in "".join(e.detail for e in memory.log())
