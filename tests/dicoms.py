"""DICOM files of synthetic images, in every encoding that a PACS may hold."""

import io
import subprocess
import tempfile
from collections.abc import Mapping
from pathlib import Path
from typing import Any

import numpy as np
from needs import needed
from pydicom import dcmwrite, uid
from pydicom.dataset import Dataset, FileDataset, FileMetaDataset

UNCOMPRESSED = (
    uid.ImplicitVRLittleEndian,
    uid.ExplicitVRLittleEndian,
    uid.ExplicitVRBigEndian,
    uid.DeflatedExplicitVRLittleEndian,
)
LOSSLESS = (
    uid.RLELossless,
    uid.JPEGLSLossless,
    uid.JPEG2000Lossless,
    uid.JPEGLossless,
    uid.JPEGLosslessSV1,
)
LOSSY = (uid.JPEGBaseline8Bit, uid.JPEGLSNearLossless, uid.JPEG2000)
DCMTK = {
    uid.RLELossless: ["dcmcrle"],
    uid.JPEGLSLossless: ["dcmcjpls"],
    uid.JPEGLSNearLossless: ["dcmcjpls", "+en"],
    uid.JPEGLossless: ["dcmcjpeg", "+el"],
    uid.JPEGLosslessSV1: ["dcmcjpeg", "+e1"],
    uid.JPEGBaseline8Bit: ["dcmcjpeg", "+eb", "+q", "95"],
}
MR, SECONDARY, PDF = uid.MRImageStorage, uid.SecondaryCaptureImageStorage, uid.EncapsulatedPDFStorage


def dicom(
    pixels: np.ndarray | None,
    syntax: str = uid.ExplicitVRLittleEndian,
    *,
    kind: str = "MONOCHROME2",
    frames: bool = False,
    **elements: Any,
) -> bytes:
    """Encode a file of grey (h, w) or colour (h, w, 3), or several with `frames`; other elements by keyword."""
    if syntax in DCMTK:
        return _by_dcmtk(dataset(pixels, kind=kind, frames=frames, **elements), uid.UID(syntax))
    return to_bytes(dataset(pixels, syntax, kind=kind, frames=frames, **elements))


def dataset(
    pixels: np.ndarray | None,
    syntax: str = uid.ExplicitVRLittleEndian,
    *,
    kind: str = "MONOCHROME2",
    frames: bool = False,
    **elements: Any,
) -> FileDataset:
    """Make the data set of the same file."""
    made = FileDataset("", {}, file_meta=FileMetaDataset(), preamble=bytes(128))
    values: Mapping[str, Any] = {
        "SOPClassUID": MR,
        "SOPInstanceUID": uid.generate_uid(),
        "StudyInstanceUID": uid.generate_uid(),
        "SeriesInstanceUID": uid.generate_uid(),
        "Modality": "MR",
        "PatientID": "P1",
        "PatientName": "Nobody",
        "StudyDate": "20240517",
        **elements,
    }
    for keyword, value in values.items():
        setattr(made, keyword, value)
    made.file_meta.TransferSyntaxUID = uid.UID(syntax)
    made.file_meta.MediaStorageSOPClassUID = made.SOPClassUID
    made.file_meta.MediaStorageSOPInstanceUID = made.SOPInstanceUID
    if pixels is not None:
        _put(made, pixels, uid.UID(syntax), kind, frames, elements)
    return made


def to_bytes(made: Dataset) -> bytes:
    file = io.BytesIO()
    syntax = made.file_meta.TransferSyntaxUID
    order = {"implicit_vr": False, "little_endian": False} if syntax == uid.ExplicitVRBigEndian else {}
    dcmwrite(file, made, enforce_file_format=True, **order)
    return file.getvalue()


def _put(
    made: FileDataset, pixels: np.ndarray, syntax: uid.UID, kind: str, frames: bool, elements: Mapping[str, Any]
) -> None:
    is_colour = pixels.shape[-1] == 3 and pixels.ndim == 3 + frames
    made.Rows, made.Columns = pixels.shape[1:3] if frames else pixels.shape[:2]
    made.SamplesPerPixel, made.PhotometricInterpretation = (3 if is_colour else 1), kind
    if is_colour:
        made.PlanarConfiguration = elements.get("PlanarConfiguration", 0)
    if frames:
        made.NumberOfFrames = len(pixels)
    made.BitsAllocated = elements.get("BitsAllocated", 8 * pixels.dtype.itemsize)
    made.BitsStored = elements.get("BitsStored", made.BitsAllocated)
    made.HighBit = elements.get("HighBit", made.BitsStored - 1)
    made.PixelRepresentation = int(pixels.dtype.kind == "i")
    single = list(pixels) if frames else [pixels]
    if syntax in UNCOMPRESSED:
        order = ">" if syntax == uid.ExplicitVRBigEndian else "<"
        raw = pixels.astype(pixels.dtype.newbyteorder(order)).tobytes()
        made["PixelData"] = _element(made, raw + bytes(len(raw) % 2))
        return
    made["PixelData"] = _element(made, b"".join(one.tobytes() for one in single))
    made.file_meta.TransferSyntaxUID = uid.ExplicitVRLittleEndian
    made.compress(syntax, generate_instance_uid=False, **({"j2k_psnr": [60]} if syntax == uid.JPEG2000 else {}))


def _element(made: FileDataset, raw: bytes) -> Any:
    made.PixelData = raw
    made["PixelData"].VR = "OW" if made.BitsAllocated == 16 else "OB"
    if made.file_meta.TransferSyntaxUID.is_implicit_VR:
        made["PixelData"].VR = "OW"
    return made["PixelData"]


def _by_dcmtk(made: FileDataset, syntax: uid.UID) -> bytes:
    """Encode with DCMTK, a different library from the one that reads."""
    coder, *flags = DCMTK[syntax]
    with tempfile.TemporaryDirectory() as folder:
        plain, coded = Path(folder) / "plain.dcm", Path(folder) / "coded.dcm"
        plain.write_bytes(to_bytes(made))
        subprocess.run([needed(coder), *flags, plain, coded], check=True, capture_output=True)
        return coded.read_bytes()
