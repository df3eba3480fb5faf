"""An answer with memory: what is put before the model, in an order in which most of it need not be run again.

    kept passage       memories whose keys and values are on disk (`Tiers`): the same for every question, so first
    the caller's own   system message
    recalled           for the first question: behind it, in the system message
    conversation       for later questions: what is recalled and not yet there, in front of the question

What was put into a conversation stays where it was put, so that turn n runs only what turn n added. Knows messages and recall; leaves
tokens to the model.
"""

from __future__ import annotations

import logging
import threading
from collections import OrderedDict
from collections.abc import Callable, Generator, Mapping, Sequence
from contextlib import nullcontext
from dataclasses import dataclass, field, replace
from typing import TYPE_CHECKING, Any

from .adapters import AdapterTier, Known
from .alteration import altered, lasting
from .errors import InvalidArgument, MemOSError
from .guard import Guard, divergence
from .prompt import Prompt, one_system
from .tally import Tally
from .tiers import Passage, Tiers
from .types import Brief, Generation, MemCube, Namespace

if TYPE_CHECKING:
    from .model import LocalModel

log = logging.getLogger("memos_core")
_CONVERSATIONS = 1_000  # whose notes are kept; one that is forgotten is run again


@dataclass(frozen=True, slots=True)
class Asked:
    """Who asks what of which memories: `recall` gives a brief of a question without what a predicate leaves out, and those of the left
    out that would be in it; `wanted` is told which memories, kept passages and adapters a question was answered with."""

    actor: str
    namespace: Namespace
    session: str | None
    recall: Callable[[str, Callable[[MemCube], bool]], tuple[Brief, Sequence[MemCube]]]
    wanted: Callable[[Sequence[str]], None]


@dataclass(slots=True)
class _Conversation:
    """What was put into a conversation: the passage opened for it, and behind which of its messages which brief stands."""

    passage: str | None = None
    notes: dict[int, tuple[str, Brief]] = field(default_factory=dict)


@dataclass(frozen=True, slots=True)
class _Arranged:
    messages: list[dict[str, Any]]
    brief: Brief
    notes: tuple[Brief, ...]


class Answering:
    """Answers of one store and one model. Safe for many threads."""

    def __init__(
        self, model: LocalModel, tiers: Tiers, adapters: AdapterTier, failed: Callable[[str, str, str], None]
    ) -> None:
        self._model = model
        self._tiers = tiers
        self._adapters = adapters
        self._opener = tiers.opener(model)
        self._failed = failed
        self.guard = Guard()
        self.tally = Tally()
        self._conversations: OrderedDict[tuple[str, Namespace, str], _Conversation] = OrderedDict()
        self._under_way: list[set[str]] = []  # what was forgotten since each request began
        self._lock = threading.Lock()

    @lasting
    def stream(
        self,
        asked: Asked,
        messages: Sequence[Mapping[str, Any]],
        tools: Sequence[Mapping[str, Any]] | None,
        decoding: Mapping[str, Any],
    ) -> Generator[str, None, tuple[Brief, Generation]]:
        """The answer in pieces; the generator's value is the brief and what the model made. What steers the model where this is
        called steers all of it. What is forgotten meanwhile is forgotten again at the end, lest the answer has brought it back."""
        gone = set[str]()
        with self._lock:
            self._under_way.append(gone)
        try:
            return (yield from self._stream(asked, messages, tools, decoding))
        finally:
            with self._lock:
                self._under_way = [other for other in self._under_way if other is not gone]
            if gone:
                self.forget(sorted(gone))

    def _stream(
        self,
        asked: Asked,
        messages: Sequence[Mapping[str, Any]],
        tools: Sequence[Mapping[str, Any]] | None,
        decoding: Mapping[str, Any],
    ) -> Generator[str, None, tuple[Brief, Generation]]:
        plain = one_system(messages)
        if not plain or plain[-1]["role"] == "system":
            raise InvalidArgument("messages: nobody asks anything in them")
        conversation = self._conversation(asked)
        learned = self._adapters.chosen(asked.actor, asked.namespace, self._model)
        # keys and values that are kept are the plain network's: behind an adapter they are not opened
        passage, opened = self._passage(asked, conversation) if learned is None else (None, None)
        arranged = self._arranged(asked, plain, conversation, passage, learned)
        prompt = self._model.prompt(arranged.messages, tools=tools)
        tenant = (asked.actor, *asked.namespace)
        if passage is not None and not passage.exact:
            tenant = (*tenant, passage.cube.id)  # what is made behind an approximation is one
            opened = self._guarded(prompt, opened)
        with altered(learned.change) if learned is not None else nullcontext():
            pieces = self._model.stream(
                prompt,
                tools=tools,
                tenant=tenant,
                opened=opened,
                sources=_sources(prompt, passage, arranged.notes, learned),
                **decoding,
            )
        try:
            made = yield from pieces
        finally:
            if learned is not None:  # it may have been deleted since it was chosen, by whoever
                self._adapters.weights.settle()
        self.tally.note(asked.actor, made.usage)
        if made.trouble:
            self._failed(asked.actor, "generate", made.trouble)
        elif made.usage.prefilled >= 64:  # fewer say more about the call than about the rate
            self._opener.running.note(made.usage.prefilled, made.usage.seconds_to_first)
        return arranged.brief, made

    def forget(self, ids: Sequence[str]) -> None:
        """Drop what is held in memory that was made from these memories."""
        gone = set(ids)
        with self._lock:
            for since in self._under_way:
                since |= gone
        self._model.shelf.forget(gone)
        self._model.snapshots.forget(gone)
        with self._lock:
            for key, talk in list(self._conversations.items()):
                if any(c.id in gone for _, note in talk.notes.values() for c in note.cubes):
                    del self._conversations[key]

    # --- below -----------------------------------------------------------------------------------------------------------

    def _conversation(self, asked: Asked) -> _Conversation:
        if asked.session is None:
            return _Conversation()
        with self._lock:
            key = (asked.actor, asked.namespace, asked.session)
            found = self._conversations.setdefault(key, _Conversation())
            self._conversations.move_to_end(key)
            while len(self._conversations) > _CONVERSATIONS:
                self._conversations.popitem(last=False)
            return found

    def _passage(self, asked: Asked, talk: _Conversation) -> tuple[Passage | None, Any]:
        """The passage to open: the conversation's own, or the one with the most memories; one that cannot be opened is passed over, and
        an event says why."""
        if not self._model.reuses_blocks:
            return None, None
        found = self._tiers.passages(asked.actor, asked.namespace, self._model)
        for passage in sorted(found, key=lambda p: (p.cube.id != talk.passage, _is_for_another(p.cube, asked))):
            if not passage.exact and not self.guard.state.on:
                continue
            try:
                opened = self._opener.opening(passage.blob)
            except MemOSError as error:
                self._failed(asked.actor, "open", f"{type(error).__name__}: {error}")
                continue
            talk.passage = passage.cube.id
            return passage, opened
        return None, None

    def _guarded(
        self, prompt: Prompt, opened: Callable[[Prompt, int], Any] | None
    ) -> Callable[[Prompt, int], Any] | None:
        """What opens an approximation, compared first, on a share of its uses, with the exact result. Once that says that it strays, it
        is not opened."""
        if opened is None or not self.guard.due():
            return opened if self.guard.state.on else None
        try:
            strayed = self._compared(prompt, opened)
        except MemOSError:  # what cannot be opened is told of where it is opened
            return opened
        return opened if strayed is None or self.guard.saw(strayed).on else None

    def _compared(self, prompt: Prompt, opened: Callable[[Prompt, int], Any]) -> float | None:
        """The divergence between the next-token distributions behind a prompt, exact and opened; None if not all would be opened."""
        elsewhere, model, ids = opened(prompt, 0), self._model, prompt.ids
        if elsewhere is None or elsewhere.front:
            return None
        blocks = [(t, t.shape[-2]) for t in elsewhere.blocks()]
        exact = model.forward(ids, model.cache(room=len(ids)))
        near = model.forward(ids[sum(n for _, n in blocks) :], model.cache(blocks, len(ids)))
        return divergence(exact, near)

    def _arranged(
        self,
        asked: Asked,
        plain: list[dict[str, Any]],
        talk: _Conversation,
        passage: Passage | None,
        learned: Known | None,
    ) -> _Arranged:
        own = plain[0]["content"] if plain[0]["role"] == "system" else ""
        rest = plain[1:] if own else plain
        known = {c.id for c in (*(passage.sources if passage else ()), *(learned.knows if learned else ()))}
        said = {m["content"] for m in rest}
        last = max((i for i, m in enumerate(rest) if m["role"] == "user"), default=None)
        kept = {i: note for i, (words, note) in talk.notes.items() if i < len(rest) and rest[i]["content"] == words}
        if last is not None and last not in kept and rest[last]["content"].strip():
            there = known | {c.id for note in kept.values() for c in note.cubes}
            kept[last], spared = asked.recall(rest[last]["content"], lambda cube: cube.id in there or cube.text in said)
            used = [place.cube for place in (passage, learned) if place is not None]
            asked.wanted([c.id for c in (*kept[last].cubes, *(c for c in spared if c.id in known), *used)])
            if asked.session is not None:
                talk.notes = {i: (rest[i]["content"], note) for i, note in kept.items()}
        first = min(kept, default=None)
        system = [passage.text if passage else "", own, kept[first].text if first is not None else ""]
        turns = [
            {**m, "content": f"{kept[i].text}\n\n{m['content']}"} if i in kept and i != first and kept[i].text else m
            for i, m in enumerate(rest)
        ]
        head = "\n\n".join(part for part in system if part)
        messages = [{"role": "system", "content": head}, *turns] if head else turns
        recalled = kept.get(last, Brief("", (), 0)) if last is not None else Brief("", (), 0)
        return _Arranged(messages, _whole(passage, recalled, learned), tuple(kept.values()))


def _is_for_another(cube: MemCube, asked: Asked) -> bool:
    """Whether a passage was made for the requests of another scope than this one."""
    scope = cube.attributes.get("scope")
    return scope is not None and (cube.access.owner, tuple(scope)) != (asked.actor, asked.namespace)


def _whole(passage: Passage | None, recalled: Brief, learned: Known | None) -> Brief:
    """What the model was given to remember, passage and recall together, and what it knows without."""
    if learned is not None:
        return replace(recalled, known=learned.knows)
    if passage is None:
        return recalled
    payload: Any = passage.cube.payload
    return Brief(
        "\n".join(t for t in (passage.text, recalled.text) if t),
        (*passage.sources, *recalled.cubes),
        payload.tokens + recalled.tokens,
    )


def _sources(
    prompt: Prompt, passage: Passage | None, notes: Sequence[Brief], learned: Known | None
) -> list[tuple[int, str]]:
    """The token from which on each memory stands in the prompt; what an adapter was made from is in all of it."""
    found = [] if learned is None else [(0, c.id) for c in (learned.cube, *learned.sources)]
    if passage is not None and (at := prompt.text.find(passage.text)) >= 0:
        found += [(prompt.token_at(at + s), c.id) for s, c in zip(passage.starts, passage.sources, strict=True)]
    for note in notes:
        if note.text and (at := prompt.text.find(note.text)) >= 0:
            found += [(prompt.token_at(at), c.id) for c in note.cubes]
    return found
