"""Updates that come after their round's deadline: dropped, or used in the next round as the plan says."""

import asyncio
import threading
from collections.abc import Iterator
from pathlib import Path

import numpy as np
import pytest
from flwr.app import MetricRecord, RecordDict
from flwr.supercore.task_identity import TaskIdentity
from hypothesis import given
from hypothesis import strategies as st
from loopback import Consortium, in_thread, play, runs, tiny_app, until
from tiny_runs import SIZE, TRAININGS, by_hand, events, federate, honest, model, plan

from ynet.errors import UserError
from ynet.federation.records import ARRAYS, CASES, METRICS, flat_weights, weights_record
from ynet.strategy_options import ROBUST
from ynet.weights import Flat
from ynet_server.commands import run_tables
from ynet_server.rounds import attendance, server_app
from ynet_server.rounds.conversation import SiteReply
from ynet_server.rounds.grid import HubGrid, LetGoError
from ynet_server.rounds.run_folder import RunFolder
from ynet_server.rounds.stale_updates import KeepsOpen, StaleUpdate, rebased, weight
from ynet_server.rounds.strategies import aggregate, strategy
from ynet_server.rounds.update_filter import UpdateFilter, stale_key

SLOW, HOSTILE, DEADLINE_S = "C", "H", 3.0
Vector = st.lists(st.floats(-100, 100, width=32), min_size=SIZE, max_size=SIZE).map(lambda v: np.array(v, np.float32))


@pytest.fixture(autouse=True)
def short_waits(monkeypatch: pytest.MonkeyPatch) -> Iterator[None]:
    monkeypatch.setattr(attendance, "WAIT_AFTER_FAILED_ROUND_S", 0.05)
    monkeypatch.setattr(attendance, "POLL_S", 0.02)
    TaskIdentity.run_id = TaskIdentity.task_id = 1
    TaskIdentity.node_id = 0
    return iter(())


def reply(node: int, flat: Flat, cases: int) -> SiteReply:
    return SiteReply(node, RecordDict({ARRAYS: weights_record(flat), METRICS: MetricRecord({CASES: cases})}))


@given(Vector, Vector, Vector)
def test_an_update_that_is_no_round_behind_counts_as_any_other(now: Flat, one: Flat, other: Flat) -> None:
    frozen = plan()

    def mean(first: SiteReply) -> Flat:
        return aggregate(strategy(frozen), frozen, 5, [first, reply(2, other, 3)], now).flat

    late = rebased(StaleUpdate(reply(1, one, 7), 5, now), 5, now)
    np.testing.assert_allclose(mean(late), mean(reply(1, one, 7)), atol=1e-4)


@given(Vector, Vector, Vector)
def test_stale_update_counts_by_its_difference_and_less_with_age(begun: Flat, trained: Flat, now: Flat) -> None:
    late = rebased(StaleUpdate(reply(1, trained, 10), 4, begun), 5, now)
    np.testing.assert_allclose(
        flat_weights(late.content.array_records[ARRAYS]) - now, trained - begun, rtol=1e-3, atol=1e-3
    )
    assert late.content.metric_records[METRICS][CASES] == pytest.approx(10 * 2**-0.5)


def test_the_weight_falls_with_each_round() -> None:
    assert [weight(behind) for behind in (0, 3, 8)] == pytest.approx([1, 1 / 2, 1 / 3])


@pytest.mark.parametrize("strategy_name", sorted(ROBUST))
def test_a_strategy_that_counts_all_alike_cannot_use_what_is_late(strategy_name: str) -> None:
    with pytest.raises(UserError, match="count for less"):
        plan(strategy=strategy_name, min_sites=7, quorum=7, late_updates="use")


def test_one_that_drops_has_the_id_that_plans_had_before() -> None:
    assert "late" not in plan().canonical()
    assert plan(late_updates="use").id != plan().id


class Gates:
    """What holds a slow site's training in its first two rounds."""

    def __init__(self) -> None:
        self.of = {number: threading.Event() for number in (1, 2)}

    def train(self, number: int, flat: Flat) -> Flat:
        if number in self.of:
            assert self.of[number].wait(60)
        return TRAININGS[SLOW][0](number, flat)

    def open(self) -> None:
        """Let go of whoever waits."""
        for gate in self.of.values():
            gate.set()


def slow_run(tmp_path: Path, late: str) -> RunFolder:
    """Three rounds: the slow sites' first updates come in the second round, and the honest one's second in the third,
    beside its third.

    The hostile one's is a thousand times as large, and it sends no other.
    """
    frozen = plan(rounds=3, deadline_s=DEADLINE_S, late_updates=late)
    folder, gates, apps, cases = RunFolder(tmp_path / "run").create(frozen), Gates(), *honest()
    apps[SLOW] = tiny_app(gates.train, cases[SLOW])

    def hostile(number: int, flat: Flat) -> Flat:
        if number > 1:
            raise OSError("no disk")
        return 1000 * gates.train(number, flat)

    apps[HOSTILE], cases[HOSTILE] = tiny_app(hostile, 5), 5

    async def story(consortium: Consortium) -> None:
        for name, app in apps.items():
            await consortium.join(name, runs(app, cases[name]))
        running = asyncio.ensure_future(federate(consortium, folder))
        try:
            await until(lambda: len(events(folder, "round")) == 1, 30)
            gates.of[1].set()
            await until(lambda: len(events(folder, "round")) == 2, 30)
            gates.of[2].set()
            await running
            await until(lambda: not list(consortium.spool.iterdir()))
        finally:
            gates.open()

    play(tmp_path, story, 90)
    return folder


def outcomes(folder: RunFolder) -> list[tuple[str, int, int, str]]:
    return [(event["site"], event["of"], event["round"], event["outcome"]) for event in events(folder, "late")]


def test_a_late_update_is_dropped_by_default(tmp_path: Path) -> None:
    folder = slow_run(tmp_path, "drop")
    assert outcomes(folder) == []
    np.testing.assert_allclose(model(folder), by_hand(3, lambda number: "ABC" if number == 3 else "AB"), rtol=1e-5)


def test_late_update_is_filtered_and_used_once_in_next_round_with_less_weight(
    tmp_path: Path,
) -> None:
    folder = slow_run(tmp_path, "use")
    assert sorted(outcomes(folder)) == [
        (SLOW, 1, 2, "used"),
        (SLOW, 2, 3, "used"),
        (HOSTILE, 1, 2, "dropped"),
    ]
    used, refused, _ = sorted(events(folder, "late"), key=lambda event: (event["round"], event["site"]))
    assert "the round's median" in refused["reason"]
    assert [event["site"] for event in events(folder, "update_refused")] == [HOSTILE]
    assert "of round 1, late, was used in round 2" in run_tables.describe_event(used)
    assert "late, was dropped: it changes" in run_tables.describe_event(refused)
    assert events(folder, "round")[1]["sites"][SLOW]["late"] == 1
    assert set(events(folder, "round")[1]["sites"]) == {"A", "B", SLOW}
    flat = begun = np.zeros(SIZE, np.float32)
    for number in (1, 2, 3):
        updates = [(TRAININGS[name][0](number, flat), TRAININGS[name][1]) for name in ("ABC" if number == 3 else "AB")]
        if number > 1:  # and beside what is in time, what the slow site made of the round before
            late = flat + TRAININGS[SLOW][0](number - 1, begun) - begun
            updates.append((late, TRAININGS[SLOW][1] * 2**-0.5))
        total, begun = sum(n for _, n in updates), flat
        flat = (sum(update.astype(np.float64) * n for update, n in updates) / total).astype(np.float32)
    np.testing.assert_allclose(model(folder), flat, rtol=1e-4)


def test_the_same_weights_sent_late_and_as_the_next_rounds_count_once() -> None:
    update_filter, begun, now = UpdateFilter(10.0), np.zeros(SIZE, np.float32), np.ones(SIZE, np.float32)
    late, fresh = np.full(SIZE, 2, np.float32), np.full(SIZE, 3, np.float32)
    for _ in range(2):  # also when the round is held again
        judged = update_filter.judge(5, [(stale_key(1), late), (1, late), (2, fresh)], now, {stale_key(1): begun})
        assert judged.refused == {1: "it is not new: it is of round 4"}
        assert judged.change[stale_key(1)] == pytest.approx(2 * SIZE**0.5)
    again = update_filter.judge(6, [(stale_key(2), late)], fresh, {stale_key(2): now}).refused[stale_key(2)]
    assert again.startswith("it is not new")


def test_a_run_that_is_let_go_calls_off_what_was_late(tmp_path: Path) -> None:
    folder, gates = RunFolder(tmp_path / "run").create(plan(rounds=3, deadline_s=1.0, late_updates="use")), Gates()
    apps, cases = honest()
    apps[SLOW] = tiny_app(gates.train, cases[SLOW])

    async def story(consortium: Consortium) -> None:
        for name, app in apps.items():
            await consortium.join(name, runs(app, cases[name]))
        lets_go = threading.Event()
        grid = HubGrid(consortium.hub, asyncio.get_running_loop(), consortium.spool, 1, lets_go.is_set)
        federating = in_thread(lambda: server_app.federate(grid, folder, grid.name_of, grid.cases_of))
        running = asyncio.ensure_future(federating)
        try:
            await until(lambda: events(folder, "round"), 30)
            lets_go.set()
            with pytest.raises(LetGoError):
                await running
            await until(lambda: not consortium.hub._tasks._open)
            await until(lambda: not list(consortium.spool.iterdir()))
        finally:
            gates.open()

    play(tmp_path, story, 60)


def test_the_hubs_grid_can_leave_open_what_is_late() -> None:
    assert issubclass(HubGrid, KeepsOpen)
