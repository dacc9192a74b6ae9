"""A frame of one bit a pixel, as its transfer syntax stores it: packed, or compressed in one of several ways."""

import numpy as np
from jaxtyping import UInt8
from pydicom import uid
from pydicom.dataset import Dataset
from pydicom.encaps import get_frame

from ynet.data.dicom import codestream, decoding
from ynet.data.dicom.codestream import Shape
from ynet.data.dicom.elements import UnfitError, damaged
from ynet.data.dicom.frame import PLUGINS, UNCOMPRESSED

ELEMENTS = ("PixelData", "NumberOfFrames", "Rows", "Columns", "ExtendedOffsetTable", "ExtendedOffsetTableLengths")
"""What `plane` reads."""


def plane(dataset: Dataset, syntax: uid.UID, place: int) -> UInt8[np.ndarray, "h w"]:
    """Frame `place`, from 1, as 0 and 1. Raises UnfitError."""
    rows, columns = int(dataset.Rows), int(dataset.Columns)
    if syntax in UNCOMPRESSED:
        return _packed(_bytes(dataset, syntax), (place - 1) * rows * columns, rows, columns)
    if syntax not in codestream.COMPRESSED:
        raise UnfitError("its compression is none that is read", "export it uncompressed, or as RLE or JPEG 2000")
    offsets = None
    if "ExtendedOffsetTable" in dataset and "ExtendedOffsetTableLengths" in dataset:
        offsets = (dataset.ExtendedOffsetTable, dataset.ExtendedOffsetTableLengths)
    count = int(dataset.get("NumberOfFrames") or 1)
    frame = get_frame(dataset.PixelData, place - 1, number_of_frames=count, extended_offsets=offsets)
    if syntax == uid.RLELossless:
        return _run_length(frame, rows, columns)
    return _decoded(frame, syntax, rows, columns)


def _bytes(dataset: Dataset, syntax: uid.UID) -> UInt8[np.ndarray, " n"]:
    """The packed bits, the first in the lowest bit of the first byte; words of big endian are turned round."""
    packed = np.frombuffer(dataset.get("PixelData") or b"", np.uint8)
    if syntax == uid.ExplicitVRBigEndian and len(packed) and dataset["PixelData"].VR == "OW":
        packed = packed[: len(packed) // 2 * 2].reshape(-1, 2)[:, ::-1].ravel()
    return packed


def _packed(packed: UInt8[np.ndarray, " n"], first: int, rows: int, columns: int) -> UInt8[np.ndarray, "h w"]:
    """Bits from the one numbered `first` on; frames follow each other without a gap."""
    end = first + rows * columns
    if 8 * len(packed) < end:
        raise damaged()
    bits: np.ndarray = np.unpackbits(packed[first // 8 : -(-end // 8)], bitorder="little")
    return bits[first % 8 : first % 8 + rows * columns].reshape(rows, columns)


def _run_length(frame: bytes, rows: int, columns: int) -> UInt8[np.ndarray, "h w"]:
    """RLE has one segment: of packed bits, as the standard says, or of a byte a pixel, as some write."""
    count = rows * columns
    for size in (-(-count // 8), count):
        if codestream.is_shaped(frame, uid.RLELossless, Shape(1, size, 1, 1)):
            found = _decoded(frame, uid.RLELossless, 1, size, is_flag=False)[0]
            if size == count:
                return np.asarray(found > 0, np.uint8).reshape(rows, columns)
            return _packed(found, 0, rows, columns)
    raise damaged()


def _decoded(
    frame: bytes, syntax: uid.UID, rows: int, columns: int, *, is_flag: bool = True
) -> UInt8[np.ndarray, "h w"]:
    """A frame of a byte a pixel, decoded by a process that may die; with `is_flag` as 0 and 1."""
    if not codestream.is_shaped(frame, syntax, Shape(rows, columns, 1, 1)):
        raise UnfitError("its compressed pixels are not what its header says", "copy or export it again")
    elements = {
        "SamplesPerPixel": 1,
        "PhotometricInterpretation": "MONOCHROME2",
        "Rows": rows,
        "Columns": columns,
        "BitsAllocated": 8,
        "BitsStored": 8,
        "HighBit": 7,
        "PixelRepresentation": 0,
    }
    found: np.ndarray = decoding.decode(syntax, PLUGINS.get(syntax, ""), elements, frame, is_raw=True)
    if found.shape != (rows, columns) or found.dtype != np.uint8:
        raise damaged()
    return (found.astype(np.uint16) * 2 > found.max()).astype(np.uint8) if is_flag else found
