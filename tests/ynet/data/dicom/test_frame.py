"""A DICOM frame decodes alike in all encodings; unsupported files are refused with the reason."""

import zlib
from pathlib import Path

import numpy as np
import pytest
from dicoms import LOSSLESS, LOSSY, UNCOMPRESSED, dataset, dicom, to_bytes
from hypothesis import given
from hypothesis import strategies as some
from pydicom import Dataset, uid
from pydicom.pixels.processing import apply_modality_lut, apply_voi_lut, convert_color_space

from ynet.data import images
from ynet.data.dicom import decoding, elements
from ynet.data.dicom import frame as reader
from ynet.data.dicom.frame import DisplayWindow
from ynet.errors import UserError

Y, X = np.mgrid[:70, :50]
UNSIGNED = (X * 60 + Y * 12).astype(np.uint16)
SIGNED = (UNSIGNED.astype(np.int32) - 2000).astype(np.int16)
EIGHT = (X * 3 + Y).astype(np.uint8)
COLOUR = np.stack([X * 4, Y * 3, X * 3 + Y], -1).astype(np.uint8)
GREY_IMAGES = {"8 bit": EIGHT, "16 bit": UNSIGNED, "signed": SIGNED}


def named(syntax: str) -> str:
    return uid.UID(syntax).keyword


def put(path: Path, data: bytes) -> Path:
    path.write_bytes(data)
    return path


@pytest.mark.parametrize("syntax", [*UNCOMPRESSED, *LOSSLESS], ids=named)
@pytest.mark.parametrize("kind", GREY_IMAGES)
def test_lossless_compression_decodes_to_the_same_grey(kind: str, syntax: str) -> None:
    pixels = GREY_IMAGES[kind]
    low, high = float(pixels.min()), float(pixels.max())
    expected = ((pixels - low) / (high - low)).astype(np.float32)
    np.testing.assert_allclose(reader.decode(dicom(pixels, syntax)), expected, atol=1e-6)


@pytest.mark.parametrize("syntax", [*UNCOMPRESSED, *LOSSLESS], ids=named)
def test_lossless_compression_decodes_to_the_same_colours(syntax: str) -> None:
    np.testing.assert_array_equal(reader.decode(dicom(COLOUR, syntax, kind="RGB")), COLOUR)


@pytest.mark.parametrize("syntax", LOSSY, ids=named)
def test_lossy_compression_decodes_to_close_values(syntax: str) -> None:
    np.testing.assert_allclose(reader.decode(dicom(COLOUR, syntax, kind="RGB")).astype(int), COLOUR, atol=6)
    np.testing.assert_allclose(reader.decode(dicom(EIGHT, syntax)), reader.decode(dicom(EIGHT)), atol=0.03)


@pytest.mark.parametrize("syntax", [uid.ExplicitVRLittleEndian, uid.RLELossless, uid.JPEG2000Lossless], ids=named)
def test_monochrome1_is_inverted(syntax: str) -> None:
    one, two = (reader.decode(dicom(UNSIGNED, syntax, kind=f"MONOCHROME{number}", BitsStored=12)) for number in (1, 2))
    np.testing.assert_allclose(one, 1 - two, atol=1e-6)


def test_other_colour_spaces_become_rgb() -> None:
    ybr = convert_color_space(COLOUR, "RGB", "YBR_FULL")
    np.testing.assert_allclose(reader.decode(dicom(ybr, kind="YBR_FULL")).astype(int), COLOUR, atol=3)
    planar = dataset(COLOUR, kind="RGB")
    planar.PlanarConfiguration, planar.PixelData = 1, COLOUR.transpose(2, 0, 1).tobytes()
    np.testing.assert_array_equal(reader.decode(to_bytes(planar)), COLOUR)
    palette = dataset(EIGHT, kind="PALETTE COLOR")
    for name, ramp in (("Red", range(256)), ("Green", range(255, -1, -1)), ("Blue", [7] * 256)):
        setattr(palette, f"{name}PaletteColorLookupTableDescriptor", [256, 0, 8])
        setattr(palette, f"{name}PaletteColorLookupTableData", bytes(ramp))
    seen = reader.decode(to_bytes(palette))
    np.testing.assert_array_equal(seen, np.stack([EIGHT, 255 - EIGHT, np.full_like(EIGHT, 7)], -1))


@given(
    center=some.floats(-3000, 3000),
    width=some.floats(1, 6000),
    slope=some.floats(0.1, 3),
    intercept=some.floats(-2000, 2000),
    function=some.sampled_from(["LINEAR", "LINEAR_EXACT", "SIGMOID"]),
)
def test_rescale_and_window_match_pydicom(
    center: float, width: float, slope: float, intercept: float, function: str
) -> None:
    center, width, slope, intercept = (float(f"{value:.6g}") for value in (center, width, slope, intercept))
    values = {"WindowCenter": center, "WindowWidth": max(width, 1.01), "VOILUTFunction": function}
    made = dataset(SIGNED, RescaleSlope=slope, RescaleIntercept=intercept, **values)
    with np.errstate(over="ignore"):
        windowed = apply_voi_lut(apply_modality_lut(SIGNED, made), made)
    low, high = (bound * slope + intercept for bound in (-32768, 32767))
    expected = (windowed - low) / (high - low)
    np.testing.assert_allclose(reader.decode(to_bytes(made)), expected, atol=2e-3 if function == "SIGMOID" else 1e-5)


def test_lookup_tables_are_used_and_a_window_replaces_them() -> None:
    table = Dataset()
    table.LUTDescriptor, table.LUTData = [256, 0, 16], [65535 - 257 * value for value in range(256)]
    table["LUTDescriptor"].VR = table["LUTData"].VR = "US"
    inverted = dataset(EIGHT, VOILUTSequence=[table])
    np.testing.assert_allclose(reader.decode(to_bytes(inverted)), 1 - EIGHT / 255, atol=1e-5)
    modality = Dataset()
    modality.LUTDescriptor, modality.LUTData = [256, 0, 16], [10 * value for value in range(256)]
    modality["LUTDescriptor"].VR = modality["LUTData"].VR = "US"
    modality.ModalityLUTType = "HU"
    scaled = dataset(EIGHT, ModalityLUTSequence=[modality], WindowCenter=1000, WindowWidth=1000)
    np.testing.assert_allclose(
        reader.decode(to_bytes(scaled), window=DisplayWindow(500, 1000)), np.clip(EIGHT / 100, 0, 1), atol=1e-5
    )


def test_padding_is_black_and_outside_the_range() -> None:
    padded = SIGNED.copy()
    padded[:5] = -32768
    for syntax in (uid.ExplicitVRLittleEndian, uid.ImplicitVRLittleEndian):
        made = dataset(padded, syntax, kind="MONOCHROME1")
        made.add_new("PixelPaddingValue", "SS", -32768)
        seen = reader.decode(to_bytes(made))
        assert not seen[:5].any()
        assert (seen[5:].min(), seen[5:].max()) == (0, 1)


def test_bits_above_the_stored_ones_are_ignored() -> None:
    twelve = (UNSIGNED & 0x0FFF).astype(np.uint16)
    overlaid = twelve | ((Y > 30).astype(np.uint16) << 14)
    np.testing.assert_array_equal(
        reader.decode(dicom(overlaid, BitsStored=12)), reader.decode(dicom(twelve, BitsStored=12))
    )


@pytest.mark.parametrize("syntax", [uid.ExplicitVRLittleEndian, uid.RLELossless, uid.JPEG2000Lossless], ids=named)
def test_multiframe_file_needs_a_frame_number(tmp_path: Path, syntax: str) -> None:
    many = np.stack([UNSIGNED, UNSIGNED[::-1], UNSIGNED // 2])
    path = put(tmp_path / "many.dcm", dicom(many, syntax, frames=True, WindowCenter=2000, WindowWidth=4000))
    single = dicom(UNSIGNED[::-1].copy(), WindowCenter=2000, WindowWidth=4000)
    np.testing.assert_array_equal(images.decode(tmp_path / "many.dcm#2", 1)[0], reader.decode(single))
    with pytest.raises(UserError, match=r"3 frames, and none is named.*\n.*middle one is #2"):
        images.decode(path, 1)
    with pytest.raises(UserError, match="no frame 4"):
        images.decode(tmp_path / "many.dcm#4", 1)
    assert len({images.digest(tmp_path / f"many.dcm{ending}") for ending in ("", "#1", "#2")}) == 3
    put(tmp_path / "many.dcm#2", single)
    np.testing.assert_array_equal(images.decode(tmp_path / "many.dcm#2", 1)[0], reader.decode(single))


def test_enhanced_frames_have_own_window_and_rescale() -> None:
    def group(slope: float, center: float) -> Dataset:
        transformation, window, made = Dataset(), Dataset(), Dataset()
        transformation.RescaleSlope, transformation.RescaleIntercept, transformation.RescaleType = slope, 0, "US"
        window.WindowCenter, window.WindowWidth = center, 100
        made.PixelValueTransformationSequence, made.FrameVOILUTSequence = [transformation], [window]
        return made

    many = np.stack([EIGHT, EIGHT])
    enhanced = dicom(many, frames=True, PerFrameFunctionalGroupsSequence=[group(1, 100), group(2, 200)])
    for frame, (slope, center) in enumerate([(1, 100), (2, 200)], start=1):
        single = dicom(EIGHT, RescaleSlope=slope, RescaleIntercept=0, WindowCenter=center, WindowWidth=100)
        np.testing.assert_array_equal(reader.decode(enhanced, frame), reader.decode(single))


def refused(tmp_path: Path, data: bytes, words: str) -> None:
    path = put(tmp_path / "refused.dcm", data)
    with pytest.raises(UserError, match=words):
        images.decode(path, 1)


def test_objects_without_supported_image_are_refused(tmp_path: Path) -> None:
    refused(tmp_path, dicom(None), "holds no image")
    made = dataset(UNSIGNED)
    made.file_meta.TransferSyntaxUID = uid.MPEG4HP41
    made.PixelData = b"\xfe\xff\x00\xe0\x00\x00\x00\x00" + b"\xfe\xff\x00\xe0\x04\x00\x00\x00abcd"
    made["PixelData"].is_undefined_length = True
    refused(
        tmp_path,
        to_bytes(made),
        r"transfer syntax \(MPEG-4 AVC/H.264 .*, 1.2.840.10008.1.2.4.102\) is not supported",
    )
    refused(tmp_path, dicom(UNSIGNED, kind="HSV"), r"colours \(HSV\) are not supported")
    refused(tmp_path, dicom(UNSIGNED, kind="SECRET"), "of an unknown name")
    made = dataset(UNSIGNED)
    made.BitsAllocated = made.BitsStored = 24
    refused(tmp_path, to_bytes(made), "its pixels have 24 bit each")
    refused(tmp_path, dicom(UNSIGNED)[:-100], "damaged or cut short")


def test_deflate_bomb_is_refused_early(tmp_path: Path) -> None:
    made = to_bytes(dataset(EIGHT, uid.DeflatedExplicitVRLittleEndian))
    start = elements._head(made).start
    packer = zlib.compressobj(9, zlib.DEFLATED, -15)
    zeros = (packer.compress(bytes(1 << 20)) + packer.flush(zlib.Z_FULL_FLUSH)) * 600
    assert len(zeros) < 700_000
    refused(tmp_path, made[:start] + zeros, "deflated and inflates to more than the 64 MiB")


@pytest.mark.parametrize(
    "syntax", [uid.RLELossless, uid.JPEG2000Lossless, uid.JPEGLSLossless, uid.JPEGLosslessSV1], ids=named
)
def test_frame_larger_than_its_header_reaches_no_decoder(tmp_path: Path, syntax: str) -> None:
    honest = dicom(EIGHT, syntax)
    columns = b"(\0\x11\0US\x02\0" + (50).to_bytes(2, "little")
    assert honest.count(columns) == 1
    refused(tmp_path, honest.replace(columns, columns[:-2] + (40).to_bytes(2, "little")), "not what its header")


def test_too_many_or_too_deep_elements_are_refused(tmp_path: Path) -> None:
    many = b"\x52\x00\x30\x92SQ\0\0\xff\xff\xff\xff" + b"\xfe\xff\x00\xe0\0\0\0\0" * 500_000
    refused(tmp_path, dicom(None) + many, "more than 400,000 elements")
    deep = b"\x52\x00\x30\x92SQ\0\0\xff\xff\xff\xff\xfe\xff\x00\xe0\xff\xff\xff\xff" * 1000
    refused(tmp_path, dicom(None) + deep, "damaged or cut short")
    huge = dataset(UNSIGNED)
    huge.Rows = huge.Columns = 65535
    refused(tmp_path, to_bytes(huge), "more than the 50 million pixels")


def test_crashed_decoder_process_is_restarted() -> None:
    coded, plain = dicom(UNSIGNED, uid.JPEGLosslessSV1), dicom(UNSIGNED)
    np.testing.assert_array_equal(reader.decode(coded), reader.decode(plain))
    assert decoding._DECODER._process is not None
    decoding._DECODER._process.kill()
    decoding._DECODER._process.wait()
    np.testing.assert_array_equal(reader.decode(coded), reader.decode(plain))
