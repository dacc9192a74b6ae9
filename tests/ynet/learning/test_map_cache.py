"""The maps of a frozen encoder in memory: the same training and the same codes, without the encoder's work."""

from typing import Any

import numpy as np
import pytest
import torch
from small_cases import Counted

from ynet.learning.evaluate import encode
from ynet.learning.map_cache import MapCache, encoder_digest
from ynet.learning.model import arrays_of, build
from ynet.learning.train import train
from ynet.schedule import is_cooling_down
from ynet_lab.concat import MappedConcat, concat

CPU = torch.device("cpu")
PLENTY = 1 << 30


def heads(make_plan: Any, **more: Any) -> Any:
    augmentation = {"flip": True, **more.pop("augmentation", {})}
    training = {"trained": "heads", **more.pop("training", {})}
    return make_plan(training=training, augmentation=augmentation, **more)


def trained(plan: Any, cases: Any, rounds: int = 2, micro_batches: int = 1) -> tuple[Any, float]:
    net, moments, loss = build(plan), None, 0.0
    for number in range(1, rounds + 1):
        generator = torch.Generator().manual_seed(number)
        result = train(
            net, cases, plan, number, device=CPU, generator=generator, moments=moments, micro_batches=micro_batches
        )
        moments, loss = result.moments, result.loss
    return net, loss


def assert_alike(one: Any, other: Any) -> None:
    a, b = arrays_of(one), arrays_of(other)
    for name in a:
        np.testing.assert_allclose(a[name], b[name], rtol=1e-4, atol=1e-5, err_msg=name)


def bytes_of_case(plan: Any, cases: Any) -> int:
    cache = MapCache(cases, PLENTY, is_mirrored=True)
    both = torch.tensor([False, True])
    cache.reader(build(plan))(torch.tensor([0, 0]), both)
    return cache.nbytes


@pytest.mark.parametrize("room", [0, 5, 20])
def test_training_from_maps_equals_training_from_images(room: int, make_plan: Any, make_cases: Any) -> None:
    plan, cases = heads(make_plan), make_cases(20)
    expected, loss = trained(plan, cases)
    cache = MapCache(cases, room * bytes_of_case(plan, cases), is_mirrored=True)
    found, found_loss = trained(plan, cache)
    assert_alike(found, expected)
    assert found_loss == pytest.approx(loss, rel=1e-5)
    assert cache.nbytes <= room * bytes_of_case(plan, cases)
    assert (cache.nbytes > 0) is (room > 0)


def test_microbatches_from_maps_train_the_same(make_plan: Any, make_cases: Any) -> None:
    plan, cases = heads(make_plan), make_cases(11)
    cache = MapCache(cases, PLENTY, is_mirrored=True)
    assert_alike(trained(plan, cache, micro_batches=3)[0], trained(plan, cases)[0])


def test_pretrained_encoder_trains_the_same_from_maps(make_plan: Any, make_cases: Any) -> None:
    network = {"encoder": "tf_efficientnet_lite0", "encoder_weights": "a" * 64, "width": 16}
    plan, cases = heads(make_plan, network=network, training={"batch_size": 4}), make_cases(6)
    assert_alike(trained(plan, MapCache(cases, PLENTY, is_mirrored=True))[0], trained(plan, cases)[0])


@pytest.mark.parametrize("flip", [False, True])
@pytest.mark.parametrize("room", [0, 3, 9])
def test_codes_and_masks_from_maps_equal_those_from_images(
    flip: bool, room: int, make_plan: Any, make_cases: Any
) -> None:
    plan, cases = heads(make_plan, augmentation={"flip": flip}), make_cases(9)
    net = build(plan)
    cache = MapCache(cases, room * bytes_of_case(plan, cases), is_mirrored=flip)
    expected = encode(net, cases, CPU, keeps_feature=True)
    for _ in range(2):
        found = encode(net, cache, CPU, keeps_feature=True)
        for name, one, other in zip(expected._fields, found, expected, strict=True):
            np.testing.assert_allclose(one, other, rtol=1e-4, atol=1e-5, err_msg=name)


def test_each_image_is_read_once_for_itself_and_once_for_its_mirror_image(make_plan: Any, make_cases: Any) -> None:
    plan, source = heads(make_plan, training={"local_epochs": 5}), Counted(make_cases(20))
    cache = MapCache(source, PLENTY, is_mirrored=True)
    net, _ = trained(plan, cache)
    encode(net, cache, CPU)
    asked = source.asked
    assert asked == 20 * 2 + 1  # one more tells the maps' shapes
    trained(plan, cache)
    encode(net, cache, CPU)
    assert source.asked == asked


def test_another_encoder_drops_the_maps(make_plan: Any, make_cases: Any) -> None:
    plan, source = heads(make_plan), Counted(make_cases(6))
    cache, net = MapCache(source, PLENTY, is_mirrored=True), build(plan)
    encode(net, cache, CPU)
    with torch.no_grad():
        net.stages[0][0].first.weight.add_(0.1)
    before = source.asked
    found = encode(net, cache, CPU, keeps_feature=True).feature
    assert source.asked > before
    np.testing.assert_allclose(found, encode(net, source, CPU, keeps_feature=True).feature, rtol=1e-4, atol=1e-5)


def test_digest_of_an_encoder_does_not_depend_on_the_heads(make_plan: Any) -> None:
    net = build(heads(make_plan))
    before = encoder_digest(net)
    with torch.no_grad():
        net.hash.weight.add_(1)
    assert encoder_digest(net) == before
    with torch.no_grad():
        net.stem.conv.weight[0, 0, 0, 0] += 1e-6
    assert encoder_digest(net) != before


def test_augmentation_other_than_flips_computes_maps_each_time(make_plan: Any, make_cases: Any) -> None:
    plan = heads(make_plan, augmentation={"noise": 0.1}, training={"rounds": 4, "cooldown": 0.25})
    source = Counted(make_cases(8))
    cache = MapCache(source, PLENTY, is_mirrored=True)
    expected, _ = trained(plan, make_cases(8), rounds=4)
    found, _ = trained(plan, cache, rounds=4)
    assert_alike(found, expected)
    assert is_cooling_down(plan, 4)
    assert not is_cooling_down(plan, 3)
    assert source.asked == 3 * 8 + 8 + 1  # the round of the cool-down keeps what it computes


def test_encoder_that_is_trained_has_no_cached_maps(make_plan: Any, make_cases: Any) -> None:
    plan, cases = make_plan(), make_cases(8)
    cache = MapCache(cases, PLENTY, is_mirrored=True)
    with pytest.raises(ValueError, match="trained"):
        cache.reader(build(plan))
    assert_alike(trained(plan, cache)[0], trained(plan, cases)[0])
    assert cache.nbytes == 0


def test_map_beyond_half_precision_is_clipped_and_not_infinite(make_plan: Any, make_cases: Any) -> None:
    net = build(heads(make_plan))
    with torch.no_grad():
        net.stem.norm.weight.fill_(1e9)
    maps = net.maps(make_cases(2).image * 1e6)
    assert all(torch.isfinite(one).all() for one in maps)


def test_pooled_sources_read_each_sites_maps(make_plan: Any, make_cases: Any) -> None:
    plan, sites = heads(make_plan), [make_cases(7), make_cases(6, seed=2)]
    caches = [MapCache(one, PLENTY, is_mirrored=True) for one in sites]
    pooled = concat(caches)
    assert isinstance(pooled, MappedConcat)
    assert not isinstance(concat([caches[0], sites[1]]), MappedConcat)
    assert_alike(trained(plan, pooled)[0], trained(plan, concat(sites))[0])
    assert all(one.nbytes for one in caches)
