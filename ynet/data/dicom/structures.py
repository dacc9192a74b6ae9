"""RT structure sets: contours on images, and the masks that they enclose."""

from collections import defaultdict
from collections.abc import Iterator, Sequence

import numpy as np
from jaxtyping import UInt8
from pydicom.dataset import Dataset

from ynet.data.dicom import elements, geometry
from ynet.data.dicom.elements import items
from ynet.data.dicom.faults import UnfitError, damaged
from ynet.data.dicom.matching import Drawing, Mark, Reference, Subject, references

STRUCTURE_SET = "1.2.840.10008.5.1.4.1.1.481.3"
_ELEMENTS = (
    *("SOPClassUID", "StudyInstanceUID", "FrameOfReferenceUID", "ReferencedFrameOfReferenceSequence"),
    *("StructureSetROISequence", "ROIContourSequence"),
)
_CLOSED = ("CLOSED_PLANAR", "CLOSEDPLANAR_XOR", "INTERPOLATED_PLANAR")
_OPEN = "it is a point or an open line, which encloses nothing"


def read(data: bytes) -> Drawing:
    """Read a structure set; only regions with a contour count. Raises UnfitError."""
    _, dataset = elements.read(data, _ELEMENTS)
    regions = {int(one.get("ROINumber") or 0): one for one in items(dataset, "StructureSetROISequence")}
    space = str(dataset.get("FrameOfReferenceUID", "") or "")
    marks = list[Mark]()
    for drawn in items(dataset, "ROIContourSequence"):
        number = int(drawn.get("ReferencedROINumber") or 0)
        own = str(regions.get(number, Dataset()).get("ReferencedFrameOfReferenceUID", "") or "") or space
        for contour in items(drawn, "ContourSequence"):
            marks.append(_mark(contour, len(marks) + 1, number, own))
    used = {mark.number for mark in marks if mark.number is not None}
    types = {str(regions.get(number, Dataset()).get("ROIGenerationAlgorithm", "")) for number in used}
    listed, series = defaultdict[str, set[str]](set), _listed(dataset)
    for one in series:
        name = str(one.get("SeriesInstanceUID", ""))
        listed[name] |= {reference.instance for reference in _shows(one)}
    shown = {reference.instance for mark in marks for reference in mark.references}
    return Drawing(
        study=str(dataset.get("StudyInstanceUID", "")),
        names={number: str(regions.get(number, Dataset()).get("ROIName", "")).strip() for number in used},
        is_automatic=types == {"AUTOMATIC"},
        instances=frozenset(shown.union(*listed.values())) - {""},
        series=frozenset(name for name, instances in listed.items() if not instances) - {""},
        marks=tuple(marks),
        render=_render,
    )


def _listed(dataset: Dataset) -> Iterator[Dataset]:
    for space in items(dataset, "ReferencedFrameOfReferenceSequence"):
        for study in items(space, "RTReferencedStudySequence"):
            yield from items(study, "RTReferencedSeriesSequence")


def _shows(item: Dataset) -> Iterator[Reference]:
    return references(items(item, "ContourImageSequence"))


def _mark(contour: Dataset, position: int, number: int, space: str) -> Mark:
    found = contour.get("ContourData")
    values = np.array([float(one) for one in found or ()], np.float64)
    if len(values) % 3 or not len(values) or not np.isfinite(values).all():
        raise damaged()
    is_closed = str(contour.get("ContourGeometricType", "")) in _CLOSED and len(values) >= 9
    return Mark(position, number, space, frozenset(_shows(contour)), values.reshape(-1, 3), "" if is_closed else _OPEN)


def _render(marks: Sequence[Mark], of: Subject, number: int) -> UInt8[np.ndarray, "h w"]:  # noqa: ARG001
    """Return the mask of contours by the even-odd rule: 1 at pixels whose centre is inside."""
    if of.plane is None:
        raise UnfitError("the image has no position in the patient", "export it again, with its geometry")
    mask = geometry.filled((of.plane.pixels(mark.points) for mark in marks if mark.points is not None), of.plane.shape)
    if marks and not mask.any():
        raise UnfitError(
            "its contours enclose no pixel's centre on the image", "check it in a viewer, and name a mask for it"
        )
    return mask
