"""Workers: what the plan wants is done once, whoever is killed, stopped or too late."""

from __future__ import annotations

import signal
import subprocess
import sys
import threading
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest

from memos_core import InvalidArgument, Kind, MemCube, MemOS, StoreUnavailable
from memos_core.cli import main as memosctl
from memos_core.workers import Opening, Ticked, work
from tests import working
from tests.buckets import serving
from tests.test_adapters import FAST
from tests.words import WordsEmbedder

ROOT = Path(__file__).parent.parent


def process(path: Path, marker: Path | str) -> subprocess.Popen[str]:
    return subprocess.Popen(
        [sys.executable, "-m", "tests.working", str(path), str(marker)], cwd=ROOT, stdout=subprocess.PIPE, text=True
    )


def line(process: subprocess.Popen[str]) -> str:
    assert process.stdout is not None
    return process.stdout.readline().strip()


def until(done: Callable[[Ticked], bool]) -> dict[str, Any]:
    """Arguments of `work` that end it after a tick."""
    stop = threading.Event()
    return {"stop": stop, "told": lambda tick: stop.set() if done(tick) else None, "every": 0.1}


def passages(path: Path) -> tuple[list[MemCube], int]:
    """Those that are kept in a store, and how often one was made."""
    with MemOS(path, embed=WordsEmbedder(), actor="ann") as memory:
        rows = memory._vault.rows("kind = 'activation' AND state = 'activated'")
        return [r.cube for r in rows], len(memory.log(verb="convert", limit=1_000))


def held(path: Path) -> int:
    """Leases that were taken and not given back, lapsed or not."""
    with MemOS(path, embed=WordsEmbedder(), actor="ann") as memory:
        return int(memory._vault.db.table("leases").count_rows("holder != ''"))


def test_a_worker_does_what_the_plan_wants_and_ends_when_it_is_told(tmp_path: Path) -> None:
    ids = working.wanted(str(tmp_path / "store"))
    ticks: list[Ticked] = []
    stop = threading.Event()

    def told(tick: Ticked) -> None:
        ticks.append(tick)
        if not tick.done:
            stop.set()

    worked = work(working.opening(str(tmp_path / "store")), every=0.1, stop=stop, told=told)
    done = [d for t in ticks for d in t.done]
    assert sum(d.startswith("build activation of ") for d in done) == 1
    assert (worked.ticks, worked.done, worked.failed, worked.restarts) == (len(ticks), len(done), 0, 0)
    [cube], made = passages(tmp_path / "store")
    assert {link.id for link in cube.lineage} == set(ids)
    assert made == 1


@pytest.mark.timeout(120)
def test_what_a_killed_worker_was_building_is_built_by_another_once(tmp_path: Path) -> None:
    ids = working.wanted(str(tmp_path / "store"))
    killed = process(tmp_path / "store", tmp_path / "marker")
    try:
        assert line(killed) == "ready"
        while not (tmp_path / "marker").exists() or not (tmp_path / "marker").read_text():
            assert killed.poll() is None
    finally:
        killed.kill()
        killed.communicate()
    assert held(tmp_path / "store") == 1
    worked = work(working.opening(str(tmp_path / "store"), tmp_path / "marker"), **until(lambda tick: bool(tick.done)))
    assert worked.ticks >= 1
    [cube], made = passages(tmp_path / "store")
    assert {link.id for link in cube.lineage} == set(ids)
    assert made == 1
    assert held(tmp_path / "store") == 0


@pytest.mark.timeout(120)
def test_a_worker_that_is_told_to_end_gives_back_what_it_learns_and_ends_well(
    tmp_path: Path, open_store: Callable[..., MemOS]
) -> None:
    with open_store(model=working.random_model(), distillation=FAST, clock=working.now) as memory:
        ids = [memory.add(f"The colour of house {i} is number {i * 7}.")[0].id for i in range(3)]
        memory.convert(ids, Kind.PARAMETRIC)
        memory.delete(ids[0])  # so an adapter of the others is wanted
    worker = process(tmp_path / "store", "")
    assert [line(worker), line(worker)] == ["ready", "learning"]
    worker.send_signal(signal.SIGTERM)
    said, _ = worker.communicate()
    assert worker.returncode == 0
    assert said.splitlines()[-1] == "ended after 1"
    memory = open_store(model=working.random_model(), clock=working.now)
    assert memory._scheduler.leases.under_way() == []
    assert any(n.endswith(".safetensors") for n in memory._vault.db.site.files.listed("distilling"))


def test_a_worker_that_cannot_reach_its_store_gives_up_after_a_while(tmp_path: Path) -> None:
    with serving() as mine:
        path = mine.url(tmp_path)
        MemOS(path, storage_options=mine.options, embed=WordsEmbedder()).close()
        ticks: list[Ticked] = []

        def told(tick: Ticked) -> None:
            ticks.append(tick)
            mine.tell("down")

        with pytest.raises(StoreUnavailable, match="s3://memories/"):
            work(Opening(path, storage_options=mine.options, embed=WordsEmbedder(), actor="ann"), every=0.01, told=told)
    assert len(ticks) == 1


@pytest.mark.parametrize("every", [0, -1, "often", None, float("inf")])
def test_a_span_that_is_none_is_refused_before_anything_is_opened(every: Any, tmp_path: Path) -> None:
    with pytest.raises(InvalidArgument, match="every"):
        work(Opening(str(tmp_path / "store")), every=every)
    assert not (tmp_path / "store").exists()


def test_the_shell_says_that_replicas_are_for_ray(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    assert memosctl(["worker", str(tmp_path), "--replicas", "3"]) == 1
    assert "for --ray" in capsys.readouterr().err


def test_the_shell_holds_a_worker_to_the_budget_that_it_is_given(
    tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    MemOS(tmp_path / "store", embed=WordsEmbedder()).close()
    assert memosctl(["worker", str(tmp_path / "store"), "--kv-disk-bytes", "-1"]) == 1
    assert "Policy.kv_disk_bytes" in capsys.readouterr().err


def test_the_shell_begins_no_worker_where_there_is_no_store(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    assert memosctl(["worker", str(tmp_path / "none")]) == 1
    assert "holds no store" in capsys.readouterr().err
    assert not (tmp_path / "none").exists()
