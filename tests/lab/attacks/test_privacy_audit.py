"""The audit's bound: nothing for coins, what the binomial law allows for more, and never more than is true."""

import math
from typing import Any

import numpy as np
import pytest
import torch
from scipy.stats import binom

from ynet.learning.model import build
from ynet_lab.attacks.membership_inference import losses
from ynet_lab.attacks.privacy_audit import audit, lower_bound, p_value
from ynet_lab.attacks.shadow import train_shadow
from ynet_lab.attacks.subjects import Subjects

CPU = torch.device("cpu")


def test_guesses_no_better_than_a_coin_refute_nothing() -> None:
    assert lower_bound(100, 100, 50, 0.0) == 0
    assert lower_bound(100, 0, 0, 0.0) == 0
    random = np.random.default_rng(1)
    assert audit(random.normal(size=100), random.random(100) < 0.5, 1e-5).epsilon_at_least == 0


@pytest.mark.parametrize("count", [10, 100, 1000])
def test_when_all_guesses_are_right_the_bound_is_where_that_has_a_chance_of_one_in_twenty(count: int) -> None:
    rate = 0.05 ** (1 / count)
    found = lower_bound(count, count, count, 0.0)
    assert found == pytest.approx(math.log(rate / (1 - rate)), abs=1e-4)
    assert found == pytest.approx(math.log(count / 3), abs=0.2)


def test_without_a_delta_the_p_value_is_the_binomial_tail_and_a_delta_only_raises_it() -> None:
    tail = binom.sf(69, 100, 1 / (1 + math.exp(-0.5)))
    assert p_value(100, 100, 70, 0.5, 0.0) == pytest.approx(tail)
    assert tail < p_value(100, 100, 70, 0.5, 1e-4) < p_value(100, 100, 70, 0.5, 1e-2)
    assert p_value(100, 100, 70, 0.5, 0.5) == 1


def test_more_right_guesses_refute_more() -> None:
    bounds = [lower_bound(200, 100, right, 1e-5) for right in range(50, 101, 5)]
    assert bounds == sorted(bounds)
    assert bounds[-1] > 3


def test_randomised_response_is_not_said_to_have_more_epsilon_than_it_has() -> None:
    random, epsilon, over = np.random.default_rng(1), 1.0, 0
    for _ in range(60):
        is_in = random.random(200) < 0.5
        is_told = random.random(200) < 1 / (1 + math.exp(-epsilon))
        score = np.where(is_in == is_told, 1.0, -1.0) + random.normal(0, 1e-3, 200)
        over += audit(score, is_in, 0.0).epsilon_at_least > epsilon
    assert over <= 6


def test_a_score_that_knows_everything_shows_all_that_can_be_shown() -> None:
    is_in = np.arange(40) % 2 == 0
    found = audit(is_in.astype(float), is_in, 1e-5)
    assert (found.right, found.guesses, found.canaries) == (40, 40, 40)
    assert found.epsilon_at_least == found.highest_possible > 2


def test_a_training_that_learns_its_canaries_by_heart_is_caught(make_plan: Any, make_cases: Any) -> None:
    plan = make_plan(training={"rounds": 15, "local_epochs": 2, "learning_rate": 4e-3})
    subjects = Subjects(make_cases(48), np.arange(48), np.ones(48, bool))
    is_in = np.random.default_rng(1).random(48) < 0.5
    trained = train_shadow(plan, None, *subjects.of(is_in), CPU, lambda _: None)
    before, after = (losses(net, subjects.cases, plan, CPU) for net in (build(plan), trained))
    assert audit(before - after, is_in, 1e-5).epsilon_at_least > 0.5
