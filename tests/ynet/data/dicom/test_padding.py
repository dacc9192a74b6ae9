"""Padding is black and outside the range, whatever VR its value has."""

import numpy as np
import pytest
from dicoms import dataset, to_bytes
from hypothesis import given
from hypothesis import strategies as some
from pydicom import uid

from ynet.data.dicom import frame as reader
from ynet.data.dicom import padding

Y, X = np.mgrid[:64, :64]
SIGNED = (X * 16 + Y * 8 - 1000).astype(np.int16)
UNSIGNED = (X * 16 + Y * 8).astype(np.uint16)
SYNTAXES = (uid.ExplicitVRLittleEndian, uid.ImplicitVRLittleEndian, uid.ExplicitVRBigEndian)


def padded(pixels: np.ndarray, value: int) -> np.ndarray:
    made = pixels.copy()
    made[:8] = np.asarray(value).astype(pixels.dtype)
    return made


def seen(pixels: np.ndarray, vr: str, value: int, limit: int | None = None, **how: object) -> np.ndarray:
    made = dataset(pixels, **how)  # type: ignore[arg-type]
    made.add_new("PixelPaddingValue", vr, value)
    if limit is not None:
        made.add_new("PixelPaddingRangeLimit", vr, limit)
    return reader.decode(to_bytes(made))


def is_black_and_apart(shown: np.ndarray) -> bool:
    return not shown[:8].any() and (shown[8:].min(), shown[8:].max()) == (0, 1)


@pytest.mark.parametrize("kind", ["MONOCHROME1", "MONOCHROME2"])
@pytest.mark.parametrize("syntax", SYNTAXES)
@pytest.mark.parametrize(("vr", "value"), [("SS", -2000), ("US", 63536)])
def test_padding_of_signed_pixels_is_read_in_either_vr(vr: str, value: int, syntax: str, kind: str) -> None:
    assert is_black_and_apart(seen(padded(SIGNED, -2000), vr, value, syntax=syntax, kind=kind))


@pytest.mark.parametrize(("vr", "value"), [("US", 63536), ("SS", -2000)])
def test_padding_of_unsigned_pixels_is_read_in_either_vr(vr: str, value: int) -> None:
    assert is_black_and_apart(seen(padded(UNSIGNED, 63536), vr, value))


def test_padding_in_unused_bits_differs_from_black() -> None:
    pixels = padded(UNSIGNED, 0xF830)
    shown = seen(pixels, "US", 0xF830, BitsStored=12)
    assert is_black_and_apart(shown)
    assert seen(padded(UNSIGNED, 0), "US", 0xF000, BitsStored=12)[8:].max() == 1


@pytest.mark.parametrize(("vr", "value"), [("SS", -2000), ("US", 63536), ("US", 0x0830)])
def test_padding_of_12_signed_bits_matches_value_or_bits(vr: str, value: int) -> None:
    assert is_black_and_apart(seen(padded(SIGNED, -2000), vr, value, BitsStored=12))


@pytest.mark.parametrize("ends", [(-2000, -1500), (-1500, -2000)])
def test_padding_range_may_start_at_either_end(ends: tuple[int, int]) -> None:
    pixels = padded(SIGNED, -1800)
    for vr, (first, last) in (("SS", ends), ("US", tuple(end % 65536 for end in ends))):
        assert is_black_and_apart(seen(pixels, vr, first, last))


@pytest.mark.parametrize("value", [300, 0x7FFF, 0x8000, 65000])
def test_impossible_padding_is_ignored(value: int) -> None:
    eight = (X * 4 + Y % 4).astype(np.uint8)
    np.testing.assert_allclose(seen(eight, "US", value), eight / 255, atol=1e-6)


def test_empty_padding_is_ignored() -> None:
    made = dataset(UNSIGNED)
    made.add_new("PixelPaddingValue", "US", None)
    np.testing.assert_allclose(reader.decode(to_bytes(made)), UNSIGNED / UNSIGNED.max(), atol=1e-6)
    assert not reader.decode(to_bytes(_all_padding())).any()


def _all_padding() -> object:
    made = dataset(np.full((64, 64), 5, np.uint16), kind="MONOCHROME1")
    made.add_new("PixelPaddingValue", "US", 5)
    return made


@given(
    value=some.integers(-(2**16), 2**17),
    allocated=some.sampled_from([8, 16, 32]),
    bits=some.integers(1, 16),
    is_signed=some.booleans(),
)
def test_padding_is_a_possible_pixel_value(value: int, allocated: int, bits: int, is_signed: bool) -> None:
    made = padding._end(value, allocated, min(bits, allocated), is_signed=is_signed)
    if made.levels is not None and allocated <= 16:
        low = -(1 << min(bits, allocated) - 1) if is_signed else 0
        assert low <= made.levels[0] < low + (1 << min(bits, allocated))
    assert made.word is None or 0 <= made.word < 1 << allocated
