"""The encoders of timm in the Y-Net: shapes, norms that couple no samples, normalisation."""

from typing import Any

import pytest
import torch
from torch import nn

from ynet.encoders import ENCODERS, EncoderName, constants
from ynet.fixed_arrays import PRIVATE_HEADS
from ynet.learning.dp_sgd import Mechanism, Patients
from ynet.learning.model import YNet, arrays_of, build, layout_of_plan
from ynet.learning.timm_encoder import DEVIATION, MEAN, STRIDES, TimmEncoder
from ynet.learning.train import train
from ynet.learning.train_private import train_privately
from ynet.network_size import network_values, stage_channels
from ynet.plan import Plan

DIGEST = "a" * 64
CPU = torch.device("cpu")
SMALL: tuple[EncoderName, ...] = ("resnet18", "tf_efficientnet_lite0", "efficientnet_b0", "convnext_tiny")
"""One of each kind: plain convolutions, depthwise ones, squeeze-excitation, LayerNorm."""


def planned(make_plan: Any, name: str, weights: str | None, channels: int = 1, **more: Any) -> Plan:
    image = {"channels": channels, "size": 64}
    network = {"code_bits": 32, "dropout": 0, "encoder": name, "encoder_weights": weights}
    plan: Plan = make_plan(image=image, network={"width": 16, **network}, **more)
    return plan


@pytest.mark.parametrize("name", list(ENCODERS))
@pytest.mark.parametrize("weights", [None, DIGEST])
def test_network_size_equals_built_network(name: str, weights: str | None, make_plan: Any) -> None:
    for channels, recipe in ((1, "default"), (3, "paper")):
        plan = planned(make_plan, name, weights, channels, recipe=recipe)
        assert network_values(plan) == sum(entry.size for entry in layout_of_plan(plan))


@pytest.mark.parametrize("name", list(ENCODERS))
@pytest.mark.parametrize("is_pretrained", [False, True])
def test_encoder_gives_four_maps_at_strides_4_to_32(name: EncoderName, is_pretrained: bool) -> None:
    encoder = TimmEncoder(name, is_pretrained=is_pretrained)
    maps = encoder(torch.randn(2, 1, 64, 64))
    shapes = [(2, channels, 64 // s, 64 // s) for channels, s in zip(ENCODERS[name].channels, STRIDES, strict=True)]
    assert [tuple(one.shape) for one in maps] == shapes
    sum(one.square().mean() for one in maps).backward()
    assert not [where for where, one in encoder.named_parameters() if one.requires_grad and one.grad is None]


@pytest.mark.parametrize("name", SMALL)
@pytest.mark.parametrize("channels", [1, 3])
def test_network_gives_mask_and_code(name: str, channels: int, make_plan: Any) -> None:
    plan = planned(make_plan, name, DIGEST, channels)
    net = build(plan)
    reading = net.read(torch.randn(3, channels, 64, 64))
    assert reading.mask_logits.shape == (3, 1, 64, 64)
    assert reading.code.shape == (3, 32)
    assert stage_channels(plan) == ENCODERS[plan.network.encoder].channels
    assert {str(array.dtype) for array in arrays_of(net).values()} == {"float32"}


def gradients(encoder: TimmEncoder, images: torch.Tensor) -> list[torch.Tensor]:
    """Return the gradients of the first image's maps, in a batch."""
    encoder.zero_grad()
    torch.stack([one[0].square().mean() for one in encoder(images)]).sum().backward()
    return [one.grad.clone() for one in encoder.parameters() if one.grad is not None]


@pytest.mark.parametrize("name", SMALL)
@pytest.mark.parametrize("is_pretrained", [False, True])
def test_gradient_of_a_sample_does_not_depend_on_its_batch(name: EncoderName, is_pretrained: bool) -> None:
    encoder = TimmEncoder(name, is_pretrained=is_pretrained).double().train()
    images = torch.randn(4, 1, 64, 64, generator=torch.Generator().manual_seed(1)).double()
    alone = gradients(encoder, images[:1])
    for others in (images[1:2], images[2:] * 5 + 3):
        together = gradients(encoder, torch.cat([images[:1], others]))
        for one, other in zip(alone, together, strict=True):
            torch.testing.assert_close(one, other, rtol=1e-6, atol=1e-9)


@pytest.mark.parametrize("name", SMALL)
def test_training_leaves_pretrained_norms_as_they_are(name: str, make_plan: Any, make_cases: Any) -> None:
    plan = planned(make_plan, name, DIGEST)
    net = build(plan)
    before = arrays_of(net)
    train(net, make_cases(4, size=64), plan, 1, device=CPU, generator=torch.Generator().manual_seed(1))
    after, norms = arrays_of(net), norm_arrays(net)
    assert norms
    assert all((before[one] == after[one]).all() for one in norms)
    moved = [one for one in before if one.startswith("encoder.") and (before[one] != after[one]).any()]
    assert len(moved) > len(ENCODERS[plan.network.encoder].channels)


def norm_arrays(net: YNet) -> list[str]:
    found = []
    for where, module in net.encoder.named_modules() if net.encoder else ():
        if "Norm" in type(module).__name__:
            found += [f"encoder.{where}.{name}" for name in module.state_dict()]
    return found


@pytest.mark.parametrize("name", list(ENCODERS))
@pytest.mark.parametrize("weights", [None, DIGEST])
def test_constants_are_the_encoders_arrays_that_are_not_trained(
    name: EncoderName, weights: str | None, make_plan: Any
) -> None:
    net = build(planned(make_plan, name, weights))
    trained = {where for where, one in net.named_parameters() if one.requires_grad}
    own = {where for where in net.state_dict() if where.startswith("encoder.") and where not in trained}
    assert constants(name, list(net.state_dict()), is_pretrained=weights is not None) == own
    assert bool(own) == (weights is not None)


@pytest.mark.parametrize("name", list(ENCODERS))
def test_network_from_scratch_has_no_running_statistics(name: EncoderName) -> None:
    encoder = TimmEncoder(name, is_pretrained=False)
    norms = [module for module in encoder.modules() if "Norm" in type(module).__name__]
    kinds = {type(module) for module in norms if list(module.parameters(recurse=False))}
    assert all(issubclass(kind, nn.GroupNorm | nn.LayerNorm) for kind in kinds)
    assert not [one for one in encoder.state_dict() if "running" in one]
    assert all(one.requires_grad for one in encoder.parameters())


def test_grey_is_its_own_colour() -> None:
    encoder, grey = TimmEncoder("resnet18", is_pretrained=True).eval(), torch.randn(1, 1, 64, 64)
    for one, other in zip(encoder(grey), encoder(grey.repeat(1, 3, 1, 1)), strict=True):
        assert torch.equal(one, other)


@pytest.mark.parametrize("name", SMALL)
def test_standardised_image_gets_the_networks_own_normalisation(name: EncoderName) -> None:
    encoder = TimmEncoder(name, is_pretrained=True)
    about = encoder.net.pretrained_cfg
    image = torch.rand(1, 3, 8, 8) * 0.1 + MEAN  # as its pixels were, from 0 to 1
    mean, deviation = (torch.tensor(about[key]).view(3, 1, 1) for key in ("mean", "std"))
    expected = (image - mean) / deviation
    torch.testing.assert_close((image - MEAN) / DEVIATION * encoder._scale + encoder._offset, expected)


def test_sites_build_the_same_encoder_from_a_plan(make_plan: Any) -> None:
    plan = planned(make_plan, "resnet18", None)
    one, two = arrays_of(build(plan)), arrays_of(build(plan))
    assert all((one[name] == two[name]).all() for name in one)


def test_private_heads_train_beside_a_pretrained_encoder(make_plan: Any, make_cases: Any) -> None:
    privacy = {"mode": "patient", "epsilon": 8.0, "delta": 1e-3, "trained": "heads"}
    plan = planned(make_plan, "tf_efficientnet_lite0", DIGEST, privacy=privacy)
    net, patients = build(plan), Patients(["a", "b", "c", "d"])
    before = arrays_of(net)
    whole = Mechanism(noise_multiplier=1.0, sampling_rate=1.0, steps=1, max_grad_norm=1.0, batch=4)
    train_privately(net, make_cases(4, size=64), patients, plan, 1, whole, device=CPU)
    after = arrays_of(net)
    changed = {name for name in before if (before[name] != after[name]).any()}
    assert changed
    assert all(name.startswith(PRIVATE_HEADS) for name in changed)
