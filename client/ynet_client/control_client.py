"""Call a site's running client over the control socket in its home, for the commands and the Python API."""

import base64
from collections.abc import Sequence
from pathlib import Path
from typing import Any, NamedTuple

from ynet.data.frames import source
from ynet.errors import UserError
from ynet.runtime import control_client
from ynet.runtime.home import user_name
from ynet_client.retrieval.query import Query
from ynet_client.retrieval.results import Answer

QUERY_WITHIN_S = 600.0
INDEX_WITHIN_S = 24 * 3600.0
COPIED_WITHIN_S = 3600.0
EVERYWHERE = Query()


class ImageFile(NamedTuple):
    """An image file that is asked about."""

    name: str
    data: bytes
    frame: int | None = None  # of a DICOM file of several, from 1


class QueryReply(NamedTuple):
    """The answers about some images, in their order."""

    answers: list[Answer]
    picture: bytes | None = None  # PNG, where one was asked for


def read_image(path: Path) -> ImageFile:
    """Read an image file; `FILE.dcm#7` is its frame 7. Raises UserError when it cannot be read."""
    file_path, frame = source(path)
    try:
        return ImageFile(path.name, file_path.read_bytes(), frame)
    except OSError as error:
        raise UserError(f"the image {path} cannot be read", error.strerror or "", "check the path") from None


def query(home: Path, images: Sequence[ImageFile], query: Query = EVERYWHERE, *, is_drawn: bool = False) -> QueryReply:
    """Ask about images. `is_drawn`: draw the answer about the first as a picture.

    Raises UserError, RefusedError, UnreachableError.
    """
    asked: dict[str, Any] = {
        "query": query.to_json(),
        "picture": int(is_drawn),
        "name": [one.name for one in images],
        "size": [len(one.data) for one in images],
        "frame": ["" if one.frame is None else one.frame for one in images],
        "user": user_name(),
    }
    content = b"".join(one.data for one in images)
    found = _call(home, "POST", "/query", QUERY_WITHIN_S, content=content, params=asked)
    drawn = found["picture"]
    return QueryReply([Answer.from_json(one) for one in found["queries"]], base64.b64decode(drawn) if drawn else None)


def segment(home: Path, image: ImageFile) -> dict[str, Any]:
    """Predict the lesion with the model in use: `mask` (a PNG in base64, of the image's size), `model`, `plan`.

    Raises UserError, RefusedError before there is a model, UnreachableError.
    """
    asked: dict[str, Any] = {"frame": "" if image.frame is None else image.frame, "user": user_name()}
    return dict(_call(home, "POST", "/segment", QUERY_WITHIN_S, content=image.data, params=asked))


def consult(home: Path, token: str, note: str, to: str = "") -> dict[str, Any]:
    """Send a request for a consult to the site that has a hit. Raises UserError, RefusedError, UnreachableError."""
    asked = {"token": token.lower(), "note": note, "to": to, "user": user_name()}
    return dict(_call(home, "POST", "/consult", json=asked))


def consults(home: Path) -> dict[str, Any]:
    """Return all requests for a consult, the newest first, and which sites could not be asked. Raises UserError."""
    return dict(_call(home, "POST", "/consults", params={"user": user_name()}))


def answer_consult(home: Path, id_: str, decision: str, text: str) -> dict[str, Any]:
    """Answer a request with yes or no. Raises UserError, RefusedError when it has an answer."""
    answer = {"id": id_.lower(), "decision": decision, "text": text, "user": user_name()}
    return dict(_call(home, "POST", "/consult-answer", json=answer))


def copy_databases(home: Path) -> None:
    """Let the running client copy its databases for a backup. Raises UserError, UnreachableError."""
    _call(home, "POST", "/copies", COPIED_WITHIN_S)


def tell_imported(home: Path, images: int, left_out: int) -> None:
    """Let the running client record an import in its audit log. Raises UserError, UnreachableError."""
    _call(home, "POST", "/imported", json={"images": images, "left_out": left_out})


def status(home: Path) -> dict[str, Any]:
    """Return whether the site is connected, what it does, and what its gallery holds. Raises UnreachableError."""
    return dict(_call(home, "GET", "/status"))


def look_round(home: Path) -> None:
    """Let the running client ask the hub which other sites are connected. Raises UnreachableError."""
    _call(home, "POST", "/sites")


def workbench(home: Path) -> dict[str, Any]:
    """Return whether the workbench is on, and its address. Raises UnreachableError."""
    return dict(_call(home, "GET", "/workbench"))


def index(home: Path) -> dict[str, Any]:
    """Bring the gallery up to date with the manifest. Raises UserError, RefusedError before there is a model."""
    return dict(_call(home, "POST", "/index", INDEX_WITHIN_S))


def verify(home: Path) -> dict[str, Any]:
    """Compare the gallery's file with its checksums, and encode damaged cases again. Raises UserError."""
    return dict(_call(home, "POST", "/verify", INDEX_WITHIN_S))


def forget(home: Path, patient: str) -> dict[str, Any]:
    """Take a patient out of gallery and training, for good; return the receipt. Raises UserError."""
    return dict(_call(home, "POST", "/forget", INDEX_WITHIN_S, json={"patient": patient}))


def _call(home: Path, method: str, path: str, timeout_s: float = 60.0, **request: Any) -> Any:
    """Call the client that runs in `home`. Raises UserError, UnreachableError when none does."""
    from ynet_client.membership import membership  # cryptography: not for help and completion

    member = membership.load(home)
    name = member.site if member else "SITE"
    start = f"ynet-client join --site={name}"
    return control_client.call(home, method, path, f"the client of site {name}", start, timeout_s, **request)
