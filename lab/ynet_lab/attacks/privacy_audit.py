"""A lower bound on epsilon from one training run (Steinke, Nasr, Jagielski, NeurIPS 2023).

Each canary is trained on or not by a coin of its own; who can tell afterwards which were, more often than an epsilon
allows, has shown that the training does not keep that epsilon. An alarm for gross failures, for it sees little.
"""

import math
from typing import NamedTuple

import numpy as np
import numpy.typing as npt
from jaxtyping import Bool, Float
from scipy.stats import binom

CONFIDENCE = 0.95
SHARES = (1.0, 0.5, 0.25)  # of the canaries that are guessed at; chosen among, which the confidence pays for
STEPS = 25  # of bisection
MOST = 64.0  # an epsilon beyond all bounds


class AuditResult(NamedTuple):
    """What one run gave away."""

    epsilon_at_least: float  # at 95 % confidence
    highest_possible: float  # had every guess been right
    canaries: int
    guesses: int
    right: int
    delta: float


def audit(score: Float[np.ndarray, " canaries"], is_in: Bool[np.ndarray, " canaries"], delta: float) -> AuditResult:
    """Guess that the highest scores were in and the lowest out, for a share of the canaries; the best share's bound.

    There are len(SHARES) chances to be lucky, so each has to be that much surer (Bonferroni).
    """
    unsure, tried = (1 - CONFIDENCE) / len(SHARES), []
    for share in SHARES:
        each = int(share * len(score) / 2)
        order = np.argsort(score, kind="stable")
        right = int(is_in[order[len(order) - each :]].sum() + (~is_in[order[:each]]).sum())
        tried.append((lower_bound(len(score), 2 * each, right, delta, 1 - unsure), 2 * each, right))
    bound, guesses, right = max(tried)
    highest = max(lower_bound(len(score), count, count, delta, 1 - unsure) for _, count, _ in tried)
    return AuditResult(bound, highest, len(score), guesses, right, delta)


def lower_bound(canaries: int, guesses: int, right: int, delta: float, confidence: float = CONFIDENCE) -> float:
    """The largest epsilon that so many right guesses refute at `delta`; 0 where they refute none."""

    def is_refuted(epsilon: float) -> bool:
        return p_value(canaries, guesses, right, epsilon, delta) < 1 - confidence

    low, high = 0.0, MOST
    if not is_refuted(0.0):
        return 0.0
    for _ in range(STEPS):
        middle = (low + high) / 2
        low, high = (middle, high) if is_refuted(middle) else (low, middle)
    return low


def p_value(canaries: int, guesses: int, right: int, epsilon: float, delta: float) -> float:
    """The chance of at least so many right guesses under (epsilon, delta)-DP, at most (their theorem 5.2)."""
    rate = 1 / (1 + math.exp(-epsilon))  # of randomised response
    tail = float(binom.sf(right - 1, guesses, rate))
    below: npt.NDArray[np.float64] = binom.pmf(np.arange(right - 1, -1, -1), guesses, rate)
    alpha = float((np.cumsum(below) / np.arange(1, right + 1)).max(initial=0.0))
    return min(1.0, tail + 2 * canaries * delta * alpha)
