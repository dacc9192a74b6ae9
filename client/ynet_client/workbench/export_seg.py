"""The mask of an answer as a DICOM SEG on the file that was asked about, which the page sends once more for it."""

import datetime as dt
import hashlib
import importlib
from pathlib import Path
from typing import TYPE_CHECKING, Any

from ynet.data.dicom.elements import starts_as_dicom
from ynet.errors import UserError

if TYPE_CHECKING:
    from ynet_client.workbench.recent_answers import KeptAnswer


def digest(path: Path) -> str:
    """Of a DICOM file its SHA-256, by which it is known again; empty for another file."""
    with path.open("rb") as file:
        if not starts_as_dicom(file):
            return ""
        file.seek(0)
        return hashlib.file_digest(file, "sha256").hexdigest()


def made(kept: "KeptAnswer", path: Path, now: dt.datetime) -> bytes:
    """The SEG of the mask that the page shows. Raises UserError where the file is another, or does not serve for it."""
    if not kept.dicom or digest(path) != kept.dicom:
        raise UserError("no DICOM SEG was made", "it is not the DICOM file that was asked about", "ask again")
    drawing: Any = importlib.import_module(
        "ynet_client.dicom.predicted_segmentation"
    )  # highdicom: a second for who needs it
    mask = drawing.read_mask(kept.view.mask_png)
    return bytes(drawing.of_file(path.read_bytes(), kept.frame, mask, kept.answer["model"], kept.answer["plan"], now))
