"""The learning rate over a run's rounds, and the cool-down, whether or not the last round is known beforehand.

The schedule `trapezoid` rises in a warm-up, stays constant, and falls in the cool-down (warmup-stable-decay: Hägele et
al. 2024, arXiv:2405.18392, whose "1-sqrt" is used here). With `training.rounds: auto` the server calls the cool-down,
and each round's message says which of its rounds it is.
"""

import math
from collections.abc import Mapping
from types import MappingProxyType
from typing import TYPE_CHECKING, Any, NamedTuple

if TYPE_CHECKING:
    from ynet.plan import Plan
    from ynet.plan_sections import Training

AUTO = "auto"
AUTO_DEFAULTS: Mapping[str, Any] = MappingProxyType({"schedule": "trapezoid", "cooldown": 0.2})
"""Defaults of a plan with `training.rounds: auto`, in place of the others."""
MOST_ROUNDS = 500
"""Default of `training.max_rounds`: on unlike hospitals the curve still rose after 300 rounds of one epoch."""
MOST_NUMBER = 10_000
WARM_UP = 0.1
"""Share of a known number of rounds in which the learning rate rises."""
AUTO_WARM_UP_ROUNDS = 5
"""Rounds in which the learning rate rises when the end is not known."""


class Cooldown(NamedTuple):
    """The place of a round in the cool-down that the server has called."""

    round: int  # from 1
    rounds: int


def counted(value: Any) -> Any:
    """Return a value of `training.rounds` unchanged. Raises ValueError when it is neither a number nor `auto`."""
    is_number = isinstance(value, int) and not isinstance(value, bool) and 0 < value <= MOST_NUMBER
    if value != AUTO and not is_number:
        raise ValueError(f"it must be a whole number from 1 to {MOST_NUMBER}, or {AUTO!r}")
    return value


def fault(training: "Training", privacy_mode: str) -> str | None:
    """Say what is wrong with the length of a plan's run; None when nothing is."""
    if training.rounds != AUTO:
        return None if training.max_rounds == MOST_ROUNDS else "'training.max_rounds' is for 'training.rounds: auto'"
    if privacy_mode != "off":
        return "'training.rounds: auto' is not for a private plan: its epsilon depends on the number of rounds; give it"
    if training.schedule == "cosine":
        return "'training.schedule: cosine' needs the number of rounds: leave it out with 'training.rounds: auto'"
    return None


def is_cooling_down(plan: "Plan", number: int, called: Cooldown | None = None) -> bool:
    """Return whether round `number` (from 1) belongs to the cool-down."""
    if plan.training.rounds == AUTO:
        return called is not None
    return number > plan.training.most_rounds * (1 - plan.training.cooldown)


def learning_rate(plan: "Plan", number: int, called: Cooldown | None = None) -> float:
    """Return the learning rate of round `number` (from 1).

    Args:
        plan: The plan. `called` counts only with `training.rounds: auto`.
        number: The round.
        called: The round's place in the cool-down that the server has called; None outside of it.
    """
    peak, schedule = plan.training.learning_rate, plan.training.schedule
    if schedule == "constant":
        return peak
    warm_up = warm_up_rounds(plan.training)
    if number <= warm_up:
        return peak * number / warm_up
    if schedule == "trapezoid":
        place = called if plan.training.rounds == AUTO else _planned(plan, number)
        return peak if place is None else peak * (1 - math.sqrt(place.round / (place.rounds + 1)))
    rounds = plan.training.most_rounds
    share = (number - warm_up) / (rounds - warm_up + 1)
    return peak * (1 + math.cos(math.pi * share)) / 2


def warm_up_rounds(training: "Training") -> int:
    """Return the number of rounds in which the learning rate rises."""
    share = max(1, round(WARM_UP * training.most_rounds))
    return min(AUTO_WARM_UP_ROUNDS, share) if training.rounds == AUTO else share


def _planned(plan: "Plan", number: int) -> Cooldown | None:
    """Return the round's place in the cool-down of a known number of rounds."""
    if not is_cooling_down(plan, number):
        return None
    rounds = plan.training.most_rounds
    begin = next(one for one in range(1, rounds + 1) if is_cooling_down(plan, one))
    return Cooldown(number - begin + 1, rounds - begin + 1)
