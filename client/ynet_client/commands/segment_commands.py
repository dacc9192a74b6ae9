"""The command that predicts a lesion's mask and stores it in the PACS."""

import base64
import datetime as dt
import sys
from pathlib import Path
from typing import Annotated, Any

import typer

from ynet.errors import UserError
from ynet.runtime import private_files, terminal
from ynet_client import control_client
from ynet_client.commands.options import Home, Json, Site
from ynet_client.commands.pacs_options import Ca, Credentials
from ynet_client.control_client import ImageFile
from ynet_client.homes import home_of

app = typer.Typer()


@app.command()
def segment(
    out: Annotated[Path, typer.Option(help="The DICOM SEG to write.")],
    image: Annotated[
        Path | None, typer.Argument(metavar="FILE.dcm", help="A DICOM file; FILE.dcm#7 is frame 7 of it.")
    ] = None,
    dicomweb_: Annotated[str, typer.Option("--dicomweb", metavar="URL", help="Fetch it from this PACS.")] = "",
    instance: Annotated[str, typer.Option(metavar="UID", help="Which one: its SOP instance UID.")] = "",
    frame: Annotated[int | None, typer.Option(min=1, help="Which frame of it.")] = None,
    store: Annotated[str, typer.Option(metavar="URL", help="Also store the SEG in this PACS, by STOW-RS.")] = "",
    credentials: Credentials = None,
    ca: Ca = None,
    site: Site = None,
    home: Home = None,
    as_json: Json = False,
) -> None:
    """Predict the lesion on a DICOM image, as a DICOM SEG that refers to it; the running client does it."""
    # highdicom: the other commands need not wait for it
    from ynet_client.dicom import dicomweb, pacs_credentials, predicted_segmentation

    headers = pacs_credentials.read_credentials(pacs_credentials.environment(), credentials)
    picture = _source(image, dicomweb_, instance, frame, headers, ca)
    found = control_client.segment(home_of(home, site), picture)
    regions = found["regions"]
    mask = predicted_segmentation.read_mask(base64.b64decode(found["mask"]), regions)
    about = (found["model"], found["plan"], dt.datetime.now())
    made = predicted_segmentation.of_file(picture.data, picture.frame, mask, *about, regions)
    private_files.write(out, made)
    if store:
        with dicomweb.DicomWeb(store, headers, ca) as pacs:
            if warning := pacs.store(made):
                print(f"the PACS has the object, and warns: {warning}", file=sys.stderr)
    pixels = int((mask > 0).sum())
    share, is_stored = pixels / mask.size, bool(store)
    shown: dict[str, Any] = {
        "out": str(out),
        "pixels": pixels,
        "share": share,
        "model": found["model"],
        "stored": is_stored,
    }
    if regions:
        shown["regions"] = {name: int((mask >> place & 1).sum()) for place, name in enumerate(regions)}
        said = f"{out}: of {mask.size} pixels: " + ", ".join(f"{n} {name}" for name, n in shown["regions"].items())
    else:
        said = f"{out}: {pixels} pixels of {mask.size} are lesion"
        said = said if pixels else f"{out}: no lesion was found; it is empty"
    terminal.show(shown, as_json=as_json, human=lambda: said + ("; the PACS has it" if store else ""))


def _source(
    image: Path | None, url: str, instance: str, frame: int | None, headers: dict[str, str], ca: Path | None
) -> ImageFile:
    from ynet.data.dicom.elements import is_dicom
    from ynet_client.dicom import dicomweb

    if bool(image) == bool(url) or bool(url) != bool(instance):
        do = "name FILE.dcm, or say --dicomweb URL --instance UID"
        raise UserError("it is not clear which image is meant", "one image from one source is needed", do)
    if image:
        picture = control_client.read_image(image)
    else:
        with dicomweb.DicomWeb(url, headers, ca) as pacs:
            picture = ImageFile("", pacs.fetch(pacs.instance(instance)))
    if not is_dicom(picture.data):
        raise UserError("no DICOM SEG can be made of the image", "it is not a DICOM file", "give the file of the PACS")
    return picture if frame is None else picture._replace(frame=frame)
