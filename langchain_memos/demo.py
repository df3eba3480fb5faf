"""An agent that remembers, in two processes: the first lives through a conversation, the second is asked about it.

Run by `memosctl demo`, or `python -m langchain_memos.demo`. What it shows is what happened: both processes run a `create_agent` agent
with `MemOSMemory`. In the first the model's answers are those of the transcript; in the second a real model or a stand-in answers.
"""

from __future__ import annotations

import argparse
import os
import subprocess
import sys
import tempfile
import textwrap
import time
from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from pathlib import Path
from typing import TYPE_CHECKING, Any

from memos_core import MemOSError

from .transcript import Question, Said, Transcript, UnreadableTranscript, read

if TYPE_CHECKING:
    from memos_core import Hit, MemOS

OWN = Path(__file__).with_name("demo_transcript.jsonl")
OWN_QUESTIONS = (
    "What is my sister allergic to?",
    "How do I get Pixel to eat her food?",
    "Do I still run, or do I swim now?",
    "When is the appointment at the bank?",
)
USER = "demo"
MAX_TOKENS = 300  # of the brief: enough for a handful of memories, and for reading the prompt on a screen
SHOWN = 4
LIVED_TURN_BY_TURN = 100  # runs of the agent; a longer transcript is lived session by session, to stay within a minute

QUIET = {
    "HF_HUB_DISABLE_PROGRESS_BARS": "1", "TQDM_DISABLE": "1", "TRANSFORMERS_VERBOSITY": "error", "TOKENIZERS_PARALLELISM": "false",
    "PYTHONWARNINGS": "ignore", "PYTHONIOENCODING": "utf-8",
}  # fmt: skip


class DemoFailed(Exception):
    """One line for the person who runs the demo."""


def main(argv: Sequence[str] | None = None) -> int:
    """Run the demo; its exit status: 2 for what the caller can mend, 130 if interrupted."""
    args = _parser().parse_args(argv)
    try:
        if args.process == "first":
            with _opened(args.store) as memory:
                live(_transcript(args), memory)
        elif args.process == "second":
            with _opened(args.store) as memory:
                answer(_questions(args), memory, args.model)
        else:
            return _both(args)
    except (DemoFailed, MemOSError, UnreadableTranscript) as error:
        print(f"demo: {' '.join(str(error).split())}", file=sys.stderr)
        return 2
    except KeyboardInterrupt:
        return 130
    except BrokenPipeError:  # the reader of our output went away (head)
        os.dup2(os.open(os.devnull, os.O_WRONLY), sys.stdout.fileno())
        return 141
    return 0


def _parser() -> argparse.ArgumentParser:
    parser = argparse.ArgumentParser(
        prog="memosctl demo",
        description="An agent that remembers, in two processes: the first lives through a conversation of several sessions, the second "
        "starts fresh and is asked about it. Shows for each question what was recalled, the prompt, and the answer.",
    )
    parser.add_argument(
        "--transcript", metavar="FILE", type=Path,
        help="a conversation to live through: LoCoMo's JSON, or JSONL of role, content and, optionally, timestamp (ISO 8601; without an "
        "offset it is taken as UTC), name and session. Default: one that comes along",
    )  # fmt: skip
    parser.add_argument(
        "--conversation", metavar="N", type=int, default=1, help="which one of a file that holds several (default: 1)"
    )
    parser.add_argument("--ask", metavar="QUESTION", action="append", help="what to ask; may be repeated")
    parser.add_argument(
        "--model", metavar="NAME",
        help="a chat model that LangChain's init_chat_model knows, such as openai:gpt-5. Default: a stand-in that repeats the best memory",
    )  # fmt: skip
    parser.add_argument(
        "--store", metavar="PATH", help="keep the memories here (default: a folder that is removed at the end)"
    )
    parser.add_argument("--process", choices=("first", "second"), help=argparse.SUPPRESS)
    return parser


# --- the two processes -------------------------------------------------------------------------------------------------


def _both(args: argparse.Namespace) -> int:
    transcript = _transcript(args)
    _questions(args)
    if args.model:
        _named_model(args.model)
    with tempfile.TemporaryDirectory(prefix="memos-demo-", ignore_cleanup_errors=True) as folder:
        store = args.store or str(Path(folder) / "memories")
        sessions = transcript.sessions()
        print(
            bold("The first process lives"),
            f"through {transcript.title}: {len(transcript.turns)} turns, {_several(len(sessions), 'session')}.",
        )
        _run(args, "first", store)
        print(
            bold("\nThe second process starts fresh"), "and is asked. All that it has of the conversation is the store."
        )
        _run(args, "second", store)
    print(bold("\nIn your own agent:\n"))
    print("    from langchain.agents import create_agent")
    print("    from langchain_memos import MemOSMemory")
    print('    agent = create_agent("openai:gpt-5", middleware=[MemOSMemory("memories", user_id="ann")])')
    if args.store:
        print(
            faint(
                f"\nThe memories stay in {store}; look at them with: memosctl search {store} --actor {USER} 'a question'"
            )
        )
    return 0


def _run(args: argparse.Namespace, process: str, store: str) -> None:
    command = [sys.executable, "-m", "langchain_memos.demo", "--process", process, "--store", store]
    command += ["--transcript", str(args.transcript)] if args.transcript else []
    command += ["--conversation", str(args.conversation)]
    command += [f"--ask={question}" for question in args.ask or ()]
    command += ["--model", args.model] if args.model else []
    sys.stdout.flush()
    with tempfile.TemporaryFile("w+", encoding="utf-8", errors="replace") as noise:  # what libraries say on the way
        child = subprocess.Popen(command, env={**os.environ, **QUIET}, stderr=noise)
        try:
            status = child.wait()
        except KeyboardInterrupt:
            child.kill()  # at once: whoever interrupts does not wait, and no store is harmed by it
            child.wait()
            raise
        noise.seek(0)
        said = noise.read().strip()
    if status == 2:
        raise DemoFailed(said.splitlines()[-1].removeprefix("demo: ") if said else f"the {process} process failed")
    if status in (130, 141):
        raise KeyboardInterrupt if status == 130 else BrokenPipeError
    if status:
        raise DemoFailed(f"the {process} process ended with status {status}: {said}")


def live(transcript: Transcript, memory: MemOS) -> None:
    """Run an agent through the sessions, each a thread. The model's answers are the transcript's; the middleware writes all of it."""
    from langchain.agents import create_agent
    from langchain_core.language_models.fake_chat_models import GenericFakeChatModel
    from langchain_core.messages import AIMessage
    from langgraph.checkpoint.memory import InMemorySaver

    from . import MemOSMemory

    began = time.perf_counter()
    remembering = MemOSMemory(memory, user_id=USER, on_error="raise", max_tokens=MAX_TOKENS)
    sessions = transcript.sessions()
    at_once = sum(1 for turns in sessions.values() for _ in _runs(turns)) > LIVED_TURN_BY_TURN
    for number, (session, turns) in enumerate(sessions.items(), 1):
        runs = list(_runs(turns, at_once))
        replies = iter([_message(reply) if reply else AIMessage("") for _, reply in runs])
        agent = create_agent(
            GenericFakeChatModel(messages=replies), middleware=[remembering], checkpointer=InMemorySaver()
        )
        for told, _ in runs:
            agent.invoke({"messages": [_message(turn) for turn in told]}, {"configurable": {"thread_id": session}})
        when = f"{turns[0].when:%Y-%m-%d}" if turns[0].when else "undated"
        how = f"{_several(len(turns), 'turn')} in {_several(len(runs), 'run')} of the agent"
        print(f"  {when}  session {number} of {len(sessions)}: {how}", flush=True)
    stored = memory.stats(actor=USER).memories
    print(f"  {stored} memories in the store after {time.perf_counter() - began:.0f} s; the process ends", flush=True)


def answer(questions: Sequence[Question], memory: MemOS, model: str | None) -> None:
    """Ask an agent that has nothing but the store; show what it recalled, what its model was given, and what that said."""
    from langchain.agents import create_agent
    from langchain_core.callbacks import BaseCallbackHandler

    from . import MemOSMemory
    from .standin import StandIn

    class Prompt(BaseCallbackHandler):  # type: ignore[misc]  # LangChain is untyped to this checker
        """Keeps what a chat model was given."""

        messages: Sequence[Any] = ()

        def on_chat_model_start(self, serialized: Any, messages: Any, **_: Any) -> None:
            self.messages = messages[0]

    chosen = _named_model(model) if model else None
    print(
        faint(
            f"  its model: {model or 'a stand-in, no language model, that only repeats the best memory (see --model)'}"
        )
    )
    # recall only: the second question is not to be answered by the first
    remembering = MemOSMemory(memory, user_id=USER, on_error="raise", max_tokens=MAX_TOKENS, write=False)
    for question in questions:
        hits = memory.search(question.text, actor=USER, k=SHOWN)
        agent = create_agent(
            chosen or StandIn(best=hits[0].cube.text if hits else ""),
            middleware=[remembering],
            system_prompt="You are a helpful assistant.",
        )
        prompt = Prompt()
        try:
            result = agent.invoke({"messages": question.text}, {"callbacks": [prompt]})
        except MemOSError:
            raise
        except Exception as error:  # whatever a provider's client raises: no key, no network, no such model
            raise DemoFailed(f"--model {model}: {type(error).__name__}: {error}") from error
        _show(question, hits, prompt.messages, str(result["messages"][-1].text))


@contextmanager
def _opened(store: str) -> Iterator[MemOS]:
    """The store, its embedder loaded: the slow part, so it is said."""
    from memos_core import MemOS

    began = time.perf_counter()
    print(faint(f"  process {os.getpid()}: loading the embedding model ... "), end="", flush=True)
    try:
        memory = MemOS(store)
        memory.search("to load the embedder", actor=USER, k=1)
    except BaseException:
        print(flush=True)
        raise
    print(faint(f"{time.perf_counter() - began:.0f} s"), flush=True)
    with memory:
        yield memory


# --- what is lived, and what is asked ------------------------------------------------------------------------------------


def _runs(turns: Sequence[Said], at_once: bool = False) -> Iterator[tuple[list[Said], Said | None]]:
    """A session as runs of an agent: what it is told, and what it answers (None: it listens, and keeps silent).

    at_once: in one run, all but the last answer being told as history.
    """
    told: list[Said] = []
    spoken = [turn for turn in turns if turn.role in ("user", "assistant")]  # the rest is not remembered
    for turn in spoken:
        asked = any(t.role == "user" for t in told)
        if turn.role == "assistant" and asked and (turn is spoken[-1] or not at_once):
            yield told, turn
            told = []
        else:
            told.append(turn)
    if told:
        yield told, None


def _message(turn: Said) -> Any:
    from langchain_core.messages import AIMessage, HumanMessage

    kind = HumanMessage if turn.role == "user" else AIMessage
    when = {"timestamp": turn.when.isoformat()} if turn.when else {}
    return kind(turn.text, id=turn.id, name=turn.name, additional_kwargs=when)


def _transcript(args: argparse.Namespace) -> Transcript:
    return read(args.transcript or OWN, args.conversation)


def _questions(args: argparse.Namespace) -> Sequence[Question]:
    if args.ask:
        if not all(question.strip() for question in args.ask):
            raise DemoFailed("--ask: there is no question in it")
        return [Question(question) for question in args.ask]
    if args.transcript is None:
        return [Question(question) for question in OWN_QUESTIONS]
    return _transcript(args).questions or [Question("What do you remember about me?")]


def _named_model(name: str) -> Any:
    from langchain.chat_models import init_chat_model

    try:
        return init_chat_model(name)
    except Exception as error:  # each provider's client raises its own: not installed, unknown, no key
        raise DemoFailed(f"--model {name}: {error}") from error


# --- the screen ----------------------------------------------------------------------------------------------------------


def _show(question: Question, hits: Sequence[Hit], prompt: Sequence[Any], reply: str) -> None:
    print(f"\n{bold('Q  ' + question.text)}")
    print(faint("   recalled"))
    for hit in hits:
        origin = hit.cube.origin
        who = origin.speaker or origin.role or "note"
        print(_wrapped(hit.cube.text, f"   {hit.score:.2f}  {origin.happened_at:%Y-%m-%d %H:%M}  {who}: "))
        print(faint(_wrapped("; ".join(hit.why), "         why: ", " " * 14)))
    if not hits:
        print("   nothing")
    print(faint("   the prompt that the model was given"))
    for message in prompt:
        for i, line in enumerate(str(message.text).splitlines() or [""]):
            margin = f"   {message.type if i == 0 else '':>8} | "
            print(faint(_wrapped(line, margin, f"{'':>12}|   ")))
    print(faint("   the answer"))
    print(_wrapped(reply, "   ", "   "))
    if question.expected:
        print(faint(_wrapped(question.expected, "   the file's own answer: ")))
    sys.stdout.flush()


def _wrapped(text: str, first: str, rest: str = " " * 11) -> str:
    """A text as lines of a screen, each behind its margin."""
    words = " ".join(text.split())
    return textwrap.fill(words, 118, initial_indent=first, subsequent_indent=rest) or first


def _several(count: int, noun: str) -> str:
    return f"{count} {noun}" if count == 1 else f"{count} {noun}s"


def _style(code: str, text: str) -> str:
    return f"\033[{code}m{text}\033[0m" if sys.stdout.isatty() and not os.environ.get("NO_COLOR") else text


def bold(text: str) -> str:
    """Bold on a terminal."""
    return _style("1", text)


def faint(text: str) -> str:
    """Faint on a terminal."""
    return _style("2", text)


if __name__ == "__main__":
    sys.exit(main())
