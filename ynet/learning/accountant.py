"""What DP-SGD spends: privacy loss distributions of the Poisson-sampled Gaussian mechanism, by dp-accounting.

The unit is a patient: neighbouring data sets differ in one patient's presence. Epsilons are upper bounds, by
dp-accounting's pessimistic discretisation (Doroshenko et al., PETS 2022).
"""

import math
from collections.abc import Iterable
from functools import cache, partial
from typing import NamedTuple

import dp_accounting as dp
from dp_accounting.pld import PLDAccountant
from dp_accounting.rdp import RdpAccountant

from ynet.errors import UserError

PRECISION = 1e-3  # of a noise multiplier that is solved for, as a share of it
LOOSE = 0.5  # Renyi accounting asks for no more than twice the noise that is needed
ORDERS = (*range(2, 65), 80, 96, 128, 192, 256, 512, 1024)  # whole ones: the others are sums that may not end
MOST_NOISE = 1e4  # beyond it there is no signal left


class MechanismSteps(NamedTuple):
    """Some steps of one mechanism."""

    noise_multiplier: float  # standard deviation of the noise over the clipping norm; above 0
    sampling_rate: float  # the chance of each patient to be in a step; above 0, at most 1
    steps: int


def epsilon(spent: Iterable[MechanismSteps], delta: float) -> float:
    """The epsilon at `delta` of all that was spent on the same patients. 0 for nothing."""
    accountant, is_empty = PLDAccountant(), True
    for steps in together(spent):
        is_empty = False
        accountant.compose(_event(steps.noise_multiplier, steps.sampling_rate), steps.steps)
    return 0.0 if is_empty else float(accountant.get_epsilon(delta))


@cache
def noise_multiplier(target: float, delta: float, sampling_rate: float, steps: int) -> float:
    """The least noise multiplier, to PRECISION and rounded up, with which `steps` stay within (target, delta)-DP.

    Raises UserError when no reasonable noise does.
    """

    def made(noise: float) -> dp.DpEvent:
        return dp.SelfComposedDpEvent(_event(noise, sampling_rate), steps)

    # Renyi accounting first: it is loose, and takes no memory for too little noise, of which the other takes terabytes.
    try:
        renyi = partial(RdpAccountant, ORDERS)
        above = dp.calibrate_dp_mechanism(renyi, made, target, delta, dp.LowerEndpointAndGuess(0.0, 1.0))
        between = dp.ExplicitBracketInterval(LOOSE * above, above)
        found = dp.calibrate_dp_mechanism(PLDAccountant, made, target, delta, between, tol=PRECISION * above)
    except (dp.mechanism_calibration.NoBracketIntervalFoundError, OverflowError):
        above = math.inf
    if above > MOST_NOISE:
        why = f"no reasonable noise keeps {steps} steps within epsilon {target:g} at delta {delta:g}"
        raise UserError("the plan's privacy cannot be had", why, "raise epsilon, or train fewer rounds")
    return float(found)


def together(spent: Iterable[MechanismSteps]) -> list[MechanismSteps]:
    """The steps of equal mechanisms added up, in the mechanisms' order: to compose them so is cheaper, and the same."""
    steps: dict[tuple[float, float], int] = {}
    for noise, rate, count in spent:
        if not noise > 0:
            raise ValueError("a mechanism without noise has no epsilon")
        steps[noise, rate] = steps.get((noise, rate), 0) + count
    return [MechanismSteps(noise, rate, count) for (noise, rate), count in sorted(steps.items())]


def _event(noise: float, rate: float) -> dp.DpEvent:
    gaussian = dp.GaussianDpEvent(noise)
    return dp.PoissonSampledDpEvent(rate, gaussian) if rate < 1 else gaussian
