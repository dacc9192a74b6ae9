"""What commands and the Python API ask of a site's running client, through its door on loopback."""

from collections.abc import Sequence
from pathlib import Path
from typing import Any, NamedTuple

from ynet.data.frames import source
from ynet.errors import UserError
from ynet.runtime import control_client
from ynet.runtime.home import user_name
from ynet_client.gallery import filters as filters_
from ynet_client.gallery.filters import Filters

QUERY_WITHIN_S = 600.0
INDEX_WITHIN_S = 24 * 3600.0
COPIED_WITHIN_S = 3600.0
ALL = Filters()


class Picture(NamedTuple):
    """An image file that is asked about."""

    name: str
    data: bytes
    frame: int | None = None  # of a DICOM file of several, from 1


def read_picture(path: Path) -> Picture:
    """An image file, `FILE.dcm#7` one frame of it. Raises UserError when it cannot be read."""
    file_path, frame = source(path)
    try:
        return Picture(path.name, file_path.read_bytes(), frame)
    except OSError as error:
        raise UserError(f"the image {path} cannot be read", error.strerror or "", "check the path") from None


def query(
    home: Path,
    pictures: Sequence[Picture],
    k: int = 10,
    filters: Filters = ALL,
    *,
    radius: int | None = None,
    one_per_patient: bool = False,
    sites: Sequence[str] = (),
    epsilon: float | None = None,
    is_drawn: bool = False,
) -> dict[str, Any]:
    """The hits for one image; for several `queries`, a list of such answers. `is_drawn`: with a `picture`, base64.

    Raises UserError, RefusedError, UnreachableError.
    """
    filters_.check(filters)
    asked: dict[str, Any] = {
        "k": k,
        "split": filters.split,
        "label": list(filters.labels),
        "attribute": [_pair(name, value) for name, value in filters.attributes],
        "since": filters.since,
        "until": filters.until,
        "radius": "" if radius is None else radius,
        "one_per_patient": int(one_per_patient),
        "sites": ",".join(sites),
        "epsilon": "" if epsilon is None else _positive(epsilon),
        "picture": int(is_drawn),
        "name": [one.name for one in pictures],
        "size": [len(one.data) for one in pictures],
        "frame": ["" if one.frame is None else one.frame for one in pictures],
        "user": user_name(),
    }
    content = b"".join(one.data for one in pictures)
    return dict(_call(home, "POST", "/query", QUERY_WITHIN_S, content=content, params=asked))


def segment(home: Path, picture: Picture) -> dict[str, Any]:
    """The lesion that the model in use predicts: `mask` (a PNG in base64, of the image's size), `model`, `plan`.

    Raises UserError, RefusedError before there is a model, UnreachableError.
    """
    asked: dict[str, Any] = {"frame": "" if picture.frame is None else picture.frame, "user": user_name()}
    return dict(_call(home, "POST", "/segment", QUERY_WITHIN_S, content=picture.data, params=asked))


def consult(home: Path, token: str, note: str, to: str = "") -> dict[str, Any]:
    """Ask the owners of a hit about it. Raises UserError, RefusedError, UnreachableError."""
    asked = {"token": token.lower(), "note": note, "to": to, "user": user_name()}
    return dict(_call(home, "POST", "/consult", json=asked))


def consults(home: Path) -> dict[str, Any]:
    """All requests for a consult, the newest first, and why not all owners could be asked. Raises UserError."""
    return dict(_call(home, "POST", "/consults", params={"user": user_name()}))


def answer_consult(home: Path, id_: str, decision: str, text: str) -> dict[str, Any]:
    """Say yes or no to a request. Raises UserError, RefusedError when it was answered already."""
    said = {"id": id_.lower(), "decision": decision, "text": text, "user": user_name()}
    return dict(_call(home, "POST", "/consult-answer", json=said))


def copy_databases(home: Path) -> None:
    """Have the running client lay copies of its databases aside. Raises UserError, UnreachableError."""
    _call(home, "POST", "/copies", COPIED_WITHIN_S)


def tell_imported(home: Path, images: int, left_out: int) -> None:
    """Have the running client write down what was imported. Raises UserError, UnreachableError."""
    _call(home, "POST", "/imported", json={"images": images, "left_out": left_out})


def status(home: Path) -> dict[str, Any]:
    """Whether the site is connected, what it does, and what its gallery holds. Raises UnreachableError."""
    return dict(_call(home, "GET", "/status"))


def look_round(home: Path) -> None:
    """Have the running client see which other sites are connected. Raises UnreachableError."""
    _call(home, "POST", "/sites")


def workbench(home: Path) -> dict[str, Any]:
    """Whether there is a page for radiologists, and where. Raises UnreachableError."""
    return dict(_call(home, "GET", "/workbench"))


def index(home: Path) -> dict[str, Any]:
    """Bring the gallery up to date with the manifest. Raises UserError, RefusedError before there is a model."""
    return dict(_call(home, "POST", "/index", INDEX_WITHIN_S))


def verify(home: Path) -> dict[str, Any]:
    """Hold the gallery's file against its checksums, and encode again what is damaged. Raises UserError."""
    return dict(_call(home, "POST", "/verify", INDEX_WITHIN_S))


def forget(home: Path, patient: str) -> dict[str, Any]:
    """Take a patient out of gallery and training, for good; the receipt. Raises UserError."""
    return dict(_call(home, "POST", "/forget", INDEX_WITHIN_S, json={"patient": patient}))


def _call(home: Path, method: str, path: str, timeout_s: float = 60.0, **request: Any) -> Any:
    """What the client running in `home` answers. Raises UserError, UnreachableError when none does."""
    from ynet_client.membership import membership  # cryptography: not for help and completion

    member = membership.load(home)
    name = member.site if member else "SITE"
    start = f"ynet-client join --site={name}"
    return control_client.call(home, method, path, f"the client of site {name}", start, timeout_s, **request)


def _pair(name: str, value: str) -> str:
    """As the flag has it. A name with a = in it would be read as a shorter one."""
    if not name or "=" in name:
        raise UserError("the filter cannot be used", f"{name[:40]!r} is no attribute's name", "correct it")
    return f"{name}={value}"


def _positive(epsilon: float) -> float:
    """An epsilon of 0 would be sent as none at all: the opposite of what is meant."""
    if not epsilon > 0:
        raise UserError("the query cannot be noised", f"epsilon is {epsilon}", "say more than 0; 6 is a start")
    return epsilon
