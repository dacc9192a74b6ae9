"""DP-SGD's laws: what one patient can change, how much noise covers it, and that nobody can draw it again."""

import secrets
from typing import Any

import numpy as np
import pytest
import torch
from opacus import GradSampleModule
from private_steps import EVERYTHING, flat, sums_of
from scipy import stats

from ynet.errors import UserError
from ynet.learning import accountant
from ynet.learning.dp_sgd import Clipped, Mechanism, Patients, mechanism
from ynet.learning.grid_noise import Randomness
from ynet.learning.losses import loss_of
from ynet.learning.model import YNet, arrays_of, build
from ynet.learning.train_private import train_privately, trained
from ynet_lab.attacks.released_weights import attack_step, least_epsilon

CPU = torch.device("cpu")
PRIVATE = {"mode": "patient", "epsilon": 8.0, "delta": 1e-3}
LOUD = Mechanism(1e-12, 1.0, 1, 1e6, 6.0)  # all but no noise, all patients in each step, nothing clipped


def patients_of(cases: Any, each: int = 1) -> Patients:
    return Patients([f"p{position // each}" for position in range(len(cases))])


class Summed(Clipped):
    """The clipped sum over single-view patients, one after the other, and their lengths before clipping."""

    def __init__(self, net: YNet, plan: Any, cases: Any, positions: list[int], bound: float) -> None:
        parameters = list(trained(net, plan).values())
        super().__init__(parameters, bound)
        self.norms: list[float] = []
        loss = loss_of(plan, CPU)
        for position in positions:
            batch = cases.batch(torch.tensor([position]))
            net.zero_grad()
            loss(net(batch.image), batch).total.mean().backward()
            (norm,) = self.add([parameter.grad[None] for parameter in parameters])
            self.norms.append(float(norm))


# --- the sum


def test_no_patient_adds_more_than_the_bound_and_all_of_it_where_it_is_short(make_plan: Any, make_cases: Any) -> None:
    plan, cases = make_plan(), make_cases(6)
    net = build(plan)
    norms = Summed(net, plan, cases, list(range(6)), 1e9).norms
    bound = float(np.median(norms))
    for position in range(6):
        one = Summed(net, plan, cases, [position], bound)
        length = float(flat(one.total).norm())
        assert length <= bound
        assert length == pytest.approx(min(bound, norms[position]), rel=1e-5)


def test_without_one_patient_the_sum_moves_by_at_most_the_bound(make_plan: Any, make_cases: Any) -> None:
    plan, cases, bound = make_plan(), make_cases(6), 0.5
    net = build(plan)
    whole = flat(Summed(net, plan, cases, list(range(6)), bound).total)
    for missing in range(6):
        rest = flat(Summed(net, plan, cases, [p for p in range(6) if p != missing], bound).total)
        assert float((whole - rest).norm()) <= bound * (1 + 1e-5)


@pytest.mark.filterwarnings("ignore")  # opacus' own, of torch's hooks
def test_the_clipped_sum_is_that_of_opacus_gradients_of_every_sample(make_plan: Any, make_cases: Any) -> None:
    plan, cases, bound = make_plan(), make_cases(6), 0.7
    net = build(plan)
    ours = flat(Summed(net, plan, cases, list(range(6)), bound).total)
    batch = cases.batch(torch.arange(6))
    wrapped = GradSampleModule(build(plan), loss_reduction="sum")
    loss_of(plan, CPU)(wrapped(batch.image), batch).total.sum().backward()
    learning = [parameter for parameter in wrapped.parameters() if parameter.requires_grad]
    each = torch.cat([parameter.grad_sample.flatten(1) for parameter in learning], 1).double()
    clipped = each * (bound / each.norm(dim=1, keepdim=True)).clamp(max=1)
    torch.testing.assert_close(ours, clipped.sum(0), rtol=1e-3, atol=1e-5)


def test_a_patient_whose_gradient_is_no_number_counts_as_nothing(make_plan: Any, make_cases: Any) -> None:
    plan, cases = make_plan(), make_cases(4)
    net = build(plan)
    good = flat(Summed(net, plan, cases, [0, 2, 3], 1.0).total)
    cases.image[1] = float("nan")
    found = flat(Summed(net, plan, cases, [0, 1, 2, 3], 1.0).total)
    torch.testing.assert_close(found, good)


# --- the noise, and who takes part


def test_the_noise_has_the_deviation_that_was_accounted_for() -> None:
    parameters = [torch.nn.Parameter(torch.zeros(300, 500)), torch.nn.Parameter(torch.zeros(50_000))]
    released = Clipped(parameters, 0.5).release(1.7, 4.0, Randomness())
    noise = flat(released) * 4.0 / (1.7 * 0.5)
    assert float(noise.std()) == pytest.approx(1, abs=0.008)
    assert stats.kstest(noise.numpy(), "norm").pvalue > 1e-4
    assert [part.shape for part in released] == [(300, 500), (50_000,)]


def test_no_seed_brings_the_same_noise_or_the_same_patients_again(make_plan: Any, make_cases: Any) -> None:
    plan, cases = make_plan(privacy=PRIVATE), make_cases(6)

    def once() -> np.ndarray:
        torch.manual_seed(1)
        net = build(plan)
        quiet = Mechanism(1.0, 0.5, 1, 1.0, 3.0)
        result = train_privately(net, cases, patients_of(cases), plan, 1, quiet, device=CPU)
        return result.moments.first

    first, second = once(), once()
    assert (first != second).all()


def test_each_patient_is_drawn_with_the_rate_independently_and_only_own_images_are_shown() -> None:
    patients, secret = Patients(list("aaabccdddd")), secrets.token_bytes(32)
    counts, steps = np.zeros(4), 4000
    together = 0
    for step in range(steps):
        drawn = []
        for views, _ in patients.draw(0.3, 2, step, secret):
            owner = {int(position) for position in views}
            patient = next(i for i, own in enumerate(({0, 1, 2}, {3}, {4, 5}, {6, 7, 8, 9})) if owner <= own)
            assert len(views) == 2
            drawn.append(patient)
        counts[drawn] += 1
        together += {0, 1} <= set(drawn)
    np.testing.assert_allclose(counts / steps, 0.3, atol=0.04)
    assert together / steps == pytest.approx(0.09, abs=0.025)


def test_a_step_that_draws_nobody_is_noise_alone(make_plan: Any, make_cases: Any) -> None:
    plan, cases = make_plan(privacy=PRIVATE), make_cases(3)
    nobody = Mechanism(1.0, 0.0, 2, 1.0, 3.0)
    net = build(plan)
    before = arrays_of(net)
    result = train_privately(net, cases, patients_of(cases), plan, 1, nobody, device=CPU)
    after = arrays_of(net)
    assert (result.loss, result.images) == (0.0, 0)
    assert all(np.isfinite(after[name]).all() and (after[name] != before[name]).all() for name in trained(net, plan))


# --- the training


def test_without_noise_or_clipping_a_step_is_that_of_the_plain_gradient(make_plan: Any, make_cases: Any) -> None:
    plan, cases = make_plan(privacy=PRIVATE, training={"weight_decay": 0.0}), make_cases(6)
    net = build(plan)
    result = train_privately(net, cases, patients_of(cases), plan, 1, LOUD, device=CPU)
    plain, batch = build(plan), cases.batch(torch.arange(6))
    loss_of(plan, CPU)(plain(batch.image), batch).total.mean().backward()
    expected = torch.cat([parameter.grad.flatten() for parameter in trained(plain, plan).values()])
    found = torch.tensor(result.moments.first) / 0.1  # AdamW's first moment after one step
    torch.testing.assert_close(found, expected, rtol=1e-2, atol=1e-4)
    assert result.images == 6


def test_however_many_patients_a_step_draws_each_of_them_counts_once(make_plan: Any, make_cases: Any) -> None:
    for count, views in ((1, 1), (5, 1), (33, 1), (38, 1), (11, 3), (2, 40)):
        plan = make_plan(privacy={**PRIVATE, "views": views}, training={"weight_decay": 0.0})
        cases, whole = make_cases(count), Mechanism(1e-12, 1.0, 1, 1e6, count)
        net = build(plan)
        result = train_privately(net, cases, patients_of(cases), plan, 1, whole, device=CPU)
        plain, batch = build(plan), cases.batch(torch.arange(count))
        loss = loss_of(plan, CPU)(plain(batch.image), batch).total.mean()
        loss.backward()
        expected = torch.cat([parameter.grad.flatten() for parameter in trained(plain, plan).values()])
        found = torch.tensor(result.moments.first) / 0.1
        assert float((found - expected).norm() / expected.norm()) < 1e-3
        assert result.images == count * views
        assert result.loss == pytest.approx(loss.item(), rel=1e-4)


@pytest.mark.parametrize(("which", "few"), [("heads", ("hash.", "place.", "segmentation.logit")), ("biases", ())])
def test_what_the_plan_does_not_train_stays_as_it_was(
    make_plan: Any, make_cases: Any, which: str, few: tuple[str, ...]
) -> None:
    plan, cases = make_plan(privacy={**PRIVATE, "trained": which}), make_cases(4)
    net = build(plan)
    before = arrays_of(net)
    train_privately(net, cases, patients_of(cases), plan, 1, LOUD, device=CPU)
    after = arrays_of(net)
    moved = {name for name in after if (after[name] != before[name]).any()}
    assert moved == {name for name in after if (name.startswith(few) if few else after[name].ndim == 1)}
    assert 0 < len(trained(net, plan)) < len(list(net.parameters()))


# --- the law: without one patient, each step's sum moves by at most the bound

IMAGES_OF = [3, 1, 2, 1, 1, 2, 1, 1, 3, 1, 1, 1]  # by patient
BOUND, STEPS_OF_ROUND = 0.5, 3


def sums(plan: Any, cases: Any, patient_of: list[str], missing: str, rate: float, secret: bytes) -> list[torch.Tensor]:
    """The sums of a round's steps without a patient, before noise; the weights do not move."""
    quiet = Mechanism(0.0, rate, STEPS_OF_ROUND, BOUND, 1.0)
    return sums_of(build(plan), plan, cases, patient_of, set(patient_of) - {missing}, quiet, secret)


@pytest.mark.parametrize("rate", [1.0, 0.4])
@pytest.mark.parametrize(("views", "copies"), [(2, 1), (1, 4)])  # 12 patients; 48, in more than one pass
def test_a_removed_patient_moves_each_steps_sum_by_at_most_the_bound(
    make_plan: Any, make_cases: Any, rate: float, views: int, copies: int
) -> None:
    plan = make_plan(
        privacy={**PRIVATE, "views": views},
        augmentation=EVERYTHING,
        network={"dropout": 0.5},
        training={"learning_rate": 1e-30, "weight_decay": 0.0},
    )
    patient_of = [f"p{n}-{copy}" for copy in range(copies) for n, count in enumerate(IMAGES_OF) for _ in range(count)]
    cases, secret = make_cases(len(patient_of)), bytes(range(32))
    whole = sums(plan, cases, patient_of, "", rate, secret)
    assert len(whole) == STEPS_OF_ROUND
    names = list(dict.fromkeys(patient_of))
    moves = torch.tensor(
        [
            [float((one - other).norm()) for one, other in zip(whole, rest, strict=True)]
            for rest in (sums(plan, cases, patient_of, name, rate, secret) for name in names[:12])
        ]
    )
    assert moves.max() <= BOUND
    is_in = moves > BOUND * 1e-4  # who was not drawn moves nothing but the last bits
    assert moves[is_in].min() > 0.9 * BOUND  # this bound is below every gradient: all of it is used
    assert bool(is_in.all()) == (rate == 1.0)
    assert 0.2 < is_in.float().mean() <= 1


def test_a_patients_draws_are_new_in_each_step_and_each_round(make_plan: Any, make_cases: Any) -> None:
    plan = make_plan(privacy=PRIVATE, augmentation=EVERYTHING, training={"learning_rate": 1e-30, "weight_decay": 0.0})
    cases, patient_of = make_cases(3), ["a", "b", "c"]
    steps = [
        *sums(plan, cases, patient_of, "", 1.0, secrets.token_bytes(32)),
        *sums(plan, cases, patient_of, "", 1.0, secrets.token_bytes(32)),
    ]
    apart = torch.pdist(torch.stack(steps).float())
    assert apart.min() > 1e-3


@pytest.mark.parametrize("epsilon", [1.0, 4.0])
def test_membership_told_from_released_weights_stays_within_epsilon(
    make_plan: Any, make_cases: Any, epsilon: float
) -> None:
    """The attacker knows every other patient, the target, the weights before, and the round's secret of the draws."""
    assert attacked(make_plan, make_cases, epsilon, noise=1.0) <= epsilon


def test_membership_told_with_an_eighth_of_the_noise_exceeds_epsilon(make_plan: Any, make_cases: Any) -> None:
    """As if a patient moved the sum by eight times the bound: the attack above tells it."""
    assert attacked(make_plan, make_cases, 1.0, noise=1 / 8) > 1


def attacked(make_plan: Any, make_cases: Any, epsilon: float, noise: float) -> float:
    """The least epsilon told, where so much of the noise is drawn that `epsilon` takes."""
    delta, patient_of = 1e-2, [f"p{n}" for n in range(6)]
    plan = make_plan(
        privacy={**PRIVATE, "delta": delta, "trained": "heads", "max_grad_norm": BOUND},
        augmentation=EVERYTHING,
        network={"dropout": 0.5, "width": 4, "depth": [1, 1, 1, 1]},
        training={"weight_decay": 0.0},
    )
    drawn = noise * accountant.noise_multiplier(epsilon, delta, 1.0, 1)
    secret = secrets.token_bytes(32)
    told = attack_step(build(plan), plan, make_cases(6), patient_of, "p5", drawn, secret=secret, runs=300)
    return least_epsilon(told, delta, confidence=0.999)


def test_the_mechanism_keeps_the_plans_epsilon_over_all_rounds(make_plan: Any) -> None:
    training = {"rounds": 7, "local_epochs": 2, "batch_size": 8}
    plan = make_plan(privacy=PRIVATE, training=training)
    found = mechanism(plan, 50)
    assert (found.sampling_rate, found.steps, found.batch) == (8 / 50, 14, 8)
    assert 7.9 < accountant.epsilon([found.spends()] * 7, 1e-3) <= 8
    assert mechanism(plan, 3).sampling_rate == 1


def test_what_cannot_be_private_is_refused_with_the_reason(make_plan: Any) -> None:
    for changes, why in (
        ({"privacy": {"mode": "patient"}}, "needs 'epsilon' and 'delta'"),
        ({"privacy": {"mode": "off", "epsilon": 3.0}}, "says more than 'mode: off'"),
        ({"privacy": {**PRIVATE, "epsilon": 0}}, "epsilon"),
        ({"privacy": {**PRIVATE, "delta": 0}}, "delta"),
        ({"privacy": {**PRIVATE, "noise_multiplier": 0}}, "noise_multiplier"),
        ({"privacy": {**PRIVATE, "noise_seed": 1}}, "noise_seed"),
        ({"privacy": PRIVATE, "training": {"strategy": "fedprox"}}, "no part of a patient's gradient"),
        ({"privacy": PRIVATE, "recipe": "paper"}, "compares the samples of a batch"),
        ({"privacy": PRIVATE, "recipe": "circle"}, "compares the samples of a batch"),
        ({"privacy": PRIVATE, "recipe": "dpsh"}, "compares the samples of a batch"),
        ({"privacy": PRIVATE, "augmentation": {"transplant": 0.5}}, "mixes the images of a batch"),
    ):
        with pytest.raises(UserError, match=why):
            make_plan(**changes)
