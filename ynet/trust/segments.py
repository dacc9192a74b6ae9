"""The segments of a rotated log: the current file, and older files named by their last entry's number."""

import contextlib
import os
import re
from collections.abc import Iterator
from pathlib import Path
from typing import BinaryIO

_TAIL_BYTES = 1 << 16


def path_of(log: Path, last: int) -> Path:
    """Return the path of the segment whose last entry has this number."""
    return log.with_name(f"{log.stem}.{last:012}{log.suffix}")


def listed(log: Path) -> list[Path]:
    """List the older segments, the oldest first."""
    name = re.compile(rf"{re.escape(log.stem)}\.\d{{12}}{re.escape(log.suffix)}")
    return sorted(path for path in log.parent.glob(f"{log.stem}.*{log.suffix}") if name.fullmatch(path.name))


def lines(log: Path) -> Iterator[bytes]:
    """Yield the complete lines of all segments, the oldest first; another process may append to them."""
    with contextlib.ExitStack() as stack:
        for file in _opened(log, stack):
            for line in file:
                if line.endswith(b"\n"):  # otherwise it is being written
                    yield line


def last_line(file: Path) -> bytes | None:
    """Return the last line of a file; None where it has none."""
    if not file.exists() or not (size := file.stat().st_size):
        return None
    part = _TAIL_BYTES
    while True:
        with file.open("rb") as opened:
            opened.seek(max(0, size - part))
            found = opened.read(part).splitlines(keepends=True)
        if len(found) > 1 or part >= size:
            return found[-1]
        part *= 2


def tail(log: Path, size_bytes: int) -> list[bytes]:
    """Return the last lines of a log, about `size_bytes` bytes; the first may be incomplete."""
    found = b""
    for path in reversed([*listed(log), log]):
        if path.exists() and len(found) < size_bytes:
            with path.open("rb") as file:
                file.seek(max(0, path.stat().st_size - (size_bytes - len(found))))
                found = file.read() + found
    return found.split(b"\n")


def _opened(log: Path, stack: contextlib.ExitStack) -> list[BinaryIO]:
    """Open all segments before reading one: a rotation may rename the newest and delete the oldest."""
    while True:
        try:
            newest: list[BinaryIO] = [stack.enter_context(log.open("rb"))] if log.exists() else []
            aside: list[BinaryIO] = [stack.enter_context(path.open("rb")) for path in listed(log)]
        except FileNotFoundError:
            continue
        return aside if newest and _first(newest[0]) in map(_first, aside) else aside + newest


def drop_double(log: Path) -> None:
    """Empty the current file if an older segment contains it.

    A backup has both when the log was rotated during the backup: the file was copied under both names.
    """
    with contextlib.ExitStack() as stack:
        files = _opened(log, stack)
        is_double = bool(files) and log.exists() and not os.path.samestat(os.fstat(files[-1].fileno()), log.stat())
    if is_double:
        os.truncate(log, 0)


def _first(file: BinaryIO) -> bytes:
    """Return the first line. Leaves the file's position at 0."""
    line = file.readline()
    file.seek(0)
    return line
