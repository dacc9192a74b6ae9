"""Writes a release as one archive: manifest, signature, files, in the one form that the verifier accepts."""

import hashlib
import shutil
from collections.abc import Mapping
from pathlib import Path

from cryptography.hazmat.primitives.asymmetric.ed25519 import Ed25519PrivateKey

from release import verify_release
from release.signing import sign
from release.verify_release import BLOCK, MANIFEST, SIGNATURE, TITLE, Entry, header, padding


def digest(path: Path) -> str:
    """Return the SHA-256 of a file, as hexadecimal digits."""
    with path.open("rb") as file:
        return hashlib.file_digest(file, "sha256").hexdigest()


def manifest(version: str, commit: str, files: Mapping[str, Path]) -> bytes:
    """Make the manifest of files by their names in the archive."""
    entries = [Entry(digest(path), path.stat().st_size, name) for name, path in sorted(files.items())]
    lines = [TITLE, f"version {version}", f"commit {commit}", *(" ".join(map(str, entry)) for entry in entries)]
    made = ("\n".join(lines) + "\n").encode("ascii")
    verify_release.parse_manifest(made)  # a name that the verifier refuses is refused here
    return made


def write(path: Path, listed: bytes, files: Mapping[str, Path], key: Ed25519PrivateKey) -> None:
    """Sign the manifest, and write the archive."""
    with path.open("wb") as archive:
        for name, content in ((MANIFEST, listed), (SIGNATURE, sign(key, listed))):
            archive.write(header(name, len(content)) + content + padding(len(content)))
        for name, source in sorted(files.items()):
            size = source.stat().st_size
            archive.write(header(name, size))
            with source.open("rb") as content_of:
                shutil.copyfileobj(content_of, archive, 1 << 20)
            archive.write(padding(size))
        archive.write(bytes(2 * BLOCK))
