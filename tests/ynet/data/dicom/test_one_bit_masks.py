"""Masks of one bit per pixel, in all encodings."""

import io
import struct

import numpy as np
import pytest
from dicom_hospital import names, segmentation
from dicoms import dataset, to_bytes
from openjpeg.utils import encode_array
from pydicom import Dataset, dcmread, uid
from pydicom.encaps import encapsulate
from pydicom.pixels.encoders.base import get_encoder

from ynet.data.dicom import drawings
from ynet.data.dicom.faults import UnfitError

SIDE = 33  # odd: frames of one bit per pixel start inside a byte
Y, X = np.mgrid[:SIDE, :SIDE]
MASKS = np.stack([(X - 9 - 5 * number) ** 2 + (Y - 15) ** 2 < 60 + 30 * number for number in range(3)])


def made() -> tuple[list[Dataset], Dataset]:
    series = names(StudyInstanceUID=uid.generate_uid(), SeriesInstanceUID=uid.generate_uid())
    sources = [
        dataset(np.zeros((SIDE, SIDE), np.uint16), **series, ImagePositionPatient=[0, 0, 3.0 * number])
        for number in range(3)
    ]
    return sources, dcmread(io.BytesIO(segmentation(sources, MASKS)))


def run_length(data: bytes) -> bytes:
    """An RLE frame of one segment with literal runs."""
    body = b"".join(bytes([len(part) - 1]) + part for part in (data[at : at + 128] for at in range(0, len(data), 128)))
    return struct.pack("<16I", 1, 64, *[0] * 14) + body + b"\x80" * (len(body) % 2)


def packed(mask: np.ndarray) -> bytes:
    return np.packbits(mask.ravel(), bitorder="little").tobytes()


def jpeg_ls(mask: np.ndarray) -> bytes:
    encoder = get_encoder(uid.JPEGLSLossless)
    size = {"rows": SIDE, "columns": SIDE, "samples_per_pixel": 1, "number_of_frames": 1, "pixel_representation": 0}
    bits = {"bits_allocated": 8, "bits_stored": 8, "photometric_interpretation": "MONOCHROME2"}
    return encoder.encode(mask.astype(np.uint8), **size, **bits)


def jpeg_2000(mask: np.ndarray, bits: int) -> bytes:
    pixels = mask if bits == 1 else mask.astype(np.uint8)
    return bytes(encode_array(pixels, bits_stored=bits, photometric_interpretation=2, use_mct=False))


COMPRESSED = {
    "RLE of packed bits": (uid.RLELossless, lambda mask: run_length(packed(mask))),
    "RLE of a byte a pixel": (uid.RLELossless, lambda mask: run_length(mask.astype(np.uint8).tobytes())),
    "RLE of 0 and 255": (uid.RLELossless, lambda mask: run_length((mask * np.uint8(255)).tobytes())),
    "JPEG 2000 of one bit": (uid.JPEG2000Lossless, lambda mask: jpeg_2000(mask, 1)),
    "JPEG 2000 of eight": (uid.JPEG2000Lossless, lambda mask: jpeg_2000(mask, 8)),
    "JPEG-LS": (uid.JPEGLSLossless, jpeg_ls),
}


@pytest.mark.parametrize("how", COMPRESSED)
def test_compressed_one_bit_seg_is_decoded(how: str) -> None:
    sources, seg = made()
    syntax, encode = COMPRESSED[how]
    frames = [encode(mask > 0) for mask in seg.pixel_array]
    seg.PixelData, seg.file_meta.TransferSyntaxUID = encapsulate(frames), syntax
    seg["PixelData"].is_undefined_length = True
    assert_read(sources, seg)


@pytest.mark.parametrize("vr", ["OB", "OW"])
@pytest.mark.parametrize(
    "syntax", [uid.ImplicitVRLittleEndian, uid.DeflatedExplicitVRLittleEndian, uid.ExplicitVRBigEndian]
)
def test_uncompressed_one_bit_seg_is_read_in_every_byte_order(syntax: str, vr: str) -> None:
    sources, seg = made()
    raw = bytes(seg.PixelData) + bytes(len(seg.PixelData) % 2)
    if vr == "OW" and syntax == uid.ExplicitVRBigEndian:
        raw = np.frombuffer(raw, "<u2").astype(">u2").tobytes()
    seg.add_new("PixelData", vr, raw)
    seg.file_meta.TransferSyntaxUID = uid.UID(syntax)
    assert_read(sources, dcmread(io.BytesIO(to_bytes(seg))), to_bytes(seg))


def test_frame_that_contradicts_its_header_is_refused() -> None:
    sources, seg = made()
    subject = drawings.subject(to_bytes(sources[0]), None)
    for syntax, frame in (
        (uid.RLELossless, run_length(bytes(7))),
        (uid.JPEG2000Lossless, jpeg_2000(MASKS[0][:32, :32], 8)),
        (uid.JPEGLSLossless, b"nothing of the kind "),
        (uid.MPEG2MPML, b"a film"),
    ):
        seg.PixelData, seg.file_meta.TransferSyntaxUID = encapsulate([frame] * 3), syntax
        seg["PixelData"].is_undefined_length = True
        with pytest.raises(UnfitError, match=r"damaged|header says|not supported"):
            drawings.decode(to_bytes(seg), subject)


def assert_read(sources: list[Dataset], seg: Dataset, data: bytes | None = None) -> None:
    for source, mask in zip(sources, MASKS, strict=True):
        found = drawings.decode(data or to_bytes(seg), drawings.subject(to_bytes(source), None))
        np.testing.assert_array_equal(found, mask)


def test_frames_that_begin_late_in_a_byte_are_read() -> None:
    shape = (37, 23)  # 851 bits: the third frame begins at bit 6 of a byte
    series = names(StudyInstanceUID=uid.generate_uid(), SeriesInstanceUID=uid.generate_uid())
    sources = [
        dataset(np.zeros(shape, np.uint16), **series, ImagePositionPatient=[0, 0, 3.0 * number]) for number in range(8)
    ]
    masks = np.random.default_rng(1).random((8, *shape)) > 0.5
    seg = segmentation(sources, masks)
    for source, mask in zip(sources, masks, strict=True):
        np.testing.assert_array_equal(drawings.decode(seg, drawings.subject(to_bytes(source), None)), mask)
