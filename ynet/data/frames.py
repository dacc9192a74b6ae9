"""How one frame of a file of several is named: `FILE.dcm#7`."""

import re
from pathlib import Path
from typing import NamedTuple

_NAMED = re.compile(r"(.+)#([1-9][0-9]{0,8})")


class Source(NamedTuple):
    """A file, and which of its frames is meant."""

    path: Path
    frame: int | None  # from 1


def source(path: Path) -> Source:
    """`FILE.dcm#7` is frame 7 of FILE.dcm, of a DICOM SEG its segment 7; a file that is called so goes before."""
    named = _NAMED.fullmatch(path.name)
    if named is None or path.exists():
        return Source(path, None)
    return Source(path.with_name(named[1]), int(named[2]))


def framed(path: Path, frame: int | None) -> Path:
    """A frame's name; the path itself where none is meant."""
    return path if frame is None else path.with_name(f"{path.name}#{frame}")
