"""Laws of augmentation: no setting, no change; masks stay masks; the generator decides."""

from dataclasses import replace

import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as some
from torch import Tensor
from torch.nn import functional

from ynet.data.augment import augment, sampling_grid
from ynet.plan_sections import Augmentation

NOTHING = Augmentation(flip=False, rotate_deg=0, scale=0, shift=0, contrast=0, brightness=0, noise=0)


def batch(count: int = 8, channels: int = 1, size: int = 32) -> tuple[Tensor, Tensor]:
    generator = torch.Generator().manual_seed(3)
    image = torch.randn(count, channels, size, size, generator=generator)
    return image, (torch.rand(count, 1, size, size, generator=generator) < 0.2).float()


def seeded(seed: int = 1) -> torch.Generator:
    return torch.Generator().manual_seed(seed)


def test_no_settings_return_the_input_and_draw_nothing() -> None:
    image, mask = batch()
    generator = seeded()
    after = augment(image, mask, NOTHING, generator)
    assert after.image is image
    assert after.mask is mask
    assert torch.equal(generator.get_state(), seeded().get_state())


def test_generator_determines_the_batch() -> None:
    image, mask = batch()
    one, same, other = (augment(image, mask, Augmentation(), seeded(seed)) for seed in (1, 1, 2))
    assert torch.equal(one.image, same.image)
    assert torch.equal(one.mask, same.mask)
    assert not torch.equal(one.image, other.image)


changes = some.builds(
    Augmentation,
    flip=some.booleans(),
    rotate_deg=some.sampled_from([0.0, 15.0, 180.0]),
    scale=some.sampled_from([0.0, 0.1, 0.5]),
    shift=some.sampled_from([0.0, 0.05, 0.5]),
    contrast=some.sampled_from([0.0, 0.9]),
    brightness=some.sampled_from([0.0, 2.0]),
    noise=some.sampled_from([0.0, 1.0]),
    transplant=some.sampled_from([0.0, 0.5]),
)


@settings(deadline=None)
@given(changes, some.integers(0, 2**31), some.sampled_from([1, 3]))
def test_masks_stay_binary_and_input_is_not_modified(asked: Augmentation, seed: int, channels: int) -> None:
    image, mask = batch(4, channels)
    image_before, mask_before = image.clone(), mask.clone()
    after = augment(image, mask, asked, seeded(seed))
    assert after.image.shape == image.shape
    assert after.mask.shape == mask.shape
    assert after.image.isfinite().all()
    assert set(after.mask.unique().tolist()) <= {0.0, 1.0}
    assert torch.equal(image, image_before)
    assert torch.equal(mask, mask_before)


def test_flip_gives_image_or_mirror_image() -> None:
    image, mask = batch(32)
    after = augment(image, mask, replace(NOTHING, flip=True), seeded())
    mirrored = [torch.equal(one, other.flip(-1)) for one, other in zip(after.image, image, strict=True)]
    expected = [(other.flip(-1) if turn else other) for other, turn in zip(image, mirrored, strict=True)]
    assert torch.equal(after.image, torch.stack(expected))
    masks = [(other.flip(-1) if turn else other) for other, turn in zip(mask, mirrored, strict=True)]
    assert torch.equal(after.mask, torch.stack(masks))
    assert 0 < sum(mirrored) < 32


def test_mask_moves_with_the_image() -> None:
    y, x = torch.meshgrid(torch.arange(64), torch.arange(64), indexing="ij")
    square = ((y > 20) & (y < 40) & (x > 15) & (x < 45)).float().expand(16, 1, 64, 64)
    moving = replace(NOTHING, flip=True, rotate_deg=40, scale=0.3, shift=0.1)
    after = augment(square, square, moving, seeded())
    assert not torch.equal(after.mask, square)
    assert ((after.image >= 0.5).float() != after.mask).float().mean() < 0.01


@pytest.mark.parametrize("setting", ["contrast", "brightness", "noise"])
def test_grey_changes_leave_the_mask(setting: str) -> None:
    image, mask = batch()
    after = augment(image, mask, replace(NOTHING, **{setting: 0.5}), seeded())
    assert after.mask is mask
    assert not torch.equal(after.image, image)


def test_contrast_and_brightness_stay_within_settings() -> None:
    image, mask = batch(200)
    louder = augment(image, mask, replace(NOTHING, contrast=0.2), seeded()).image / image
    per_image = louder.flatten(1).median(dim=1).values
    assert torch.allclose(louder, per_image.view(-1, 1, 1, 1).expand_as(louder), atol=1e-3)
    assert 0.8 <= per_image.min() < 0.85
    assert 1.15 < per_image.max() <= 1.2
    added = augment(image, mask, replace(NOTHING, brightness=0.3), seeded()).image - image
    assert 0.25 < added.abs().max() <= 0.3 + 1e-5


def test_noise_has_the_set_deviation() -> None:
    image, mask = batch(64)
    noise = augment(image, mask, replace(NOTHING, noise=0.25), seeded()).image - image
    assert noise.std().item() == pytest.approx(0.25, rel=0.02)
    assert noise.mean().item() == pytest.approx(0, abs=0.005)


def test_sampling_grid_equals_torch() -> None:
    theta = torch.randn(5, 2, 3, generator=seeded())
    expected = functional.affine_grid(theta, [5, 1, 17, 17], align_corners=False)
    torch.testing.assert_close(sampling_grid(theta, 17), expected)


def test_transplanted_lesion_gets_background_of_healthy_image() -> None:
    image, mask = batch(4)
    mask[:] = 0
    mask[:2, :, 10:16, 12:20] = 1
    after = augment(image, mask, replace(NOTHING, transplant=1), seeded())
    far = functional.max_pool2d(mask, 9, 1, 4) == 0
    for lesion in (0, 1):
        inside = mask[lesion] > 0
        torch.testing.assert_close(after.image[lesion][inside], image[lesion][inside])
        outside = far[lesion]
        assert any(torch.equal(after.image[lesion][outside], image[host][outside]) for host in (2, 3))
    assert torch.equal(after.image[2:], image[2:])
    assert torch.equal(after.mask, mask)


def test_nothing_is_transplanted_without_both_kinds() -> None:
    image, mask = batch(4)
    for masks in (torch.ones_like(mask), torch.zeros_like(mask)):
        assert torch.equal(augment(image, masks, replace(NOTHING, transplant=1), seeded()).image, image)
