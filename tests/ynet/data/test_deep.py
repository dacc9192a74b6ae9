"""16-bit values are kept in full, with colour and alpha too; the files are written byte by byte here."""

import struct
import zlib
from pathlib import Path

import numpy as np
import pytest
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as some
from hypothesis.extra.numpy import arrays

from ynet.data import images
from ynet.errors import UserError

SHORT, LONG = 3, 4
PNG_COLOURS = {1: 0, 2: 4, 3: 2, 4: 6}  # by channels
ROWS, COLUMNS = np.mgrid[:24, :40]
RAMP = (COLUMNS * 40 + ROWS * 20).astype(np.uint16)


def png(pixels: np.ndarray, filters: tuple[int, ...] = (0,)) -> bytes:
    """A 16-bit PNG whose rows use filters 0 (none), 1 (left pixel) and 2 (row above) in turn."""
    height, width, channels = pixels.shape
    rows = np.frombuffer(pixels.astype(">u2").tobytes(), np.uint8).reshape(height, -1).astype(np.int64)
    before = np.pad(rows, ((0, 0), (2 * channels, 0)))[:, : rows.shape[1]]
    above = np.pad(rows, ((1, 0), (0, 0)))[:height]
    body = b""
    for row in range(height):
        kind = filters[row % len(filters)]
        body += bytes([kind]) + ((rows[row] - (0, before[row], above[row])[kind]) % 256).astype(np.uint8).tobytes()
    head = struct.pack(">IIBBBBB", width, height, 16, PNG_COLOURS[channels], 0, 0, 0)
    return b"\x89PNG\r\n\x1a\n" + chunk(b"IHDR", head) + chunk(b"IDAT", zlib.compress(body)) + chunk(b"IEND", b"")


def chunk(kind: bytes, body: bytes) -> bytes:
    return struct.pack(">I", len(body)) + kind + body + struct.pack(">I", zlib.crc32(kind + body))


def tiff(
    pixels: np.ndarray, photometric: int, order: str = "<", extra: int | None = None, packed: bool = False, **tags: int
) -> bytes:
    """A TIFF of one strip; `tags` adds tags, as in `t274=6`."""
    height, width, channels = pixels.shape
    body = pixels.astype(f"{order}u{pixels.dtype.itemsize}").tobytes()
    bits = tags.pop("bits", 8 * pixels.dtype.itemsize)
    entries = {256: width, 257: height, 258: [bits] * channels, 259: 8 if packed else 1, 262: photometric}
    entries |= {277: channels, 278: height, 279: 0, 273: 0} | ({} if extra is None else {338: extra})
    entries |= {int(name[1:]): value for name, value in tags.items()}
    return with_tags(zlib.compress(body) if packed else body, entries, order)


def with_tags(body: bytes, entries: dict[int, int | list[int]], order: str = "<") -> bytes:
    made, more = b"", b""
    start = 8 + 2 + 12 * len(entries) + 4
    listed = {tag: value if isinstance(value, list) else [value] for tag, value in entries.items()}
    size = sum(2 * len(value) for value in listed.values() if len(value) > 2)
    listed[273], listed[279] = [start + size], [len(body)]
    for tag, values in sorted(listed.items()):
        kind = LONG if tag in (273, 279) else SHORT
        packed = struct.pack(f"{order}{len(values)}{'I' if kind == LONG else 'H'}", *values)
        made += struct.pack(f"{order}HHI", tag, kind, len(values))
        if len(packed) > 4:
            made += struct.pack(f"{order}I", start + len(more))
            more += packed
        else:
            made += packed.ljust(4, b"\0")
    head = (b"II*\0" if order == "<" else b"MM\0*") + struct.pack(f"{order}IH", 8, len(entries))
    return head + made + bytes(4) + more + body


def written(path: Path, data: bytes) -> Path:
    path.write_bytes(data)
    return path


def as_shares(pixels: np.ndarray) -> np.ndarray:
    colours = pixels[..., :3] if pixels.shape[2] > 2 else pixels[..., :1].repeat(3, axis=2)
    return colours.transpose(2, 0, 1).astype(np.float32) / np.float32(65535)


@settings(deadline=None, max_examples=60, suppress_health_check=[HealthCheck.function_scoped_fixture])
@given(
    data=some.data(),
    channels=some.integers(1, 4),
    kind=some.sampled_from(["png", "II", "MM", "II packed", "MM packed"]),
)
def test_all_16_bit_values_are_kept_in_any_format(
    tmp_path: Path, data: some.DataObject, channels: int, kind: str
) -> None:
    shape = (data.draw(some.integers(1, 9)), data.draw(some.integers(1, 9)), channels)
    pixels = data.draw(arrays(np.uint16, shape))
    if kind == "png":
        content = png(pixels, tuple(data.draw(some.lists(some.integers(0, 2), min_size=1, max_size=3))))
    else:
        if channels == 2:
            return  # refused, see below
        extra = {4: data.draw(some.sampled_from([0, 2]))}.get(channels)
        order = "<" if kind[:2] == "II" else ">"
        content = tiff(pixels, 1 if channels == 1 else 2, order, extra, packed="packed" in kind)
    path = written(tmp_path / "image", content)
    np.testing.assert_array_equal(images.decode(path, 3), as_shares(pixels))
    assert images.is_colour(path) == (channels > 2)


@pytest.mark.parametrize("channels", [2, 3, 4])
def test_16_bit_grey_is_kept_with_colour_or_alpha(tmp_path: Path, channels: int) -> None:
    pixels = np.dstack([RAMP] * channels)
    if channels != 3:
        pixels[..., -1] = 65535
    path = written(tmp_path / "image.png", png(pixels))
    np.testing.assert_array_equal(images.decode(path, 1)[0], RAMP.astype(np.float32) / np.float32(65535))
    alone = images.decode(written(tmp_path / "grey.png", png(RAMP[..., None])), 1)
    np.testing.assert_array_equal(images.decode(path, 1), alone)


def test_16_bit_luminance_refines_8_bit_luminance(tmp_path: Path) -> None:
    pixels = np.random.default_rng(1).integers(0, 256, (20, 30, 3)).astype(np.uint16)
    fine = images.decode(written(tmp_path / "16.png", png(pixels * np.uint16(257))), 1)
    from PIL import Image

    Image.fromarray(pixels.astype(np.uint8)).save(tmp_path / "8.png")
    np.testing.assert_allclose(fine, images.decode(tmp_path / "8.png", 1), atol=0.51 / 255)


@pytest.mark.parametrize("orientation", [3, 6])
@pytest.mark.parametrize("channels", [1, 3, 4])
def test_16_bit_image_is_rotated_upright(tmp_path: Path, orientation: int, channels: int) -> None:
    upright = np.dstack([RAMP, RAMP[::-1], RAMP[:, ::-1], RAMP])[..., :channels]
    stored = np.ascontiguousarray(np.rot90(upright, {3: 2, 6: 1}[orientation]))
    content = tiff(stored, 1 if channels == 1 else 2, extra=2 if channels == 4 else None, t274=orientation)
    found = images.decode(written(tmp_path / "turned.tif", content), 3)
    np.testing.assert_array_equal(found, as_shares(upright))


def test_12_bit_reaches_white(tmp_path: Path) -> None:
    values = np.arange(24, dtype=np.uint16).reshape(2, 12) * 178
    values[-1, -1] = 4095
    pairs = values.reshape(-1, 2).astype(np.uint32)
    packed = np.stack([pairs[:, 0] >> 4, (pairs[:, 0] & 15) << 4 | pairs[:, 1] >> 8, pairs[:, 1] & 255], 1)
    entries: dict[int, int | list[int]] = {256: 12, 257: 2, 258: 12, 259: 1, 262: 1, 277: 1, 278: 2, 273: 0, 279: 0}
    path = written(tmp_path / "12.tif", with_tags(packed.astype(np.uint8).tobytes(), entries))
    np.testing.assert_array_equal(images.decode(path, 1)[0], values.astype(np.float32) / np.float32(4095))


@pytest.mark.parametrize(("step", "white"), [(257, 65535), (256, 65280), (1, 255), (250, 65535)])
def test_16_bit_palette_keeps_its_colours(tmp_path: Path, step: int, white: int) -> None:
    colours = np.minimum(np.stack([np.arange(256), np.arange(256)[::-1], np.arange(256)]) * step, 65535)
    numbers = np.arange(256, dtype=np.uint8).reshape(16, 16, 1)
    content = tiff(numbers, 3, t320=colours.ravel().tolist())  # type: ignore[arg-type]
    found = images.decode(written(tmp_path / "palette.tif", content), 3)
    expected = colours.reshape(3, 16, 16) / (white if step < 257 and step != 250 else 65535)
    np.testing.assert_allclose(found, expected, atol=1e-6)


@pytest.mark.parametrize(
    ("content", "why"),
    [
        (tiff(np.dstack([RAMP] * 3), 2, t284=2), "separate colour planes"),
        (tiff(np.dstack([RAMP] * 4), 5), "colours are CMYK"),
        (tiff(np.dstack([RAMP] * 4), 2, extra=1), "colours are RGBa"),
        (tiff(np.dstack([RAMP] * 2), 1, extra=2), "unsupported kind of TIFF"),
        (tiff(np.dstack([RAMP] * 3).astype(np.uint8), 8), r"L\*a\*b"),
        (tiff(RAMP[..., None].astype(np.uint32) * 100000, 1), "above 65535"),
        (tiff(RAMP[..., None].astype(np.uint32), 1, t339=3), "floating point"),
        (tiff(RAMP[..., None].astype(np.uint8), 1, t339=2), "below 0"),
        (tiff(np.dstack([RAMP] * 3).astype(np.uint32), 2), "unsupported kind of TIFF"),
        (b"\xff\xd8" + bytes(40), "unsupported kind of JPEG"),
    ],
    ids=[
        "planar",
        "cmyk",
        "multiplied",
        "grey with alpha",
        "lab",
        "32 bit",
        "float",
        "signed",
        "32 bit colour",
        "jpeg",
    ],
)
def test_unsupported_16_bit_files_are_refused_with_reason(tmp_path: Path, content: bytes, why: str) -> None:
    with pytest.raises(UserError, match=why) as caught:
        images.decode(written(tmp_path / "image", content), 1)
    assert "save it" in caught.value.do


@pytest.mark.parametrize("value", [1, 200, 1000, 65535])
@pytest.mark.parametrize("channels", [2, 3, 4])
def test_16_bit_mask_in_colour_or_alpha_is_read(tmp_path: Path, value: int, channels: int) -> None:
    mask = (np.hypot(ROWS - 10, COLUMNS - 20) < 6).astype(np.uint16)
    for lesion_in in range(channels):
        pixels = np.zeros((*mask.shape, channels), np.uint16)
        pixels[..., lesion_in] = mask * np.uint16(value)
        path = written(tmp_path / "mask.png", png(pixels))
        np.testing.assert_array_equal(images.decode_mask(path), mask)


def test_white_is_zero_in_16_bit_mask(tmp_path: Path) -> None:
    mask = (np.hypot(ROWS - 10, COLUMNS - 20) < 6).astype(np.uint16)
    path = written(tmp_path / "mask.tif", tiff((65535 - mask * 65535).astype(np.uint16)[..., None], 0))
    np.testing.assert_array_equal(images.decode_mask(path), mask)
