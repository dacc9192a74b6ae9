"""The rule by which a run with `training.rounds: auto` continues, cools down or stops: pure functions of its scores.

The curve has one score for each evaluated round, the mean of the sites' own scores. It is flat when the mean of its
newest window is not above the mean of the window before by more than a margin. A window covers at least 50 rounds and 5
evaluations, and a quarter of the curve when that is longer. Where the scores are noisy, the margin is reduced by the
standard error of the gain, down to no margin at all: small test sets move the scores by more than a slow rise does.
"""

import itertools
import math
import statistics
from collections.abc import Mapping, Sequence
from typing import Any, Literal, NamedTuple

from ynet.federation.records import CASES
from ynet.plan_sections import Training
from ynet.schedule import Cooldown, warm_up_rounds
from ynet.scores import RESTS_ON

SCORES = ("macro_map10", "dice")
"""The scores whose mean is the curve: what a site retrieves by, and what it segments."""
MARGIN = 0.005
"""Gain from window to window below which a noiseless curve is flat."""
WINDOW_ROUNDS, WINDOW_EVALUATIONS, WINDOW_SHARE = 50, 5, 4
"""A window's least rounds and evaluations, and the number of such windows in the curve."""
COOLDOWN_ROUNDS = 5
"""Fewest rounds of a cool-down, if `training.max_rounds` leaves as many."""

Action = Literal["continue", "cool down", "stop"]
Weighted = Mapping[str, Mapping[str, tuple[float, float]]]
"""By site and score: the newest value, and the cases that it rests on."""


class CurvePoint(NamedTuple):
    """A point of the curve."""

    round: int
    score: float


class Called(NamedTuple):
    """A cool-down that was called."""

    after: int  # the round after which it begins
    rounds: int
    why: str

    def place(self, number: int) -> Cooldown | None:
        """Return the place of round `number` in it; None before it."""
        return Cooldown(number - self.after, self.rounds) if number > self.after else None


class Decision(NamedTuple):
    """What follows after a round, and a sentence that says why."""

    action: Action
    why: str


def decide(points: Sequence[CurvePoint], number: int, training: Training, called: Called | None) -> Decision:
    """Decide what follows after round `number`.

    Args:
        points: the curve so far, in the order of the rounds.
        number: the last complete round.
        training: the plan's training, with `rounds: auto`.
        called: the cool-down that was called after an earlier round, if any.
    """
    most = training.most_rounds
    if called is not None:
        left = called.after + called.rounds - number
        return (
            Decision("continue", f"rounds of the cool-down left: {left}") if left > 0 else Decision("stop", called.why)
        )
    if number >= most:
        return Decision("stop", f"round {number} is the last one that training.max_rounds allows")
    if number + 1 + _wanted_rounds(number + 1, training) > most:
        return Decision("cool down", f"training.max_rounds ends the run after round {most}")
    return _by_curve(points, training)


def cool_down(number: int, training: Training, why: str) -> Called:
    """Return the cool-down that begins after round `number`."""
    return Called(number, min(_wanted_rounds(number, training), training.most_rounds - number), why)


def _wanted_rounds(after: int, training: Training) -> int:
    return max(COOLDOWN_ROUNDS, math.ceil(training.cooldown * after))


def _by_curve(points: Sequence[CurvePoint], training: Training) -> Decision:
    judged = [point for point in points if point.round > warm_up_rounds(training)]
    least = max(WINDOW_EVALUATIONS, math.ceil(WINDOW_ROUNDS / training.evaluate_every))
    window = max(least, len(judged) // WINDOW_SHARE)
    if len(judged) < 2 * window:
        return Decision("continue", f"{len(judged)} of the {2 * window} scores that are compared are there")
    before, newest = ([one.score for one in part] for part in (judged[-2 * window : -window], judged[-window:]))
    old, new = statistics.fmean(before), statistics.fmean(newest)
    error = _noise([*before, *newest]) * math.sqrt(2 / window)
    allowed = max(0.0, MARGIN - error)
    rounds = f"rounds {judged[-window].round} to {judged[-1].round}"
    told = f"their mean is {new:.4f} in {rounds} and {old:.4f} in the {window} evaluations before"
    if new - old > allowed:
        return Decision("continue", f"the scores rise: {told}")
    return Decision("cool down", f"the scores are flat: {told}, and a run continues for a rise of {allowed:.4f}")


def _noise(scores: Sequence[float]) -> float:
    """Return the standard deviation of the scores around a slowly changing mean (von Neumann 1941)."""
    squares = [(after - before) ** 2 for before, after in itertools.pairwise(scores)]
    return math.sqrt(statistics.fmean(squares) / 2)


# --- one score of many sites


def newest_scores(before: Weighted, sites: Mapping[str, Mapping[str, Any]], caps: Mapping[str, int]) -> Weighted:
    """Return the newest scores of all sites after an evaluation.

    A site that was away keeps its scores, so that the curve does not move with who answers. A score of null is left
    out, and so is a site that has not trained. A score weighs as much as the cases that it rests on.

    Args:
        before: those before the evaluation.
        sites: the answers, by site.
        caps: the training cases of each site that has trained, the most that its scores weigh.
    """
    found = {site: dict(scores) for site, scores in before.items()}
    for site, figures in sites.items():
        for name in SCORES:
            value, weight = figures.get(name), _weight(figures, name, caps.get(site, 0))
            if value is not None and weight > 0:
                found.setdefault(site, {})[name] = (float(value), weight)
    return found


def _weight(figures: Mapping[str, Any], name: str, cap: int) -> float:
    rests_on = figures.get(RESTS_ON[name])
    return min(float(figures.get(CASES, 0) if rests_on is None else rests_on), float(cap))


def score_of(newest: Weighted) -> float | None:
    """Return the mean of the scores, each the mean of the sites weighted by cases; None where no site has any."""
    means = []
    for name in SCORES:
        values = [scores[name] for scores in newest.values() if name in scores]
        if values:
            means.append(sum(value * weight for value, weight in values) / sum(weight for _, weight in values))
    return statistics.fmean(means) if means else None
