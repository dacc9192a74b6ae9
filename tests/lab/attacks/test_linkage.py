"""Links between codes of one patient: none in random codes, perfect in equal ones."""

import numpy as np
import pytest

from ynet.learning.hashing import hamming
from ynet_lab.attacks.intervals import draws_of, interval
from ynet_lab.attacks.linkage import Linkage, auc_of_counts, link

PATIENTS, IMAGES = 60, 2


def linked(codes: np.ndarray) -> Linkage:
    """Two images of each patient, in one of two classes, followed by as many cases of other patients."""
    patient = np.repeat(np.arange(2 * PATIENTS), IMAGES)
    label = patient % 2
    draws = draws_of(2 * PATIENTS, np.zeros(2 * PATIENTS, bool), 50, np.random.default_rng(1))
    return link(hamming(codes[: PATIENTS * IMAGES], codes), label, patient, draws)


def random_codes(seed: int, rows: int) -> np.ndarray:
    return np.random.default_rng(seed).integers(0, 256, (rows, 8), np.uint8)


def test_random_codes_link_nothing() -> None:
    found = linked(random_codes(1, 2 * PATIENTS * IMAGES))
    for one in (found.any_class, found.same_class):
        assert one.low < 0.5 < one.high
    assert found.first.value < 0.1
    assert found.patients == PATIENTS


def test_equal_codes_of_a_patient_link_perfectly() -> None:
    found = linked(np.repeat(random_codes(1, 2 * PATIENTS), IMAGES, axis=0))
    assert found.any_class == found.same_class == found.first == (1, 1, 1)


def test_code_of_the_class_alone_links_any_class_but_not_within_one() -> None:
    classes = random_codes(1, 2)
    found = linked(classes[np.repeat(np.arange(2 * PATIENTS), IMAGES) % 2])
    assert found.any_class.value > 0.7
    assert found.same_class == (0.5, 0.5, 0.5)
    assert found.first.value == pytest.approx(1 / (PATIENTS * IMAGES - 1))
    assert found.first_by_chance == pytest.approx(1 / (2 * PATIENTS * IMAGES - 1))


def test_code_of_the_class_alone_does_not_link_a_patient_with_images_of_two_classes() -> None:
    label = np.arange(2 * PATIENTS) % 2
    patient = np.repeat(np.arange(PATIENTS), IMAGES)  # an image of each class
    codes = random_codes(1, 2)[label]
    draws = draws_of(PATIENTS, np.zeros(PATIENTS, bool), 20, np.random.default_rng(1))
    assert link(hamming(codes, codes), label, patient, draws).any_class.value < 0.3


def test_auc_equals_the_share_of_pairs_in_order() -> None:
    random = np.random.default_rng(1)
    near, far = random.integers(0, 6, 40), random.integers(2, 9, 50)
    share = np.mean([(a < b) + (a == b) / 2 for a in near for b in far])
    counts = (np.bincount(values, minlength=9).astype(float) for values in (near, far))
    assert auc_of_counts(*counts) == pytest.approx(share)


def test_interval_holds_the_figure_and_draws_keep_the_groups_sizes() -> None:
    among = np.arange(30) < 10
    draws = draws_of(30, among, 100, np.random.default_rng(1))
    assert (draws[:, among].sum(1) == 10).all()
    assert (draws[:, ~among].sum(1) == 20).all()
    found = interval(lambda times: float(np.average(np.arange(30), weights=times)), draws)
    assert found.low < found.value == 14.5 < found.high
