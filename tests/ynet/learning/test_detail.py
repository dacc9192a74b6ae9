"""The detail code: the same everywhere, of features and not of their scale, and nothing that training would notice."""

from typing import Any

import numpy as np
import pytest
import torch

from ynet.learning.detail import DETAIL_BITS, Detail, FeatureSums
from ynet.learning.hashing import hamming, pack
from ynet.learning.losses import CODE_LOSSES
from ynet.learning.model import arrays_of, build
from ynet.learning.train import train
from ynet.search.ranking import DETAIL_BITS as COMPARED_BITS

CPU = torch.device("cpu")


def features(count: int, seed: int, width: int = 100) -> torch.Tensor:
    return torch.randn(count, width, generator=torch.Generator().manual_seed(seed)).double()


def measured(seen: torch.Tensor, seed: int = 1) -> Detail:
    """A detail code that is measured by what was seen."""
    detail, sums = Detail(seen.shape[1], seed), FeatureSums()
    for part in torch.split(seen, 7):
        sums.add(part)
    sums.measure(detail)
    return detail


def bits(detail: Detail, some: torch.Tensor) -> np.ndarray:
    return pack(detail(some))


@pytest.mark.parametrize("recipe", sorted(CODE_LOSSES))
def test_every_recipes_network_makes_32_bits_that_are_not_the_same_for_all(
    recipe: str, make_plan: Any, make_cases: Any
) -> None:
    plan, cases = make_plan(recipe=recipe), make_cases(12)
    net = build(plan)
    train(net, cases, plan, 1, device=CPU, generator=torch.Generator().manual_seed(1))
    found = pack(net.read(cases.image).detail)
    assert found.shape == (12, DETAIL_BITS // 8) == (12, COMPARED_BITS // 8)
    assert len(np.unique(found, axis=0)) == 12


def test_an_image_and_its_mirror_image_have_one_detail_code_where_the_plan_flips(
    make_plan: Any, make_cases: Any
) -> None:
    image = make_cases(12).image
    for flip in (True, False):
        net = build(make_plan(augmentation={"flip": flip}))
        one, two = (pack(net.read(seen).detail) for seen in (image, image.flip(-1)))
        assert np.array_equal(one, two) is flip


def test_the_bits_are_those_of_the_plans_seed_whatever_the_weights_begin_with(make_plan: Any) -> None:
    def rotated(**changes: Any) -> np.ndarray:
        detail = build(make_plan(**changes)).detail
        return bits(detail, features(20, 1, len(detail.centre)))

    assert np.array_equal(rotated(), rotated(training={"seed": 7}))
    assert not np.array_equal(rotated(), rotated(network={"codebook_seed": 7}))


def test_a_channels_offset_and_scale_do_not_matter() -> None:
    seen, asked = features(60, 1), features(20, 2)
    scale, offset = features(1, 3).exp() * 10, features(1, 4) * 100
    expected = bits(measured(seen), asked)
    assert np.array_equal(bits(measured(seen * scale + offset), asked * scale + offset), expected)


def test_bits_differ_as_often_as_the_angle_between_features_says() -> None:
    """Of random hyperplanes an angle's share of pi lies between two directions (Charikar, STOC 2002)."""
    detail = Detail(400, 1)
    one, other = features(300, 1, 400), features(300, 2, 400)
    for angle in (0.2, 0.6, 1.2):
        length = other.norm(dim=1, keepdim=True)
        across = other - (other * one).sum(1, keepdim=True) / one.square().sum(1, keepdim=True) * one
        turned = (one * np.cos(angle) + across / across.norm(dim=1, keepdim=True) * length * np.sin(angle)).float()
        differing = np.diagonal(hamming(bits(detail, one), bits(detail, turned))).mean()
        assert differing / DETAIL_BITS == pytest.approx(angle / np.pi, abs=0.02)


def test_a_channel_that_never_moved_before_does_not_decide_all_bits() -> None:
    seen, asked = features(60, 1), features(50, 2)
    seen[:, 0] = asked[:, 0] = 0.0
    woken = asked.clone()
    woken[:, 0] = 50.0
    detail = measured(seen)
    assert np.diagonal(hamming(bits(detail, asked), bits(detail, woken))).mean() < DETAIL_BITS / 4


def test_two_sites_means_averaged_by_their_cases_are_the_mean_of_all() -> None:
    parts = features(30, 1) + 1, features(90, 2) * 2
    one, two, all_ = (measured(seen).centre for seen in (*parts, torch.cat(parts)))
    torch.testing.assert_close(0.25 * one + 0.75 * two, all_)


def test_a_round_measures_by_the_features_of_the_images_it_has_seen(make_plan: Any, make_cases: Any) -> None:
    plan, cases = make_plan(training={"learning_rate": 1e-12, "local_epochs": 2}), make_cases(20)
    net = build(plan)
    train(net, cases, plan, 1, device=CPU, generator=torch.Generator().manual_seed(1))
    seen = net(cases.image).feature.detach()
    torch.testing.assert_close(net.detail.centre, seen.mean(0), rtol=1e-4, atol=1e-6)
    torch.testing.assert_close(net.detail.spread, seen.std(0, correction=0), rtol=1e-4, atol=1e-6)


def test_the_rest_of_the_training_is_the_same_to_the_bit_whatever_the_detail_code_measures_by(
    make_plan: Any, make_cases: Any
) -> None:
    plan, cases = make_plan(network={"dropout": 0.5}, augmentation={"flip": True, "noise": 0.1}), make_cases(20)
    nets = [build(plan), build(plan)]
    with torch.no_grad():
        nets[1].detail.centre.normal_(generator=torch.Generator().manual_seed(1))
        nets[1].detail.spread.fill_(1e-9)
    losses = [
        train(net, cases, plan, 1, device=CPU, generator=torch.Generator().manual_seed(1), proximal_mu=0.1).loss
        for net in nets
    ]
    assert losses[0] == losses[1]
    one, two = map(arrays_of, nets)
    assert all(np.array_equal(one[name], two[name]) for name in one)
