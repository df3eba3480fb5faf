"""Keys, values, steering vectors and adapters that travel: the same on return, left out or distilled anew for another model, never bent."""

from __future__ import annotations

import json
from collections.abc import Callable
from hashlib import sha256
from pathlib import Path
from typing import Any

import pytest
from safetensors.torch import load_file

from memos_core import (
    Access,
    Adapter,
    DumpRefused,
    Kind,
    KVCache,
    LocalModel,
    MemCube,
    MemOS,
    Origin,
    SourceKind,
    State,
    Text,
)
from memos_core.steering import extract, to_bytes
from tests.conftest import Clock
from tests.dumps import Files, arrow, files_of, honest, put, table, with_manifest, with_record
from tests.networks import random_model
from tests.test_adapters import FAST
from tests.test_parametric import saved, some_lora
from tests.test_steering import PAIRS

Opener = Callable[..., MemOS]
QUESTION = "Which colour does house 3 have?"


@pytest.fixture(scope="module")
def model() -> LocalModel:
    return random_model()


@pytest.fixture
def memory(open_store: Opener, model: LocalModel) -> MemOS:
    return open_store(model=model, distillation=FAST)


def told(memory: MemOS, count: int = 3) -> list[MemCube]:
    return [memory.add(f"The colour of house {i} is number {i * 7}.")[0] for i in range(count)]


def converted(memory: MemOS, to: Kind) -> MemCube:
    [cube] = memory.convert([c.id for c in told(memory)], to)
    return cube


def test_keys_and_values_come_back_as_they_were_and_are_opened(
    memory: MemOS, open_store: Opener, model: LocalModel, tmp_path: Path
) -> None:
    cube = converted(memory, Kind.ACTIVATION)
    assert isinstance(cube.payload, KVCache)
    before = memory.generate(QUESTION, max_tokens=6)
    assert memory.dump(tmp_path / "dump").payloads == 1
    other = open_store(path=tmp_path / "other", model=random_model())
    done = other.load(tmp_path / "dump")
    assert (done.added, done.payloads) == (4, 1)
    assert other.get(cube.id) == memory.get(cube.id)
    name = cube.payload.blob
    assert (tmp_path / "other" / "blobs" / name).read_bytes() == (tmp_path / "store" / "blobs" / name).read_bytes()
    after = other.generate(QUESTION, max_tokens=6)
    assert (after.text, after.usage.cached) == (before.text, cube.payload.tokens)


def test_tensors_lie_in_a_dump_as_safetensors_that_anybody_reads(memory: MemOS, tmp_path: Path) -> None:
    cube = converted(memory, Kind.PARAMETRIC)
    assert isinstance(cube.payload, Adapter)
    memory.dump(tmp_path / "dump")
    folder = tmp_path / "dump" / "payloads" / cube.payload.blob
    tensors = load_file(folder / "0.safetensors")
    assert {t.removeprefix("base_model.model.").partition(".lora_")[0] for t in tensors} == set(cube.payload.targets)
    assert json.loads((folder / "manifest.json").read_text())["model"] == cube.payload.model


def test_an_adapter_comes_back_and_is_chosen(
    memory: MemOS, open_store: Opener, model: LocalModel, tmp_path: Path
) -> None:
    cube = converted(memory, Kind.PARAMETRIC)
    memory.dump(tmp_path / "dump.zip")
    other = open_store(path=tmp_path / "other", model=model, distillation=FAST)
    assert other.load(tmp_path / "dump.zip").payloads == 1
    assert other.get(cube.id) == memory.get(cube.id)
    known = {c.id for c in other.generate(QUESTION, max_tokens=2).brief.known}
    assert known == {link.id for link in cube.lineage}


def test_a_steering_vector_comes_back(
    memory: MemOS, open_store: Opener, model: LocalModel, clock: Clock, tmp_path: Path
) -> None:
    vector, now = extract(model, PAIRS), clock()
    draft = MemCube(
        id="", version=1, kind=Kind.ACTIVATION, state=State.GENERATED, namespace=("default",), payload=Text(""),
        origin=Origin(SourceKind.DERIVATION, stored_at=now), access=Access("ann"), created_at=now, updated_at=now, key="calm",
    )  # fmt: skip
    cube = memory._tiers.keep_vector(draft, vector)
    memory.dump(tmp_path / "dump")
    other = open_store(path=tmp_path / "other")
    other.load(tmp_path / "dump")
    assert other.get(cube.id) == memory.get(cube.id)
    assert to_bytes(other._tiers.vector(cube)) == to_bytes(vector)


def test_keys_and_values_for_another_model_are_left_out_and_said_so(
    memory: MemOS, open_store: Opener, tmp_path: Path
) -> None:
    converted(memory, Kind.ACTIVATION)
    memory.dump(tmp_path / "dump")
    other = open_store(path=tmp_path / "other", model=random_model(seed=1))
    done = other.load(tmp_path / "dump")
    assert (done.added, done.payloads, done.left_out) == (3, 0, {"tensors_of_another_model": 1})
    assert not (tmp_path / "other" / "blobs").exists()
    nobody = open_store(
        path=tmp_path / "nobody"
    )  # without a model: it is not known of what use they are, and they are kept
    assert nobody.load(tmp_path / "dump").payloads == 1


def test_an_adapter_for_another_model_is_distilled_anew_from_its_sources(
    memory: MemOS, open_store: Opener, tmp_path: Path
) -> None:
    cube = converted(memory, Kind.PARAMETRIC)
    memory.dump(tmp_path / "dump")
    theirs = random_model(seed=1)
    other = open_store(path=tmp_path / "other", model=theirs, distillation=FAST)
    done = other.load(tmp_path / "dump")
    assert (done.added, done.queued, done.refused) == (3, (cube.id,), ())
    assert done.left_out == {"adapters_of_another_model": 1}
    other.tick()
    [made] = [r.cube for r in other._vault.rows("kind = 'parametric'")]
    assert isinstance(made.payload, Adapter)
    assert made.payload.model == theirs.fingerprint
    assert made.lineage == cube.lineage


def test_an_adapter_for_another_model_without_its_sources_is_refused_with_the_reason(
    memory: MemOS, open_store: Opener, model: LocalModel, tmp_path: Path
) -> None:
    cube = converted(memory, Kind.PARAMETRIC)
    adopted = memory.adopt(saved(tmp_path / "peft", some_lora(model, 1)))
    memory.dump(tmp_path / "dump", ids=[cube.id, adopted.id])
    other = open_store(path=tmp_path / "other", model=random_model(seed=1), distillation=FAST)
    done = other.load(tmp_path / "dump")
    assert (done.added, done.queued) == (0, ())
    assert {id: "did not come along" in why for id, why in done.refused} == {cube.id: True, adopted.id: False}


def test_keys_and_values_without_their_sources_are_left_out(memory: MemOS, open_store: Opener, tmp_path: Path) -> None:
    cube = converted(memory, Kind.ACTIVATION)
    memory.dump(tmp_path / "dump", ids=[cube.id])
    done = open_store(path=tmp_path / "other").load(tmp_path / "dump")
    assert (done.added, done.left_out) == (0, {"tensors_without_sources": 1})


def test_a_redacted_dump_holds_no_tensors(memory: MemOS, tmp_path: Path) -> None:
    converted(memory, Kind.ACTIVATION)
    done = memory.dump(tmp_path / "dump", redact=lambda text: text.replace("house", "[place]"))
    assert (done.memories, done.payloads, done.left_out) == (3, 0, {"other_forms_redacted": 1})
    assert not (tmp_path / "dump" / "payloads").exists()


def test_text_alone_may_be_taken_from_a_dump(memory: MemOS, open_store: Opener, tmp_path: Path) -> None:
    converted(memory, Kind.ACTIVATION)
    memory.dump(tmp_path / "dump")
    done = open_store(path=tmp_path / "other").load(tmp_path / "dump", kinds=["plaintext"])
    assert (done.added, done.payloads, done.left_out) == (3, 0, {"left_out_activation": 1})


# --- bent -----------------------------------------------------------------------------------------------------------------------


def bent(files: Files, name: str, data: bytes) -> Files:
    """With another payload file, and a manifest that says so."""

    def change(said: Any) -> None:
        next(f for f in said["files"] if f["path"] == name).update(bytes=len(data), sha256=sha256(data).hexdigest())

    return with_manifest({**files, name: data}, change)


@pytest.fixture
def dumped(memory: MemOS, tmp_path: Path) -> Files:
    converted(memory, Kind.ACTIVATION)
    memory.dump(tmp_path / "dump")
    return files_of(tmp_path / "dump")


def payload(files: Files, end: str) -> str:
    return next(n for n in files if n.startswith("payloads") and n.endswith(end))


def test_tensors_that_are_not_those_of_their_manifest_are_refused(
    dumped: Files, open_store: Opener, tmp_path: Path
) -> None:
    other = open_store(path=tmp_path / "other")
    name, head = payload(dumped, "0.safetensors"), payload(dumped, "manifest.json")
    said = json.loads(dumped[head])
    lies = {
        "other tensors": (bent(dumped, name, dumped[name][:-1] + b"\x00"), "those that its manifest names"),
        "cut": (bent(dumped, name, dumped[name][:100]), "those that its manifest names"),
        "another model": (bent(dumped, head, json.dumps({**said, "model": "other"}).encode()), "hash of"),
        "no manifest": (bent(dumped, head, b"{}"), "none that this version reads"),
        "pickle": (bent(dumped, name, b"\x80\x04\x95" + dumped[name]), "those that its manifest names"),
    }
    for lie, (files, reason) in lies.items():
        with pytest.raises(DumpRefused, match=reason):
            other.load(put(files, tmp_path / lie))
    assert other.stats().memories == 0
    assert not (tmp_path / "other" / "blobs").exists()


@pytest.mark.parametrize(
    ("change", "reason"),
    [
        ({"model": "another"}, "another model's"), ({"tokens": 1}, "shapes"), ({"bytes": 5}, "5 bytes"),
        ({"blob": "f" * 64}, "has the payload|not in it"),
    ],
)  # fmt: skip
def test_a_record_that_lies_about_its_tensors_is_refused(
    change: dict[str, Any], reason: str, memory: MemOS, open_store: Opener, tmp_path: Path
) -> None:
    cube = converted(memory, Kind.ACTIVATION)
    memory.dump(tmp_path / "dump")
    files = files_of(tmp_path / "dump")
    name = next(n for n in files if n.startswith("memories"))
    rows = table(files[name])
    order = sorted(range(4), key=lambda i: rows["id"][i].as_py() != cube.id)
    first = honest(files, name, arrow(rows.take(order)))
    lie = with_record(first, lambda r: r["payload"].update(change))
    with pytest.raises(DumpRefused, match=reason):
        open_store(path=tmp_path / "other").load(put(lie, tmp_path / "lie"))


def test_the_id_of_what_was_said_stays_in_every_form_and_over_a_dump_to_somebody_else(
    memory: MemOS, open_store: Opener, tmp_path: Path
) -> None:
    cubes = told(memory)
    said = tuple(c.id for c in cubes)
    [kept] = memory.convert(said, Kind.ACTIVATION)
    [learnt] = memory.convert(said, Kind.PARAMETRIC)
    for cube in (kept, learnt, memory.get(kept.id), memory.get(learnt.id)):
        assert sorted(cube.provenance) == sorted(said)
    for id in said:
        assert {c.id for c in memory.follow(id)} == {id, kept.id, learnt.id}
    memory.dump(tmp_path / "dump")
    for number, actor in enumerate(("ann", "bob")):
        other = open_store(path=tmp_path / actor, model=random_model(), actor=actor)
        assert other.load(tmp_path / "dump").added == 5
        forms = {c.kind: c for c in (r.cube for r in other._vault.rows("kind != 'plaintext'"))}
        texts = [r.cube for r in other._vault.rows("kind = 'plaintext'")]
        assert sorted(c.provenance[0] for c in texts) == sorted(said)
        assert {c.id for c in texts}.isdisjoint(said) == bool(number)  # another's are kept under ids of their own
        for kind in (Kind.ACTIVATION, Kind.PARAMETRIC):
            assert sorted(forms[kind].provenance) == sorted(said)
            assert {c.id for c in other.follow(texts[0].id)} >= {forms[kind].id}
