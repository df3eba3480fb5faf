"""The format of a dump: what lies where, what the manifest says, and what it may say. Pure: opens nothing.

A dump is a folder, or a ZIP archive of the same files stored as they are (a ZIP because its list of members can be read, and refused,
before any of them; stored because what is not compressed cannot be a bomb). Version 1:

    memos.json                          the manifest, written last: a folder without it is no dump
    memories/BB-HASH.arrow              current versions, those of one bucket of ids
    history/BB-HASH.arrow               the versions before, of the same bucket
    payloads/NAME/manifest.json         of keys and values, of a steering vector or of an adapter, and its tensors
    payloads/NAME/0.safetensors         in the order that the manifest names them

A file of memories is an Arrow IPC file (Feather V2), neither compressed nor with dictionaries, of the columns

    id: string        version: int64    text: string, null for memories in another form than text
    record: string    the header as JSON, see `codec`                   vector: fixed_size_list<float>[dimension], null without one

and one of history has no vectors. A bucket is the first digits of the SHA-256 of the id, so that a change of one memory changes one
file; HASH is the beginning of the file's own SHA-256, so that a file is never changed under its name. What tensors are for is in their
cube's record (`payload`), and which files belong to it is found by its blob's name, NAME.

The manifest is one JSON object: `format` ("memos-dump") and `version`; `schema` of the records; `made_at`; `embedder` (fingerprint,
dimension and, for one without a fingerprint, how it embeds a fixed sentence); `counts` of memories, versions, vectors and payloads;
`redacted`, whether texts went through a redaction; `left_out`, what was asked for and is not in it, with counts; `files`, each with path,
bytes, SHA-256 and rows; `key`, what each file was made from; if it was published, `publication` and `signature`; and, if there are any,
`groups` that the memories' grants name, by name, each with its owner and, where who dumped it may say, its members; of a dump of a whole
store `whole`, and `retention`, its owners' rules, in seconds by owner and namespace.
"""

from __future__ import annotations

import json
import re
from collections.abc import Mapping, Sequence
from dataclasses import asdict, dataclass, field
from datetime import datetime
from hashlib import sha256
from typing import Any

from .errors import DumpRefused, InvalidArgument
from .filters import decode_namespace, encode_namespace
from .types import SCHEMA
from .validate import checked_actor, checked_actors, checked_word

FORMAT, VERSION = "memos-dump", 1
MANIFEST = "memos.json"
LEDGER = ".ledger"  # a folder beside it while a dump is being written
ROWS = 2_048  # memories of a bucket, about
LARGEST_MANIFEST = 32 << 20
LARGEST_PART = 1 << 30  # bytes of one file of memories
MOST_FILES = 200_000
DIMENSIONS = 65_536
_NAME = re.compile(
    r"(?P<folder>memories|history)/[0-9a-f]{1,8}-[0-9a-f]{16}\.arrow|payloads/(?P<blob>[0-9a-f]{64})/(?:manifest\.json|(?:0|[1-9]\d{0,5})\.safetensors)"
)
_DIGEST = re.compile(r"[0-9a-f]{64}")


@dataclass(frozen=True, slots=True)
class File:
    """One file of a dump. `key` is the hash of what it was made from; rows is 0 for what holds none."""

    path: str
    bytes: int
    sha256: str
    rows: int = 0
    key: str = ""


@dataclass(frozen=True, slots=True)
class Source:
    """The embedder that the vectors of a dump come from."""

    fingerprint: str | None
    dimension: int
    probe: tuple[float, ...] = ()


@dataclass(frozen=True, slots=True)
class Publication:
    """On which terms a dump was published.

    `number` counts the versions of a publication; `visibility` names who may load it, "*" for everybody; `uses` is how often one store
    may load it, None for as often as it likes; after `expires_at` nobody may, and what was loaded is not returned.
    """

    name: str
    number: int
    about: str = ""
    tags: tuple[str, ...] = ()
    visibility: tuple[str, ...] = ()
    licence: str = ""
    expires_at: datetime | None = None
    uses: int | None = None


@dataclass(frozen=True, slots=True)
class Group:
    """A group that grants name: who owns it, and who is in it; None where who dumped it is not to say."""

    owner: str
    members: tuple[str, ...] | None = None


@dataclass(frozen=True, slots=True)
class Parcel:
    """What the manifest of a dump says."""

    made_at: datetime
    embedder: Source
    counts: Mapping[str, int]
    files: tuple[File, ...]
    schema: int = SCHEMA
    redacted: bool = False
    left_out: Mapping[str, int] = field(default_factory=dict)
    publication: Publication | None = None
    signature: Mapping[str, str] | None = None
    groups: Mapping[str, Group] = field(default_factory=dict)
    whole: bool = False
    retention: Mapping[str, float] = field(default_factory=dict)

    def named(self, folder: str) -> list[File]:
        """The files in one of its folders."""
        return [f for f in self.files if f.path.startswith(folder + "/")]


def body(parcel: Parcel) -> bytes:
    """What is signed: the manifest without its signature, as JSON with sorted keys and no spaces, in UTF-8."""
    said = asdict(parcel)
    said |= {"format": FORMAT, "version": VERSION, "made_at": parcel.made_at.isoformat()}
    del said["signature"]
    for name in ("groups", "whole", "retention"):
        if not said[name]:
            del said[name]
    if parcel.publication is None:
        del said["publication"]
    else:
        end = parcel.publication.expires_at
        said["publication"]["expires_at"] = None if end is None else end.isoformat()
    return json.dumps(said, sort_keys=True, separators=(",", ":"), ensure_ascii=False).encode()


def written(parcel: Parcel) -> bytes:
    """The manifest as it is written."""
    said = json.loads(body(parcel))
    if parcel.signature is not None:
        said["signature"] = dict(parcel.signature)
    return json.dumps(said, sort_keys=True, indent=1, ensure_ascii=False).encode()


def identity(parcel: Parcel) -> str:
    """A name for just this dump."""
    return sha256(body(parcel)).hexdigest()


def checked_path(path: str) -> str:
    """A path of a dump's file. Raises DumpRefused for any other, saying what is wrong with it."""
    if path == MANIFEST or _NAME.fullmatch(path):
        return path
    shown = repr(path[:200])
    if path.startswith(("/", "\\")) or re.match(r"[A-Za-z]:", path):
        raise DumpRefused(f"{shown} is an absolute path")
    if ".." in re.split(r"[/\\]", path):
        raise DumpRefused(f"{shown} leads out of the dump (path traversal)")
    raise DumpRefused(f"{shown} is no file of a dump")


def blob_of(path: str) -> str | None:
    """The name of the blob that a file belongs to."""
    found = _NAME.fullmatch(path)
    return found and found["blob"]


def read(text: bytes, where: str) -> Parcel:
    """The manifest in a file. Raises DumpRefused for one that is none, that lies about itself, or that a newer version wrote."""
    if len(text) > LARGEST_MANIFEST:
        raise DumpRefused(f"{where}: a manifest of {len(text):,} bytes is more than {LARGEST_MANIFEST:,}")
    try:
        said = json.loads(text, parse_constant=_constant)
        if not isinstance(said, dict) or said.get("format") != FORMAT:
            raise DumpRefused(f"{where} is no manifest of a dump")
        version = said["version"]
        if not _is_count(version) or version < 1:
            raise DumpRefused(f"{where}: {version!r:.50} is no version of the format")
        if version > VERSION:
            raise DumpRefused(
                f"{where}: version {version} of the format is newer than {VERSION}: upgrade memos-adapters"
            )
        if not _is_count(said["schema"]) or not 1 <= said["schema"] <= SCHEMA:
            raise DumpRefused(
                f"{where}: records of schema {said['schema']!r:.50}, and this version reads up to {SCHEMA}"
            )
        found = _parcel(said)
    except DumpRefused:
        raise
    except (ValueError, KeyError, TypeError, AttributeError, RecursionError, OverflowError, InvalidArgument) as error:
        raise DumpRefused(f"{where}: its manifest cannot be read: {type(error).__name__}: {error!s:.200}") from None
    return _agreeing(found, where)


def _parcel(said: dict[str, Any]) -> Parcel:
    signature = said.get("signature")
    if signature is not None and not all(isinstance(signature[k], str) for k in ("key", "value")):
        raise ValueError("its signature is none")
    source = said["embedder"]
    probe = tuple(float(x) for x in source["probe"])
    if not isinstance(source["fingerprint"], str | None) or not _is_count(source["dimension"]):
        raise ValueError("its embedder is none")
    if not 1 <= source["dimension"] <= DIMENSIONS or len(probe) not in (0, source["dimension"]):
        raise ValueError("its embedder's dimension is none")
    return Parcel(
        made_at=_moment(said["made_at"]), embedder=Source(source["fingerprint"], source["dimension"], probe), counts=_counts(said["counts"]),
        files=tuple(_file(f) for f in _list(said["files"])), schema=said["schema"], redacted=bool(said["redacted"]), left_out=_counts(said["left_out"]),
        publication=None if said.get("publication") is None else _publication(said["publication"]),
        signature=None if signature is None else {"key": signature["key"], "value": signature["value"]},
        groups={_group_name(n): _group(g) for n, g in said.get("groups", {}).items()}, whole=said.get("whole", False) is True,
        retention={_rule(n): _seconds(s) for n, s in said.get("retention", {}).items()},
    )  # fmt: skip


def _group_name(name: str) -> str:
    if not name.strip() or name.startswith("group:"):
        raise ValueError(f"{name!r:.100} is no name of a group")
    return checked_word(name, "groups") or ""


def _group(said: Any) -> Group:
    members = said["members"]
    if members is not None:
        members = tuple(str(checked_actor(m)) for m in sorted(checked_actors(_list(members), "members")))
    return Group(checked_actor(said["owner"]), members)


def _rule(path: str) -> str:
    labels = decode_namespace(path)
    if not labels or not all(labels) or encode_namespace(labels) != path:
        raise ValueError(f"{path!r:.100} is no owner and namespace")
    checked_actor(labels[0])
    return path


def _seconds(said: Any) -> float:
    if isinstance(said, bool) or not isinstance(said, int | float) or not 0 < said < 2**40:
        raise ValueError(f"{said!r:.50} is no number of seconds")
    return float(said)


def _file(said: Any) -> File:
    if not isinstance(said["path"], str) or not isinstance(said["key"], str):
        raise ValueError("a file without a path")
    if not (_is_count(said["bytes"]) and _is_count(said["rows"])):
        raise ValueError(f"the size of {said['path']!r:.100} is none")
    if not isinstance(said["sha256"], str) or not _DIGEST.fullmatch(said["sha256"]):
        raise ValueError(f"the hash of {said['path']!r:.100} is none")
    return File(checked_path(said["path"]), said["bytes"], said["sha256"], said["rows"], said["key"])


def _publication(said: Any) -> Publication:
    end, uses = said["expires_at"], said["uses"]
    texts = [said["name"], said["about"], said["licence"], *_list(said["tags"]), *_list(said["visibility"])]
    if (
        not all(isinstance(t, str) for t in texts)
        or not _is_count(said["number"])
        or not (uses is None or _is_count(uses))
    ):
        raise ValueError("its publication is none")
    return Publication(
        checked_name(said["name"]), said["number"], said["about"], tuple(said["tags"]), tuple(said["visibility"]), said["licence"],
        None if end is None else _moment(end), uses,
    )  # fmt: skip


def checked_name(name: str) -> str:
    """The name of a publication, which is also that of its folder. Raises DumpRefused for one that no folder should have."""
    if not re.fullmatch(r"[A-Za-z0-9][A-Za-z0-9._-]{0,99}", name) or ".." in name:
        raise DumpRefused(f"{name!r:.120} is no name: letters, digits, dots, dashes and underscores are")
    return name


def _agreeing(parcel: Parcel, where: str) -> Parcel:
    """The same, if its parts agree with each other."""
    paths = [f.path for f in parcel.files]
    if len(paths) > MOST_FILES:
        raise DumpRefused(f"{where}: {len(paths):,} files are more than {MOST_FILES:,}")
    if len(set(paths)) < len(paths) or MANIFEST in paths:
        raise DumpRefused(f"{where}: it names a file twice, or itself")
    blobs = {blob_of(p) for p in paths if blob_of(p)}
    found = {
        "memories": sum(f.rows for f in parcel.named("memories")), "versions": sum(f.rows for f in parcel.named("history")),
        "payloads": len(blobs),
    }  # fmt: skip
    for name, count in found.items():
        if parcel.counts.get(name) != count:
            raise DumpRefused(f"{where}: it says {parcel.counts.get(name)} {name}, and its files say {count}")
    for file in parcel.files:
        if file.path.endswith(".arrow") and (file.bytes > LARGEST_PART or file.rows > file.bytes or not file.rows):
            raise DumpRefused(f"{where}: {file.path} cannot have {file.rows:,} rows in {file.bytes:,} bytes")
        if file.path.endswith(".arrow") and not file.path.endswith(f"-{file.sha256[:16]}.arrow"):
            raise DumpRefused(f"{where}: {file.path} does not have the name that its hash gives it")
    for blob in blobs:
        if f"payloads/{blob}/manifest.json" not in paths:
            raise DumpRefused(f"{where}: payload {blob} has no manifest")
    return parcel


def _list(value: Any) -> Sequence[Any]:
    if not isinstance(value, list):
        raise ValueError(f"a list is needed, not {value!r:.50}")
    return value


def _counts(value: Any) -> dict[str, int]:
    if not isinstance(value, dict) or not all(_is_count(n) for n in value.values()):
        raise ValueError("its counts are none")
    return value


def _moment(text: Any) -> datetime:
    found = datetime.fromisoformat(text)
    if found.utcoffset() is None:
        raise ValueError(f"{text!r:.50} has no timezone")
    return found


def _is_count(value: Any) -> bool:
    return isinstance(value, int) and not isinstance(value, bool) and 0 <= value < 2**62


def _constant(name: str) -> Any:
    raise ValueError(f"{name} is no JSON")
