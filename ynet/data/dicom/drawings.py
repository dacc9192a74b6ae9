"""Drawings (segmentations and contours) on an image, from any supported kind of DICOM file."""

from collections.abc import Collection
from typing import NamedTuple

import numpy as np
from jaxtyping import UInt8

from ynet.data.dicom import elements, geometry, matching, segmentation, structures
from ynet.data.dicom.faults import UnfitError, parsing
from ynet.data.dicom.matching import Drawing, Segment, Subject

SURFACES = "1.2.840.10008.5.1.4.1.1.66.5"
CLASSES = (*segmentation.SEGMENTATIONS, structures.STRUCTURE_SET, SURFACES)
"""SOP classes of drawings. Surface segmentations are recognised but not supported."""
_SUBJECT = (
    *("SOPInstanceUID", "StudyInstanceUID", "SeriesInstanceUID", "FrameOfReferenceUID", "NumberOfFrames"),
    *geometry.ELEMENTS,
)


@parsing()
def is_drawing(data: bytes) -> bool:
    """Return whether a DICOM file is a drawing. Raises UnfitError."""
    return _class(data) in CLASSES


@parsing()
def subject(data: bytes, frame: int | None) -> Subject:
    """Read the identifiers and the geometry by which drawings refer to an image or frame. Raises UnfitError."""
    dataset = elements.read(data, _SUBJECT).dataset
    instance, study, series, space = (str(dataset.get(keyword, "") or "").strip() for keyword in _SUBJECT[:4])
    if not instance:
        raise UnfitError("it has no SOP instance UID", "export it again, with its identifiers")
    plane = geometry.plane(dataset, frame or 1)
    return Subject(instance, frame or 1, int(dataset.get("NumberOfFrames") or 1), study, series, space, plane)


@parsing()
def read(data: bytes) -> Drawing:
    """Read a drawing without decoding its pixels. Raises UnfitError."""
    kind = _class(data)
    if kind == structures.STRUCTURE_SET:
        return structures.read(data)
    if kind not in segmentation.SEGMENTATIONS:
        raise UnfitError("it is an unsupported kind of drawing", "export it as a DICOM SEG")
    return segmentation.read(data)


class DrawnMask(NamedTuple):
    """The part of a drawing that lies on an image."""

    mask: UInt8[np.ndarray, "h w"]  # 1 where the segment is
    positions: frozenset[int]  # of its marks, in the file


@parsing()
def mask_on(
    drawing: Drawing, of: Subject, segment: Segment = None, known: Collection[str] | None = None
) -> DrawnMask | None:
    """Return the part of a segment that lies on an image; None where there is none.

    `known` is as for `matching.on`. Raises UnfitError where it is unclear whether the drawing belongs to the image.
    """
    if not drawing.concerns(of, known):
        return None
    number = drawing.chosen(segment)
    marks = matching.on(drawing, of, number, known)
    return DrawnMask(drawing.render(marks, of, number), frozenset(mark.position for mark in marks)) if marks else None


@parsing()
def decode(data: bytes, of: Subject, segment: Segment = None) -> UInt8[np.ndarray, "h w"]:
    """Return a segment's mask on an image, for a drawing that was named as the image's mask.

    The mask is empty if the drawing refers to the image without marking it. Raises UnfitError if the drawing does not
    refer to the image.
    """
    return rendered(read(data), of, segment)


@parsing()
def rendered(drawing: Drawing, of: Subject, segment: Segment = None) -> UInt8[np.ndarray, "h w"]:
    """Return a segment's mask on an image, as `decode` does for the drawing's file. Raises UnfitError."""
    number = drawing.chosen(segment)
    if (found := mask_on(drawing, of, number)) is not None:
        return found.mask
    if of.instance not in drawing.instances:
        raise UnfitError("it is a drawing of other images than this one", "name the one that refers to the image")
    if not drawing.says_by_reference(number):
        why = "no part of it lies on the image, and it does not state that the image is free of it"
        raise UnfitError(why, "check it in a viewer, or save the mask as PNG")
    return drawing.render([], of, number)


def _class(data: bytes) -> str:
    return str(elements.read(data, ("SOPClassUID",)).dataset.get("SOPClassUID", ""))
