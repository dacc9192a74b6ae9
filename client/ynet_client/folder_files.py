"""The DICOM files in folders, as objects that may be imported."""

import contextlib
import hashlib
from collections.abc import Callable, Iterator, Sequence
from pathlib import Path
from typing import NamedTuple

from ynet.data import dicom_elements
from ynet.data.dicom_elements import UnfitError, starts_as_dicom
from ynet.data.limits import MAX_FILE_BYTES
from ynet.errors import UserError
from ynet_client.deidentify import HEADER


class Found(NamedTuple):
    """An object that may be imported, and where its file comes from."""

    patient: str
    study: str
    series: str
    instance: str
    sop_class: str
    fetch: Callable[[], bytes]
    unreadable: str = ""  # why its identifiers cannot be read; `instance` then counts the files
    digest: str = ""  # SHA-256 of its file, where that is known before it is fetched


def in_folders(places: Sequence[Path]) -> Iterator[Found]:
    """The DICOM files in folders and under them; other files are passed over. Raises UserError."""
    number = 0
    for place in places:
        if not place.exists():
            raise UserError(f"{place} cannot be imported", "there is no such file or folder", "check the path")
        for path in sorted(place.rglob("*")) if place.is_dir() else [place]:
            if path.is_file() and _starts_as_dicom(path):
                number += 1
                yield _in_file(path, number)


def _starts_as_dicom(path: Path) -> bool:
    with contextlib.suppress(OSError), path.open("rb") as file:
        return starts_as_dicom(file)
    return False


def _in_file(path: Path, number: int) -> Found:
    """A DICOM file's identifiers. One that cannot be read is counted, not named: its name may be a patient's."""

    def fetch() -> bytes:
        try:
            with path.open("rb") as file:
                data = file.read(MAX_FILE_BYTES + 1)
        except OSError:
            raise UserError("a file cannot be read", "it is gone, or its rights do not let you", "check it") from None
        if len(data) > MAX_FILE_BYTES:
            raise UserError("a file is too large", f"it has more than {MAX_FILE_BYTES >> 20} MiB", "export it smaller")
        return data

    try:
        data = fetch()
        header = dicom_elements.read(data, HEADER).dataset
        keywords = ("PatientID", "StudyInstanceUID", "SeriesInstanceUID", "SOPInstanceUID", "SOPClassUID")
        patient, study, series, instance, sop_class = (str(header.get(keyword) or "").strip() for keyword in keywords)
        return Found(patient, study, series, instance, sop_class, fetch, "", hashlib.sha256(data).hexdigest())
    except (UnfitError, UserError) as error:
        return Found("", "", "", f"file {number} by name", "", fetch, error.why)
