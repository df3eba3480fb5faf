"""A chat engine that remembers, in two processes: one is told something, the other one is asked. A stand-in answers, so no key is needed."""

import subprocess
import sys
import tempfile

from llama_index.core.chat_engine import SimpleChatEngine
from llama_index.core.llms import CompletionResponse, CustomLLM, LLMMetadata

from llamaindex_memos import MemOSMemory


class Parrot(CustomLLM):
    """Shows what a model is given; put a real one in its place, such as OpenAI(model="gpt-5")."""

    @property
    def metadata(self):
        return LLMMetadata()

    def complete(self, prompt, formatted=False, **kwargs):
        known = [line for line in prompt.splitlines() if line.startswith("- [")]
        return CompletionResponse(text=f"I was told: {known[0]}" if known else "That is new to me.")

    def stream_complete(self, prompt, formatted=False, **kwargs):
        yield self.complete(prompt)


def say(folder: str, user: str, text: str) -> None:
    memory = MemOSMemory(folder, user_id=user)  # a conversation of its own; name a session_id to go on with one
    chat = SimpleChatEngine.from_defaults(llm=Parrot(), memory=memory)
    print(f"{user}: {text}\n    engine: {chat.chat(text)}")


def first(folder: str) -> None:
    say(folder, "ann", "My train to Lyon leaves at 7:40 on Friday.")


def second(folder: str) -> None:  # all that it has of the first process is the folder
    say(folder, "ann", "When does my train leave?")
    say(folder, "bob", "When does my train leave?")  # another user: Ann's memories are not his


def main() -> None:
    with tempfile.TemporaryDirectory() as folder:
        for process in ("first", "second"):
            subprocess.run([sys.executable, __file__, process, folder], check=True)


if __name__ == "__main__":
    {"first": first, "second": second}[sys.argv[1]](sys.argv[2]) if sys.argv[1:] else main()
