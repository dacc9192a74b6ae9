"""How far a run is, told from its events: the score, and the time that is left, which nobody knows exactly."""

from collections import deque
from collections.abc import Mapping
from typing import Any, NamedTuple

from ynet.plan_sections import Training
from ynet.schedule import AUTO
from ynet_server.commands.run_tables import describe_event
from ynet_server.rounds.stopping import CurvePoint, cool_down, decide

RECENT = 20
"""Rounds whose duration the estimate is made from."""
QUIET = ("round", "evaluated", "curve", "result_evaluated")
"""Kinds of events whose own line would be too long for a demonstration."""


class Left(NamedTuple):
    """Rounds that are left."""

    least: int  # if the scores do not rise from now on
    most: int


def rounds_left(training: Training, number: int, points: list[CurvePoint], end: int | None = None) -> Left:
    """Return how many rounds are left after round `number`.

    Args:
        training: The plan's.
        number: The last complete round.
        points: The curve so far, with `rounds: auto`.
        end: The last round of a cool-down that was called.
    """
    most = training.most_rounds
    if end is None and training.rounds == AUTO:
        has_scores = points or number < 2 * training.evaluate_every
        end = _earliest_end(training, number, points) if has_scores else most
        return Left(end - number, most - number)
    last = most if end is None else end
    return Left(last - number, last - number)


def _earliest_end(training: Training, number: int, points: list[CurvePoint]) -> int:
    """Return the last round of a run whose curve stays as high as it is: the server's rule, played forward."""
    curve, score = list(points), points[-1].score if points else 0.0
    while (decision := decide(curve, number, training, None)).action == "continue":
        number += 1
        if number % training.evaluate_every == 0:
            curve.append(CurvePoint(number, score))
    return number + (cool_down(number, training, "").rounds if decision.action == "cool down" else 0)


class RunLines:
    """Turns a run's events into the lines that a person wants to read."""

    def __init__(self, training: Training) -> None:
        self._training, self._number, self._end = training, 0, None if training.rounds == AUTO else training.most_rounds
        self._times: deque[float] = deque(maxlen=RECENT + 1)
        self._points: list[CurvePoint] = []
        self._is_estimated = False

    def lines(self, event: Mapping[str, Any]) -> list[str]:
        """Return what is to be said after the next event."""
        kind, said = event["kind"], [] if event["kind"] in QUIET else [describe_event(event)]
        if kind == "round":
            self._number = int(event["round"])
            self._times.append(float(event["time"]))
            if len(self._times) >= 3 and not self._is_estimated and self._number % self._training.evaluate_every:
                said.append(self._line(""))
        elif kind == "curve":
            self._points.append(CurvePoint(int(event["round"]), float(event["score"])))
            best = max(self._points, key=lambda point: point.score)
            said.append(self._line(f"score {event['score']:.3f} (best {best.score:.3f}, round {best.round}); "))
        elif kind == "evaluated" and self._training.rounds != AUTO:
            said.append(self._line(""))
        elif kind == "cooldown":
            self._end = int(event["round"]) + int(event["rounds"])
        elif kind == "result_evaluated":
            said.append(f"  the weights of round {event['round']} are published")
        return said

    def _line(self, score: str) -> str:
        self._is_estimated = True
        if len(self._times) < 2:
            return f"  round {self._number}: {score}".rstrip("; ")
        each_s = (self._times[-1] - self._times[0]) / (len(self._times) - 1)
        left = rounds_left(self._training, self._number, self._points, self._end)
        told = f"about {span(left.most * each_s)} left" if left.most else "the last one"
        if left.least != left.most:
            told = (
                f"left: {span(left.least * each_s)} if the score rises no more, and at most"
                f" {span(left.most * each_s)} (round {self._number + left.most})"
            )
        return f"  round {self._number}: {score}{each_s:.1f} s a round; {told}"


def span(seconds: float) -> str:
    """Return a duration in the unit that a person would use."""
    if seconds < 100:
        return f"{seconds:.0f} s"
    return f"{seconds / 60:.0f} min" if seconds < 6000 else f"{seconds / 3600:.1f} h"
