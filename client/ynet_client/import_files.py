"""What an import writes into the site's folder: pictures, masks, and the manifest of them."""

import csv
import io
from pathlib import Path

import numpy as np
from PIL import Image

from ynet import private_files
from ynet.data import manifest
from ynet_client.deidentify import ALLOWED

Rows = dict[str, dict[str, str]]
"""The manifest's rows, by image."""


def write_picture(path: Path, pixels: np.ndarray) -> None:
    """Grey in 16 bit, which loses nothing of 12; colour as it is."""
    write_png(path, (pixels * np.float32(65535)).round().astype(np.uint16) if pixels.ndim == 2 else pixels)


def write_png(path: Path, pixels: np.ndarray) -> None:
    """Whole or not at all."""
    made = io.BytesIO()
    Image.fromarray(pixels).save(made, "PNG", compress_level=1)
    private_files.write(path, made.getvalue())


def read_manifest(path: Path) -> Rows:
    """The rows of an earlier import."""
    if not path.exists():
        return {}
    return {row.cells["image"]: dict(row.cells) for row in manifest.read_rows(path)}


def write_manifest(path: Path, rows: Rows, *, has_split: bool) -> None:
    """Columns in which no row says anything are left out; so is `split`, but where the labels have it."""
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
