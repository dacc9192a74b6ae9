"""The learning rate over the rounds, with and without a known end."""

import json
from typing import Any

import pytest

from ynet import plan as plans
from ynet.errors import UserError
from ynet.plan import Plan
from ynet.schedule import Cooldown, is_cooling_down, learning_rate


def plan(privacy: dict[str, Any] | None = None, **training: Any) -> Plan:
    values = {
        "name": "t",
        "classes": ["a", "b"],
        "image": {"channels": 1, "size": 32},
        "training": {"rounds": "auto", "learning_rate": 1.0, **training},
        "cohort": {"min_sites": 1, "quorum": 1},
        "privacy": privacy or {"mode": "off"},
    }
    return plans.from_canonical(json.dumps(values))


def test_cosine_schedule_rises_falls_and_never_ends_at_zero() -> None:
    what = plan(rounds=20, schedule="cosine")
    rates = [learning_rate(what, number) for number in range(1, 21)]
    assert max(rates) == rates[1] == 1.0
    assert rates[1:] == sorted(rates[1:], reverse=True)
    assert 0 < rates[-1] < 0.02
    assert learning_rate(plan(rounds=1, schedule="cosine"), 1) == 1.0


def test_constant_schedule_is_the_plans_rate() -> None:
    assert [learning_rate(plan(rounds=4, schedule="constant"), number) for number in (1, 4)] == [1.0, 1.0]
    auto = plan(schedule="constant")
    assert learning_rate(auto, 1) == learning_rate(auto, 90, Cooldown(3, 5)) == 1.0


def test_auto_plan_has_defaults_of_its_own() -> None:
    training = plan().training
    assert (training.schedule, training.cooldown, training.max_rounds) == ("trapezoid", 0.2, 500)
    assert plan(cooldown=0.1, max_rounds=40).training.most_rounds == 40
    assert plan(rounds=7, schedule="cosine").training.most_rounds == 7
    assert plans.from_canonical(plan().canonical()) == plan()


def test_trapezoid_rises_stays_and_falls_when_it_is_called() -> None:
    what = plan()
    assert [learning_rate(what, number) for number in range(1, 7)] == [0.2, 0.4, 0.6, 0.8, 1.0, 1.0]
    assert learning_rate(what, 499) == 1.0
    falling = [learning_rate(what, 100 + one, Cooldown(one, 9)) for one in range(1, 10)]
    assert falling == sorted(falling, reverse=True)
    assert falling[0] < 1
    assert 0 < falling[-1] < 0.1


def test_trapezoid_of_known_rounds_is_that_of_a_called_cooldown() -> None:
    known, auto = plan(rounds=100, schedule="trapezoid", cooldown=0.2), plan()
    assert learning_rate(known, 80) == 1.0
    for one in range(1, 21):
        assert learning_rate(known, 80 + one) == learning_rate(auto, 80 + one, Cooldown(one, 20))
    assert learning_rate(plan(rounds=10, schedule="trapezoid", cooldown=0.0), 10) == 1.0


def test_cooldown_of_auto_plan_is_what_the_server_calls() -> None:
    assert not is_cooling_down(plan(max_rounds=10), 10)
    assert is_cooling_down(plan(max_rounds=10), 3, Cooldown(1, 5))
    assert [number for number in range(1, 11) if is_cooling_down(plan(rounds=10, cooldown=0.2), number)] == [9, 10]


@pytest.mark.parametrize(
    ("training", "privacy", "why"),
    [
        ({"schedule": "cosine"}, None, "needs the number of rounds"),
        ({"rounds": 10, "max_rounds": 20}, None, "is for 'training.rounds: auto'"),
        ({}, {"mode": "patient", "epsilon": 8, "delta": 1e-3}, "epsilon depends on the number of rounds"),
        ({"rounds": "until flat"}, None, "from 1 to 10000, or 'auto'"),
        ({"rounds": 0}, None, "'training.rounds' is 0"),
        ({"rounds": True}, None, "or 'auto'"),
        ({"max_rounds": 0}, None, "greater than 0"),
    ],
)
def test_plan_with_wrong_length_is_refused(training: dict[str, Any], privacy: dict[str, Any] | None, why: str) -> None:
    with pytest.raises(UserError) as caught:
        plan(privacy, **training)
    assert why in caught.value.why + caught.value.what
