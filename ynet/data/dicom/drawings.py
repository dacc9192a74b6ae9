"""What was drawn on an image, whatever kind of DICOM file it is in."""

from collections.abc import Collection
from typing import NamedTuple

import numpy as np
from jaxtyping import UInt8

from ynet.data.dicom import elements, geometry, matching, segmentation, structures
from ynet.data.dicom.elements import UnfitError, parsing
from ynet.data.dicom.matching import Drawing, Segment, Subject

SURFACES = "1.2.840.10008.5.1.4.1.1.66.5"
CLASSES = (*segmentation.SEGMENTATIONS, structures.STRUCTURE_SET, SURFACES)
"""SOP classes of drawings. Surfaces are known as drawings, and none is put on an image."""
_SUBJECT = (
    *("SOPInstanceUID", "StudyInstanceUID", "SeriesInstanceUID", "FrameOfReferenceUID", "NumberOfFrames"),
    *geometry.ELEMENTS,
)


@parsing()
def is_drawing(data: bytes) -> bool:
    """Whether a DICOM file is a drawing. Raises UnfitError."""
    return _class(data) in CLASSES


@parsing()
def subject(data: bytes, frame: int | None) -> Subject:
    """An image, or a frame of one, as drawings know it. Raises UnfitError."""
    dataset = elements.read(data, _SUBJECT).dataset
    instance, study, series, space = (str(dataset.get(keyword, "") or "").strip() for keyword in _SUBJECT[:4])
    if not instance:
        raise UnfitError("it has no SOP instance UID", "export it again, with its identifiers")
    plane = geometry.plane(dataset, frame or 1)
    return Subject(instance, frame or 1, int(dataset.get("NumberOfFrames") or 1), study, series, space, plane)


@parsing()
def read(data: bytes) -> Drawing:
    """What a drawing holds; its pixels are not decoded yet. Raises UnfitError."""
    kind = _class(data)
    if kind == structures.STRUCTURE_SET:
        return structures.read(data)
    if kind not in segmentation.SEGMENTATIONS:
        raise UnfitError("it is a drawing of a kind that is not read", "export it as a DICOM SEG")
    return segmentation.read(data)


class Part(NamedTuple):
    """What of a drawing lies on an image."""

    mask: UInt8[np.ndarray, "h w"]  # 1 where the segment is
    places: frozenset[int]  # of its marks


@parsing()
def part(drawing: Drawing, of: Subject, segment: Segment = None, known: Collection[str] | None = None) -> Part | None:
    """What of a segment is drawn on an image; None where nothing is.

    `known` is as for `matching.on`. Raises UnfitError where the drawing may be of the image, and which part of it
    cannot be told.
    """
    if not drawing.concerns(of, known):
        return None
    number = drawing.chosen(segment)
    marks = matching.on(drawing, of, number, known)
    return Part(drawing.render(marks, of, number), frozenset(mark.place for mark in marks)) if marks else None


@parsing()
def decode(data: bytes, of: Subject, segment: Segment = None) -> UInt8[np.ndarray, "h w"]:
    """1 where the segment is on an image, in a drawing that was named for it.

    An image that the drawing speaks of without anything on it has nothing segmented; one that it does not speak of
    is refused. Raises UnfitError.
    """
    drawing = read(data)
    number = drawing.chosen(segment)
    if (found := part(drawing, of, number)) is not None:
        return found.mask
    if of.instance not in drawing.instances:
        raise UnfitError("it is a drawing of other images than this one", "name the one that refers to the image")
    if not drawing.says_by_reference(number):
        why = "nothing of it lies on the image, and it does not say that nothing should"
        raise UnfitError(why, "look at it, or save the mask as PNG")
    return drawing.render([], of, number)


def _class(data: bytes) -> str:
    return str(elements.read(data, ("SOPClassUID",)).dataset.get("SOPClassUID", ""))
