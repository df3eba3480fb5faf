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


def chat(folder: str, user: str, session: str, text: str) -> None:
    memory = MemOSMemory(folder, user_id=user, session_id=session)
    engine = SimpleChatEngine.from_defaults(llm=Parrot(), memory=memory)
    print(f"{user}, {session}: {text}\n    engine: {engine.chat(text)}")
    memory.close()


def main() -> None:
    with tempfile.TemporaryDirectory() as folder:
        for user, session, text in (
            ("ann", "monday", "My train to Lyon leaves at 7:40 on Friday."),
            (
                "ann",
                "tuesday",
                "When does my train leave?",
            ),  # another process and conversation: all that it has is the folder
            ("bob", "tuesday", "When does my train leave?"),  # another user: Ann's memories are not his
        ):
            subprocess.run([sys.executable, __file__, folder, user, session, text], check=True)


if __name__ == "__main__":
    chat(*sys.argv[1:]) if sys.argv[1:] else main()
