"""A synthetic federation is valid and deterministic, and only the lesion determines the class."""

from collections import Counter
from collections.abc import Callable
from pathlib import Path

import numpy as np
import pytest

from ynet.data import images, manifest
from ynet.data.check import check
from ynet.data.synthetic import CLASSES, make_federation

SITES = {"A": 180, "B": 120, "C": 60}


@pytest.fixture(scope="module")
def federation(tmp_path_factory: pytest.TempPathFactory) -> Path:
    root = tmp_path_factory.mktemp("federation")
    make_federation(root, SITES, seed=1)
    return root


def test_every_site_passes_the_check_without_warnings(federation: Path) -> None:
    for site, count in SITES.items():
        report = check(federation / site / "manifest.csv", CLASSES, channels=1)
        assert report.problems == ()
        assert report.cases == count
        assert report.images_per_size == {"96 x 96": count}


def test_every_class_is_balanced_in_both_splits(federation: Path) -> None:
    for site, count in SITES.items():
        read = manifest.read(federation / site / "manifest.csv")
        assert {case.label for case in read.train} == {case.label for case in read.test} == set(CLASSES)
        for of_class in Counter(case.label for case in read.cases).values():
            assert abs(of_class - count / 3) <= 4
        assert 0.15 < len(read.test) / count < 0.35
        assert all(35 <= int(case.attributes["age"]) < 85 for case in read.cases)


def test_seed_determines_each_site_independently(tmp_path: Path) -> None:
    def content(root: Path) -> dict[str, bytes]:
        return {str(file.relative_to(root)): file.read_bytes() for file in root.rglob("*") if file.is_file()}

    make_federation(tmp_path / "one", {"A": 9, "B": 6}, seed=5)
    make_federation(tmp_path / "same", {"B": 6, "A": 9}, seed=5)
    make_federation(tmp_path / "alone", {"A": 9}, seed=5)
    make_federation(tmp_path / "other", {"A": 9}, seed=6)
    assert content(tmp_path / "one") == content(tmp_path / "same")
    assert content(tmp_path / "one" / "A") == content(tmp_path / "alone" / "A")
    assert content(tmp_path / "other") != content(tmp_path / "alone")
    assert len(content(tmp_path / "alone")) == 1 + 2 * 9


def test_sites_differ_in_brightness_and_contrast(federation: Path) -> None:
    def grey(site: str) -> np.ndarray:
        cases = manifest.read(federation / site / "manifest.csv")
        return np.stack([images.decode(cases.path_of(case.image), 1) for case in cases.cases])

    appearances = {(round(float(grey(site).mean()), 2), round(float(grey(site).std()), 2)) for site in SITES}
    assert len(appearances) == len(SITES)


def test_only_the_lesion_determines_the_class(federation: Path) -> None:
    """A nearest-neighbour classifier on all sites; chance is 1/3 with three classes."""
    assert score(federation, histogram, "label") < 0.5
    assert score(federation, surroundings, "label") < 0.5
    assert score(federation, size_and_grey_of_lesion, "label") < 0.55
    assert score(federation, surroundings, "background") > 0.8  # the background misleads a network
    assert score(federation, lesion_cut_out, "label") > 0.85


Feature = Callable[[np.ndarray, np.ndarray], np.ndarray]


def histogram(image: np.ndarray, mask: np.ndarray) -> np.ndarray:
    return np.asarray(np.histogram(images.standardise(image), 32, (-3, 3))[0] / mask.size)


def surroundings(image: np.ndarray, mask: np.ndarray) -> np.ndarray:
    return spectrum(images.standardise(image)[0] * (1 - mask))


def size_and_grey_of_lesion(image: np.ndarray, mask: np.ndarray) -> np.ndarray:
    inside = image[0][mask > 0]
    return np.array([mask.mean(), inside.mean(), inside.std()])


def lesion_cut_out(image: np.ndarray, mask: np.ndarray) -> np.ndarray:
    inside = image[0][mask > 0]
    alone = np.pad((image[0] - inside.mean()) / inside.std() * mask, 20)
    y, x = (int(place.mean()) for place in np.nonzero(mask))
    return spectrum(alone[y : y + 40, x : x + 40])


def spectrum(plane: np.ndarray) -> np.ndarray:
    """Energy by frequency, over all directions."""
    size = len(plane)
    energy = np.abs(np.fft.fft2(plane - plane.mean())) ** 2
    along = np.fft.fftfreq(size, 1 / size)
    waves = np.hypot(along[:, None], along[None]).astype(int)
    by_waves = np.bincount(waves.ravel(), energy.ravel())[: size // 2]
    return np.asarray(np.sqrt(by_waves / by_waves.sum()))


def score(root: Path, feature: Feature, target: str) -> float:
    """Accuracy of the majority `target` of the five nearest training images."""
    features: dict[str, list[np.ndarray]] = {"train": [], "test": []}
    targets: dict[str, list[str]] = {"train": [], "test": []}
    for site in SITES:
        cases = manifest.read(root / site / "manifest.csv")
        for case in cases.cases:
            image, mask = images.decode(cases.path_of(case.image), 1), images.decode_mask(cases.path_of(case.mask))
            features[case.split].append(feature(image, mask))
            targets[case.split].append(case.label if target == "label" else case.attributes[target])
    train, test = np.stack(features["train"]), np.stack(features["test"])
    nearest = ((test[:, None] - train[None]) ** 2).sum(-1).argsort(1)[:, :5]
    guesses = [Counter(targets["train"][index] for index in row).most_common(1)[0][0] for row in nearest]
    return float(np.mean([guess == truth for guess, truth in zip(guesses, targets["test"], strict=True)]))
