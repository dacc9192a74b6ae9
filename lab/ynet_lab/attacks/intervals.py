"""Intervals of attacks' figures, by resampling patients: images of one patient are alike, so they count together."""

from collections.abc import Callable
from typing import NamedTuple

import numpy as np
import numpy.typing as npt

Ints = npt.NDArray[np.int64]


class Interval(NamedTuple):
    """A figure, and the range of 95 % of its resamplings."""

    value: float
    low: float
    high: float


def draws_of(patients: int, among: npt.NDArray[np.bool_], count: int, random: np.random.Generator) -> Ints:
    """Return how often each patient is drawn in each of `count` resamplings, shape (count, patients).

    Members are drawn from members and others from others, so that neither is ever missing.
    """
    times = np.zeros((count, patients), np.int64)
    for group in (among, ~among):
        if size := int(group.sum()):
            times[:, group] = random.multinomial(size, np.full(size, 1 / size), count)
    return times


def interval(figure: Callable[[Ints], float], draws: Ints) -> Interval:
    """Return a figure of every patient once, and its range over the resamplings."""
    drawn = [figure(times) for times in draws]
    low, high = np.percentile(drawn, [2.5, 97.5]) if drawn else (np.nan, np.nan)
    return Interval(figure(np.ones(draws.shape[1], np.int64)), float(low), float(high))
