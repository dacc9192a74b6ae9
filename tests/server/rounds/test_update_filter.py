"""What is kept out of a round whatever the strategy, what a robust strategy leaves of the rest, and what is shown."""

import asyncio
import contextlib
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from flwr.app import MetricRecord, RecordDict
from flwr.supercore.task_identity import TaskIdentity
from loopback import Consortium, Joined, in_thread, play, runs, tiny_app, until
from tiny_runs import LARGEST, SIZE, TRAININGS, by_hand, events, federate, honest, model, plan, run

from ynet import weights
from ynet.errors import UserError
from ynet.federation.records import ARRAYS, CASES, METRICS, weights_record
from ynet.strategy_options import ROBUST
from ynet.weights import Flat
from ynet_server.commands import run_tables
from ynet_server.rounds import attendance, server_app
from ynet_server.rounds.conversation import SiteReply
from ynet_server.rounds.grid import HubGrid
from ynet_server.rounds.run_folder import RunFolder, State
from ynet_server.rounds.strategies import aggregate, strategy
from ynet_server.rounds.update_filter import UpdateFilter

HOSTILE = "G"
OTHERS = LARGEST.replace(HOSTILE, "")
Train = Callable[[int, Flat], Flat]


@pytest.fixture(autouse=True)
def short_waits(monkeypatch: pytest.MonkeyPatch) -> Iterator[None]:
    monkeypatch.setattr(attendance, "WAIT_AFTER_FAILED_ROUND_S", 0.05)
    monkeypatch.setattr(attendance, "POLL_S", 0.02)
    return iter(())


def hundredfold(number: int, flat: Flat) -> Flat:
    return flat + 100 * (TRAININGS[HOSTILE][0](number, flat) - flat)


def as_large_as_can_be(number: int, flat: Flat) -> Flat:
    return np.full(SIZE, np.finfo(np.float32).max, np.float32)


def free_riding(number: int, flat: Flat) -> Flat:
    return flat


def hardly_moving(number: int, flat: Flat) -> Flat:
    return flat + np.float32(1e-5)


ALWAYS_REFUSED: dict[Train, str] = {
    hundredfold: "times as much as the round's median",
    as_large_as_can_be: "times as much as the round's median",
    free_riding: "it changes nothing",
    hardly_moving: "it changes nothing",
}


@pytest.mark.parametrize(("train", "why"), ALWAYS_REFUSED.items(), ids=lambda value: getattr(value, "__name__", ""))
def test_hostile_update_is_refused_and_model_equals_that_of_the_others(tmp_path: Path, train: Train, why: str) -> None:
    apps, cases = honest(LARGEST)
    apps[HOSTILE] = tiny_app(train, cases[HOSTILE])
    folder = run(tmp_path, plan(rounds=4, min_sites=7, quorum=6, deadline_s=25), apps, cases)
    np.testing.assert_allclose(model(folder), by_hand(4, OTHERS), rtol=1e-5)
    refused = events(folder, "update_refused")
    assert [(event["round"], event["site"]) for event in refused] == [(number, HOSTILE) for number in (1, 2, 3, 4)]
    assert all(why in event["reason"] for event in refused)
    assert f"the update of site {HOSTILE} was refused: {refused[0]['reason']}" in run_tables.describe_event(refused[0])


def test_an_update_of_an_earlier_round_is_refused_when_it_comes_again(tmp_path: Path) -> None:
    kept: list[Flat] = []

    def replaying(number: int, flat: Flat) -> Flat:
        kept.append(TRAININGS[HOSTILE][0](number, flat))
        return kept[0] if number < 3 else kept[-1]

    apps, cases = honest(LARGEST)
    apps[HOSTILE] = tiny_app(replaying, cases[HOSTILE])
    folder = run(tmp_path, plan(rounds=3, min_sites=7, quorum=6, deadline_s=25), apps, cases)
    np.testing.assert_allclose(model(folder), by_hand(3, lambda number: OTHERS if number == 2 else LARGEST), rtol=1e-5)
    (refused,) = events(folder, "update_refused")
    assert (refused["round"], refused["site"], refused["reason"]) == (2, HOSTILE, "it is not new: it is of round 1")


def test_a_replay_is_refused_after_the_server_was_started_anew(tmp_path: Path) -> None:
    kept: list[Flat] = []

    def replaying(number: int, flat: Flat) -> Flat:
        kept.append(TRAININGS[HOSTILE][0](number, flat))
        return kept[0]

    apps, cases = honest(LARGEST)
    apps[HOSTILE] = tiny_app(replaying, cases[HOSTILE])
    folder = RunFolder(tmp_path / "run").create(plan(rounds=2, min_sites=7, quorum=6, deadline_s=25))

    def dies(state: State) -> None:
        if state.round == 1:
            raise KeyboardInterrupt

    async def story(consortium: Consortium) -> None:
        for name, app in apps.items():
            await consortium.join(name, runs(app, cases[name]))
        for after in (dies, lambda _: None):  # a new filter each time, as in a new process
            grid = HubGrid(consortium.hub, asyncio.get_running_loop(), consortium.spool, 1)
            with contextlib.suppress(KeyboardInterrupt):
                await in_thread(lambda: server_app.federate(grid, folder, grid.name_of, grid.cases_of, after))  # noqa: B023

    play(tmp_path, story)
    (refused,) = events(folder, "update_refused")
    assert (refused["round"], refused["site"], refused["reason"]) == (2, HOSTILE, "it is not new: it is of round 1")


def test_weights_that_an_earlier_round_began_with_are_no_update(tmp_path: Path) -> None:
    sent: list[Flat] = []

    def stale(number: int, flat: Flat) -> Flat:
        sent.append(flat.copy())
        return sent[0] if number == 3 else TRAININGS[HOSTILE][0](number, flat)

    apps, cases = honest(LARGEST)
    apps[HOSTILE] = tiny_app(stale, cases[HOSTILE])
    folder = run(tmp_path, plan(rounds=3, min_sites=7, quorum=6, deadline_s=25), apps, cases)
    assert [event["round"] for event in events(folder, "update_refused")] == [3]


def test_a_round_that_is_held_again_takes_the_same_update_once_more(tmp_path: Path) -> None:
    """A private site sends what it has made for a round again as it was: anything else would spend its budget."""
    failures = [1, 2]

    def flaky(number: int, flat: Flat) -> Flat:
        if failures and failures[0] == number:
            failures.pop(0)
            raise OSError("the disk was full for a moment")
        return TRAININGS["A"][0](number, flat)

    apps, cases = honest("ABC")
    apps["A"] = tiny_app(flaky, cases["A"])
    folder = run(tmp_path, plan(rounds=2, min_sites=3, quorum=3), apps, cases)
    np.testing.assert_allclose(model(folder), by_hand(2), rtol=1e-5)
    assert not events(folder, "update_refused")


def test_hostile_site_needed_for_quorum_ends_run_with_its_name(tmp_path: Path) -> None:
    apps, cases = honest(LARGEST)
    apps[HOSTILE] = tiny_app(hundredfold, cases[HOSTILE])
    with pytest.raises(UserError, match="round 1 came to nothing") as caught:
        run(tmp_path, plan(min_sites=7, quorum=7), apps, cases)
    assert f"what site {HOSTILE} sent was refused: it changes" in caught.value.why


def test_hostile_site_does_not_end_run_while_honest_site_is_away(tmp_path: Path) -> None:
    frozen = plan(rounds=3, min_sites=4, quorum=3)
    folder = RunFolder(tmp_path / "run").create(frozen)
    apps, cases = honest("ABC")
    held = attendance.REFUSED_AT_MOST + 2

    async def story(consortium: Consortium) -> None:
        loop, joined = asyncio.get_running_loop(), dict[str, Joined]()

        def cutting_a_off(number: int, flat: Flat) -> Flat:
            if number == 2:
                loop.call_soon_threadsafe(joined["A"].task.cancel)
            return hundredfold(number, flat)

        hostile = tiny_app(cutting_a_off, 10)
        for name, app in {**apps, HOSTILE: hostile}.items():
            joined[name] = await consortium.join(name, runs(app, cases.get(name, 10)))
        training = asyncio.ensure_future(federate(consortium, folder))
        await until(lambda: len(events(folder, "under_quorum")) >= held or training.done())
        member = joined["A"].session._member
        consortium.session(member, runs(apps["A"], cases["A"]))
        await training

    play(tmp_path, story)
    assert [event["round"] for event in events(folder, "round")] == [1, 2, 3]
    assert not events(folder, "failed")


def test_a_plan_without_the_gate_takes_an_update_of_any_size(tmp_path: Path) -> None:
    apps, cases = honest(LARGEST)
    apps[HOSTILE] = tiny_app(hundredfold, cases[HOSTILE])
    folder = run(tmp_path, plan(rounds=1, min_sites=7, quorum=6, deadline_s=25, update_norm_limit=0), apps, cases)
    assert not events(folder, "update_refused")
    assert np.abs(model(folder)).max() > 2 * np.abs(by_hand(1, OTHERS)).max()


def test_how_far_each_site_went_is_in_the_rounds_event(tmp_path: Path) -> None:
    folder = run(tmp_path, plan(rounds=1, min_sites=3), *honest())
    (event,) = events(folder, "round")
    for site in "ABC":
        expected = np.linalg.norm(TRAININGS[site][0](1, np.zeros(SIZE, np.float32)))
        assert event["sites"][site]["change"] == pytest.approx(expected, rel=1e-5)


# --- the filter alone


def at(distance: float) -> Flat:
    return np.array([distance, 0, 0], np.float32)


SENT = np.zeros(3, np.float32)


def refused(factor: float, *distances: float) -> set[int]:
    updates = [(node, at(distance)) for node, distance in enumerate(distances)]
    return set(UpdateFilter(factor).judge(1, updates, SENT).refused)


def test_of_two_updates_the_gate_cannot_tell_which_is_too_large() -> None:
    assert refused(10, 1, 1000) == set()
    assert refused(10, 1, 1, 1000) == {2}


def test_the_gates_factor_is_of_the_median_and_half_of_the_sites_cannot_move_it() -> None:
    assert refused(10, 1, 2, 3, 29) == {3}
    assert refused(10, 1, 2, 3, 24) == set()
    assert refused(10, 1, 2, 3, 1e6, 1e30) == {3, 4}


def test_where_most_change_nothing_nobody_is_refused_for_it() -> None:
    assert refused(10, 0, 0, 0) == set()
    assert refused(10, 0, 0, 5) == set()


def test_one_free_rider_of_two_is_refused() -> None:
    assert refused(10, 0, 5) == {0}


def test_sites_that_send_the_same_in_one_round_are_both_taken() -> None:
    assert refused(10, 1, 1, 1) == set()


# --- robust strategies


def leading(site: str) -> Train:
    """Honest trainings go one way, each a little differently."""
    own = np.random.default_rng(ord(site)).standard_normal(SIZE).astype(np.float32)
    return lambda _, flat: flat + np.float32(1) + np.float32(0.1) * own


def sign_flip(_: int, flat: Flat) -> Flat:
    return flat - np.float32(1)


def as_far_as_the_gate_lets_it(_: int, flat: Flat) -> Flat:
    return flat - np.float32(8)


def as_far_as_others_and_elsewhere(_: int, flat: Flat) -> Flat:
    """What labels that were flipped, or images with a mark, make of the weights: a training of another task."""
    return flat + np.float32(np.sqrt(SIZE)) * np.eye(SIZE, dtype=np.float32)[0] * np.float32(1.5)


AGAINST = (sign_flip, as_far_as_the_gate_lets_it, as_far_as_others_and_elsewhere)


def poisoned(tmp_path: Path, name: str, attack: Train) -> tuple[Flat, list[dict[str, Any]]]:
    names = "ABCDEFG"
    apps = {site: tiny_app(leading(site), 10) for site in names} | {"X": tiny_app(attack, 10)}
    frozen = plan(rounds=1, min_sites=8, quorum=7, deadline_s=25, strategy=name)
    folder = run(tmp_path, frozen, apps, dict.fromkeys(apps, 10))
    assert not events(folder, "update_refused")
    return model(folder), events(folder, "round")


def outside(flat: Flat) -> bool:
    """Whether a weight is where no honest site has it."""
    updates = np.stack([leading(site)(1, np.zeros(SIZE, np.float32)) for site in "ABCDEFG"])
    return bool(((flat < updates.min(0) - 1e-6) | (flat > updates.max(0) + 1e-6)).any())


@pytest.mark.parametrize("attack", AGAINST, ids=lambda attack: attack.__name__)
@pytest.mark.parametrize("name", sorted(ROBUST))
def test_under_a_robust_strategy_the_weights_stay_where_honest_sites_have_them(
    tmp_path: Path, name: str, attack: Train
) -> None:
    flat, (event,) = poisoned(tmp_path, name, attack)
    assert not outside(flat)
    if name in ("krum", "multikrum", "bulyan"):
        assert "X" in event["left_out"]
        assert "left out by the strategy:" in run_tables.describe_event(event)


@pytest.mark.parametrize("attack", AGAINST, ids=lambda attack: attack.__name__)
def test_the_same_attacks_move_the_mean(tmp_path: Path, attack: Train) -> None:
    flat, (event,) = poisoned(tmp_path, "fedavg", attack)
    assert outside(flat)
    assert "left_out" not in event


def replies(changes: np.ndarray, sent: Flat) -> list[SiteReply]:
    """Of a run that no Grid carries: a Message asks for it all the same."""
    TaskIdentity.run_id = TaskIdentity.task_id = 1
    TaskIdentity.node_id = 0
    return [
        SiteReply(node, RecordDict({ARRAYS: weights_record(sent + change), METRICS: MetricRecord({CASES: 1.0})}))
        for node, change in enumerate(changes.astype(np.float32), start=1)
    ]


def test_krum_takes_one_sites_weights_whole_however_many_blocks_they_travel_in(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    monkeypatch.setattr(weights, "BLOCK_VALUES", 3)
    changes, sent = np.random.default_rng(1).standard_normal((7, 10)), np.zeros(10, np.float32)
    frozen = plan(min_sites=7, quorum=7, strategy="krum")
    made = aggregate(strategy(frozen), frozen, 1, replies(changes, sent), sent)
    (taken,) = set(range(1, 8)) - made.left_out
    np.testing.assert_array_equal(made.flat, changes[taken - 1].astype(np.float32))


@pytest.mark.parametrize("name", ["krum", "multikrum", "bulyan"])
def test_small_changes_of_large_weights_are_told_apart(name: str) -> None:
    """The squares of these weights are 10^9 times those of the changes: single precision has 10^7."""
    random = np.random.default_rng(1)
    sent = np.full(20_000, 100, np.float32)
    changes = 0.003 * random.standard_normal((8, 20_000))
    changes[4] -= 0.01
    frozen = plan(min_sites=7, quorum=7, strategy=name)
    made = aggregate(strategy(frozen), frozen, 1, replies(changes, sent), sent)
    assert 5 in made.left_out
