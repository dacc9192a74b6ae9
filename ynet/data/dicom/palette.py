"""Palette colours: three lookup tables, plain or in segments (PS3.3, C.7.6.3.1.5 and C.7.9.2)."""

from itertools import chain

import numpy as np
from jaxtyping import Int64, UInt8
from pydicom.dataset import Dataset

from ynet.data.dicom.faults import UnfitError
from ynet.data.dicom.values import Raw, raw, words

_COLOURS = ("Red", "Green", "Blue")
ELEMENTS = tuple(
    chain.from_iterable(
        (
            f"{colour}PaletteColorLookupTableDescriptor",
            f"{colour}PaletteColorLookupTableData",
            f"Segmented{colour}PaletteColorLookupTableData",
        )
        for colour in _COLOURS
    )
)
_MOST = 1 << 16
"""Maximal number of entries of a table."""


def colours(levels: Int64[np.ndarray, " n"], dataset: Dataset) -> UInt8[np.ndarray, "n 3"]:
    """Return the colour of each stored value. Raises UnfitError where a table is missing or empty."""
    tables = [_table(dataset, colour) for colour in _COLOURS]
    most = 255 if max(int(entries.max()) for entries in tables) < 256 else 65535  # the descriptor is often wrong
    descriptor = words(dataset, "RedPaletteColorLookupTableDescriptor")
    first = int(descriptor[1]) if len(descriptor) > 1 else 0
    if first >= 1 << 15 and levels.min() < 0:
        first -= 1 << 16
    seen = np.stack([entries[np.clip(levels - first, 0, len(entries) - 1)] for entries in tables], -1)
    return np.asarray((seen * (255 / most)).round(), np.uint8)


def _table(dataset: Dataset, colour: str) -> Int64[np.ndarray, " n"]:
    descriptor = words(dataset, f"{colour}PaletteColorLookupTableDescriptor")
    count = (int(descriptor[0]) if len(descriptor) else 0) or _MOST
    entries = np.zeros(0, np.int64)
    if whole := raw(dataset, f"{colour}PaletteColorLookupTableData"):
        entries = _entries(whole, is_bytes=len(whole.value) < 2 * count)
    elif segments := raw(dataset, f"Segmented{colour}PaletteColorLookupTableData"):
        is_bytes = len(descriptor) > 2 and int(descriptor[2]) == 8
        entries = _expanded(_entries(segments, is_bytes=is_bytes), count, is_bytes=is_bytes)
    if len(entries) == 0:
        raise UnfitError("its palette is missing or cannot be read", "export it as RGB")
    return entries[:count]


def _entries(stored: Raw, *, is_bytes: bool) -> Int64[np.ndarray, " n"]:
    """Read entries of 16 bits, or of 8 bits; OW words hold two of those, the first in the low half."""
    even = stored.value + bytes(len(stored.value) % 2)
    if not is_bytes:
        return np.frombuffer(even, f"{stored.order}u2").astype(np.int64)
    if stored.order == ">" and stored.vr == "OW":
        return np.frombuffer(even, ">u2").astype("<u2").view(np.uint8).astype(np.int64)
    return np.frombuffer(stored.value, np.uint8).astype(np.int64)


def _expanded(data: Int64[np.ndarray, " n"], count: int, *, is_bytes: bool) -> Int64[np.ndarray, " m"]:
    """Expand a segmented table to at most `count` entries; stops at an invalid segment."""
    made: list[int] = []
    _expand(data.tolist(), 0, len(data), made, count, is_bytes=is_bytes, is_inner=False)
    return np.asarray(made[:count], np.int64)


def _expand(
    data: list[int], offset: int, segments: int, made: list[int], count: int, *, is_bytes: bool, is_inner: bool
) -> None:
    """Expand segments from an offset: discrete values, a linear ramp, or a repetition of earlier segments."""
    for _ in range(segments):
        if offset + 2 >= len(data) or len(made) >= count:
            return
        kind, length = data[offset], data[offset + 1]
        if kind == 0:
            made += data[offset + 2 : offset + 2 + length]
            offset += 2 + length
        elif kind == 1 and made and length:
            start, end = made[-1], data[offset + 2]
            made += np.linspace(start, end, length + 1)[1:].round().astype(int).tolist()
            offset += 3
        elif kind == 2 and not is_inner:
            size = 4 if is_bytes else 2
            again = sum(one << (32 // size * at) for at, one in enumerate(data[offset + 2 : offset + 2 + size]))
            _expand(data, again if is_bytes else again // 2, length, made, count, is_bytes=is_bytes, is_inner=True)
            offset += 2 + size
        else:
            return
