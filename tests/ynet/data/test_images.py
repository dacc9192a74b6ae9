"""All image formats decode to the same array; other and too large files are refused."""

import contextlib
import struct
import zlib
from pathlib import Path

import numpy as np
import pytest
from dicoms import dicom
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as some
from hypothesis.extra.numpy import arrays
from PIL import Image

from ynet.data import images
from ynet.errors import UserError

GREY = np.arange(12, dtype=np.uint8).reshape(3, 4) * 20
COLOUR = np.stack([GREY, GREY[::-1], 255 - GREY], axis=2)
sides = some.integers(1, 80)


def saved(path: Path, image: Image.Image | np.ndarray, **options: object) -> Path:
    (image if isinstance(image, Image.Image) else Image.fromarray(image)).save(path, **options)  # type: ignore[arg-type]
    return path


@pytest.mark.parametrize("pixels", [GREY, COLOUR, GREY.astype(np.uint16) * 257], ids=["grey", "colour", "16 bit"])
def test_inspect_agrees_with_decode_digest_and_is_colour(tmp_path: Path, pixels: np.ndarray) -> None:
    paths = [saved(tmp_path / "image.png", pixels), tmp_path / "image.dcm"]
    paths[1].write_bytes(dicom(pixels))
    for path in paths:
        found = images.inspect(path)
        assert found.shape == images.decode(path, 1).shape[1:]
        assert (found.digest, found.is_colour) == (images.digest(path), images.is_colour(path))


@pytest.mark.parametrize("ending", ["png", "tif"])
def test_values_are_scaled_by_bit_depth(tmp_path: Path, ending: str) -> None:
    eight = images.decode(saved(tmp_path / f"8.{ending}", GREY), 1)
    sixteen = images.decode(saved(tmp_path / f"16.{ending}", GREY.astype(np.uint16) * 257), 1)
    assert eight.dtype == np.float32
    np.testing.assert_array_equal(eight, GREY[None].astype(np.float32) / 255)
    np.testing.assert_allclose(sixteen, eight, atol=1e-7)


def test_big_endian_and_inverted_16_bit_tiff_are_equal(tmp_path: Path) -> None:
    sixteen = GREY.astype(np.uint16) * 257
    expected = images.decode(saved(tmp_path / "little.tif", sixteen), 1)
    big = Image.frombytes("I;16B", (4, 3), sixteen.astype(">u2").tobytes())
    np.testing.assert_array_equal(images.decode(saved(tmp_path / "big.tif", big), 1), expected)
    inverted = saved(tmp_path / "inverted.tif", 65535 - sixteen, tiffinfo={262: 0})
    np.testing.assert_allclose(images.decode(inverted, 1), expected, atol=1e-6)


def test_32_bit_integer_tiff_must_fit_16_bits(tmp_path: Path) -> None:
    fits = images.decode(saved(tmp_path / "fits.tif", GREY.astype(np.int32) * 257), 1)
    np.testing.assert_allclose(fits[0], GREY / 255, atol=1e-6)
    with pytest.raises(UserError, match="below 0 or above 65535"):
        images.decode(saved(tmp_path / "below.tif", GREY.astype(np.int32) - 1), 1)
    with pytest.raises(UserError, match="floating point"):
        images.decode(saved(tmp_path / "float.tif", GREY.astype(np.float32)), 1)


@pytest.mark.parametrize("mode", ["RGB", "RGBA", "P", "CMYK"])
def test_every_colour_mode_becomes_rgb(tmp_path: Path, mode: str) -> None:
    path = saved(tmp_path / "colour.tif", Image.fromarray(COLOUR).convert(mode))
    assert images.is_colour(path)
    rgb = images.decode(path, 3)
    assert rgb.shape == (3, 3, 4)
    assert images.decode(path, 1).shape == (1, 3, 4)
    if mode != "P":  # whose palette has fewer colours
        np.testing.assert_allclose(rgb.transpose(1, 2, 0), COLOUR / 255, atol=0.01)


@pytest.mark.parametrize("mode", ["L", "LA", "1", "P"])
def test_grey_becomes_three_equal_channels(tmp_path: Path, mode: str) -> None:
    path = saved(tmp_path / "grey.png", Image.fromarray(GREY).convert(mode))
    red, green, blue = images.decode(path, 3)
    np.testing.assert_array_equal(red, green)
    np.testing.assert_array_equal(red, blue)
    np.testing.assert_allclose(images.decode(path, 1)[0], red, atol=1 / 255)


def test_alpha_of_a_palette_is_dropped(tmp_path: Path) -> None:
    palette = Image.fromarray(COLOUR).convert("P")
    plain = images.decode(saved(tmp_path / "plain.png", palette), 3)
    seen_through = saved(tmp_path / "alpha.png", palette, transparency=bytes(range(256)))
    np.testing.assert_array_equal(images.decode(seen_through, 3), plain)


@pytest.mark.parametrize("ending", ["png", "jpg", "tif"])
@pytest.mark.parametrize("orientation", range(1, 9))
def test_image_is_rotated_upright(tmp_path: Path, ending: str, orientation: int) -> None:
    upright = np.zeros((16, 32), np.uint8)
    upright[:8, :8] = 255
    back = {
        1: upright,
        2: upright[:, ::-1],
        3: upright[::-1, ::-1],
        4: upright[::-1],
        5: upright.T,
        6: np.rot90(upright),
        7: np.rot90(upright, 2).T,
        8: np.rot90(upright, -1),
    }[orientation]
    exif = Image.Exif()
    exif[0x0112] = orientation
    path = saved(tmp_path / f"turned.{ending}", np.ascontiguousarray(back), exif=exif)
    np.testing.assert_allclose(images.decode(path, 1)[0], upright / 255, atol=0.05)


def test_file_that_is_not_an_image_is_refused(tmp_path: Path) -> None:
    (tmp_path / "text.png").write_text("no image")
    (tmp_path / "empty.png").touch()
    saved(tmp_path / "other.png", Image.fromarray(GREY), format="BMP")
    for name in ("text.png", "empty.png", "other.png"):
        with pytest.raises(UserError, match="not a PNG, JPEG, TIFF or DICOM"):
            images.decode(tmp_path / name, 1)
    with pytest.raises(UserError, match="not a file"):
        images.decode(tmp_path, 1)
    with pytest.raises(UserError, match="no such file"):
        images.decode(tmp_path / "missing.png", 1)


@pytest.mark.parametrize("ending", ["png", "jpg", "tif"])
def test_truncated_file_is_refused(tmp_path: Path, ending: str) -> None:
    noise = np.random.default_rng(1).integers(0, 256, (64, 64), dtype=np.uint8)
    path = saved(tmp_path / f"cut.{ending}", noise)
    path.write_bytes(path.read_bytes()[: path.stat().st_size * 2 // 3])
    with pytest.raises(UserError):
        images.decode(path, 1)


@pytest.mark.parametrize("ending", ["png", "tif"])
def test_image_of_several_frames_is_refused(tmp_path: Path, ending: str) -> None:
    frames = [Image.fromarray(GREY), Image.fromarray(255 - GREY)]
    path = saved(tmp_path / f"frames.{ending}", frames[0], save_all=True, append_images=frames[1:])
    with pytest.raises(UserError, match="several frames"):
        images.decode(path, 1)


@pytest.mark.parametrize("side", [8_000, 10_000, 60_000])
def test_image_bomb_is_refused_by_its_header(tmp_path: Path, side: int) -> None:
    def chunk(kind: bytes, body: bytes) -> bytes:
        return struct.pack(">I", len(body)) + kind + body + struct.pack(">I", zlib.crc32(kind + body))

    head = struct.pack(">IIBBBBB", side, side, 8, 0, 0, 0, 0)
    (tmp_path / "bomb.png").write_bytes(
        b"\x89PNG\r\n\x1a\n" + chunk(b"IHDR", head) + chunk(b"IDAT", zlib.compress(b"")) + chunk(b"IEND", b"")
    )
    with pytest.raises(UserError, match="50 million pixels"):
        images.decode(tmp_path / "bomb.png", 1)


def test_too_large_file_is_refused_unread(tmp_path: Path) -> None:
    with (tmp_path / "large.png").open("wb") as file:
        file.truncate(images.MAX_FILE_BYTES + 1)
    with pytest.raises(UserError, match="64 MiB"):
        images.decode(tmp_path / "large.png", 1)


@pytest.mark.parametrize("ending", ["png", "jpg", "tif"])
@settings(deadline=None, max_examples=150, suppress_health_check=[HealthCheck.function_scoped_fixture])
@given(data=some.data())
def test_damaged_file_is_an_array_or_a_user_error(tmp_path: Path, ending: str, data: some.DataObject) -> None:
    path = saved(tmp_path / f"damaged.{ending}", COLOUR)
    content = bytearray(path.read_bytes())
    for _ in range(data.draw(some.integers(1, 4))):
        content[data.draw(some.integers(0, len(content) - 1))] = data.draw(some.integers(0, 255))
    path.write_bytes(content)
    with contextlib.suppress(UserError):
        assert images.decode(path, 3).shape[0] == 3


def test_mask_threshold_is_half_of_white_unless_binary(tmp_path: Path) -> None:
    grey = saved(tmp_path / "grey.png", np.array([[0, 127, 128, 255]], np.uint8))
    assert images.decode_mask(grey).tolist() == [[0, 0, 1, 1]]
    ones = saved(tmp_path / "ones.png", np.array([[0, 1, 1, 0]], np.uint8))
    assert images.decode_mask(ones).tolist() == [[0, 1, 1, 0]]
    one_bit = saved(tmp_path / "bits.png", Image.fromarray(np.array([[0, 255]], np.uint8)).convert("1"))
    assert images.decode_mask(one_bit).tolist() == [[0, 1]]
    sixteen = saved(tmp_path / "sixteen.png", np.array([[0, 32767, 32768, 65535]], np.uint16))
    assert images.decode_mask(sixteen).tolist() == [[0, 0, 1, 1]]
    empty = saved(tmp_path / "empty.png", np.zeros((2, 2), np.uint8))
    assert not images.decode_mask(empty).any()


@given(sides, sides, some.integers(1, 48))
def test_fit_keeps_constant_image_constant(height: int, width: int, size: int) -> None:
    fitted = images.fit(np.full((1, height, width), 0.3, np.float32), size)
    assert fitted.shape == (1, size, size)
    np.testing.assert_allclose(fitted, 0.3, rtol=1e-5)


@settings(deadline=None)
@given(some.integers(8, 60), some.integers(8, 60), some.integers(16, 48))
def test_fit_is_equal_for_image_and_mask(height: int, width: int, size: int) -> None:
    mask = np.zeros((1, height, width), np.float32)
    mask[:, height // 4 : height // 2 + 1, width // 3 : width // 2 + 1] = 1
    as_image, as_mask = images.fit(mask, size), images.fit(mask, size, is_mask=True)
    assert set(np.unique(as_mask)) <= {0, 1}
    if as_image.max() >= 0.5:
        np.testing.assert_array_equal(as_mask, as_image >= 0.5)


def test_one_pixel_lesion_survives_shrinking() -> None:
    mask = np.zeros((1, 512, 300), np.float32)
    mask[0, 100, 70] = 1
    fitted = images.fit(mask, 32, is_mask=True)
    assert fitted.sum() >= 1
    assert not images.fit(np.zeros((1, 512, 300), np.float32), 32, is_mask=True).any()


def test_shrinking_does_not_alias() -> None:
    stripes = np.tile(np.array([0.0, 1.0], np.float32), 128)[None, None].repeat(256, axis=1)
    inside = images.fit(stripes, 32)[0, 2:-2, 2:-2]
    np.testing.assert_allclose(inside, 0.5, atol=0.01)


def test_fit_keeps_aspect_ratio_and_pads_with_border() -> None:
    image = np.full((1, 20, 40), 0.25, np.float32)
    image[0, 5:15, 10:30] = 1
    fitted = images.fit(image, 40)
    np.testing.assert_array_equal(fitted[:, 10:30], image)
    assert (fitted[:, :10] == 0.25).all()
    assert (fitted[:, 30:] == 0.25).all()


@settings(deadline=None)
@given(some.integers(20, 80), some.integers(20, 80), some.integers(24, 64))
def test_unfit_restores_the_mask_position(height: int, width: int, size: int) -> None:
    mask = np.zeros((height, width), np.uint8)
    mask[height // 4 : -(height // 4), width // 4 : -(width // 4)] = 1
    there = images.fit(mask[None].astype(np.float32), size, is_mask=True)[0]
    back = images.unfit(there, height, width)
    assert back.shape == mask.shape
    overlap = 2 * (back & mask).sum() / (int(back.sum()) + int(mask.sum()))
    assert overlap > 0.8


@given(some.integers(1, 40), some.integers(1, 40), some.integers(1, 48))
def test_unfit_keeps_a_full_mask(height: int, width: int, size: int) -> None:
    full = images.fit(np.ones((1, height, width), np.float32), size, is_mask=True)[0]
    assert images.unfit(full, height, width).all()
    assert images.unfit(np.ones((size, size), np.float32), height, width).all()


@given(arrays(np.float32, (1, 5, 6), elements=some.floats(0, 1, width=16)), some.floats(0.25, 4), some.floats(-1, 1))
def test_standardise_removes_brightness_and_contrast(image: np.ndarray, gain: float, offset: float) -> None:
    if image.std() < 0.01:
        return
    one = images.standardise(image)
    np.testing.assert_allclose(images.standardise((image * gain + offset).astype(np.float32)), one, atol=1e-3)
    assert abs(one.mean()) < 1e-5
    assert abs(one.std() - 1) < 1e-4


@pytest.mark.parametrize("value", [0.0, 0.1, 1 / 3, 1.0])
def test_standardise_maps_constant_image_to_zero(value: float) -> None:
    assert not images.standardise(np.full((3, 50, 50), value, np.float32)).any()
