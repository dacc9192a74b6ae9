"""A code from moments: exact over sites, and near for images of one class and of one patient."""

from types import SimpleNamespace

import numpy as np
import pytest
import torch

from ynet.code_map import CodeMap, FeatureMoments, add, apart, check_labelled, code_map, flatten, moments_of, unflatten
from ynet.code_shapes import Sizes, moments_size
from ynet.errors import UserError
from ynet.learning.moment_code import code_values as torch_values

CLASSES, FEATURES = 3, 24
SIZES = Sizes(FEATURES, CLASSES)


class Cases:
    """Features with a mean for each class, a mean for each patient, and noise; channels of very unlike sizes."""

    def __init__(self, seed: int, patients: int = 120, images: int = 3) -> None:
        random, truth = np.random.default_rng(seed), np.random.default_rng(0)
        self.patient = np.repeat(np.arange(patients), images)
        self.label = (self.patient % CLASSES).astype(np.int64)
        means = truth.normal(0, 1.5, (CLASSES, FEATURES))
        own = random.normal(0, 1, (patients, FEATURES))
        noise = random.normal(0, 1, (len(self.patient), FEATURES)) * np.where(np.arange(FEATURES) < 8, 3.0, 0.2)
        scale = np.logspace(-2, 2, FEATURES)
        self.feature = (means[self.label] + own[self.patient] + noise) * scale + 5 * scale

    def moments(self, chosen: np.ndarray | slice = slice(None)) -> FeatureMoments:
        return moments_of(self.feature[chosen], self.label[chosen], self.patient[chosen], SIZES)


def code_values(code: CodeMap, feature: np.ndarray) -> np.ndarray:
    arrays = SimpleNamespace(**{name: torch.from_numpy(values) for name, values in code._asdict().items()})
    return torch_values(torch.from_numpy(feature), arrays).numpy()


def bits_of(code: CodeMap, feature: np.ndarray) -> np.ndarray:
    return code_values(code, feature) > 0


def test_sums_over_sites_give_the_code_of_the_pooled_cases() -> None:
    cases = Cases(1)
    parts = [cases.moments(cases.patient % 4 == site) for site in range(4)]
    pooled, federated = code_map(cases.moments(), 64, 16, 1), code_map(add(parts), 64, 16, 1)
    assert (bits_of(pooled, cases.feature) == bits_of(federated, cases.feature)).mean() > 0.9999


def test_order_of_cases_does_not_matter() -> None:
    cases = Cases(2)
    shuffled = np.random.default_rng(3).permutation(len(cases.label))
    one, other = code_map(cases.moments(), 64, 16, 1), code_map(cases.moments(shuffled), 64, 16, 1)
    assert (bits_of(one, cases.feature) == bits_of(other, cases.feature)).mean() > 0.9999


def test_scale_of_a_channel_does_not_matter() -> None:
    cases, scaled = Cases(4), Cases(4)
    factors = np.logspace(-3, 3, FEATURES)
    scaled.feature = cases.feature * factors
    one = code_values(code_map(cases.moments(), 64, 16, 1), cases.feature)
    other = code_values(code_map(scaled.moments(), 64, 16, 1), scaled.feature)
    distances = [np.sign(values) @ np.sign(values).T for values in (one, other)]
    assert np.corrcoef(distances[0].ravel(), distances[1].ravel())[0, 1] > 0.8


@pytest.mark.parametrize("class_bits", [8, 16, 32])
def test_new_images_are_near_their_class_and_their_patient(class_bits: int) -> None:
    known, new = Cases(5), Cases(6)
    code = code_map(known.moments(), 64, class_bits, 1)
    bits = bits_of(code, new.feature)
    distances = (bits[:, None, :] != bits[None]).sum(2).astype(float)
    np.fill_diagonal(distances, np.inf)
    nearest = distances.argsort(1)[:, :10]
    same_class = (new.label[nearest] == new.label[:, None]).mean()
    same_patient = (new.patient[nearest] == new.patient[:, None]).any(1).mean()
    assert same_class > 0.8
    assert same_patient > 0.8


def test_more_class_bits_give_a_purer_class() -> None:
    known, new = Cases(7), Cases(8)
    purity = []
    for class_bits in (0, 8, 48):
        bits = bits_of(code_map(known.moments(), 64, class_bits, 1), new.feature)
        distances = (bits[:, None, :] != bits[None]).sum(2).astype(float)
        distances[new.patient[:, None] == new.patient[None]] = np.inf
        nearest = distances.argsort(1)[:, :10]
        purity.append((new.label[nearest] == new.label[:, None]).mean())
    assert purity == sorted(purity)


@pytest.mark.parametrize(("classes", "bits", "least"), [(2, 14, 14), (3, 14, 9), (5, 14, 7), (9, 14, 6), (9, 20, 9)])
@pytest.mark.parametrize("seed", [1, 2, 3])
def test_no_two_classes_have_codes_that_are_alike(classes: int, bits: int, least: int, seed: int) -> None:
    turned = apart(np.random.default_rng(seed), classes, bits)
    codes = (np.eye(classes) - 1 / classes) @ turned > 0
    differences = (codes[:, None] != codes[None]).sum(2)
    assert differences[np.triu_indices(classes, 1)].min() >= least
    np.testing.assert_allclose(turned @ turned.T, np.eye(classes), atol=1e-12)


def test_class_without_cases_is_left_out() -> None:
    cases = Cases(9)
    code = code_map(cases.moments(cases.label != 1), 64, 16, 1)
    values = code_values(code, cases.feature)
    assert np.isfinite(values).all()


def test_patients_with_one_image_each_fall_back_to_classes() -> None:
    cases = Cases(10, patients=300, images=1)
    moments = cases.moments()
    assert moments.repeats == 0
    assert np.isfinite(code_values(code_map(moments, 64, 16, 1), cases.feature)).all()


def test_channel_without_spread_does_no_harm() -> None:
    cases = Cases(11)
    cases.feature[:, 3] = 7.0
    assert np.isfinite(code_values(code_map(cases.moments(), 128, 16, 1), cases.feature)).all()


def test_bits_that_do_not_fit_are_refused() -> None:
    cases = Cases(12)
    for class_bits in (-1, 64):
        with pytest.raises(ValueError, match="class bits"):
            code_map(cases.moments(), 64, class_bits, 1)
    with pytest.raises(ValueError, match="0 classes"):
        code_map(cases.moments(cases.label == 7), 64, 16, 1)


def test_one_class_alone_has_a_code_of_cases() -> None:
    cases = Cases(13)
    code = code_map(cases.moments(cases.label == 0), 64, 16, 1)
    bits = bits_of(code, cases.feature[cases.label == 0])
    assert not bits[:, :16].any()
    assert len(np.unique(bits, axis=0)) > 100


def test_moments_survive_the_wire() -> None:
    cases = Cases(14)
    sent = flatten(cases.moments(), len(cases.label))
    assert sent.shape == (moments_size(SIZES),)
    found, own = unflatten(sent, len(cases.label), SIZES), cases.moments()
    for name, values in own._asdict().items():
        np.testing.assert_allclose(getattr(found, name), values, rtol=1e-5, err_msg=name)


def test_mean_over_sites_weighted_by_cases_is_the_moments_of_all() -> None:
    cases = Cases(15)
    parts = [cases.moments(cases.patient % 3 == site) for site in range(3)]
    weights = np.array([part.cases.sum() for part in parts])
    mean = np.average(
        [flatten(part, int(part.cases.sum())).astype(np.float64) for part in parts], axis=0, weights=weights
    )
    found = unflatten(mean, int(weights.sum()), SIZES)
    np.testing.assert_allclose(found.products, cases.moments().products, rtol=1e-5)


def test_unlabelled_cases_count_in_the_scatter_within_patients_alone() -> None:
    cases, more = Cases(19), Cases(20, patients=40)
    label = np.concatenate([cases.label, np.full(len(more.label), -1)])
    feature = np.concatenate([cases.feature, more.feature])
    patient = np.concatenate([cases.patient, more.patient + 1000])
    found, without = moments_of(feature, label, patient, SIZES), cases.moments()
    for name in ("cases", "total", "products"):
        np.testing.assert_allclose(getattr(found, name), getattr(without, name), err_msg=name)
    np.testing.assert_allclose(found.within_patients, without.within_patients + more.moments().within_patients)
    assert found.repeats == without.repeats + more.moments().repeats
    sent = unflatten(flatten(found, len(label)), len(label), SIZES)
    np.testing.assert_allclose(sent.products, found.products, rtol=1e-5)
    class_bits = [bits_of(code_map(one, 64, 16, 1), feature)[:, :16] for one in (found, without)]
    assert (class_bits[0] == class_bits[1]).all()


def test_moments_of_a_site_without_labels_survive_the_wire() -> None:
    cases = Cases(21)
    own = moments_of(cases.feature, np.full(len(cases.label), -1), cases.patient, SIZES)
    found = unflatten(flatten(own, len(cases.label)), len(cases.label), SIZES)
    assert not found.cases.any()
    assert not found.products.any()
    np.testing.assert_allclose(found.within_patients, own.within_patients, rtol=1e-5)
    with pytest.raises(UserError, match="no site has a training case with a label"):
        check_labelled(found)
    both = [cases.moments(), found]
    check_labelled(add(both))
    weights = [len(cases.label)] * 2
    mean = np.average([flatten(one, len(cases.label)).astype(np.float64) for one in both], axis=0, weights=weights)
    np.testing.assert_allclose(unflatten(mean, sum(weights), SIZES).total, cases.moments().total, rtol=1e-5)


def changed(place: int, value: float) -> tuple[np.ndarray, int]:
    cases = Cases(16)
    sent = flatten(cases.moments(), len(cases.label))
    sent[place] = value
    return sent, len(cases.label)


TOTALS = CLASSES * (1 + FEATURES)
PATIENTS = TOTALS + FEATURES * (FEATURES + 1) // 2
REPEATS = PATIENTS + 1


@pytest.mark.parametrize(
    ("place", "value"),
    [
        (0, -0.5),
        (0, 9.0),
        (0, np.nan),
        (CLASSES, 1e9),
        (TOTALS, -1.0),
        (PATIENTS, -1.0),
        (PATIENTS, 2.0),
        (REPEATS, -1.0),
        (REPEATS, 2.0),
        (REPEATS + 1, -1.0),
    ],
)
def test_moments_of_no_possible_cases_are_refused(place: int, value: float) -> None:
    sent, cases = changed(place, value)
    with pytest.raises(ValueError, match=r"not the|smaller than|not a part"):
        unflatten(sent, cases, SIZES)


def test_scatter_of_few_patients_is_shrunk_more() -> None:
    cases = Cases(17)
    moments = cases.moments()
    apart = cases.feature - np.stack([cases.feature[cases.label == one].mean(0) for one in range(CLASSES)])[cases.label]
    found = apart.T @ apart / (len(apart) - CLASSES)
    unlike = []
    for patients in (1e9, 600.0, 60.0):
        directions = code_map(moments._replace(patients=patients), 64, 16, 1).to_classes
        unlike.append(np.abs(directions.T @ found @ directions - np.eye(CLASSES - 1)).max())
    assert unlike[0] < unlike[1] < unlike[2]


def test_patients_are_counted_once_and_only_with_a_label() -> None:
    cases = Cases(17)
    labelled = np.where(cases.patient % 2 == 0, cases.label, -1)
    found = moments_of(cases.feature, labelled, cases.patient, SIZES)
    assert cases.moments().patients == len(np.unique(cases.patient))
    assert found.patients == len(np.unique(cases.patient[cases.patient % 2 == 0]))


def test_codes_of_the_classes_are_those_of_their_means() -> None:
    cases = Cases(18)
    code = code_map(cases.moments(cases.label != 1), 64, 16, 1)
    means = np.stack([cases.feature[cases.label == one].mean(0) for one in (0, 2)])
    np.testing.assert_allclose(code.class_codes[[0, 2]], code_values(code, means), rtol=1e-6, atol=1e-9)
    assert not code.class_codes[1].any()
