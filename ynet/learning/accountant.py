"""The privacy accountant of DP-SGD: the Poisson-sampled Gaussian mechanism, composed by dp-accounting.

Neighbouring data sets differ in one patient's presence. dp-accounting composes privacy loss distributions with a
pessimistic discretisation (Doroshenko et al., PETS 2022), so epsilons are upper bounds.
"""

import math
from collections.abc import Iterable
from functools import cache, partial
from typing import NamedTuple

import dp_accounting as dp
from dp_accounting.pld import PLDAccountant
from dp_accounting.rdp import RdpAccountant

from ynet.errors import UserError

PRECISION = 1e-3  # relative precision of a calibrated noise multiplier
LOOSE = 0.5  # Renyi accounting needs at most twice the necessary noise
ORDERS = (*range(2, 65), 80, 96, 128, 192, 256, 512, 1024)  # integers: other orders need infinite sums
MOST_NOISE = 1e4  # beyond it there is no signal left


class MechanismSteps(NamedTuple):
    """A number of steps of one mechanism."""

    noise_multiplier: float  # standard deviation of the noise over the clipping norm; above 0
    sampling_rate: float  # each patient's probability to be in a step; above 0, at most 1
    steps: int


def epsilon(spent: Iterable[MechanismSteps], delta: float) -> float:
    """Return the epsilon at `delta` of all steps on the same patients; 0 for no step."""
    accountant, is_empty = PLDAccountant(), True
    for steps in together(spent):
        is_empty = False
        accountant.compose(_event(steps.noise_multiplier, steps.sampling_rate), steps.steps)
    return 0.0 if is_empty else float(accountant.get_epsilon(delta))


@cache
def noise_multiplier(target: float, delta: float, sampling_rate: float, steps: int) -> float:
    """Return the least noise multiplier with which `steps` steps are (target, delta)-DP, rounded up to PRECISION.

    Raises:
        UserError: No reasonable noise is enough.
    """

    def made(noise: float) -> dp.DpEvent:
        return dp.SelfComposedDpEvent(_event(noise, sampling_rate), steps)

    # Renyi accounting gives the bracket: for too little noise, privacy loss distributions would need terabytes.
    try:
        renyi = partial(RdpAccountant, ORDERS)
        above = dp.calibrate_dp_mechanism(renyi, made, target, delta, dp.LowerEndpointAndGuess(0.0, 1.0))
        between = dp.ExplicitBracketInterval(LOOSE * above, above)
        found = dp.calibrate_dp_mechanism(PLDAccountant, made, target, delta, between, tol=PRECISION * above)
    except (dp.mechanism_calibration.NoBracketIntervalFoundError, OverflowError):
        above = math.inf
    if above > MOST_NOISE:
        why = f"no reasonable noise keeps {steps} steps within epsilon {target:g} at delta {delta:g}"
        raise UserError("the plan's privacy cannot be reached", why, "raise epsilon, or train fewer rounds")
    return float(found)


def together(spent: Iterable[MechanismSteps]) -> list[MechanismSteps]:
    """Add up the steps of equal mechanisms, sorted by mechanism: the composition is the same, but cheaper."""
    steps: dict[tuple[float, float], int] = {}
    for noise, rate, count in spent:
        if not noise > 0:
            raise ValueError("a mechanism without noise has no epsilon")
        steps[noise, rate] = steps.get((noise, rate), 0) + count
    return [MechanismSteps(noise, rate, count) for (noise, rate), count in sorted(steps.items())]


def _event(noise: float, rate: float) -> dp.DpEvent:
    gaussian = dp.GaussianDpEvent(noise)
    return dp.PoissonSampledDpEvent(rate, gaussian) if rate < 1 else gaussian
