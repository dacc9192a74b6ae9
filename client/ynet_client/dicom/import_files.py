"""The files that an import writes into the site's folder: pictures, masks and the manifest."""

import csv
import io
from collections.abc import Collection, Mapping, Sequence
from pathlib import Path
from typing import NamedTuple

import numpy as np
from PIL import Image

from ynet.data import manifest
from ynet.data.manifest import OF_REGION, UNDRAWN
from ynet.runtime import private_files
from ynet_client.dicom.deidentify import ALLOWED
from ynet_client.dicom.import_masks import Mask, PendingDrawing
from ynet_client.dicom.import_records import Origin, Records

Rows = dict[str, dict[str, str]]
"""The manifest's rows, by image."""


class Made(NamedTuple):
    """A written picture, with its row of the manifest and its record."""

    row: dict[str, str]  # without the columns of masks
    origin: Origin
    masks: tuple[Mask, ...]  # one for each region

    @property
    def pending(self) -> tuple[PendingDrawing, ...]:
        """The drawings that may belong to the picture."""
        return tuple(one for mask in self.masks for one in mask.pending)


def picture_of(origin: Origin) -> str:
    """Return a picture's path in the manifest."""
    return f"images/{origin.image}.png"


class Pictures:
    """The pictures of a folder, with their rows and records; `save` writes the manifest and the records."""

    def __init__(self, out: Path, records: Records, regions: Sequence[str] = ()) -> None:
        """Read the folder's manifest. Raises UserError when it cannot be read."""
        self._out, self._records, self._regions = out, records, tuple(regions) or ("",)
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
        return len(rows), len({row["patient"] for row in rows}), sum(bool(_mask_files(row)) for row in rows)

    @property
    def undrawn(self) -> int:
        """The number of pictures whose lesion, or one of whose regions, is unknown."""
        return sum(UNDRAWN in _mask_cells(row).values() for row in self.rows.values())

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
        for row, origin, masks in made:
            for region, mask in zip(self._regions, masks, strict=True):
                row[OF_REGION + region if region else "mask"] = self._mask(origin, region, mask, is_healthy=is_healthy)
            for path in _written(self.rows.get(row["image"], {}), origin.image) - _mask_files(row):
                (self._out / path).unlink(missing_ok=True)
            self.rows[row["image"]] = row
            self._records.add(origin)
        return again

    def _mask(self, origin: Origin, region: str, mask: Mask, *, is_healthy: bool) -> str:
        """Write the file of a mask that is not empty; return the manifest's cell."""
        path = _mask_path(origin.image, region)
        if mask.pixels is not None and mask.pixels.any():
            _write_png(self._out / path, mask.pixels * np.uint8(255))
            return path
        (self._out / path).unlink(missing_ok=True)
        return "" if mask.is_known or is_healthy else UNDRAWN

    def remove(self, instance: str, but: Collection[str] = ()) -> None:
        """Remove the pictures of an object except `but`."""
        names = {picture_of(origin): origin.image for origin in self._records.of(instance)}
        for image in names.keys() - set(but):
            row = self.rows.pop(image, {})
            self._records.remove(names[image])
            for path in (image, *_written(row, names[image])):
                (self._out / path).unlink(missing_ok=True)

    def discard(self, made: Sequence[Made]) -> None:
        """Delete the files of pictures that are not in the manifest."""
        for image in {each.row["image"] for each in made} - self.rows.keys():
            (self._out / image).unlink(missing_ok=True)


def _mask_cells(row: Mapping[str, str]) -> dict[str, str]:
    """Return the cells of a row's masks, by column."""
    return {column: cell for column, cell in row.items() if column == "mask" or column.startswith(OF_REGION)}


def _mask_files(row: Mapping[str, str]) -> set[str]:
    return {cell for cell in _mask_cells(row).values() if cell not in ("", UNDRAWN)}


def _mask_path(name: str, region: str = "") -> str:
    return f"masks/{name}.{region}.png" if region else f"masks/{name}.png"


def _written(row: Mapping[str, str], name: str) -> set[str]:
    """Return the files of masks that an import wrote for a picture; not those that a person named in the manifest."""
    regions = [column.removeprefix(OF_REGION) for column in row if column.startswith(OF_REGION)]
    return {_mask_path(name), *(_mask_path(name, region) for region in regions if "/" not in region)}


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
    """Write the manifest without its empty columns; `split` is written only if the labels have it.

    Where imports with and without regions share a folder, a mask that a row does not have is unknown.
    """
    if not rows:
        path.unlink(missing_ok=True)
        return
    optional = [*(one.column for one in ALLOWED.values()), "date"]
    more = [column for column in optional if any(row.get(column) for row in rows.values())]
    masks = dict.fromkeys(column for row in rows.values() for column in sorted(_mask_cells(row)))
    required = [column for column in manifest.REQUIRED if column != "mask" or "mask" in masks]
    of_regions = [column for column in masks if column != "mask"]
    columns = [*required, *of_regions, *(["split"] if has_split else []), *more]
    text = io.StringIO()
    writer = csv.DictWriter(text, columns, restval="", extrasaction="ignore", lineterminator="\n")
    writer.writeheader()
    writer.writerows({**dict.fromkeys(masks, UNDRAWN), **row} for _, row in sorted(rows.items()))
    private_files.write(path, text.getvalue())
