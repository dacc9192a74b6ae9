"""Trimming of the margin, and mapping of a mask back."""

import dataclasses

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as some

from ynet.data import images
from ynet.data.prepare import Region, content, prepare, prepare_mask, restore_mask
from ynet.plan_sections import Image

SETTINGS = Image(channels=1, size=32)


def textured(height: int, width: int, seed: int = 1) -> np.ndarray:
    return np.random.default_rng(seed).random((1, height, width), np.float32)


@settings(deadline=None)
@given(some.integers(0, 20), some.integers(0, 20), some.integers(0, 20), some.integers(0, 20), some.floats(0, 1))
def test_uniform_margin_does_not_change_the_input(above: int, below: int, left: int, right: int, value: float) -> None:
    inner = textured(24, 30)
    padded = np.pad(inner, ((0, 0), (above, below), (left, right)), constant_values=value)
    if min(above, below, left, right) > 0:
        assert content(padded) == Region(above, left, 24, 30)
        np.testing.assert_array_equal(prepare(padded, SETTINGS).image, prepare(inner, SETTINGS).image)


@pytest.mark.parametrize("value", [0.0, 0.5, 1.0])
def test_image_that_is_all_margin_stays_whole(value: float) -> None:
    assert content(np.full((3, 20, 30), value, np.float32)) == Region(0, 0, 20, 30)


def test_margin_with_few_specks_is_trimmed() -> None:
    image = np.zeros((1, 200, 200), np.float32)
    image[:, 50:150, 60:140] = textured(100, 80) + 0.5
    image[0, 10, 10] = image[0, 190, 180] = 1
    assert content(image) == Region(50, 60, 100, 80)


def test_content_at_the_edges_is_not_trimmed() -> None:
    assert content(textured(40, 60)) == Region(0, 0, 40, 60)


def test_plan_without_trim_keeps_the_margin() -> None:
    image = np.pad(textured(20, 20), ((0, 0), (10, 10), (10, 10)))
    whole = prepare(image, dataclasses.replace(SETTINGS, trim=False))
    assert whole.region == Region(0, 0, 40, 40)
    np.testing.assert_array_equal(whole.image, images.standardise(images.fit(image, 32)))


@settings(deadline=None)
@given(some.integers(20, 60), some.integers(20, 60), some.integers(1, 15))
def test_restore_mask_maps_back_to_the_untrimmed_image(height: int, width: int, margin: int) -> None:
    image = np.pad(textured(height, width), ((0, 0), (margin, margin), (margin, margin)))
    mask = np.zeros(image.shape[1:], np.uint8)
    mask[margin + height // 4 : -margin - height // 4, margin + width // 4 : -margin - width // 4] = 1
    region = prepare(image, SETTINGS).region
    there = prepare_mask(mask, region, 32)
    back = restore_mask(there[0], region, *mask.shape)
    assert back.shape == mask.shape
    assert 2 * (back & mask).sum() / (int(back.sum()) + int(mask.sum())) > 0.8
    assert not back[:margin].any()
    assert not back[:, -margin:].any()
