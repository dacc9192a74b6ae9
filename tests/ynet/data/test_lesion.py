"""A mask reads alike in all formats; an ambiguous mask is refused, and never counts as empty."""

from collections.abc import Callable
from pathlib import Path

import numpy as np
import pytest
from dicoms import dicom
from hypothesis import HealthCheck, assume, given, settings
from hypothesis import strategies as some
from PIL import Image, ImageFilter

from ynet.data import images, mask_files
from ynet.data.cases import CaseCache
from ynet.data.check import check
from ynet.data.manifest import read
from ynet.errors import UserError
from ynet.plan_sections import Image as ImageSettings

Way = Callable[[np.ndarray], Image.Image]
VOC = [0, 0, 0, 128, 0, 0]


def blob(height: int = 96, width: int = 120, at: tuple[int, int] = (40, 50), radius: int = 17) -> np.ndarray:
    rows, columns = np.mgrid[:height, :width]
    return ((rows - at[0]) ** 2 + (columns - at[1]) ** 2 <= radius**2).astype(np.uint8)


def grey(value: int) -> Way:
    return lambda mask: Image.fromarray(mask * np.uint8(value))


def deep(value: int) -> Way:
    return lambda mask: Image.fromarray(mask.astype(np.uint16) * np.uint16(value))


def colour(*values: int) -> Way:
    return lambda mask: Image.fromarray(mask[..., None] * np.array(values, np.uint8))


def palette(*colours: int, number: int = 1) -> Way:
    def make(mask: np.ndarray) -> Image.Image:
        made = Image.fromarray(mask * np.uint8(number)).convert("P")
        made.putdata((mask * np.uint8(number)).ravel().tolist())
        made.putpalette([*colours, *[0] * (768 - len(colours))])
        return made

    return make


def alpha(red: int) -> Way:
    def make(mask: np.ndarray) -> Image.Image:
        pixels = np.zeros((*mask.shape, 4), np.uint8)
        pixels[..., 0], pixels[..., 3] = red, mask * 255
        return Image.fromarray(pixels)

    return make


WAYS: dict[str, Way] = {
    **{f"grey of {value}": grey(value) for value in (1, 2, 4, 100, 127, 128, 254, 255)},
    **{f"16 bit of {value}": deep(value) for value in (1, 255, 1000, 4095, 65535)},
    "a bit": lambda mask: Image.fromarray(mask * np.uint8(255)).convert("1"),
    "red on black": colour(255, 0, 0),
    "dark green on black": colour(0, 64, 0),
    "white on black, in colour": colour(255, 255, 255),
    "a palette": palette(*VOC),
    "another number of a palette": palette(*VOC, *[0] * 33, 64, 128, 0, number=13),
    "a palette without colours": palette(0, 0, 0),
    "a palette without black": palette(68, 1, 84, 253, 231, 37),
    "a palette with white first": lambda mask: palette(255, 255, 255, 0, 0, 0)(1 - mask),
    "alpha alone": alpha(0),
    "red where it is opaque": alpha(255),
    "red, wholly opaque": lambda mask: colour(255, 0, 0)(mask).convert("RGBA"),
    "red, wholly transparent": lambda mask: Image.fromarray(np.dstack([colour(255, 0, 0)(mask), mask * 0])),
    "grey with alpha": lambda mask: Image.fromarray(np.dstack([mask * 0, mask * np.uint8(255)]), "LA"),
    "dark and bright": lambda mask: Image.fromarray(mask * np.uint8(210) + np.uint8(20)),
}


@pytest.mark.parametrize("ending", ["png", "tif"])
@settings(deadline=None, max_examples=60, suppress_health_check=[HealthCheck.function_scoped_fixture])
@given(way=some.sampled_from(sorted(WAYS)), data=some.data())
def test_mask_reads_alike_in_all_formats(tmp_path: Path, ending: str, way: str, data: some.DataObject) -> None:
    height, width = data.draw(some.integers(1, 40)), data.draw(some.integers(2, 40))
    seed = data.draw(some.integers(0, 2**32 - 1))
    mask = (np.random.default_rng(seed).random((height, width)) < data.draw(some.floats(0.02, 0.98))).astype(np.uint8)
    assume(0 < mask.sum() < mask.size)
    path = tmp_path / f"mask.{ending}"
    WAYS[way](mask).save(path)
    np.testing.assert_array_equal(images.decode_mask(path), mask)


@pytest.mark.parametrize("way", [way for way in sorted(WAYS) if way != "dark and bright"])
def test_empty_mask_has_no_lesion_in_all_formats(tmp_path: Path, way: str) -> None:
    WAYS[way](np.zeros((9, 12), np.uint8)).save(tmp_path / "mask.png")
    if way == "a palette without black":
        with pytest.raises(UserError, match=r"unclear|black"):
            images.decode_mask(tmp_path / "mask.png")
    else:
        assert not images.decode_mask(tmp_path / "mask.png").any()


@pytest.mark.parametrize("quality", [30, 75, 95])
@pytest.mark.parametrize(
    "way", ["grey of 255", "grey of 128", "grey of 100", "red on black", "white on black, in colour"]
)
def test_jpeg_noise_neither_adds_nor_removes_lesion(tmp_path: Path, way: str, quality: int) -> None:
    mask = blob()
    WAYS[way](mask).save(tmp_path / "mask.jpg", quality=quality)
    again = Image.open(tmp_path / "mask.jpg")
    again.save(tmp_path / "mask.png")
    for name in ("mask.jpg", "mask.png"):
        assert dice(images.decode_mask(tmp_path / name), mask) > 0.99


@pytest.mark.parametrize("way", ["grey of 255", "grey of 128", "16 bit of 65535"])
@pytest.mark.parametrize("factor", [2, 4, 8])
def test_soft_edges_are_thresholded_half_way(tmp_path: Path, way: str, factor: int) -> None:
    mask = blob(192, 240, (80, 100), 40)
    drawn = WAYS[way](mask)
    smaller = drawn.resize((240 // factor, 192 // factor), Image.Resampling.BOX)
    for number, soft in enumerate((smaller, smaller.resize((240, 192), Image.Resampling.BILINEAR))):
        soft.save(tmp_path / f"{number}.png")
        truth = np.asarray(Image.fromarray(mask * np.uint8(255)).resize(soft.size, Image.Resampling.BOX)) >= 128
        assert dice(images.decode_mask(tmp_path / f"{number}.png"), truth) > 0.98


def test_blurred_mask_and_soft_alpha_are_thresholded_half_way(tmp_path: Path) -> None:
    mask = blob(192, 240, (80, 100), 40)
    soft = Image.fromarray(mask * np.uint8(255)).filter(ImageFilter.GaussianBlur(2))
    soft.save(tmp_path / "grey.png")
    seen_through = np.zeros((*mask.shape, 4), np.uint8)
    seen_through[..., 1], seen_through[..., 3] = 200, np.asarray(soft)
    Image.fromarray(seen_through).save(tmp_path / "alpha.png")
    for name in ("grey.png", "alpha.png"):
        assert dice(images.decode_mask(tmp_path / name), mask) > 0.98


def labels(*values: int) -> np.ndarray:
    """The blob and one area for each further value."""
    pixels = blob() * np.uint8(values[0])
    for number, value in enumerate(values[1:]):
        pixels[70 + 8 * (number // 10) : 76 + 8 * (number // 10), 8 + 10 * (number % 10) : 16 + 10 * (number % 10)] = (
            value
        )
    return pixels


NOISE = np.random.default_rng(1).integers(0, 256, (96, 120), dtype=np.uint8)


@pytest.mark.parametrize(
    ("pixels", "why"),
    [
        (labels(1, 2), "3 values (0, 1, 2)"),
        (labels(2, 1), "3 values (0, 1, 2)"),
        (labels(255, 128), "3 values (0, 128, 255)"),
        (labels(1, 255), "3 values (0, 1, 255)"),
        (labels(254, 255), "3 values (0, 254, 255)"),
        (labels(255, 1, 2), "4 values (0, 1, 2, 255)"),
        (labels(*range(1, 13)), "13 values"),
        (labels(*range(10, 250, 12)), "21 values"),
        (blob() + np.uint8(1), "from 1 to 2"),
        (blob() + np.uint8(254), "from 254 to 255"),
        (np.ones((9, 9), np.uint8), "all of it has the value 1"),
        (np.full((9, 9), 128, np.uint8), "all of it has the value 128"),
        (NOISE, "too many of its pixels are neither"),
        (np.linspace(0, 255, 96 * 120).astype(np.uint8).reshape(96, 120), "too many of its pixels are neither"),
        (np.dstack([labels(255), labels(0, 255), labels(0)]), "3 colours, of several kinds"),
        (np.dstack([NOISE, NOISE.T.reshape(96, 120), 255 - NOISE]), "colours, of several kinds"),
        (np.dstack([np.full((96, 120), 255), 255 - blob() * 255, 255 - blob() * 255]).astype(np.uint8), "2 colours"),
        (np.full((9, 9, 3), (200, 0, 0), np.uint8), "one colour and no background"),
        (np.dstack([labels(255), labels(0, 255), labels(0), 255 - labels(0, 0, 128)]), "transparency contradict"),
    ],
    ids=str,
)
def test_ambiguous_mask_is_refused_with_its_values(tmp_path: Path, pixels: np.ndarray, why: str) -> None:
    path = tmp_path / "mask.png"
    Image.fromarray(pixels).save(path)
    with pytest.raises(UserError) as caught:
        images.decode_mask(path)
    assert why in caught.value.why
    assert caught.value.what.startswith("mask ")
    assert "save it with 0 outside and 255 inside" in caught.value.do


@pytest.mark.parametrize("small", [1, 254])
def test_small_label_is_not_lost(tmp_path: Path, small: int) -> None:
    pixels = blob() * np.uint8(255)
    pixels[70:72, 8:11] = small
    Image.fromarray(pixels).save(tmp_path / "mask.png")
    with pytest.raises(UserError, match="3 values"):
        images.decode_mask(tmp_path / "mask.png")


def test_label_named_after_the_file_is_the_lesion(tmp_path: Path) -> None:
    pixels = labels(1, 2)
    Image.fromarray(pixels).save(tmp_path / "grey.png")
    Image.fromarray(np.dstack([pixels] * 3)).save(tmp_path / "colour.png")
    Image.fromarray(pixels.astype(np.uint16)).save(tmp_path / "deep.tif")
    voc = palette(*VOC, 0, 128, 0)(pixels)
    voc.save(tmp_path / "voc.png")
    for name in ("grey.png", "colour.png", "deep.tif", "voc.png"):
        for number in (1, 2, 3):
            found = mask_files.read_mask(tmp_path / f"{name}#{number}")
            np.testing.assert_array_equal(found.pixels, pixels == number)
            assert found.is_named
    colour(255, 0, 0)(blob()).save(tmp_path / "red.png")
    with pytest.raises(UserError, match="in colour"):
        images.decode_mask(tmp_path / "red.png#1")


def test_check_training_and_reader_agree(write_site: Callable[..., Path], tmp_path: Path) -> None:
    path = write_site()
    pixels = np.zeros((20, 24), np.uint8)
    pixels[5:11, 6:12], pixels[14:18, 3:9] = 1, 2
    for saved, is_read in ((pixels, False), (np.minimum(pixels, 1) * np.uint8(4), True)):
        Image.fromarray(saved).save(tmp_path / "m3.png")
        report = check(path, None)
        found = [problem for problem in (*report.errors, *report.warnings) if problem.column == "mask"]
        cases = read(path)
        settings_ = ImageSettings(size=32, channels=1, trim=False)
        cache = CaseCache(cases, [cases.cases[3]], settings_, ["round", "spiky"], 0)
        if is_read:
            assert not found
            assert cache._prepare(0)[1].any()
        else:
            assert [(problem.row, "3 values (0, 1, 2)" in problem.what) for problem in found] == [(5, True)]
            with pytest.raises(UserError, match="3 values"):
                cache._prepare(0)


def dice(one: np.ndarray, other: np.ndarray) -> float:
    return 2 * float((one.astype(bool) & other.astype(bool)).sum()) / float(one.sum() + other.sum())


@pytest.mark.parametrize("value", [1, 4, 255, 1000, 4095])
def test_dicom_image_as_mask_uses_stored_values(tmp_path: Path, value: int) -> None:
    mask = blob()
    path = tmp_path / "mask.dcm"
    path.write_bytes(dicom(mask.astype(np.uint16) * np.uint16(value), BitsStored=12))
    np.testing.assert_array_equal(images.decode_mask(path), mask)
    path.write_bytes(dicom(mask.astype(np.uint16) * 0, BitsStored=12))
    assert not images.decode_mask(path).any()
    path.write_bytes(dicom(labels(1, 2).astype(np.uint16), BitsStored=12))
    with pytest.raises(UserError, match="3 values"):
        images.decode_mask(path)


def test_multiframe_dicom_mask_needs_frame_and_uses_colours(tmp_path: Path) -> None:
    several = np.stack([blob(), 1 - blob()]).astype(np.uint16)
    (tmp_path / "several.dcm").write_bytes(dicom(several, frames=True))
    with pytest.raises(UserError, match="none is named"):
        images.decode_mask(tmp_path / "several.dcm")
    np.testing.assert_array_equal(images.decode_mask(tmp_path / "several.dcm#2"), 1 - blob())
    (tmp_path / "red.dcm").write_bytes(dicom(np.asarray(colour(255, 0, 0)(blob())), kind="RGB"))
    np.testing.assert_array_equal(images.decode_mask(tmp_path / "red.dcm"), blob())
    (tmp_path / "inverted.dcm").write_bytes(dicom(blob().astype(np.uint16), kind="MONOCHROME1"))
    with pytest.raises(UserError, match="MONOCHROME1"):
        images.decode_mask(tmp_path / "inverted.dcm")
