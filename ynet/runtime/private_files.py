"""Files and folders for their owner alone, whatever the umask: what holds data of patients, weights or secrets.

`as_default` is for a process, and holds for what libraries write too (SQLite, safetensors, rotated logs); the functions
say it where a file is written, and hold for whoever calls them from another program.
"""

import os
import secrets
import shutil
from pathlib import Path

FILE, FOLDER = 0o600, 0o700
SECRET_BYTES = 32


def as_default() -> None:
    """Whatever this process and those it starts make from now on is their user's alone."""
    os.umask(0o077)


def opener(path: str, flags: int) -> int:
    """For `open`: a file that is made by it is private; one that is there stays as it is."""
    return os.open(path, flags, FILE)


def make_folder(path: Path) -> Path:
    """Make a folder, and those above it that are missing. One that is there stays as it is: it is somebody's choice."""
    if not path.is_dir():
        make_folder(path.parent)
        path.mkdir(mode=FOLDER, exist_ok=True)
        path.chmod(FOLDER)  # a umask that takes the owner's own rights away
    return path


def own_folder(path: Path) -> Path:
    """Make a folder that nobody else puts anything into; one that is there is closed to others."""
    make_folder(path).chmod(FOLDER)
    return path


def begin(path: Path) -> None:
    """Make an empty file, in the place of what may be there; for a library that writes into it."""
    path.unlink(missing_ok=True)
    made = os.open(path, os.O_WRONLY | os.O_CREAT | os.O_EXCL, FILE)
    os.fchmod(made, FILE)  # as above
    os.close(made)


def write(path: Path, content: bytes | str, *, is_synced: bool = False) -> None:
    """Write a file, whole or not at all; `is_synced`: a power cut, too, leaves the old or the new one.

    What is there and no file (/dev/stdout, a pipe) is written to as it is.
    """
    data = content.encode() if isinstance(content, str) else content
    if path.exists() and not path.is_file():
        path.write_bytes(data)
        return
    partial = path.with_name(path.name + ".partial")
    begin(partial)
    with partial.open("wb") as file:
        file.write(data)
        if is_synced:
            file.flush()
            os.fsync(file.fileno())
    partial.replace(path)
    if is_synced:
        sync_folder(path.parent)


def secret_of(path: Path) -> bytes:
    """Read the secret in a file; make one of 32 random bytes when the file is missing."""
    if not path.exists():
        write(path, secrets.token_bytes(SECRET_BYTES), is_synced=True)
    return path.read_bytes()


def empty_folder(path: Path) -> Path:
    """Make a private folder, without what an earlier process left in it."""
    shutil.rmtree(path, ignore_errors=True)
    path.mkdir(mode=FOLDER)
    return path


def sync_folder(folder: Path) -> None:
    """See that the names in a folder outlive a power cut."""
    opened = os.open(folder, os.O_RDONLY)
    try:
        os.fsync(opened)
    finally:
        os.close(opened)
