"""What is nobody else's business: found as often as is said, told in the header, and left out of whatever is handed out to others."""

from __future__ import annotations

import json
from collections import Counter
from collections.abc import Callable, Sequence
from pathlib import Path

import pytest
from hypothesis import given
from hypothesis import strategies as st

from memos_core import PUBLIC, Access, InvalidArgument, MemOS, Sensitivity, grant
from memos_core.sensitivity import Finding, checked_forms, redacted
from tests.test_forgetting import keep_tensors

EVERYBODY = frozenset({PUBLIC})


def digits(text: str) -> Sequence[Finding]:
    """Every word of digits is sensitive."""
    found, start = [], 0
    for word in text.split(" "):
        if word.isdigit():
            found.append(Finding("number", start, start + len(word)))
        start += len(word) + 1
    return found


# --- the detector ----------------------------------------------------------------------------------------------------------


def test_on_the_labelled_sentences_it_finds_and_misses_what_the_readme_says() -> None:
    pytest.importorskip("phonenumbers", reason="the extra is not installed")
    detect = checked_forms()
    there, hit, wrong = Counter[str](), Counter[str](), Counter[str]()
    for line in (Path(__file__).parent / "sensitive.jsonl").read_text(encoding="utf-8").splitlines():
        said = json.loads(line)
        wanted = {tuple(found) for found in said["found"]}
        found = {(f.kind, said["text"][f.start : f.end]) for f in detect(said["text"])}
        there.update(kind for kind, _ in wanted)
        hit.update(kind for kind, _ in wanted & found)
        wrong.update(kind for kind, _ in found - wanted)
    assert {kind: (hit[kind], there[kind]) for kind in there} == {
        "email": (5, 8), "phone": (6, 9), "card": (3, 4), "iban": (3, 4), "ssn": (1, 2), "ip": (3, 3), "name": (0, 2), "address": (0, 1),
        "birth": (0, 1), "passport": (0, 1),
    }  # fmt: skip
    assert wrong == {"ip": 1}  # a version of four numbers


@given(st.text("ab ", max_size=30), st.lists(st.tuples(st.integers(0, 30), st.integers(1, 8)), max_size=5))
def test_nothing_of_a_finding_is_left_and_all_else_is(text: str, spans: list[tuple[int, int]]) -> None:
    marked = "".join(chr(0x4E00 + i) for i in range(len(text)))  # each character its own
    found = [Finding("x", start, min(start + size, len(text))) for start, size in spans if start < len(text)]
    left = redacted(marked, found).replace("[x]", "")
    assert left == "".join(c for i, c in enumerate(marked) if not any(f.start <= i < f.end for f in found))


# --- in a store ------------------------------------------------------------------------------------------------------------


@pytest.fixture
def guarded(open_store: Callable[..., MemOS]) -> MemOS:
    return open_store(sensitivity=Sensitivity(digits, raw=frozenset({grant("clerk", purpose="billing")})))


def test_others_are_given_it_without_what_was_found_and_its_owner_and_the_allowed_with_it(guarded: MemOS) -> None:
    [cube] = guarded.add(
        "tea costs 42 here", attributes={"price": "is 42 too", "n": [{"of": "7"}]}, access=Access("ann", EVERYBODY)
    )
    assert cube.sensitivity == guarded.get(cube.id).sensitivity == ("number",)
    guarded.update(cube.id, "tea costs 43 here")

    def given_to(who: str) -> set[str]:
        family = guarded.lineage(cube.id, actor=who)
        cubes = [
            guarded.get(cube.id, actor=who), guarded.get(cube.id, version=1, actor=who), guarded.search("tea", actor=who)[0].cube,
            *guarded.history(cube.id, actor=who), family.cube, *guarded.follow(cube.id, actor=who), *guarded.brief("tea", actor=who).cubes,
        ]  # fmt: skip
        said = {c.text for c in cubes} | {str(dict(c.attributes)) for c in cubes}
        return said | {guarded.brief("tea", actor=who).text.split(": ")[-1].split("\n")[0]}

    assert given_to("bob") == {"tea costs [number] here", "{'price': 'is [number] too', 'n': [{'of': '[number]'}]}"}
    assert given_to("clerk") == given_to("bob")
    raw = {"tea costs 42 here", "tea costs 43 here", "{'price': 'is 42 too', 'n': [{'of': '7'}]}"}
    assert given_to("ann") == raw
    with guarded.acting(purpose="billing"):
        assert given_to("clerk") == raw
    guarded.archive(cube.id)
    assert guarded.archived(actor="bob")[0].text == "tea costs [number] here"


def test_a_writer_who_is_not_shown_it_does_not_lose_it_by_going_back(guarded: MemOS) -> None:
    [cube] = guarded.add("tea costs 42 here")
    guarded.share(cube.id, writers=["bob"])
    guarded.update(cube.id, "no price")
    assert guarded.restore(cube.id, 2, actor="bob").text == "tea costs [number] here"
    assert guarded.get(cube.id).text == "tea costs 42 here"


def test_what_holds_words_that_cannot_be_left_out_is_opened_for_the_allowed_alone(guarded: MemOS) -> None:
    [secret] = guarded.add("tea costs 42 here", access=Access("ann", EVERYBODY))
    [plain] = guarded.add("tea is free", access=Access("ann", EVERYBODY))
    for cube, for_bob in ((secret, False), (plain, True)):
        made = keep_tensors(guarded, cube, cube.text.encode())
        assert guarded._tiers.passage("ann", made) is not None
        assert (guarded._tiers.passage("bob", made) is not None) == for_bob
        assert (guarded._adapters._sources("bob", made) is not None) == for_bob


def test_without_one_nothing_is_looked_for_and_a_wrong_one_is_refused(
    memory: MemOS, open_store: Callable[..., MemOS]
) -> None:
    [cube] = memory.add("tea costs 42", access=Access("ann", EVERYBODY))
    assert memory.get(cube.id, actor="bob").text == "tea costs 42"
    assert cube.sensitivity == ()
    later = open_store(sensitivity=Sensitivity(digits))
    assert later.get(cube.id, actor="bob").text == "tea costs [number]"  # also what was stored before
    with pytest.raises(InvalidArgument, match="sensitivity"):
        open_store(sensitivity=digits)
