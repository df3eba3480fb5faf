"""A memory pipeline as LangGraph nodes: retrieve, augment, update, archive. One transaction around the graph: all of it, or nothing."""

import tempfile
from typing import TypedDict

from langgraph.graph import START, StateGraph

from memos_core import MemCube, MemOS


class State(TypedDict, total=False):
    news: str
    known: list[MemCube]
    text: str


def pipeline(memory: MemOS):
    """The graph. Its nodes run with a copy of the caller's context, and so within the caller's transaction, also in threads."""

    def retrieve(state: State) -> State:
        hits = memory.search(state["news"], k=3, filter={"semantic_type": "address"})
        return {"known": [hit.cube for hit in hits]}

    def augment(state: State) -> State:  # stands in for a model
        earlier = ", ".join(cube.text.split()[-1] for cube in state["known"])
        return {"text": f"{state['news']} (before: {earlier})"}

    def update(state: State) -> State:
        memory.update(state["known"][0].id, state["text"])
        return {}

    def archive(state: State) -> State:
        for cube in state["known"][1:]:
            memory.archive(cube.id)
        if "?" in state["news"]:
            raise ValueError("that is no news")  # takes all of it back
        return {}

    graph = StateGraph(State).add_sequence([retrieve, augment, update, archive])
    return graph.add_edge(START, "retrieve").compile()


def main() -> None:
    with tempfile.TemporaryDirectory() as folder, MemOS(folder) as memory:
        memory.add("Ines lives in Porto", semantic_type="address")
        memory.add("Ines lives in Lisbon", semantic_type="address")
        learn = pipeline(memory)
        for news in ("Ines lives in Faro?", "Ines lives in Braga"):
            try:
                with memory.transaction():
                    learn.invoke({"news": news})
            except ValueError as error:
                print(f"{error}:", end=" ")
            print(sorted(hit.cube.text for hit in memory.search("Ines")))


if __name__ == "__main__":
    main()
