"""A graph within a transaction: its nodes are inside, however LangGraph runs them."""

from __future__ import annotations

import asyncio
import operator
from typing import Annotated, Any, TypedDict

import pytest

from memos_core import MemOS

graphs = pytest.importorskip("langgraph.graph", reason="needs the extra langchain")


class State(TypedDict):
    seen: Annotated[list[str], operator.add]


def pipeline(memory: MemOS, fails: bool) -> Any:
    """Two nodes side by side, then one that reads what both wrote."""

    def writes(text: str) -> Any:
        def write(state: State) -> dict[str, Any]:
            memory.add(text)
            return {"seen": []}

        return write

    def reads(state: State) -> dict[str, Any]:
        if fails:
            raise KeyError("no")
        return {"seen": sorted(h.cube.text for h in memory.search("tea"))}

    graph = graphs.StateGraph(State)
    graph.add_node("one", writes("green tea"))
    graph.add_node("two", writes("black tea"))
    graph.add_node("read", reads)
    graph.add_edge(graphs.START, "one").add_edge(graphs.START, "two").add_edge(["one", "two"], "read")
    return graph.compile()


def invoked(graph: Any, way: str) -> list[str]:
    if way == "invoke":
        return graph.invoke({"seen": []})["seen"]  # type: ignore[no-any-return]
    return asyncio.run(graph.ainvoke({"seen": []}))["seen"]  # type: ignore[no-any-return]


@pytest.mark.parametrize("way", ["invoke", "ainvoke"])
def test_nodes_side_by_side_are_within_the_callers_transaction(way: str, memory: MemOS) -> None:
    with memory.transaction():
        assert invoked(pipeline(memory, fails=False), way) == ["black tea", "green tea"]
    assert len(memory.search("tea")) == 2


@pytest.mark.parametrize("way", ["invoke", "ainvoke"])
def test_a_node_that_fails_takes_back_what_the_others_wrote(way: str, memory: MemOS) -> None:
    with pytest.raises(KeyError), memory.transaction():
        invoked(pipeline(memory, fails=True), way)
    assert memory.search("tea") == []
