"""Writing a dump: which memories, in which files, and only those of them that are not there yet. The format is `parcel`'s.

Killed, it leaves files that no manifest names, and the dump that was there before, if any, as it was. The next run finds what is done by
a ledger beside the files, and by the manifest of the dump before: a bucket of memories that did not change is not written again.
"""

from __future__ import annotations

import json
from collections.abc import Callable, Iterable, Iterator, Mapping, Sequence
from dataclasses import asdict, dataclass, field, replace
from datetime import datetime
from hashlib import sha256
from pathlib import Path
from shutil import rmtree
from typing import Any
from uuid import uuid4

import pyarrow as pa

from . import codec, grants, parcel, payloads, rowfiles
from .blobs import Blobs
from .errors import DumpRefused, InvalidArgument
from .grants import GROUP
from .leaving import Leaving
from .manifest import Manifest
from .parcel import LEDGER, MANIFEST, ROWS, File, Group, Parcel, Source, checked_path
from .places import Place
from .retention import RULE
from .staging import scratch
from .types import SCHEMA, Kind, MemCube, Text
from .vault import Vault
from .view import Listed, View, view

Progress = Callable[[int, int], None]


@dataclass(frozen=True, slots=True)
class DumpReport:
    """What a dump holds, by its name `dump`: memories, their versions before, vectors, payloads, bytes, and the files that were there already; and what was
    left out of it, with counts by reason. whole: whether it is one of the whole store, by an operator's right; any other has at most what
    its actor may read, and does not say how much else there is. groups: those that came along with their members."""

    target: str
    dump: str
    memories: int
    versions: int
    vectors: int
    payloads: int
    bytes: int
    files: int
    reused: int
    left_out: Mapping[str, int] = field(default_factory=dict)
    whole: bool = False
    groups: tuple[str, ...] = ()


@dataclass(frozen=True, slots=True)
class Selection:
    """What is to be dumped: conditions on the cubes and on the history (None: no history), and what makes two dumps of it alike.

    groups: with the groups that its grants name, as far as `who` may say who is in them. whole: of a whole store, by an operator's right,
    with all groups, and the rules of retention.
    """

    who: str
    where: str
    past: str | None
    groups: bool = True
    whole: bool = False


class Dumper:
    """The dumps of one store. Safe for many threads."""

    def __init__(self, vault: Vault, blobs: Blobs, clock: Callable[[], datetime]) -> None:
        self._vault = vault
        self._blobs = blobs
        self._clock = clock

    def dump(
        self,
        wanted: Selection,
        target: Place,
        *,
        redact: Leaving | None = None,
        progress: Progress = lambda done, total: None,
        finish: Callable[[Parcel], Parcel] = lambda found: found,
        check: Callable[[View, Sequence[Listed]], None] = lambda now, listed: None,
    ) -> DumpReport:
        """Write what is wanted. `finish` makes the manifest's last entries; `check` may refuse before anything is written."""
        if target.is_archive:
            folder = self._staging(target)
            report = self.dump(wanted, Place(folder), redact=redact, progress=progress, finish=finish, check=check)
            found = parcel.read(Place(folder).manifest(), str(folder))
            target.pack(folder, [MANIFEST, *(f.path for f in found.files)])
            rmtree(folder, ignore_errors=True)
            return replace(report, target=target.url)
        with view(self._vault) as now:
            known = self._vault.rules.under(GROUP) if wanted.groups else {}
            now.grants = set() if known and not wanted.whole else None
            listed = now.listed(wanted.where, wanted.past)
            groups = _groups(wanted, known, now.grants or ())
            check(now, listed)
            writing = _Writing(now, target, self._blobs, redact, self._vault.manifest.dimension)
            left_out: dict[str, int] = {}
            if redact is not None:  # tensors hold the words that they were made from
                forms = redact.forms(self._sources([one.id for one in listed if one.kind != Kind.PLAINTEXT]))
                texts = [one for one in listed if one.kind == Kind.PLAINTEXT or one.id in forms]
                left_out["other_forms_redacted"] = len(listed) - len(texts)
                listed = texts
            prefix = sha256(repr((SCHEMA, _source(self._vault.manifest), wanted.who, wanted.past is None)).encode())
            salt = prefix.hexdigest() + (
                "" if redact is None else str(uuid4())
            )  # nobody knows what a callable did before
            done = 0
            for bucket, members in _buckets(listed):
                writing.bucket(bucket, members, salt)
                progress(done := done + len(members), len(listed))
        found = Parcel(
            made_at=self._clock(), embedder=_source(self._vault.manifest), files=tuple(writing.files),
            counts={"memories": len(listed), "versions": writing.versions, "vectors": writing.vectors, "payloads": len(writing.blobs)},
            redacted=redact is not None, left_out={k: v for k, v in left_out.items() if v}, groups=groups, whole=wanted.whole,
            retention=self._vault.rules.under(RULE) if wanted.whole else {},
        )  # fmt: skip
        before = writing.known.manifest
        found = finish(found)
        target.put(MANIFEST, [parcel.written(found)])
        keep = {MANIFEST, *(f.path for f in found.files)}
        if found.publication is not None and before is not None:
            keep |= {f.path for f in before.files}  # who is pulling the version before finds its files
        old = [p for p in target.names() if p not in keep and _is_ours(p)]
        target.drop(sorted(old, key=lambda p: p.startswith(LEDGER)))  # which says that others may still be there
        return DumpReport(
            target.url, parcel.identity(found), len(listed), writing.versions, writing.vectors, len(writing.blobs),
            sum(f.bytes for f in found.files), len(found.files), writing.reused, found.left_out,
            found.whole, tuple(sorted(n for n, g in found.groups.items() if g.members is not None)),
        )  # fmt: skip

    def _sources(self, ids: Sequence[str]) -> dict[str, list[MemCube]]:
        """What memories were made from, of those whose sources are all there."""
        found = {}
        for row in self._vault.by_ids(ids):
            made = [r.cube for r in self._vault.by_ids([link.id for link in row.cube.lineage])]
            if len(made) == len(row.cube.lineage):
                found[row.cube.id] = made
        return found

    def _staging(self, target: Place) -> Path:
        folder = scratch(self._vault.db.site) / "dumping" / sha256(target.url.encode()).hexdigest()[:16]
        folder.mkdir(parents=True, exist_ok=True)
        return folder


class _Known:
    """The files that are there from runs before, by what they were made from."""

    def __init__(self, target: Place) -> None:
        names = target.names()
        if strangers := [n for n in names if not _is_ours(n)]:
            raise InvalidArgument(
                f"target: {target.url} holds other files ({strangers[0]} …): choose an empty or a new folder"
            )
        self.manifest: Parcel | None = None
        self._files: dict[str, dict[str, File]] = {}
        self._there = {n: target.size(n) for n in names if n.endswith(".arrow")}
        if MANIFEST in names:
            try:
                self.manifest = parcel.read(target.manifest(), target.url)
            except DumpRefused:  # of another version, or damaged: written anew
                self.manifest = None
        for file in () if self.manifest is None else self.manifest.files:
            self._learn(file)
        for name in names:
            if name.startswith(f"{LEDGER}/") and name.endswith(".json"):
                with target.guarded():
                    said = json.loads(target.fs.cat_file(target.at(name)))
                for entry in said:
                    self._learn(File(**entry))

    def _learn(self, file: File) -> None:
        self._files.setdefault(file.key, {})[file.path] = file

    def of(self, key: str) -> list[File] | None:
        """The files made from this, if all are there in their size."""
        found = list(self._files.get(key, {}).values())
        return found if found and all(self._there.get(f.path) == f.bytes for f in found) else None


class _Writing:
    """One dump being written to a folder."""

    def __init__(self, now: View, target: Place, blobs: Blobs, redact: Leaving | None, dimension: int) -> None:
        self._now = now
        self._target = target
        self._blobs = blobs
        self._redact = redact
        self._dimension = dimension
        self.known = _Known(target)
        self.files: list[File] = []
        self.blobs: set[str] = set()
        self.versions = self.vectors = self.reused = 0

    def bucket(self, name: str, members: Sequence[Listed], salt: str) -> None:
        """Write the memories of one bucket, or take the files that are there."""
        key = sha256((salt + "".join(sorted(m.mark for m in members))).encode()).hexdigest()
        past = sum(len(m.past) for m in members)
        self.versions += past
        files = self.known.of(key)
        if files is None:
            table = self._now.memories([m.row for m in members])
            files = [self._write("memories", name, key, table, rowfiles.memories(self._dimension))]
            if past:
                history = self._now.history([row for m in members for row in m.past])
                files.append(self._write("history", name, key, history, rowfiles.VERSIONS))
            self._target.put(f"{LEDGER}/{key}.json", [json.dumps([asdict(f) for f in files]).encode()])
        else:
            self.reused += len(files)
        self.files += files
        if self._redact is None:
            self.vectors += sum(m.has_vector for m in members)
        if others := [m.row for m in members if m.kind != Kind.PLAINTEXT]:
            self._payloads(self._now.memories(others)["record"].to_pylist())

    def _write(self, folder: str, bucket: str, key: str, table: pa.Table, schema: pa.Schema) -> File:
        if self._redact is not None:
            table = _redacted(table, self._redact)
            self.vectors += table.num_rows - table["vector"].null_count if "vector" in table.column_names else 0
        data = rowfiles.written(table, schema)
        digest = sha256(data).hexdigest()
        path = f"{folder}/{bucket}-{digest[:16]}.arrow"
        self._target.put(path, [data])
        return File(path, data.size, digest, table.num_rows, key)

    def _payloads(self, records: Sequence[str]) -> None:
        for record in records:
            payload = codec.decode(record, None).payload
            assert not isinstance(payload, Text)
            if payload.blob in self.blobs:
                continue
            self.blobs.add(payload.blob)
            outline = payloads.outline_of(self._blobs, payload)
            folder = f"payloads/{payload.blob}"
            for number, piece in enumerate(outline.pieces):
                path = f"{folder}/{number}.safetensors"
                if self._target.size(path) != piece.bytes:
                    self._target.put(path, payloads.read_piece(self._blobs, payload.blob, piece))
                self.files.append(File(path, piece.bytes, piece.digest))
            path = f"{folder}/manifest.json"
            self._target.put(path, [outline.head])
            self.files.append(File(path, len(outline.head), sha256(outline.head).hexdigest()))


def _is_ours(name: str) -> bool:
    """Whether a file is one that a dump writes."""
    if name.startswith(f"{LEDGER}/") or name.endswith(".partial"):
        return True
    try:
        checked_path(name)
    except DumpRefused:
        return False
    return True


def _groups(wanted: Selection, known: Mapping[str, Any], named: Iterable[str]) -> dict[str, Group]:
    """The groups that go along: those of grants in it, with members if they are the dumper's own; of a whole store all."""
    if wanted.whole:
        return {name: Group(rule["owner"], tuple(rule["members"])) for name, rule in known.items()}
    found = {}
    for name in grants.groups(named) & known.keys():
        owner, members = known[name]["owner"], known[name]["members"]
        if wanted.who == owner:
            found[name] = Group(owner, tuple(members))
        elif wanted.who in members:
            found[name] = Group(owner)
    return found


def _source(manifest: Manifest) -> Source:
    return Source(manifest.embedder, manifest.dimension, manifest.probe)


def _buckets(listed: Sequence[Listed]) -> Iterator[tuple[str, list[Listed]]]:
    """Memories by the first bits of the hashes of their ids, so many bits that a bucket has about `ROWS`."""
    bits = max(0, (len(listed) - 1) // ROWS).bit_length()
    found: dict[int, list[Listed]] = {}
    for one in listed:
        found.setdefault(int.from_bytes(sha256(one.id.encode()).digest()[:4], "big") >> (32 - bits), []).append(one)
    for number in sorted(found):
        yield f"{number:0{max(1, (bits + 3) // 4)}x}", found[number]


def _redacted(table: pa.Table, leaving: Leaving) -> pa.Table:
    """Rows with their words as a redaction leaves them. Where a text changed, its vector, from which it could be guessed, and the hash of
    the words that were handed in go too."""
    columns = table.to_pydict()
    for i, (record, text) in enumerate(zip(columns["record"], columns["text"], strict=True)):
        cube = codec.decode(record, text)
        left = leaving.words(cube)
        if left is cube:
            continue
        changed = left.text != cube.text
        columns["record"][i] = codec.encode(
            replace(left, origin=replace(left.origin, digest=None)) if changed else left
        )
        columns["text"][i] = None if text is None else left.text
        if changed and "vector" in columns:
            columns["vector"][i] = None
    return pa.table(columns, schema=table.schema)
