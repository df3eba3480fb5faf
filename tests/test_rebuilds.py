"""What is being learned goes with what it is learned of, whoever is at it and whenever that ends; and what is learned is not lost."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any

import pytest

from memos_core import Conflict, Kind, LocalModel, MemOS
from memos_core.distillation import Distillation
from memos_core.files import LocalFiles
from memos_core.rebuilds import UnderWay
from tests.networks import random_model
from tests.test_adapters import FAST, told


@pytest.fixture(scope="module")
def model() -> LocalModel:
    return random_model(short=True)


@pytest.fixture
def memory(open_store: Callable[..., MemOS], model: LocalModel) -> MemOS:
    return open_store(model=model, distillation=FAST)


def there(folder: Path) -> set[str]:
    return {file.name for file in (folder / "distilling").iterdir()}


class EndedMeanwhile(LocalFiles):
    """Files whose distillation is ended by somebody else between the look whether it goes on and the writing."""

    def local(self, name: str) -> Path:
        if name.endswith(".safetensors"):
            UnderWay(LocalFiles(self._folder, fsync=False)).abandon(["a"])
        return super().local(name)


@pytest.mark.parametrize("files", [LocalFiles, EndedMeanwhile])
def test_what_was_ended_is_not_written_any_more(tmp_path: Path, files: type[LocalFiles]) -> None:
    under_way = UnderWay(files(tmp_path, fsync=False))
    checkpoint = under_way.begin("run", ["a", "b"])
    if files is LocalFiles:
        checkpoint.write(b"learned")
        assert there(tmp_path) == {"run.json", "run.safetensors"}
        assert under_way.abandon(["b"]) == ["run"]
    with pytest.raises(Conflict, match="deleted"):
        checkpoint.write(b"learned of it")
    assert there(tmp_path) == set()
    assert checkpoint.read() is None


def test_two_at_the_same_write_whole_files(tmp_path: Path) -> None:
    first, second = (UnderWay(LocalFiles(tmp_path, fsync=False)).begin("run", ["a"]) for _ in range(2))
    first.write(b"first")
    second.write(b"second")
    assert first.read() == second.read() == b"second"
    assert there(tmp_path) == {"run.json", "run.safetensors"}


@pytest.mark.parametrize("when", ["tick", "purge", "delete"])
def test_what_a_killed_process_left_is_swept(memory: MemOS, tmp_path: Path, when: str) -> None:
    folder = tmp_path / "store" / "distilling"
    UnderWay(LocalFiles(tmp_path / "store", fsync=False)).begin("lives", ["another"]).write(b"learned")
    (folder / "lives.1.new").write_bytes(b"half of what was learn")
    for name in ("gone.safetensors", "gone.1.new"):
        (folder / name).write_bytes(b"learned of what was deleted")
    [cube] = told(memory, 1)
    {"tick": memory.tick, "purge": memory.purge, "delete": lambda: memory.delete(cube.id)}[when]()
    assert there(tmp_path / "store") == {"lives.json", "lives.safetensors", "lives.1.new"}


def test_a_memory_that_is_deleted_while_it_is_learned_leaves_nothing(
    memory: MemOS, open_store: Callable[..., MemOS], tmp_path: Path
) -> None:
    cubes, other = told(memory), open_store()
    steps: list[int] = []

    def deleting(now: Any) -> None:
        steps.append(now.step)
        if now.step == 1:
            other.delete(cubes[0].id)
            assert there(tmp_path / "store") == set()

    how = replace(FAST, recipe=replace(FAST.recipe, steps=9), progress=deleting)
    with pytest.raises(Conflict):
        memory.convert([c.id for c in cubes], Kind.PARAMETRIC, distillation=how)
    assert steps == [1]  # the next check noticed
    assert there(tmp_path / "store") == set()


def test_of_two_at_once_the_slower_gets_what_the_quicker_made(
    memory: MemOS, open_store: Callable[..., MemOS], tmp_path: Path
) -> None:
    other, ids = open_store(model=random_model(short=True), distillation=FAST), [c.id for c in told(memory)]
    quicker = []

    def waiting(now: Any) -> None:
        if now.step == 1:
            quicker.extend(other.convert(ids, Kind.PARAMETRIC))

    assert memory.convert(ids, Kind.PARAMETRIC, distillation=replace(FAST, progress=waiting)) == quicker
    assert there(tmp_path / "store") == set()


@dataclass(frozen=True)
class KilledInTheGate(Distillation):
    def verified(self, *args: Any, **options: Any) -> Any:
        raise KeyboardInterrupt


def test_a_training_that_is_killed_in_its_gate_is_not_lost(memory: MemOS) -> None:
    ids, steps = [c.id for c in told(memory)], list[int]()
    numbers = (FAST.phrasing, FAST.recipe, FAST.plan, FAST.gate)
    with pytest.raises(KeyboardInterrupt):
        memory.convert(ids, Kind.PARAMETRIC, distillation=KilledInTheGate(*numbers))
    counting = replace(FAST, progress=lambda now: steps.append(now.step))
    assert memory.convert(ids, Kind.PARAMETRIC, distillation=counting)[0].attributes["passed"]
    assert steps == []
