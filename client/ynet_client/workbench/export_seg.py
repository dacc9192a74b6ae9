"""Write the mask of an answer as a DICOM SEG. The page sends the queried DICOM file again for it."""

import datetime as dt
import hashlib
from pathlib import Path
from typing import TYPE_CHECKING

from ynet.data.dicom.elements import starts_as_dicom
from ynet.errors import UserError

if TYPE_CHECKING:
    from ynet_client.workbench.recent_answers import KeptAnswer


def digest(path: Path) -> str:
    """Return the SHA-256 of a DICOM file, to recognise it later; empty for another file."""
    with path.open("rb") as file:
        if not starts_as_dicom(file):
            return ""
        file.seek(0)
        return hashlib.file_digest(file, "sha256").hexdigest()


def made(kept: "KeptAnswer", path: Path, now: dt.datetime) -> bytes:
    """Return the SEG of the mask that the page shows. Raises UserError when the file is another or not fit."""
    if not kept.dicom or digest(path) != kept.dicom:
        raise UserError("no DICOM SEG was made", "it is not the DICOM file that was asked about", "ask again")
    from ynet_client.dicom import predicted_segmentation  # highdicom takes a second to load

    regions = [region.name for region in kept.view.regions]
    model, plan = kept.answer["model"], kept.answer["plan"]
    return predicted_segmentation.of_file(path.read_bytes(), kept.frame, kept.view.bits, model, plan, now, regions)
