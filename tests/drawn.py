"""Drawings of viewers and planning systems: DICOM SEGs with every kind of reference, and structure sets."""

import io
from collections.abc import Sequence
from typing import Any

import numpy as np
from dicom_hospital import segmentation
from dicoms import dataset, to_bytes
from pydicom import Dataset, dcmread, uid

RTSTRUCT = uid.RTStructureSetStorage


def edited(seg: bytes, **elements: Any) -> Dataset:
    """Return a SEG with changed elements."""
    made = dcmread(io.BytesIO(seg))
    for keyword, value in elements.items():
        setattr(made, keyword, value)
    return made


def seg(sources: Sequence[Dataset], masks: np.ndarray, *, refers: str = "", **more: Any) -> Dataset:
    """Make a SEG of masks (images, h, w) whose frames refer to no image.

    `refers`: `listed` keeps the list of images, `series` only that of series; other values keep none.
    """
    made = edited(segmentation(list(sources), masks, **more), SOPInstanceUID=uid.generate_uid())
    made.file_meta.MediaStorageSOPInstanceUID = made.SOPInstanceUID
    for group in made.PerFrameFunctionalGroupsSequence:
        group.DerivationImageSequence = []
    if refers == "series":
        for one in made.ReferencedSeriesSequence:
            del one.ReferencedInstanceSequence
    elif refers != "listed":
        del made.ReferencedSeriesSequence
    return made


def structure_set(
    source: Dataset, contours: Sequence[Sequence[np.ndarray]], *, kind: str = "CLOSED_PLANAR", **elements: Any
) -> Dataset:
    """Make a structure set in the space of an image, with a region for each list of contours (points, 3), in mm."""
    own = {"StudyInstanceUID": source.StudyInstanceUID, "FrameOfReferenceUID": source.FrameOfReferenceUID}
    made = dataset(None, **{"SOPClassUID": RTSTRUCT, "Modality": "RTSTRUCT", "PatientID": source.PatientID, **own})
    made.StructureSetROISequence, made.ROIContourSequence = [], []
    for number, drawn in enumerate(contours, start=1):
        region, contoured = Dataset(), Dataset()
        region.ROINumber, region.ROIName, region.ROIGenerationAlgorithm = number, f"region {number}", "MANUAL"
        region.ReferencedFrameOfReferenceUID = source.FrameOfReferenceUID
        contoured.ReferencedROINumber, contoured.ContourSequence = number, []
        for points in drawn:
            contour = Dataset()
            contour.ContourGeometricType, contour.NumberOfContourPoints = kind, len(points)
            contour.ContourData = [f"{value:.6f}" for value in np.asarray(points).ravel()]
            contoured.ContourSequence.append(contour)
        made.StructureSetROISequence.append(region)
        made.ROIContourSequence.append(contoured)
    for keyword, value in elements.items():
        setattr(made, keyword, value)
    return made


def refers_to(made: Dataset, sources: Sequence[Dataset]) -> Dataset:
    """Add to each contour of the first region the image that it was drawn on."""
    for contour, source in zip(made.ROIContourSequence[0].ContourSequence, sources, strict=True):
        image = Dataset()
        image.ReferencedSOPClassUID, image.ReferencedSOPInstanceUID = source.SOPClassUID, source.SOPInstanceUID
        contour.ContourImageSequence = [image]
    return made


def circle(center: Sequence[float], radius: float, count: int = 400) -> np.ndarray:
    """Return the points of a circle in an axial plane, in mm."""
    angle = np.linspace(0, 2 * np.pi, count, endpoint=False)
    x, y, z = center
    return np.stack([x + radius * np.cos(angle), y + radius * np.sin(angle), np.full(count, z)], 1)


def as_bytes(made: Dataset) -> bytes:
    return to_bytes(made)
