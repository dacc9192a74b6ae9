"""The files in a ZIP archive, one at a time, within bounds on their number and unpacked size."""

import struct
import zipfile
import zlib
from collections.abc import Callable, Iterator
from functools import partial
from pathlib import Path

from ynet.data.archives import STARTS_IN
from ynet.data.dicom.faults import UnfitError, damaged
from ynet.data.limits import MAX_FILE_BYTES
from ynet.errors import UserError

MAX_LIST_BYTES = 32 << 20
"""Of an archive's directory: about 300,000 files."""
MAX_TIMES = 200
"""An archive may unpack to this many times its own size, or to FREE_BYTES if that is more."""
FREE_BYTES = 4 << 30
_FAULTS = (zipfile.BadZipFile, zlib.error, OSError, EOFError, RuntimeError, ValueError, struct.error, LookupError)
_IS_ENCRYPTED = 0x1


def members(path: Path) -> Iterator[tuple[bytes, Callable[[], bytes]]]:
    """Yield the first bytes of each file, in the archive's order, and a function that reads it.

    The first bytes are empty where the file cannot be read. Nothing is written, and no name in the archive is used. The
    archive stays open while one of the functions exists. Raises UnfitError where it is damaged or too large.
    """
    try:
        with path.open("rb") as file:
            size, listed = path.stat().st_size, _list_bytes(file.read, file.seek, path.stat().st_size)
        if listed > MAX_LIST_BYTES:
            raise UnfitError("it is a ZIP archive with too many files", "split it into several archives")
        archive = zipfile.ZipFile(path)
    except _FAULTS:
        raise UnfitError("it is a damaged ZIP archive", "copy or export it again") from None
    left = max(FREE_BYTES, MAX_TIMES * size)
    for member in archive.infolist():
        if member.is_dir() or member.file_size == 0:
            continue
        left -= member.file_size
        if left < 0:
            raise UnfitError("it is a ZIP archive that unpacks to too many bytes", "unpack it, and name the folder")
        yield _start(archive, member), partial(_whole, archive, member)


def _list_bytes(read: Callable[[int], bytes], seek: Callable[[int], int], size: int) -> int:
    """Return the size of the archive's directory by its end record, which is located as in `zipfile`."""
    seek(max(0, size - (1 << 16) - 1024))
    tail = read((1 << 16) + 1024)
    wide, plain = tail.rfind(b"PK\x06\x06"), tail.rfind(b"PK\x05\x06")
    if plain < 0:
        raise EOFError
    size_bytes: int = struct.unpack_from("<I", tail, plain + 12)[0]
    is_zip64 = size_bytes == 0xFFFFFFFF and wide >= 0
    return int(struct.unpack_from("<Q", tail, wide + 40)[0]) if is_zip64 else size_bytes


def _start(archive: zipfile.ZipFile, member: zipfile.ZipInfo) -> bytes:
    if member.flag_bits & _IS_ENCRYPTED:
        return b""
    try:
        with archive.open(member) as file:
            return file.read(STARTS_IN)
    except _FAULTS:
        return b""


def _whole(archive: zipfile.ZipFile, member: zipfile.ZipInfo) -> bytes:
    """Read a file's bytes. Raises UserError where it is too large, UnfitError where it is damaged."""
    try:
        with archive.open(member) as file:
            data = file.read(MAX_FILE_BYTES + 1)
    except _FAULTS:
        raise damaged() from None
    if len(data) > MAX_FILE_BYTES:
        raise UserError("a file is too large", f"it has more than {MAX_FILE_BYTES >> 20} MiB", "export it smaller")
    return data
