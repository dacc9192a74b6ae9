"""The Python API: a hospital's site, through the control socket of its running `ynet-client join`."""

from collections.abc import Sequence
from pathlib import Path
from typing import TYPE_CHECKING, Any, TypeAlias, TypedDict, cast, overload

from ynet.errors import UserError
from ynet.search.hit import Hit
from ynet_client import control_client, homes
from ynet_client.control_client import ImageFile
from ynet_client.gallery.filters import Filters
from ynet_client.retrieval.query import Query
from ynet_client.retrieval.results import Answer, ConsultRequest, Consults, read_consult

if TYPE_CHECKING:
    from ynet_client.forgetting import Receipt
    from ynet_client.gallery.gallery_results import Stats

EVERY_CASE = Filters()
Image: TypeAlias = str | Path | bytes
"""The path or the bytes of a PNG, JPEG, TIFF or DICOM file. `FILE.dcm#7` is frame 7 of several."""


class Status(TypedDict):
    """The state of a site."""

    site: str
    connected: bool
    doing: str
    model: str | None
    gallery: "Stats"


class Site:
    """A site that has joined from this machine, as this user. Any thread may call.

    Every method raises UnreachableError when the client is not running, RefusedError when a policy refuses, UserError
    for what the caller can correct.
    """

    def __init__(self, name: str | None = None, home: Path | None = None) -> None:
        """Find the site.

        Args:
            name: may be left out where one site has joined from here.
            home: the site's folder; by default YNET_HOME, else the user's data directory.

        Raises:
            UserError: several sites have joined, or the folder is another site's.

        """
        self.home = homes.home_of(home, name)
        from ynet_client.membership import membership

        member = membership.load(self.home)
        if member and name not in (None, member.site):
            raise UserError(f"this folder is not site {name}'s", f"it is site {member.site}'s", "give another home")
        self.name = member.site if member else name

    def __repr__(self) -> str:
        return f"Site({self.name!r})"

    @overload
    def query(  # type: ignore[overload-overlap]  # a str is one image, not a sequence of them
        self,
        image: Image,
        k: int = 10,
        filters: Filters = ...,
        *,
        radius: int | None = None,
        one_per_patient: bool = False,
        sites: Sequence[str] = (),
        epsilon: float | None = None,
    ) -> Answer: ...

    @overload
    def query(
        self,
        image: Sequence[Image],
        k: int = 10,
        filters: Filters = ...,
        *,
        radius: int | None = None,
        one_per_patient: bool = False,
        sites: Sequence[str] = (),
        epsilon: float | None = None,
    ) -> list[Answer]: ...

    def query(
        self,
        image: Image | Sequence[Image],
        k: int = 10,
        filters: Filters = EVERY_CASE,
        *,
        radius: int | None = None,
        one_per_patient: bool = False,
        sites: Sequence[str] = (),
        epsilon: float | None = None,
    ) -> Answer | list[Answer]:
        """Find the cases most like an image, here and at the other sites. Only codes leave the site.

        Args:
            image: one image, or several: they are one batch, and the answers have their order.
            k: hits for each image, 1 to 100.
            filters: which cases count.
            radius: no case farther than this, in bits.
            one_per_patient: of each patient the nearest case only.
            sites: the sites that are asked; empty for all others.
            epsilon: hide the code by randomised response with this epsilon.

        """
        named = (sites,) if isinstance(sites, str) else tuple(sites)
        asked = Query(k, filters, radius, one_per_patient, named, epsilon)
        is_one = isinstance(image, str | Path | bytes)
        files = [_image_file(one) for one in ([image] if isinstance(image, str | Path | bytes) else image)]
        if not files:
            return []
        answers = control_client.query(self.home, files, asked).answers
        return answers[0] if is_one else answers

    def consult(self, hit: Hit, note: str) -> ConsultRequest:
        """Ask the people of a hit's site about it: they see which case it is, and `note`, and answer yes or no."""
        return read_consult(control_client.consult(self.home, hit.token.hex(), note, hit.site))

    def consults(self) -> Consults:
        """Return the requests sent and received; asks the other sites for their answers first."""
        found: dict[str, Any] = control_client.consults(self.home)
        return Consults(tuple(read_consult(one) for one in found["consults"]), found["note"])

    def answer_consult(self, request: ConsultRequest | str, *, yes: bool, text: str = "") -> ConsultRequest:
        """Answer a request, or the one with an id, with yes or no; this cannot be taken back."""
        id_ = request if isinstance(request, str) else request.id
        return read_consult(control_client.answer_consult(self.home, id_, "yes" if yes else "no", text))

    def status(self) -> Status:
        """Return whether the site is connected, what it does, and what its gallery holds."""
        return cast(Status, control_client.status(self.home))

    def index(self) -> dict[str, int]:
        """Bring the gallery up to date with the manifest; return `cases`, and how many were `encoded`."""
        return control_client.index(self.home)

    def forget(self, patient: str) -> "Receipt":
        """Take a patient out of gallery and training, for good; return the receipt."""
        return cast("Receipt", control_client.forget(self.home, patient))


def _image_file(image: Image) -> ImageFile:
    return ImageFile("", image) if isinstance(image, bytes) else control_client.read_image(Path(image))
