"""Who may read what a command has written."""

import contextlib
import os
import stat
from collections.abc import Iterator
from pathlib import Path


def open_to_others(*places: Path) -> list[str]:
    """Files, folders and sockets that group or others have any right to: these places, and all that is in them."""
    found = [path for place in places for path in (place, *place.rglob("*"))]
    modes = [(path, path.lstat().st_mode) for path in found if os.path.lexists(path)]
    return sorted(f"{path} {mode & 0o777:o}" for path, mode in modes if mode & 0o077 and not stat.S_ISLNK(mode))


@contextlib.contextmanager
def umask(value: int = 0) -> Iterator[None]:
    """What this process and those that it starts meanwhile make would be open to all, if nothing were done."""
    before = os.umask(value)
    try:
        yield
    finally:
        os.umask(before)
