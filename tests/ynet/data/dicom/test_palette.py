"""Palette colours are equal in all encodings; pydicom is the oracle where it is right."""

import struct

import numpy as np
import pytest
from dicoms import UNCOMPRESSED, dataset, to_bytes
from hypothesis import given
from hypothesis import strategies as some
from pydicom import Dataset, uid
from pydicom.pixels.processing import _expand_segmented_lut

from ynet.data.dicom import frame as reader
from ynet.data.dicom import palette
from ynet.data.dicom.faults import UnfitError

Y, X = np.mgrid[:64, :64]
EIGHT = (X * 4 + Y % 4).astype(np.uint8)
RAMPS = {"Red": np.arange(256), "Green": np.arange(255, -1, -1), "Blue": np.full(256, 7)}
COLOURED = np.stack([ramp[EIGHT] for ramp in RAMPS.values()], -1).astype(np.uint8)


def coloured(
    tables: dict[str, bytes],
    descriptor: list[int],
    syntax: str = uid.ExplicitVRLittleEndian,
    *,
    pixels=EIGHT,
    segmented: str = "",
    vr: str = "OW",
) -> Dataset:
    made = dataset(pixels, syntax, kind="PALETTE COLOR")
    for name, data in tables.items():
        made.add_new(f"{name}PaletteColorLookupTableDescriptor", "US", descriptor)
        made.add_new(f"{segmented}{name}PaletteColorLookupTableData", vr, data)
    return made


@pytest.mark.parametrize("syntax", UNCOMPRESSED, ids=lambda syntax: uid.UID(syntax).keyword)
def test_palette_is_equal_in_bytes_and_words_of_either_order(syntax: str) -> None:
    order = ">" if syntax == uid.ExplicitVRBigEndian else "<"
    words = {name: ramp.astype(f"{order}u2").tobytes() for name, ramp in RAMPS.items()}
    deep = {name: (ramp * 257).astype(f"{order}u2").tobytes() for name, ramp in RAMPS.items()}
    packed = {name: ramp.astype(np.uint8).view("<u2").astype(f"{order}u2").tobytes() for name, ramp in RAMPS.items()}
    for tables, bits in ((words, 8), (words, 16), (deep, 16), (packed, 8)):
        np.testing.assert_array_equal(reader.decode(to_bytes(coloured(tables, [256, 0, bits], syntax))), COLOURED)


@pytest.mark.parametrize("bits", [8, 16])
def test_segmented_palette_equals_its_expansion(bits: int) -> None:
    kind, scale = ("B", 1) if bits == 8 else ("H", 257)
    segments = {
        "Red": [0, 1, 0, 1, 255, 255 * scale],
        "Green": [0, 2, 255 * scale, 254 * scale, 1, 254, 0],
        "Blue": [0, 1, 7 * scale, 1, 255, 7 * scale],
    }
    tables = {name: struct.pack(f"<{len(one)}{kind}", *one) for name, one in segments.items()}
    tables = {name: one + bytes(len(one) % 2) for name, one in tables.items()}
    made = coloured(tables, [256, 0, bits], segmented="Segmented")
    np.testing.assert_array_equal(reader.decode(to_bytes(made)), COLOURED)


def test_palette_segments_may_be_repeated_by_offset() -> None:
    entries = [0, 3, 10, 20, 30, 1, 4, 70, 2, 2, 0, 0]
    packed = struct.pack(f"<{len(entries)}H", *entries)
    expanded = palette._expanded(np.frombuffer(packed, "<u2").astype(np.int64), 99, is_bytes=False)
    assert expanded.tolist() == [10, 20, 30, 40, 50, 60, 70, 10, 20, 30, 40, 50, 60, 70]
    again = [*entries[:-2], 10, 0]  # the second segment, 10 bytes from the start
    again[8:10] = [2, 1]
    expanded = palette._expanded(np.asarray(again), 99, is_bytes=False)
    assert expanded.tolist() == [10, 20, 30, 40, 50, 60, 70, 70, 70, 70, 70]


@given(
    some.lists(
        some.one_of(
            some.tuples(some.just(0), some.lists(some.integers(0, 65535), min_size=1, max_size=9)),
            some.tuples(some.just(1), some.integers(1, 99), some.integers(0, 65535)),
        ),
        min_size=1,
        max_size=9,
    )
)
def test_palette_segments_expand_as_in_pydicom(segments: list[tuple]) -> None:
    data = [0, 1, 5]
    for one in segments:
        data += [0, len(one[1]), *one[1]] if one[0] == 0 else list(one)
    expected = _expand_segmented_lut(tuple(data), f"<{len(data)}H")
    np.testing.assert_allclose(palette._expanded(np.asarray(data), 65536, is_bytes=False), expected, atol=1)


@given(some.lists(some.integers(0, 65535), max_size=60))
def test_any_palette_segments_expand_to_at_most_a_table(data: list[int]) -> None:
    for is_bytes in (True, False):
        expanded = palette._expanded(
            np.asarray([one & 255 if is_bytes else one for one in data]), 4096, is_bytes=is_bytes
        )
        assert len(expanded) <= 4096


def test_palette_of_65536_entries_or_negative_first_value() -> None:
    wide = (X * 1024 + Y * 16).astype(np.uint16)
    tables = {name: np.arange(65536, dtype="<u2").tobytes() for name in RAMPS}
    seen = reader.decode(to_bytes(coloured(tables, [0, 0, 16], pixels=wide)))
    np.testing.assert_allclose(seen[..., 0], wide / 257, atol=0.5)
    signed = EIGHT.astype(np.int16) - 100
    tables = {name: ramp.astype("<u2").tobytes() for name, ramp in RAMPS.items()}
    np.testing.assert_array_equal(reader.decode(to_bytes(coloured(tables, [256, 65436, 8], pixels=signed))), COLOURED)


def test_missing_palette_is_refused() -> None:
    with pytest.raises(UnfitError, match="palette is missing"):
        reader.decode(to_bytes(dataset(EIGHT, kind="PALETTE COLOR")))
