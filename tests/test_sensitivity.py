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
        "birth": (0, 1), "passport": (0, 1), "password": (12, 15), "api_key": (6, 7), "private_key": (1, 1),
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
    with pytest.raises(InvalidArgument, match="detect"):
        open_store(sensitivity=Sensitivity("digits"))
    with pytest.raises(InvalidArgument, match="raw"):
        open_store(sensitivity=Sensitivity(digits, raw="clerk"))
    with pytest.raises(InvalidArgument, match="sensitivity"):
        open_store(sensitivity=digits)


# --- leaving the store -----------------------------------------------------------------------------------------------------


def carried(folder: Path) -> bytes:
    """All bytes of a dump. What is looked for in them is long: a few digits stand in any hash by chance."""
    return b"".join(f.read_bytes() for f in sorted(folder.rglob("*")) if f.is_file())


def test_a_dump_holds_of_others_what_its_maker_is_given(guarded: MemOS, tmp_path: Path) -> None:
    [cube] = guarded.add(
        "tea costs 424242424242 here", attributes={"n": ["is 777777777777 too"]}, access=Access("ann", EVERYBODY)
    )
    guarded.update(cube.id, "tea costs 434343434343 here")
    [mine] = guarded.add("my 999999999999", actor="bob", access=Access("bob", EVERYBODY))
    keep_tensors(guarded, guarded.get(cube.id), b"424242424242 as tensors")
    done = guarded.dump(tmp_path / "bob", actor="bob")
    assert (done.memories, done.left_out) == (2, {"other_forms_redacted": 1})
    said = carried(tmp_path / "bob")
    assert not any(secret in said for secret in (b"424242424242", b"434343434343", b"777777777777"))
    assert b"999999999999" in said
    texts = ["plaintext"]
    guarded.dump(tmp_path / "ann", filter={"n": {"$ne": 0}}, kinds=texts)
    with guarded.acting(purpose="billing"):
        guarded.dump(tmp_path / "clerk", actor="clerk", kinds=texts)
    with MemOS(tmp_path / "there", embed=guarded._embedding.embedder, actor="bob") as there:
        there.load(tmp_path / "bob")
        assert {h.cube.text for h in there.search("tea", k=9)} == {"tea costs [number] here", "my 999999999999"}
        [loaded] = [h.cube for h in there.search("tea costs") if h.cube.text.startswith("tea")]
        assert [c.text for c in there.history(loaded.id)] == ["tea costs [number] here"] * 2
    assert b"424242424242" in carried(tmp_path / "clerk")
    again = guarded.dump(tmp_path / "mine", actor="bob", ids=[mine.id])
    assert again.left_out == {}
    assert guarded.dump(tmp_path / "mine", actor="bob", ids=[mine.id]).reused  # nothing was left out: files are kept


def test_a_callers_own_redaction_and_the_stores_meet(guarded: MemOS, tmp_path: Path) -> None:
    guarded.add("tea costs 424242424242 here", access=Access("ann", EVERYBODY))
    guarded.dump(tmp_path / "dump", actor="bob", redact=lambda text: text.replace("tea", "[drink]"))
    assert b"[drink] costs [number] here" in carried(tmp_path / "dump")
    text = "call 424242424242 and 7"
    guarded.add(text)
    guarded.dump(tmp_path / "hook", redact=lambda said: redacted(said, digits(said)))  # a detector as a hook
    said = carried(tmp_path / "hook")
    assert b"call [number] and [number]" in said
    assert b"424242424242" not in said


def test_what_is_published_is_raw_only_if_all_who_may_load_it_are_given_it_raw(
    open_store: Callable[..., MemOS], tmp_path: Path
) -> None:
    pytest.importorskip("cryptography", reason="the extra is not installed")
    from memos_core import new_key

    memory = open_store(sensitivity=Sensitivity(digits, raw=frozenset({"clerk"})))
    memory.add("tea costs 424242424242 here")
    new_key(tmp_path / "key.pem")
    for name, visibility, raw in (
        ("all", [PUBLIC], False),
        ("some", ["bob", "clerk"], False),
        ("one", ["clerk"], True),
    ):
        memory.publish(tmp_path / "shelf", name, key=tmp_path / "key.pem", visibility=visibility)
        assert (b"424242424242" in carried(tmp_path / "shelf" / name)) == raw


def test_the_log_tells_others_of_an_act_without_what_was_found_in_its_details(guarded: MemOS) -> None:
    [cube] = guarded.add("tea", access=Access("ann", EVERYBODY))
    guarded._writer.tell("ann", "look", [cube], cube.created_at, detail="at 4242 of it")
    details = {who: guarded.log(actor=who, verb="look")[0].detail for who in ("ann", "bob", "clerk")}
    assert details == {"ann": "at 4242 of it", "bob": "at [number] of it", "clerk": "at [number] of it"}
    with guarded.acting(purpose="billing"):
        assert guarded.log(actor="clerk", verb="look")[0].detail == "at 4242 of it"


def test_a_branch_leaves_out_what_its_store_leaves_out(guarded: MemOS) -> None:
    [cube] = guarded.add("tea costs 42", access=Access("ann", EVERYBODY))
    with guarded.branch("try") as trial:
        assert trial.get(cube.id, actor="bob").text == "tea costs [number]"
