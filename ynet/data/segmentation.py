"""The mask of one image in a DICOM SEG, found by what its frames refer to."""

from typing import NamedTuple

import numpy as np
from jaxtyping import UInt8
from pydicom.dataset import Dataset

from ynet.data import dicom, dicom_elements
from ynet.data.dicom_elements import UnfitError, damaged, items, parsing
from ynet.data.limits import MAX_PIXELS

SEGMENTATIONS = ("1.2.840.10008.5.1.4.1.1.66.4", "1.2.840.10008.5.1.4.1.1.66.7")
"""SOP classes: segmentation, label map segmentation."""
_ELEMENTS = (
    *("SOPClassUID", "SegmentationType", "MaximumFractionalValue", "SegmentSequence", "ReferencedSeriesSequence"),
    *("SharedFunctionalGroupsSequence", "PerFrameFunctionalGroupsSequence"),
)


class Reference(NamedTuple):
    """An image, as others refer to it."""

    instance: str  # its SOP instance UID
    frame: int  # from 1


class Segments(NamedTuple):
    """What a DICOM SEG says of itself."""

    numbers: tuple[int, ...]
    is_automatic: bool  # none of its segments was drawn, or corrected, by a person
    references: frozenset[Reference]  # the images of its frames
    instances: frozenset[str]  # all images that it speaks of: one without a frame has nothing segmented


@parsing()
def is_segmentation(data: bytes) -> bool:
    """Whether a DICOM file is a DICOM SEG. Raises UnfitError."""
    return str(dicom_elements.read(data, ("SOPClassUID",)).dataset.get("SOPClassUID", "")) in SEGMENTATIONS


@parsing()
def reference(data: bytes, frame: int | None) -> Reference:
    """How others refer to an image. Raises UnfitError."""
    found = str(dicom_elements.read(data, ("SOPInstanceUID",)).dataset.get("SOPInstanceUID", ""))
    if not found:
        raise UnfitError("it has no SOP instance UID", "export it again, with its identifiers")
    return Reference(found, frame or 1)


@parsing()
def segments(data: bytes) -> Segments:
    """What a DICOM SEG holds; no pixel is decoded. Raises UnfitError."""
    dataset = dicom_elements.read(data, _ELEMENTS).dataset
    listed = list(items(dataset, "SegmentSequence"))
    types = [str(one.get("SegmentAlgorithmType", "")) for one in listed]
    numbers = tuple(int(one.get("SegmentNumber") or 0) for one in listed)
    instances = {
        str(one.get("ReferencedSOPInstanceUID", ""))
        for series in items(dataset, "ReferencedSeriesSequence")
        for one in items(series, "ReferencedInstanceSequence")
    }
    shown = frozenset(shows for frame in _groups(dataset) for shows in _shows(frame))
    is_automatic = bool(types) and set(types) == {"AUTOMATIC"}
    return Segments(numbers, is_automatic, shown, frozenset(instances) | {one.instance for one in shown})


@parsing()
def decode(data: bytes, of: Reference, segment: int | None = None) -> UInt8[np.ndarray, "h w"]:
    """1 where the segment is on an image. One that the SEG speaks of without a frame for it has nothing segmented.

    Of several segments one must be named, by its number. Raises UnfitError.
    """
    found = segments(data)
    number = _chosen(found, segment)
    if of.instance not in found.instances:
        raise UnfitError("it is a DICOM SEG of other images than this one", "name the SEG that refers to the image")
    dataset = dicom_elements.read(data, (*_ELEMENTS, *dicom.SHAPE)).dataset
    is_map = str(dataset.get("SegmentationType", "")) == "LABELMAP"
    rows, columns = int(dataset.get("Rows") or 0), int(dataset.get("Columns") or 0)
    if rows * columns > MAX_PIXELS:
        raise UnfitError(f"it has more than the {MAX_PIXELS // 1_000_000} million pixels allowed", "export it smaller")
    mask = np.zeros((rows, columns), np.uint8)
    for place, group in enumerate(_groups(dataset), start=1):
        if of in _shows(group) and (is_map or _number(group) in (number, None)):
            mask |= _plane(data, dataset, place, number if is_map else None)
    return mask


def _chosen(found: Segments, segment: int | None) -> int:
    named = ", ".join(f"#{number}" for number in found.numbers[:20])
    if segment is None and len(found.numbers) > 1:
        why = f"it is a DICOM SEG of {len(found.numbers)} segments, and none is named"
        raise UnfitError(why, f"name the lesion's after the file: {named}")
    if not found.numbers:
        raise damaged()
    if segment is not None and segment not in found.numbers:
        raise UnfitError(f"it has no segment {segment}", f"name one of {named}")
    return segment or found.numbers[0]


def _groups(dataset: Dataset) -> list[Dataset]:
    """Each frame's own functional groups, with those that all share where it has none of that kind."""
    shared = next(items(dataset, "SharedFunctionalGroupsSequence"), Dataset())
    made = []
    for frame in items(dataset, "PerFrameFunctionalGroupsSequence"):
        for keyword in ("DerivationImageSequence", "SegmentIdentificationSequence"):
            if keyword in shared and keyword not in frame:
                frame.add(shared[keyword])
        made.append(frame)
    return made


def _shows(group: Dataset) -> set[Reference]:
    """Which images a frame is a mask of."""
    return {
        Reference(str(source.get("ReferencedSOPInstanceUID", "")), frame)
        for derivation in items(group, "DerivationImageSequence")
        for source in items(derivation, "SourceImageSequence")
        for frame in _frames(source)
    }


def _frames(source: Dataset) -> list[int]:
    named = source.get("ReferencedFrameNumber")
    if named in (None, ""):
        return [1]
    return [int(named)] if isinstance(named, int) else [int(one) for one in named]


def _number(group: Dataset) -> int | None:
    found = next(items(group, "SegmentIdentificationSequence"), Dataset()).get("ReferencedSegmentNumber")
    return None if found is None else int(found)


def _plane(data: bytes, shape: Dataset, place: int, label: int | None) -> UInt8[np.ndarray, "h w"]:
    """A frame as 0 and 1: where it is the label, or has at least half of the greatest fraction."""
    if int(shape.get("BitsAllocated") or 0) == 1:
        return _bits(data, int(shape.Rows), int(shape.Columns), place)
    stored = dicom.stored(data, place)
    if label is not None:
        return np.asarray(stored == label, np.uint8)
    most = int(shape.get("MaximumFractionalValue") or 1)
    return np.asarray(stored * 2.0 >= most, np.uint8)


def _bits(data: bytes, rows: int, columns: int, place: int) -> UInt8[np.ndarray, "h w"]:
    """A frame of one bit a pixel: the lowest of a byte is the first, and frames follow without a gap."""
    packed = np.frombuffer(dicom_elements.read(data, ("PixelData",)).dataset.get("PixelData") or b"", np.uint8)
    first = (place - 1) * rows * columns
    end = first + rows * columns
    if 8 * len(packed) < end:
        raise damaged()
    bits = np.unpackbits(packed[first // 8 : -(-end // 8)], bitorder="little")
    return bits[first % 8 : first % 8 + rows * columns].reshape(rows, columns)
