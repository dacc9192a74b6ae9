"""Files and folders that only their owner can read, whatever the umask: patient data, weights and secrets.

`as_default` sets the umask of a process and so covers files that libraries write (SQLite, safetensors, rotated logs).
The other functions set the mode of the file that they write, and so work in any program.
"""

import os
import secrets
import shutil
from pathlib import Path

FILE, FOLDER = 0o600, 0o700
SECRET_BYTES = 32


def as_default() -> None:
    """Make every new file of this process and its children private."""
    os.umask(0o077)


def opener(path: str, flags: int) -> int:
    """Open a file, for `open(opener=...)`: a new file is private, an existing one keeps its mode."""
    return os.open(path, flags, FILE)


def make_folder(path: Path) -> Path:
    """Make a private folder and its missing parents. An existing folder keeps its mode."""
    if not path.is_dir():
        make_folder(path.parent)
        path.mkdir(mode=FOLDER, exist_ok=True)
        path.chmod(FOLDER)  # the umask may deny the owner too
    return path


def own_folder(path: Path) -> Path:
    """Make a folder, and make it private if it exists."""
    make_folder(path).chmod(FOLDER)
    return path


def empty_folder(path: Path) -> Path:
    """Make a private folder without content; delete what is in it."""
    shutil.rmtree(path, ignore_errors=True)
    path.mkdir(mode=FOLDER)
    return path


def begin(path: Path) -> None:
    """Make an empty file in place of an existing one, for a library that writes into it."""
    path.unlink(missing_ok=True)
    made = os.open(path, os.O_WRONLY | os.O_CREAT | os.O_EXCL, FILE)
    os.fchmod(made, FILE)  # the umask may deny the owner too
    os.close(made)


def write(path: Path, content: bytes | str, *, is_synced: bool = False) -> None:
    """Write a file atomically.

    Args:
        path: Where to write. A pipe or a device, such as /dev/stdout, is written to directly.
        content: The bytes, or text for UTF-8.
        is_synced: Survive a power cut: then the old or the new file is there.
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


def secret_in(path: Path) -> bytes:
    """Read the secret in a file; write a random one first where there is no file."""
    if not path.exists():
        write(path, secrets.token_bytes(SECRET_BYTES), is_synced=True)
    return path.read_bytes()


def sync_folder(folder: Path) -> None:
    """Flush a folder to disk, so that the names in it survive a power cut."""
    opened = os.open(folder, os.O_RDONLY)
    try:
        os.fsync(opened)
    finally:
        os.close(opened)
