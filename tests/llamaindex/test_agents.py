"""MemOSMemory in LlamaIndex's agents: what their models are given, what is kept and learnt of a run, and contexts written down."""

from __future__ import annotations

import asyncio
import json
from collections.abc import Callable
from typing import Any

import pytest
from llama_index.core.agent.workflow import AgentWorkflow, FunctionAgent, ReActAgent
from llama_index.core.base.llms.types import ChatMessage
from llama_index.core.workflow import Context

from llamaindex_memos import MemOSMemory, MemOSToolSpec
from memos_core import MemOS
from tests.llamaindex.conftest import contents, learnt, texts
from tests.llamaindex.llms import ChatModel, calling

# LlamaIndex's agents look at all attributes of their own classes, pydantic's deprecated ones among them, and use a deprecated one of
# their workflows
pytestmark = [
    pytest.mark.filterwarnings("ignore::pydantic.PydanticDeprecationWarning"),
    pytest.mark.filterwarnings("ignore:is_running called from within a step:DeprecationWarning"),
]

LEMON = "Ann takes her tea with lemon."


def look() -> str:
    """Look."""
    return "tool output"


def _function_agent(**options: Any) -> tuple[Any, ChatModel]:
    llm = ChatModel(calling("look"), "With lemon.")
    return FunctionAgent(tools=[look], llm=llm, **options), llm


def _react_agent(**options: Any) -> tuple[Any, ChatModel]:
    reasoning = (
        "Thought: I look.\nAction: look\nAction Input: {}",
        "Thought: I can answer without using any more tools.\nAnswer: With lemon.",
    )
    llm = ChatModel(*reasoning, calls_functions=False)
    return ReActAgent(tools=[look], llm=llm, **options), llm


def _workflow(**options: Any) -> tuple[Any, ChatModel]:
    state = options.pop("initial_state", None)
    agent, llm = _function_agent(**options)
    return AgentWorkflow(agents=[agent], initial_state=state), llm


AGENTS: dict[str, Callable[..., tuple[Any, ChatModel]]] = {
    "FunctionAgent": _function_agent, "ReActAgent": _react_agent, "AgentWorkflow": _workflow,
}  # fmt: skip


@pytest.fixture(params=list(AGENTS))
def made(request: pytest.FixtureRequest) -> Callable[..., tuple[Any, ChatModel]]:
    """Makes each of the agents: one that looks once and then answers, with its model."""
    return AGENTS[request.param]


def run(agent: Any, question: str | None, **options: Any) -> str:
    async def running() -> str:
        handler = agent.run(question, **options)
        async for _ in handler.stream_events():  # as an application does that shows them
            pass
        return str(await handler)

    return asyncio.run(running())


@pytest.mark.parametrize("system_prompt", [None, "Be brief."])
@pytest.mark.parametrize("streaming", [True, False])
def test_what_is_known_is_put_before_the_model_at_each_step_and_there_is_one_system_message_at_most(
    engine: MemOS, remembering: Any, made: Any, system_prompt: str | None, streaming: bool
) -> None:
    engine.add(LEMON, actor="ann")
    agent, llm = made(system_prompt=system_prompt, streaming=streaming)
    assert run(agent, "How does Ann take her tea?", memory=remembering()) == "With lemon."
    assert len(llm.prompts) == 2
    for step in range(2):
        assert len(llm.systems(step)) <= 1
        if system_prompt and not isinstance(agent, ReActAgent):  # that of 0.14.0 ignores it
            assert llm.systems(step) == [system_prompt]
        assert llm.text(step).count(LEMON) == 1
        assert llm.text(step).count("How does Ann take her tea?") == 1
    assert "tool output" in llm.text(1)


def test_a_run_is_kept_as_it_was_and_what_was_said_in_it_is_learnt_once(
    engine: MemOS, remembering: Any, made: Any
) -> None:
    memory = remembering(session_id="s")
    run(made()[0], "How do I take my tea?", memory=memory)
    kept = contents(memory.get_all())
    assert kept[0] == ("user", "How do I take my tea?")
    assert "With lemon." in str(kept[-1][1])
    assert texts(engine) == ["How do I take my tea?", "With lemon."]
    assert {c.origin.session for c in learnt(engine)} == {"s"}


def test_the_next_run_has_the_conversation_and_another_session_what_was_learnt(
    engine: MemOS, remembering: Any, made: Any
) -> None:
    run(made()[0], "I take my tea with lemon.", memory=remembering(session_id="s"))
    agent, llm = made()
    run(agent, "How do I take my tea?", memory=remembering(session_id="s"))
    assert "user: I take my tea with lemon." in llm.text(0)
    assert "recalled-memories" not in llm.text(0)
    agent, llm = made()
    run(agent, "How do I take my tea?", memory=remembering())
    assert "user: I take my tea with lemon." in llm.text(0)
    assert "recalled-memories" in llm.text(0)


def test_a_history_handed_in_at_each_run_is_kept_and_learnt_once(engine: MemOS, remembering: Any, made: Any) -> None:
    history: list[ChatMessage] = []
    for question in ("I have a cat.", "Her name is Miso.", "She is grey."):
        memory = remembering(session_id="s")
        run(made()[0], question, chat_history=history, memory=memory)
        history += [ChatMessage(role="user", content=question), ChatMessage(role="assistant", content="With lemon.")]
    assert [c for c in contents(memory.get_all()) if c[0] == "user"] == [c for c in contents(history) if c[0] == "user"]
    assert sorted(texts(engine)) == sorted(str(m.content) for m in history)


def test_a_run_on_a_history_alone_recalls_for_its_last_question(engine: MemOS, remembering: Any, made: Any) -> None:
    engine.add(LEMON, actor="ann")
    agent, llm = made()
    run(agent, None, chat_history=[ChatMessage(role="user", content="How is Ann's tea?")], memory=remembering())
    assert LEMON in llm.text(0)


def test_the_state_that_an_agent_writes_into_a_message_does_not_get_into_the_memory(
    engine: MemOS, remembering: Any, made: Any
) -> None:
    engine.add(LEMON, actor="ann")
    memory = remembering()
    agent, llm = made(initial_state={"mood": "thirsty"})
    run(agent, "How does Ann take her tea?", memory=memory)
    assert "thirsty" in llm.text(0)
    assert LEMON in llm.text(0)
    assert contents(memory.get_all())[0] == ("user", "How does Ann take her tea?")
    assert "thirsty" not in str(texts(engine))
    assert "recalled" not in str(contents(memory.get_all()))


def test_an_empty_memory_is_not_taken_for_none(engine: MemOS, remembering: Any, made: Any) -> None:
    agent, _ = made()
    context = Context(agent)
    memory = remembering()
    run(agent, "Hello?", memory=memory, ctx=context)
    assert asyncio.run(context.store.get("memory")) is memory


def test_what_was_asked_stays_if_the_model_fails(engine: MemOS, remembering: Any) -> None:
    memory = remembering()
    agent = FunctionAgent(tools=[look], llm=ChatModel(ConnectionError("the model is away")))
    with pytest.raises(ConnectionError):
        run(agent, "My train leaves at nine.", memory=memory)
    assert contents(memory.get_all()) == [("user", "My train leaves at nine.")]
    assert texts(engine) == ["My train leaves at nine."]


def test_a_context_is_written_down_and_goes_on_with_its_memory(engine: MemOS, remembering: Any, made: Any) -> None:
    agent, _ = made()
    context = Context(agent)
    run(agent, "I take my tea with lemon.", memory=remembering(), ctx=context)
    data = json.loads(json.dumps(context.to_dict()))
    agent, llm = made()
    restored = Context.from_dict(agent, data)
    memory = asyncio.run(restored.store.get("memory"))
    assert isinstance(memory, MemOSMemory)
    assert memory.memory is engine
    assert run(agent, "How do I take my tea?", ctx=restored) == "With lemon."
    assert "user: I take my tea with lemon." in llm.text(0)
    assert texts(engine)[::2] == ["I take my tea with lemon.", "How do I take my tea?"]


def test_agents_that_hand_over_to_each_other_share_the_memory(engine: MemOS, remembering: Any) -> None:
    engine.add(LEMON, actor="ann")
    first = ChatModel(calling("handoff", to_agent="tea", reason="tea"))
    second = ChatModel("With lemon.")
    workflow = AgentWorkflow(
        agents=[
            FunctionAgent(
                name="door", description="Opens.", llm=first, system_prompt="You open.", can_handoff_to=["tea"]
            ),
            FunctionAgent(name="tea", description="Knows tea.", llm=second, system_prompt="You know tea."),
        ],
        root_agent="door",
    )
    memory = remembering()
    assert run(workflow, "How does Ann take her tea?", memory=memory) == "With lemon."
    assert LEMON in first.text(0)
    assert LEMON in second.text(0)
    assert second.systems(0) == ["You know tea."]
    assert contents(memory.get_all())[-1] == ("assistant", "With lemon.")
    assert texts(engine)[-1] == "With lemon."


def test_an_agent_searches_remembers_and_forgets_by_its_tools(engine: MemOS, remembering: Any) -> None:
    [old] = engine.add("Ann takes her tea with milk.", actor="ann")
    llm = ChatModel(
        calling("search_memory", query="How does Ann take her tea?"),
        calling("forget", id=old.id),
        calling("remember", text=LEMON),
        "Noted.",
    )
    tools = MemOSToolSpec(engine, user_id="ann").to_tool_list()
    assert run(FunctionAgent(tools=tools, llm=llm), "Lemon, not milk!", memory=remembering(write=False)) == "Noted."
    assert "Ann takes her tea with milk." in llm.text(1)
    assert texts(engine) == [LEMON]
