"""Patients' gradients from one pass are those of one patient at a time, and what is not known is refused."""

from typing import Any

import pytest
import torch
import torch.nn.functional as F  # noqa: N812
from torch import nn

from ynet.learning.dp_sgd import Clipped
from ynet.learning.losses import loss_of
from ynet.learning.model import build
from ynet.learning.per_patient_gradients import Factored, Geometry, Gradient, PatientGradients, Whole
from ynet.learning.train_private import trained

CPU = torch.device("cpu")
PRIVATE = {"mode": "patient", "epsilon": 8.0, "delta": 1e-3}
SMALL = {"width": 8, "code_bits": 32, "dropout": 0, "depth": [1, 2, 1, 1]}
CONV, NORM = nn.Conv2d(1, 4, 3, bias=False), nn.GroupNorm(2, 4)


def in_one_pass(net: nn.Module, plan: Any, batch: Any, patients: int) -> list[Gradient]:
    parameters, loss = list(trained(net, plan).values()), loss_of(plan, CPU)
    return PatientGradients(net, parameters)(patients, lambda: loss(net(batch.image), batch).total)


def one_by_one(net: nn.Module, plan: Any, batch: Any, patients: int) -> list[torch.Tensor]:
    """The oracle: what autograd makes of the mean loss of one patient's views, patient by patient."""
    parameters, loss, views = list(trained(net, plan).values()), loss_of(plan, CPU), len(batch.label) // patients
    each = []
    for first in range(0, len(batch.label), views):
        own = type(batch)(*(part[first : first + views] for part in batch))
        each.append(torch.autograd.grad(loss(net(own.image), own).total.mean(), parameters))
    return [torch.stack(parts) for parts in zip(*each, strict=True)]


def total(net: nn.Module, plan: Any, gradients: Any, bound: float) -> torch.Tensor:
    clipped = Clipped(list(trained(net, plan).values()), bound)
    clipped.add(gradients)
    return torch.cat([part.flatten() for part in clipped.total]).double()


def lengths(gradients: list[torch.Tensor]) -> torch.Tensor:
    return torch.cat([part.flatten(1) for part in gradients], 1).double().norm(dim=1)


def is_close(found: torch.Tensor, expected: torch.Tensor) -> bool:
    return float((found - expected).norm() / expected.norm()) < 1e-4


@pytest.mark.parametrize("which", ["all", "heads", "biases"])
@pytest.mark.parametrize("views", [1, 3])
@pytest.mark.parametrize("block", ["basic", "bottleneck"])
@pytest.mark.parametrize("recipe", ["default", "csq", "plain"])
def test_lengths_and_clipped_sum_are_those_of_one_patient_at_a_time(
    make_plan: Any, make_cases: Any, recipe: str, block: str, views: int, which: str
) -> None:
    network = {**SMALL, "width": 16, "block": block}
    plan = make_plan(recipe=recipe, network=network, privacy={**PRIVATE, "trained": which})
    net, batch = build(plan), make_cases(4 * views).batch(torch.arange(4 * views))
    expected, found = one_by_one(net, plan, batch, 4), in_one_pass(net, plan, batch, 4)
    norms = Clipped(list(trained(net, plan).values()), 1.0).add(found)
    torch.testing.assert_close(norms, lengths(expected), rtol=1e-4, atol=0)
    for bound in (1e6, float(norms.median()), float(norms.min()) / 3):
        assert is_close(total(net, plan, found, bound), total(net, plan, expected, bound))
    if which == "all":
        assert {type(gradient) for gradient in found} == {Factored, Whole}


@pytest.mark.parametrize("side", [32, 96])
def test_both_ways_to_make_a_layers_gradient_agree_for_every_layer(make_plan: Any, make_cases: Any, side: int) -> None:
    """The cheaper one is taken, by the sizes: here both are."""
    plan = make_plan(privacy=PRIVATE, network=SMALL, image={"size": side})
    net, batch = build(plan), make_cases(6, size=side).batch(torch.arange(6))
    for (name, parameter), expected in zip(trained(net, plan).items(), one_by_one(net, plan, batch, 2), strict=True):
        if parameter.ndim == 1:
            continue
        layer = net.get_submodule(name.rpartition(".")[0])
        factored = factors_of(net, layer, plan, batch)
        torch.testing.assert_close(factored.norms(), lengths([expected]), rtol=1e-3, atol=1e-9, msg=name)
        assert is_close(factored.each().flatten(), expected.flatten()), name
        scales = torch.tensor([0.3, 0.7])
        assert is_close(factored.sum(scales).flatten(), torch.tensordot(scales, expected, dims=1).flatten()), name


def factors_of(net: nn.Module, layer: Any, plan: Any, batch: Any) -> Factored:
    """Those of a layer for two patients."""
    seen: list[torch.Tensor] = []

    def keep(_: Any, inputs: Any, output: torch.Tensor) -> None:
        seen.append(inputs[0].detach())
        output.register_hook(seen.append)

    with layer.register_forward_hook(keep):
        loss_of(plan, CPU)(net(batch.image), batch).total.sum().backward()
    images = [part if part.ndim == 4 else part[..., None, None] for part in (seen[0], seen[1] / (len(seen[1]) // 2))]
    is_convolution = isinstance(layer, nn.Conv2d)
    geometry = Geometry(layer.kernel_size, layer.stride, layer.padding) if is_convolution else Geometry()
    return Factored(*(part.unflatten(0, (2, -1)) for part in images), geometry)


def test_a_patient_adds_no_more_than_the_bound(make_plan: Any, make_cases: Any) -> None:
    plan = make_plan(privacy=PRIVATE)
    net, batch = build(plan), make_cases(6).batch(torch.arange(6))
    for position in range(6):
        one = type(batch)(*(part[position : position + 1] for part in batch))
        for bound in (1e-3, 0.1, 1.0):
            assert float(total(net, plan, in_one_pass(net, plan, one, 1), bound).norm()) <= bound


@pytest.mark.parametrize("views", [1, 2])
def test_one_bad_patient_does_not_spoil_the_others(make_plan: Any, make_cases: Any, views: int) -> None:
    plan, cases = make_plan(privacy=PRIVATE), make_cases(4 * views)
    net, batch = build(plan), cases.batch(torch.arange(4 * views))
    good = torch.arange(4 * views) // views != 1
    expected = total(net, plan, in_one_pass(net, plan, type(batch)(*(part[good] for part in batch)), 3), 1.0)
    for bad in (float("nan"), float("inf"), 3e38):
        batch.image[views] = bad
        assert is_close(total(net, plan, in_one_pass(net, plan, batch, 4), 1.0), expected)


def test_the_network_is_left_as_it_was(make_plan: Any, make_cases: Any) -> None:
    plan = make_plan(privacy=PRIVATE)
    net, batch = build(plan), make_cases(2).batch(torch.arange(2))
    net.stem.conv.weight.requires_grad_(False)
    before = [(parameter.clone(), parameter.requires_grad) for parameter in net.parameters()]
    seen = net(batch.image).code.detach()
    in_one_pass(net, plan, batch, 2)
    for parameter, (value, needs) in zip(net.parameters(), before, strict=True):
        assert (parameter == value).all()
        assert parameter.requires_grad == needs
        assert parameter.grad is None
    assert (net(batch.image).code == seen).all()
    assert not any("forward" in vars(layer) for layer in net.modules())


def test_a_parameter_that_the_loss_does_not_use_has_no_gradient() -> None:
    net = nn.ModuleList([nn.Linear(3, 2), nn.Linear(3, 2)])
    image = torch.randn(4, 3)
    found = PatientGradients(net, list(net.parameters()))(4, lambda: net[0](image).square().sum(1))
    assert all((part.norms() > 0).all() for part in found[:2])
    assert all((part.norms() == 0).all() for part in found[2:])


def test_an_unknown_kind_of_layer_is_refused_and_never_left_out() -> None:
    class Scaled(nn.Module):
        def __init__(self) -> None:
            super().__init__()
            self.scale = nn.Parameter(torch.ones(1))

    class Doubled(nn.Linear):
        def forward(self, x: torch.Tensor) -> torch.Tensor:
            return 2 * super().forward(x)

    for odd in (
        nn.BatchNorm2d(4),
        nn.LayerNorm(4),
        nn.Embedding(4, 4),
        nn.ConvTranspose2d(4, 4, 3),
        nn.Conv2d(4, 4, 3, padding=1, padding_mode="reflect"),
        nn.Conv2d(4, 4, 3, padding="same"),
        Scaled(),
        Doubled(4, 4),
    ):
        net = nn.Sequential(nn.Conv2d(1, 4, 3), odd)
        with pytest.raises(TypeError, match=r"'1' is .*an unknown kind of layer"):
            PatientGradients(net, list(net.parameters()))
        PatientGradients(net, list(net[0].parameters()))  # what is not trained may be anything


def test_a_parameter_of_two_layers_or_of_another_network_is_refused() -> None:
    net = nn.Sequential(nn.Linear(4, 4), nn.Linear(4, 4))
    with pytest.raises(TypeError, match="not the network's"):
        PatientGradients(net, list(nn.Linear(4, 4).parameters()))
    net[1].weight = net[0].weight
    with pytest.raises(TypeError, match="two layers share a parameter"):
        PatientGradients(net, list(net.parameters()))


@pytest.mark.parametrize(
    ("forward", "why"),
    [
        (lambda x: CONV(x) + CONV(x), "is used twice"),
        (lambda x: NORM(NORM(CONV(x))), "is used twice"),
        (lambda x: CONV(h := x.clone()) + h.zero_()[..., 2:, 2:], "changed in place"),
    ],
)
def test_a_layer_that_is_used_twice_or_whose_input_changes_stops_the_training(forward: Any, why: str) -> None:
    net, image = nn.Sequential(CONV, NORM), torch.randn(2, 1, 8, 8)
    with pytest.raises(RuntimeError, match=why):
        PatientGradients(net, list(net.parameters()))(2, lambda: forward(image).square().mean((1, 2, 3)))
    assert not any("forward" in vars(layer) for layer in net.modules())


def test_a_change_in_place_of_what_a_layer_gave_is_seen_by_the_gradient() -> None:
    net, image = nn.Sequential(nn.Conv2d(1, 4, 3), nn.GroupNorm(2, 4), nn.ReLU(inplace=True)), torch.randn(3, 1, 9, 9)
    found = PatientGradients(net, list(net.parameters()))(3, lambda: net(image).square().mean((1, 2, 3)))
    for row in range(3):
        expected = torch.autograd.grad(net(image[row : row + 1]).square().mean(), list(net.parameters()))
        for one, part in zip(expected, found, strict=True):
            assert float(part.norms()[row]) == pytest.approx(float(one.norm()), rel=1e-4)


@pytest.mark.parametrize(("groups", "stride", "padding", "dilation"), [(2, 1, 1, 1), (1, (2, 1), (0, 2), (1, 2))])
def test_odd_convolutions_and_layers_of_many_positions_have_their_gradients(
    groups: int, stride: Any, padding: Any, dilation: Any
) -> None:
    conv = nn.Conv2d(4, 32, (3, 2), stride, padding, dilation, groups)
    net, image = nn.Sequential(conv, nn.Flatten(2), nn.Linear(1, 1)), torch.randn(6, 4, 7, 8)
    net[2] = nn.Linear(net[:2](image).shape[-1], 50)

    def loss(rows: torch.Tensor) -> torch.Tensor:
        return F.softplus(net(rows)).square().mean((1, 2))

    found = PatientGradients(net, list(net.parameters()))(3, lambda: loss(image))
    for patient in range(3):
        expected = torch.autograd.grad(loss(image[2 * patient : 2 * patient + 2]).mean(), list(net.parameters()))
        for one, part in zip(expected, found, strict=True):
            own = part.sum(F.one_hot(torch.tensor(patient), 3).float())
            torch.testing.assert_close(own.view_as(one), one, rtol=1e-3, atol=1e-6)
            assert float(part.norms()[patient]) == pytest.approx(float(one.norm()), rel=1e-4)
