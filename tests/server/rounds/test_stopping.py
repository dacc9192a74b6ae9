"""The rule of `training.rounds: auto`, on synthetic curves."""

import itertools
import json
import math
import random
from collections.abc import Callable, Iterator
from dataclasses import replace
from typing import Any

import pytest

from ynet import plan as plans
from ynet.plan_sections import Training
from ynet_server.rounds import stopping
from ynet_server.rounds.stopping import COOLDOWN_ROUNDS, WINDOW_ROUNDS, Called, CurvePoint, Decision, decide

Shape = Callable[[int], float]


def training(**values: Any) -> Training:
    about = {"name": "t", "classes": ["a", "b"], "image": {"channels": 1, "size": 32}}
    about["training"] = {"rounds": "auto", "learning_rate": 0.1, **values}
    about |= {"cohort": {"min_sites": 1, "quorum": 1}, "privacy": {"mode": "off"}}
    return plans.from_canonical(json.dumps(about)).training


LONG = training(max_rounds=1000)


def rising(number: int) -> float:
    return 0.3 + 0.0005 * number


def saturating(number: int) -> float:
    return 0.65 - 0.35 * math.exp(-number / 80)


def flat(_: int) -> float:
    return 0.5


def saw(number: int) -> float:
    return 0.5 + 0.02 * (number // 5 % 4)


def rising_saw(number: int) -> float:
    return rising(number) + saw(number)


def stepping(number: int) -> float:
    """Flat for 90 rounds, then rising: as long as the two windows that are compared."""
    return 0.3 if number <= 90 else min(0.3 + 0.002 * (number - 90), 0.6)


def decisions(shape: Shape, what: Training = LONG, noise: float = 0.0, seed: int = 1) -> Iterator[tuple[int, Decision]]:
    """The decisions after each round until the run stops, with the cool-down called as the server calls it."""
    draw, points, called = random.Random(seed), list[CurvePoint](), None
    for number in itertools.count(1):
        if number % what.evaluate_every == 0:
            points.append(CurvePoint(number, shape(number) + draw.gauss(0, noise)))
        decision = decide(points, number, what, called)
        if decision.action == "cool down":
            called = stopping.cool_down(number, what, decision.why)
        yield number, decision
        if decision.action == "stop":
            return


def cooled(shape: Shape, what: Training = LONG, noise: float = 0.0, seed: int = 1) -> tuple[int, str]:
    return next((n, one.why) for n, one in decisions(shape, what, noise, seed) if one.action == "cool down")


@pytest.mark.parametrize("shape", [rising, rising_saw])
def test_rising_curve_runs_to_max_rounds(shape: Shape) -> None:
    number, why = cooled(shape)
    assert "training.max_rounds" in why
    assert list(decisions(shape))[-1][0] == LONG.max_rounds
    assert number < LONG.max_rounds


@pytest.mark.parametrize("shape", [flat, saw])
def test_flat_curve_cools_down_after_two_windows(shape: Shape) -> None:
    number, why = cooled(shape)
    assert "the scores are flat" in why
    assert 2 * WINDOW_ROUNDS <= number <= 2 * WINDOW_ROUNDS + 4 * LONG.evaluate_every


@pytest.mark.parametrize("noise", [0.01, 0.02, 0.04])
def test_noisy_flat_curve_ends_early_for_nearly_every_seed(noise: float) -> None:
    ends = sorted(cooled(flat, noise=noise, seed=seed)[0] for seed in range(50))
    assert ends[25] <= 150
    assert ends[45] <= 300


@pytest.mark.parametrize("noise", [0.0, 0.01, 0.02])
def test_noise_does_not_end_rising_curve_early(noise: float) -> None:
    left = [0.65 - saturating(cooled(saturating, noise=noise, seed=seed)[0]) for seed in range(50)]
    assert max(left) < 0.015


def test_rise_within_the_windows_is_awaited() -> None:
    number, _ = cooled(stepping)
    assert stepping(number) == pytest.approx(0.6)


def test_warm_up_is_excluded() -> None:
    points = [CurvePoint(number, 0.0 if number <= 5 else 0.5) for number in range(1, 106)]
    every = training(evaluate_every=1, max_rounds=1000)
    assert decide(points[:104], 104, every, None).action == "continue"
    assert decide(points, 105, every, None).action == "cool down"


def test_no_scores_run_to_max_rounds() -> None:
    called: Called | None = None
    for number in range(1, LONG.max_rounds + 1):
        decision = decide([], number, LONG, called)
        if decision.action == "cool down":
            called = stopping.cool_down(number, LONG, decision.why)
    assert decision.action == "stop"
    assert called is not None
    assert called.after + called.rounds == LONG.max_rounds


@pytest.mark.parametrize("most", [1, 2, 3, 5, 6, 7, 50, 120])
@pytest.mark.parametrize("share", [0.0, 0.2, 1.0])
def test_cooldown_ends_within_max_rounds(most: int, share: float) -> None:
    what = training(max_rounds=most, cooldown=share)
    made = list(decisions(flat, what))
    assert made[-1][0] <= most
    assert [one.action for _, one in made].count("cool down") == (most > 1)


def test_cooldown_is_a_share_of_the_rounds_before() -> None:
    assert stopping.cool_down(100, LONG, "").rounds == 20
    assert stopping.cool_down(101, LONG, "").rounds == 21
    assert stopping.cool_down(100, replace(LONG, cooldown=0.0), "").rounds == COOLDOWN_ROUNDS
    assert stopping.cool_down(995, LONG, "").rounds == 5


def test_cooldown_counts_from_one_to_its_length() -> None:
    called = Called(10, 3, "flat")
    places = [called.place(number) for number in range(9, 14)]
    assert places == [None, None, (1, 3), (2, 3), (3, 3)]
    assert [decide([], number, LONG, called).action for number in (11, 12, 13)] == ["continue", "continue", "stop"]
    assert decide([], 13, LONG, called).why == "flat"


CAPS = {"A": 100, "B": 100, "C": 5}


def site(map10: float | None, ranked: int | None, dice: float | None = None, masks: int | None = 0) -> dict[str, Any]:
    return {"macro_map10": map10, "ranked": ranked, "dice": dice, "masks": masks, "num-examples": 30}


def test_score_weights_sites_by_the_cases_behind_it() -> None:
    newest = stopping.newest_scores({}, {"A": site(0.2, 10), "B": site(0.8, 30)}, CAPS)
    assert stopping.score_of(newest) == pytest.approx(0.65)


def test_score_leaves_out_nulls_and_means_over_what_is_there() -> None:
    sites = {"A": site(None, 0, 0.5, 10), "B": site(0.7, 20, None, 0), "C": site(None, 0, None, 0)}
    assert stopping.score_of(stopping.newest_scores({}, sites, CAPS)) == pytest.approx(0.6)
    assert stopping.score_of(stopping.newest_scores({}, {"A": site(None, 0)}, CAPS)) is None
    assert stopping.score_of({}) is None


def test_site_that_was_away_keeps_its_score() -> None:
    first = stopping.newest_scores({}, {"A": site(0.2, 20), "B": site(0.8, 20)}, CAPS)
    second = stopping.newest_scores(first, {"A": site(0.4, 20)}, CAPS)
    assert stopping.score_of(second) == pytest.approx(0.6)


def test_score_weighs_no_more_than_the_training_cases() -> None:
    newest = stopping.newest_scores({}, {"A": site(0.0, 15), "C": site(1.0, 1_000_000), "X": site(1.0, 10**9)}, CAPS)
    assert stopping.score_of(newest) == pytest.approx(0.25)


def test_count_of_a_site_that_sends_none_is_that_of_its_queries() -> None:
    newest = stopping.newest_scores({}, {"A": site(0.0, None), "B": site(1.0, 30)}, CAPS)
    assert stopping.score_of(newest) == pytest.approx(0.5)
