"""Discovery of DICOM files in folders, in ZIP archives and on media with a DICOMDIR.

Files are recognised by their content, not by their name. Files that may hold images and cannot be opened are counted.
"""

import hashlib
from collections.abc import Callable, Iterator, Sequence
from itertools import count
from pathlib import Path
from typing import NamedTuple

from ynet.data import archives
from ynet.data.dicom import elements
from ynet.data.dicom.elements import is_dicom, items
from ynet.data.dicom.faults import UnfitError, parsing
from ynet.data.dicom.values import text
from ynet.data.limits import MAX_FILE_BYTES
from ynet.errors import UserError
from ynet_client.dicom import zip_files
from ynet_client.dicom.deidentify import HEADER

UNREADABLE, ARCHIVE, MISSING = "unreadable", "archive", "missing"
"""Reasons for which a file is skipped."""
_IDENTIFIERS = ("PatientID", "StudyInstanceUID", "SeriesInstanceUID", "SOPInstanceUID", "SOPClassUID")


class ImportCandidate(NamedTuple):
    """An object that may be imported, and a function that fetches its file."""

    patient: str
    study: str
    series: str
    instance: str
    sop_class: str
    fetch: Callable[[], bytes]
    unreadable: str = ""  # why its identifiers cannot be read; `instance` is then a running number
    digest: str = ""  # SHA-256 of its file, if known before the fetch
    reason: str = UNREADABLE  # the category of `unreadable`


def in_folders(paths: Sequence[Path]) -> Iterator[ImportCandidate]:
    """Yield the DICOM files in folders and their subfolders, in archives, and in a DICOMDIR. Raises UserError.

    Other files are skipped. A file that cannot be read is numbered, not named: its name may be a patient's.
    """
    numbers = count(1)
    for root in paths:
        if not root.exists():
            raise UserError(f"{root} cannot be imported", "there is no such file or folder", "check the path")
        for path in sorted(root.rglob("*")) if root.is_dir() else [root]:
            if path.is_file():
                yield from _in_path(path, numbers, is_named=path is root)
            elif path.is_symlink():
                yield _left_out(next(numbers), "it is a link to a folder or a broken link: name the folder", MISSING)


def _in_path(path: Path, numbers: Iterator[int], *, is_named: bool) -> Iterator[ImportCandidate]:
    try:
        with path.open("rb") as file:
            start = file.read(max(elements.STARTS_IN, archives.STARTS_IN))
    except OSError:
        yield _left_out(next(numbers), "you have no permission to read it, or it was removed")
        return
    kind = archives.kind(start)
    if kind == archives.ZIP:
        yield from _in_zip(path, numbers)
    elif kind:
        yield _left_out(next(numbers), f"it is a {kind}: unpack it, if it holds images", ARCHIVE)
    elif is_dicom(start):
        yield from _in_dicom(path, numbers, is_named=is_named)


def _in_dicom(path: Path, numbers: Iterator[int], *, is_named: bool) -> Iterator[ImportCandidate]:
    """Yield a DICOM file; for a DICOMDIR given by its own path, the files that it lists."""
    one, listed = _object(lambda: _read(path), numbers)
    if listed is None:
        yield one
        return
    for names in listed:
        other = _inside(path.parent, names)
        if other is None:
            yield _left_out(next(numbers), "a DICOMDIR lists it, and it is missing", MISSING)
        elif is_named:
            yield from _in_path(other, numbers, is_named=False)


def _inside(folder: Path, names: Sequence[str]) -> Path | None:
    """Find the file that a DICOMDIR lists, ignoring case; None where its folder has no such file."""
    found = folder
    for name in names:
        if name in ("", ".", "..") or "/" in name or "\0" in name:
            return None
        spellings = [found / name, found / name.lower(), found / f"{name}.dcm"]
        path = next((one for one in spellings if one.exists()), None)
        if path is None or path.is_symlink():
            return None
        found = path
    return found if found.is_file() else None


def _in_zip(path: Path, numbers: Iterator[int]) -> Iterator[ImportCandidate]:
    """Yield the DICOM files in a ZIP archive; archives inside it are not opened."""
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


def _object(read: Callable[[], bytes], numbers: Iterator[int]) -> tuple[ImportCandidate, list[list[str]] | None]:
    """Read an object's identifiers; for a DICOMDIR, the paths of the files that it lists."""
    number = next(numbers)
    try:
        data = read()
        if elements.is_directory(data):
            return _left_out(number, "it is a DICOMDIR"), _listed(data)
        header = elements.read(data, HEADER).dataset
        patient, study, series, instance, sop_class = (text(header, keyword) for keyword in _IDENTIFIERS)
        digest = hashlib.sha256(data).hexdigest()
        return ImportCandidate(patient, study, series, instance, sop_class, read, "", digest), None
    except (UnfitError, UserError) as error:
        return _left_out(number, error.why), None


@parsing()
def _listed(data: bytes) -> list[list[str]]:
    """Return the files that a DICOMDIR lists, each as the components of its path."""
    dataset = elements.read(data, ("DirectoryRecordSequence",)).dataset
    records = items(dataset, "DirectoryRecordSequence")
    return [named.split("\\") for one in records if (named := text(one, "ReferencedFileID"))]


def _left_out(number: int, why: str, reason: str = UNREADABLE) -> ImportCandidate:
    return ImportCandidate("", "", "", f"file {number} by name", "", bytes, why, "", reason)


def _read(path: Path) -> bytes:
    try:
        with path.open("rb") as file:
            data = file.read(MAX_FILE_BYTES + 1)
    except OSError:
        raise UserError("a file cannot be read", "it was removed, or you have no permission", "check it") from None
    if len(data) > MAX_FILE_BYTES:
        raise UserError("a file is too large", f"it has more than {MAX_FILE_BYTES >> 20} MiB", "export it smaller")
    return data
