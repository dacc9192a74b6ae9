"""Detection of archive files by their first bytes."""

from ynet.data.dicom.faults import UnfitError

STARTS_IN = 262
"""Bytes that `kind` needs from the start of a file."""
ZIP = "ZIP archive"
_STARTS = {
    ZIP: (b"PK\x03\x04", b"PK\x05\x06", b"PK\x07\x08"),
    "gzip archive": (b"\x1f\x8b\x08",),
    "7z archive": (b"7z\xbc\xaf\x27\x1c",),
    "RAR archive": (b"Rar!\x1a\x07",),
    "xz archive": (b"\xfd7zXZ\0",),
    "bzip2 archive": (b"BZh1", b"BZh2", b"BZh3", b"BZh4", b"BZh5", b"BZh6", b"BZh7", b"BZh8", b"BZh9"),
    "Zstandard archive": (b"\x28\xb5\x2f\xfd",),
}


def kind(start: bytes) -> str:
    """Return the archive format of a file by its first bytes; empty where it is not an archive."""
    if start[257:262] == b"ustar":
        return "tar archive"
    return next((name for name, starts in _STARTS.items() if start.startswith(starts)), "")


def refuse(start: bytes) -> None:
    """Raise UnfitError if a file is an archive, by its first bytes."""
    if found := kind(start):
        raise UnfitError(f"it is a {found}, not an image", "unpack it, and name the images in it")
