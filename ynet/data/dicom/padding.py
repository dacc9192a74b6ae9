"""The Pixel Padding Value: stored values outside the picture (PS3.3, C.7.5.1.1.2)."""

from typing import NamedTuple

import numpy as np
from jaxtyping import Bool, Shaped
from pydicom.dataset import Dataset

from ynet.data.dicom.values import integer, numbers, raw

ELEMENTS = ("PixelPaddingValue", "PixelPaddingRangeLimit", "FloatPixelPaddingValue", "DoubleFloatPixelPaddingValue")


class Padding(NamedTuple):
    """The padding values of a file."""

    levels: tuple[float, float] | None = None  # first and last value, both included
    word: int | None = None  # a sample with bits set outside the used ones

    def covers(self, levels: Shaped[np.ndarray, "*shape"]) -> Bool[np.ndarray, "*shape"]:
        """Return which stored values are padding; NaN always is."""
        covered = np.isnan(levels) if levels.dtype.kind == "f" else np.zeros(levels.shape, bool)
        if self.levels is not None:
            covered |= (levels >= self.levels[0]) & (levels <= self.levels[1])
        return covered


def read(dataset: Dataset, *, allocated: int, bits: int, is_signed: bool) -> Padding:
    """Read a file's padding. Files confuse the VRs US and SS, so the value is interpreted by its bits, like a pixel."""
    for keyword in ELEMENTS[2:]:
        if (floats := numbers(dataset, keyword)) and floats[0] is not None:
            return Padding((floats[0], floats[0]))
    if not _has_value(dataset, "PixelPaddingValue"):
        return Padding()
    end = _end(integer(dataset, "PixelPaddingValue"), allocated, bits, is_signed=is_signed)
    if not _has_value(dataset, "PixelPaddingRangeLimit") or end.levels is None:
        return end
    other = _end(integer(dataset, "PixelPaddingRangeLimit"), allocated, bits, is_signed=is_signed)
    if other.levels is None:
        return end
    return Padding((min(end.levels[0], other.levels[0]), max(end.levels[0], other.levels[0])))


def _has_value(dataset: Dataset, keyword: str) -> bool:
    found = raw(dataset, keyword)
    return found is not None and any(one is not None for one in numbers(dataset, keyword))


def _end(value: int, allocated: int, bits: int, *, is_signed: bool) -> Padding:
    """Convert one end of the range to stored values; empty where no sample can have the value."""
    if allocated > 16:
        return Padding((value, value))
    if not -(1 << allocated - 1) <= value < 1 << allocated:
        word = value & 0xFFFF  # a negative byte, stored as a word
        if allocated == 16 or not word >= 0xFF80:
            return Padding()
        value = word - (1 << 16)
    word, mask, half = value & ((1 << allocated) - 1), (1 << bits) - 1, 1 << bits - 1
    signed = word - (1 << allocated) if word >> allocated - 1 else word
    if is_signed and -half <= signed < half:
        return Padding((signed, signed))
    if word > mask:
        return Padding(word=word)
    level = word - (1 << bits) if is_signed and word >= half else word
    return Padding((level, level))
