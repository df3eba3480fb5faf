"""What scopes used: counts that fade, shares that stay, written down beside the requests, gone with their memories."""

from __future__ import annotations

import pytest

from memos_core import MemOS
from memos_core.uses import Count, Uses, UseScope, warmth
from tests.conftest import Clock

ANN = UseScope("ann", ("work",), "model")
DAY = 86_400.0


@pytest.fixture
def uses(memory: MemOS) -> Uses:
    return memory._upkeep.uses


def test_what_is_noted_is_written_down_by_a_flush_and_not_before(uses: Uses, clock: Clock) -> None:
    uses.note(ANN, ["a", "b", "a"], clock.now)
    assert uses.of("model") == []
    assert uses.flush() == 1
    [used] = uses.of("model")
    assert used.scope == ANN
    assert used.requests.reads == 1
    assert {id: count.reads for id, count in used.members.items()} == {"a": 1, "b": 1}
    assert uses.flush() == 0


def test_scopes_are_apart_and_asked_for_by_model_and_by_actor(uses: Uses, clock: Clock) -> None:
    for scope in (ANN, UseScope("bob", ("work",), "model"), UseScope("ann", (), "other")):
        uses.note(scope, ["a"], clock.now)
    uses.flush()
    assert {u.scope.who for u in uses.of("model")} == {"ann", "bob"}
    assert {u.scope.model for u in uses.by("ann")} == {"model", "other"}


def test_a_share_stays_while_everything_fades(uses: Uses, clock: Clock) -> None:
    for number in range(8):
        clock.forward(minutes=1)
        uses.note(ANN, ["a"] if number % 2 else ["a", "b"], clock.now)
    uses.flush()
    for later in (0, 5, 600):
        now = clock.forward(minutes=later).timestamp()
        [used], scales = uses.of("model"), uses.scales()
        warm = warmth(used.requests, scales, now)
        assert warmth(used.members["a"], scales, now) / warm == pytest.approx(1)
        assert warmth(used.members["b"], scales, now) / warm == pytest.approx(0.5, abs=0.1)


def test_two_flushes_add_up_and_so_do_two_processes(uses: Uses, memory: MemOS, clock: Clock) -> None:
    other = Uses(memory._vault.db)
    for each in (uses, other, uses):
        each.note(ANN, ["a"], clock.forward(seconds=1))
        each.flush()
    assert uses.of("model")[0].requests.reads == 3
    assert other.scales().subjects == 1


def test_counting_anew_leaves_the_warmth(uses: Uses, clock: Clock) -> None:
    uses.note(ANN, ["a"], clock.now)
    uses.flush()
    before = uses.of("model")[0].requests
    uses.restart(ANN)
    after = uses.of("model")[0].requests
    assert (before.reads, after.reads) == (1, 0)
    assert after.heat.tolist() == before.heat.tolist()


def test_what_has_faded_away_is_removed(uses: Uses, clock: Clock) -> None:
    uses.note(ANN, ["old"], clock.now)
    uses.note(ANN, ["new"], clock.forward(days=40))
    uses.flush()
    uses.sweep(clock.forward(hours=1))
    [used] = uses.of("model")
    assert set(used.members) == {"new"}


def test_uses_of_a_deleted_memory_go_with_it(uses: Uses, memory: MemOS, clock: Clock) -> None:
    [cube] = memory.add("The spare key is under the blue pot.")
    uses.note(ANN, [cube.id, "another"], clock.now)
    uses.flush()
    memory.delete(cube.id)
    assert set(uses.of("model")[0].members) == {"another"}


def test_many_requests_ask_to_be_written_down(uses: Uses, clock: Clock) -> None:
    assert [uses.note(ANN, [], clock.now) for _ in range(256)].index(True) == 255


def test_a_conversation_and_an_hour_of_the_day_make_a_read_expected() -> None:
    count = Count()
    assert count.soon(0.0) == 0.0
    for minute in range(10):
        count = count.after(9 * 3_600 + 20.0 * minute)
    now = 9 * 3_600 + 200.0
    assert count.soon(now) > 1 / 60
    assert count.soon(now + 7_200) < 1 / 3_600
    for day in range(1, 10):
        for minute in range(60):
            count = count.after(day * DAY + 9 * 3_600 + 60.0 * minute)
    tomorrow = 10 * DAY + 9 * 3_600
    assert count.soon(tomorrow) == pytest.approx(1 / 60, rel=0.3)
    assert count.soon(tomorrow + 6 * 3_600) < 1e-4
