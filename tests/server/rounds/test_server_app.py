"""Complete runs on the hub: aggregation, taking part, and how a run begins, resumes and ends."""

import asyncio
import shutil
import time
from collections.abc import Callable, Iterator
from dataclasses import replace
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from flwr.app import Array, ArrayRecord, ConfigRecord, MetricRecord, RecordDict
from loopback import LAYOUT, Consortium, play, runs, tiny_app, until
from tiny_runs import LARGEST, SIZE, TRAININGS, by_hand, events, federate, honest, model, plan, run, towards

from ynet import weights
from ynet.errors import RefusedError, UserError
from ynet.federation import update_encoding
from ynet.federation.records import ARRAYS, CASES, CONFIG, METRICS, flat_weights, weights_record
from ynet.federation.update_encoding import Encoding
from ynet.plan_sections import Privacy
from ynet.strategy_options import STRATEGY_OPTIONS
from ynet.weights import Flat, LayoutEntry
from ynet_server.commands import run_tables
from ynet_server.rounds import attendance
from ynet_server.rounds.run_folder import MODEL, STATE, RunFolder, State


@pytest.fixture(autouse=True)
def short_waits(monkeypatch: pytest.MonkeyPatch) -> Iterator[None]:
    monkeypatch.setattr(attendance, "WAIT_AFTER_FAILED_ROUND_S", 0.05)
    monkeypatch.setattr(attendance, "POLL_S", 0.02)
    return iter(())


def test_fedavg_is_the_mean_of_the_sites_weighted_by_their_cases(tmp_path: Path) -> None:
    folder = run(tmp_path, plan(rounds=3), *honest())
    np.testing.assert_allclose(model(folder), by_hand(3), rtol=1e-5)
    assert folder.card()["sites"] == {"A": 30, "B": 20, "C": 10}
    assert [event["round"] for event in events(folder, "round")] == [1, 2, 3]
    scores = folder.card()["scores"]
    assert {name: values["sum"] for name, values in scores.items()} == pytest.approx(
        dict.fromkeys("ABC", float(by_hand(3).sum())), rel=1e-4
    )


def test_the_order_in_which_the_sites_came_changes_not_a_bit(tmp_path: Path) -> None:
    one, other = run(tmp_path / "1", plan(), *honest("ABC")), run(tmp_path / "2", plan(), *honest("CBA"))
    assert one.card()["model_id"] == other.card()["model_id"]


@pytest.mark.parametrize("strategy", sorted(STRATEGY_OPTIONS))
def test_unchanged_updates_leave_weights_unchanged_under_every_strategy(tmp_path: Path, strategy: str) -> None:
    apps = {name: tiny_app(lambda _, flat: flat, 5) for name in LARGEST}
    folder = run(tmp_path, plan(strategy=strategy, min_sites=7, quorum=7), apps, dict.fromkeys(LARGEST, 5))
    np.testing.assert_array_equal(model(folder), np.zeros(SIZE, np.float32))


@pytest.mark.parametrize("strategy", sorted(STRATEGY_OPTIONS))
def test_every_strategy_moves_the_weights_to_where_all_sites_agree(tmp_path: Path, strategy: str) -> None:
    apps = {name: tiny_app(lambda _, flat: flat + np.float32(1), 5) for name in LARGEST}
    folder = run(tmp_path, plan(strategy=strategy, min_sites=7, quorum=7), apps, dict.fromkeys(LARGEST, 5))
    assert (model(folder) > 0).all()


def test_scores_are_asked_for_as_often_as_the_plan_says_and_after_the_last_round(tmp_path: Path) -> None:
    folder = run(tmp_path, plan(rounds=5, evaluate_every=2), *honest())
    assert [event["round"] for event in events(folder, "evaluated")] == [2, 4, 5]


def test_score_that_a_site_does_not_send_is_null_with_its_counts(tmp_path: Path) -> None:
    told = {"macro_map10": 0.5, "queries": 4, "ranked": 5, "masks": 0, "empty_masks": 5, "queries.0": 5, "queries.1": 0}
    told |= {"case_hit10": 0.25, "siblings": 15, "median_tie10": 2.5}
    apps, cases = honest("AB")
    folder = run(tmp_path, plan(min_sites=1, quorum=1), {**apps, "A": tiny_app(*TRAININGS["A"], scores=told)}, cases)
    for scores in (folder.card()["scores"], events(folder, "evaluated")[-1]["sites"]):
        assert (scores["A"]["macro_map10"], scores["A"]["dice"], scores["A"]["masks"]) == (0.5, None, 0)
        assert list(scores["A"]["queries_per_class"].values()) == [5, 0]
        assert (scores["B"]["case_hit10"], scores["B"]["median_tie10"], scores["B"]["siblings"]) == (None,) * 3
        assert (scores["B"]["macro_map10"], scores["B"]["ranked"], scores["B"]["queries_per_class"]) == (None,) * 3
    shown = run_tables.describe_event(events(folder, "evaluated")[-1])
    classes = plan().classes
    assert f"A mAP 0.500 of <= 5 ({classes[0]} <= 5, {classes[1]} 0) case 0.250 of <= 15 tie 2.5 of 4 Dice " in shown
    assert "Dice none of 0" in shown
    assert "B mAP none case none tie none Dice none" in shown


@pytest.mark.parametrize("wrong", [{"dice": 1.5}, {"masks": -1.0}, {"queries.0": 0.5}], ids=str)
def test_scores_that_can_be_none_are_refused_and_the_others_kept(tmp_path: Path, wrong: dict[str, float]) -> None:
    apps, cases = honest("AB")
    folder = run(tmp_path, plan(min_sites=1, quorum=1), {**apps, "A": tiny_app(*TRAININGS["A"], scores=wrong)}, cases)
    assert set(folder.card()["scores"]) == {"B"}
    assert {event["site"] for event in events(folder, "update_refused")} == {"A"}


def test_a_private_plan_without_scores_ends_without_any_and_its_card_says_so(tmp_path: Path) -> None:
    private = Privacy("patient", epsilon=4.0, delta=1e-2, scores="none")
    folder = run(tmp_path, replace(plan(rounds=3, evaluate_every=1), privacy=private), *honest())
    assert folder.card()["scores"] == {}
    assert folder.card()["privacy"]["scores"] == "none left the sites"
    assert not events(folder, "evaluated")
    assert not events(folder, "site_failed")
    assert events(folder, "finished")


# --- one site that sends what it should not


def nan(number: int, flat: Flat) -> Flat:
    return np.full(SIZE, np.nan, np.float32)


def infinite(number: int, flat: Flat) -> Flat:
    return np.array([0, 0, 0, np.inf, 0, 0, 0], np.float32)


def too_few(number: int, flat: Flat) -> Flat:
    return flat[:-1]


def too_many(number: int, flat: Flat) -> Flat:
    return np.append(flat, np.float32(0))


def nothing(number: int, flat: Flat) -> Flat:
    return flat[:0]


def test_updates_that_are_no_weights_are_refused_and_told_and_the_others_go_on(tmp_path: Path) -> None:
    apps, cases = honest()
    for train in (nan, infinite, too_few, too_many, nothing):
        apps[train.__name__], cases[train.__name__] = tiny_app(train, 1000), 1000
    folder = run(tmp_path, plan(), apps, cases)
    np.testing.assert_allclose(model(folder), by_hand(2), rtol=1e-5)
    refused = [(event["site"], event["round"]) for event in events(folder, "update_refused")]
    assert sorted(refused) == sorted((site, number) for site in set(apps) - set("ABC") for number in (1, 2))
    assert all(event["reason"] for event in events(folder, "update_refused"))


def without(*names: str) -> Callable[[RecordDict], RecordDict]:
    def spoil(reply: RecordDict) -> RecordDict:
        for name in names:
            del reply[name]
        return reply

    return spoil


def putting(name: str, record: object) -> Callable[[RecordDict], RecordDict]:
    def spoil(reply: RecordDict) -> RecordDict:
        reply[name] = record  # type: ignore[assignment]
        return reply

    return spoil


def blocks(**arrays: np.ndarray) -> Callable[[RecordDict], RecordDict]:
    return putting(ARRAYS, ArrayRecord({key: Array(array) for key, array in arrays.items()}))


ODD = {
    "no-weights": without(ARRAYS),
    "no-metrics": without(METRICS),
    "nothing": without(ARRAYS, METRICS),
    "other-block-names": blocks(x=np.zeros(SIZE, np.float32)),
    "other-blocks": blocks(block00000=np.zeros(3, np.float32), block00001=np.zeros(4, np.float32)),
    "other-shape": blocks(block00000=np.zeros((1, SIZE), np.float32)),
    "no-cases": putting(METRICS, MetricRecord({"loss": 1.0})),
    "zero-cases": putting(METRICS, MetricRecord({CASES: 0})),
    "negative-cases": putting(METRICS, MetricRecord({CASES: -5})),
    "less-than-one-case": putting(METRICS, MetricRecord({CASES: 0.5})),
}


def test_updates_of_another_form_are_refused_and_the_others_go_on(tmp_path: Path) -> None:
    apps, cases = honest()
    for name, spoil in ODD.items():
        apps[name], cases[name] = tiny_app(towards(9), 1000, spoil=spoil), 1000
    folder = run(tmp_path, plan(rounds=1), apps, cases)
    np.testing.assert_allclose(model(folder), by_hand(1), rtol=1e-5)
    assert sorted(event["site"] for event in events(folder, "update_refused")) == sorted(ODD)


def encoded(train: Callable[[int, Flat], Flat], encoding: Encoding) -> dict[str, Any]:
    """A training, and what makes of its updates the differences that such a plan asks for."""
    begun: list[Flat] = []

    def remembering(number: int, flat: Flat) -> Flat:
        begun.append(flat)
        return train(number, flat)

    def spoil(reply: RecordDict) -> RecordDict:
        update = flat_weights(reply.array_records[ARRAYS])
        difference = update_encoding.encode(update - begun[-1], LAYOUT, encoding)
        return putting(ARRAYS, weights_record(difference))(reply)

    return {"train": remembering, "spoil": spoil}


@pytest.mark.parametrize("encoding", ["float16", "int8"])
def test_encoded_updates_are_added_to_sent_weights_and_checked(tmp_path: Path, encoding: Encoding) -> None:
    apps: dict[str, Any] = {}
    cases = honest()[1] | {"nan": 1000, "plain": 1000}
    for name in "ABC":
        train, weight = TRAININGS[name]
        apps[name] = tiny_app(cases=weight, **encoded(train, encoding))
    apps["nan"] = tiny_app(cases=1000, **encoded(nan, encoding))
    apps["plain"] = tiny_app(towards(9), 1000)
    folder = run(tmp_path, plan(rounds=3, update_encoding=encoding), apps, cases)
    np.testing.assert_allclose(model(folder), by_hand(3), atol=0.02 if encoding == "int8" else 0.002)
    assert {event["site"] for event in events(folder, "update_refused")} == {"nan", "plain"}


def test_what_an_update_holds_besides_changes_nothing(tmp_path: Path) -> None:
    more = putting("more", MetricRecord({"x": 1.0}))
    nan_more = putting("more", weights_record(np.full(SIZE, np.nan, np.float32)))
    config = putting("config", ConfigRecord({"x": "y"}))
    spoil = {
        "A": lambda reply: more(putting(METRICS, MetricRecord({CASES: 30, "loss": 1.0, "more": 2.0}))(reply)),
        "B": lambda reply: nan_more(putting(METRICS, MetricRecord({CASES: 20}))(reply)),
        "C": config,
    }
    apps = {name: tiny_app(*TRAININGS[name], spoil=spoil[name]) for name in "ABC"}
    folder = run(tmp_path, plan(rounds=1), apps, honest()[1])
    np.testing.assert_allclose(model(folder), by_hand(1), rtol=1e-5)
    assert not events(folder, "update_refused")


@pytest.mark.parametrize("late", [False, True], ids=["from the first round on", "from the second round on"])
def test_a_site_that_claims_a_billion_cases_weighs_no_more_than_it_was_known_with(tmp_path: Path, late: bool) -> None:
    def claims(number: int) -> int:
        return 10 if late and number == 1 else 10**9

    apps, cases = honest()
    apps["C"] = tiny_app(*TRAININGS["C"], claims=claims)
    folder = run(tmp_path, plan(rounds=2), apps, cases)
    np.testing.assert_allclose(model(folder), by_hand(2), rtol=1e-5)
    assert folder.card()["sites"]["C"] == 10
    assert [event["sites"]["C"][CASES] for event in events(folder, "round")] == [10, 10]


def test_a_site_that_lies_from_its_first_word_on_is_seen_by_the_coordinator(tmp_path: Path) -> None:
    """Nobody but the site knows its cases: what it weighs is what `ynet-server sites` showed before the run."""
    apps, cases = honest("AB")
    folder = RunFolder(tmp_path / "run").create(plan(rounds=1))

    async def story(consortium: Consortium) -> None:
        for name, app in {**apps, "C": tiny_app(towards(3), 10**9)}.items():
            await consortium.join(name, runs(app, cases.get(name, 500)))
        await federate(consortium, folder)
        assert {site.name: site.cases for site in consortium.registry.sites()}["C"] == 500

    play(tmp_path, story)
    assert folder.card()["sites"]["C"] == 500


# --- who takes part


def test_a_round_under_its_quorum_is_held_again_and_counts_once(tmp_path: Path) -> None:
    failures = [1, 1, 2]

    def flaky(number: int, flat: Flat) -> Flat:
        if failures and failures[0] == number:
            failures.pop(0)
            raise OSError("the disk was full for a moment")
        return TRAININGS["A"][0](number, flat)

    apps, cases = honest("ABC")
    folder = run(tmp_path, plan(quorum=3, min_sites=3), {**apps, "A": tiny_app(flaky, 30)}, cases)
    np.testing.assert_allclose(model(folder), by_hand(2), rtol=1e-5)
    assert [event["round"] for event in events(folder, "under_quorum")] == [1, 1, 2]
    assert [event["round"] for event in events(folder, "round")] == [1, 2]
    assert {event["reason"] for event in events(folder, "site_failed")} == {"the site failed; its admin's log says why"}


def test_a_late_site_is_not_waited_for_beyond_the_deadline_and_joins_the_next_round(tmp_path: Path) -> None:
    def slow(number: int, flat: Flat) -> Flat:
        time.sleep(1.5 if number == 1 else 0)
        return flat

    apps, cases = honest("AB")
    folder = run(
        tmp_path, plan(rounds=3, deadline_s=0.7), {**apps, "X": tiny_app(slow, 5)}, {**cases, "X": 5}
    )  # fmt: skip
    sites = [set(event["sites"]) for event in events(folder, "round")]
    assert sites[0] == {"A", "B"}
    assert {"A", "B"} <= sites[1]
    assert events(folder, "site_failed")[0]["reason"] == "no answer before the deadline"


def test_a_run_waits_for_its_sites_and_says_so(tmp_path: Path) -> None:
    folder = RunFolder(tmp_path / "run").create(plan(rounds=1))

    async def story(consortium: Consortium) -> None:
        training = asyncio.ensure_future(federate(consortium, folder))
        await until(lambda: events(folder, "waiting"))
        for name, app in honest("AB")[0].items():
            await consortium.join(name, runs(app, TRAININGS[name][1]))
        await training

    play(tmp_path, story)
    waiting = events(folder, "waiting")[0]
    assert (waiting["connected"], waiting["needed"]) == (0, 2)
    assert set(events(folder, "started")[0]["sites"]) == {"A", "B"}


def test_run_names_missing_site_and_continues_with_lower_quorum(tmp_path: Path) -> None:
    folder, apps = (
        RunFolder(tmp_path / "run").create(plan(rounds=3, min_sites=3, quorum=3, min_quorum=2)),
        honest("ABC")[0],
    )

    async def story(consortium: Consortium) -> None:
        joined = {name: await consortium.join(name, runs(apps[name], TRAININGS[name][1])) for name in apps}
        training = asyncio.ensure_future(federate(consortium, folder))
        await until(lambda: events(folder, "round"))
        joined["C"].task.cancel()
        await until(lambda: [event for event in events(folder, "waiting") if event["connected"] == 2])
        assert not training.done()
        with pytest.raises(UserError, match="2 to 3 updates"):
            folder.lower_quorum(1)
        folder.lower_quorum(2)
        await training

    play(tmp_path, story)
    assert events(folder, "waiting")[-1]["missing"] == ["C"]
    assert [len(event["sites"]) for event in events(folder, "round")][-1] == 2


def test_a_quorum_is_not_lowered_below_what_the_sites_said_yes_to(tmp_path: Path) -> None:
    folder = RunFolder(tmp_path / "run").create(plan(min_sites=3, quorum=3))
    with pytest.raises(UserError, match="of 3 updates, no fewer") as caught:
        folder.lower_quorum(2)
    assert "ynet-server replan" in caught.value.do
    assert folder.quorum() == 3
    (folder.path / "quorum").write_text("1")  # by hand: it does not go below either
    assert folder.quorum() == 3


def test_a_new_plan_goes_on_from_the_last_weights_with_the_sites_that_are_left(tmp_path: Path) -> None:
    apps, cases = honest("ABC")
    old = run(tmp_path / "old", plan(rounds=2, min_sites=3, quorum=3), apps, cases)
    frozen = plan(rounds=5, min_sites=3, quorum=3)
    (old.path / "plan.json").write_text(frozen.canonical())  # a run of five rounds, after its second
    made, path = old.carry_over(quorum=2, min_sites=2)
    assert (made.training.rounds, made.cohort.quorum, made.cohort.min_sites) == (3, 2, 2)
    assert made.id != frozen.id
    new = RunFolder(tmp_path / "new" / "run").create(made, path)

    async def story(consortium: Consortium) -> None:
        for name in "AB":
            await consortium.join(name, runs(apps[name], cases[name]))
        await federate(consortium, new)

    play(tmp_path / "new", story)
    assert [set(event["sites"]) for event in events(new, "round")] == [{"A", "B"}] * 3
    given = weights.load(path)[0]
    np.testing.assert_array_equal(weights.flatten({entry.name: given[entry.name] for entry in LAYOUT}), model(old))
    assert events(new, "started")[0]["given"] == SIZE


def test_nothing_is_carried_over_from_a_run_without_a_whole_round_or_with_all(tmp_path: Path) -> None:
    empty = RunFolder(tmp_path / "run").create(plan())
    with pytest.raises(UserError, match="no round of this run is complete"):
        empty.carry_over(1, 1)
    apps, cases = honest("AB")
    with pytest.raises(UserError, match="all its rounds are complete"):
        run(tmp_path / "done", plan(), apps, cases).carry_over(1, 1)


def test_a_site_that_comes_during_a_run_takes_part_from_the_next_round_on(tmp_path: Path) -> None:
    folder = RunFolder(tmp_path / "run").create(plan(rounds=3))

    async def story(consortium: Consortium) -> None:
        loop = asyncio.get_running_loop()

        def calling_c(number: int, flat: Flat) -> Flat:
            if number == 1:
                joining = consortium.join("C", runs(tiny_app(*TRAININGS["C"]), 10))
                asyncio.run_coroutine_threadsafe(joining, loop).result(10)
            return TRAININGS["A"][0](number, flat)

        await consortium.join("A", runs(tiny_app(calling_c, 30), 30))
        await consortium.join("B", runs(tiny_app(*TRAININGS["B"]), 20))
        await federate(consortium, folder)

    play(tmp_path, story)
    assert [set(event["sites"]) for event in events(folder, "round")] == [{"A", "B"}, {"A", "B", "C"}, {"A", "B", "C"}]
    assert folder.card()["sites"] == {"A": 30, "B": 20, "C": 10}


# --- beginning


def test_sites_that_build_different_networks_do_not_start(tmp_path: Path) -> None:
    other = tiny_app(towards(1), 5, layout=(LayoutEntry("a", (4, 1)), LayoutEntry("b", (3,))))
    with pytest.raises(UserError, match="build different networks"):
        run(tmp_path, plan(), {"A": tiny_app(towards(1), 5), "B": other}, {"A": 5, "B": 5})
    folder = RunFolder(tmp_path / "run")
    assert folder.state() is None
    assert not (folder.path / MODEL).exists()


BEGINNINGS = {
    "no-config": without(CONFIG),
    "no-weights": without(ARRAYS),
    "no-cases": without(METRICS),
    "no-layout": putting(CONFIG, ConfigRecord({"layout": "[["})),
    "infinite-layout": putting(CONFIG, ConfigRecord({"layout": '[["a",[Infinity]]]'})),
    "nan": putting(ARRAYS, weights_record(np.full(SIZE, np.nan, np.float32))),
    "too-many": putting(ARRAYS, weights_record(np.zeros(SIZE + 1, np.float32))),
}


def test_sites_that_begin_with_nonsense_do_not_keep_the_others_from_starting(tmp_path: Path) -> None:
    apps, cases = honest()
    for name, spoil in BEGINNINGS.items():
        apps[name], cases[name] = tiny_app(nan, 5, spoil_initial=spoil), 5
    folder = run(tmp_path, plan(rounds=1, min_sites=3), apps, cases)
    np.testing.assert_allclose(model(folder), by_hand(1), rtol=1e-5)
    refused = {event["site"] for event in events(folder, "update_refused") if event["round"] == 0}
    assert refused == set(BEGINNINGS)
    assert set(events(folder, "started")[0]["sites"]) == {"A", "B", "C"}


# --- going on


@pytest.mark.parametrize("strategy", sorted(STRATEGY_OPTIONS))
def test_stopped_run_resumes_and_ends_with_the_same_model(tmp_path: Path, strategy: str) -> None:
    copy = tmp_path / "as it was in round 3"
    seen: list[int] = []

    def stopping(number: int, flat: Flat) -> Flat:
        seen.append(number)
        if number == 3 and not copy.exists():
            shutil.copytree(tmp_path / "run", copy)  # what a power cut would leave
        return TRAININGS["A"][0](number, flat)

    apps, cases = honest(LARGEST)
    apps["A"] = tiny_app(stopping, 30)
    frozen = plan(rounds=4, strategy=strategy, min_sites=7, quorum=7)
    expected = model(run(tmp_path, frozen, apps, cases))
    seen.clear()
    shutil.rmtree(tmp_path / "run")
    shutil.copytree(copy, tmp_path / "run")
    resumed = run(tmp_path, frozen, apps, cases)
    assert seen == [3, 4]
    assert events(resumed, "round")[-1]["round"] == 4
    np.testing.assert_allclose(model(resumed), expected, rtol=1e-5)
    if strategy == "fedavg":
        np.testing.assert_allclose(expected, by_hand(4, LARGEST), rtol=1e-5)


def test_a_run_that_was_stopped_after_its_last_round_only_scores_and_publishes(tmp_path: Path) -> None:
    folder = RunFolder(tmp_path / "run").create(plan(rounds=2))
    folder.save_state(State(2, np.arange(SIZE, dtype=np.float32), LAYOUT, {"A": 30}))
    run(tmp_path, plan(rounds=2), *honest("AB"))
    assert not events(folder, "round")
    np.testing.assert_array_equal(model(folder), np.arange(SIZE, dtype=np.float32))


def test_a_restart_does_not_let_a_site_name_more_cases_than_before(tmp_path: Path) -> None:
    folder = RunFolder(tmp_path / "run").create(plan(rounds=2))
    folder.save_state(State(1, by_hand(1), LAYOUT, {"A": 30, "B": 20, "C": 10}))
    apps, cases = honest()
    apps["C"] = tiny_app(*TRAININGS["C"], claims=lambda _: 10**9)
    run(tmp_path, plan(rounds=2), apps, {**cases, "C": 10**9})
    np.testing.assert_allclose(model(folder), by_hand(2), rtol=1e-5)


@pytest.mark.filterwarnings("ignore:overflow:RuntimeWarning")
def test_diverging_weights_end_run_with_reason_and_last_good_state(tmp_path: Path) -> None:
    def wild(number: int, flat: Flat) -> Flat:
        return np.full(SIZE, 3e38 * (-1) ** number, np.float32)

    apps = {name: tiny_app(wild, 5) for name in "AB"}
    with pytest.raises(UserError, match="not finite"):
        run(tmp_path, plan(rounds=4, strategy="fedavgm"), apps, {"A": 5, "B": 5})
    state = RunFolder(tmp_path / "run").state()
    assert state is not None
    assert np.isfinite(state.flat).all()


def test_training_that_diverges_at_every_site_ends_the_run_with_a_reason(tmp_path: Path) -> None:
    def diverging(number: int, flat: Flat) -> Flat:
        return flat if number == 1 else nan(number, flat)

    apps = {name: tiny_app(diverging, 5) for name in "AB"}
    with pytest.raises(UserError, match="round 2 came to nothing") as caught:
        run(tmp_path, plan(), apps, {"A": 5, "B": 5})
    assert "not finite" in caught.value.why
    assert "learning_rate" in caught.value.do


def saying_no(number: int, flat: Flat) -> Flat:
    raise RefusedError("private training", "its privacy budget is spent", "")


def failing(number: int, flat: Flat) -> Flat:
    raise ZeroDivisionError


@pytest.mark.parametrize(
    ("training", "why"), [(saying_no, "its privacy budget is spent"), (failing, "the site failed")]
)
def test_a_run_whose_sites_say_no_or_fail_every_time_ends_with_what_they_said(
    tmp_path: Path, training: Any, why: str
) -> None:
    apps, cases = honest("A")
    apps["B"], cases["B"] = tiny_app(training, 5), 5
    with pytest.raises(UserError, match="round 1 came to nothing") as caught:
        run(tmp_path, plan(), apps, cases)
    assert f"site B said: {why}" in caught.value.why
    assert "1 of 2 sites" in caught.value.why


def test_a_run_goes_on_without_a_site_that_says_no_and_shows_it(tmp_path: Path) -> None:
    apps, cases = honest("AB")
    apps["C"], cases["C"] = tiny_app(saying_no, 5), 5
    folder = run(tmp_path, plan(rounds=4), apps, cases)
    np.testing.assert_allclose(model(folder), by_hand(4, "AB"), rtol=1e-5)
    failed = [event for event in events(folder, "site_failed") if event["round"] == 4]
    assert [(event["site"], event["reason"]) for event in failed] == [("C", "its privacy budget is spent")]


def test_a_run_that_nobody_can_begin_ends_with_the_reason(tmp_path: Path) -> None:
    apps = {name: tiny_app(nan, 5, spoil_initial=without(ARRAYS)) for name in "AB"}
    with pytest.raises(UserError, match="the run's beginning came to nothing") as caught:
        run(tmp_path, plan(), apps, {"A": 5, "B": 5})
    assert "not of the form that was asked for" in caught.value.why


def test_the_state_is_kept_after_every_round(tmp_path: Path) -> None:
    rounds: list[int] = []

    def looking(number: int, flat: Flat) -> Flat:
        state = RunFolder(tmp_path / "run").state()
        assert state is not None
        rounds.append(state.round)
        np.testing.assert_array_equal(state.flat, flat)
        return TRAININGS["A"][0](number, flat)

    apps, cases = honest("AB")
    folder = run(tmp_path, plan(rounds=3), {**apps, "A": tiny_app(looking, 30)}, cases)
    assert rounds == [0, 1, 2]
    assert (folder.path / STATE).exists()
