"""What a LangChain agent learns, a LlamaIndex chat engine knows, and back: both on one store. Stand-ins answer, so no key is needed."""

import tempfile

from langchain.agents import create_agent
from langchain_core.language_models import BaseChatModel
from langchain_core.messages import AIMessage
from langchain_core.outputs import ChatGeneration, ChatResult
from llama_index.core.chat_engine import SimpleChatEngine
from llama_index.core.llms import CompletionResponse, CustomLLM, LLMMetadata

import langchain_memos
import llamaindex_memos
from memos_core import MemOS


def answer(prompt: str) -> str:
    """Stands in for a model: of what it was reminded of, it repeats what shares most words with the question."""
    asked = set(prompt.strip().removesuffix("assistant:").strip().splitlines()[-1].split())
    known = [line for line in prompt.splitlines() if line.startswith("- [")]
    return f"I was told: {max(known, key=lambda line: len(asked & set(line.split())))}" if known else "That is new."


class LangChainModel(BaseChatModel):
    @property
    def _llm_type(self):
        return "stand-in"

    def _generate(self, messages, stop=None, run_manager=None, **kwargs):
        text = answer("\n".join(m.text for m in messages))
        return ChatResult(generations=[ChatGeneration(message=AIMessage(text))])


class LlamaIndexModel(CustomLLM):
    @property
    def metadata(self):
        return LLMMetadata()

    def complete(self, prompt, formatted=False, **kwargs):
        return CompletionResponse(text=answer(prompt))

    def stream_complete(self, prompt, formatted=False, **kwargs):
        yield self.complete(prompt)


def main() -> None:
    with tempfile.TemporaryDirectory() as folder, MemOS(folder) as memory:
        agent = create_agent(LangChainModel(), middleware=[langchain_memos.MemOSMemory(memory, user_id="ann")])
        chat = SimpleChatEngine.from_defaults(
            llm=LlamaIndexModel(), memory=llamaindex_memos.MemOSMemory(memory, user_id="ann")
        )
        print("LangChain: ", agent.invoke({"messages": "My sister Ines is allergic to walnuts."})["messages"][-1].text)
        print("LlamaIndex:", chat.chat("What is Ines allergic to?"))
        print("LlamaIndex:", chat.chat("The spare key is under the blue pot."))
        print("LangChain: ", agent.invoke({"messages": "Where is the spare key?"})["messages"][-1].text)


if __name__ == "__main__":
    main()
