"""Names of single frames of a multi-frame file: `FILE.dcm#7`."""

import re
from pathlib import Path
from typing import NamedTuple

_NAMED = re.compile(r"(.+)#([1-9][0-9]{0,8})")


class FileFrame(NamedTuple):
    """A file and the number of one of its frames."""

    path: Path
    frame: int | None  # from 1


def source(path: Path) -> FileFrame:
    """Split `FILE.dcm#7` into file and frame 7 (segment 7 of a DICOM SEG), unless a file has that very name."""
    named = _NAMED.fullmatch(path.name)
    if named is None or path.exists():
        return FileFrame(path, None)
    return FileFrame(path.with_name(named[1]), int(named[2]))


def framed(path: Path, frame: int | None) -> Path:
    """Return the name of a frame; the path itself where `frame` is None."""
    return path if frame is None else path.with_name(f"{path.name}#{frame}")
