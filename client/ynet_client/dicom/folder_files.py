"""The DICOM files in folders, in ZIP archives and on media with a DICOMDIR, as objects that may be imported.

They are known by their content, not by their name. What may hold images and cannot be looked into is counted.
"""

import hashlib
from collections.abc import Callable, Iterator, Sequence
from itertools import count
from pathlib import Path
from typing import NamedTuple

from ynet.data import archives
from ynet.data.dicom import elements
from ynet.data.dicom.elements import UnfitError, is_dicom, items, parsing
from ynet.data.dicom.values import text
from ynet.data.limits import MAX_FILE_BYTES
from ynet.errors import UserError
from ynet_client.dicom import zip_files
from ynet_client.dicom.deidentify import HEADER

UNREADABLE, ARCHIVE, MISSING = "unreadable", "archive", "missing"
"""Reasons for which a file is left out."""
_IDENTIFIERS = ("PatientID", "StudyInstanceUID", "SeriesInstanceUID", "SOPInstanceUID", "SOPClassUID")


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
    reason: str = UNREADABLE  # where it is unreadable: the word for it


def in_folders(places: Sequence[Path]) -> Iterator[Found]:
    """The DICOM files in folders and under them, in archives, or named by a DICOMDIR. Raises UserError.

    Files of another kind are passed over. One that cannot be read is counted, not named: its name may be a patient's.
    """
    numbers = count(1)
    for place in places:
        if not place.exists():
            raise UserError(f"{place} cannot be imported", "there is no such file or folder", "check the path")
        for path in sorted(place.rglob("*")) if place.is_dir() else [place]:
            if path.is_file():
                yield from _in_path(path, numbers, is_named=path is place)
            elif path.is_symlink():
                yield _left_out(next(numbers), "it is a link to a folder or to nothing: name the folder", MISSING)


def _in_path(path: Path, numbers: Iterator[int], *, is_named: bool) -> Iterator[Found]:
    try:
        with path.open("rb") as file:
            start = file.read(max(elements.STARTS_IN, archives.STARTS_IN))
    except OSError:
        yield _left_out(next(numbers), "its rights do not let you read it, or it is gone")
        return
    kind = archives.kind(start)
    if kind == archives.ZIP:
        yield from _in_zip(path, numbers)
    elif kind:
        yield _left_out(next(numbers), f"it is a {kind}: unpack it, if it holds images", ARCHIVE)
    elif is_dicom(start):
        yield from _in_dicom(path, numbers, is_named=is_named)


def _in_dicom(path: Path, numbers: Iterator[int], *, is_named: bool) -> Iterator[Found]:
    """A DICOM file; of a DICOMDIR those that it names, unless the folder is looked through anyway."""
    one, listed = _object(lambda: _read(path), numbers)
    if listed is None:
        yield one
        return
    for names in listed:
        other = _inside(path.parent, names)
        if other is None:
            yield _left_out(next(numbers), "a DICOMDIR names it, and it is not there", MISSING)
        elif is_named:
            yield from _in_path(other, numbers, is_named=False)


def _inside(folder: Path, names: Sequence[str]) -> Path | None:
    """The file that a DICOMDIR names, in any case of letters; None where there is none in its folder."""
    place = folder
    for name in names:
        if name in ("", ".", "..") or "/" in name or "\0" in name:
            return None
        wanted = [place / name, place / name.lower(), place / f"{name}.dcm"]
        found = next((one for one in wanted if one.exists()), None)
        if found is None or found.is_symlink():
            return None
        place = found
    return place if place.is_file() else None


def _in_zip(path: Path, numbers: Iterator[int]) -> Iterator[Found]:
    """The DICOM files in a ZIP archive; those of archives in it are not looked for."""
    try:
        for start, read in zip_files.members(path):
            if is_dicom(start):
                one, listed = _object(read, numbers)
                if listed is None:  # the files of a DICOMDIR are in the archive
                    yield one
            elif kind := archives.kind(start):
                yield _left_out(next(numbers), f"it is a {kind} in a ZIP archive: unpack it, if it has images", ARCHIVE)
            elif not start:
                yield _left_out(next(numbers), "it cannot be read in its ZIP archive: damaged, or encrypted", ARCHIVE)
    except UnfitError as error:
        yield _left_out(next(numbers), error.why, ARCHIVE)


def _object(read: Callable[[], bytes], numbers: Iterator[int]) -> tuple[Found, list[list[str]] | None]:
    """An object by its identifiers; of a DICOMDIR the names of the files in it."""
    number = next(numbers)
    try:
        data = read()
        if elements.is_directory(data):
            return _left_out(number, "it is a DICOMDIR"), _listed(data)
        header = elements.read(data, HEADER).dataset
        patient, study, series, instance, sop_class = (text(header, keyword) for keyword in _IDENTIFIERS)
        digest = hashlib.sha256(data).hexdigest()
        return Found(patient, study, series, instance, sop_class, read, "", digest), None
    except (UnfitError, UserError) as error:
        return _left_out(number, error.why), None


@parsing()
def _listed(data: bytes) -> list[list[str]]:
    """The files that a DICOMDIR names, as the parts of their paths."""
    dataset = elements.read(data, ("DirectoryRecordSequence",)).dataset
    records = items(dataset, "DirectoryRecordSequence")
    return [named.split("\\") for one in records if (named := text(one, "ReferencedFileID"))]


def _left_out(number: int, why: str, reason: str = UNREADABLE) -> Found:
    return Found("", "", "", f"file {number} by name", "", bytes, why, "", reason)


def _read(path: Path) -> bytes:
    try:
        with path.open("rb") as file:
            data = file.read(MAX_FILE_BYTES + 1)
    except OSError:
        raise UserError("a file cannot be read", "it is gone, or its rights do not let you", "check it") from None
    if len(data) > MAX_FILE_BYTES:
        raise UserError("a file is too large", f"it has more than {MAX_FILE_BYTES >> 20} MiB", "export it smaller")
    return data
