"""What the adapter makes of LlamaIndex's messages."""

from __future__ import annotations

from datetime import UTC, datetime
from typing import Any

import pytest
from hypothesis import given
from hypothesis import strategies as st
from llama_index.core.base.llms.types import ChatMessage, ImageBlock, MessageRole, TextBlock

from llamaindex_memos.messages import as_turn, asked, fitting, packed, reminded, said, same, size, unpacked

REACT = "Thought: I need a tool.\nAction: look\nAction Input: {}\nObservation: secret\nThought: I can answer.\nAnswer: "


def message(role: str, content: Any = None, **more: Any) -> ChatMessage:
    return ChatMessage(role=role, content=content, additional_kwargs=more)


def words(text: str) -> list[str]:
    return text.split()


# --- what was said -------------------------------------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("given", "expected"),
    [
        (message("user", "Hello."), "Hello."),
        (message("assistant", "Hi."), "Hi."),
        (message("model", "Hi."), "Hi."),
        (message("chatbot", "Hi."), "Hi."),
        (message("user", "half \ud83d \x00"), "half ? \x00"),
        (message("assistant", REACT + "Noon."), "Noon."),
        (message("assistant", REACT + "Two lines:\nAnswer: yes"), "Two lines:\nAnswer: yes"),
        (message("assistant", "Thought: (Implicit) I can answer without any more tools!\nAnswer: Noon."), "Noon."),
        (message("assistant", "Thought: hard to say."), "Thought: hard to say."),
        (message("user", REACT + "Noon."), REACT + "Noon."),
        (message("user", "  \n"), None),
        (message("assistant", None, tool_calls=[{"id": "1"}]), None),
        (message("tool", "tool output"), None),
        (message("function", "tool output"), None),
        (message("system", "Be brief."), None),
        (message("developer", "Be brief."), None),
    ],
)  # fmt: skip
def test_what_people_and_the_model_said_is_taken_and_nothing_else(given: ChatMessage, expected: str | None) -> None:
    assert said(given) == expected
    turn = as_turn(given, "7")
    assert (None if turn is None else turn["content"]) == expected


@pytest.mark.parametrize(
    ("blocks", "expected", "turn"),
    [
        ([TextBlock(text="one"), ImageBlock(image=b"x"), TextBlock(text="two")], "one\ntwo", "one\ntwo\n[image]"),
        ([ImageBlock(image=b"x")], None, "[image]"),
    ],
)
def test_a_note_stands_for_an_image_in_what_is_learnt_and_not_in_what_is_asked(
    blocks: list[Any], expected: str | None, turn: str
) -> None:
    given = message("user", blocks)
    assert said(given) == expected
    assert (as_turn(given) or {})["content"] == turn


def test_a_turn_has_the_name_and_time_that_the_message_carries() -> None:
    when = datetime(2026, 3, 1, 9, tzinfo=UTC)
    plain = {"role": "user", "content": "Hi."}
    assert as_turn(message("user", "Hi.", name="Ann", timestamp=when)) == {**plain, "name": "Ann", "timestamp": when}
    assert as_turn(message("user", "Hi.", timestamp=when.isoformat()), "7") == {**plain, "id": "7", "timestamp": when}
    assert as_turn(message("user", "Hi.", name="half \ud83d")) == {**plain, "name": "half ?"}
    for odd in ({"name": 7}, {"timestamp": "yesterday"}, {"timestamp": 12}, {"timestamp": "2026-03-01T09:00:00"}):
        assert as_turn(message("user", "Hi.", **odd)) == plain


@pytest.mark.parametrize(
    ("input", "expected"),
    [
        (None, ("And now?", 2)), ("", ("And now?", 2)), ("  ", ("And now?", 2)), ("And now?", ("And now?", 2)),
        ("Something else?", ("Something else?", None)), ("half \ud83d", ("half ?", None)), (message("user", "Something else?"), ("Something else?", None)),
    ],
)  # fmt: skip
def test_the_question_is_the_input_or_the_last_thing_a_person_said(input: Any, expected: Any) -> None:
    talk = [message("user", "First?"), message("assistant", "Yes."), message("user", "And now?"), message("assistant")]
    assert asked(talk, input) == expected


def test_there_is_no_question_where_nobody_asked() -> None:
    assert asked([]) == (None, None)
    assert asked([message("assistant", "Hello!")]) == (None, None)
    assert asked([message("user", [ImageBlock(image=b"x")])]) == (None, None)
    assert asked([], "Well?") == ("Well?", None)


# --- as text -------------------------------------------------------------------------------------------------------------


@pytest.mark.parametrize(
    "given",
    [
        message("user", "Hello."), message("user"), message("user", ""), message("tool", "x", tool_call_id="1"),
        message("user", [TextBlock(text="look"), ImageBlock(image=b"\x89PNG")]), message("user", "half \ud83d \x00 \u2028 é"),
        message("assistant", None, tool_calls=[{"id": "1", "function": {"arguments": '{"a": 1}'}}], n=1.5, none=None),
    ],
)  # fmt: skip
def test_a_message_comes_back_as_it_was_and_each_time_anew(given: ChatMessage) -> None:
    text = packed(given)
    assert text.isascii()
    assert unpacked(text) == given
    assert unpacked(text) is not unpacked(text)
    assert packed(unpacked(text)) == text


def test_what_no_json_can_hold_is_kept_as_its_string() -> None:
    back = unpacked(packed(message("user", "Hi.", thing=object, deep={"set": {1}}, fine=3)))
    assert back.content == "Hi."
    assert back.additional_kwargs == {"thing": "<class 'object'>", "deep": {"set": "{1}"}, "fine": 3}


def test_messages_are_the_same_by_who_says_which_words() -> None:
    def alike(one: ChatMessage, other: ChatMessage) -> bool:
        return same(packed(one)) == same(packed(other))

    assert alike(message("user", "Hi  there.\n"), message("user", "Hi there.", usage=3))
    assert alike(message("assistant", REACT + "Noon."), message("assistant", "Noon."))
    assert not alike(message("user", "Hi."), message("assistant", "Hi."))
    assert not alike(message("tool", "Hi.", tool_call_id="1"), message("tool", "Hi.", tool_call_id="2"))
    assert same("no message") == "no message"


# --- a budget ------------------------------------------------------------------------------------------------------------


def kept(roles: str, room: int, sizes: list[int] | None = None) -> str:
    """Which of messages, s(ystem) u(ser) a(ssistant) t(ool), each of size 10, fit."""
    names = {"s": "system", "u": "user", "a": "assistant", "t": "tool"}
    talk = [message(names[role], "x") for role in roles]
    chosen = fitting(talk, sizes or [10] * len(talk), room)
    assert chosen == sorted(set(chosen))
    return "".join(f"{roles[i]}{i}" for i in chosen)


@pytest.mark.parametrize(
    ("roles", "room", "expected"),
    [
        ("uaua", 40, "u0a1u2a3"),
        ("uaua", 39, "u2a3"),
        ("uaua", 30, "u2a3"),
        ("auau", 40, "a0u1a2u3"),  # a greeting that the caller put there, and that fits
        ("auau", 39, "u1a2u3"),
        ("uatau", 30, "u4"),  # not "tau", nor "au"
        ("uatauata", 45, "u4a5t6a7"),
        ("suaua", 30, "s0u3a4"),
        ("suaua", 50, "s0u1a2u3a4"),
        ("uatata", 40, "u0a3t4a5"),  # one turn: its question, and the last steps, calls with results
        ("uatata", 20, "u0a5"),
        ("uatata", 35, "u0a5"),
        ("uata", 5, "u0a3"),  # the question and what came last: the model says what is too long
        ("u", 5, "u0"),
        ("uau", 5, "u2"),
        ("aat", 25, "a1t2"),
        ("ttt", 25, "t0t1t2"),
        ("", 5, ""),
        ("s", 5, "s0"),
    ],
)
def test_what_fits_is_whole_turns_from_a_question_on(roles: str, room: int, expected: str) -> None:
    assert kept(roles, room) == expected


@given(st.text(alphabet="suat", max_size=12), st.integers(0, 200), st.data())
def test_what_fits_fits_and_no_call_is_torn_from_its_results(roles: str, room: int, data: st.DataObject) -> None:
    sizes = data.draw(st.lists(st.integers(0, 40), min_size=len(roles), max_size=len(roles)))
    names = {"s": "system", "u": "user", "a": "assistant", "t": "tool"}
    talk = [message(names[role], "x") for role in roles]
    chosen = fitting(talk, sizes, room)
    if sum(sizes) <= room:
        assert chosen == list(range(len(talk)))
        return
    front = next((i for i, role in enumerate(roles) if role != "s"), len(roles))
    assert chosen[:front] == list(range(front))
    rest = [roles[i] for i in chosen[front:]]
    if "u" in roles:
        assert rest[0] == "u"
    for i in chosen:
        if roles[i] == "t" and i > front and roles[i - 1] in "at" and chosen[0] != i:
            assert i - 1 in chosen  # with its call
    if sum(sizes[i] for i in chosen) > room:  # then it is no more than a question and what came last
        assert rest.count("u") <= 1
        assert len(rest) - rest.count("t") - rest.count("u") <= 1 or "u" not in roles


def test_the_size_of_a_message_is_that_of_its_texts_calls_and_media() -> None:
    assert size(message("user", "one two three"), words) == 3
    assert size(message("user"), words) == 0
    assert size(message("assistant", "one", tool_calls=["two"]), words) == 3
    assert size(message("user", [TextBlock(text="one"), ImageBlock(image=b"x")]), words) == 257


# --- a recalled text -----------------------------------------------------------------------------------------------------


TALK = [message("user", "First?"), message("assistant", "Yes."), message("user", "And now?")]


def lines(messages: list[ChatMessage]) -> list[str]:
    return [f"{m.role.value}: {' | '.join(b.text for b in m.blocks)}" for m in messages]


@pytest.mark.parametrize(
    ("talk", "at", "insert", "alone", "expected"),
    [
        (TALK, 2, "auto", False, ["user: First?", "assistant: Yes.", "user: RECALLED | And now?"]),
        (TALK, 2, "auto", True, ["system: RECALLED", "user: First?", "assistant: Yes.", "user: And now?"]),
        (TALK, 2, "system", False, ["system: RECALLED", "user: First?", "assistant: Yes.", "user: And now?"]),
        (TALK, 2, "user", True, ["user: First?", "assistant: Yes.", "user: RECALLED | And now?"]),
        (TALK[:2], None, "auto", False, ["user: RECALLED | First?", "assistant: Yes."]),
        ([], None, "auto", False, ["user: RECALLED"]),
        (TALK[1:2], None, "auto", False, ["assistant: Yes.", "user: RECALLED"]),
        ([message("system", "Be brief."), *TALK[:1]], 1, "auto", False, ["system: Be brief. | RECALLED", "user: First?"]),
        ([message("system", "Be brief."), *TALK[:1]], 1, "auto", True, ["system: Be brief. | RECALLED", "user: First?"]),
        ([message("system", "Be brief."), *TALK[:1]], 1, "user", True, ["system: Be brief.", "user: RECALLED | First?"]),
    ],
)  # fmt: skip
def test_a_recalled_text_stands_in_the_system_message_or_before_the_question(
    talk: list[ChatMessage], at: int | None, insert: Any, alone: bool, expected: list[str]
) -> None:
    before = [m.model_copy(deep=True) for m in talk]
    assert lines(reminded(talk, "RECALLED", at, insert, alone)) == expected
    assert talk == before
    assert reminded(talk, "", at, insert, alone) == talk


@given(
    st.lists(st.sampled_from(list(MessageRole)), max_size=6), st.sampled_from(["auto", "system", "user"]), st.booleans()
)
def test_a_recalled_text_makes_no_second_system_message(roles: list[MessageRole], insert: Any, alone: bool) -> None:
    talk = [message(role, role.value) for role in roles]
    _, at = asked(talk)
    found = reminded(talk, "RECALLED", at, insert, alone)
    assert sum("RECALLED" in (m.content or "") for m in found) == 1
    systems = sum(m.role in ("system", "developer") for m in talk)
    first = bool(talk) and talk[0].role in ("system", "developer")
    made = sum(m.role in ("system", "developer") for m in found) - systems
    assert made == 0 if first else made <= 1
