"""A LangGraph workflow that remembers: one node recalls, one answers, one writes. Two users, each in threads of their own."""

import tempfile

from langchain_core.messages import AIMessage
from langgraph.checkpoint.memory import InMemorySaver
from langgraph.graph import START, MessagesState, StateGraph

from langchain_memos import MemOSRecallNode, MemOSWriteNode
from memos_core import MemOS


class State(MessagesState):
    memory: str  # what the recall node finds, as text for a prompt


def answer(state: State):
    """Stands in for a model; a real one gets state["memory"] in its system message."""
    known = [line for line in state["memory"].splitlines() if line.startswith("- ")]
    return {"messages": [AIMessage(f"I was told: {known[0]}" if known else "That is new to me.")]}


def main() -> None:
    with tempfile.TemporaryDirectory() as folder, MemOS(folder) as memory:
        graph = StateGraph(State)
        graph.add_node("recall", MemOSRecallNode(memory))
        graph.add_node("answer", answer)
        graph.add_node("write", MemOSWriteNode(memory))
        graph.add_edge(START, "recall").add_edge("recall", "answer").add_edge("answer", "write")
        workflow = graph.compile(checkpointer=InMemorySaver())

        def say(user: str, thread: str, text: str) -> None:
            config = {"configurable": {"user_id": user, "thread_id": thread}}
            result = workflow.invoke({"messages": [("user", text)]}, config)
            print(f"{user}, {thread}: {text}\n    workflow: {result['messages'][-1].text}")

        say("ann", "monday", "The key to the shed is under the blue pot.")
        say("ann", "tuesday", "Where is the key to the shed?")  # another thread: what connects them is the memory
        say("bob", "tuesday too", "Where is the key to the shed?")  # another user: Ann's memories are not his


if __name__ == "__main__":
    main()
