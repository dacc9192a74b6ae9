"""A gallery is encoded once for its moments and for the scores under the code that follows from them."""

from typing import Any

import numpy as np
import torch
from small_cases import Counted

from ynet.learning.code_moments import GalleryEncoder, fit
from ynet.learning.evaluate import encode
from ynet.learning.model import build

CPU = torch.device("cpu")


def test_codes_under_a_new_code_are_those_of_reading_all_again(make_plan: Any, make_cases: Any) -> None:
    plan, cases, encoder = make_plan(network={"code": "moments"}), Counted(make_cases(70)), GalleryEncoder()
    net = build(plan)
    fit(net, plan, [encoder.moments(net, cases, plan, CPU)])
    found = encoder.encode(net, cases, CPU)
    assert cases.asked == 70
    for value, expected in zip(found[:-2], encode(net, cases, CPU)[:-2], strict=True):
        np.testing.assert_array_equal(value, expected)
    assert len(np.unique(found.codes, axis=0)) > 35


def test_other_weights_and_other_cases_are_encoded_anew(make_plan: Any, make_cases: Any) -> None:
    plan, cases, encoder = make_plan(network={"code": "moments"}), Counted(make_cases(20)), GalleryEncoder()
    net = build(plan)
    before = encoder.encode(net, cases, CPU)
    with torch.no_grad():
        net.segmentation.logit.bias.add_(3)
    after = encoder.encode(net, cases, CPU)
    assert (before.predicted < after.predicted).all()
    others = make_cases(20, seed=2)
    np.testing.assert_array_equal(encoder.encode(net, others, CPU).true, encode(net, others, CPU).true)


def test_a_trained_code_is_always_read_from_the_images(make_plan: Any, make_cases: Any) -> None:
    plan, cases, encoder = make_plan(network={"code": "trained"}), Counted(make_cases(20)), GalleryEncoder()
    net = build(plan)
    for times in (1, 2):
        found = encoder.encode(net, cases, CPU)
        assert cases.asked == 20 * times
    np.testing.assert_array_equal(found.codes, encode(net, cases, CPU).codes)
