"""Grey display is equal in all encodings of a table; an invalid display value never discards an image."""

import struct

import numpy as np
import pytest
from dicoms import UNCOMPRESSED, dataset, dicom, to_bytes
from pydicom import Dataset, uid
from pydicom.dataelem import DataElement
from pydicom.tag import Tag

from ynet.data.dicom import frame as reader

Y, X = np.mgrid[:64, :64]
TWELVE = (X * 64 + Y).astype(np.uint16)
SIGNED = (TWELVE.astype(np.int32) - 2000).astype(np.int16)
EIGHT = (X * 4 + Y % 4).astype(np.uint8)
KEYWORDS = ("VOILUTSequence", "ModalityLUTSequence")


def table(entries: list[int], vr: str, order: str = "<", bits: int = 12, first: int = 0, kind: str = "US") -> Dataset:
    """An item with entries stored as `vr`: numbers, words in `order`, or bytes."""
    item = Dataset()
    item.add_new("LUTDescriptor", kind, [len(entries) % 65536, first, bits])
    packed = struct.pack(f"{order}{len(entries)}H", *entries)
    if vr == "8 bit":
        packed = bytes(entries)
        packed = np.frombuffer(packed, "<u2").astype(f"{order}u2").tobytes()
        vr = "OW"
    item.add_new("LUTData", vr, entries if vr in ("US", "SS") else packed)
    item.ModalityLUTType = "US"
    return item


def shown(syntax: str, keyword: str, item: Dataset, pixels: np.ndarray = TWELVE) -> np.ndarray:
    made = dataset(pixels, syntax, BitsStored=12 if pixels.dtype.itemsize == 2 else 8, **{keyword: [item]})
    return reader.decode(to_bytes(made))


@pytest.mark.parametrize("syntax", UNCOMPRESSED, ids=lambda syntax: uid.UID(syntax).keyword)
@pytest.mark.parametrize("keyword", KEYWORDS)
def test_table_is_equal_in_every_vr_and_byte_order(keyword: str, syntax: str) -> None:
    entries = [4095 - value for value in range(4096)]
    order = ">" if syntax == uid.ExplicitVRBigEndian else "<"
    expected = 1 - TWELVE / 4095
    for vr in ("US", "OW"):
        np.testing.assert_allclose(shown(syntax, keyword, table(entries, vr, order)), expected, atol=1e-6)
    small = [255 - value for value in range(256)]
    for vr in ("US", "OW", "8 bit"):
        seen = shown(syntax, keyword, table(small, vr, order, bits=8), EIGHT)
        np.testing.assert_allclose(seen, 1 - EIGHT / 255, atol=1e-6)


def test_table_declaring_16_bits_with_12_uses_full_range() -> None:
    entries = list(range(4096))
    twelve, sixteen = (
        shown(uid.ExplicitVRLittleEndian, "VOILUTSequence", table(entries, "US", bits=b)) for b in (12, 16)
    )
    np.testing.assert_array_equal(twelve, sixteen)
    np.testing.assert_allclose(sixteen, TWELVE / 4095, atol=1e-6)


def test_descriptor_of_0_entries_means_65536() -> None:
    pixels = (X * 1024 + Y * 16).astype(np.uint16)
    item = table([65535 - value for value in range(65536)], "OW", bits=16)
    seen = reader.decode(dicom(pixels, VOILUTSequence=[item]))
    np.testing.assert_allclose(seen, 1 - pixels / 65535, atol=1e-6)


@pytest.mark.parametrize("kind", ["US", "SS"])
def test_first_table_value_is_signed_for_signed_values(kind: str) -> None:
    first = -2000 if kind == "SS" else 65536 - 2000
    item = table(list(range(4096)), "OW", first=first, kind=kind)
    seen = reader.decode(dicom(SIGNED, VOILUTSequence=[item]))
    np.testing.assert_allclose(seen, (SIGNED + 2000) / 4095, atol=1e-6)
    high = (TWELVE + 40000).astype(np.uint16)
    item = table(list(range(4096)), "OW", first=40000 if kind == "US" else 40000 - 65536, kind=kind)
    seen = reader.decode(dicom(high, VOILUTSequence=[item]))
    np.testing.assert_allclose(seen, TWELVE / 4095, atol=1e-6)


def test_rescaled_values_are_looked_up_in_voi_table() -> None:
    item = table(list(range(4096)), "OW", first=65536 - 1024)
    seen = reader.decode(dicom(TWELVE, BitsStored=12, RescaleSlope=1, RescaleIntercept=-1024, VOILUTSequence=[item]))
    np.testing.assert_allclose(seen, TWELVE / 4095, atol=1e-6)


def with_raw(made: Dataset, keyword: str, value: bytes) -> bytes:
    """The file with an element whose text no writer would accept."""
    wanted = value + b" " * (len(value) % 2)
    made[keyword] = DataElement(Tag(keyword), "DS", "7" * len(wanted))
    tag = Tag(keyword)
    element = struct.pack("<HH2sH", tag.group, tag.element, b"DS", len(wanted))
    data = to_bytes(made)
    assert data.count(element) == 1
    return data.replace(element + b"7" * len(wanted), element + wanted)


WINDOWED = {"WindowCenter": 700, "WindowWidth": 1400}


@pytest.mark.parametrize(
    ("keyword", "value", "meant"),
    [
        ("WindowCenter", b"700,0", {}),
        ("WindowWidth", b"1400,0", {}),
        ("WindowCenter", b"  700\0", {}),
        ("WindowCenter", b"7.0e2", {}),
        ("RescaleSlope", b"1,0", {}),
        ("RescaleIntercept", b"0,000", {}),
    ],
)
def test_number_with_comma_or_padding_is_read(keyword: str, value: bytes, meant: dict[str, float]) -> None:
    made = dataset(TWELVE, BitsStored=12, **WINDOWED)
    seen = reader.decode(with_raw(made, keyword, value))
    np.testing.assert_allclose(seen, reader.decode(dicom(TWELVE, BitsStored=12, **WINDOWED)), atol=1e-6)


@pytest.mark.parametrize("keyword", ["WindowCenter", "WindowWidth"])
@pytest.mark.parametrize("value", [b"NaN", b"abcdefg", b"1e400", b"inf", b"7.5.3", b"-", b"\xff\xfe\xfd"])
def test_window_that_is_not_a_number_is_skipped(keyword: str, value: bytes) -> None:
    data = with_raw(dataset(TWELVE, BitsStored=12, **WINDOWED), keyword, value)
    np.testing.assert_array_equal(reader.decode(data), reader.decode(dicom(TWELVE, BitsStored=12)))
    assert keyword in reader.inspect(data).ignored


@pytest.mark.parametrize("width", [0, -5])
def test_window_without_width_is_skipped(width: float) -> None:
    data = dicom(TWELVE, BitsStored=12, WindowCenter=5, WindowWidth=width)
    np.testing.assert_array_equal(reader.decode(data), reader.decode(dicom(TWELVE, BitsStored=12)))
    assert "WindowWidth" in reader.inspect(data).ignored


def test_first_usable_window_is_used() -> None:
    good = reader.decode(dicom(TWELVE, BitsStored=12, **WINDOWED))
    for centers, widths in ((["", 700], ["", 1400]), ([3, 700], [0, 1400]), ([700, 3], [1400, 5])):
        data = dicom(TWELVE, BitsStored=12, WindowCenter=centers, WindowWidth=widths)
        np.testing.assert_allclose(reader.decode(data), good, atol=1e-6)


def empty() -> Dataset:
    item = Dataset()
    item.add_new("LUTDescriptor", "SS", None)
    item.LUTExplanation = "NORMAL"
    item.add_new("LUTData", "OW", None)
    return item


def short() -> Dataset:
    item = table([1, 2], "OW")
    item.add_new("LUTDescriptor", "US", [2, 0])
    return item


@pytest.mark.parametrize("item", [Dataset(), empty(), short(), table([0] * 4096, "OW"), table([9] * 4096, "US")])
@pytest.mark.parametrize("keyword", KEYWORDS)
def test_empty_or_constant_table_is_skipped(keyword: str, item: Dataset) -> None:
    data = dicom(TWELVE, BitsStored=12, **WINDOWED, **{keyword: [item]})
    np.testing.assert_array_equal(reader.decode(data), reader.decode(dicom(TWELVE, BitsStored=12, **WINDOWED)))
    assert reader.inspect(data).ignored == (keyword,)
    good = table([4095 - value for value in range(4096)], "OW")
    both = reader.decode(dicom(TWELVE, BitsStored=12, **{keyword: [item, good]}))
    np.testing.assert_allclose(both, 1 - TWELVE / 4095, atol=1e-6)


def test_damaged_display_sequence_is_skipped() -> None:
    good = dicom(TWELVE, BitsStored=12, VOILUTSequence=[table(list(range(4096)), "OW")], **WINDOWED)
    offset = good.index(b"\x28\x00\x02\x30US")
    broken = good[:offset] + b"\x28\x00\x02\x30US\xff\xff" + good[offset + 8 :]
    assert broken != good
    np.testing.assert_array_equal(reader.decode(broken), reader.decode(dicom(TWELVE, BitsStored=12, **WINDOWED)))


@pytest.mark.parametrize("slope", ["", 0, "0.0"])
def test_empty_or_zero_slope_is_1(slope: object) -> None:
    data = dicom(TWELVE, BitsStored=12, RescaleSlope=slope, RescaleIntercept=-100, WindowCenter=600, WindowWidth=1400)
    good = dicom(TWELVE, BitsStored=12, RescaleSlope=1, RescaleIntercept=-100, WindowCenter=600, WindowWidth=1400)
    np.testing.assert_array_equal(reader.decode(data), reader.decode(good))


def test_unknown_voi_function_is_linear_and_case_is_ignored() -> None:
    linear = reader.decode(dicom(TWELVE, BitsStored=12, **WINDOWED))
    for function in ("", "LOGARITHM", "linear "):
        data = dicom(TWELVE, BitsStored=12, VOILUTFunction=function, **WINDOWED)
        np.testing.assert_array_equal(reader.decode(data), linear)
        assert reader.inspect(data).ignored == (("VOILUTFunction",) if function == "LOGARITHM" else ())
    sigmoid = reader.decode(dicom(TWELVE, BitsStored=12, VOILUTFunction="SIGMOID", **WINDOWED))
    np.testing.assert_array_equal(
        reader.decode(dicom(TWELVE, BitsStored=12, VOILUTFunction="sigmoid", **WINDOWED)), sigmoid
    )


def test_window_narrower_than_1_is_not_a_threshold() -> None:
    data = dicom(TWELVE, BitsStored=12, RescaleSlope=0.0001, RescaleIntercept=0, WindowCenter=0.2, WindowWidth=0.4)
    np.testing.assert_allclose(reader.decode(data), np.clip(TWELVE * 0.0001 / 0.4, 0, 1), atol=1e-5)


def test_invalid_frame_values_fall_back_to_shared_ones() -> None:
    def group(width: float) -> Dataset:
        made, window = Dataset(), Dataset()
        window.WindowCenter, window.WindowWidth = 700, width
        made.FrameVOILUTSequence = [window]
        return made

    many = np.stack([TWELVE, TWELVE])
    groups = {
        "SharedFunctionalGroupsSequence": [group(1400)],
        "PerFrameFunctionalGroupsSequence": [group(0), group(50)],
    }
    data = dicom(many, frames=True, BitsStored=12, **groups)
    np.testing.assert_array_equal(reader.decode(data, 1), reader.decode(dicom(TWELVE, BitsStored=12, **WINDOWED)))
    assert reader.inspect(data, 1).ignored == ("WindowCenter", "WindowWidth")
    assert reader.inspect(data, 2).ignored == ()
