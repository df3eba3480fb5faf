"""Turns into statements with scripted completions; questions into windows of time."""

from __future__ import annotations

import json
from collections.abc import Callable
from datetime import UTC, datetime
from typing import Any

import pytest

from memos_core import Draft, InvalidArgument, Link, LLMReader, MemCube, MemOS, Reading, SourceKind, State
from memos_core.reader import window
from tests.conftest import START

SAID = {
    "role": "user",
    "content": "I moved to Rome and I drink green tea",
    "name": "Ann",
    "timestamp": "2026-02-01T00:00:00+00:00",
}


class Script:
    """A language model that answers what it was told to, in order, and remembers what it was asked."""

    def __init__(self, *answers: str | Exception) -> None:
        self.answers = list(answers)
        self.prompts: list[str] = []

    def __call__(self, prompt: str) -> str:
        self.prompts.append(prompt)
        answer = self.answers.pop(0)
        if isinstance(answer, Exception):
            raise answer
        return answer


def item(text: str, **more: Any) -> dict[str, Any]:
    return {"text": text, "type": "fact", "turns": [0], "decision": "add", "memory": None, **more}


def texts(cubes: list[MemCube]) -> list[str]:
    return [c.text for c in cubes]


GOOD = json.dumps([item("Ann lives in Rome"), item("Ann likes green tea", type="preference")])


@pytest.mark.parametrize(
    "answer",
    [GOOD, f"```json\n{GOOD}\n```", f"Sure! Here it is:\n{GOOD}\nAnything else?", GOOD[:-1], GOOD[:-2], GOOD.replace('"', "'").replace("None", "null"),
     f'{{"memories": {GOOD}}}', GOOD.replace("}, {", "},\n{")],
    ids=["plain", "fenced", "in prose", "without its end", "truncated", "single quotes", "wrapped", "lines"],
)  # fmt: skip
def test_statements_are_stored_beside_their_turn(answer: str, open_store: Callable[..., MemOS]) -> None:
    model = Script(answer)
    memory = open_store(reader=LLMReader(model, name="scripted"))
    turn, lives, likes = memory.add(SAID)
    assert texts([turn, lives, likes]) == [SAID["content"], "Ann lives in Rome", "Ann likes green tea"]
    assert (lives.semantic_type, likes.semantic_type) == ("fact", "preference")
    assert likes.lineage == (Link(turn.id, 1),)
    assert (likes.origin.kind, likes.origin.model, likes.origin.speaker) == (SourceKind.EXTRACTION, "scripted", "Ann")
    assert likes.origin.occurred_at == turn.origin.occurred_at
    assert {c.id for c in memory.lineage(turn.id).children} == {lives.id, likes.id}
    assert len(model.prompts) == 1
    assert "Ann: I moved to Rome" in model.prompts[0]


@pytest.mark.parametrize(
    "answers",
    [("I cannot.", "Really not."), ("", ""), ("[", "]["), (ValueError("no"), OSError("gone")), ("42", '"text"'), ("null", "{}")],
    ids=["prose", "empty", "brackets", "raising", "scalars", "nothing"],
)  # fmt: skip
def test_garbage_twice_keeps_the_turns_and_tells_of_it(answers: Any, open_store: Callable[..., MemOS]) -> None:
    model = Script(*answers)
    memory = open_store(reader=LLMReader(model))
    assert texts(memory.add(SAID)) == [SAID["content"]]
    if answers[0] in ("[", "null"):  # may be read as an empty list, which is an answer
        return
    [event] = [e for e in memory.log() if e.outcome == "failed"]
    assert (event.verb, event.actor) == ("read", "ann")
    assert "Rome" not in event.detail
    assert len(model.prompts) == 2


def test_a_second_try_counts(open_store: Callable[..., MemOS]) -> None:
    model = Script("Hm?", GOOD)
    memory = open_store(reader=LLMReader(model))
    assert len(memory.add(SAID)) == 3
    assert {e.outcome for e in memory.log()} == {"ok"}
    assert len(model.prompts[1]) > len(model.prompts[0])


def test_an_empty_list_is_an_answer(open_store: Callable[..., MemOS]) -> None:
    memory = open_store(reader=LLMReader(Script("[]")))
    assert len(memory.add(SAID)) == 1
    assert {e.outcome for e in memory.log()} == {"ok"}


def test_what_a_failing_model_says_does_not_reach_the_log(open_store: Callable[..., MemOS], caplog: Any) -> None:
    def quoting(prompt: str) -> str:
        raise ValueError(prompt)

    memory = open_store(reader=LLMReader(quoting))
    memory.add("the code is 4711")
    assert "4711" not in "".join(e.detail for e in memory.log()) + caplog.text


@pytest.mark.parametrize(
    "bad",
    [item("Zebras inhabit Africa"), item(""), item("   "), {"type": "fact"}, "text", 5, None, item(5), item("Ann likes \ud800 tea")],  # type: ignore[arg-type]
    ids=lambda b: ascii(b)[:40],
)  # fmt: skip
def test_an_invention_or_a_broken_item_is_left_out_and_told_of(bad: Any, open_store: Callable[..., MemOS]) -> None:
    memory = open_store(reader=LLMReader(Script(json.dumps([bad, item("Ann lives in Rome")]))))
    assert texts(memory.add(SAID)) == [SAID["content"], "Ann lives in Rome"]
    assert [e.verb for e in memory.log() if e.outcome == "failed"] == ["read"]


@pytest.mark.parametrize("turns", [[7], [-1], ["0"], None, 0, "all", [True]], ids=repr)
def test_a_statement_that_names_no_turn_belongs_to_the_one_that_says_it(
    turns: Any, open_store: Callable[..., MemOS]
) -> None:
    memory = open_store(reader=LLMReader(Script(json.dumps([item("Ann lives in Rome", turns=turns)]))))
    turn, statement = memory.add(SAID)
    assert [link.id for link in statement.lineage] == [turn.id]


def test_a_short_statement_is_no_invention(open_store: Callable[..., MemOS]) -> None:
    memory = open_store(reader=LLMReader(Script(json.dumps([item("Ann has a cat")]))))
    assert texts(memory.add("I got a cat")) == ["I got a cat", "Ann has a cat"]


@pytest.mark.parametrize("decision", ["supersede", "update"])
def test_a_change_of_mind_keeps_what_was_true_before(decision: str, open_store: Callable[..., MemOS]) -> None:
    model = Script(
        json.dumps([item("Ann drinks green tea daily")]),
        json.dumps([item("Ann drinks black tea daily", decision=decision, memory=0)]),
    )
    memory = open_store(reader=LLMReader(model))
    _, old = memory.add(SAID)
    _, new = memory.add({**SAID, "content": "I drink black tea now", "timestamp": "2026-03-01T00:00:00+00:00"})
    assert "0. Ann drinks green tea daily" in model.prompts[1]
    if decision == "update":
        assert (new.id, new.version, new.text) == (old.id, 2, "Ann drinks black tea daily")
        assert texts(memory.history(old.id)) == ["Ann drinks green tea daily", "Ann drinks black tea daily"]
        return
    past = memory.get(old.id)
    assert (past.text, past.state) == ("Ann drinks green tea daily", State.ARCHIVED)
    assert past.lifespan.valid_until == datetime(2026, 3, 1, tzinfo=UTC)
    assert Link(old.id, 1, "supersedes") in new.lineage
    assert "Ann drinks green tea daily" not in texts([h.cube for h in memory.search("tea", k=9)])
    assert memory.delete(old.id).derived == ()
    assert memory.get(new.id).text == "Ann drinks black tea daily"


@pytest.mark.parametrize("decision", ["supersede", "update", "replace", None])
@pytest.mark.parametrize("target", [99, -1, "0", None, True])
def test_a_decision_about_no_known_memory_adds(decision: Any, target: Any, open_store: Callable[..., MemOS]) -> None:
    answer = json.dumps([item("Ann lives in Rome", decision=decision, memory=target)])
    memory = open_store(reader=LLMReader(Script(answer)))
    assert len(memory.add(SAID)) == 2


@pytest.mark.parametrize("frozen", [False, True])
@pytest.mark.parametrize("decision", ["supersede", "update"])
def test_two_changes_of_one_memory_or_a_frozen_one_lose_no_turn(
    decision: str, frozen: bool, open_store: Callable[..., MemOS]
) -> None:
    changes = [
        item("Ann drinks black tea", decision=decision, memory=0),
        item("Ann drinks mint tea", decision=decision, memory=0),
    ]
    memory = open_store(reader=LLMReader(Script("[]", json.dumps(changes))))
    [old] = memory.add("Ann drinks tea", semantic_type="fact")
    if frozen:
        memory.freeze(old.id)
    found = memory.add({**SAID, "content": "I drink black tea and mint tea"})
    assert found[0].text == "I drink black tea and mint tea"
    assert memory.get(old.id, version=1).text == "Ann drinks tea"
    said = [h.cube.text for h in memory.search("tea", k=20)]
    assert "I drink black tea and mint tea" in said
    if frozen:
        assert memory.get(old.id).text == "Ann drinks tea"
        assert [e.verb for e in memory.log() if e.outcome == "failed"]


def test_a_long_conversation_is_read_in_parts(open_store: Callable[..., MemOS]) -> None:
    model = Script(*["[]"] * 10)
    memory = open_store(reader=LLMReader(model))
    memory.add([{"role": "user", "content": f"turn {n}"} for n in range(30)])
    assert 2 <= len(model.prompts) <= 6
    assert all(f"turn {n}" in "".join(model.prompts) for n in range(30))


def test_turns_known_already_are_not_read_again(open_store: Callable[..., MemOS]) -> None:
    model = Script("[]")
    memory = open_store(reader=LLMReader(model))
    for _ in range(2):
        memory.add({**SAID, "id": "m1"}, session="s")
    assert len(model.prompts) == 1


def test_a_statement_is_read_by_those_who_read_its_turns(open_store: Callable[..., MemOS]) -> None:
    from memos_core import Access

    memory = open_store(reader=LLMReader(Script(GOOD)))
    _, lives, _ = memory.add(SAID, access=Access("ann", frozenset({"bob"})))
    assert memory.get(lives.id, actor="bob").text == "Ann lives in Rome"
    assert memory.search("Rome", actor="cleo") == []


def test_a_reader_of_ones_own_is_an_object_with_one_method(open_store: Callable[..., MemOS]) -> None:
    class Shouting:
        def read(self, turns: Any, similar: Any, /) -> Reading:
            assert similar(turns[0].text) == []
            return Reading(
                (Draft(turns[0].text.upper(), parents=(Link(turns[0].id, turns[0].version),)),), ("half of it",)
            )

    memory = open_store(reader=Shouting())
    assert texts(memory.add("tea")) == ["tea", "TEA"]
    assert [e.detail for e in memory.log() if e.outcome == "failed"] == ["half of it"]


def test_a_model_that_cannot_be_called_is_refused() -> None:
    with pytest.raises(InvalidArgument, match="complete"):
        LLMReader("gpt")  # type: ignore[arg-type]


# --- windows of time; START is Monday, 2 March 2026 ------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("question", "start", "end"),
    [
        ("What did I say yesterday?", (2026, 3, 1), (2026, 3, 2)),
        ("What is on today?", (2026, 3, 2), (2026, 3, 3)),
        ("What did we do last week?", (2026, 2, 23), (2026, 3, 2)),
        ("What happened last month?", (2026, 2, 1), (2026, 3, 1)),
        ("Where was I last year?", (2025, 1, 1), (2026, 1, 1)),
        ("Who came 3 days ago?", (2026, 2, 27), (2026, 2, 28)),
        ("What did I buy in May 2023?", (2023, 5, 1), (2023, 6, 1)),
        ("What did I buy in May?", (2025, 5, 1), (2025, 6, 1)),
        ("Where were we on 5 June 2024?", (2024, 6, 5), (2024, 6, 6)),
        ("Where were we on June 5, 2024?", (2024, 6, 5), (2024, 6, 6)),
        ("What about 2025-12-24?", (2025, 12, 24), (2025, 12, 25)),
        ("What happened in 2022?", (2022, 1, 1), (2023, 1, 1)),
    ],
)
def test_a_time_in_a_question_is_a_window(
    question: str, start: tuple[int, int, int], end: tuple[int, int, int]
) -> None:
    assert window(question, START) == (datetime(*start, tzinfo=UTC), datetime(*end, tzinfo=UTC))


@pytest.mark.parametrize(
    "question",
    [
        "How is she?",
        "May I come in?",
        "You may go",
        "I march on",
        "a second one",
        "9999-12-31",
        "2024-13-45",
        "30 February 2024?",
    ],
)
def test_what_is_no_time_is_no_window(question: str) -> None:
    assert window(question, START) is None
