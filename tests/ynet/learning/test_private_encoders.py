"""Private training of timm's encoders: each patient's gradient is that patient's alone, and constants stay."""

from typing import Any

import pytest
import torch
from private_steps import EVERYTHING, flat, gradients_before_each_step, sums_of
from torch import nn

from ynet.data.batch import Batch
from ynet.encoders import ENCODERS, PREFIX, EncoderName, constants
from ynet.learning.dp_sgd import Clipped, Mechanism, Patients
from ynet.learning.losses import loss_of
from ynet.learning.map_cache import MapCache
from ynet.learning.model import YNet, arrays_of, build
from ynet.learning.train_private import patient_gradients, train_privately, trained
from ynet.plan import Plan

CPU = torch.device("cpu")
DIGEST = "a" * 64
PRIVATE = {"mode": "patient", "epsilon": 8.0, "delta": 1e-3}
SMALL: tuple[EncoderName, ...] = ("resnet18", "tf_efficientnet_lite0", "efficientnet_b0", "convnext_tiny")
"""One of each kind: plain convolutions, depthwise ones, squeeze-excitation, LayerNorm and a layer's own scale."""
PATIENTS, VIEWS = 3, 2
BOUND = 0.5


def planned(make_plan: Any, name: str, weights: str | None, which: str, size: int = 32, **more: Any) -> Plan:
    network = {"width": 16, "code_bits": 32, "encoder": name, "encoder_weights": weights}
    privacy = {**PRIVATE, "trained": which, "views": more.pop("views", 1)}
    network |= more.pop("network", {"dropout": 0})
    plan: Plan = make_plan(image={"channels": 3, "size": size}, network=network, privacy=privacy, **more)
    return plan


def built(plan: Plan) -> YNet:
    """Build the network with norms and scales that are not those of a fresh one, which hide errors."""
    net, generator = build(plan), torch.Generator().manual_seed(1)
    with torch.no_grad():
        for name, value in net.state_dict().items():
            if name.endswith("running_var"):
                value.uniform_(0.5, 2, generator=generator)
            if name.endswith(("running_mean", "gamma")):
                value.normal_(generator=generator)
    return net


def one_by_one(net: YNet, plan: Plan, parameters: list[nn.Parameter], batch: Batch) -> list[torch.Tensor]:
    """Return autograd's gradients of each patient's mean loss, from a pass with that patient alone."""
    loss, each = loss_of(plan, CPU), []
    for first in range(0, len(batch.label), VIEWS):
        own = Batch(*(part[first : first + VIEWS] for part in batch))
        each.append(torch.autograd.grad(loss(net(own.image), own).total.mean(), parameters))
    return [torch.stack(parts) for parts in zip(*each, strict=True)]


@pytest.mark.parametrize("name", SMALL)
@pytest.mark.parametrize(
    ("weights", "which"), [(DIGEST, "all"), (DIGEST, "biases"), (DIGEST, "heads"), (None, "all"), (None, "biases")]
)
def test_clipped_sum_equals_that_of_one_patient_at_a_time(
    name: str, weights: str | None, which: str, make_plan: Any, make_cases: Any
) -> None:
    plan = planned(make_plan, name, weights, which)
    net, rows = built(plan).train(), PATIENTS * VIEWS
    batch, parameters = (
        make_cases(rows, size=32, channels=3).batch(torch.arange(rows)),
        list(trained(net, plan).values()),
    )
    loss = loss_of(plan, CPU)
    found = patient_gradients(net, parameters)(PATIENTS, lambda: loss(net(batch.image), batch).total)
    expected = one_by_one(net, plan, parameters, batch)
    norms = Clipped(parameters, 1.0).add(found)
    lengths = torch.cat([part.flatten(1) for part in expected], 1).double().norm(dim=1)
    torch.testing.assert_close(norms, lengths, rtol=1e-4, atol=0)
    for bound in (1e6, float(norms.median()), float(norms.min()) / 3):
        ours, theirs = Clipped(parameters, bound), Clipped(parameters, bound)
        ours.add(found)
        theirs.add(expected)
        one, other = (flat(clipped.total) for clipped in (ours, theirs))
        assert float((one - other).norm() / other.norm()) < 1e-4


@pytest.mark.parametrize("weights", [None, DIGEST])
@pytest.mark.parametrize("name", list(ENCODERS))
def test_every_layer_of_every_encoder_is_supported(name: str, weights: str | None, make_plan: Any) -> None:
    plan = planned(make_plan, name, weights, "all")
    net = build(plan)
    patient_gradients(net, list(trained(net, plan).values()))


def sum_of(plan: Plan, cases: Any, patient_of: list[str], chosen: set[str]) -> torch.Tensor:
    """Return the clipped sum of a step with some of the patients, without noise."""
    (found,) = sums_of(built(plan), plan, cases, patient_of, chosen, Mechanism(0.0, 1.0, 1, BOUND, 1.0))
    return found


@pytest.mark.parametrize("name", SMALL)
@pytest.mark.parametrize("which", ["all", "heads"])
def test_patient_adds_the_same_in_any_company_and_at_most_the_bound(
    name: str, which: str, make_plan: Any, make_cases: Any
) -> None:
    plan = planned(
        make_plan, name, DIGEST, which, views=2, augmentation=EVERYTHING, network={"dropout": 0.5},
        training={"weight_decay": 0.0},
    )  # fmt: skip
    patient_of, names = ["p0", "p0", "p1", "p2", "p2", "p2", "p3", "p4"], {"p0", "p1", "p2", "p3", "p4"}
    cases = make_cases(len(patient_of), size=32, channels=3)
    whole = sum_of(plan, cases, patient_of, names)
    for one in ("p0", "p3"):
        move, alone = whole - sum_of(plan, cases, patient_of, names - {one}), sum_of(plan, cases, patient_of, {one})
        assert 0 < float(move.norm()) <= BOUND
        assert float((move - alone).norm()) < 1e-4 * BOUND


@pytest.mark.parametrize("name", SMALL)
def test_private_training_moves_all_but_the_constants(name: EncoderName, make_plan: Any, make_cases: Any) -> None:
    plan = planned(make_plan, name, DIGEST, "all")
    net = built(plan)
    before, fixed = arrays_of(net), constants(name, list(net.state_dict()), is_pretrained=True)
    whole = Mechanism(noise_multiplier=1.0, sampling_rate=1.0, steps=1, max_grad_norm=1.0, batch=2)
    train_privately(net, make_cases(2, size=32, channels=3), Patients(["a", "b"]), plan, 1, whole, device=CPU)
    after = arrays_of(net)
    still = {one for one in before if one.startswith(PREFIX) and (before[one] == after[one]).all()}
    assert still == fixed != set()


@pytest.mark.parametrize("name", SMALL)
def test_maps_of_an_image_are_the_same_in_any_batch_of_a_private_plan(
    name: str, make_plan: Any, make_cases: Any
) -> None:
    net, images = built(planned(make_plan, name, DIGEST, "heads")), make_cases(5, size=32, channels=3).image
    together, alone = net.maps(images), net.maps(images[3:4])
    assert all(torch.equal(one[3:4], other) for one, other in zip(together, alone, strict=True))


@pytest.mark.parametrize("dropout", [0.0, 0.5])
def test_private_heads_have_the_same_sums_from_maps_as_from_images(
    dropout: float, make_plan: Any, make_cases: Any
) -> None:
    only_flips = {**dict.fromkeys(EVERYTHING, 0), "flip": True}
    plan = planned(
        make_plan, "tf_efficientnet_lite0", DIGEST, "heads", views=2, augmentation=only_flips,
        network={"dropout": dropout}, training={"weight_decay": 0.0, "learning_rate": 1e-30},
    )  # fmt: skip
    images, patients = make_cases(6, size=32, channels=3), Patients(["a", "b", "b", "c", "d", "d"])
    cache, quiet = MapCache(images, 1 << 30, is_mirrored=True), Mechanism(0.0, 1.0, 2, BOUND, 1.0)
    found, losses = [], []
    for cases in (images, cache):
        with gradients_before_each_step() as seen:
            result = train_privately(built(plan), cases, patients, plan, 1, quiet, device=CPU, secret=bytes(range(32)))
        found.append(torch.stack(seen))
        losses.append(result.loss)
    assert float((found[1] - found[0]).norm()) < 1e-4 * BOUND
    assert losses[1] == pytest.approx(losses[0], rel=1e-5)
    assert cache.nbytes > 0
