"""An agent that remembers from one conversation to the next. A scripted model stands in for a real one, so no key is needed."""

import tempfile

from langchain.agents import create_agent
from langchain_core.language_models import BaseChatModel
from langchain_core.messages import AIMessage
from langchain_core.outputs import ChatGeneration, ChatResult

from langchain_memos import MemOSMemory


class Parrot(BaseChatModel):
    """Shows what a model is given; put a real one in its place, such as "openai:gpt-5"."""

    @property
    def _llm_type(self):
        return "parrot"

    def _generate(self, messages, stop=None, run_manager=None, **kwargs):
        known = [line for m in messages if m.type == "system" for line in m.text.splitlines() if line.startswith("- ")]
        answer = f"I was told: {known[0]}" if known else "That is new to me."
        return ChatResult(generations=[ChatGeneration(message=AIMessage(answer))])


def main() -> None:
    with tempfile.TemporaryDirectory() as folder:
        memory = MemOSMemory(folder)
        agent = create_agent(Parrot(), middleware=[memory])

        def say(user: str, text: str) -> None:
            result = agent.invoke({"messages": text}, {"configurable": {"user_id": user}})
            print(f"{user}: {text}\n    agent: {result['messages'][-1].text}")

        say("ann", "My train to Lyon leaves at 7:40 on Friday.")
        say("ann", "When does my train leave?")
        say("bob", "When does my train leave?")  # another user: Ann's memories are not his
        memory.close()


if __name__ == "__main__":
    main()
