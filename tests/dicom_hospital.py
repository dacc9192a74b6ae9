"""A synthetic hospital's PACS: studies with a canary in every text element, masks as DICOM SEGs."""

import csv
import io
import warnings
from pathlib import Path
from typing import NamedTuple

import highdicom
import numpy as np
from dicoms import dataset, dicom, to_bytes
from highdicom.seg import Segmentation, SegmentDescription
from PIL import Image
from pydicom import Dataset, dcmread, uid
from pydicom.sr.codedict import codes

from ynet.data import manifest
from ynet.data.synthetic import make_federation

CANARY = "CANARY^Zebedee"


class Pacs(NamedTuple):
    """Files to push, and the facts that tests compare with."""

    images: list[Path]
    segmentations: list[Path]
    labels: Path
    masks: dict[str, np.ndarray]  # by SOP instance UID, 0 and 1
    instances: list[str]


def names(**more: object) -> dict[str, object]:
    """Put a patient's name into every text element."""
    nested = Dataset()
    nested.PatientName, nested.TextComments = CANARY, CANARY
    inner = Dataset()
    inner.OperatorsName = CANARY
    nested.OtherPatientIDsSequence = [inner]
    return {
        "PatientName": CANARY,
        "PatientBirthDate": "19501231",
        "ReferringPhysicianName": CANARY,
        "OperatorsName": CANARY,
        "InstitutionName": CANARY,
        "StationName": CANARY[:16],
        "StudyDescription": CANARY,
        "SeriesDescription": CANARY,
        "ImageComments": CANARY,
        "ProtocolName": CANARY,
        "AccessionNumber": CANARY,
        "StudyID": CANARY,
        "BodyPartExamined": "CANARY ZEBEDEE",
        "ManufacturerModelName": CANARY,
        "DeviceSerialNumber": CANARY,
        "OtherPatientIDsSequence": [nested],
        "RequestAttributesSequence": [nested],
        "FrameOfReferenceUID": uid.generate_uid(),
        "ImageOrientationPatient": [1, 0, 0, 0, 1, 0],
        "PixelSpacing": [0.5, 0.5],
        "SliceThickness": "3",
        **more,
    }


def with_private(made: Dataset) -> Dataset:
    """Do the same, and add a name in a private block."""
    block = made.private_block(0x0029, CANARY, create=True)
    block.add_new(0x01, "LO", CANARY)
    return made


def make(folder: Path, images: int, size: int = 48) -> Pacs:
    """Make `images` of a synthetic hospital: a study for each patient, a SEG for each study with a lesion."""
    make_federation(folder / "drawn", {"A": images}, seed=3, size=size)
    cases = manifest.read(folder / "drawn/A/manifest.csv").cases
    made = Pacs([], [], folder / "labels.csv", {}, [])
    rows = []
    for number, patient in enumerate(sorted({case.patient for case in cases})):
        own = [case for case in cases if case.patient == patient]
        who = f"CANARY-{patient}"
        study = names(StudyInstanceUID=uid.generate_uid(), SeriesInstanceUID=uid.generate_uid(), PatientID=who)
        rows.append([who, own[0].label])
        sources, masks = [], []
        for place, case in enumerate(own):
            pixels, mask = (np.asarray(Image.open(folder / "drawn/A" / path)) for path in (case.image, case.mask))
            grey = pixels.astype(np.uint16) * 16 + 5
            values = {**study, "ImagePositionPatient": [0, 0, 3.0 * place], "InstanceNumber": place + 1}
            values |= {
                "SOPInstanceUID": uid.generate_uid(),
                "BitsStored": 12,
                "WindowCenter": 2048,
                "WindowWidth": 4096,
            }
            path = folder / f"CANARY-{number}-{place}.dcm"
            if number % 5:
                path.write_bytes(to_bytes(with_private(dataset(grey, **values))))
            else:
                path.write_bytes(dicom(grey, uid.JPEGLosslessSV1, **values))
            made.images.append(path)
            made.instances.append(str(values["SOPInstanceUID"]))
            made.masks[made.instances[-1]] = (mask > 0).astype(np.uint8)
            sources.append(dcmread(path))
            masks.append(mask > 0)
        path = folder / f"CANARY-{number}-seg.dcm"
        path.write_bytes(segmentation(sources, np.stack(masks)))
        made.segmentations.append(path)
    with made.labels.open("w", newline="") as file:
        csv.writer(file).writerows([["patient", "label"], *rows])
    return made


def segmentation(sources: list[Dataset], masks: np.ndarray, *, labels: int = 1, by: str = "MANUAL") -> bytes:
    """Make a DICOM SEG of bool (images, h, w), or of (images, h, w, segments); `by`: MANUAL, AUTOMATIC."""
    algorithm = highdicom.AlgorithmIdentificationSequence("x", codes.DCM.ArtificialIntelligence, "1")
    described = [
        SegmentDescription(
            number,
            CANARY,
            codes.SCT.MorphologicallyAbnormalStructure,
            codes.SCT.Lesion,
            by,
            algorithm_identification=None if by == "MANUAL" else algorithm,
        )
        for number in range(1, labels + 1)
    ]
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")  # of names that are none
        for one in sources:
            for keyword in ("PatientBirthDate", "PatientSex", "StudyID", "StudyTime", "AccessionNumber"):
                if keyword not in one:
                    setattr(one, keyword, "")
            one.ReferringPhysicianName = one.get("ReferringPhysicianName", "")
        made = Segmentation(
            sources,
            masks.astype(np.uint8),
            "BINARY",
            described,
            uid.generate_uid(),
            2,
            uid.generate_uid(),
            1,
            "reader",
            "reader",
            "1",
            "1",
            series_description=CANARY,
        )
    file = io.BytesIO()
    made.save_as(file, enforce_file_format=True)
    return file.getvalue()
