"""Reads wheels: what each is, and which of them a server and a client need."""

import email.parser
import zipfile
from collections.abc import Iterable, Mapping
from email.message import Message
from pathlib import Path
from typing import NamedTuple

from packaging.requirements import Requirement
from packaging.utils import NormalizedName, canonicalize_name, parse_wheel_filename

from release.archive import digest
from ynet.errors import UserError


class Wheel(NamedTuple):
    """A wheel on the disk."""

    name: NormalizedName
    version: str
    path: Path
    sha256: str
    requires: tuple[Requirement, ...]
    summary: str


def read(path: Path) -> Wheel:
    """Read a wheel's metadata."""
    name, version, *_ = parse_wheel_filename(path.name)
    metadata = _metadata(path)
    requires = tuple(Requirement(line) for line in metadata.get_all("Requires-Dist", []))
    return Wheel(name, str(version), path, digest(path), requires, str(metadata.get("Summary", "")))


def _metadata(path: Path) -> "Message[str, str]":
    with zipfile.ZipFile(path) as wheel:
        (inner,) = (name for name in wheel.namelist() if name.endswith(".dist-info/METADATA") and name.count("/") == 1)
        return email.parser.Parser().parsestr(wheel.read(inner).decode("utf-8"))


def needed(root: str, extras: Iterable[str], wheels: Mapping[NormalizedName, Wheel]) -> list[Wheel]:
    """Return the wheels that `root[extras]` needs on this platform, by name. Raises UserError when one is missing."""
    found: set[tuple[NormalizedName, str]] = set()
    waiting = [(canonicalize_name(root), extra) for extra in ("", *extras)]
    while waiting:
        name, extra = waiting.pop()
        if (name, extra) in found:
            continue
        found.add((name, extra))
        waiting += [
            (canonicalize_name(one.name), inner)
            for one in directly(wheels[name], extra)
            if _is_there(one, wheels)
            for inner in ("", *one.extras)
        ]
    return [wheels[name] for name in sorted({name for name, _ in found})]


def directly(wheel: Wheel, extra: str = "") -> list[Requirement]:
    """Return what a wheel requires on this platform, with one of its extras."""
    return [one for one in wheel.requires if one.marker is None or one.marker.evaluate({"extra": extra})]


def _is_there(required: Requirement, wheels: Mapping[NormalizedName, Wheel]) -> bool:
    wheel = wheels.get(canonicalize_name(required.name))
    if wheel is None or not required.specifier.contains(wheel.version, prereleases=True):
        held = wheel.version if wheel else "no version"
        raise UserError(f"the release lacks {required}", f"it has {held}", "make release-lock, and look at the change")
    return True


def lock(wheels: Iterable[Wheel]) -> str:
    """Write a requirements file with hashes."""
    lines = (f"{wheel.name}=={wheel.version} --hash=sha256:{wheel.sha256}\n" for wheel in wheels)
    return "".join(sorted(lines))
