"""Membership told from the weights that a private step releases, by the attacker whom differential privacy is about.

The attacker knows the weights before, every patient's data, the target's too, and even the round's secret, from which
views, augmentation and dropout are drawn: all but the noise, and whether the target took part. With every patient in
the step (no amplification by sampling) that is the worst case of the bound, and the whole epsilon lies in one step.
What AdamW's first step shows of the noised sum is its signs; the score is their log likelihood ratio.
"""

from collections.abc import Sequence
from dataclasses import replace
from typing import NamedTuple

import numpy as np
import torch
from jaxtyping import Float64
from scipy import stats

from ynet.data.batch import CaseSource
from ynet.data.subset import Subset
from ynet.learning.dp_sgd import Mechanism, Patients
from ynet.learning.model import YNet, arrays_of, load_arrays
from ynet.learning.train_private import train_privately, trained
from ynet.plan import Plan

STILL = 1e-30  # a learning rate at which single-precision weights stay where they are
FIRST_MOMENT = 0.1  # AdamW's share of a first gradient in its first moment
Scores = Float64[np.ndarray, " runs"]


class Told(NamedTuple):
    """Scores of trainings with the target and without."""

    members: Scores
    others: Scores


class _Side(NamedTuple):
    """What is trained on."""

    cases: CaseSource
    patients: Patients


def attack_step(
    net: YNet,
    plan: Plan,
    cases: CaseSource,
    patient_of: Sequence[str],
    target: str,
    noise_multiplier: float,
    *,
    secret: bytes,
    runs: int,
) -> Told:
    """Train one private step of `net` `runs` times with and without `target`, with fresh noise, and score what came."""
    kept = [position for position, name in enumerate(patient_of) if name != target]
    without = _Side(Subset(cases, torch.tensor(kept)), Patients([patient_of[position] for position in kept]))
    sides = (_Side(cases, Patients(patient_of)), without)
    bound, begun = plan.privacy.max_grad_norm, arrays_of(net)
    loud = Mechanism(noise_multiplier, 1.0, 1, bound, float(len(sides[0].patients)))
    means = [_mean(net, plan, side, secret) / (noise_multiplier * bound) for side in sides]
    # A positive gradient moves its weight down. Of each sign, how much likelier it is with the target.
    odds = {sign: stats.norm.logcdf(sign * means[0]) - stats.norm.logcdf(sign * means[1]) for sign in (-1, 1)}
    scores = np.zeros((2, runs))
    for number, side in enumerate(sides):
        for run in range(runs):
            load_arrays(net, begun)
            train_privately(net, side.cases, side.patients, plan, 1, loud, device=_device(net), secret=secret)
            after = arrays_of(net)
            moved = np.concatenate([(after[name] - begun[name]).ravel() for name in trained(net, plan)])
            scores[number, run] = np.where(moved < 0, odds[1], odds[-1]).sum()
    load_arrays(net, begun)
    return Told(*scores)


def least_epsilon(told: Told, delta: float, confidence: float = 0.95) -> float:
    """The epsilon that the best threshold's rates need at the least, by Clopper's and Pearson's bounds on both.

    The threshold is chosen on one half of the scores and judged on the other.
    """
    half = len(told.members) // 2
    chosen, judged = (Told(*(scores[part] for scores in told)) for part in (slice(half), slice(half, None)))
    thresholds = np.concatenate(chosen)
    best = max(thresholds, key=lambda threshold: _bound(chosen, threshold, delta, confidence))
    return max(0.0, _bound(judged, best, delta, confidence))


def rates(told: Told) -> tuple[int, int, int]:
    """Members found and false alarms at the threshold that tells best on the other half, and of how many each."""
    half = len(told.members) // 2
    thresholds = np.concatenate([scores[:half] for scores in told])
    best = max(thresholds, key=lambda one: (told.members[:half] >= one).sum() - (told.others[:half] >= one).sum())
    found, alarms = (int((scores[half:] >= best).sum()) for scores in told)
    return found, alarms, len(told.members) - half


def _bound(told: Told, threshold: float, delta: float, confidence: float) -> float:
    """Of (epsilon, delta), what both kinds of error at the threshold leave (Kairouz, Oh, Viswanath, ICML 2015)."""
    misses, alarms = int((told.members < threshold).sum()), int((told.others >= threshold).sum())
    one, other = (_most(count, len(told.members), confidence) for count in (misses, alarms))
    return max(float(np.log(max(1 - a - delta, 1e-12) / b)) for a, b in ((one, other), (other, one)))


def _most(hits: int, count: int, confidence: float) -> float:
    """The upper end of a share's interval; each of the two shares may miss half of what `confidence` leaves."""
    return float(stats.beta.ppf(1 - (1 - confidence) / 2, hits + 1, count - hits)) if hits < count else 1.0


def _mean(net: YNet, plan: Plan, side: _Side, secret: bytes) -> Float64[np.ndarray, " parameters"]:
    """The clipped sum of a step before noise."""
    still = replace(plan, training=replace(plan.training, learning_rate=STILL, weight_decay=0.0))
    quiet = Mechanism(0.0, 1.0, 1, plan.privacy.max_grad_norm, 1.0)
    result = train_privately(net, side.cases, side.patients, still, 1, quiet, device=_device(net), secret=secret)
    return result.moments.first.astype(np.float64) / FIRST_MOMENT


def _device(net: YNet) -> torch.device:
    return next(net.parameters()).device
