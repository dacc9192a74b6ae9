"""De-identification: an allow-list of tags, keyed pseudonyms, and a quarantine for images that need a review."""

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


class AllowedTag(NamedTuple):
    """A DICOM tag that becomes a column of the manifest, limited to fixed terms or numbers: no free text passes."""

    column: str
    rule: str
    made: Callable[[Dataset, str], str]


def _one_of(terms: frozenset[str]) -> Callable[[Dataset, str], str]:
    return lambda header, keyword: found if (found := text(header, keyword)) in terms else ""


def _number(header: Dataset, keyword: str) -> str:
    """Return an element's first number to three digits; empty where it has none."""
    first = next(iter(numbers(header, keyword)), None)
    return "" if first is None else f"{first:.3g}"


ALLOWED: Mapping[str, AllowedTag] = {
    "Modality": AllowedTag("modality", f"one of {len(MODALITIES)} terms", _one_of(MODALITIES)),
    "BodyPartExamined": AllowedTag("body_part", f"one of {len(BODY_PARTS)} terms", _one_of(BODY_PARTS)),
    "MagneticFieldStrength": AllowedTag("field_t", "a number", _number),
    "SliceThickness": AllowedTag("slice_mm", "a number", _number),
    "PixelSpacing": AllowedTag("pixel_mm", "a number, the first", _number),
}
"""Everything that an import keeps of a file besides its pixels."""

Dates = Literal["none", "year", "month"]
HEADER = (
    *("PatientID", "StudyInstanceUID", "SeriesInstanceUID", "SOPInstanceUID", "SOPClassUID", "StudyDate"),
    *("BurnedInAnnotation", "RecognizableVisualFeatures", "ImageType", "ConversionType", "NumberOfFrames"),
    *("Rows", "PixelRepresentation"),
    *ALLOWED,
)
"""The elements that decide whether and how a file is imported."""


def kept(header: Dataset, dates: Dates) -> dict[str, str]:
    """Return the manifest's columns for a file by the allow-list, with a coarse `date` unless `dates` is none."""
    made = {one.column: one.made(header, keyword) for keyword, one in ALLOWED.items()}
    if dates == "none":
        return made
    day = text(header, "StudyDate")
    is_day = len(day) == 8 and day.isascii() and day.isdigit() and "01" <= day[4:6] <= "12"
    coarse = f"{day[:4]}-{day[4:6] if dates == 'month' else '01'}-01"
    return {**made, "date": coarse if is_day and day[:4] != "0000" else ""}


class Pseudonyms:
    """Pseudonyms by HMAC-SHA-256: without the key nobody can compute them or test a guessed name."""

    def __init__(self, key: bytes) -> None:
        self._key = key

    @classmethod
    def of(cls, folder: Path) -> "Pseudonyms":
        """Load the key from a folder; create it at first use. Whoever has the key can test guessed names."""
        return cls(private_files.secret_in(folder / SECRET))

    def patient(self, patient: str, study: str) -> str:
        """Return a patient's pseudonym, the same for all studies. A file without a patient id is named by its study."""
        plain = plain_text(patient)
        return "P" + (self._made("patient", plain) if plain else self._made("study", study))[:16]

    def image(self, instance: str, frame: int | None) -> str:
        """Return the name of an image, or of one of its frames."""
        return self._made("image", instance if frame is None else f"{instance}#{frame}")[:24]

    def _made(self, kind: str, name: str) -> str:
        return hmac.new(self._key, f"{kind}\0{name}".encode(), hashlib.sha256).hexdigest()


def known_as(folder: Path, patient: str) -> list[str]:
    """Return the forms under which a site may have stored a patient: the id in each Unicode form, and the pseudonym.

    The pseudonym is included if `folder` holds the key.
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
"""Reasons for which an object is not imported until a person has reviewed it, with their explanations."""
_OFTEN_BURNED_IN = frozenset(("US", "ECHO", "IVUS", "ES", "GM", "XC", "OP", "OT", "SC", "DG", "PX", "HC", "DOC", ""))
_SCREENS = ("SCREEN SAVE", "SCREENSAVE", "SCREEN CAPTURE", "DOSE INFO", "DOSE_INFO", "PATIENT PROTOCOL", "PROTOCOL")
_SECONDARY = "1.2.840.10008.5.1.4.1.1.7"
_NO_IMAGE = tuple(f"1.2.840.10008.5.1.4.1.1.{kind}" for kind in ("88", "104", "11", "9", "66", "481", "200", "68"))
_STILL_IMAGES = ("1.2.840.10008.5.1.4.1.1.481.1",)


def not_an_image(sop_class: str) -> bool:
    """Return whether a SOP class holds documents, reports, waveforms or the like. A DICOM SEG is not one of them."""
    if sop_class in (*segmentation.SEGMENTATIONS, *_STILL_IMAGES):
        return False
    return any(sop_class == kind or sop_class.startswith(f"{kind}.") for kind in _NO_IMAGE)


def quarantine(header: Dataset) -> str | None:
    """Return the key of QUARANTINE for which a person must review a file first; None if it may be imported."""
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
