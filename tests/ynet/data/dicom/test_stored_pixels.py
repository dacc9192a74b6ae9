"""Stored pixels are equal in all encodings; unsupported ones are refused with the reason."""

import io
import re
import struct
import subprocess
import zlib
from pathlib import Path

import numpy as np
import pytest
from dicoms import dataset, dicom, to_bytes
from needs import needed
from PIL import Image
from pydicom import dcmread, uid
from pydicom.encaps import encapsulate, encapsulate_extended, generate_fragments

from ynet.data.dicom import codestream
from ynet.data.dicom import elements as dicom_elements
from ynet.data.dicom import frame as reader
from ynet.data.dicom.codestream import Shape
from ynet.data.dicom.faults import UnfitError

Y, X = np.mgrid[:70, :50]
EIGHT = (X * 3 + Y).astype(np.uint8)
TWELVE = (X * 60 + Y * 12).astype(np.uint16)
COLOUR = np.stack([X * 4, Y * 3, X * 3 + Y], -1).astype(np.uint8)
COMPRESSED = (uid.RLELossless, uid.JPEGBaseline8Bit, uid.JPEGLosslessSV1, uid.JPEGLSLossless, uid.JPEG2000Lossless)
JPEGS = COMPRESSED[1:4]
JP2_HEAD = (
    b"\x00\x00\x00\x0cjP  \r\n\x87\n"
    b"\x00\x00\x00\x14ftypjp2 \x00\x00\x00\x00jp2 "
    b"\x00\x00\x00\x2djp2h\x00\x00\x00\x16ihdr" + struct.pack(">IIHBBBB", 70, 50, 1, 7, 7, 0, 0)
) + b"\x00\x00\x00\x0fcolr\x01\x00\x00\x00\x00\x00\x11"


def named(syntax: str) -> str:
    return uid.UID(syntax).keyword


def frame_of(syntax: str, pixels: np.ndarray = EIGHT) -> bytes:
    """A compressed frame."""
    fragments = generate_fragments(dcmread(io.BytesIO(dicom(pixels, syntax))).PixelData)
    (frame,) = (one for number, one in enumerate(fragments) if number and one)
    return frame


def packed(
    value: bytes, syntax: str, pixels: np.ndarray = EIGHT, *, is_packed: bool = True, **elements: object
) -> bytes:
    """A file with this shape whose pixel data are replaced by a value."""
    made = dataset(pixels, **elements)  # type: ignore[arg-type]
    made.file_meta.TransferSyntaxUID = uid.JPEG2000 if is_packed else uid.ExplicitVRLittleEndian
    made.PixelData = value
    made["PixelData"].VR = "OB"
    made["PixelData"].is_undefined_length = is_packed
    return saying(to_bytes(made), syntax)


def saying(data: bytes, syntax: str) -> bytes:
    """The file with its declared transfer syntax replaced."""
    said = syntax.encode() + bytes(len(syntax) % 2)
    head = bytes(128) + b"DICM\x02\0\x10\0UI" + struct.pack("<H", len(said)) + said
    return head + data[dicom_elements._head(data).start :]


AFTER = (b"", b"\xff", b"\xff\xff\xff", b"\0", b"\0\0\0", b"junk" * 9, b"\xff\xd9", b"\xff\x00")


@pytest.mark.parametrize("after", AFTER)
@pytest.mark.parametrize("syntax", JPEGS, ids=named)
def test_bytes_after_jpeg_end_are_ignored(syntax: str, after: bytes) -> None:
    frame = frame_of(syntax).rstrip(b"\0")
    seen = reader.decode(packed(encapsulate([frame + after]), syntax))
    np.testing.assert_array_equal(seen, reader.decode(packed(encapsulate([frame]), syntax)))


@pytest.mark.parametrize("syntax", JPEGS, ids=named)
def test_jpeg_without_end_is_damaged(syntax: str) -> None:
    frame = frame_of(syntax).rstrip(b"\0")
    for cut in (frame[:-2], frame[: len(frame) // 2], frame[:30]):
        with pytest.raises(UnfitError, match="damaged or cut short"):
            reader.decode(packed(encapsulate([cut]), syntax))


@pytest.mark.parametrize("syntax", JPEGS, ids=named)
def test_jpeg_with_second_frame_header_is_refused(syntax: str) -> None:
    """A decoder may use the last header and allocate memory for a size that was not checked."""
    frame = frame_of(syntax).rstrip(b"\0")
    marker = next(at for at in range(len(frame)) if frame[at] == 0xFF and frame[at + 1] in (0xC0, 0xC3, 0xF7))
    (size,) = struct.unpack_from(">H", frame, marker + 2)
    header = bytearray(frame[marker : marker + 2 + size])
    header[5:9] = b"\xff\xff\xff\xff"
    for hidden in (frame[:marker] + bytes(header) + frame[marker:], frame[:-2] + bytes(header) + b"\xff\xd9"):
        assert codestream.fitted(hidden, syntax, Shape(70, 50, 1, 1)) is None


def test_application_and_restart_markers_are_skipped() -> None:
    def jpeg(**how: object) -> bytes:
        made = io.BytesIO()
        Image.fromarray(EIGHT).save(made, "JPEG", quality=95, **how)
        return made.getvalue()

    plain = jpeg()
    thumbnail = b"\xff\xe1" + struct.pack(">H", 2 + 6 + len(plain)) + b"Exif\0\0" + plain
    expected = reader.decode(packed(encapsulate([plain]), uid.JPEGBaseline8Bit))
    for frame in (plain[:2] + thumbnail + plain[2:], jpeg(restart_marker_blocks=2), jpeg(comment=b"\xff\xd9 x")):
        assert frame != plain
        seen = reader.decode(packed(encapsulate([frame]), uid.JPEGBaseline8Bit))
        np.testing.assert_array_equal(seen, expected)


def test_jpeg_2000_in_jp2_boxes_is_read() -> None:
    bare = frame_of(uid.JPEG2000Lossless).rstrip(b"\0")
    expected = reader.decode(packed(encapsulate([bare]), uid.JPEG2000Lossless))
    for length, wide in ((len(bare) + 8, b""), (0, b""), (1, struct.pack(">Q", len(bare) + 16))):
        boxed = JP2_HEAD + struct.pack(">I4s", length, b"jp2c") + wide + bare
        seen = reader.decode(
            packed(encapsulate([boxed + (b"\0\0\0\x08free" if length else b"")]), uid.JPEG2000Lossless)
        )
        np.testing.assert_array_equal(seen, expected)


def test_jp2_of_other_size_or_without_codestream_is_refused() -> None:
    large = frame_of(uid.JPEG2000Lossless, np.tile(EIGHT, (2, 2))).rstrip(b"\0")
    boxed = JP2_HEAD + struct.pack(">I4s", len(large) + 8, b"jp2c") + large
    with pytest.raises(UnfitError, match="not what its header says"):
        reader.decode(packed(encapsulate([boxed]), uid.JPEG2000Lossless))
    for broken in (JP2_HEAD, JP2_HEAD[:12] + b"\0\0\0\x02abcd", JP2_HEAD[:20]):
        with pytest.raises(UnfitError, match="damaged"):
            reader.decode(packed(encapsulate([broken]), uid.JPEG2000Lossless))


@pytest.mark.parametrize("more", [b"\0", b"\0" * 500, b"\x80" * 9, b"\x05abcdef"])
def test_surplus_bytes_of_rle_segment_are_dropped(more: bytes) -> None:
    frame = frame_of(uid.RLELossless)
    seen = reader.decode(packed(encapsulate([frame + more]), uid.RLELossless))
    np.testing.assert_array_equal(seen, reader.decode(dicom(EIGHT)))


def test_rle_of_wrong_size_is_refused() -> None:
    frame = frame_of(uid.RLELossless)
    with pytest.raises(UnfitError, match="damaged"):
        reader.decode(packed(encapsulate([frame[:-40]]), uid.RLELossless))
    wide = frame_of(uid.RLELossless, np.tile(EIGHT, (1, 2)))
    with pytest.raises(UnfitError, match="not what its header says"):
        reader.decode(packed(encapsulate([wide]), uid.RLELossless))


MANY = np.stack([EIGHT, EIGHT[::-1], 255 - EIGHT])


def encapsulations(frames: list[bytes]) -> dict[str, bytes]:
    """The same frames with right, missing or wrong offset tables, in one or several fragments."""
    whole = encapsulate(frames, has_bot=True)
    size = struct.unpack_from("<I", whole, 4)[0]
    rest = whole[8 + size :]
    wrong = struct.pack("<4sI3I", b"\xfe\xff\x00\xe0", 12, 0, 6, 99999)
    short = struct.pack("<4sII", b"\xfe\xff\x00\xe0", 4, 0)
    return {
        "table": whole,
        "no table": b"\xfe\xff\x00\xe0\0\0\0\0" + rest,
        "wrong table": wrong + rest,
        "short table": short + rest,
        "fragments and table": encapsulate(frames, fragments_per_frame=3, has_bot=True),
        "an empty fragment": b"\xfe\xff\x00\xe0\0\0\0\0" + rest + b"\xfe\xff\x00\xe0\0\0\0\0",
    }


@pytest.mark.parametrize("syntax", COMPRESSED, ids=named)
def test_frames_are_found_with_any_offset_table(syntax: str) -> None:
    frames = [frame_of(syntax, one) for one in MANY]
    expected = [reader.decode(packed(encapsulate([one]), syntax)) for one in frames]
    ways = encapsulations(frames)
    if syntax != uid.RLELossless:  # an RLE frame has no recognisable start
        ways["fragments"] = encapsulate(frames, fragments_per_frame=3, has_bot=False)
    for way, value in ways.items():
        data = packed(value, syntax, MANY, frames=True)
        for number, one in enumerate(expected, start=1):
            np.testing.assert_array_equal(reader.decode(data, number), one, err_msg=way)


def test_extended_offset_table_is_used_unless_wrong() -> None:
    frames = [frame_of(uid.RLELossless, one) for one in MANY]
    value, offsets, lengths = encapsulate_extended(frames)
    for table in (offsets, struct.pack("<3Q", 0, 7, 1 << 40)):
        data = packed(
            value, uid.RLELossless, MANY, frames=True, ExtendedOffsetTable=table, ExtendedOffsetTableLengths=lengths
        )
        for number, one in enumerate(MANY, start=1):
            np.testing.assert_array_equal(reader.decode(data, number), reader.decode(dicom(one.copy())))


@pytest.mark.parametrize("syntax", COMPRESSED, ids=named)
def test_actual_compression_overrides_declared_syntax(syntax: str) -> None:
    frame = frame_of(syntax)
    expected = reader.decode(packed(encapsulate([frame]), syntax))
    for said in (uid.ExplicitVRLittleEndian, *COMPRESSED[1:]):
        if syntax == uid.RLELossless and said != uid.ExplicitVRLittleEndian:
            continue
        np.testing.assert_array_equal(reader.decode(packed(encapsulate([frame]), said)), expected)


@pytest.mark.parametrize("syntax", COMPRESSED, ids=named)
def test_uncompressed_pixels_override_declared_syntax(syntax: str) -> None:
    data = packed(EIGHT.tobytes(), syntax, is_packed=False)
    np.testing.assert_array_equal(reader.decode(data), reader.decode(dicom(EIGHT)))


@pytest.mark.parametrize("said", [uid.JPEGExtended12Bit, uid.JPEGBaseline8Bit, uid.JPEGLosslessSV1])
def test_lossy_12_bit_jpeg_is_close_to_the_original(tmp_path: Path, said: str) -> None:
    plain, coded = tmp_path / "plain.dcm", tmp_path / "coded.dcm"
    plain.write_bytes(dicom(TWELVE, BitsStored=12))
    subprocess.run([needed("dcmcjpeg"), "+ee", "+q", "98", plain, coded], check=True, capture_output=True)
    seen = reader.decode(saying(coded.read_bytes(), said))
    np.testing.assert_allclose(seen, reader.decode(plain.read_bytes()), atol=0.01)


def test_jpeg_colours_override_the_header() -> None:
    made = io.BytesIO()
    Image.fromarray(COLOUR).save(made, "JPEG", quality=95, subsampling=2)
    frame = made.getvalue()
    for kind in ("RGB", "YBR_FULL_422", "YBR_FULL"):
        seen = reader.decode(packed(encapsulate([frame]), uid.JPEGBaseline8Bit, COLOUR, kind=kind))
        np.testing.assert_allclose(seen.astype(int), COLOUR, atol=12, err_msg=kind)


@pytest.mark.parametrize("syntax", [uid.ExplicitVRLittleEndian, uid.ImplicitVRLittleEndian, uid.ExplicitVRBigEndian])
def test_wide_and_float_pixels_are_scaled_to_their_range(syntax: str) -> None:
    wide = (TWELVE.astype(np.uint32) << 14) + 7
    expected = TWELVE / TWELVE.max()
    for pixels in (wide, (wide.astype(np.int64) - 2**25).astype(np.int32)):
        made = dataset(pixels, syntax)
        made["PixelData"].VR = "OW"
        np.testing.assert_allclose(reader.decode(to_bytes(made)), expected, atol=1e-6)
    for keyword, kind in (("FloatPixelData", "f4"), ("DoubleFloatPixelData", "f8")):
        floats = TWELVE.astype(kind) / 7 - 100
        floats[0, 0] = np.nan
        made = dataset(TWELVE, syntax, RescaleSlope=2, RescaleIntercept=1)
        del made.PixelData
        order = ">" if syntax == uid.ExplicitVRBigEndian else "<"
        setattr(made, keyword, floats.astype(f"{order}{kind}").tobytes())
        made.BitsAllocated = 32 if kind == "f4" else 64
        del made.BitsStored, made.HighBit, made.PixelRepresentation
        seen = reader.decode(to_bytes(made))
        least, most = np.nanmin(floats), np.nanmax(floats)
        np.testing.assert_allclose(seen.ravel()[1:], ((floats - least) / (most - least)).ravel()[1:], atol=1e-5)
        assert seen[0, 0] == 0


@pytest.mark.parametrize("syntax", [uid.ExplicitVRLittleEndian, uid.RLELossless])
def test_wide_values_pass_window_and_compression(syntax: str) -> None:
    wide = TWELVE.astype(np.uint32) << 8
    data = dicom(wide, syntax, WindowCenter=128 << 8, WindowWidth=(256 << 8) + 1)
    np.testing.assert_allclose(reader.decode(data), np.clip(TWELVE / 256, 0, 1), atol=1e-2)


def test_pixels_of_one_bit_are_black_and_white() -> None:
    bits = (EIGHT > 100).astype(np.uint8)
    many = np.stack([bits, bits[::-1]])
    made = dataset(EIGHT)
    made.BitsAllocated = made.BitsStored = 1
    made.HighBit, made.NumberOfFrames = 0, 2
    value = np.packbits(many.ravel(), bitorder="little").tobytes()
    made.PixelData = value + bytes(len(value) % 2)
    for number, one in enumerate(many, start=1):
        np.testing.assert_array_equal(reader.decode(to_bytes(made), number), one.astype(np.float32))


def test_values_in_upper_bits_are_shifted_if_lower_are_empty() -> None:
    expected = reader.decode(dicom(TWELVE, BitsStored=12))
    np.testing.assert_array_equal(reader.decode(dicom(TWELVE << 4, BitsStored=12, HighBit=15)), expected)
    np.testing.assert_array_equal(reader.decode(dicom(TWELVE, BitsStored=12, HighBit=15)), expected)
    np.testing.assert_array_equal(reader.decode(dicom(TWELVE, BitsStored=12, HighBit=7)), expected)


@pytest.mark.parametrize("syntax", ["1.2.3.4.5", "1.2.840.113619.5.2", uid.MPEG2MPML, uid.JPEG2000MC, "nonsense"])
def test_unsupported_transfer_syntax_is_named(syntax: str) -> None:
    data = saying(dicom(EIGHT), syntax)
    said = re.escape(syntax) if syntax[0].isdigit() else "not a UID"
    with pytest.raises(UnfitError, match=said) as raised:
        reader.decode(data)
    assert "damaged" not in raised.value.why


@pytest.mark.parametrize(
    "syntax", [uid.ExplicitVRLittleEndian, uid.ImplicitVRLittleEndian, uid.ExplicitVRBigEndian], ids=named
)
def test_file_without_preamble_meta_or_right_syntax_is_read(syntax: str) -> None:
    data = dicom(TWELVE, syntax, BitsStored=12)
    expected = reader.decode(dicom(TWELVE, BitsStored=12))
    start = dicom_elements._head(data).start
    for way in (data[128:], data[132:], data[start:]):
        assert dicom_elements.is_dicom(way[: dicom_elements.STARTS_IN])
        np.testing.assert_array_equal(reader.decode(way), expected)
        assert dicom_elements.plain(way).endswith(data[start:])
    for said in (uid.ExplicitVRLittleEndian, uid.ImplicitVRLittleEndian, uid.ExplicitVRBigEndian):
        odd = dicom(TWELVE, said, BitsStored=12)
        lying = odd[: dicom_elements._head(odd).start] + data[start:]
        np.testing.assert_array_equal(reader.decode(lying), expected)


@pytest.mark.parametrize(
    "start",
    [
        b"",
        b"\x08\0",
        b"\x02\0\0\0",
        b"\x89PNG\r\n\x1a\n" + bytes(200),
        b"\xff\xd8\xff\xe0" + bytes(200),
        b"II*\0\x08\0\0\0" + bytes(200),
        b"PK\x03\x04" + bytes(200),
        b"\x08\0\x08\0" * 60,
        b"\0\x08" + b"text" * 60,
        bytes(300),
        bytes(range(256)),
        zlib.compress(bytes(999)),
    ],
)
def test_other_first_bytes_are_not_dicom(start: bytes) -> None:
    assert not dicom_elements.is_dicom(start[: dicom_elements.STARTS_IN])


def test_bytes_after_the_pixels_are_ignored() -> None:
    data = dicom(EIGHT)
    for after in (bytes(4_000_000), b"\xff" * 99, b"\xfc\xff\xfc\xffOB\0\0\xff\xff\xff\x7f"):
        np.testing.assert_array_equal(reader.decode(data + after), reader.decode(data))


@pytest.mark.parametrize(
    ("kind", "samples"), [("", 3), ("MONOCHROME2", 3), ("rgb ", 3), ("", 1), ("RGB", 1), ("monochrome2", 1)]
)
def test_samples_decide_colour_in_contradictory_header(kind: str, samples: int) -> None:
    pixels = COLOUR if samples == 3 else EIGHT
    made = dataset(pixels, kind="RGB" if samples == 3 else "MONOCHROME2")
    expected = reader.decode(to_bytes(made))
    made.PhotometricInterpretation = kind
    np.testing.assert_array_equal(reader.decode(to_bytes(made)), expected)
    assert reader.is_colour(to_bytes(made)) == (samples == 3)
    del made.PhotometricInterpretation
    np.testing.assert_array_equal(reader.decode(to_bytes(made)), expected)


def test_missing_stored_bits_default_to_allocated_bits() -> None:
    made = dataset(EIGHT)
    del made.BitsStored, made.HighBit, made.PixelRepresentation, made.SamplesPerPixel
    made.NumberOfFrames = ""
    np.testing.assert_array_equal(reader.decode(to_bytes(made)), reader.decode(dicom(EIGHT)))
    for wrong in (0, 99):
        made.BitsStored = wrong
        np.testing.assert_array_equal(reader.decode(to_bytes(made)), reader.decode(dicom(EIGHT)))
