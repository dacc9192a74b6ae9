"""What an import keeps for the site alone: where each picture came from, and what was left out and why.

Both lie beside the pseudonyms' key, not beside the pictures: who has the pictures alone has no identifier.
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
    """A picture, and what it is in the PACS: no name, but the PACS's own numbers."""

    image: str  # without folder and ending
    study: str
    series: str
    instance: str
    frame: int | None
    # What its row was made by: where one of these is another, it is made anew.
    source: str = ""  # SHA-256 of the object's file
    options: str = ""
    mask: str = ""  # of the mask that the labels name: its digest, or `none`
    drawings: str = ""  # of the drawings that its patient has


class LeftOutError(Exception):
    """An object that is not imported: a reason's word, and why."""

    def __init__(self, reason: str, why: str) -> None:
        super().__init__(reason)
        self.reason, self.why = reason, why


class Quarantined(NamedTuple):
    """An object that was left out."""

    id: str  # by which it can be released
    instance: str
    reason: str
    why: str
    digest: str = ""  # SHA-256 of its file, where a folder held it


def is_pseudonym(name: str) -> bool:
    """Whether a patient's name may be one that an import has given."""
    return bool(_PSEUDONYM.fullmatch(name))


def counted(images: int, left_out: int) -> str:
    """What the audit log says of an import."""
    return f"{images} images, {left_out} objects left out"


class Records:
    """The two files, in memory until they are saved."""

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
        """Where every picture came from."""
        return list(self._origins.values())

    def of(self, instance: str) -> list[Origin]:
        """The pictures that were made of an object."""
        return [self._origins[image] for image in self._of.get(instance, []) if image in self._origins]

    def add(self, origin: Origin) -> None:
        """A picture was made; its object is left out no more."""
        if origin.image not in self._origins:
            self._of[origin.instance].append(origin.image)
        self._origins[origin.image] = origin
        self.quarantined.pop(origin.instance, None)

    def remove(self, image: str) -> None:
        """A picture is there no more."""
        origin = self._origins.pop(image)
        self._of[origin.instance].remove(image)

    def leave_out(self, one: Quarantined) -> None:
        """An object was left out."""
        self.quarantined[one.instance] = one

    def forget(self, names: Iterable[str], images: Iterable[str]) -> None:
        """Nothing says any more where a patient's pictures came from; of names the pseudonyms are kept, and saved."""
        for image in images:
            self._origins.pop(Path(image).stem, None)
        self.forgotten |= {name for name in names if is_pseudonym(name)}
        _write(self._folder / FORGOTTEN, ("patient",), [(name,) for name in sorted(self.forgotten)])
        self.save()

    def save(self) -> None:
        """Write both, each whole or not at all, for their owner only."""
        origins = [one._replace(frame=one.frame or "") for _, one in sorted(self._origins.items())]  # type: ignore[arg-type]
        _write(self._folder / ORIGINS, Origin._fields, origins)
        _write(self._folder / QUARANTINED, Quarantined._fields, [one for _, one in sorted(self.quarantined.items())])


def _origin(row: dict[str, str]) -> Origin:
    """A line of the file; those of earlier versions say less."""
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
