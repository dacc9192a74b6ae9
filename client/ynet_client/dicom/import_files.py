"""The files that an import writes into the site's folder: pictures, masks and the manifest."""

import csv
import io
from collections.abc import Collection, Sequence
from pathlib import Path
from typing import NamedTuple

import numpy as np
from PIL import Image

from ynet.data import manifest
from ynet.data.manifest import UNDRAWN
from ynet.runtime import private_files
from ynet_client.dicom.deidentify import ALLOWED
from ynet_client.dicom.import_masks import Mask
from ynet_client.dicom.import_records import Origin, Records

Rows = dict[str, dict[str, str]]
"""The manifest's rows, by image."""


class Made(NamedTuple):
    """A written picture, with its row of the manifest and its record."""

    row: dict[str, str]
    origin: Origin
    mask: Mask


def picture_of(origin: Origin) -> str:
    """Return a picture's path in the manifest."""
    return f"images/{origin.image}.png"


class Pictures:
    """The pictures of a folder, with their rows and records; `save` writes the manifest and the records."""

    def __init__(self, out: Path, records: Records) -> None:
        """Read the folder's manifest. Raises UserError when it cannot be read."""
        self._out, self._records = out, records
        for kind in ("images", "masks"):
            private_files.own_folder(out / kind)
        rows = _read_manifest(out / "manifest.csv")
        self.rows = {image: row for image, row in rows.items() if row["patient"] not in records.forgotten}

    def save(self, *, has_split: bool) -> None:
        """Write the manifest and the records."""
        _write_manifest(self._out / "manifest.csv", self.rows, has_split=has_split)
        self._records.save()

    def counted(self) -> tuple[int, int, int]:
        """Return the number of pictures, of patients and of masks."""
        rows = self.rows.values()
        return len(rows), len({row["patient"] for row in rows}), sum(row["mask"] not in ("", UNDRAWN) for row in rows)

    @property
    def undrawn(self) -> int:
        """The number of pictures whose lesion is unknown."""
        return sum(row["mask"] == UNDRAWN for row in self.rows.values())

    def has(self, origin: Origin) -> bool:
        """Return whether a picture exists, in the manifest and as a file."""
        image = picture_of(origin)
        return image in self.rows and (self._out / image).exists()

    def write(self, origin: Origin, pixels: np.ndarray) -> None:
        """Write a picture's file: grey in 16 bit, which keeps all 12 bits of a DICOM image; colour unchanged."""
        deep = (pixels * np.float32(65535)).round().astype(np.uint16) if pixels.ndim == 2 else pixels
        _write_png(self._out / picture_of(origin), deep)

    def keep(self, instance: str, made: Sequence[Made], *, is_healthy: bool) -> int:
        """Add pictures to the manifest; they replace the earlier pictures of the same object.

        `is_healthy`: an image without a drawing has no lesion. Returns how many of the pictures existed before.
        """
        images = {each.row["image"] for each in made}
        again = len(images & self.rows.keys())
        if made:
            self.remove(instance, but=images)
        for row, origin, mask in made:
            path, pixels = f"masks/{origin.image}.png", mask.pixels
            if pixels is not None and pixels.any():
                _write_png(self._out / path, pixels * np.uint8(255))
                row["mask"] = path
            else:
                (self._out / path).unlink(missing_ok=True)
                row["mask"] = "" if mask.is_known or is_healthy else UNDRAWN
            self.rows[row["image"]] = row
            self._records.add(origin)
        return again

    def remove(self, instance: str, but: Collection[str] = ()) -> None:
        """Remove the pictures of an object except `but`."""
        names = {picture_of(origin): origin.image for origin in self._records.of(instance)}
        for image in names.keys() - set(but):
            self.rows.pop(image, None)
            self._records.remove(names[image])
            for path in (image, f"masks/{names[image]}.png"):
                (self._out / path).unlink(missing_ok=True)

    def discard(self, made: Sequence[Made]) -> None:
        """Delete the files of pictures that are not in the manifest."""
        for image in {each.row["image"] for each in made} - self.rows.keys():
            (self._out / image).unlink(missing_ok=True)


def _write_png(path: Path, pixels: np.ndarray) -> None:
    """Write a PNG atomically."""
    made = io.BytesIO()
    Image.fromarray(pixels).save(made, "PNG", compress_level=1)
    private_files.write(path, made.getvalue())


def _read_manifest(path: Path) -> Rows:
    """Read the rows of earlier imports."""
    if not path.exists():
        return {}
    return {row.cells["image"]: dict(row.cells) for row in manifest.read_rows(path)}


def _write_manifest(path: Path, rows: Rows, *, has_split: bool) -> None:
    """Write the manifest without its empty columns; `split` is written only if the labels have it."""
    if not rows:
        path.unlink(missing_ok=True)
        return
    optional = [*(one.column for one in ALLOWED.values()), "date"]
    more = [column for column in optional if any(row.get(column) for row in rows.values())]
    columns = [*manifest.REQUIRED, *(["split"] if has_split else []), *more]
    text = io.StringIO()
    writer = csv.DictWriter(text, columns, restval="", extrasaction="ignore", lineterminator="\n")
    writer.writeheader()
    writer.writerows(row for _, row in sorted(rows.items()))
    private_files.write(path, text.getvalue())
