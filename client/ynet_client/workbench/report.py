"""Write an answer as one HTML file that contains its pictures, to store or to print."""

import base64
import time
from pathlib import Path
from typing import TYPE_CHECKING

from jinja2 import Environment, FileSystemLoader, StrictUndefined

from ynet.errors import UserError
from ynet_client.workbench.cases import OwnCases
from ynet_client.workbench.image_view import drawn, jpeg
from ynet_client.workbench.recent_answers import KeptAnswer

if TYPE_CHECKING:
    from ynet_client.gallery.indexer import Archive

SIDE = 900  # pixels of the query's picture
_TEMPLATES = Environment(
    loader=FileSystemLoader(Path(__file__).parent / "templates"),
    autoescape=True,
    undefined=StrictUndefined,
    trim_blocks=True,
    lstrip_blocks=True,
)


def write(archive: "Archive", own_cases: OwnCases, kept: KeptAnswer, low: float, high: float) -> str:
    """Return the file. `low`, `high`: the window that the reader chose, as shares of the range."""
    pictures = {hit["image"]: _picture(archive, own_cases, hit["image"]) for hit in kept.answer["own"]}
    return _TEMPLATES.get_template("report.html").render(
        **kept.answer,
        name=kept.name,
        account=kept.account,
        share=kept.view.share,
        regions=kept.view.regions,
        size=kept.view.full_size,
        at=time.strftime("%Y-%m-%d %H:%M", time.localtime(kept.time)),
        picture=_data_uri(jpeg(drawn(kept.view, low, high, SIDE))),
        pictures=pictures,
    )


def _picture(archive: "Archive", own_cases: OwnCases, image: str) -> str:
    try:
        return _data_uri(own_cases.picture(archive, image, 192, is_outlined=True))
    except UserError:  # the case was removed, or its file cannot be read: the report goes without it
        return ""


def _data_uri(data: bytes) -> str:
    return "data:image/jpeg;base64," + base64.b64encode(data).decode()
