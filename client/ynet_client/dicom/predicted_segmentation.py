"""A predicted mask as a DICOM SEG that refers to its image, for export to the PACS."""

import datetime as dt
import io
import uuid
from collections.abc import Sequence
from importlib.metadata import version

import highdicom
import numpy as np
import pydicom
from highdicom.seg import Segmentation, SegmentDescription
from jaxtyping import UInt8
from PIL import Image
from pydicom.dataset import Dataset
from pydicom.sr.codedict import codes

from ynet.data.dicom import elements
from ynet.data.dicom import frame as dicom_frame
from ynet.data.dicom.elements import items
from ynet.data.dicom.faults import UnfitError, damaged, parsing
from ynet.data.regions import unpacked
from ynet.errors import UserError

LABEL = "Lesion (predicted)"
_EMPTY_AT_LEAST = (
    *("PatientID", "PatientName", "PatientBirthDate", "PatientSex", "StudyID", "StudyDate", "StudyTime"),
    *("AccessionNumber", "ReferringPhysicianName"),
)
_GEOMETRY = {
    "PlanePositionSequence": ("ImagePositionPatient",),
    "PlaneOrientationSequence": ("ImageOrientationPatient",),
    "PixelMeasuresSequence": ("PixelSpacing", "SliceThickness", "SpacingBetweenSlices"),
}


def read_mask(png: bytes, regions: Sequence[str] = ()) -> UInt8[np.ndarray, "h w"]:
    """Read a mask's picture: 1 where it is not black; with several regions bit k is set where region k is."""
    values = np.asarray(Image.open(io.BytesIO(png)))
    return values if regions else (values > 0).astype(np.uint8)


def of_file(
    source: bytes,
    frame: int | None,
    mask: UInt8[np.ndarray, "h w"],
    model_id: str,
    plan: str,
    now: dt.datetime,
    regions: Sequence[str] = (),
) -> bytes:
    """Make a SEG as `make` does; `frame` is ignored for a file of one frame. Raises UserError instead of UnfitError."""
    try:
        chosen = (frame or 1) if dicom_frame.frames(source) > 1 else None
        return make(source, chosen, mask, model_id, plan, now, regions)
    except UnfitError as error:
        raise UserError("no DICOM SEG can be made of the image", error.why, error.do) from None


@parsing()
def make(
    source: bytes,
    frame: int | None,
    mask: UInt8[np.ndarray, "h w"],
    model_id: str,
    plan: str,
    now: dt.datetime,
    regions: Sequence[str] = (),
) -> bytes:
    """Make a SEG file with one segment, the pixels of 1 in `mask`, for an image file or one of its frames.

    Patient and study are those of the image, since the SEG goes back to the same PACS. The same image and model always
    give the same UIDs. With several named regions, bit k of `mask` is region k, and each has a segment with its name as
    the label. Raises UnfitError when the image's file cannot be used.
    """
    image = _one_frame(pydicom.dcmread(io.BytesIO(elements.plain(source)), stop_before_pixels=True), frame)
    if "Rows" not in image:  # a file that was cut between two elements is read without a complaint
        raise damaged()
    if "FrameOfReferenceUID" not in image and str(image.get("Modality", "")) in ("MR", "CT", "PT", "NM"):
        raise UnfitError("it has no frame of reference", "export it again, with its geometry")
    made = Segmentation(
        source_images=[image],
        pixel_array=np.moveaxis(unpacked(mask, len(regions)), 0, -1)[None] if regions else mask,
        segmentation_type="BINARY",
        segment_descriptions=_described(model_id, regions),
        series_instance_uid=_uid("series", image, frame, model_id),
        series_number=9000,
        sop_instance_uid=_uid("instance", image, frame, model_id),
        instance_number=1,
        manufacturer="ynet",
        manufacturer_model_name=plan,
        software_versions=version("ynet"),
        device_serial_number=model_id,
        series_description="ynet: Regions (predicted)" if regions else f"ynet: {LABEL}",
        content_label="YNET",
        omit_empty_frames=False,
    )
    for keyword in ("Series", "Content", "InstanceCreation"):
        setattr(made, f"{keyword}Date", now.strftime("%Y%m%d"))
        setattr(made, f"{keyword}Time", now.strftime("%H%M%S"))
    if frame is not None:
        _name_frame(made, frame)
    file = io.BytesIO()
    made.save_as(file, enforce_file_format=True)
    return file.getvalue()


def _described(model_id: str, regions: Sequence[str]) -> list[SegmentDescription]:
    """Describe the segments. What a named region is, the plan does not say, so it has a general code."""
    algorithm = highdicom.AlgorithmIdentificationSequence(
        name="ynet", version=version("ynet"), family=codes.DCM.ArtificialIntelligence, parameters={"model": model_id}
    )
    lesion = (codes.SCT.MorphologicallyAbnormalStructure, codes.SCT.Lesion)
    category, kind = (codes.SCT.SpatialAndRelationalConcept, codes.DCM.ImageRegion) if regions else lesion
    return [
        SegmentDescription(
            segment_number=number,
            segment_label=label,
            segmented_property_category=category,
            segmented_property_type=kind,
            algorithm_type="AUTOMATIC",
            algorithm_identification=algorithm,
        )
        for number, label in enumerate(regions or (LABEL,), start=1)
    ]


def _one_frame(image: Dataset, frame: int | None) -> Dataset:
    """Reduce an image to one frame, with that frame's position in the patient."""
    for keyword in _EMPTY_AT_LEAST:
        if keyword not in image:
            setattr(image, keyword, "")
    if frame is None:
        return image
    groups = [*items(image, "SharedFunctionalGroupsSequence")]
    groups += list(items(image, "PerFrameFunctionalGroupsSequence"))[frame - 1 : frame]
    for keyword, element in _placed(groups).items():
        setattr(image, keyword, element)
    for keyword in ("NumberOfFrames", "SharedFunctionalGroupsSequence", "PerFrameFunctionalGroupsSequence"):
        if keyword in image:
            delattr(image, keyword)
    return image


def _placed(groups: Sequence[Dataset]) -> dict[str, object]:
    """Return a frame's position in the patient by its functional groups; later groups override earlier ones."""
    return {
        keyword: macro.get(keyword)
        for group in groups
        for sequence, keywords in _GEOMETRY.items()
        for macro in items(group, sequence)
        for keyword in keywords
        if keyword in macro
    }


def _name_frame(made: Dataset, frame: int) -> None:
    for group in items(made, "PerFrameFunctionalGroupsSequence"):
        for derivation in items(group, "DerivationImageSequence"):
            for source in items(derivation, "SourceImageSequence"):
                source.ReferencedFrameNumber = frame


def _uid(kind: str, image: Dataset, frame: int | None, model_id: str) -> str:
    name = f"ynet {kind} {image.SOPInstanceUID} {frame or 1} {model_id}"
    return f"2.25.{uuid.uuid5(uuid.NAMESPACE_OID, name).int}"
