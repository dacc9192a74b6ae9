"""Files that hold other files, known by how they begin."""

from ynet.data.dicom.elements import UnfitError

STARTS_IN = 262
"""Bytes of a file by which `kind` knows it."""
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
    """What archive begins so; empty where it is none."""
    if start[257:262] == b"ustar":
        return "tar archive"
    return next((name for name, starts in _STARTS.items() if start.startswith(starts)), "")


def refuse(start: bytes) -> None:
    """Raise UnfitError of a file that is an archive, by how it begins."""
    if found := kind(start):
        raise UnfitError(f"it is a {found}, not an image", "unpack it, and name the images that it holds")
