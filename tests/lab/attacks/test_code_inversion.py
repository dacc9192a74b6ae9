"""Images from codes: what a code holds is read out of it, and no more."""

from typing import Any

import numpy as np
import torch

from ynet.learning.evaluate import encode
from ynet.learning.model import build
from ynet.network_size import hash_features
from ynet_lab.attacks import kernel
from ynet_lab.attacks.code_inversion import Revealed, invert_codes, reveal

CPU = torch.device("cpu")


def revealed(count: int, seed: int, *, is_in_code: bool, is_in_rest: bool = False) -> Revealed:
    """Two classes, told by the code. Images are noise, and show the code's bits or the feature's rest where asked."""
    random = np.random.default_rng(seed)
    label = np.arange(count) % 2
    bits = np.stack([label, *random.integers(0, 2, (3, count)), *np.zeros((4, count), np.int64)], 1)
    rest = random.normal(size=(count, 40))
    image = random.normal(0, 0.3, (count, 25))
    image[:, :8] += 2 * bits * is_in_code
    image[:, 10:20] += 2 * rest[:, :10] * is_in_rest
    feature = np.concatenate([2.0 * bits, rest], 1)
    return Revealed(image, label, np.packbits(bits.astype(np.uint8), axis=1), feature)


def inverted(**holds: bool) -> dict[str, Any]:
    public, secret = revealed(300, 1, **holds), revealed(100, 2, **holds)
    return invert_codes(public, secret, np.arange(300) // 2, np.random.default_rng(1))


def test_what_a_code_holds_of_an_image_and_of_its_class_is_read_out_of_it() -> None:
    found = inverted(is_in_code=True)
    assert found["code"].pixel_r2 > found["label"].pixel_r2 + 0.2 > 0.2
    assert found["code"].accuracy == found["code"].balanced_accuracy == 1
    assert found["code"].image.shape == (100, 25)


def test_of_an_image_that_the_code_says_nothing_of_nothing_is_read() -> None:
    found = inverted(is_in_code=False)
    assert all(abs(one.pixel_r2) < 0.05 for one in found.values())


def test_feature_says_what_the_code_left_out() -> None:
    found = inverted(is_in_code=False, is_in_rest=True)
    assert found["code"].pixel_r2 < 0.05
    assert found["feature"].pixel_r2 > 0.2


def test_codes_are_those_of_queries_and_the_features_what_they_are_made_from(make_plan: Any, make_cases: Any) -> None:
    cases = make_cases(5)
    for flip in (False, True):
        plan = make_plan(augmentation={"flip": flip})
        net = build(plan)
        found = reveal(net, cases, CPU)
        assert np.array_equal(found.code, encode(net, cases, CPU).codes)
        assert found.feature.shape == (5, hash_features(plan))


def test_kernel_regression_finds_a_smooth_map_again() -> None:
    random = np.random.default_rng(1)
    inputs = random.normal(size=(300, 3))
    outputs = np.stack([inputs[:, 0] * 2, np.sin(inputs[:, 1])], 1)
    fitted = kernel.fit(inputs[:200], outputs[:200], np.arange(200))
    error = kernel.predict(fitted, inputs[200:]) - outputs[200:]
    assert (error**2).mean() < 0.1 * outputs.var()
