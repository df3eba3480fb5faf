"""Any text can be stored, searched for, filtered by, and comes back as it was."""

from __future__ import annotations

from collections.abc import Iterator
from contextlib import suppress
from typing import Any

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from memos_core import InvalidArgument, MemOS, NotFound, Policy
from tests.conftest import Clock
from tests.words import WordsEmbedder

HOSTILE = [
    "it's", "''", "'", '"', '"quoted phrase"', "\\", "\\'", "\\\\", "back\\", "' OR '1'='1", "'; DROP TABLE cubes; --",
    "1) OR (1=1", "$$", "%", "_", "[x]", "{a}", "{0}", "AND", "OR NOT", "+must -not", "a:b", "title:x", "tea~2", "tea^3", "te*",
    "(tea", "tea)", "[a TO b]", '"unclosed', "tea AND (", "NEAR/3", "/regex/", "😀", "👩‍👩‍👧‍👦", "\x00", "a\x00b", "\x00\x00", "\x01\x02\x7f",
    "שלום עולם", "مرحبا", "\u202eevil\u202c", "e\u0301\u0301\u0301", "Z\u0361\u035cal\u0300go", "日本語", "한국어", "ﬁ", "İstanbul", "ß",
    "\ufeffbom", "\u200b\u200b.", "\uffff", "\U0010ffff", "a\r\nb", "\t|\t", "null", "None", "NaN", "true", "-1", "1e400", "...", "?!", "—",
    "<script>alert(1)</script>", "{{7*7}}", "%s%n", "../../etc/passwd", "https://x/y?z#w", "\u2028x\u2029", "x" * 5_000, "long word " * 300,
]  # fmt: skip

anything = st.one_of(
    st.text(st.characters(exclude_categories=["Cs"]), min_size=1, max_size=30),
    st.lists(st.sampled_from(HOSTILE[:40]), min_size=1, max_size=4).map(" ".join),
).filter(lambda text: text.strip() != "")


RESIDENT = {"resident": 20_000, "candidates": 3}


@pytest.fixture(scope="module", params=["resident"])
def shelf(request: pytest.FixtureRequest, tmp_path_factory: pytest.TempPathFactory) -> Iterator[MemOS]:
    """One store for many examples, ranked from memory or from the database's candidates."""
    policy = Policy(resident_memories=RESIDENT[request.param])
    path = tmp_path_factory.mktemp("hostile")
    with MemOS(path, embed=WordsEmbedder(), actor="ann", policy=policy, clock=Clock()) as memory:
        for number in range(5):
            memory.add(f"filler {number} about tea")
        yield memory


FILTERED = ("v", "tags", "session", "speaker", "source", "semantic_type")


def stored_and_found(memory: MemOS, text: str) -> None:
    where = (text,)
    [cube] = memory.add(
        {"role": "user", "content": text, "name": text, "id": text},
        namespace=where, session=text, source=text, attributes={text: text, "v": text}, semantic_type=text, tags=[text],
    )  # fmt: skip
    assert memory.get(cube.id) == cube
    assert (cube.text, cube.namespace, cube.tags, cube.attributes) == (text, where, (text,), {text: text, "v": text})
    origin = cube.origin
    assert (origin.speaker, origin.session, origin.source, origin.message_id) == (text, text, text, text)
    assert memory.search(text)  # the whole store's question
    for hits in (
        memory.search(text, namespace=where),
        memory.search("tea", namespace=where, filter=dict.fromkeys(FILTERED, text)),
        memory.search("tea", namespace=where, filter={f"attributes.{text}": text}),
    ):
        assert [h.cube for h in hits] == [cube]
    for name in ("v", "tags"):
        assert memory.search("tea", namespace=where, filter={name: {"$ne": text}}) == []
    [keyed] = memory.add(text, namespace=where, key=text)
    assert memory.add(text, namespace=where, key=text)[0].id == keyed.id
    assert text in memory.update(keyed.id, text, mode="append").text
    assert memory.delete(keyed.id).ids == (keyed.id,)


@pytest.mark.parametrize(
    ("shelf", "text"),
    [*(("resident", text) for text in HOSTILE), *(("candidates", text) for text in HOSTILE[::3])],
    indirect=["shelf"],
    ids=lambda t: ascii(t[:20]),
)
def test_hostile_text_is_text(shelf: MemOS, text: str) -> None:
    stored_and_found(shelf, text)


@pytest.mark.parametrize("shelf", RESIDENT, indirect=True)
@settings(max_examples=12)
@given(text=anything)
def test_any_text_is_text(shelf: MemOS, text: str) -> None:
    stored_and_found(shelf, text)


@pytest.mark.parametrize("text", HOSTILE[::4], ids=lambda t: ascii(t[:20]))
def test_any_name_is_an_actor(shelf: MemOS, text: str) -> None:
    actor = f"{text}!"
    [cube] = shelf.add("mine alone", actor=actor)
    assert [h.cube.id for h in shelf.search("mine", actor=actor)] == [cube.id]
    assert {e.subject for e in shelf.log(actor=actor)} == {cube.id}
    shelf.share(cube.id, readers=[f"{text}?"], actor=actor)
    assert shelf.get(cube.id, actor=f"{text}?").text == "mine alone"
    assert shelf.log(by=text, subject=text, verb=text) == []
    for missing in (text, f"x{text}"):
        with pytest.raises(NotFound):
            shelf.get(missing)
    shelf.delete(cube.id, actor=actor)


@pytest.mark.parametrize(
    "text", ["a" * 1_000_000, "word " * 200_000, "😀" * 250_000, "\x00" * 1_000_000 + "x"], ids=len
)
def test_a_megabyte_is_stored_and_searched(shelf: MemOS, text: str) -> None:
    [cube] = shelf.add(text, namespace=("large",))
    try:
        assert shelf.get(cube.id).text == text
        assert shelf.search(text, namespace=("large",))[0].cube == cube
    finally:
        shelf.delete(cube.id)


SURROGATE = "half \ud800 of a character"


@pytest.mark.parametrize(
    "bad",
    [
        {"content": SURROGATE}, {"content": {"role": "user", "content": SURROGATE}}, {"namespace": (SURROGATE,)},
        {"content": {"role": "user", "content": "x", "name": SURROGATE}}, {"content": {"role": "user", "content": "x", "id": SURROGATE}},
        {"key": SURROGATE}, {"actor": SURROGATE}, {"session": SURROGATE}, {"source": SURROGATE}, {"semantic_type": SURROGATE},
        {"tags": [SURROGATE]}, {"attributes": {"a": SURROGATE}}, {"attributes": {SURROGATE: 1}}, {"attributes": {"a": [{"b": SURROGATE}]}},
    ],
    ids=lambda b: next(iter(b)),
)  # fmt: skip
def test_what_is_no_text_is_refused_by_name(memory: MemOS, bad: dict[str, Any]) -> None:
    with pytest.raises(InvalidArgument, match=next(iter(bad))):
        memory.add(**{"content": "fine", **bad})
    assert memory.stats().memories == 0
    assert memory.log() == []


@pytest.mark.parametrize("resident", [20_000, 0])
def test_a_question_that_is_no_text_is_refused_or_answered(resident: int, open_store: Any) -> None:
    memory = open_store(policy=Policy(resident_memories=resident))
    memory.add("half a cup of tea")
    with suppress(InvalidArgument):
        assert len(memory.search(SURROGATE)) == 1


@pytest.mark.parametrize(
    "question",
    ["what on 9999-12-31?", "on 31 December 9999", "in December 9999", "0001-01-01", "99999999999 years ago", "5000 years ago",
     "30 February 2024", "2024-13-45", "٣ days ago", "9999 months ago", "last month", "in may", "1 january 1", "9999999 weeks ago"],
)  # fmt: skip
def test_any_time_in_a_question_is_answered(memory: MemOS, question: str) -> None:
    memory.add("tea at noon")
    assert len(memory.search(question)) == 1


@pytest.mark.parametrize("k", [1, 10**6, 2**31, 2**40, 2**70])
@pytest.mark.parametrize("resident", [20_000, 2])
def test_any_k_from_one_is_answered(k: int, resident: int, open_store: Any) -> None:
    memory = open_store(policy=Policy(resident_memories=resident))
    memory.add([f"tea {n}" for n in range(5)])
    assert len(memory.search("tea", k=k)) == min(k, 5)
