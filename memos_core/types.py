"""The records that cross module borders, and the few Protocols. Standard library only.

Every memory is a `MemCube`: a payload under one header. The header holds the three metadata groups that the MemOS
paper asks for (arXiv 2507.03724, section on MemCube): descriptive identifiers (`id`, `version`, `origin`,
`semantic_type`, timestamps), governance attributes (`access`, `lifespan`, `priority`, `sensitivity`) and behavioural
indicators (`usage`, `lineage`); the contextual fingerprint is the memory's embedding, kept beside it in the store.

All times are timezone-aware; the engine works in UTC. Records are frozen: change by `dataclasses.replace`.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, field
from datetime import datetime, timedelta
from enum import StrEnum
from typing import Any, Protocol

SCHEMA = 1
"""Version of the stored record. A store says which one it was written with; `codec.MIGRATIONS` leads from older ones."""

PUBLIC = "*"
"""As a reader or writer: everybody."""

Namespace = tuple[str, ...]


class Kind(StrEnum):
    """In which form a memory is held."""

    PLAINTEXT = "plaintext"
    ACTIVATION = "activation"
    PARAMETRIC = "parametric"


class State(StrEnum):
    """Where a memory is in its life; `lifecycle` holds the legal moves."""

    GENERATED = "generated"
    ACTIVATED = "activated"
    MERGED = "merged"
    ARCHIVED = "archived"
    EXPIRED = "expired"
    FROZEN = "frozen"


class SourceKind(StrEnum):
    """How a memory came to be (the paper's origin signature)."""

    MESSAGE = "message"
    NOTE = "note"
    ITEM = "item"
    EXTRACTION = "extraction"
    RETRIEVAL = "retrieval"
    DERIVATION = "derivation"
    TUNING = "tuning"
    IMPORT = "import"


@dataclass(frozen=True, slots=True)
class Text:
    """A passage. The record of truth: the other payloads are derived from it."""

    text: str


@dataclass(frozen=True, slots=True)
class KVCache:
    """Keys and values of a passage for one exact model; the tensors lie in the blob with this hash."""

    blob: str
    model: str
    tokens: int
    bytes: int


@dataclass(frozen=True, slots=True)
class Steering:
    """A steering vector added to the residual stream of one layer of one exact model."""

    blob: str
    model: str
    layer: int
    bytes: int


@dataclass(frozen=True, slots=True)
class Adapter:
    """A LoRA for one exact model; `targets` are the module names that it patches."""

    blob: str
    model: str
    targets: tuple[str, ...]
    rank: int
    bytes: int


Payload = Text | KVCache | Steering | Adapter


@dataclass(frozen=True, slots=True)
class Origin:
    """Who said it, where, and when.

    `position` counts turns of one session from 0; an item, which has no session, has its place in the order of creation
    there. `occurred_at` is when the thing happened or was said, as told by the
    caller; `stored_at` is when the engine accepted it. `source` names a document, tool or system in the caller's words. `digest` is the hash of the words as they were first
    handed in. `provenance` is of what was made from memories: see `MemCube.provenance`.
    """

    kind: SourceKind
    stored_at: datetime
    occurred_at: datetime | None = None
    role: str | None = None
    speaker: str | None = None
    session: str | None = None
    position: int | None = None
    message_id: str | None = None
    source: str | None = None
    model: str | None = None
    digest: str | None = None
    provenance: tuple[str, ...] = ()

    @property
    def happened_at(self) -> datetime:
        """When it happened, or, if nobody said, when it was stored."""
        return self.occurred_at or self.stored_at


@dataclass(frozen=True, slots=True)
class Access:
    """Who may do what. The owner may do everything; writers also read. A reader or writer is an actor, "group:NAME", `PUBLIC` for
    everybody, or one of these in a calling context (`grant`).

    within: grants of which one must hold besides, for the owner too: of a memory that its owner made from memories which he may read
    only in a group or a context.
    """

    owner: str
    readers: frozenset[str] = frozenset()
    writers: frozenset[str] = frozenset()
    within: frozenset[str] | None = None


@dataclass(frozen=True, slots=True)
class Lifespan:
    """How long a memory counts.

    It is not returned after `expires_at`; where reading may renew it, `ttl` is for how long. What it says held until `valid_until` (a superseded fact). `half_life`
    is the time in which its heat halves. `frozen_from` is the state before it was frozen: a frozen memory is not changed. `kept_until` is
    what a retention rule of its owner makes of it.
    """

    expires_at: datetime | None = None
    valid_until: datetime | None = None
    half_life: timedelta | None = None
    frozen_from: State | None = None
    ttl: timedelta | None = None
    kept_until: datetime | None = None

    @property
    def ends_at(self) -> datetime | None:
        """When its time is over: the earlier of its own end and that of the rule."""
        ends = [end for end in (self.expires_at, self.kept_until) if end is not None]
        return min(ends) if ends else None


@dataclass(frozen=True, slots=True)
class Usage:
    """How often and when last a memory was recalled, as far as it was written down: on memories from `get`, not on hits."""

    reads: int = 0
    last_read_at: datetime | None = None


@dataclass(frozen=True, slots=True)
class Link:
    """An edge to an exact version of another memory: `derived`, `supersedes`, `merged`, or `passage` of an item."""

    id: str
    version: int
    relation: str = "derived"


@dataclass(frozen=True, slots=True)
class MemCube:
    """One memory: a payload under a header.

    `priority` in [0, 1] weighs a memory against others that match equally; 0.5 is neutral. `sensitivity` holds tags such as
    "email". `key` is the caller's own name for it within owner and namespace. `attributes` is the caller's JSON object.
    """

    id: str
    version: int
    kind: Kind
    state: State
    namespace: Namespace
    payload: Payload
    origin: Origin
    access: Access
    created_at: datetime
    updated_at: datetime
    key: str | None = None
    semantic_type: str | None = None
    tags: tuple[str, ...] = ()
    attributes: Mapping[str, Any] = field(default_factory=dict)
    priority: float = 0.5
    sensitivity: tuple[str, ...] = ()
    lifespan: Lifespan = Lifespan()
    usage: Usage = Usage()
    lineage: tuple[Link, ...] = ()

    @property
    def provenance(self) -> tuple[str, ...]:
        """The ids of what was handed in and is in it: its own, or, of what was made from memories, those of theirs, over any number of
        steps and in any form. They stay with it in a dump, too."""
        return self.origin.provenance or (self.id,)

    @property
    def text(self) -> str:
        """The passage, or "" for a memory held in another form."""
        return self.payload.text if isinstance(self.payload, Text) else ""


@dataclass(frozen=True, slots=True)
class Item:
    """A value to be kept under a key, see `Items`.

    `texts` is what it is found by, one vector each; without any it is kept and listed, and never searched or embedded.
    """

    namespace: Namespace
    key: str
    value: Mapping[str, Any]
    texts: tuple[str, ...] = ()
    ttl: timedelta | None = None


@dataclass(frozen=True, slots=True)
class Hit:
    """A recalled memory: `score` in [0, 1], and in words why it was found."""

    cube: MemCube
    score: float
    why: tuple[str, ...]


@dataclass(frozen=True, slots=True)
class Brief:
    """What is put before a model: `text`, the memories in it in its order, and its size in tokens. `known` are memories that are left
    out of it because the adapter in use knows them."""

    text: str
    cubes: tuple[MemCube, ...]
    tokens: int
    known: tuple[MemCube, ...] = ()


@dataclass(frozen=True, slots=True)
class Event:
    """Who did what to which memory when. `outcome` is "ok" or "failed"; `detail` never holds memory content."""

    id: str
    at: datetime
    actor: str
    verb: str
    subject: str | None = None
    version: int | None = None
    outcome: str = "ok"
    detail: str = ""


@dataclass(frozen=True, slots=True)
class Receipt:
    """What a deletion removed: `ids` asked for, `derived` that fell with them, how many stored versions and blobs went.

    hashes: the SHA-256 of what each said when it went, of `ids` and then of `derived`. handed_out: dumps in which some of it may have
    left the store before, which no deletion reaches. head: of the log's chain after it, see `MemOS.verify`.
    """

    actor: str
    at: datetime
    ids: tuple[str, ...]
    derived: tuple[str, ...]
    versions: int
    blobs: int = 0
    hashes: tuple[str, ...] = ()
    handed_out: tuple[str, ...] = ()
    head: str = ""


@dataclass(frozen=True, slots=True)
class Ancestry:
    """A memory between what it was made from and what was made from it, one step each way."""

    cube: MemCube
    parents: tuple[MemCube, ...]
    children: tuple[MemCube, ...]


@dataclass(frozen=True, slots=True)
class Stats:
    """Counts over what the actor may read; `embedder` and `schema` describe the store."""

    memories: int
    by_kind: Mapping[str, int]
    by_state: Mapping[str, int]
    sessions: int
    schema: int
    embedder: str


@dataclass(frozen=True, slots=True)
class Draft:
    """A memory that a reader proposes.

    `parents` are the turns that it was read from. `revises` is the id of a memory that it updates (a new version of the
    same statement) or supersedes (the old one stops being true, and stays in the record); `decision` says which.
    """

    text: str
    semantic_type: str = "fact"
    speaker: str | None = None
    tags: tuple[str, ...] = ()
    attributes: Mapping[str, Any] = field(default_factory=dict)
    occurred_at: datetime | None = None
    parents: tuple[Link, ...] = ()
    decision: str = "add"
    revises: str | None = None
    model: str | None = None


@dataclass(frozen=True, slots=True)
class Reading:
    """What a reader made of some turns: drafts, and in words what went wrong (each becomes a failed event)."""

    drafts: tuple[Draft, ...] = ()
    problems: tuple[str, ...] = ()


@dataclass(frozen=True, slots=True)
class Policy:
    """The numbers. Defaults suit one machine; none of them changes what is remembered.

    fsync: flush every commit to the device before it is acknowledged (survives a power cut, not only a crash).
    resident_memories: a scope of at most this many memories is ranked whole, from memory; a larger one from candidates.
    resident_total: memories of all scopes kept in memory at once.
    index_from: memories in the store from which on a vector index is kept (below, exact search is as fast).
    compact_every: commits of this process between two compactions.
    keep_versions: how long the files of superseded table versions are kept at least, for requests under way; in a bucket ten minutes
        at least.
    keep_withdrawn: how long a rollback can bring back what another one took back; then a tick removes it for good.
    candidates: how many a search arm brings when the scope is not resident.
    flush_usage: buffered usage records that trigger a flush.
    lock_seconds: how long a writer waits for another one.
    lease_seconds: in a bucket, how long a writer's turn lasts unless it is renewed, which a live one does: so long a killed one keeps
        others waiting, and twice as long, anywhere, what a killed scheduler was building.
    kv_disk_bytes: of keys, values and adapters kept in the store's folder; building more than that is refused.
    adapter_bytes: of adapters' weights beside a model, and as much of them read into memory.
    kv_bits: how they are written: 0 as they are, exact; 8 in a quarter of float32's bytes (half of bfloat16's), close to exact.
    """

    fsync: bool = False
    resident_memories: int = 20_000
    resident_total: int = 100_000
    index_from: int = 20_000
    compact_every: int = 128
    keep_versions: timedelta = timedelta(seconds=15)
    keep_withdrawn: timedelta = timedelta(days=30)
    candidates: int = 100
    flush_usage: int = 512
    lock_seconds: float = 60.0
    lease_seconds: float = 30.0
    kv_disk_bytes: int = 64 << 30
    kv_bits: int = 0
    adapter_bytes: int = 1 << 30


@dataclass(frozen=True, slots=True)
class Decoding:
    """How an answer is drawn, and what it may be. temperature 0 takes the likeliest token; top_k 0 is all. `stop` strings end it and are
    not part of it. The same `seed` draws the same answer.

    schema: makes it JSON that fits this JSON schema; with tools, that or a call of one of them.
    tool_choice: "any" makes it one call of one of the tools, a tool's name one call of that; None leaves it to the model.
    timeout: seconds that it may take.
    """

    max_tokens: int = 256
    temperature: float = 0.0
    top_p: float = 1.0
    top_k: int = 0
    stop: tuple[str, ...] = ()
    seed: int | None = None
    repetition_penalty: float = 1.0
    schema: Mapping[str, Any] | None = None
    tool_choice: str | None = None
    timeout: float | None = None


@dataclass(frozen=True, slots=True)
class TokenUsage:
    """Tokens of one answer: of its prompt (`input`), those of them whose keys and values were held (`cached`), and drawn (`output`);
    and the seconds from the call to the first drawn token."""

    input: int
    cached: int
    output: int
    seconds_to_first: float

    @property
    def prefilled(self) -> int:
        """Tokens of the prompt that were run."""
        return self.input - self.cached


@dataclass(frozen=True, slots=True)
class Generation:
    """What a model answered: text, drawn token ids, why it ended ("stop" or "length"), and what it took. `trouble` says in words what
    had to be done without, such as held keys and values for which there was no room."""

    text: str
    ids: tuple[int, ...]
    finish: str
    usage: TokenUsage
    trouble: str = ""


@dataclass(frozen=True, slots=True)
class ToolCall:
    """A function that a model asks to be called, and with what."""

    name: str
    arguments: Mapping[str, Any]


@dataclass(frozen=True, slots=True)
class BrokenCall:
    """What looked like a call and could not be read as one: its name if that much was clear, the model's words, and what is wrong."""

    name: str | None
    text: str
    problem: str


@dataclass(frozen=True, slots=True)
class Answer:
    """What a model's words are made of: the text for people, what it said to itself before, and the calls that it asks for."""

    text: str
    reasoning: str = ""
    calls: tuple[ToolCall, ...] = ()
    broken: tuple[BrokenCall, ...] = ()


@dataclass(frozen=True, slots=True)
class Reply:
    """An answer with memory: its text, what was recalled for it, why it ended, and what it took."""

    text: str
    brief: Brief
    finish: str
    usage: TokenUsage


class Embedder(Protocol):
    """Texts to vectors: n texts in, n vectors of one dimension out.

    May carry `fingerprint: str` (identity of the weights) and `dimension: int`; without them the engine tells one
    embedder from another by how it embeds a fixed sentence.
    """

    def __call__(self, texts: Sequence[str], /) -> Any:
        """An array or nested lists of shape [len(texts), dimension]."""


class Reader(Protocol):
    """Turns that were just stored, into further memories. `similar` finds what is already known about a statement."""

    def read(self, turns: Sequence[MemCube], similar: Callable[[str], Sequence[MemCube]], /) -> Reading:
        """What the turns say, as drafts, and what could not be read."""
        ...
