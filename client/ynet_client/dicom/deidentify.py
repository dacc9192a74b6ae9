"""What of a DICOM file may leave the PACS: an allow-list, keyed pseudonyms, and what must be looked at first."""

import hashlib
import hmac
import unicodedata
from collections.abc import Callable, Mapping
from pathlib import Path
from typing import Literal, NamedTuple

from pydicom.dataset import Dataset

from ynet.data.dicom import segmentation
from ynet.data.dicom.character_sets import plain_text
from ynet.data.dicom.values import numbers, text
from ynet.runtime import private_files

SECRET = "import.secret"  # noqa: S105 (a file's name)

MODALITIES = frozenset(
    (
        *("CR", "CT", "DG", "DX", "ECHO", "ES", "GM", "HC", "IO", "IVOCT", "IVUS", "MG", "MR", "NM", "OAM", "OCT"),
        *("OP", "OPM", "OPT", "PT", "PX", "RF", "RG", "SM", "TG", "US", "VL", "XA", "XC"),
    )
)
BODY_PARTS = frozenset(
    (
        *("ABDOMEN", "ANKLE", "BRAIN", "BREAST", "CHEST", "ELBOW", "EXTREMITY", "EYE", "FOOT", "HAND", "HEAD"),
        *("HEART", "HIP", "KIDNEY", "KNEE", "LIVER", "LUNG", "NECK", "PANCREAS", "PELVIS", "PROSTATE", "SHOULDER"),
        *("SKULL", "SPINE", "THYROID", "UTERUS", "WHOLEBODY", "WRIST"),
    )
)


class Kept(NamedTuple):
    """A tag that survives, as a column of the manifest; what it may say, so that no text of the file gets through."""

    column: str
    rule: str
    made: Callable[[Dataset, str], str]


def _one_of(terms: frozenset[str]) -> Callable[[Dataset, str], str]:
    return lambda header, keyword: found if (found := text(header, keyword)) in terms else ""


def _number(header: Dataset, keyword: str) -> str:
    """The first number, three digits of it; empty where it is none."""
    first = next(iter(numbers(header, keyword)), None)
    return "" if first is None else f"{first:.3g}"


ALLOWED: Mapping[str, Kept] = {
    "Modality": Kept("modality", f"one of {len(MODALITIES)} terms", _one_of(MODALITIES)),
    "BodyPartExamined": Kept("body_part", f"one of {len(BODY_PARTS)} terms", _one_of(BODY_PARTS)),
    "MagneticFieldStrength": Kept("field_t", "a number", _number),
    "SliceThickness": Kept("slice_mm", "a number", _number),
    "PixelSpacing": Kept("pixel_mm", "a number, the first", _number),
}
"""All of a file that an import keeps beside its pixels."""

Dates = Literal["none", "year", "month"]
HEADER = (
    *("PatientID", "StudyInstanceUID", "SeriesInstanceUID", "SOPInstanceUID", "SOPClassUID", "StudyDate"),
    *("BurnedInAnnotation", "RecognizableVisualFeatures", "ImageType", "ConversionType", "NumberOfFrames"),
    *("Rows", "PixelRepresentation"),
    *ALLOWED,
)
"""What is read of a file to decide what becomes of it."""


def kept(header: Dataset, dates: Dates) -> dict[str, str]:
    """The manifest's columns that the allow-list makes of a file; `date`, coarse, where it is asked for."""
    made = {one.column: one.made(header, keyword) for keyword, one in ALLOWED.items()}
    if dates == "none":
        return made
    day = text(header, "StudyDate")
    is_day = len(day) == 8 and day.isascii() and day.isdigit() and "01" <= day[4:6] <= "12"
    coarse = f"{day[:4]}-{day[4:6] if dates == 'month' else '01'}-01"
    return {**made, "date": coarse if is_day and day[:4] != "0000" else ""}


class Pseudonyms:
    """Names in place of those of a PACS, by HMAC-SHA-256: without the key they cannot be made, nor tried out."""

    def __init__(self, key: bytes) -> None:
        self._key = key

    @classmethod
    def of(cls, folder: Path) -> "Pseudonyms":
        """With the key in a folder, made at first use; who has it can tell whether a name is some patient's."""
        return cls(private_files.secret_in(folder / SECRET))

    def patient(self, patient: str, study: str) -> str:
        """The same for all studies of a patient; where the file names none, each study is a patient's."""
        plain = plain_text(patient)
        return "P" + (self._made("patient", plain) if plain else self._made("study", study))[:16]

    def image(self, instance: str, frame: int | None) -> str:
        """The name of an image, or of one frame of several."""
        return self._made("image", instance if frame is None else f"{instance}#{frame}")[:24]

    def _made(self, kind: str, name: str) -> str:
        return hmac.new(self._key, f"{kind}\0{name}".encode(), hashlib.sha256).hexdigest()


def known_as(folder: Path, patient: str) -> list[str]:
    """A patient's id, however its characters are composed, and the pseudonym that an import has put in its place.

    The pseudonym is there where the key in `folder` is.
    """
    plain = plain_text(patient)
    written = dict.fromkeys([patient, plain, unicodedata.normalize("NFD", plain)]) if plain else [patient]
    imported = [Pseudonyms.of(folder).patient(patient, "")] if (folder / SECRET).exists() and plain else []
    return [*written, *imported]


QUARANTINE: Mapping[str, str] = {
    "burned-in": "its file says that text is burned into its pixels",
    "burned-in-unknown": "its kind of image often has text in its pixels, and its file does not say that it has none",
    "secondary-capture": "it is a secondary capture: a picture of a screen, a scan of paper",
    "screen-save": "it is a screen save, a dose sheet or a protocol",
    "recognizable": "its file says that the patient may be recognised in it",
    "not-an-image": "it is a document, a report or another object without an image",
}
"""Why an object is not imported until somebody has looked at it: each reason's word, and what it means."""
_OFTEN_BURNED_IN = frozenset(("US", "ECHO", "IVUS", "ES", "GM", "XC", "OP", "OT", "SC", "DG", "PX", "HC", "DOC", ""))
_SCREENS = ("SCREEN SAVE", "SCREENSAVE", "SCREEN CAPTURE", "DOSE INFO", "DOSE_INFO", "PATIENT PROTOCOL", "PROTOCOL")
_SECONDARY = "1.2.840.10008.5.1.4.1.1.7"
_NO_IMAGE = tuple(f"1.2.840.10008.5.1.4.1.1.{kind}" for kind in ("88", "104", "11", "9", "66", "481", "200", "68"))
_STILL_IMAGES = ("1.2.840.10008.5.1.4.1.1.481.1",)


def not_an_image(sop_class: str) -> bool:
    """Whether objects of a SOP class are documents, reports, waveforms or the like; a DICOM SEG is none of them."""
    if sop_class in (*segmentation.SEGMENTATIONS, *_STILL_IMAGES):
        return False
    return any(sop_class == kind or sop_class.startswith(f"{kind}.") for kind in _NO_IMAGE)


def quarantine(header: Dataset) -> str | None:
    """Why a file must be looked at before it is imported: a key of QUARANTINE; None where nothing speaks against."""
    sop_class, modality = str(header.get("SOPClassUID", "")), str(header.get("Modality", "")).strip()
    types = [str(part).strip().upper() for part in _values(header.get("ImageType"))]
    burned_in = str(header.get("BurnedInAnnotation", "")).strip().upper()
    if not_an_image(sop_class) or "Rows" not in header:
        return "not-an-image"
    if burned_in not in ("", "NO"):
        return "burned-in"
    if sop_class == _SECONDARY or sop_class.startswith(f"{_SECONDARY}.") or header.get("ConversionType"):
        return "secondary-capture"
    if any(screen in part for part in types for screen in _SCREENS):
        return "screen-save"
    if str(header.get("RecognizableVisualFeatures", "")).strip().upper() == "YES":
        return "recognizable"
    if burned_in == "" and modality in _OFTEN_BURNED_IN:
        return "burned-in-unknown"
    return None


def _values(found: object) -> list[object]:
    return list(found) if hasattr(found, "append") else [found or ""]  # type: ignore[call-overload]
