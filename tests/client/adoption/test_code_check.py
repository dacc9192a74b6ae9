"""A linear decoder reconstructs little from a code of the class, and much from a thumbnail."""

import numpy as np
import pytest

from ynet_client.adoption.code_check import MOMENTS_SHARE_OF_RANDOM, Readable, explained

CASES, SIDE, CLASSES, BITS = 400, 16, 4, 64


@pytest.fixture(scope="module")
def pictures() -> np.ndarray:
    """Make smooth pictures, similar to a hospital's grey images, shape (cases, 256)."""
    random = np.random.default_rng(1)
    small = random.normal(size=(CASES, 8, 8))
    return small.repeat(2, 1).repeat(2, 2).reshape(CASES, -1) + 0.2 * random.normal(size=(CASES, SIDE * SIDE))


def readable(codes: np.ndarray, pictures: np.ndarray) -> Readable:
    folds = np.arange(CASES) % 4
    blind = np.sign(pictures @ np.random.default_rng(2).standard_normal((SIDE * SIDE, BITS)))
    return Readable(explained(codes, pictures, folds), None, explained(blind, pictures, folds), CASES)


def test_thumbnail_code_reveals_too_much_and_class_code_does_not(pictures: np.ndarray) -> None:
    random = np.random.default_rng(3)
    thumbnail = np.sign(pictures.reshape(CASES, 8, 2, 8, 2).mean((2, 4)).reshape(CASES, -1))
    found = readable(thumbnail, pictures)
    assert found.new > 0.5
    assert found.is_too_much

    book = np.sign(random.normal(size=(CLASSES, BITS)))
    classes = book[random.integers(0, CLASSES, CASES)] * np.where(random.random((CASES, BITS)) < 0.05, -1, 1)
    honest = readable(classes, pictures)
    assert honest.new < 0.05
    assert not honest.is_too_much


def test_a_thumbnail_behind_a_secret_mixing_is_read_as_well(pictures: np.ndarray) -> None:
    """Mixing a thumbnail's pixels linearly before their signs are taken hides nothing from a linear decoder."""
    mix = np.linalg.qr(np.random.default_rng(4).normal(size=(64, 64)))[0]
    small = pictures.reshape(CASES, 8, 2, 8, 2).mean((2, 4)).reshape(CASES, -1)
    assert readable(np.sign(small @ mix), pictures).is_too_much


def test_the_model_in_use_is_no_excuse_and_a_figure_that_is_none_is_too_much() -> None:
    assert Readable(0.4, 0.39, 0.45, CASES).is_too_much
    assert Readable(float("nan"), None, 0.45, CASES).is_too_much
    assert not Readable(0.074, None, 0.44, CASES).is_too_much
    assert Readable(0.12, None, 0.40, CASES).is_too_much
    assert not Readable(0.12, None, 0.40, CASES, MOMENTS_SHARE_OF_RANDOM).is_too_much
    assert Readable(0.4, None, 0.45, CASES, MOMENTS_SHARE_OF_RANDOM).is_too_much
