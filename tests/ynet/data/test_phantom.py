"""Head phantoms are drawn alike by the same generator, and each has a tumour inside the head."""

from pathlib import Path

import numpy as np
import pytest

from ynet.data.manifest import read
from ynet.data.phantom import BRAIN, CLASSES, draw
from ynet.data.synthetic import Patient, Scanner, make_federation

SCANNER = Scanner(gain=0.9, offset=0.0, gamma=1.0, noise=0.02)


def drawn(label: str, seed: int, size: int = 96) -> tuple[np.ndarray, np.ndarray]:
    patient = Patient("P1", label, "cloudy", 60, (0.43, 0.46, 2.5))
    return draw(patient, size, SCANNER, np.random.default_rng(seed))


@pytest.mark.parametrize("label", CLASSES)
@pytest.mark.parametrize("seed", range(4))
def test_tumour_lies_inside_the_head_and_air_is_dark(label: str, seed: int) -> None:
    image, mask = drawn(label, seed)
    assert image.shape == mask.shape == (96, 96)
    assert image.dtype == mask.dtype == np.uint8
    assert set(np.unique(mask)) == {0, 255}
    assert 0.001 < (mask > 0).mean() < 0.12
    assert image[mask > 0].mean() > 3 * image[:6, :6].mean()


@pytest.mark.parametrize("label", CLASSES)
def test_same_generator_draws_same_slice(label: str) -> None:
    (image, mask), (again, same), (other, _) = drawn(label, 1), drawn(label, 1), drawn(label, 2)
    np.testing.assert_array_equal(image, again)
    np.testing.assert_array_equal(mask, same)
    assert (image != other).any()


def test_federation_of_phantoms_has_the_phantoms_classes(tmp_path: Path) -> None:
    make_federation(tmp_path, {"A": 9}, seed=1, size=64, appearance=BRAIN)
    cases = read(tmp_path / "A" / "manifest.csv").cases
    assert {case.label for case in cases} == set(CLASSES)
    assert len(cases) == 9
