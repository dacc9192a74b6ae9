"""One site's training in one round."""

from typing import Any

import numpy as np
import pytest
import torch
from torch import nn

from ynet.errors import UserError
from ynet.fixed_arrays import fixed_arrays
from ynet.learning.losses import loss_of
from ynet.learning.model import arrays_of, build
from ynet.learning.train import GRADIENT_NORM, DivergedError, train
from ynet.network_size import network_values
from ynet.schedule import Cooldown

CPU = torch.device("cpu")


def trained(plan: Any, cases: Any, seed: int = 1, **options: Any) -> dict[str, np.ndarray]:
    net = build(plan)
    train(net, cases, plan, 1, device=CPU, generator=torch.Generator().manual_seed(seed), **options)
    return arrays_of(net)


def plain_epoch(net: nn.Module, optimizer: torch.optim.Optimizer, plan: Any, cases: Any, order: torch.Tensor) -> None:
    """Twenty cases in batches of eight, as anybody would write it."""
    for positions in (order[:8], order[8:16], order[16:]):
        batch = cases.batch(positions)
        optimizer.zero_grad()
        loss_of(plan, CPU)(net(batch.image), batch).total.mean().backward()
        nn.utils.clip_grad_norm_(net.parameters(), GRADIENT_NORM)
        optimizer.step()


def distance(a: dict[str, np.ndarray], b: dict[str, np.ndarray]) -> float:
    """Between all weights."""
    return float(sum(((a[name] - b[name]) ** 2).sum() for name in a)) ** 0.5


def test_a_site_smaller_than_a_batch_makes_one_step_of_adamw_written_out(make_plan: Any, make_cases: Any) -> None:
    rate, decay = 1e-3, 0.1
    plan, cases = make_plan(training={"learning_rate": rate, "weight_decay": decay}), make_cases(6)
    net = build(plan)
    batch = cases.batch(torch.randperm(6, generator=torch.Generator().manual_seed(1)))
    loss_of(plan, CPU)(net(batch.image), batch).total.mean().backward()
    learning = {name: value for name, value in net.named_parameters() if value.requires_grad}
    start = {name: value.detach().double().numpy() for name, value in learning.items()}
    gradient = {name: value.grad.double().numpy() for name, value in learning.items()}
    shrink = min(1.0, GRADIENT_NORM / np.sqrt(sum((g**2).sum() for g in gradient.values())))
    found = trained(plan, cases)
    for name, weight in start.items():
        g = gradient[name] * shrink  # at the first step both moments, corrected, are g and g squared
        expected = weight * (1 - rate * decay) - rate * g / (np.abs(g) + 1e-8)
        np.testing.assert_allclose(found[name], expected, atol=2e-6, err_msg=name)


def test_two_epochs_are_a_plain_loop_over_shuffled_batches(make_plan: Any, make_cases: Any) -> None:
    plan, cases = make_plan(training={"local_epochs": 2}), make_cases(20)
    net, generator = build(plan), torch.Generator().manual_seed(1)
    optimizer = torch.optim.AdamW(net.parameters(), 1e-3, weight_decay=plan.training.weight_decay)
    for _ in range(2):
        order = torch.randperm(20, generator=generator)
        plain_epoch(net, optimizer, plan, cases, order)
    assert distance(arrays_of(net), trained(plan, cases)) < 1e-2 * distance(arrays_of(net), arrays_of(build(plan)))


def test_the_reported_losses_are_means_over_images_not_over_batches(make_plan: Any, make_cases: Any) -> None:
    plan, cases = make_plan(training={"learning_rate": 1e-12, "local_epochs": 2}), make_cases(11)
    net = build(plan)
    batch = cases.batch(torch.arange(11))
    expected = [float(part.detach().mean()) for part in loss_of(plan, CPU)(net(batch.image), batch)]
    result = train(net, cases, plan, 1, device=CPU, generator=torch.Generator().manual_seed(1))
    assert [result.loss, result.classification, result.segmentation] == pytest.approx(expected, rel=1e-4)
    assert result.images == 22
    assert result.seconds > 0


def test_all_randomness_comes_from_the_generator_given(make_plan: Any, make_cases: Any) -> None:
    before = torch.get_rng_state()
    trained(make_plan(augmentation={"flip": True, "rotate_deg": 15, "noise": 0.1, "contrast": 0.2}), make_cases(9))
    assert torch.equal(torch.get_rng_state(), before)


def test_the_same_generator_gives_the_same_weights(make_plan: Any, make_cases: Any) -> None:
    plan = make_plan(augmentation={"flip": True, "noise": 0.1})
    assert distance(trained(plan, make_cases(20)), trained(plan, make_cases(20))) == 0
    assert distance(trained(plan, make_cases(20)), trained(plan, make_cases(20), seed=2)) > 0


def test_the_proximal_term_holds_the_weights_where_they_came_from(make_plan: Any, make_cases: Any) -> None:
    plan, cases = make_plan(training={"local_epochs": 5}), make_cases(24)
    start = arrays_of(build(plan))
    free, held = trained(plan, cases), trained(plan, cases, proximal_mu=1000.0)
    assert distance(held, start) < 0.5 * distance(free, start)
    assert distance(trained(plan, cases, proximal_mu=0.0), free) == 0


def test_progress_counts_every_batch_once(make_plan: Any, make_cases: Any) -> None:
    seen: list[Any] = []
    trained(make_plan(training={"local_epochs": 2}), make_cases(20), on_progress=seen.append)
    assert [(p.epoch, p.done, p.total) for p in seen] == [(1, i, 6) for i in (1, 2, 3)] + [(2, i, 6) for i in (4, 5, 6)]


@pytest.mark.parametrize("recipe", ["default", "paper"])
def test_a_site_with_one_case_trains(recipe: str, make_plan: Any, make_cases: Any) -> None:
    plan = make_plan(recipe=recipe)
    assert distance(trained(plan, make_cases(1)), arrays_of(build(plan))) > 0


def test_a_loss_that_is_no_number_ends_the_training(make_plan: Any, make_cases: Any) -> None:
    cases = make_cases(4)
    cases.image[2] = float("nan")
    with pytest.raises(DivergedError, match="not a finite number"):
        trained(make_plan(), cases)


def test_a_site_without_cases_says_so(make_plan: Any, make_cases: Any) -> None:
    with pytest.raises(UserError, match="nothing to train on"):
        trained(make_plan(), make_cases(0))


def test_a_network_that_diverges_keeps_its_last_finite_weights(make_plan: Any, make_cases: Any) -> None:
    plan, cases = make_plan(), make_cases(4)
    cases.image[2] = float("nan")
    net = build(plan)
    with pytest.raises(DivergedError):
        train(net, cases, plan, 1, device=CPU, generator=torch.Generator().manual_seed(1))
    assert distance(arrays_of(net), arrays_of(build(plan))) == 0


def test_the_last_rounds_take_images_as_they_are_without_augmentation_and_dropout(
    make_plan: Any, make_cases: Any
) -> None:
    strong = {"rotate_deg": 90.0, "noise": 1.0, "transplant": 1.0}
    parts: dict[str, Any] = {"training": {"rounds": 4, "cooldown": 0.5}, "network": {"dropout": 0.5}}
    busy, calm = make_plan(augmentation=strong, **parts), make_plan(network={"dropout": 0.0})
    for number, is_same in ((2, False), (3, True), (4, True)):
        nets = [build(busy), build(calm)]
        for net, plan in zip(nets, (busy, calm), strict=True):
            train(net, make_cases(12), plan, number, device=CPU, generator=torch.Generator().manual_seed(1))
        assert (distance(*map(arrays_of, nets)) < 1e-5) is is_same


def test_called_cooldown_is_without_augmentation_and_with_a_lower_rate(make_plan: Any, make_cases: Any) -> None:
    strong = {"rotate_deg": 90.0, "noise": 1.0, "transplant": 1.0}
    auto = {"rounds": "auto", "schedule": "trapezoid", "max_rounds": 20}
    busy = make_plan(augmentation=strong, training=auto, network={"dropout": 0.5})
    calm = make_plan(training=auto, network={"dropout": 0.0})
    moved = {}
    for name, plan, called in (
        ("busy", busy, None),
        ("first", busy, (1, 9)),
        ("last", busy, (9, 9)),
        ("calm", calm, (1, 9)),
    ):
        net, cooldown = build(plan), called and Cooldown(*called)
        generator = torch.Generator().manual_seed(1)
        train(net, make_cases(12), plan, 15, device=CPU, generator=generator, cooldown=cooldown)
        moved[name] = arrays_of(net)
    start = arrays_of(build(busy))
    assert distance(moved["first"], moved["calm"]) < 1e-5
    assert distance(moved["first"], moved["busy"]) > 1e-3
    assert 0 < distance(moved["last"], start) < distance(moved["first"], start) < distance(moved["busy"], start)


def test_dropout_comes_from_the_generator_and_leaves_torchs_own_as_it_was(make_plan: Any, make_cases: Any) -> None:
    plan = make_plan(network={"dropout": 0.5})
    torch.manual_seed(3)
    one = trained(plan, make_cases(12))
    here = torch.rand(1)
    torch.manual_seed(4)
    two = trained(plan, make_cases(12))
    assert all(np.array_equal(one[name], two[name]) for name in one)
    torch.manual_seed(3)
    assert torch.equal(torch.rand(1), here)


def test_rounds_that_hand_on_the_moments_are_one_training(make_plan: Any, make_cases: Any) -> None:
    plan, cases = make_plan(), make_cases(20)
    net, moments = build(plan), None
    for number in (1, 2, 3):
        generator = torch.Generator().manual_seed(number)
        moments = train(net, cases, plan, number, device=CPU, generator=generator, moments=moments).moments
    assert moments is not None
    assert moments.steps == 9
    whole = build(plan)
    optimizer = torch.optim.AdamW(whole.parameters(), 1e-3, weight_decay=plan.training.weight_decay, fused=True)
    for number in (1, 2, 3):
        order = torch.randperm(20, generator=torch.Generator().manual_seed(number))
        plain_epoch(whole, optimizer, plan, cases, order)
    assert distance(arrays_of(net), arrays_of(whole)) < 1e-2 * distance(arrays_of(whole), arrays_of(build(plan)))


@pytest.mark.parametrize("pieces", [2, 3, 8])
@pytest.mark.parametrize("proximal_mu", [0.0, 0.5])
def test_batches_in_pieces_train_the_same(make_plan: Any, make_cases: Any, pieces: int, proximal_mu: float) -> None:
    plan, cases = make_plan(training={"local_epochs": 2}), make_cases(20)
    whole = trained(plan, cases, proximal_mu=proximal_mu)
    cut = trained(plan, cases, proximal_mu=proximal_mu, micro_batches=pieces)
    assert distance(whole, cut) < 2e-3 * distance(whole, arrays_of(build(plan)))


SMALL_PARTS = ("all", "last-stages", "heads")


@pytest.mark.parametrize("which", SMALL_PARTS)
@pytest.mark.parametrize("encoder", ["ynet", "tf_efficientnet_lite0"])
def test_round_changes_all_but_the_fixed_arrays(which: str, encoder: str, make_plan: Any, make_cases: Any) -> None:
    weights = None if encoder == "ynet" else "a" * 64
    network = {"encoder": encoder, "encoder_weights": weights, "width": 8 if weights is None else 16}
    plan = make_plan(training={"trained": which}, network=network)
    net, start = build(plan), arrays_of(build(plan))
    options: dict[str, Any] = {"device": CPU, "generator": torch.Generator().manual_seed(1), "proximal_mu": 0.1}
    first = train(net, make_cases(8), plan, 1, **options)
    second = train(net, make_cases(8), plan, 2, moments=first.moments, **options)
    found, fixed = arrays_of(net), fixed_arrays(plan, list(start))
    assert all((found[name] == start[name]).all() for name in fixed)
    learning = {name: one for name, one in net.named_parameters() if one.requires_grad}
    assert all((found[name] != start[name]).any() for name in learning)
    assert not fixed & learning.keys()
    assert {name for name in start if name not in fixed} == learning.keys()
    assert second.moments.first.size == second.moments.second.size == sum(one.numel() for one in learning.values())


@pytest.mark.parametrize(("code", "trains_code"), [("moments", False), ("trained", True)])
def test_frozen_encoder_with_a_code_from_moments_trains_the_mask_alone(
    code: str, trains_code: bool, make_plan: Any, make_cases: Any
) -> None:
    plan, cases = make_plan(training={"trained": "heads"}, network={"code": code}), make_cases(12)
    fixed, arrays = fixed_arrays(plan, names := list(arrays_of(build(plan)))), trained(plan, cases)
    assert network_values(plan) == sum(array.size for array in arrays.values())
    assert any(name.startswith(("hash.", "pooled.", "place.")) for name in names) == trains_code
    assert all(name.startswith("segmentation.") for name in names if name not in fixed) != trains_code
    cases.label[:] = cases.label.flip(0)
    again = trained(plan, cases)
    assert all(np.array_equal(arrays[name], again[name]) for name in arrays) != trains_code


def test_batch_without_a_drawn_mask_moves_no_segmentation_branch(make_plan: Any, make_cases: Any) -> None:
    plan = make_plan(training={"trained": "heads", "weight_decay": 0.0}, network={"code": "moments"})
    cases, start = make_cases(12), arrays_of(build(plan))
    cases.drawn[:] = False
    found = trained(plan, cases)
    assert all(np.array_equal(found[name], start[name]) for name in start)


def test_pull_of_fedprox_is_towards_the_trained_parameters_alone(make_plan: Any, make_cases: Any) -> None:
    plan, cases = make_plan(training={"local_epochs": 5, "trained": "heads"}), make_cases(24)
    start = arrays_of(build(plan))
    free, held = trained(plan, cases), trained(plan, cases, proximal_mu=1000.0)
    assert distance(held, start) < 0.5 * distance(free, start)


def test_fixed_part_of_the_encoder_keeps_nothing_for_gradients(make_plan: Any, make_cases: Any) -> None:
    image = make_cases(2).image
    needed = {
        which: [one.requires_grad for one in build(make_plan(training={"trained": which})).maps(image)]
        for which in SMALL_PARTS
    }
    assert needed == {"all": [True] * 4, "last-stages": [False, False, True, True], "heads": [False] * 4}
