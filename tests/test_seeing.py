"""Looking at the scheduler: why, top, stats, the report, metrics; each shows an actor what is his."""

from __future__ import annotations

import json
import re
from collections.abc import Callable
from html.parser import HTMLParser
from pathlib import Path
from typing import Any

import pytest

from memos_core import MemCube, MemOS, NotFound, Rates
from memos_core.cli import main
from memos_core.looking import page, saved, top_text, why_text
from memos_core.reports import Counted, Process
from memos_core.telemetry import curve
from tests.conftest import Clock
from tests.networks import random_model
from tests.test_tick import SLOW, ask, kept, told


@pytest.fixture
def seen(open_store: Callable[..., MemOS], clock: Clock) -> tuple[MemOS, list[MemCube]]:
    """A store of ann's whose scheduler has made her a passage, and her memories."""
    memory = open_store(model=random_model(), rates=SLOW)
    cubes = told(memory)
    ask(memory, clock)
    memory.tick()
    clock.forward(minutes=1)
    memory.tick()
    return memory, cubes


def test_why_tells_the_decisions_about_a_memory_and_how_it_stands(seen: tuple[MemOS, list[MemCube]]) -> None:
    memory, cubes = seen
    [passage] = kept(memory)
    why = memory.why(cubes[0].id)
    assert [(e.verb, e.subject) for e in why.decisions if e.verb == "schedule"] == [("schedule", passage.id)]
    [standing] = why.standings
    assert standing.namespace == ()
    assert standing.share == pytest.approx(1.0)
    assert standing.kept
    assert 0 < (standing.needed or 0) < 1
    words = why_text(why)
    assert "wanted by 100% of" in words
    assert "build activation: 3 reads without it have cost" in words
    assert {e.subject for e in memory.why(passage.id).decisions} >= {passage.id}


def test_why_and_the_overview_show_nobody_elses(seen: tuple[MemOS, list[MemCube]]) -> None:
    memory, cubes = seen
    with pytest.raises(NotFound):
        memory.why(cubes[0].id, actor="bob")
    memory.share(cubes[0].id, readers=["bob"])
    theirs = memory.why(cubes[0].id, actor="bob")
    assert theirs.standings == ()
    assert not [e for e in theirs.decisions if e.subject != cubes[0].id]
    overview = memory.overview(actor="bob")
    assert {kind: count for kind, count, _ in overview.forms} == {"plaintext": 1}
    assert overview.warm == ()
    assert not [e for e in overview.decisions if e.verb == "schedule"]
    assert cubes[1].id not in top_text(overview) + page(overview, "store")


def test_the_overview_has_the_tiers_against_their_budgets_and_what_was_answered(
    seen: tuple[MemOS, list[MemCube]],
) -> None:
    memory, cubes = seen
    [cube] = kept(memory)
    overview = memory.overview()
    forms = {kind: (count, size) for kind, count, size in overview.forms}
    assert forms["plaintext"] == (12, 0)
    assert forms["activation"] == (1, cube.payload.bytes)  # type: ignore[union-attr]  # it holds no text
    [process] = overview.processes
    assert process.answered.requests == 3
    assert 0 < process.answered.cached < process.answered.tokens
    assert [s.disk for s in overview.samples][-1] == cube.payload.bytes  # type: ignore[union-attr]
    assert {id for id, _ in overview.warm} == {c.id for c in cubes}
    words = top_text(overview)
    for part in (
        "12 plaintext",
        "1 activation",
        "device  [",
        "host    nothing is held here",
        "3 answers",
        "build activation",
    ):
        assert part in words


def test_a_lease_that_is_held_is_under_way(seen: tuple[MemOS, list[MemCube]]) -> None:
    memory, _ = seen
    with memory._scheduler.leases.held("subject", who="ann", what="build activation nowhere disk: often asked"):
        assert "subject  build activation nowhere disk: often asked" in top_text(memory.overview())
        assert "often asked" not in top_text(memory.overview(actor="bob"))
    assert memory.overview().under_way == ()


def test_the_commands_show_it_without_the_stores_embedder(
    seen: tuple[MemOS, list[MemCube]], tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    memory, cubes = seen
    store = str(tmp_path / "store")
    assert main(["why", store, cubes[0].id, "--actor", "ann"]) == 0
    assert "build activation" in capsys.readouterr().out
    assert main(["why", store, cubes[0].id, "--actor", "bob"]) == 1
    assert "no memory" in capsys.readouterr().err
    assert main(["top", store, "--once", "--actor", "ann"]) == 0
    assert "decided:" in capsys.readouterr().out
    assert main(["stats", store, "--json", "--actor", "ann"]) == 0
    said = json.loads(capsys.readouterr().out)
    assert said["memories"] == 13
    assert said["embedder"] == memory._embedding.name  # not what the command was opened with
    assert said["bytes"]["activation"] > 0
    assert main(["tick", store]) == 0
    assert main(["report", store, str(tmp_path / "no" / "where.html")]) == 1
    assert "where.html" in capsys.readouterr().err
    assert main(["log", store, "--export", str(tmp_path / "no" / "events")]) == 1
    assert "--export: " in capsys.readouterr().err


def test_the_report_is_one_file_that_needs_nothing_from_elsewhere(
    seen: tuple[MemOS, list[MemCube]], tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    memory, cubes = seen
    memory.add("<script>alert('x')</script>", key="<b>")
    out = tmp_path / "report.html"
    assert main(["report", str(tmp_path / "store"), str(out), "--actor", "ann"]) == 0
    text = page(memory.overview(), "<store>")
    for each in (out.read_text(encoding="utf-8"), text):
        assert not re.search(r"https?://|src=|<script|<link|@import|url\(", each)
        for heading in ("What is held", "Tiers over time", "Heat", "What other budgets would save", "Decisions"):
            assert f"<h2>{heading}</h2>" in each
        assert cubes[0].id in each
        _Balanced().check(each)
    assert "&lt;store&gt;" in text
    assert "<polyline" in text


class _Balanced(HTMLParser):
    """Sees to it that every element that is opened is closed."""

    def check(self, text: str) -> None:
        self.open: list[str] = []
        self.feed(text)
        assert self.open == []

    def handle_starttag(self, tag: str, attrs: list[tuple[str, str | None]]) -> None:
        if tag != "meta":
            self.open.append(tag)

    def handle_endtag(self, tag: str) -> None:
        assert self.open.pop() == tag


def test_what_a_budget_would_save_follows_the_curve() -> None:
    process = Process("p", 0, "m", 0, 0, 0, 0, 100, 1, 1, 0.5, Counted(), (), ((100, 10.0), (300, 14.0)))
    assert [saved(process, budget) for budget in (0, 50, 100, 200, 300, 900)] == [0, 5, 10, 12, 14, 14]


def test_an_empty_store_is_shown_too(memory: MemOS) -> None:
    memory.tick()
    assert "no memories" in top_text(memory.overview())
    assert "Nothing yet." in page(memory.overview(), "store")
    [cube] = memory.add("The spare key is under the blue pot.")
    assert "nothing was decided about it yet" in why_text(memory.why(cube.id))


def test_the_curve_rises_and_holds_what_is_worth_most_first(seen: tuple[MemOS, list[MemCube]], clock: Clock) -> None:
    memory, _ = seen
    snapshot, _ = memory._scheduler.look(clock.now, memory._model, None)
    points = curve(snapshot, clock.now.timestamp())
    assert len(points) == 1
    assert points[0][0] == int(snapshot.kv_bytes.max())
    assert points[0][1] > 0


@pytest.fixture(scope="module")
def reader() -> Any:
    """What the application reads its metrics with: each time what came since; it can be set once in a process."""
    pytest.importorskip("opentelemetry.sdk", reason="opentelemetry-sdk reads the metrics")
    from opentelemetry import metrics
    from opentelemetry.sdk.metrics import Counter, Histogram, MeterProvider
    from opentelemetry.sdk.metrics.export import AggregationTemporality, InMemoryMetricReader

    delta = AggregationTemporality.DELTA
    found = InMemoryMetricReader(preferred_temporality={Counter: delta, Histogram: delta})
    metrics.set_meter_provider(MeterProvider([found]))
    return found


@pytest.fixture
def measured(reader: Any) -> Callable[[], dict[str, list[Any]]]:
    """The data points of a test, by the instrument's name."""
    reader.get_metrics_data()

    def read() -> dict[str, list[Any]]:
        scopes = [scope for r in reader.get_metrics_data().resource_metrics for scope in r.scope_metrics]
        return {m.name: list(m.data.data_points) for scope in scopes for m in scope.metrics}

    return read


def test_metrics_go_to_the_applications_meter_provider(
    open_store: Callable[..., MemOS], clock: Clock, measured: Callable[[], dict[str, list[Any]]]
) -> None:
    memory = open_store(model=random_model(), rates=Rates(prefill=10.0, disk=1e9))
    told(memory)
    ask(memory, clock)
    memory.tick()
    found = measured()
    assert {
        "memos.held",
        "memos.budget",
        "memos.moves",
        "memos.tick",
        "memos.tokens",
        "memos.first_token",
    } <= found.keys()
    [moves] = [p for p in found["memos.moves"] if p.attributes["action"] == "build"]
    assert (moves.value, moves.attributes["outcome"]) == (1, "done")
    assert {p.attributes["place"] for p in found["memos.held"]} == {"device", "host", "disk"}
    [ticks] = found["memos.tick"]
    assert ticks.count == 1


def test_metrics_are_told_without_a_model_too(
    open_store: Callable[..., MemOS], clock: Clock, measured: Callable[[], dict[str, list[Any]]]
) -> None:
    memory = open_store()
    memory.add("The meeting is at four.", ttl=60)
    clock.forward(minutes=2)
    memory.tick()
    found = measured()
    [moves] = found["memos.moves"]
    assert (moves.value, moves.attributes["action"], moves.attributes["outcome"]) == (1, "expire", "done")
    [ticks] = found["memos.tick"]
    assert (ticks.count, ticks.sum > 0) == (1, True)


@pytest.mark.parametrize("every", ["-1", "0", "nan", "inf"])
def test_a_span_that_is_none_is_refused_before_anything_is_shown(
    every: str, open_store: Callable[..., MemOS], capsys: pytest.CaptureFixture[str]
) -> None:
    path = open_store().path
    assert main(["top", path, "--every", every]) == 1
    shown = capsys.readouterr()
    assert shown.out == ""
    assert "every: a positive number of seconds is needed" in shown.err
