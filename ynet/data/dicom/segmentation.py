"""DICOM SEG and label map segmentations.

highdicom reads conforming files only, and parses them whole. Here missing references, missing dimension indices and
bare data sets are accepted, only the needed elements are parsed, and frames are decoded in a separate process.
"""

from collections.abc import Iterator, Sequence
from functools import partial

import numpy as np
from jaxtyping import UInt8
from pydicom.dataset import Dataset

from ynet.data.dicom import elements, geometry
from ynet.data.dicom.elements import Elements, items
from ynet.data.dicom.matching import Drawing, Mark, Reference, Subject, references
from ynet.data.dicom.stored_pixels import PIXELS, SHAPE, layout_of, pixels_of
from ynet.data.limits import MAX_PIXELS

SEGMENTATIONS = ("1.2.840.10008.5.1.4.1.1.66.4", "1.2.840.10008.5.1.4.1.1.66.7")
"""SOP classes: segmentation, label map segmentation."""
_ELEMENTS = (
    *("SOPClassUID", "StudyInstanceUID", "FrameOfReferenceUID", "SegmentationType", "MaximumFractionalValue"),
    *("SegmentSequence", "ReferencedSeriesSequence", "StudiesContainingOtherReferencedInstancesSequence"),
    *("DimensionOrganizationType", "TotalPixelMatrixRows", *geometry.ELEMENTS, *SHAPE, *PIXELS),
)
_TILED = "it is drawn in tiles of a larger picture, which is not supported"


def read(data: bytes) -> Drawing:
    """Read a DICOM SEG without decoding its pixels. Raises UnfitError."""
    found = elements.read(data, _ELEMENTS)
    dataset = found.dataset
    is_map = str(dataset.get("SegmentationType", "")) == "LABELMAP"
    marks = tuple(_mark(dataset, group, position) for position, group in enumerate(_groups(dataset), start=1))
    listed = list(items(dataset, "SegmentSequence"))
    names = {int(one.get("SegmentNumber") or 0): str(one.get("SegmentLabel", "")).strip() for one in listed}
    types = {str(one.get("SegmentAlgorithmType", "")) for one in listed}
    series = list(_listed(dataset))
    instances = {str(one.get("ReferencedSOPInstanceUID", "")) for each in series for one in _instances(each)}
    shown = {reference.instance for mark in marks for reference in mark.references}
    whole = {str(one.get("SeriesInstanceUID", "")) for one in series if not list(_instances(one))}
    return Drawing(
        study=str(dataset.get("StudyInstanceUID", "")),
        names={number: name for number, name in names.items() if number or not is_map},  # 0: the background
        is_automatic=types == {"AUTOMATIC"},
        instances=frozenset(instances | shown) - {""},
        series=frozenset(whole) - {""},
        marks=marks,
        render=partial(_render, found),
        fault=_fault(dataset, marks),
    )


def _listed(dataset: Dataset) -> Iterator[Dataset]:
    """Yield the series that a SEG refers to, in its own study and in others."""
    yield from items(dataset, "ReferencedSeriesSequence")
    for study in items(dataset, "StudiesContainingOtherReferencedInstancesSequence"):
        yield from items(study, "ReferencedSeriesSequence")


def _instances(series: Dataset) -> Iterator[Dataset]:
    return items(series, "ReferencedInstanceSequence")


def _fault(dataset: Dataset, marks: Sequence[Mark]) -> str:
    rows, columns = int(dataset.get("Rows") or 0), int(dataset.get("Columns") or 0)
    if rows * columns > MAX_PIXELS:
        return f"it has more than the {MAX_PIXELS // 1_000_000} million pixels allowed"
    is_tiled = "TotalPixelMatrixRows" in dataset or str(dataset.get("DimensionOrganizationType", ""))[:5] == "TILED"
    if is_tiled and not all(mark.references for mark in marks or [Mark(0, None, "", frozenset(), None)]):
        return _TILED
    is_map = str(dataset.get("SegmentationType", "")) == "LABELMAP"
    if not is_map and len(dataset.get("SegmentSequence") or ()) > 1 and any(mark.number is None for mark in marks):
        return "its frames do not say which segment they show"
    if len(marks) != int(dataset.get("NumberOfFrames") or 1) or rows * columns == 0:
        return "its frames do not say what they show"
    return ""


def _groups(dataset: Dataset) -> list[Dataset]:
    """Return each frame's functional groups, completed by the shared ones."""
    shared = next(items(dataset, "SharedFunctionalGroupsSequence"), Dataset())
    made = []
    for frame in items(dataset, "PerFrameFunctionalGroupsSequence"):
        for keyword in ("DerivationImageSequence", "SegmentIdentificationSequence"):
            if keyword in shared and keyword not in frame:
                frame.add(shared[keyword])
        made.append(frame)
    return made


def _mark(dataset: Dataset, group: Dataset, position: int) -> Mark:
    number = next(items(group, "SegmentIdentificationSequence"), Dataset()).get("ReferencedSegmentNumber")
    plane = geometry.plane(dataset, position)
    return Mark(
        position,
        None if number is None else int(number),
        str(dataset.get("FrameOfReferenceUID", "") or ""),
        frozenset(_shows(group)),
        None if plane is None else plane.corners,
    )


def _shows(group: Dataset) -> Iterator[Reference]:
    """Yield the images that a frame refers to."""
    for derivation in items(group, "DerivationImageSequence"):
        yield from references(items(derivation, "SourceImageSequence"))


def _render(found: Elements, marks: Sequence[Mark], of: Subject, number: int) -> UInt8[np.ndarray, "h w"]:
    """Return a segment's mask, on the image's grid if both grids are known."""
    dataset = found.dataset
    is_map = str(dataset.get("SegmentationType", "")) == "LABELMAP"
    mask: np.ndarray | None = None
    for mark in marks:
        frame = _plane(found, mark.position, number if is_map else None)
        own = geometry.plane(dataset, mark.position)
        if own is not None and of.plane is not None:
            frame = geometry.resampled(frame, own, of.plane)
        mask = frame if mask is None else mask | frame
    if mask is not None:
        return mask
    shape = of.plane.shape if of.plane else (int(dataset.Rows), int(dataset.Columns))
    return np.zeros(shape, np.uint8)


def _plane(found: Elements, position: int, label: int | None) -> UInt8[np.ndarray, "h w"]:
    """Decode a frame to 0 and 1: equal to the label, or at least half of the maximal fraction."""
    layout = layout_of(found)
    stored = pixels_of(found, layout, position)
    if label is not None:
        return np.asarray(stored == label, np.uint8)
    is_flag = layout.allocated == 1  # some encoders write the set bit as 255
    most = int(stored.max()) or 1 if is_flag else int(found.dataset.get("MaximumFractionalValue") or 1)
    return np.asarray(stored * 2.0 >= most, np.uint8)
