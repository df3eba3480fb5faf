"""MemOSMemory: a chat's messages, durable, and beside them what is known of its user from everywhere else.

Knows when LlamaIndex's chat engines and agents ask for a memory and when they write; how memories are kept and found is the engine's.
"""

from __future__ import annotations

import asyncio
import logging
import uuid
from collections import Counter
from collections.abc import Callable, Collection, Iterable, Sequence
from typing import Any

from llama_index.core.base.llms.types import ChatMessage
from llama_index.core.bridge.pydantic import ConfigDict, Field, PrivateAttr
from llama_index.core.memory.types import BaseMemory
from llama_index.core.utils import get_tokenizer

from memos_core import InvalidArgument, MemOS, Receipt

from .conversation import Change, Conversation, Kept, following, replaced
from .engine import Engine, OwnLock, defaults, engine_of
from .longterm import LongTerm, OnError, Turn, checked
from .messages import Insert, as_turn, asked, fitting, noted, packed, reminded, same, size, unpacked

log = logging.getLogger("llamaindex_memos")

_RATIO = 0.75  # of a model's context that is the memory's, as core's ChatMemoryBuffer has it
_WAITING = 1_000  # turns that are kept to be learnt later while the engine fails


class MemOSMemory(BaseMemory):  # type: ignore[misc]  # LlamaIndex is untyped to this checker
    """Memory for chat engines and agents: the conversation, and long-term memory recalled into it.

    Each message put is kept in its session, which outlives the process, and what people and the model said is learnt at once.
    `get` returns the newest messages that fit `token_limit`, with what is known about the question, from whichever session,
    within `max_tokens`. The recalled text is in the returned copies only; it is not stored.

    Where it stands (`insert="auto"`): in the system message, if the history has one, or if the caller is known to have none
    (SimpleChatEngine without a system prompt); else in front of the words of the last user message. So there never are two system
    messages by our doing: agents and chat engines put their own system prompt before what a memory returns, and ReActAgent, without
    one, drops a system message that it finds there.

    A history handed in by `set` (`chat_history=` of agents and engines) takes the place of the conversation, and of it is learnt what
    is not known from this session. Without a `session_id` each memory is a conversation of its own; then of a history is
    learnt what no stored conversation says with its neighbours. `reset` forgets the conversation and keeps what was learnt; `forget` deletes.

    Fields are plain, so that a `Context` with it can be written down: what is kept of the engine is its path. Restored, it finds
    the engine of that path that another adapter in the process has, or opens it with the default embedder; to a store with
    another one, `attach` an open `MemOS`.

    Args:
        memory: a `MemOS`, or the path of one, opened at first use.
        embed: the embedder, for a path: a LlamaIndex `BaseEmbedding`, or whatever `MemOS` takes.
        path: what `memory` would be, as a field.
        user_id: whose memories. There is no default user.
        session_id: which conversation; None: a new one.
        namespace: where memories are written, and at or below which they are recalled.
        token_limit: of what `get` returns, the recalled text and the caller's own prefix included.
        max_tokens: of what is recalled for a question.
        insert: where it stands: "auto", "system" (in the system message, which is made if there is none) or "user".
        on_error: what to do if the engine fails: "warn" logs it and lets the chat go on (messages then are kept in this object, and
            written when the engine is back), "raise" raises.
        write: False to recall and keep the conversation only, and learn nothing.
        schedule: True to let the memory tick by itself, off the way of requests, see `MemOS.start`.
        tokenizer_fn: text to tokens; None: LlamaIndex's own.

    Raises:
        InvalidArgument: nobody says whose memory it is, or an argument is wrong; whatever `on_error` says.

    Examples:
        `pip install 'memos-adapters[offline,llamaindex]'`

        ```python
        from llama_index.core.chat_engine import SimpleChatEngine
        from llamaindex_memos import MemOSMemory

        memory = MemOSMemory("memories", user_id="ann", session_id="monday")
        chat = SimpleChatEngine.from_defaults(llm=llm, memory=memory)
        chat.chat("I take my tea with lemon.")

        # in an agent, and in another conversation of the same user
        agent = FunctionAgent(tools=[...], llm=llm)
        await agent.run("How do I take my tea?", memory=MemOSMemory("memories", user_id="ann"))
        ```
    """

    model_config = ConfigDict(arbitrary_types_allowed=True)

    path: str = Field(description="Where the store is.")
    user_id: str = Field(description="Whose memories.")
    session_id: str = Field(default="", description="Which conversation.")
    namespace: tuple[str, ...] = Field(default=("default",), description="Where memories are written and recalled.")
    token_limit: int = Field(default=30_000, description="Tokens of what get returns.")
    max_tokens: int = Field(default=1_500, description="Tokens of what is recalled.")
    insert: Insert = Field(default="auto", description="Where a recalled text stands.")
    on_error: OnError = Field(default="warn", description="What to do if the engine fails.")
    write: bool = Field(default=True, description="Whether to learn.")
    schedule: bool = Field(default=False, description="Whether the memory ticks by itself.")
    tokenizer_fn: Callable[[str], Sequence[Any]] = Field(default_factory=get_tokenizer, exclude=True)

    _engine: Engine = PrivateAttr()
    _is_named: bool = PrivateAttr()
    _lock: Any = PrivateAttr(default_factory=OwnLock)
    _seen: list[Kept] = PrivateAttr(default_factory=list)  # the conversation as it was last read or written
    _is_read: bool = PrivateAttr(default=False)  # what is stored could be read the last time
    _unsaved: list[Kept] = PrivateAttr(default_factory=list)  # put, while the engine failed
    _is_replaced: bool = PrivateAttr(default=False)  # by `_seen`, while the engine failed
    _unlearnt: list[Turn] = PrivateAttr(default_factory=list)
    _recalled: tuple[tuple[str, str], str] | None = PrivateAttr(default=None)  # for which message and question, what

    def __init__(self, memory: MemOS | str | Any = None, *, embed: Any = None, **fields: Any) -> None:
        fields = {name: value for name, value in fields.items() if value is not None and name != "class_name"}
        known = defaults(type(self))
        engine = engine_of(memory, embed, fields, known)
        checked({**known, **fields})
        is_named = bool(fields.get("session_id") or known["session_id"])
        super().__init__(
            **{**fields, "session_id": fields.get("session_id") or known["session_id"] or str(uuid.uuid4())}
        )
        self._is_named = is_named
        self._engine = engine

    @classmethod
    def class_name(cls) -> str:
        """The class's name in serialised form."""
        return "MemOSMemory"

    @classmethod
    def from_defaults(
        cls,
        memory: MemOS | str | Any = None,
        *,
        chat_history: Sequence[ChatMessage] | None = None,
        llm: Any = None,
        token_limit: int | None = None,
        **fields: Any,
    ) -> MemOSMemory:
        """A memory, with a history if one is given (an empty one leaves the session as it is).

        Args:
            llm: three quarters of its context are the `token_limit`, if none is given.
        """
        if token_limit is None and llm is not None:
            token_limit = int(llm.metadata.context_window * _RATIO)
        made = cls(memory, token_limit=token_limit, **fields)
        if chat_history:
            made.set(list(chat_history))
        return made

    @property
    def memory(self) -> MemOS:
        """The engine, opened now if it was not yet."""
        return self._engine.memory

    def attach(self, memory: MemOS) -> None:
        """Go on with this engine."""
        engine = Engine(memory, schedule=self.schedule)
        with self._lock:
            self.path, self._engine, self._recalled = engine.path, engine, None

    def close(self) -> None:
        """Let go of the store if it was opened by its path; the next use opens it again."""
        self._engine.close()

    # --- what LlamaIndex calls; the async twins of the base class run these in a thread -------------------------------------

    def get(self, input: Any = None, initial_token_count: int | None = None, **kwargs: Any) -> list[ChatMessage]:
        """The newest messages that fit, and in them what is known about `input`, or else about the last user message.

        Args:
            initial_token_count: tokens of what the caller puts in front. Raises InvalidArgument if they exceed `token_limit`.
        """
        room = self.token_limit - (initial_token_count or 0)
        if room < 0:
            raise InvalidArgument(
                f"initial_token_count: {initial_token_count} exceeds the token_limit {self.token_limit}"
            )
        with self._lock:
            kept, messages = self._messages()
            sizes = [size(m, self.tokenizer_fn) for m in messages]
            question, at = asked(messages, input)
            if question is None:
                return [messages[i] for i in fitting(messages, sizes, room)]
            budget = min(self.max_tokens, room // 2)
            chosen = fitting(messages, sizes, room - budget)
            shown = {noted(messages[i]) or "" for i in chosen}
            text = self._recall(question, "" if at is None else kept[at].key, budget, shown)
        spent = len(self.tokenizer_fn(text)) if text else 0
        if not text or spent > budget:
            chosen = fitting(messages, sizes, room - spent)
        place = chosen.index(at) if at in chosen else None
        return reminded([messages[i] for i in chosen], text, place, self.insert, alone=initial_token_count == 0)

    def get_all(self) -> list[ChatMessage]:
        """The whole conversation, as it was put."""
        with self._lock:
            return self._messages()[1]

    def put(self, message: ChatMessage) -> None:
        """Keep a message, and learn what it says."""
        self.put_messages([message])

    def put_messages(self, messages: Sequence[ChatMessage]) -> None:
        """Keep messages, in one write, and learn what they say."""
        with self._lock:
            new = following(self._seen[-1] if self._seen else None, [packed(m) for m in messages])
            after = [*self._seen, *new]
            self._learn(new)
            if self._is_replaced:
                self._is_replaced = not self._saved(lambda: self._replace(after))
            elif new:
                unsaved = [*self._unsaved, *new]
                self._unsaved = [] if self._saved(lambda: self._conversation.write(unsaved)) else unsaved
            self._seen = after

    def set(self, messages: Sequence[ChatMessage]) -> None:
        """Make the conversation this one. What of it is there stays as it is, and what of it is known is not learnt again."""
        with self._lock:
            change = _change(self._read(), [packed(m) for m in messages])
            self._learn(self._news(messages, change))
            after = list(change.after)
            # what was read is what is stored, unless something waits to be written or could not be read
            clean = self._is_read and not self._unsaved
            saved = self._saved(lambda: self._make(change) if clean else self._replace(after))
            self._seen, self._unsaved, self._is_replaced = after, [], not saved
            self._recalled = None

    def reset(self) -> None:
        """Forget the conversation. What was learnt from it stays."""
        self.set([])

    def forget(self, ids: str | Iterable[str] | None = None) -> Receipt:
        """Delete memories, for good; the receipt names them.

        Args:
            ids: of memories. None: all that the user owns at or below the namespace, conversations included.

        Raises:
            NotFound, AccessDenied, IllegalTransition: nothing was deleted; whatever `on_error` says.
        """
        with self._lock:
            if isinstance(ids, tuple):  # to the engine a tuple is a namespace
                ids = list(ids)
            receipt = self.memory.delete(self.namespace if ids is None else ids, actor=self.user_id)
            self._recalled = None
            if ids is None:
                self._seen, self._unsaved, self._is_replaced, self._unlearnt = [], [], False, []
            return receipt

    async def aforget(self, ids: str | Iterable[str] | None = None) -> Receipt:
        """`forget`, beside the event loop."""
        return await asyncio.to_thread(self.forget, ids)

    # --- below -------------------------------------------------------------------------------------------------------------

    def __copy__(self) -> MemOSMemory:
        """Another memory of the same conversation, on the same engine."""
        copied: MemOSMemory = self.from_dict({**self.to_dict(), "tokenizer_fn": self.tokenizer_fn})
        copied._engine = self._engine
        return copied

    def __deepcopy__(self, memo: Any = None) -> MemOSMemory:
        return self.__copy__()

    def __reduce__(self) -> tuple[Any, ...]:
        return self.from_dict, (self.to_dict(),)

    @property
    def _longterm(self) -> LongTerm:
        return LongTerm(self._engine, self.user_id, self.namespace, self.on_error)

    @property
    def _conversation(self) -> Conversation:
        return Conversation(self._engine, self.user_id, self.namespace, self.session_id)

    def _messages(self) -> tuple[list[Kept], list[ChatMessage]]:
        """The conversation, those that can be read of it: another version of LlamaIndex may have written what this one cannot."""

        def read(kept: Kept) -> ChatMessage | None:
            return self._longterm.attempt("read a message", lambda: unpacked(kept.body), None)

        found = [(kept, message) for kept in self._read() if (message := read(kept)) is not None]
        return [kept for kept, _ in found], [message for _, message in found]

    def _read(self) -> list[Kept]:
        """The conversation as it is, whoever wrote to it; what could not be written yet comes last."""
        stored = None
        if not self._is_replaced:
            stored = self._longterm.attempt("read the conversation", self._conversation.read, None)
        self._is_read = stored is not None
        if stored is not None:
            there = set(stored)
            self._seen = [*stored, *(k for k in self._unsaved if k not in there)]
        return self._seen

    def _saved(self, work: Callable[[], None]) -> bool:
        """Whether this could be written. If not, the conversation is kept here, and the next write makes up for it."""
        return self._longterm.did("keep the conversation", work)

    def _replace(self, after: Sequence[Kept]) -> None:
        self._make(_change(self._conversation.read(), [k.body for k in after]))

    def _make(self, change: Change) -> None:
        self._conversation.remove(change.gone)  # first: what is left if this is killed is the beginning of both
        self._conversation.write(change.written)

    def _learn(self, kept: Iterable[Kept]) -> None:
        """Learn what was said, and before it what could not be learnt until now."""
        turns = [turn for k in kept if (turn := as_turn(unpacked(k.body), k.key))] if self.write else []
        turns = [*self._unlearnt, *turns]

        def learn() -> list[Turn]:
            try:
                self._longterm.learn(turns, self.session_id)
            except InvalidArgument:  # it will be refused the next time too
                self._unlearnt = []
                raise
            return []

        self._unlearnt = self._longterm.attempt("learn", learn, turns[-_WAITING:])

    def _news(self, messages: Sequence[ChatMessage], change: Change) -> list[Kept]:
        """Of the messages that a history brings, those whose words are not known from elsewhere than this conversation's list."""
        new = change.new
        placed = [(k, turn) for k, m in zip(change.after, messages, strict=True) if (turn := as_turn(m))]
        spoken = [turn for _, turn in placed]
        turns = {k.key: turn for k in new if (turn := as_turn(unpacked(k.body)))}
        if not turns or not self.write:
            return []
        if not self._is_named:  # each message by those beside it, in whichever session that was
            known_at: set[int] = self._longterm.attempt("look", lambda: self._longterm.known_in(spoken), set())
            return [k for at, (k, _) in enumerate(placed) if k.key in turns and at not in known_at]
        known: Counter[tuple[str, str]] = self._longterm.attempt(
            "look", lambda: self._longterm.said_in(self.session_id), Counter()
        )
        known.subtract(Counter(_words(turn) for turn in spoken) - Counter(map(_words, turns.values())))
        news = []
        for k in new:
            if k.key in turns and known[_words(turns[k.key])] <= 0:
                news.append(k)
            elif k.key in turns:
                known[_words(turns[k.key])] -= 1
        return news

    def _recall(self, question: str, asking: str, budget: int, shown: Collection[str]) -> str:
        """What is known about a question; once for each message that asks, however often an agent comes back to it."""
        if asking and self._recalled is not None and self._recalled[0] == (asking, question):
            return self._recalled[1]

        def recall() -> str | None:
            try:
                return self._longterm.recall(question, budget, shown)
            except InvalidArgument as error:
                if budget >= self.max_tokens:
                    raise
                # no setting of the caller's: the conversation or the prompt before it left too little room
                log.warning("nothing is recalled for %s, the token_limit leaves no room: %s", self.user_id, error)
                return None

        text = self._longterm.attempt("recall", recall, None)
        if asking and text is not None:
            self._recalled = ((asking, question), text)
        return text or ""


def _change(before: Sequence[Kept], bodies: Sequence[str]) -> Change:
    return replaced(before, bodies, same)


def _words(turn: Turn) -> tuple[str, str]:
    return turn["role"], turn["content"]
