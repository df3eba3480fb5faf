"""What was tagged is redacted whoever opens the store: by the store's own detector, or, where that cannot be made again, whole."""

from __future__ import annotations

import json
import sys
import threading
from collections.abc import Callable, Sequence
from datetime import timedelta
from pathlib import Path

import pytest

from memos_core import PUBLIC, Access, AccessDenied, InvalidArgument, Kind, LLMReader, MemOS, Sensitivity, cli
from memos_core.sensitivity import Finding, checked_forms
from memos_core.workers import Opening
from tests.conftest import Clock
from tests.test_forgetting import keep_tensors
from tests.test_reader import Script, item
from tests.test_sensitivity import carried, digits
from tests.words import WordsEmbedder

EVERYBODY = frozenset({PUBLIC})
OPEN = Access("ann", EVERYBODY)
MAIL, RAW, LEFT = "ann.berg@example.com", "write to ann.berg@example.com about tea", "write to [email] about tea"

Open = Callable[..., MemOS]


@pytest.fixture
def packages() -> None:
    for name in ("phonenumbers", "detect_secrets", "stdnum"):
        pytest.importorskip(name, reason="the extra is not installed")


@pytest.fixture
def without_packages(monkeypatch: pytest.MonkeyPatch) -> Callable[[], None]:
    return lambda: monkeypatch.setitem(sys.modules, "phonenumbers", None)


def given(memory: MemOS, id: str, who: str) -> set[str]:
    """Every text and value that an actor is given of a memory, on each way out."""
    family = memory.lineage(id, actor=who)
    cubes = [
        memory.get(id, actor=who), memory.get(id, version=1, actor=who), *memory.history(id, actor=who), family.cube, *family.parents,
        *family.children, *(h.cube for h in memory.search("tea", actor=who)), *memory.follow(id, actor=who),
        *memory.brief("tea", actor=who).cubes, *memory.archived(actor=who), *memory.convert([id], Kind.PLAINTEXT, actor=who),
    ]  # fmt: skip
    said = {c.text for c in cubes} | {str(v) for c in cubes for v in c.attributes.values()}
    return said | {memory.brief("tea", actor=who).text.split(": ")[-1].split("\n")[0]}


# --- the store's own detector ------------------------------------------------------------------------------------------------


@pytest.mark.usefixtures("packages")
def test_a_program_that_gives_no_sensitivity_gets_the_stores_own_on_every_way_out(open_store: Open) -> None:
    wrote = open_store(sensitivity=Sensitivity(checked_forms("DE"), raw=frozenset({"clerk"})))
    [cube] = wrote.add(RAW, attributes={"mail": MAIL}, access=OPEN)
    wrote.update(cube.id, RAW)
    plain = open_store()
    assert given(plain, cube.id, "bob") == {LEFT, "[email]"}
    assert given(plain, cube.id, "ann") == given(plain, cube.id, "clerk") == {RAW, MAIL}
    [later] = plain.add("ring 0170 1234567 for tea", access=OPEN)  # of the region that the store knows
    assert later.sensitivity == ("phone",)
    assert wrote.get(later.id, actor="bob").text == plain.get(later.id, actor="bob").text == "ring [phone] for tea"


@pytest.mark.usefixtures("packages")
def test_memosctl_shows_another_reader_nothing_of_it(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    pytest.importorskip("sentence_transformers", reason="memosctl uses the default embedder")
    store = str(tmp_path / "store")
    with MemOS(store, actor="ann", sensitivity=Sensitivity(checked_forms())) as memory:
        [cube] = memory.add(RAW, access=OPEN)
        memory._writer.tell("ann", "look", [cube], cube.created_at, detail=f"for {MAIL}")
    for words in (
        ["search", store, "tea", "--json"], ["log", store], ["why", store, cube.id], ["report", store, str(tmp_path / "r.html")],
        ["top", store, "--once"], ["dump", store, str(tmp_path / "dump")],
    ):  # fmt: skip
        assert cli.main([*words, "--actor", "bob"]) == 0
    said = capsys.readouterr().out
    assert "for [email]" in said
    assert said.count(LEFT) == 1
    assert MAIL.encode() not in said.encode() + (tmp_path / "r.html").read_bytes() + carried(tmp_path / "dump")
    assert cli.main(["search", store, "tea", "--actor", "ann"]) == 0
    assert RAW in capsys.readouterr().out


@pytest.mark.usefixtures("packages")
def test_dumps_and_publications_of_a_program_that_gives_none_hold_nothing_of_it(
    open_store: Open, tmp_path: Path
) -> None:
    pytest.importorskip("cryptography", reason="the extra is not installed")
    from memos_core import new_key

    [cube] = open_store(sensitivity=Sensitivity(checked_forms(), raw=frozenset({"clerk"}))).add(RAW, access=OPEN)
    plain = open_store()
    keep_tensors(plain, plain.get(cube.id), MAIL.encode())
    assert plain.dump(tmp_path / "bob", actor="bob").left_out == {"other_forms_redacted": 1}
    new_key(tmp_path / "key.pem")
    plain.publish(tmp_path / "shelf", "all", key=tmp_path / "key.pem", visibility=[PUBLIC])
    plain.publish(tmp_path / "shelf", "one", key=tmp_path / "key.pem", visibility=["clerk"], kinds=["plaintext"])
    for folder, raw in (("bob", False), ("shelf/all", False), ("shelf/one", True)):
        assert (MAIL.encode() in carried(tmp_path / folder)) == raw, folder
    with MemOS(tmp_path / "there", embed=plain._embedding.embedder, actor="bob") as there:
        there.load(tmp_path / "bob")
        [hit] = there.search("tea")
        assert (hit.cube.text, hit.cube.sensitivity) == (LEFT, ())  # nothing is left in it that would be withheld
        there.share(hit.cube.id, readers=["cleo"])
        assert there.get(hit.cube.id, actor="cleo").text == LEFT


@pytest.mark.usefixtures("packages")
def test_what_holds_its_words_in_another_form_is_opened_for_the_allowed_alone(open_store: Open) -> None:
    [cube] = open_store(sensitivity=Sensitivity(checked_forms())).add(RAW, access=OPEN)
    plain = open_store()
    made = keep_tensors(plain, plain.get(cube.id), b"tensors")
    assert plain._tiers.passage("ann", made) is not None
    assert plain._tiers.passage("bob", made) is None
    assert plain._adapters._sources("bob", made) is None
    [source] = plain.convert([made.id], Kind.PLAINTEXT)
    assert source.text == RAW


@pytest.mark.usefixtures("packages")
def test_a_branch_a_transaction_and_a_program_that_was_open_before_leave_it_out_too(open_store: Open) -> None:
    early = open_store()
    assert early.search("tea", actor="bob") == []
    [cube] = open_store(sensitivity=Sensitivity(checked_forms())).add(RAW, access=OPEN)
    assert early.get(cube.id, actor="bob").text == LEFT
    with early.branch("try") as trial:
        assert trial.get(cube.id, actor="bob").text == LEFT
        trial.update(cube.id, f"{RAW} and milk")
        early.merge(trial)
    with early.transaction():
        early.update(cube.id, f"{RAW} and more")
        assert early.get(cube.id, actor="bob").text == f"{LEFT} and more"
    assert early.get(cube.id).sensitivity == ("email",)


@pytest.mark.usefixtures("packages")
def test_a_weaker_detector_does_not_take_the_stores_away(open_store: Open) -> None:
    [cube] = open_store(sensitivity=Sensitivity(checked_forms())).add(f"{RAW}, 42 cups", access=OPEN)
    blind = open_store(sensitivity=Sensitivity(lambda text: []))
    assert blind.get(cube.id, actor="bob").text == f"{LEFT}, 42 cups"
    counting = open_store(sensitivity=Sensitivity(digits))
    assert counting.get(cube.id, actor="bob").text == f"{LEFT}, [number] cups"


@pytest.mark.usefixtures("packages")
def test_what_a_reader_reads_of_it_is_redacted_too(open_store: Open) -> None:
    [cube] = open_store(sensitivity=Sensitivity(checked_forms())).add(RAW, access=OPEN)
    model = Script(json.dumps([item(f"Ann has {MAIL}")]), json.dumps([]))
    reading = open_store(reader=LLMReader(model))
    said = {"role": "user", "content": f"have {MAIL} here for tea"}
    _, statement = reading.add(said, access=OPEN)
    assert statement.sensitivity == ("email",)
    assert statement.lineage[0].id != cube.id
    assert reading.get(statement.id, actor="bob").text == "Ann has [email]"
    reading.add({"role": "user", "content": "who has tea?"}, actor="bob")
    assert MAIL not in model.prompts[1]


@pytest.mark.usefixtures("packages")
def test_a_worker_and_a_retriever_that_open_the_store_by_its_path_leave_it_out(
    open_store: Open, tmp_path: Path, embed: WordsEmbedder
) -> None:
    [cube] = open_store(sensitivity=Sensitivity(checked_forms())).add(RAW, access=OPEN)
    with Opening(str(tmp_path / "store"), embed=embed).open(threading.Event()) as worker:
        made = keep_tensors(worker, worker.get(cube.id, actor="ann"), b"tensors")
        assert worker._tiers.passage("bob", made) is None
        assert worker.get(cube.id, actor="bob").text == LEFT
    langchain = pytest.importorskip("langchain_memos", reason="LangChain is not installed")
    retriever = langchain.MemOSRetriever(tmp_path / "store", embed=embed, user_id="bob")
    assert [d.page_content for d in retriever.invoke("tea")] == [LEFT]
    retriever.close()


# --- where it cannot be made again -------------------------------------------------------------------------------------------


def test_of_what_a_programs_own_detector_tagged_others_get_the_tags_alone(
    open_store: Open, caplog: pytest.LogCaptureFixture
) -> None:
    wrote = open_store(sensitivity=Sensitivity(digits, raw=frozenset({"clerk"})))
    [cube] = wrote.add("tea costs 42 here", attributes={"price": ["is 42"], "n": 1}, access=OPEN)
    [free] = wrote.add("milk is free", access=OPEN)
    plain = open_store()
    assert given(plain, cube.id, "bob") == {"[number]", "['[number]']", "1", "milk is free"}
    assert plain.get(free.id, actor="bob").text == "milk is free"
    assert plain.get(cube.id).text == plain.get(cube.id, actor="clerk").text == "tea costs 42 here"
    assert "detector" in caplog.text
    assert open_store(sensitivity=Sensitivity(lambda text: [])).get(cube.id, actor="bob").text == "[number]"


@pytest.mark.usefixtures("packages")
def test_without_the_packages_others_get_the_tags_alone(open_store: Open, without_packages: Callable[[], None]) -> None:
    [cube] = open_store(sensitivity=Sensitivity(checked_forms())).add(f"{RAW}, or ring +1 650 253 0000", access=OPEN)
    without_packages()
    plain = open_store()
    assert plain.get(cube.id, actor="bob").text == "[email, phone]"
    assert plain.get(cube.id).text.startswith(RAW)


def test_what_is_written_where_the_detector_is_not_at_hand_says_so_and_is_withheld_until_it_was_looked_at(
    open_store: Open,
) -> None:
    wrote = open_store(sensitivity=Sensitivity(digits))
    [checked] = wrote.add("milk is free", access=OPEN)
    plain = open_store()
    [late] = plain.add("tea costs 42", access=OPEN)
    assert late.sensitivity == plain.get(late.id).sensitivity == ("unchecked",)
    assert plain.get(late.id, actor="bob").text == "[unchecked]"
    assert wrote.get(late.id, actor="bob").text == "tea costs [number]"
    plain.freeze(checked.id)
    assert plain.get(checked.id, actor="bob").text == "milk is free"  # what was looked at stays so
    assert wrote.freeze(late.id).sensitivity == ("number",)
    plain.items.put([])
    assert plain.get(late.id, actor="bob").text == "[number]"


def test_what_was_stored_before_anybody_looked_is_withheld_where_nobody_can_look(
    memory: MemOS, open_store: Open, clock: Clock
) -> None:
    [early] = memory.add("tea costs 42", access=OPEN)
    assert memory.get(early.id, actor="bob").text == "tea costs 42"
    clock.forward(seconds=1)
    [late] = open_store(sensitivity=Sensitivity(digits)).add("milk is free", access=OPEN)
    assert memory.get(early.id, actor="bob").text == "[unchecked]"
    assert memory.get(late.id, actor="bob").text == "milk is free"


def test_others_are_told_no_details_where_nobody_can_look_at_them(open_store: Open) -> None:
    wrote = open_store(sensitivity=Sensitivity(digits))
    [cube] = wrote.add("tea", access=OPEN)
    wrote._writer.tell("ann", "look", [cube], cube.created_at, detail="at 4242 of it")
    plain = open_store()
    assert plain.log(actor="bob", verb="look")[0].detail == "[unchecked]"
    assert plain.log(verb="look")[0].detail == "at 4242 of it"


# --- tags that came from elsewhere -------------------------------------------------------------------------------------------


@pytest.mark.parametrize("detect", ["forms", "digits"])
@pytest.mark.usefixtures("packages")
def test_a_memory_that_came_with_its_tags_is_redacted_in_a_store_that_was_never_told(
    detect: str, open_store: Open, tmp_path: Path
) -> None:
    detector = checked_forms() if detect == "forms" else digits
    wrote = open_store(sensitivity=Sensitivity(detector))
    wrote.add(f"{RAW} for 42", access=OPEN)
    wrote.dump(tmp_path / "dump")
    there = open_store(path=tmp_path / "there")
    there.load(tmp_path / "dump")
    [hit] = there.search("tea")
    there.share(hit.cube.id, readers=["bob"])
    assert there.get(hit.cube.id).text == f"{RAW} for 42"
    left = f"{LEFT} for 42" if detect == "forms" else "[email, number]"
    assert there.get(hit.cube.id, actor="bob").text == left
    [own] = there.add("tea for 43", access=OPEN)  # nobody asked to look for anything here
    assert there.get(own.id, actor="bob").text == "tea for 43"
    assert own.sensitivity == ()


# --- versions ----------------------------------------------------------------------------------------------------------------


def test_tags_say_what_is_in_a_version_and_go_with_it(open_store: Open) -> None:
    memory = open_store(sensitivity=Sensitivity(digits))
    [cube] = memory.add("tea costs 42", access=OPEN)
    assert memory.update(cube.id, "tea is free").sensitivity == ()
    assert memory.get(cube.id, actor="bob").text == "tea is free"
    assert memory.restore(cube.id, 1).sensitivity == ("number",)
    assert memory.update(cube.id, "and milk", mode="append").sensitivity == ("number",)
    [kept] = memory.add("costs 7", key="k", access=OPEN)
    assert kept.sensitivity == ("number",)
    assert memory.add("costs nothing", key="k", access=OPEN)[0].sensitivity == ()
    plain = open_store()  # where nobody can look, a version that comes back has the tags that it had
    assert plain.update(cube.id, "tea is free").sensitivity == ("unchecked",)
    assert plain.restore(cube.id, 1).sensitivity == ("number", "unchecked")
    memory.snapshot("moment")
    plain.update(cube.id, "nothing")
    plain.rollback("moment")
    assert {"number"} <= set(plain.get(cube.id).sensitivity)


def test_a_hash_of_the_words_is_not_handed_out_with_what_is_left_of_them(open_store: Open) -> None:
    memory = open_store(sensitivity=Sensitivity(digits))
    [cube] = memory.add([{"role": "user", "content": "tea costs 42"}], access=OPEN)
    shown = memory.get(cube.id, actor="bob")
    assert shown.text == "tea costs [number]"
    assert shown.origin.digest is None


# --- the right ---------------------------------------------------------------------------------------------------------------


def test_a_later_opener_may_name_fewer_and_not_more(open_store: Open) -> None:
    memory = open_store(sensitivity=Sensitivity(digits, raw=frozenset({"clerk", "bob"})))
    [cube] = memory.add("tea costs 42", access=OPEN)
    fewer = open_store(sensitivity=Sensitivity(digits, raw=frozenset({"clerk"})))
    as_said = open_store(sensitivity=Sensitivity(digits))
    assert [m.get(cube.id, actor="bob").text for m in (memory, fewer, as_said)] == [
        "tea costs 42", "tea costs [number]", "tea costs 42",
    ]  # fmt: skip
    for more in (["cleo"], [PUBLIC], ["clerk", "cleo"]):
        with pytest.raises(InvalidArgument, match="allow_raw"):
            open_store(actor="cleo", sensitivity=Sensitivity(digits, raw=frozenset(more)))
    assert memory.raw_readers() == {"clerk", "bob"}


def test_who_is_given_it_raw_is_said_by_who_recorded_it_and_written_in_the_log(open_store: Open) -> None:
    memory = open_store(sensitivity=Sensitivity(digits, raw=frozenset({"clerk"})))
    [cube] = memory.add("tea costs 42", access=OPEN)
    plain = open_store(actor="bob")
    with pytest.raises(AccessDenied, match="ann"):
        plain.allow_raw(["bob"])
    memory.allow_raw(["bob"])
    raw, left = "tea costs 42", "tea costs [number]"
    assert (memory.get(cube.id, actor="bob").text, memory.get(cube.id, actor="clerk").text) == (raw, left)
    assert (plain.get(cube.id).text, plain.get(cube.id, actor="clerk").text) == (raw, "[number]")
    [told] = memory.log(verb="allow raw")
    assert (told.actor, told.detail) == ("ann", "bob")
    assert memory.log(verb="sensitivity")[0].actor == "ann"
    plain.allow_raw([], actor="ann")
    assert plain.get(cube.id).text == "[number]"
    assert memory.get(cube.id, actor="bob").text == left
    assert plain.raw_readers() == frozenset()


def test_a_right_that_was_taken_back_is_none_on_a_branch_either(open_store: Open) -> None:
    memory = open_store(sensitivity=Sensitivity(digits, raw=frozenset({"clerk"})))
    [cube] = memory.add("tea costs 42", access=OPEN)
    open_store().allow_raw([])
    with memory.branch("try") as trial:
        assert trial.get(cube.id, actor="clerk").text == "tea costs [number]"


def test_a_group_is_given_it_raw_as_long_as_one_is_in_it(open_store: Open) -> None:
    memory = open_store(sensitivity=Sensitivity(digits))
    [cube] = memory.add("tea costs 42", access=OPEN)
    with pytest.raises(InvalidArgument, match="group"):
        memory.allow_raw(["group:clerks"])
    memory.group("clerks", ["bob"])
    memory.allow_raw(["group:clerks"])
    assert memory.get(cube.id, actor="bob").text == "tea costs 42"
    memory.group("clerks", [])
    assert memory.get(cube.id, actor="bob").text == "tea costs [number]"


def test_in_a_store_where_nothing_is_sensitive_there_is_nothing_to_allow(memory: MemOS) -> None:
    with pytest.raises(InvalidArgument, match="sensitivity="):
        memory.allow_raw(["bob"])
    assert memory.raw_readers() == frozenset()


def test_memosctl_says_and_sets_who_is_given_it_raw(
    open_store: Open, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    open_store(sensitivity=Sensitivity(digits, raw=frozenset({"clerk"}))).close()
    store, said = str(tmp_path / "store"), []
    for words in ([], ["bob", "cleo"], [], ["--nobody"]):
        assert cli.main(["allow-raw", store, *words, "--actor", "ann"]) == 0
        said.append(capsys.readouterr().out.split())
    assert said == [["clerk"], ["bob", "cleo"], ["bob", "cleo"], ["nobody"]]
    assert cli.main(["allow-raw", store, "bob", "--actor", "bob"]) == 1
    assert cli.main(["allow-raw", store, "bob", "--nobody", "--actor", "ann"]) == 1


def test_opening_it_again_writes_nothing(open_store: Open, clock: Clock) -> None:
    open_store(sensitivity=Sensitivity(digits))
    clock.forward(hours=1)
    memory = open_store(sensitivity=Sensitivity(digits))
    assert len(memory.log(verb="sensitivity")) == 1
    assert clock.now - memory.log(verb="sensitivity")[0].at == timedelta(hours=1)


def test_a_store_without_one_reads_no_rule_more(open_store: Open, clock: Clock) -> None:
    memory = open_store()
    [cube] = memory.add("tea costs 42", access=OPEN)
    assert memory._vault.rules.all() == {}
    assert memory.get(cube.id, actor="bob").text == "tea costs 42"
    assert memory._sensitivity is None


def found(kind: str) -> Callable[[str], Sequence[Finding]]:
    return lambda text: [Finding(kind, i, i + 3) for i in range(len(text)) if text.startswith("tea", i)]


def test_a_detector_that_is_added_later_looks_at_what_is_there(open_store: Open) -> None:
    [cube] = open_store(sensitivity=Sensitivity(digits)).add("tea costs 42", access=OPEN)
    both = open_store(sensitivity=Sensitivity(found("drink")))
    assert both.get(cube.id, actor="bob").text == "[drink, number]"  # of 42 it knows nothing: withheld whole
    assert json.loads(json.dumps(sorted(both.raw_readers()))) == []
