"""An import's private records: the origin of each picture, and the objects that were skipped, with reasons.

They lie beside the pseudonyms' key, not beside the pictures, so that a copy of the pictures holds no identifier.
"""

import csv
import io
import re
from collections import defaultdict
from collections.abc import Iterable, Sequence
from pathlib import Path
from typing import NamedTuple

from ynet.runtime.home import write_private

ORIGINS, QUARANTINED, FORGOTTEN = "imported.csv", "quarantine.csv", "forgotten.csv"
_PSEUDONYM = re.compile(r"P[0-9a-f]{16}")


class Origin(NamedTuple):
    """A picture and its origin in the PACS, by UIDs only."""

    image: str  # file name without folder and suffix
    study: str
    series: str
    instance: str
    frame: int | None
    # The inputs of the picture and its row; if one of them changes, the object is imported again.
    source: str = ""  # SHA-256 of the object's file
    options: str = ""
    mask: str = ""  # digest of the mask that the labels name, or `none`
    drawings: str = ""  # digest of the patient's drawings


class LeftOutError(Exception):
    """An object is not imported; holds the reason's key and an explanation."""

    def __init__(self, reason: str, why: str) -> None:
        super().__init__(reason)
        self.reason, self.why = reason, why


class Quarantined(NamedTuple):
    """A skipped object."""

    id: str  # accepted by --release
    instance: str
    reason: str
    why: str
    digest: str = ""  # SHA-256 of its file, if it came from a folder


def is_pseudonym(name: str) -> bool:
    """Return whether a patient id has the form of an import's pseudonym."""
    return bool(_PSEUDONYM.fullmatch(name))


def counted(images: int, left_out: int) -> str:
    """Return the audit log's text for an import."""
    return f"{images} images, {left_out} objects left out"


class Records:
    """The records, in memory until they are saved."""

    def __init__(self, folder: Path) -> None:
        self._folder = folder
        self._origins = {row["image"]: _origin(row) for row in _rows(folder / ORIGINS)}
        self.quarantined = {row["instance"]: Quarantined(**row) for row in _rows(folder / QUARANTINED)}
        self.forgotten = {row["patient"] for row in _rows(folder / FORGOTTEN)}  # pseudonyms: not imported again
        self._of: defaultdict[str, list[str]] = defaultdict(list)
        for origin in self._origins.values():
            self._of[origin.instance].append(origin.image)

    @property
    def origins(self) -> list[Origin]:
        """The origin of every picture."""
        return list(self._origins.values())

    def of(self, instance: str) -> list[Origin]:
        """Return the pictures of an object."""
        return [self._origins[image] for image in self._of.get(instance, []) if image in self._origins]

    def add(self, origin: Origin) -> None:
        """Add a picture; its object no longer counts as skipped."""
        if origin.image not in self._origins:
            self._of[origin.instance].append(origin.image)
        self._origins[origin.image] = origin
        self.quarantined.pop(origin.instance, None)

    def remove(self, image: str) -> None:
        """Remove a picture."""
        origin = self._origins.pop(image)
        self._of[origin.instance].remove(image)

    def leave_out(self, one: Quarantined) -> None:
        """Record a skipped object."""
        self.quarantined[one.instance] = one

    def forget(self, names: Iterable[str], images: Iterable[str]) -> None:
        """Erase a patient's origins and save; keep the pseudonyms so that no later import adds the patient."""
        for image in images:
            self._origins.pop(Path(image).stem, None)
        self.forgotten |= {name for name in names if is_pseudonym(name)}
        _write(self._folder / FORGOTTEN, ("patient",), [(name,) for name in sorted(self.forgotten)])
        self.save()

    def save(self) -> None:
        """Write both files atomically, readable by their owner only."""
        origins = [one._replace(frame=one.frame or "") for _, one in sorted(self._origins.items())]  # type: ignore[arg-type]
        _write(self._folder / ORIGINS, Origin._fields, origins)
        _write(self._folder / QUARANTINED, Quarantined._fields, [one for _, one in sorted(self.quarantined.items())])


def _origin(row: dict[str, str]) -> Origin:
    """Read a row; files of earlier versions have fewer columns."""
    known = {name: row[name] for name in Origin._fields if row.get(name) is not None}
    return Origin(**{**known, "frame": int(row["frame"]) if row["frame"] else None})  # type: ignore[arg-type]


def _rows(path: Path) -> list[dict[str, str]]:
    if not path.exists():
        return []
    with path.open(encoding="utf-8", newline="") as file:
        return list(csv.DictReader(file))


def _write(path: Path, columns: tuple[str, ...], rows: Sequence[tuple[object, ...]]) -> None:
    text = io.StringIO()
    writer = csv.writer(text, lineterminator="\n")
    writer.writerow(columns)
    writer.writerows(rows)
    write_private(path, text.getvalue().encode())
