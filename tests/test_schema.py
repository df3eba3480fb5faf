"""A store that another version wrote, or that is not there whole, is refused at opening, and what it lacks is named."""

from __future__ import annotations

import json
import shutil
import zlib
from collections.abc import Callable
from pathlib import Path
from typing import Any

import lancedb
import pyarrow as pa
import pytest

from memos_core import Damaged, MemOS, SchemaMismatch
from memos_core.tables import LATER
from tests.test_damage import opened

MADE = ("history", "events", "usage")


@pytest.fixture(scope="module")
def healthy(tmp_path_factory: pytest.TempPathFactory) -> Path:
    path = tmp_path_factory.mktemp("healthy") / "store"
    with opened(path) as memory:
        [cube] = memory.add("I take my tea with lemon.")
        memory.update(cube.id, "I take my tea with milk.")
        with memory._scheduler.leases.held("work"):
            memory._upkeep.uses.remember("planned_at", 1.0)
            memory._vault.db.later("uses")
    return path


@pytest.fixture
def store(healthy: Path, tmp_path: Path) -> Path:
    return shutil.copytree(healthy, tmp_path / "store")


def table(store: Path, name: str) -> Any:
    return lancedb.connect(store).open_table(name)


def put_manifest(store: Path, change: Callable[[dict[str, Any]], object]) -> None:
    """Another manifest, with a checksum that fits."""
    meta = table(store, "meta")
    said = json.loads(meta.search().limit(1).to_list()[0]["value"].partition(" ")[2])
    change(said)
    text = json.dumps(said)
    meta.update(where="true", values={"value": f"{zlib.crc32(text.encode())} {text}"})


@pytest.mark.parametrize("name", MADE)
def test_a_store_without_one_of_the_tables_is_refused_by_its_name(store: Path, name: str) -> None:
    shutil.rmtree(store / f"{name}.lance")
    with pytest.raises(SchemaMismatch, match=rf"{store} .*table {name}\b"):
        opened(store)
    assert not (store / f"{name}.lance").exists()  # and nothing is put in its place


def test_a_store_without_several_tables_names_them_all(store: Path) -> None:
    for name in ("history", "usage"):
        shutil.rmtree(store / f"{name}.lance")
    with pytest.raises(SchemaMismatch, match="history, usage"):
        opened(store)


def test_memories_that_the_manifest_names_and_that_are_gone_are_damage(store: Path) -> None:
    shutil.rmtree(store / "cubes.lance")
    with pytest.raises(Damaged, match=rf"{store}/cubes\.lance is missing"):
        opened(store)


@pytest.mark.parametrize("name", ["cubes", "meta", *MADE, *LATER])
def test_a_table_without_one_of_its_columns_is_refused_by_the_columns_name(store: Path, name: str) -> None:
    column = table(store, name).schema.names[-1]
    if name == "events":  # the last one, which opening adds, is that of the chain: another test's
        column = "number"
    table(store, name).drop_columns([column])
    with pytest.raises(SchemaMismatch, match=rf"{name}\.lance has no column {column}"):
        opened(store)


@pytest.mark.parametrize("name", ["cubes", "meta", *MADE, *LATER])
def test_a_table_with_an_unknown_column_is_refused_by_the_columns_name(store: Path, name: str) -> None:
    table(store, name).add_columns({"mood": "cast('good' as string)"})
    with pytest.raises(SchemaMismatch, match=rf"{name}\.lance has an unknown column mood"):
        opened(store)


def test_a_column_of_another_type_is_refused_by_its_name(store: Path) -> None:
    shutil.rmtree(store / "usage.lance")
    columns = pa.schema([("id", pa.string()), ("reads", pa.string()), ("last_read_at", pa.timestamp("us", "UTC"))])
    lancedb.connect(store).create_table("usage", schema=columns)
    with pytest.raises(SchemaMismatch, match=r"another column reads \(string, not int64\)"):
        opened(store)


@pytest.mark.parametrize("schema", [99, 0, "1", None])
def test_a_manifest_of_another_schema_is_refused_by_its_number(store: Path, schema: object) -> None:
    put_manifest(store, lambda said: said.update(schema=schema))
    with pytest.raises(SchemaMismatch, match=rf"schema {schema}, this version reads"):
        opened(store)


@pytest.mark.parametrize("lacking", ["probe", "dimension", "embedder"])
def test_a_manifest_that_lacks_a_field_is_refused_by_its_name(store: Path, lacking: str) -> None:
    put_manifest(store, lambda said: said.pop(lacking))
    with pytest.raises(SchemaMismatch, match=f"lacks {lacking}"):
        opened(store)


def test_a_manifest_with_an_unknown_field_is_refused_by_its_name(store: Path) -> None:
    put_manifest(store, lambda said: said.update(mood="good"))
    with pytest.raises(SchemaMismatch, match="holds mood"):
        opened(store)


@pytest.mark.parametrize("kept", ["events", "history", "cubes"])
def test_a_part_of_a_store_is_not_begun_anew(store: Path, tmp_path: Path, kept: str) -> None:
    """What was copied of a store without its manifest."""
    part = tmp_path / "part"
    shutil.copytree(store / f"{kept}.lance", part / f"{kept}.lance")
    with pytest.raises(Damaged, match=rf"meta\.lance is missing, though {kept}\.lance"):
        opened(part)
    assert not (part / "meta.lance").exists()


def test_a_store_that_a_killed_process_began_is_finished(tmp_path: Path) -> None:
    with opened(tmp_path / "store"):
        pass
    shutil.rmtree(tmp_path / "store" / "meta.lance")
    shutil.rmtree(tmp_path / "store" / "usage.lance")
    with opened(tmp_path / "store") as memory:
        assert memory.add("I take my tea with lemon.")


def test_a_whole_copy_opens(store: Path) -> None:
    with opened(store) as memory:
        assert isinstance(memory, MemOS)
        assert memory.search("tea")[0].cube.text == "I take my tea with milk."
