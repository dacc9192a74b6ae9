"""Checks of file permissions after a command."""

import contextlib
import os
import stat
from collections.abc import Iterator
from pathlib import Path


def open_to_others(*places: Path) -> list[str]:
    """Return files, folders and sockets under these paths to which group or others have any right."""
    found = [path for place in places for path in (place, *place.rglob("*"))]
    modes = [(path, path.lstat().st_mode) for path in found if os.path.lexists(path)]
    return sorted(f"{path} {mode & 0o777:o}" for path, mode in modes if mode & 0o077 and not stat.S_ISLNK(mode))


@contextlib.contextmanager
def umask(value: int = 0) -> Iterator[None]:
    """Set a umask under which new files are open to all, unless the code under test restricts them."""
    before = os.umask(value)
    try:
        yield
    finally:
        os.umask(before)
