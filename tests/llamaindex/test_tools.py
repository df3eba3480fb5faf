"""MemOSToolSpec: memory as tools, and what a model is told that calls them without sense."""

from __future__ import annotations

import asyncio
import threading
from collections.abc import Callable, Sequence
from typing import Any

import pytest
from llama_index.core.tools.tool_spec.base import BaseToolSpec

from llamaindex_memos import MemOSToolSpec
from memos_core import InvalidArgument, MemOS, StoreClosed
from tests.llamaindex.conftest import learnt, texts
from tests.words import WordsEmbedder

LEMON = "Ann takes her tea with lemon."
HUGE = "x" * 100_000


@pytest.fixture
def spec(engine: MemOS) -> MemOSToolSpec:
    return MemOSToolSpec(engine, user_id="ann")


@pytest.fixture(params=["sync", "async"])
def call(request: pytest.FixtureRequest, spec: MemOSToolSpec) -> Callable[..., str]:
    """Calls a tool by its name, as an agent does."""
    tools = {tool.metadata.name: tool for tool in spec.to_tool_list()}

    def calling(name: str, **arguments: Any) -> str:
        tool = tools[name]
        output = tool.call(**arguments) if request.param == "sync" else asyncio.run(tool.acall(**arguments))
        assert not output.is_error
        return str(output.content)

    return calling


def test_the_tools_say_what_they_are_for_and_what_they_take(spec: MemOSToolSpec) -> None:
    assert isinstance(spec, BaseToolSpec)
    assert "BaseToolSpec" in [kind.__name__ for kind in MemOSToolSpec.__mro__]
    tools = {tool.metadata.name: tool.metadata for tool in spec.to_tool_list()}
    assert sorted(tools) == ["forget", "remember", "search_memory"]
    required = {name: meta.get_parameters_dict()["required"] for name, meta in tools.items()}
    assert required == {"forget": ["id"], "remember": ["text"], "search_memory": ["query"]}
    assert "search_memory" in str(tools["forget"].description)


def test_what_is_remembered_is_found_and_what_is_forgotten_is_not(engine: MemOS, call: Any) -> None:
    said = call("remember", text=LEMON)
    [cube] = learnt(engine)
    assert said == f"Remembered as [{cube.id}]."
    assert call("search_memory", query="tea?") == f"[{cube.id}] 2026-03-02 note: {LEMON}"
    assert call("forget", id=cube.id) == "Forgotten."
    assert call("search_memory", query="tea?") == "Nothing is remembered about that."
    assert texts(engine) == []


def test_a_search_returns_as_many_lines_as_asked_for(engine: MemOS, call: Any) -> None:
    for number in range(30):
        engine.add(f"Tea number {number},\nwith lemon.", actor="ann")
    for k, lines in ((1, 1), (3, 3), ("4", 4), (2.0, 2), (1_000_000, 20)):
        assert len(call("search_memory", query="tea?", k=k).splitlines()) == lines
    assert len(call("search_memory", query="tea?").splitlines()) == 5


@pytest.mark.parametrize(
    ("name", "arguments", "told"),
    [
        ("search_memory", {"query": ""}, "query: give a text"),
        ("search_memory", {"query": "  "}, "query: give a text"),
        ("search_memory", {"query": None}, "query: give a text"),
        ("search_memory", {"query": ["tea"]}, "query: give a text"),
        ("search_memory", {"query": HUGE}, "query: 100000 characters are too many; say it in at most 4000"),
        ("search_memory", {"query": "tea", "k": -3}, "k: -3 is not a whole number from 1 to 20"),
        ("search_memory", {"query": "tea", "k": 0}, "k: 0 is not"),
        ("search_memory", {"query": "tea", "k": 2.5}, "k: 2.5 is not"),
        ("search_memory", {"query": "tea", "k": "many"}, "k: 'many' is not"),
        ("search_memory", {"query": "tea", "k": None}, "k: None is not"),
        ("search_memory", {"query": "tea", "k": float("nan")}, "k: nan is not"),
        ("search_memory", {"query": "tea", "k": HUGE}, "is not a whole number"),
        ("remember", {"text": ""}, "text: give a text"),
        ("remember", {"text": HUGE}, "text: 100000 characters are too many; say it in at most 4000"),
        ("remember", {"text": 7}, "text: give a text"),
        ("forget", {"id": "no-such-id"}, "There is no memory with this id"),
        ("forget", {"id": ""}, "id: give a text"),
        ("forget", {"id": HUGE}, "id: 100000 characters are too many"),
        ("forget", {"id": ["a"]}, "id: give a text"),
        ("forget", {"id": "' OR 1=1 --"}, "There is no memory with this id"),
    ],
    ids=repr,
)
def test_arguments_without_sense_get_a_short_answer_that_the_model_can_act_on(
    engine: MemOS, call: Any, name: str, arguments: dict[str, Any], told: str
) -> None:
    engine.add(LEMON, actor="ann")
    answer = call(name, **arguments)
    assert told in answer
    assert len(answer) < 300
    assert texts(engine) == [LEMON]


def test_text_that_is_no_unicode_is_mended(engine: MemOS, call: Any) -> None:
    call("remember", text="half \ud83d smile")
    assert texts(engine) == ["half ? smile"]
    assert "half ? smile" in call("search_memory", query="half \ud83d")


def test_what_belongs_to_others_is_neither_found_nor_forgotten(engine: MemOS, call: Any) -> None:
    [secret] = engine.add("The secret tea of Tom.", actor="tom")
    [shared] = engine.add("The common tea of Tom.", actor="tom")
    engine.share(shared.id, readers=["ann"], actor="tom")
    assert "secret" not in call("search_memory", query="tea?")
    assert call("forget", id=secret.id).startswith("There is no memory with this id")
    assert "common" in call("search_memory", query="tea?")
    assert call("forget", id=shared.id).startswith("Not possible")
    assert sorted(texts(engine, "tom")) == ["The common tea of Tom.", "The secret tea of Tom."]


def test_what_is_frozen_is_not_forgotten_and_the_model_is_told(engine: MemOS, call: Any) -> None:
    [cube] = engine.add(LEMON, actor="ann")
    engine.freeze(cube.id, actor="ann")
    assert call("forget", id=f"[{cube.id}]").startswith("Not possible")
    assert texts(engine) == [LEMON]


class _Broken(WordsEmbedder):
    failing = False
    threads: set[threading.Thread]

    def __call__(self, texts: Sequence[str], /) -> Any:
        self.threads.add(threading.current_thread())
        if self.failing:
            raise OSError("the embedder is away")
        return super().__call__(texts)


def test_a_failing_engine_is_the_logs_and_not_the_models(open_store: Any, caplog: pytest.LogCaptureFixture) -> None:
    embed = _Broken()
    embed.threads = set()
    spec = MemOSToolSpec(open_store(embed=embed), user_id="ann")
    embed.threads.clear()
    embed.failing = True
    assert asyncio.run(spec.aremember(LEMON)) == "The memory is not available right now. Go on without it."
    assert asyncio.run(spec.asearch_memory("tea?")) == "The memory is not available right now. Go on without it."
    assert "the embedder is away" in caplog.text
    assert embed.threads
    assert threading.current_thread() not in embed.threads


def test_a_closed_engine_says_so(open_store: Any) -> None:
    engine = open_store()
    engine.close()
    with pytest.raises(StoreClosed, match="closed"):
        MemOSToolSpec(engine, user_id="ann").search_memory("tea?")


@pytest.mark.parametrize(
    ("arguments", "named"),
    [
        ({"user_id": None}, "user_id"), ({"user_id": "*"}, "user_id"), ({"memory": ""}, "memory"), ({"namespace": "app"}, "namespace"),
        ({"max_characters": 0}, "max_characters"), ({"embed": len}, "embed"),
    ],
)  # fmt: skip
def test_a_wrong_argument_of_the_spec_is_refused_by_name(engine: MemOS, arguments: dict[str, Any], named: str) -> None:
    with pytest.raises(InvalidArgument, match=f"^{named}:"):
        MemOSToolSpec(arguments.pop("memory", engine), **{"user_id": "ann", **arguments})


def test_it_opens_a_path(tmp_path: Any) -> None:
    spec = MemOSToolSpec(tmp_path / "store", embed=WordsEmbedder(), user_id="ann", namespace=("app",))
    spec.remember(LEMON)
    assert LEMON in spec.search_memory("tea?")
    spec.close()
