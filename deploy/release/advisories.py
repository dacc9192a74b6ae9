"""Compares the wheels with an offline copy of known vulnerabilities: a zip of OSV records in JSON."""

import json
import zipfile
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

from packaging.utils import canonicalize_name
from packaging.version import InvalidVersion, Version

from release.archive import digest
from release.wheels import Wheel
from ynet.errors import UserError

NONE_MADE = "no comparison was made: the release was built without an offline copy of advisories (ADVISORIES=FILE.zip)"
LIMITS = "names and versions of the packages only; a finding may concern code that ynet does not use"


def report(copy: Path | None, wheels: Sequence[Wheel]) -> dict[str, Any]:
    """Return the report on known vulnerabilities, or one that says that none was made. Raises UserError."""
    if copy is None:
        return {"made": False, "reason": NONE_MADE}
    records = read(copy)
    found = [
        {"package": wheel.name, "version": wheel.version, "id": record["id"], "summary": record.get("summary", "")}
        for wheel in wheels
        for record in records
        if affects(record, wheel)
    ]
    return {
        "made": True,
        "copy": {"sha256": digest(copy), "records": len(records), "newest": newest(records)},
        "limits": LIMITS,
        "found": sorted(found, key=lambda one: (one["package"], one["id"])),
    }


def read(copy: Path) -> list[dict[str, Any]]:
    """Read the records of a copy; withdrawn ones are left out. Raises UserError."""
    try:
        with zipfile.ZipFile(copy) as opened:
            all_of = [json.loads(opened.read(name)) for name in opened.namelist() if name.endswith(".json")]
    except (OSError, ValueError, zipfile.BadZipFile) as error:
        do = "give a zip of OSV records in JSON"
        raise UserError("the copy of advisories cannot be read", type(error).__name__, do) from None
    return [record for record in all_of if not record.get("withdrawn")]


def newest(records: Sequence[Mapping[str, Any]]) -> str:
    """Return when the newest record was changed."""
    return max((str(record.get("modified", "")) for record in records), default="")


def affects(record: Mapping[str, Any], wheel: Wheel) -> bool:
    """Say whether a record names this version of a package."""
    for affected in record.get("affected", ()):
        package = affected.get("package", {})
        if package.get("ecosystem") != "PyPI" or canonicalize_name(package.get("name", "")) != wheel.name:
            continue
        version = Version(wheel.version)
        listed = {one for text in affected.get("versions", ()) if (one := parsed(text)) is not None}
        if version in listed or Version(version.public) in listed:
            return True
        if any(is_within(version, one) for one in affected.get("ranges", ())):
            return True
    return False


def is_within(version: Version, ranges: Mapping[str, Any]) -> bool:
    """Say whether a version is in a range: events in order begin and end the affected versions."""
    if ranges.get("type") != "ECOSYSTEM":
        return False
    is_affected = False
    for event in ranges.get("events", ()):
        first, fixed, last = (parsed(event.get(kind, "")) for kind in ("introduced", "fixed", "last_affected"))
        if first is not None and version >= first:
            is_affected = True
        if (fixed is not None and version >= fixed) or (last is not None and version > last):
            is_affected = False
    return is_affected


def parsed(text: str) -> Version | None:
    """Read a version; None for what is none."""
    try:
        return Version(text)
    except InvalidVersion:
        return None
