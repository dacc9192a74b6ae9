"""Maps of many widths from one: each equals the map that the server computes."""

import numpy as np
import pytest

from ynet.code_map import code_map, moments_of
from ynet.code_shapes import Sizes
from ynet_lab.attacks.coded_cases import narrowed


@pytest.mark.parametrize(("bits", "class_bits"), [(32, 0), (16, 0), (16, 4), (32, 30), (24, 8)])
def test_narrowed_map_equals_that_of_the_sums(bits: int, class_bits: int) -> None:
    random = np.random.default_rng(1)
    label, patient = random.integers(0, 3, 300), np.repeat(np.arange(150), 2)
    feature = random.normal(size=(300, 50)) + label[:, None] + random.normal(size=(150, 50))[patient]
    moments = moments_of(feature, label, patient, Sizes(50, 3))
    found = narrowed(code_map(moments, 32, 0, seed=5), bits, class_bits, seed=5)
    for name, values in code_map(moments, bits, class_bits, seed=5)._asdict().items():
        assert getattr(found, name) == pytest.approx(values, abs=1e-8), name
