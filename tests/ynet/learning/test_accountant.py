"""The accountant against others' arithmetic, and the laws that any accountant keeps."""

import math

import pytest
from opacus.accountants import PRVAccountant, RDPAccountant

from ynet.errors import UserError
from ynet.learning.accountant import MechanismSteps, epsilon, noise_multiplier


def opacus(accountant: PRVAccountant | RDPAccountant, spent: MechanismSteps, delta: float) -> float:
    accountant.history = [(spent.noise_multiplier, spent.sampling_rate, spent.steps)]
    return float(accountant.get_epsilon(delta=delta))


@pytest.mark.parametrize(
    ("spent", "delta", "expected"),
    [(MechanismSteps(1.0, 0.01, 1000), 1e-5, 1.83), (MechanismSteps(2.0, 0.064, 800), 2e-4, 3.55)],
)
@pytest.mark.filterwarnings("ignore")  # opacus' own
def test_epsilon_is_what_two_other_accountants_say_and_below_the_looser_one(
    spent: MechanismSteps, delta: float, expected: float
) -> None:
    found = epsilon([spent], delta)
    assert found == pytest.approx(expected, abs=0.01)
    assert found == pytest.approx(opacus(PRVAccountant(), spent, delta), rel=0.02)
    assert found < opacus(RDPAccountant(), spent, delta)


def test_one_step_without_sampling_is_the_gaussian_mechanism_of_the_textbook() -> None:
    """Balle and Wang, ICML 2018, theorem 8: delta of (epsilon, sigma)."""
    sigma = 1.5
    found = epsilon([MechanismSteps(sigma, 1.0, 1)], 1e-5)

    def phi(x: float) -> float:
        return 0.5 * math.erfc(-x / math.sqrt(2))

    delta = phi(0.5 / sigma - found * sigma) - math.exp(found) * phi(-0.5 / sigma - found * sigma)
    assert delta == pytest.approx(1e-5, rel=0.01)


def test_steps_spend_alike_in_one_piece_and_in_many_and_in_any_order() -> None:
    rounds = [
        MechanismSteps(1.2, 0.1, 5),
        MechanismSteps(2.0, 0.05, 7),
        MechanismSteps(1.2, 0.1, 15),
        MechanismSteps(2.0, 0.05, 3),
    ]
    assert (
        epsilon(rounds, 1e-3)
        == epsilon(rounds[::-1], 1e-3)
        == epsilon([MechanismSteps(1.2, 0.1, 20), MechanismSteps(2.0, 0.05, 10)], 1e-3)
    )


def test_more_steps_less_noise_and_more_sampling_never_cost_less() -> None:
    def cost(noise: float = 1.0, rate: float = 0.05, steps: int = 50) -> float:
        return epsilon([MechanismSteps(noise, rate, steps)], 1e-4)

    assert epsilon([], 1e-4) == 0
    assert 0 < cost(steps=10) < cost() < cost(steps=100)
    assert cost(noise=2.0) < cost() < cost(noise=0.7)
    assert cost(rate=0.01) < cost() < cost(rate=0.2)


def test_the_noise_that_is_solved_for_keeps_the_target_and_hardly_less_noise_would() -> None:
    found = noise_multiplier(3.0, 1e-3, 0.2, 60)
    assert epsilon([MechanismSteps(found, 0.2, 60)], 1e-3) <= 3.0
    assert epsilon([MechanismSteps(found * 0.99, 0.2, 60)], 1e-3) > 3.0


def test_a_mechanism_without_noise_is_never_given_an_epsilon() -> None:
    with pytest.raises(ValueError, match="without noise"):
        epsilon([MechanismSteps(0.0, 0.1, 1)], 1e-3)


def test_what_no_noise_can_keep_is_refused() -> None:
    with pytest.raises(UserError, match="cannot be reached"):
        noise_multiplier(1e-9, 1e-3, 1.0, 100_000_000)
