"""Dumps that lie, and archives that attack: each refused whole, with an error that names the reason, leaving nothing here."""

from __future__ import annotations

import json
import os
import stat
import struct
import zipfile
from collections.abc import Callable, Iterator
from hashlib import sha256
from pathlib import Path
from typing import Any

import pyarrow as pa
import pytest

from memos_core import Access, DumpRefused, Link, MemOS, MemOSError
from tests.conftest import Clock
from tests.dumps import Files, arrow, files_of, honest, manifest, packed, put, table, with_manifest, with_record
from tests.words import WordsEmbedder


@pytest.fixture(scope="module")
def good(tmp_path_factory: pytest.TempPathFactory) -> Files:
    """The files of a small honest dump."""
    folder = tmp_path_factory.mktemp("good")
    with MemOS(folder / "store", embed=WordsEmbedder(), actor="ann", clock=Clock()) as memory:
        [cube] = memory.add("tea with lemon")
        memory.update(cube.id, "tea with milk")
        memory.add(["one", "two"])
        memory.dump(folder / "dump")
    return files_of(folder / "dump")


@pytest.fixture(scope="module")
def target(tmp_path_factory: pytest.TempPathFactory) -> Iterator[MemOS]:
    """The store that all of it is tried on, which stays empty."""
    with MemOS(
        tmp_path_factory.mktemp("target") / "store", embed=WordsEmbedder(), actor="ann", clock=Clock()
    ) as memory:
        yield memory


def refused(target: MemOS, source: Path, reason: str) -> None:
    before = everything_around(target)
    with pytest.raises(DumpRefused, match=reason) as caught:
        target.load(source)
    assert isinstance(caught.value, MemOSError)
    assert target.stats().memories == 0
    assert target.log(verb="load") == []
    assert everything_around(target) == before


def everything_around(target: MemOS) -> list[str]:
    """The files of the store and beside it, tables and locks aside."""
    root = Path(target.path).parent
    return sorted(
        str(p)
        for p in root.rglob("*")
        if ".lance" not in str(p) and p.suffix != ".lock" and p.name not in ("loading", "landing")
    )


def first(files: Files, folder: str = "memories") -> str:
    return next(n for n in files if n.startswith(folder))


# --- the manifest ---------------------------------------------------------------------------------------------------------


def entry(said: Any, folder: str = "memories") -> Any:
    return next(f for f in said["files"] if f["path"].startswith(folder))


MANIFESTS: dict[str, tuple[Callable[[Any], object], str]] = {
    "a later version of the format": (lambda m: m.update(version=2), "newer"),
    "no version": (lambda m: m.update(version="1"), "no version"),
    "another format": (lambda m: m.update(format="tar"), "no manifest"),
    "a later schema": (lambda m: m.update(schema=99), "schema"),
    "fewer memories than are said": (lambda m: m["counts"].update(memories=4), "says 4 memories"),
    "more versions than are said": (lambda m: m["counts"].update(versions=0), "says 0 versions"),
    "payloads that are not there": (lambda m: m["counts"].update(payloads=1), "1 payloads"),
    "a count of another type": (lambda m: m["counts"].update(memories="3"), "counts"),
    "a negative size": (lambda m: entry(m).update(bytes=-1), "size"),
    "another size": (lambda m: entry(m).update(bytes=entry(m)["bytes"] + 1), "bytes"),
    "a size of another type": (lambda m: entry(m).update(bytes=1.5), "size"),
    "a declared bomb": (lambda m: entry(m).update(bytes=1 << 40), "cannot have"),
    "a wrong hash": (lambda m: entry(m).update(sha256="0" * 64), "hash"),
    "no hash": (lambda m: entry(m).update(sha256="md5:0"), "hash"),
    "rows that are not there": (
        lambda m: (m["counts"].update(memories=4), entry(m).update(rows=4)), "4 rows"
    ),
    "rows that are not said": (lambda m: (m["counts"].update(memories=2), entry(m).update(rows=2)), "2 rows"),
    "a file that is not there": (
        lambda m: (m["counts"].update(memories=4), m["files"].append({**entry(m), "path": f"memories/f-{'0' * 16}.arrow", "sha256": "0" * 64, "rows": 1})),
        "lacks 1 files",
    ),
    "a file twice": (lambda m: m["files"].append(entry(m)), "twice"),
    "a path out of the dump": (lambda m: entry(m).update(path="memories/../../evil.arrow"), "traversal"),
    "an absolute path": (lambda m: entry(m).update(path="/etc/passwd"), "absolute"),
    "a path of another system": (lambda m: entry(m).update(path="C:\\evil"), "absolute"),
    "a path with backslashes": (lambda m: entry(m).update(path="memories\\..\\evil"), "traversal"),
    "a path of another kind": (lambda m: entry(m).update(path="memories/run.py"), "no file of a dump"),
    "a path with an end of line": (lambda m: entry(m).update(path=entry(m)["path"] + "\n"), "no file of a dump"),
    "a path that is none": (lambda m: entry(m).update(path=7), "path"),
    "files that are no list": (lambda m: m.update(files={}), "list"),
    "a file that is none": (lambda m: m["files"].append(None), "cannot be read"),
    "an embedder of no dimension": (lambda m: m["embedder"].update(dimension=0), "dimension"),
    "an embedder of too many dimensions": (lambda m: m["embedder"].update(dimension=1 << 30), "dimension"),
    "an embedder of another dimension": (lambda m: m["embedder"].update(dimension=32), "columns"),
    "a probe of another dimension": (lambda m: m["embedder"].update(probe=[1.0]), "dimension"),
    "no time": (lambda m: m.update(made_at="yesterday"), "cannot be read"),
    "a time without a zone": (lambda m: m.update(made_at="2026-01-01T00:00:00"), "timezone"),
    "nothing": (lambda m: m.clear(), "no manifest"),
    "a signature that is none": (lambda m: m.update(signature={"key": "00", "value": "00"}), "signature"),
    "a signature of another shape": (lambda m: m.update(signature=[1]), "cannot be read"),
    "a publication that is none": (lambda m: m.update(publication={"name": "x"}), "cannot be read"),
}  # fmt: skip


@pytest.mark.parametrize("lie", MANIFESTS)
def test_a_manifest_that_lies_is_found_out(lie: str, good: Files, target: MemOS, tmp_path: Path) -> None:
    change, reason = MANIFESTS[lie]
    refused(target, put(with_manifest(good, change), tmp_path / "dump"), reason)


@pytest.mark.parametrize(
    ("text", "reason"),
    [
        (b"", "cannot be read"), (b"[]", "no manifest"), (b"\xff\xfe", "cannot be read"), (b'{"format":', "cannot be read"),
        (b'{"format": "memos-dump", "version": NaN}', "NaN"), (b"[" * 200_000, "cannot be read"),
        (b'{"format": "memos-dump", "version": 1' + b"0" * 5000 + b"}", "cannot be read|no version"),
        (b" " * (33 << 20), "more than"),
    ],
)  # fmt: skip
def test_a_manifest_that_is_none_is_refused(
    text: bytes, reason: str, good: Files, target: MemOS, tmp_path: Path
) -> None:
    refused(target, put({**good, "memos.json": text}, tmp_path / "dump"), reason)


# --- the files --------------------------------------------------------------------------------------------------------------


def test_more_fewer_or_other_files_than_the_manifest_names_are_refused(
    good: Files, target: MemOS, tmp_path: Path
) -> None:
    name = first(good)
    fewer = {n: d for n, d in good.items() if n != name}
    refused(target, put(fewer, tmp_path / "fewer"), "lacks 1 files")
    extra = {**good, f"memories/0-{'a' * 16}.arrow": b"x"}
    refused(target, put(extra, tmp_path / "more"), "does not name")
    refused(target, put({**good, "evil.py": b"x"}, tmp_path / "evil"), "no file of a dump")
    changed = bytearray(good[name])
    changed[len(changed) // 2] ^= 1
    refused(target, put({**good, name: bytes(changed)}, tmp_path / "changed"), "hash")


def test_links_devices_and_pipes_in_a_folder_are_refused(good: Files, target: MemOS, tmp_path: Path) -> None:
    name = first(good)
    secret = tmp_path / "secret"
    secret.write_bytes(good[name])
    linked = put({n: d for n, d in good.items() if n != name}, tmp_path / "linked")
    (linked / name).parent.mkdir()
    (linked / name).symlink_to(secret)
    refused(target, linked, "link")
    folder = put({"memos.json": good["memos.json"]}, tmp_path / "folder")
    (folder / "memories").symlink_to(put(good, tmp_path / "elsewhere") / "memories")
    refused(target, folder, "link")
    pipe = put({n: d for n, d in good.items() if n != name}, tmp_path / "pipe")
    (pipe / name).parent.mkdir()
    os.mkfifo(pipe / name)
    refused(target, pipe, "pipe")


def test_an_archive_as_such_is_honest(good: Files, tmp_path: Path) -> None:
    """What is bent below is bent from something that loads."""
    with MemOS(tmp_path / "store", embed=WordsEmbedder(), actor="ann", clock=Clock()) as memory:
        assert memory.load(packed(good, tmp_path / "dump.zip")).added == 3


def bent(good: Files, path: Path, name: str, data: bytes = b"x", **fields: Any) -> Path:
    """An archive with one more member, of a name and with entries of its header as they should not be."""
    with zipfile.ZipFile(path, "w") as archive:
        for known, content in good.items():
            archive.writestr(known, content)
        info = zipfile.ZipInfo("x")
        info.filename = info.orig_filename = name
        for field, value in fields.items():
            setattr(info, field, value)
        archive.writestr(info, data)
    return path


MEMBERS: dict[str, tuple[dict[str, Any], str]] = {
    "path traversal": ({"name": "../evil"}, "traversal"),
    "path traversal below": ({"name": "memories/../../../evil"}, "traversal"),
    "absolute path": ({"name": "/tmp/evil"}, "absolute"),
    "drive letter": ({"name": "c:/evil"}, "absolute"),
    "another system's traversal": ({"name": "..\\evil"}, "traversal"),
    "another file": ({"name": "evil.sh"}, "no file of a dump"),
    "folder": ({"name": "memories/"}, "no file of a dump"),
    "link": ({"name": f"memories/0-{'a' * 16}.arrow", "external_attr": (stat.S_IFLNK | 0o777) << 16}, "link"),
    "device": ({"name": f"memories/0-{'a' * 16}.arrow", "external_attr": (stat.S_IFCHR | 0o777) << 16}, "device"),
    "pipe": ({"name": f"memories/0-{'a' * 16}.arrow", "external_attr": (stat.S_IFIFO | 0o777) << 16}, "pipe"),
    "bomb": (
        {"name": f"memories/0-{'a' * 16}.arrow", "data": bytes(50 << 20), "compress_type": zipfile.ZIP_DEFLATED}, "compressed",
    ),
    "one that nobody named": ({"name": f"memories/0-{'a' * 16}.arrow"}, "does not name"),
}  # fmt: skip


@pytest.mark.parametrize("member", MEMBERS)
def test_a_member_that_attacks_is_refused_before_it_is_read(
    member: str, good: Files, target: MemOS, tmp_path: Path
) -> None:
    options, reason = MEMBERS[member]
    refused(target, bent(good, tmp_path / "dump.zip", **options), reason)
    assert sorted(p.name for p in tmp_path.iterdir()) == ["dump.zip"]


@pytest.mark.filterwarnings("ignore:Duplicate name")
def test_a_member_twice_is_refused(good: Files, target: MemOS, tmp_path: Path) -> None:
    refused(target, bent(good, tmp_path / "dump.zip", "memos.json", good["memos.json"]), "twice")


def test_an_archive_that_is_none_or_was_cut_is_refused(good: Files, target: MemOS, tmp_path: Path) -> None:
    whole = packed(good, tmp_path / "whole.zip").read_bytes()
    for name, data in {"empty": b"", "text": b"hello" * 100, "cut": whole[:-30], "headless": whole[200:]}.items():
        path = tmp_path / f"{name}.zip"
        path.write_bytes(data)
        refused(target, path, "ZIP|read|stored|bytes|members")


def test_an_archive_that_says_it_has_a_million_members_is_not_listed(
    good: Files, target: MemOS, tmp_path: Path
) -> None:
    data = bytearray(packed(good, tmp_path / "dump.zip").read_bytes())
    at = data.rfind(b"PK\x05\x06")
    struct.pack_into("<HHI", data, at + 8, 0xFFFF, 0xFFFF, 0xFFFFFFFF)
    (tmp_path / "lies.zip").write_bytes(data)
    refused(target, tmp_path / "lies.zip", "members")
    record = struct.pack("<IQHHIIQQQQ", 0x06064B50, 44, 45, 45, 0, 0, 10**9, 10**9, 1 << 40, 0)
    locator = struct.pack("<IIQI", 0x07064B50, 0, at, 1)
    (tmp_path / "many.zip").write_bytes(bytes(data[:at]) + record + locator + bytes(data[at:]))
    refused(target, tmp_path / "many.zip", "1,000,000,000 members")


def test_members_that_share_their_bytes_are_refused(good: Files, target: MemOS, tmp_path: Path) -> None:
    """The bomb without compression: many names for the same bytes."""
    data = bytearray(packed(good, tmp_path / "dump.zip").read_bytes())
    start = struct.unpack_from("<I", data, data.rfind(b"PK\x05\x06") + 16)[0]
    struct.pack_into("<II", data, start + 20, 1 << 30, 1 << 30)
    (tmp_path / "shared.zip").write_bytes(data)
    refused(target, tmp_path / "shared.zip", "larger than it is")


# --- files of rows ------------------------------------------------------------------------------------------------------------


def rows(good: Files) -> pa.Table:
    return table(good[first(good)])


def dictionaries(found: pa.Table) -> pa.Table:
    return found.set_column(2, "text", found["text"].dictionary_encode())


def tens(value: float) -> list[list[float]]:
    return [[value] * 64] * 3


TABLES: dict[str, tuple[Callable[[pa.Table], bytes], str]] = {
    "no Arrow file": (lambda t: b"not arrow at all" * 9, "no Arrow"),
    "cut": (lambda t: arrow(t)[:400], "Arrow|rows"),
    "nothing": (lambda t: b"ARROW1\0\0", "Arrow"),
    "another column": (lambda t: arrow(t.rename_columns(["id", "version", "words", "record", "vector"])), "columns"),
    "a column fewer": (lambda t: arrow(t.drop_columns(["vector"])), "columns"),
    "a column more": (lambda t: arrow(t.append_column("run", t["text"])), "columns"),
    "columns of another type": (lambda t: arrow(t.set_column(1, "version", pa.array(["1"] * 3))), "columns"),
    "dictionaries, which may expand": (lambda t: arrow(dictionaries(t)), "columns|dictionar"),
    "compressed, which may expand": (
        lambda t: arrow(t, options=pa.ipc.IpcWriteOptions(compression="zstd")), "compressed"
    ),
    "a vector that is not finite": (
        lambda t: arrow(t.set_column(4, t.schema.field("vector"), pa.array(tens(float("nan")), t.schema.field("vector").type))), "finite",
    ),
    "a memory twice": (lambda t: arrow(pa.concat_tables([t.slice(0, 2), t.slice(0, 1)])), "twice"),
}  # fmt: skip


@pytest.mark.parametrize("lie", TABLES)
def test_a_file_of_rows_that_is_not_what_it_should_be_is_refused(
    lie: str, good: Files, target: MemOS, tmp_path: Path
) -> None:
    make, reason = TABLES[lie]
    refused(target, put(honest(good, first(good), make(rows(good)), 3), tmp_path / "dump"), reason)


def test_offsets_that_lead_out_of_a_file_are_refused(good: Files, tmp_path: Path) -> None:
    data = bytearray(good[first(good)])
    batch = data.index(b"ROW1") and data.index(json.dumps("tea with milk")[1:-1].encode())
    with MemOS(tmp_path / "store", embed=WordsEmbedder(), actor="ann", clock=Clock()) as target:
        for at in range(batch - 64, batch, 4):
            bent_data = bytearray(data)
            struct.pack_into("<i", bent_data, at, 2**31 - 1)
            try:
                target.load(put(honest(good, first(good), bytes(bent_data), 3), tmp_path / f"at{at}"))
            except DumpRefused:
                continue
            target.delete(("default",))  # those bytes were padding, or said nothing
        assert target.stats().memories == 0


# --- records ------------------------------------------------------------------------------------------------------------------

DERIVED = "11111111-1111-4111-8111-111111111111"
RECORDS: dict[str, tuple[Callable[[dict[str, Any]], object], str]] = {
    "an id that is none": (lambda r: r.update(id="../../evil"), "UUID"),
    "an id with SQL in it": (lambda r: r.update(id="' OR '1'='1"), "UUID"),
    "an id of another type": (lambda r: r.update(id=7), "UUID"),
    "a version of 0": (lambda r: r.update(version=0), "version"),
    "a version of true": (lambda r: r.update(version=True), "version"),
    "a version without end": (lambda r: r.update(version=10**30), "version"),
    "no owner": (lambda r: r.update(access={}), "owner"),
    "an owner that is everybody": (lambda r: r.update(access={"owner": "*"}), "everybody"),
    "an owner of another type": (lambda r: r.update(access={"owner": 5}), "actor"),
    "readers that are a string": (lambda r: r.update(access={"owner": "ann", "readers": ["", 3]}), "readers|strings"),
    "a namespace that is a string": (lambda r: r.update(namespace="default"), "namespace"),
    "a namespace of nothing": (lambda r: r.update(namespace=[]), "namespace"),
    "labels that are no strings": (lambda r: r.update(namespace=[1]), "namespace"),
    "a state that is none": (lambda r: r.update(state="eternal"), "eternal"),
    "a kind that it has not": (lambda r: r.update(kind="parametric"), "kind"),
    "a priority above all": (lambda r: r.update(priority=7), "priority"),
    "a priority of another type": (lambda r: r.update(priority="high"), "priority"),
    "tags of another type": (lambda r: r.update(tags="drink"), "tags"),
    "a time that is none": (lambda r: r.update(created_at="now"), "now"),
    "a time without a zone": (lambda r: r.update(created_at="2026-01-01T00:00:00"), "time"),
    "attributes that are no object": (lambda r: r.update(attributes=[1]), "mapping"),
    "a number without end": (lambda r: r.update(attributes={"n": 10**400}), "holds 1000"),
    "half a character": (lambda r: r.update(semantic_type="\ud800"), "surrogate|Unicode"),
    "an unknown entry": (lambda r: r.update(run="rm -rf"), "run"),
    "a later schema": (lambda r: r.update(schema=99), "schema"),
    "a schema of another type": (lambda r: r.update(schema="1"), "none"),
    "an origin that is none": (lambda r: r.update(origin={"kind": "magic"}), "none"),
    "an origin with more": (lambda r: r["origin"].update(run=1), "run"),
    "a position below 0": (lambda r: r["origin"].update(position=-1), "position"),
    "lineage that is none": (lambda r: r.update(lineage=[["x", 1, "derived"]]), "lineage"),
    "lineage of another relation": (lambda r: r.update(lineage=[[DERIVED, 1, "owns"]]), "lineage"),
    "made from itself": (lambda r: r.update(lineage=[[r["id"], 1, "derived"]]), "lineage"),
    "a payload of another kind": (lambda r: r.update(payload={"is": "program", "blob": "x"}), "program"),
    "a payload that leads out": (
        lambda r: r.update(kind="activation", lineage=[[DERIVED, 1, "derived"]], payload={"is": "kv", "blob": "../../x", "model": "m", "tokens": 1, "bytes": 1}),
        "tensors",
    ),
    "tensors that are not there": (
        lambda r: r.update(kind="activation", payload={"is": "steering", "blob": "a" * 64, "model": "m", "layer": 1, "bytes": 9}), "not in it",
    ),
    "what it came from is a word": (lambda r: r["origin"].update(provenance="abc"), "provenance"),
    "what it came from is no id": (lambda r: r["origin"].update(provenance=["../x"]), "provenance"),
    "limits that are no grants": (lambda r: r.update(access={"owner": "ann", "within": [3]}), "within|strings"),
    "an end without a zone": (lambda r: r.update(lifespan={"kept_until": "2026-01-01T00:00:00"}), "lifespan"),
    "a life of less than nothing": (lambda r: r.update(lifespan={"ttl": -5}), "lifespan"),
    "a life that is none": (lambda r: r.update(lifespan={"ttl": "long"}), "none"),
}  # fmt: skip


@pytest.mark.parametrize("lie", RECORDS)
def test_a_record_that_no_verb_would_have_made_is_refused(lie: str, good: Files, target: MemOS, tmp_path: Path) -> None:
    change, reason = RECORDS[lie]
    refused(target, put(with_record(good, change), tmp_path / "dump"), reason)


@pytest.mark.parametrize("record", ["", "null", "[]", "[" * 100_000, '"x"', "{}", '{"id": 1}', '"x"\n{}'])
def test_a_record_that_is_no_record_is_refused(record: str, good: Files, target: MemOS, tmp_path: Path) -> None:
    columns = rows(good).to_pydict()
    columns["record"][0] = record
    refused(
        target, put(honest(good, first(good), arrow(pa.table(columns, rows(good).schema))), tmp_path / "d"), "memory"
    )


def test_a_record_that_is_larger_than_any_is_refused(good: Files, target: MemOS, tmp_path: Path) -> None:
    refused(
        target,
        put(with_record(good, lambda r: r.update(attributes={"x": "x" * (17 << 20)})), tmp_path / "d"),
        "more than",
    )


def test_attributes_that_are_nested_without_end_are_refused(good: Files, target: MemOS, tmp_path: Path) -> None:
    deep: Any = 1
    for _ in range(70):
        deep = [deep]
    refused(target, put(with_record(good, lambda r: r.update(attributes={"x": deep})), tmp_path / "d"), "nested")


def test_history_of_what_is_not_there_or_is_not_before_it_is_refused(
    good: Files, target: MemOS, tmp_path: Path
) -> None:
    def claim(**fields: Any) -> Files:
        return with_record(good, lambda r: r.update(fields), "history")

    refused(target, put(claim(id=DERIVED), tmp_path / "a"), "before")
    refused(target, put(claim(version=2), tmp_path / "b"), "before")
    refused(target, put(claim(access={"owner": "eve"}), tmp_path / "c"), "before")
    name = first(good, "history")
    twice = pa.concat_tables([table(good[name])] * 2)
    refused(target, put(honest(good, name, arrow(twice), 2), tmp_path / "d"), "twice")


# --- claims --------------------------------------------------------------------------------------------------------------------


@pytest.fixture
def family(tmp_path: Path) -> Files:
    """The files of a dump of a source and of what was made of it, in that order of ids."""
    with MemOS(tmp_path / "family", embed=WordsEmbedder(), actor="ann", clock=Clock()) as memory:
        [source] = memory.add("private tea", access=Access("ann", frozenset({"bob"})))
        memory.add("another", access=Access("ann", frozenset({"bob"})))
        memory.dump(tmp_path / "pair")
        assert source.version == 1
    return files_of(tmp_path / "pair")


def ids(files: Files) -> list[str]:
    return table(files[first(files)])["id"].to_pylist()


def claims(files: Files, **fields: Any) -> Files:
    """With the first memory claiming to be made from the second."""
    return with_record(files, lambda r: r.update({"lineage": [[ids(files)[1], 1, "derived"]], **fields}))


def test_a_memory_may_not_claim_readers_that_its_sources_do_not_have(
    family: Files, target: MemOS, tmp_path: Path
) -> None:
    for access in ({"owner": "ann", "readers": ["*"]}, {"owner": "ann", "writers": ["eve"]}, {"owner": "eve"}):
        refused(
            target, put(claims(family, access=access), tmp_path / sha256(str(access).encode()).hexdigest()), "readers"
        )


def test_a_memory_may_not_claim_to_be_made_from_a_version_that_never_was(
    family: Files, target: MemOS, tmp_path: Path
) -> None:
    refused(target, put(claims(family, lineage=[[ids(family)[1], 5, "derived"]]), tmp_path / "d"), "version 5")


def test_memories_may_not_claim_to_be_made_from_each_other(family: Files, target: MemOS, tmp_path: Path) -> None:
    name, found = first(family), table(family[first(family)])
    columns = found.to_pydict()
    for i in range(2):
        record = json.loads(columns["record"][i])
        record["lineage"] = [[columns["id"][1 - i], 1, "derived"]]
        columns["record"][i] = json.dumps(record)
    bent_files = honest(family, name, arrow(pa.table(columns, schema=found.schema)))
    refused(target, put(bent_files, tmp_path / "d"), "from itself")


def test_a_claim_to_be_made_from_what_is_somebody_elses_here_is_cut_as_if_it_were_not_here(
    family: Files, tmp_path: Path
) -> None:
    """Else its owner would learn when that is changed or deleted; and by the difference, that it is here."""
    with MemOS(tmp_path / "store", embed=WordsEmbedder(), actor="ann", clock=Clock()) as memory:
        [secret] = memory.add("eve's secret", actor="eve")
        [shown] = memory.add("shown to ann", actor="eve", access=Access("eve", frozenset({"ann"})))
        results = []
        for at, id in enumerate((secret.id, DERIVED)):
            files = with_record(
                family, lambda r, id=id: r.update(lineage=[[id, 1, "derived"]], access={"owner": "ann"})
            )
            done = memory.load(put(files, tmp_path / f"d{at}"))
            results.append((done.added, done.links_cut, done.left_out))
            [made] = [h.cube for h in memory.search("private tea another", k=9) if h.cube.id == ids(files)[0]]
            assert made.lineage == ()
            memory.delete(("default",))
        assert results[0] == results[1] == (2, 1, {})
        files = with_record(family, lambda r: r.update(lineage=[[shown.id, 1, "derived"]], access={"owner": "ann"}))
        assert memory.load(put(files, tmp_path / "ok")).links_cut == 0
        assert memory.get(ids(files)[0]).lineage == (Link(shown.id, 1),)
        assert manifest(files)["format"] == "memos-dump"
