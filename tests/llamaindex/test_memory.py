"""MemOSMemory by itself: what it keeps, learns and recalls, whose it is, and what happens when the engine fails."""

from __future__ import annotations

import asyncio
import copy
import json
import pickle
import subprocess
import sys
import threading
from collections.abc import Callable, Sequence
from concurrent.futures import ThreadPoolExecutor
from contextlib import nullcontext
from pathlib import Path
from typing import Any

import pytest
from llama_index.core.base.llms.types import ChatMessage, ImageBlock, MessageRole, TextBlock
from llama_index.core.memory.types import BaseMemory

from llamaindex_memos import MemOSMemory
from memos_core import EmbedderMismatch, InvalidArgument, Item, MemOS, NotFound, StoreClosed
from tests.llamaindex.conftest import contents, learnt, texts
from tests.llamaindex.llms import CONTEXT, ChatModel, calling
from tests.words import WordsEmbedder

LEMON = "Ann takes her tea with lemon."


def user(content: Any, **more: Any) -> ChatMessage:
    return ChatMessage(role="user", content=content, additional_kwargs=more)


def assistant(content: Any, **more: Any) -> ChatMessage:
    return ChatMessage(role="assistant", content=content, additional_kwargs=more)


HISTORY = [user("I have a cat."), assistant("Its name?"), user("Miso."), assistant("Lovely.")]


def _words(text: str) -> list[str]:
    return text.split()


def shown(memory: MemOSMemory, *args: Any, **options: Any) -> str:
    return "\n".join(str(m.content) for m in memory.get(*args, **options))


# --- what LlamaIndex takes for granted -------------------------------------------------------------------------------------


def test_it_is_a_memory_and_true_also_when_it_is_empty(remembering: Any) -> None:
    memory = remembering()
    assert isinstance(memory, BaseMemory)
    assert "BaseMemory" in [kind.__name__ for kind in MemOSMemory.__mro__]
    assert MemOSMemory.class_name() == "MemOSMemory"
    assert memory.get() == memory.get_all() == []
    assert memory  # an agent takes another one for what is false


def test_what_is_put_comes_back_in_order_whatever_it_is(remembering: Any) -> None:
    memory = remembering()
    said = [
        ChatMessage(role="system", content="Be brief."), user("What time is it?"), calling("look"),
        ChatMessage(role="tool", content="12:00", additional_kwargs={"tool_call_id": "call-look"}), assistant("Noon."),
    ]  # fmt: skip
    for message in said[:2]:
        memory.put(message)
    memory.put_messages(said[2:])
    assert memory.get_all() == said
    assert memory.get() == said


def test_what_comes_back_is_the_callers_to_change(remembering: Any) -> None:
    memory = remembering()
    given = user("Hello.")
    memory.put(given)
    given.blocks[0].text = "changed"
    for found in (memory.get()[0], memory.get_all()[0]):
        found.blocks[0].text = "changed"  # as an agent does that has a state
        found.additional_kwargs["session_id"] = "changed"
    assert memory.get() == memory.get_all() == [user("Hello.")]


def test_a_conversation_is_there_for_whoever_comes_with_its_name(engine: MemOS, remembering: Any) -> None:
    one, other = remembering(session_id="s"), remembering(session_id="s")
    one.put(user("one"))
    other.put(assistant("two"))
    one.put(user("three"))
    assert (
        contents(one.get_all()) == contents(other.get()) == [("user", "one"), ("assistant", "two"), ("user", "three")]
    )
    other.set([user("again")])
    assert contents(one.get_all()) == [("user", "again")]
    one.reset()
    assert other.get_all() == []


_CHILD = """
import sys
from llama_index.core.base.llms.types import ChatMessage
from llamaindex_memos import MemOSMemory
from tests.words import WordsEmbedder
memory = MemOSMemory(sys.argv[1], embed=WordsEmbedder(), user_id="ann", session_id="s", on_error="raise")
memory.put(ChatMessage(role="user", content="Said in a process that ends here."))
import os
os._exit(9)  # no good-bye
"""


def test_a_conversation_outlives_its_process(tmp_path: Path) -> None:
    path = tmp_path / "store"
    subprocess.run([sys.executable, "-c", _CHILD, str(path)], timeout=60)
    memory = MemOSMemory(path, embed=WordsEmbedder(), user_id="ann", session_id="s", on_error="raise")
    assert contents(memory.get()) == [("user", "Said in a process that ends here.")]
    assert texts(memory.memory) == ["Said in a process that ends here."]
    memory.close()


def test_async_twins_do_the_same_beside_the_event_loop(open_store: Any) -> None:
    threads: set[threading.Thread] = set()

    class Watched(WordsEmbedder):
        def __call__(self, texts: Sequence[str], /) -> Any:
            threads.add(threading.current_thread())
            return super().__call__(texts)

    memory = MemOSMemory(open_store(embed=Watched()), user_id="ann", on_error="raise")

    async def talk() -> None:
        await memory.aset(HISTORY[:2])
        await memory.aput(HISTORY[2])
        await memory.aput_messages(HISTORY[3:])
        assert contents(await memory.aget(input="What is my cat called?")) == contents(HISTORY)
        assert contents(await memory.aget_all()) == contents(HISTORY)
        await memory.areset()
        assert await memory.aget_all() == []
        await memory.aforget()

    asyncio.run(talk())
    asyncio.run(memory.aput(user("in another loop")))
    assert threads
    assert threading.current_thread() not in threads  # asyncio.run loops on this one


def test_sync_methods_work_while_a_loop_runs(engine: MemOS, remembering: Any) -> None:
    async def talk() -> list[ChatMessage]:
        memory = remembering()
        memory.put(user("Hello."))
        return memory.get()

    assert contents(asyncio.run(talk())) == [("user", "Hello.")]


# --- learning --------------------------------------------------------------------------------------------------------------


def test_everything_said_is_learnt_as_it_is_put_with_role_and_session(engine: MemOS, remembering: Any) -> None:
    memory = remembering(session_id="s")
    memory.put(user("What time is it?", name="Ann", timestamp="2026-01-01T12:00:00+00:00"))
    memory.put(calling("look", "One moment."))
    memory.put(ChatMessage(role="tool", content="12:00"))
    memory.put(assistant(None))
    memory.put(ChatMessage(role="system", content="Be brief."))
    memory.put(assistant("Noon."))
    found = [(c.text, c.origin.role, c.origin.speaker, c.origin.session) for c in learnt(engine)]
    assert sorted(found) == [
        ("Noon.", "assistant", None, "s"), ("One moment.", "assistant", None, "s"), ("What time is it?", "user", "Ann", "s")
    ]  # fmt: skip
    assert {c.origin.occurred_at.year for c in learnt(engine) if c.origin.occurred_at} == {2026}


def test_the_same_words_said_again_are_another_turn(engine: MemOS, remembering: Any) -> None:
    memory = remembering()
    for _ in range(3):
        memory.put(user("ok"))
        memory.put(assistant("Next?"))
    assert len(memory.get_all()) == 6
    assert sorted(texts(engine)) == ["Next?"] * 3 + ["ok"] * 3


def test_a_reasoning_agents_answer_is_learnt_and_its_reasoning_is_kept(engine: MemOS, remembering: Any) -> None:
    reasoning = "Thought: I look.\nAction: look\nAction Input: {}\nObservation: secret\nThought: I know.\nAnswer: Noon."
    memory = remembering()
    memory.put(assistant(reasoning))
    assert contents(memory.get_all()) == [("assistant", reasoning)]
    assert texts(engine) == ["Noon."]


def test_it_learns_nothing_if_told_so(engine: MemOS, remembering: Any) -> None:
    memory = remembering(write=False)
    memory.put(user("Hello."))
    memory.set(HISTORY)
    assert contents(memory.get_all()) == contents(HISTORY)
    assert texts(engine) == []


def test_a_note_stands_for_what_is_no_text(engine: MemOS, remembering: Any) -> None:
    picture = ImageBlock(image=b"AAAA", image_mimetype="image/png")
    remembering().put(ChatMessage(role="user", blocks=[TextBlock(text="What is this?"), picture]))
    remembering().put(ChatMessage(role="user", blocks=[picture]))
    assert texts(engine) == ["What is this?\n[image]", "[image]"]


# --- set -------------------------------------------------------------------------------------------------------------------


@pytest.mark.parametrize("session", ["s", None], ids=["named", "unnamed"])
def test_a_history_handed_in_again_changes_nothing(engine: MemOS, remembering: Any, session: str | None) -> None:
    memory = remembering(session_id=session)
    for _ in range(3):
        memory.set(HISTORY)
        assert contents(memory.get_all()) == contents(HISTORY)
    assert len(learnt(engine)) == 4
    before = engine.stats(actor="ann").memories
    memory.set(HISTORY)
    assert engine.stats(actor="ann").memories == before


def test_of_a_history_is_learnt_what_is_new(engine: MemOS, remembering: Any) -> None:
    memory = remembering(session_id="s")
    for message in HISTORY[:2]:
        memory.put(message)
    memory.set(HISTORY)
    assert [c.text for c in learnt(engine)] == [m.content for m in HISTORY]
    memory.set([*HISTORY[:2], user("Her name is Momo."), HISTORY[3]])  # edited
    assert sorted(texts(engine)) == sorted([*(m.content for m in HISTORY), "Her name is Momo."])
    assert [m.content for m in memory.get_all()] == ["I have a cat.", "Its name?", "Her name is Momo.", "Lovely."]
    memory.set(HISTORY[2:])  # a window of it
    assert contents(memory.get_all()) == contents(HISTORY[2:])
    memory.set(HISTORY)
    assert contents(memory.get_all()) == contents(HISTORY)
    assert len(learnt(engine)) == 5


def test_a_conversation_that_was_reset_and_is_handed_in_is_known(engine: MemOS, remembering: Any) -> None:
    memory = remembering(session_id="s")
    memory.put_messages(HISTORY)
    memory.reset()
    memory.set(HISTORY)
    memory.set([*HISTORY, user("ok"), assistant("ok"), user("ok")])
    assert len(learnt(engine)) == 7
    memory.put(user("ok"))
    assert texts(engine).count("ok") == 4


def test_history_of_a_caller_who_names_no_session_is_not_learnt_at_each_turn(engine: MemOS, remembering: Any) -> None:
    history: list[ChatMessage] = []
    for number in range(4):  # a server without state: a memory for each request
        memory = remembering()
        memory.set(history[-4:])
        turn = [user(f"Question {number}"), assistant(f"Answer {number}")]
        memory.put(turn[0])
        assert contents(memory.get_all())[-1] == ("user", f"Question {number}")
        memory.put(turn[1])
        history += turn
    assert sorted(texts(engine)) == sorted(m.content for m in history)
    remembering().set([user("An old chat."), assistant("Never seen before.")])
    assert "An old chat." in texts(engine)


@pytest.mark.parametrize("last", ["Noted.", "ok"])
def test_a_history_of_a_caller_who_names_no_session_is_learnt_whatever_its_last_words_are(
    engine: MemOS, remembering: Any, last: str
) -> None:
    remembering().set([user("I have a dog."), assistant(last)])
    remembering().set([user("I live in Braga."), assistant("Where?"), user("Rua Nova."), assistant(last)])
    assert sorted(texts(engine)) == sorted(["I have a dog.", last, "I live in Braga.", "Where?", "Rua Nova.", last])
    remembering().set([user("Do you smoke?"), assistant("No"), user("ok")])
    remembering().set([user("Do you drink?"), assistant("No"), user("ok")])
    assert (texts(engine).count("No"), texts(engine).count("Do you drink?")) == (2, 1)


def test_what_is_said_again_in_a_history_that_grows_is_learnt_each_time(engine: MemOS, remembering: Any) -> None:
    history: list[ChatMessage] = []
    for number in range(6):  # a server without state that hands in all of it
        history += [user("shall we go on?"), assistant("sure")] if number % 2 else [user("do it"), assistant("done")]
        remembering().set(history)
    assert sorted(texts(engine)) == sorted(m.content for m in history)


def test_of_a_history_of_a_caller_who_names_no_session_the_rest_is_learnt(engine: MemOS, remembering: Any) -> None:
    remembering().set(HISTORY)
    longer = [*HISTORY, user("Momo is three."), assistant("ok")]
    remembering().set(longer)
    remembering().set(longer)
    remembering().set(longer[-4:])
    assert sorted(texts(engine)) == sorted(m.content for m in longer)
    [gone] = [c for c in learnt(engine) if c.text == HISTORY[0].content]
    engine.delete(gone.id, actor="ann")
    remembering().set(longer)
    assert HISTORY[0].content not in [c.text for c in learnt(engine)]


def test_two_who_hand_in_the_same_history_at_the_same_time_store_it_once(engine: MemOS, remembering: Any) -> None:
    barrier = threading.Barrier(4, timeout=30)

    def hand_in(_: int) -> None:
        memory = remembering(session_id="s")
        barrier.wait()
        memory.set(HISTORY)

    with ThreadPoolExecutor(4) as pool:
        list(pool.map(hand_in, range(4)))
    assert contents(remembering(session_id="s").get_all()) == contents(HISTORY)
    assert sorted(texts(engine)) == sorted(m.content for m in HISTORY)


def test_a_message_that_only_carries_more_than_the_stored_one_takes_its_place(engine: MemOS, remembering: Any) -> None:
    memory = remembering(session_id="s")
    memory.put(assistant("Noon.", usage={"tokens": 3}))
    memory.set([assistant("Noon.")])
    assert memory.get_all() == [assistant("Noon.")]
    assert texts(engine) == ["Noon."]


# --- recalling ---------------------------------------------------------------------------------------------------------------


def test_what_is_known_is_recalled_for_the_last_question_or_the_input(engine: MemOS, remembering: Any) -> None:
    engine.add(LEMON, actor="ann")
    engine.add("Ann's boiler is serviced in October.", actor="ann")
    memory = remembering(max_tokens=90)  # room for one of them
    assert memory.get() == []
    assert LEMON in shown(memory, "How does Ann take her tea?")
    memory.put(user("When is the boiler of Ann serviced?"))
    assert "October" in shown(memory)
    assert "lemon" not in shown(memory)
    assert LEMON in shown(memory, input="How does Ann take her tea?")


@pytest.mark.parametrize("on_error", ["raise", "warn"])
@pytest.mark.parametrize("left", [40, 20, 2, 1, 0])
def test_a_prompt_that_leaves_no_room_to_recall_costs_no_answer_and_is_told(
    engine: MemOS, remembering: Any, on_error: str, left: int, caplog: pytest.LogCaptureFixture
) -> None:
    engine.add(LEMON, actor="ann")
    memory = remembering(on_error=on_error)
    memory.put(user("How does Ann take her tea?"))
    assert "lemon" not in shown(memory, initial_token_count=memory.token_limit - left)
    assert "leaves no room" in caplog.text
    assert LEMON in shown(memory)  # the same question, when there is room again


@pytest.mark.parametrize("on_error", ["raise", "warn"])
def test_a_budget_of_the_callers_that_holds_nothing_is_a_mistake(
    engine: MemOS, remembering: Any, on_error: str, caplog: pytest.LogCaptureFixture
) -> None:
    engine.add(LEMON, actor="ann")
    memory = remembering(on_error=on_error, max_tokens=1)
    memory.put(user("How does Ann take her tea?"))
    with pytest.raises(InvalidArgument) if on_error == "raise" else nullcontext():
        assert "lemon" not in shown(memory)
    assert on_error == "raise" or "cannot hold" in caplog.text


def test_recalled_text_is_stored_nowhere(engine: MemOS, remembering: Any) -> None:
    engine.add(LEMON, actor="ann")
    memory = remembering()
    memory.put(user("tea?"))
    assert "recalled-memories" in shown(memory)
    memory.put(assistant("With lemon."))
    assert contents(memory.get_all()) == [("user", "tea?"), ("assistant", "With lemon.")]
    assert not [t for t in texts(engine) if "recalled" in t]


def test_what_stands_in_the_conversation_is_not_recalled_beside_it(engine: MemOS, remembering: Any) -> None:
    engine.add("Ann's tea comes from Assam.", actor="ann")
    memory = remembering()
    memory.put_messages([user("I take my tea with lemon."), assistant("I see."), user("How is my tea?")])
    text = shown(memory)
    assert "Assam" in text
    assert text.count("with lemon") == 1
    assert text.count("How is my tea?") == 1


def test_what_no_longer_fits_is_recalled(engine: MemOS, remembering: Any) -> None:
    memory = remembering(token_limit=180, max_tokens=90, tokenizer_fn=_words)
    memory.put_messages([user("My sister Ines is allergic to walnuts."), assistant("I see.")])
    memory.put_messages([user("word " * 100), assistant("Many words.")])
    memory.put(user("What is Ines allergic to?"))
    [message] = memory.get()
    assert "user: My sister Ines is allergic to walnuts." in str(message.content)
    assert str(message.content).endswith("What is Ines allergic to?")


def test_a_question_is_recalled_for_once_until_the_next_one(open_store: Any) -> None:
    embed = WordsEmbedder()
    engine = open_store(embed=embed)
    engine.add(LEMON, actor="ann")
    memory = MemOSMemory(engine, user_id="ann", session_id="s", on_error="raise")
    memory.put(user("tea?"))
    first = memory.get()
    before = embed.texts
    memory.put(calling("look"))
    memory.put(ChatMessage(role="tool", content="nothing"))
    assert memory.get(input="tea?")[0] == memory.get()[0] == first[0]
    assert embed.texts == before  # as often as an agent comes back
    engine.add("Her tea is Assam.", actor="ann")
    assert "Assam" not in shown(memory)
    memory.put(user("tea?"))
    assert "Assam" in shown(memory)
    memory.reset()
    memory.put(user("tea?"))
    memory.get()
    memory.forget()
    memory.put(user("tea?"))
    assert "Assam" not in shown(memory)


def test_a_get_writes_nothing(engine: MemOS, remembering: Any) -> None:
    memory = remembering()
    memory.put(user("Hello."))
    before = engine.stats(actor="ann"), len(engine.log(actor="ann"))
    memory.get()
    memory.get(input="Anything else?")
    memory.get_all()
    assert (engine.stats(actor="ann"), len(engine.log(actor="ann"))) == before


def test_it_writes_and_recalls_at_its_namespace(engine: MemOS, remembering: Any) -> None:
    engine.add("Tea elsewhere.", actor="ann", namespace=("other",))
    engine.add("Tea below.", actor="ann", namespace=("app", "notes"))
    memory = remembering(namespace=("app",))
    memory.put(user("tea?"))
    assert "Tea below." in shown(memory)
    assert "elsewhere" not in shown(memory)
    assert texts(engine, namespace=("app",)) == ["Tea below.", "tea?"]


def test_where_a_recalled_text_stands_can_be_said(engine: MemOS, remembering: Any) -> None:
    engine.add(LEMON, actor="ann")
    roles = {}
    for insert in ("auto", "system", "user"):
        memory = remembering(insert=insert)
        memory.put(user("tea?"))
        [roles[insert]] = [m.role.value for m in memory.get() if LEMON in str(m.content)]
    assert roles == {"auto": "user", "system": "system", "user": "user"}


def test_it_goes_into_the_system_message_of_a_history(engine: MemOS, remembering: Any) -> None:
    engine.add(LEMON, actor="ann")
    memory = remembering()
    memory.set([ChatMessage(role="system", content="Be brief."), user("tea?")])
    [system, asking] = memory.get()
    assert system.role == MessageRole.SYSTEM
    assert str(system.content).startswith("Be brief.\n<recalled-memories>")
    assert LEMON in str(system.content)
    assert asking == user("tea?")


# --- the budget --------------------------------------------------------------------------------------------------------------


def count(messages: Sequence[ChatMessage]) -> int:
    return sum(len(_words(str(m.content or ""))) for m in messages)


def test_what_is_returned_fits_the_limit_with_the_recalled_text_and_the_callers_prefix(
    engine: MemOS, remembering: Any
) -> None:
    for number in range(30):
        engine.add(f"Tea number {number} of Ann is green.", actor="ann")
    memory = remembering(token_limit=200, tokenizer_fn=_words)
    for number in range(12):
        memory.put_messages([user(f"tea {number} " + "word " * 10), assistant("I see. " * 5)])
    for prefix in (None, 0, 50, 120):
        messages = memory.get(initial_token_count=prefix)
        assert count(messages) + (prefix or 0) <= 200
        assert next(m for m in messages if m.role != MessageRole.SYSTEM).role == MessageRole.USER
    assert "recalled-memories" in shown(memory)
    with pytest.raises(InvalidArgument, match="token_limit"):
        memory.get(initial_token_count=201)
    assert len(memory.get_all()) == 24


def test_a_message_that_another_version_wrote_and_this_one_cannot_read_is_left_out(
    engine: MemOS, remembering: Any, caplog: pytest.LogCaptureFixture
) -> None:
    memory = remembering(session_id="s", on_error="warn")
    memory.put_messages([user("one"), assistant("two")])
    [first, _] = engine.items.list(("default", "conversation", "s"), actor="ann", oldest_first=True)
    strange = Item(first.namespace, str(first.key), {"message": '{"role": "oracle", "blocks": []}'})
    engine.items.put([strange], actor="ann")
    assert contents(memory.get_all()) == contents(memory.get()) == [("assistant", "two")]
    assert "read a message" in caplog.text
    with pytest.raises(ValueError, match="oracle"):
        remembering(session_id="s", on_error="raise").get_all()
    memory.set([user("three")])
    assert contents(memory.get_all()) == [("user", "three")]


# --- whose it is -------------------------------------------------------------------------------------------------------------


def test_users_and_sessions_see_nothing_of_each_other(engine: MemOS, remembering: Any) -> None:
    anns = {s: remembering(session_id=s) for s in ("1", "2")}
    toms = remembering(user_id="tom", session_id="1")
    anns["1"].put(user("The code word of Ann is lemon."))
    anns["2"].put(user("What is the code word of Ann?"))
    toms.put(user("What is the code word of Ann?"))
    assert len(anns["1"].get_all()) == len(anns["2"].get_all()) == len(toms.get_all()) == 1
    assert "lemon" in shown(anns["2"])  # known of Ann, whatever she said it in
    assert "lemon" not in shown(toms)
    toms.forget()
    assert len(anns["1"].get_all()) == 1
    assert len(texts(engine)) == 2


@pytest.mark.parametrize("on_error", ["warn", "raise"])
def test_a_memory_of_nobody_is_refused(engine: MemOS, on_error: Any) -> None:
    with pytest.raises(InvalidArgument, match=r'user_id="ann".*subclass'):
        MemOSMemory(engine, on_error=on_error)
    with pytest.raises(InvalidArgument, match=r'user_id="ann".*subclass'):
        MemOSMemory.from_defaults(engine, chat_history=[], on_error=on_error)


@pytest.mark.parametrize(
    ("arguments", "named"),
    [
        ({"memory": None}, "memory"), ({"memory": ""}, "memory"), ({"memory": 5}, "memory"), ({"embed": len}, "embed"), ({"path": "x"}, "memory, path"),
        ({"user_id": ""}, "user_id"), ({"user_id": " "}, "user_id"), ({"user_id": "*"}, "user_id"), ({"user_id": 7}, "user_id"), ({"user_id": "\ud800"}, "user_id"),
        ({"session_id": 7}, "session_id"), ({"session_id": "\ud800"}, "session_id"), ({"namespace": "app"}, "namespace"), ({"namespace": ()}, "namespace"), ({"namespace": ("",)}, "namespace"),
        ({"max_tokens": 0}, "max_tokens"), ({"token_limit": "9"}, "token_limit"), ({"token_limit": 0}, "token_limit"),
        ({"on_error": "ignore"}, "on_error"), ({"insert": "assistant"}, "insert"), ({"sesion_id": "s"}, "sesion_id"),
    ],
)  # fmt: skip
def test_a_wrong_argument_is_refused_by_name(engine: MemOS, arguments: dict[str, Any], named: str) -> None:
    with pytest.raises(InvalidArgument, match=f"^{named}:"):
        MemOSMemory(arguments.pop("memory", engine), **{"user_id": "ann", **arguments})


def test_it_is_made_from_what_chat_engines_give(engine: MemOS, remembering: Any) -> None:
    made = MemOSMemory.from_defaults(engine, user_id="ann", session_id="s", chat_history=HISTORY, token_limit=100)
    assert contents(made.get_all()) == contents(HISTORY)
    assert made.token_limit == 100
    again = MemOSMemory.from_defaults(engine, user_id="ann", session_id="s", chat_history=[], llm=ChatModel())
    assert contents(again.get_all()) == contents(HISTORY)  # no history is not an empty one
    assert again.token_limit == CONTEXT * 3 // 4
    assert remembering().token_limit == 30_000


def test_a_session_without_a_name_is_a_new_one(remembering: Any) -> None:
    one, other = remembering(), remembering()
    one.put(user("Hello."))
    assert other.get_all() == []
    assert contents(remembering(session_id=one.session_id).get_all()) == [("user", "Hello.")]


# --- forgetting ----------------------------------------------------------------------------------------------------------------


def test_forget_deletes_what_was_learnt_and_said(engine: MemOS, remembering: Any) -> None:
    engine.add("Ann's, and elsewhere.", actor="ann", namespace=("other",))
    memory = remembering()
    memory.put(user("I take my tea with lemon."))
    other = remembering(session_id="other")
    other.put(user("And with sugar."))
    receipt = memory.forget()
    assert len(receipt.ids) == 4  # two messages, and what was learnt from them
    assert texts(engine) == ["Ann's, and elsewhere."]
    assert memory.get_all() == other.get_all() == []
    memory.put(user("Hello."))
    assert contents(memory.get_all()) == [("user", "Hello.")]


def test_forget_deletes_one_memory_by_its_id(engine: MemOS, remembering: Any) -> None:
    memory = remembering(on_error="warn")
    memory.put_messages(HISTORY)
    [cat] = [c for c in learnt(engine) if c.text == "I have a cat."]
    assert memory.forget(cat.id).ids == (cat.id,)
    assert "I have a cat." not in texts(engine)
    assert len(memory.get_all()) == 4
    with pytest.raises(NotFound):
        memory.forget(cat.id)


@pytest.mark.parametrize("several", [list, tuple, set, iter])
def test_forget_takes_ids_in_any_collection(several: Any, engine: MemOS, remembering: Any) -> None:
    memory = remembering()
    memory.put_messages(HISTORY)
    ids = [c.id for c in learnt(engine)][:2]
    assert sorted(memory.forget(several(ids)).ids) == sorted(ids)
    for nothing in ((), [], ""):
        with pytest.raises(InvalidArgument):
            memory.forget(nothing)


# --- serialised, copied, attached ------------------------------------------------------------------------------------------------


def test_it_is_restored_by_its_fields_and_finds_its_engine(engine: MemOS, remembering: Any) -> None:
    memory = remembering(
        session_id="s", namespace=("app", "x"), token_limit=99, max_tokens=33, insert="user", write=False
    )
    memory.put(user("Hello."))
    data = json.loads(json.dumps(memory.to_dict()))
    assert sorted(data) == sorted(
        [
            "class_name",
            "insert",
            "max_tokens",
            "namespace",
            "on_error",
            "path",
            "schedule",
            "session_id",
            "token_limit",
            "user_id",
            "write",
        ]
    )
    restored = MemOSMemory.from_dict(data)
    assert restored.memory is engine
    assert restored.to_dict() == memory.to_dict()
    assert contents(restored.get_all()) == [("user", "Hello.")]
    assert contents(MemOSMemory.model_validate(data).get_all()) == [("user", "Hello.")]
    for again in (
        copy.deepcopy(memory),
        copy.copy(memory),
        pickle.loads(pickle.dumps(memory)),
        memory.model_copy(deep=True),
    ):
        assert contents(again.get_all()) == [("user", "Hello.")]
        again.put(assistant("Hi."))
        assert len(memory.get_all()) == 2
        memory.set([user("Hello.")])


def test_an_engine_is_attached_where_its_path_does_not_suffice(
    tmp_path: Path, embed: WordsEmbedder, caplog: pytest.LogCaptureFixture
) -> None:
    path = tmp_path / "store"
    with MemOS(path, embed=embed) as gone:
        data = MemOSMemory(gone, user_id="ann", session_id="s").to_dict()
    restored = MemOSMemory.from_dict({**data, "on_error": "raise"})
    with pytest.raises(EmbedderMismatch, match=r"attach\(MemOS\("):  # the store is not of the default embedder
        restored.put(user("Hello."))
    with MemOS(path, embed=embed) as engine:
        restored.attach(engine)
        restored.put(user("Hello."))
        assert contents(restored.get_all()) == [("user", "Hello.")]
        assert restored.memory is engine


def test_memories_of_one_path_share_an_engine_that_the_last_of_them_closes(
    tmp_path: Path, embed: WordsEmbedder
) -> None:
    path = tmp_path / "store"
    one = MemOSMemory(path, embed=embed, user_id="ann", on_error="raise")
    other = MemOSMemory(str(path), user_id="tom", on_error="raise")
    assert not path.exists()  # opened at first use
    assert one.memory is other.memory
    engine = one.memory
    one.close()
    one.close()
    other.put(user("Still open."))
    other.close()
    with pytest.raises(StoreClosed):
        engine.add("closed now")
    one.put(user("Open again."))
    assert one.memory is not engine
    one.close()


def test_close_leaves_an_engine_open_that_was_opened_elsewhere(engine: MemOS, remembering: Any) -> None:
    remembering().close()
    engine.add("still open")


@pytest.mark.parametrize("on_error", ["warn", "raise"])
def test_a_closed_engine_says_so(open_store: Callable[..., MemOS], on_error: Any) -> None:
    engine = open_store()
    memory = MemOSMemory(engine, user_id="ann", on_error=on_error)
    engine.close()
    for use in (lambda: memory.put(user("Hello.")), memory.get_all, lambda: memory.get(input="tea?"), memory.reset):
        with pytest.raises(StoreClosed, match="closed"):
            use()


# --- when the engine fails ---------------------------------------------------------------------------------------------------------


class _Broken(WordsEmbedder):
    """Works until it is told to fail."""

    failing: Exception | None = None

    def __call__(self, texts: Sequence[str], /) -> Any:
        if self.failing is not None:
            raise self.failing
        return super().__call__(texts)


@pytest.mark.parametrize("failure", [OSError("the embedder is away"), RuntimeError("CUDA out of memory")], ids=repr)
def test_a_chat_goes_on_without_an_engine_that_fails_and_what_was_said_is_learnt_later(
    open_store: Any, caplog: pytest.LogCaptureFixture, failure: Exception
) -> None:
    embed = _Broken()
    engine = open_store(embed=embed)
    memory = MemOSMemory(engine, user_id="ann")
    embed.failing = failure
    memory.put(user("I take my tea with lemon."))
    assert contents(memory.get()) == [("user", "I take my tea with lemon.")]
    memory.set([user("I take my tea with lemon."), assistant("I see.")])
    assert str(failure) in caplog.text  # the cause, and no guess about loops
    assert {r.levelname for r in caplog.records if r.name == "llamaindex_memos"} == {"WARNING"}
    embed.failing = None
    memory.put(user("And my coffee black."))
    assert sorted(texts(engine)) == ["And my coffee black.", "I see.", "I take my tea with lemon."]
    assert len(memory.get_all()) == 3


@pytest.mark.parametrize("failure", [OSError("the embedder is away"), RuntimeError("CUDA out of memory")], ids=repr)
def test_an_engine_that_fails_stops_the_chat_if_asked_to_and_the_cause_is_named(
    open_store: Any, failure: Exception
) -> None:
    embed = _Broken()
    memory = MemOSMemory(open_store(embed=embed), user_id="ann", on_error="raise")
    memory.put(user("Hello."))
    embed.failing = failure
    for attempt in (
        lambda: memory.put(user("more")), lambda: memory.get(input="tea?"), lambda: asyncio.run(memory.aput(user("more"))),
        lambda: asyncio.run(memory.aget(input="tea?")),
    ):  # fmt: skip
        with pytest.raises(Exception, match=str(failure)):
            attempt()
    embed.failing = None
    assert contents(memory.get_all()) == [("user", "Hello.")]  # what was refused was not kept: it may be put again


def test_a_conversation_goes_on_while_the_store_cannot_be_used_and_is_written_when_it_can(
    tmp_path: Path, embed: WordsEmbedder, caplog: pytest.LogCaptureFixture
) -> None:
    path = tmp_path / "store"
    path.write_text("no store")
    memory = MemOSMemory(path, embed=embed, user_id="ann", session_id="s")
    memory.put(user("one"))
    memory.put(assistant("two"))
    assert contents(memory.get()) == [("user", "one"), ("assistant", "two")]
    assert "keep the conversation" in caplog.text
    path.unlink()
    memory.put(user("three"))
    memory.close()
    again = MemOSMemory(path, embed=embed, user_id="ann", session_id="s", on_error="raise")
    assert [m.content for m in again.get_all()] == ["one", "two", "three"]
    assert texts(again.memory) == ["one", "two", "three"]
    again.close()


def test_what_replaces_a_conversation_while_the_store_cannot_be_used_replaces_it_when_it_can(
    tmp_path: Path, embed: WordsEmbedder
) -> None:
    path, aside = tmp_path / "store", tmp_path / "aside"
    with MemOS(path, embed=embed) as engine:
        MemOSMemory(engine, user_id="ann", session_id="s").put_messages([user("old"), assistant("older")])
    path.rename(aside)
    path.write_text("no store")
    memory = MemOSMemory(path, embed=embed, user_id="ann", session_id="s")
    memory.set([user("new")])
    memory.put(assistant("newer"))
    assert [m.content for m in memory.get()] == ["new", "newer"]
    path.unlink()
    aside.rename(path)
    memory.put(user("newest"))
    assert [m.content for m in memory.get_all()] == ["new", "newer", "newest"]
    memory.close()
