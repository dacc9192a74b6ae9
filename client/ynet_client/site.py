"""The Python API: a hospital's site, asked as the commands ask it. `ynet-client join` must be running for it."""

from collections.abc import Sequence
from pathlib import Path
from typing import TYPE_CHECKING, Any, TypeAlias, TypedDict, cast, overload

from ynet.errors import UserError
from ynet_client import control_client, homes
from ynet_client.control_client import Picture
from ynet_client.gallery.filters import Filters
from ynet_client.retrieval.results import Answer, ConsultRequest, Consults, Hit, read_answer, read_consult

if TYPE_CHECKING:
    from ynet_client.forgetting import Receipt
    from ynet_client.gallery.gallery_results import Stats

Image: TypeAlias = str | Path | bytes
"""A PNG, JPEG, TIFF or DICOM file: where it is, or what is in it. `FILE.dcm#7` is frame 7 of several."""


class Status(TypedDict):
    """What a site is doing."""

    site: str
    connected: bool
    doing: str
    model: str | None
    gallery: "Stats"


class Site:
    """A site that has joined from this machine, as this user. Any thread may call.

    Every method raises UnreachableError when its client is not running, RefusedError when a policy says no, UserError
    for what the caller can mend; each says what happened, why, and what to do.
    """

    def __init__(self, name: str | None = None, home: Path | None = None) -> None:
        """Without a name the only one there is. `home`: its folder, else YNET_HOME or the user's data directory.

        Raises UserError when it is not clear which site is meant, or the folder is another site's.
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
        filters: Filters = control_client.ALL,
        *,
        radius: int | None = None,
        one_per_patient: bool = False,
        sites: Sequence[str] = (),
        epsilon: float | None = None,
    ) -> Answer | list[Answer]:
        """Have we, or has anyone, seen a case like this? Several images are one batch, answered in their order.

        `k`: hits for each image, 1 to 100; `radius`: no case farther than this, in bits; `one_per_patient`: of each
        patient the nearest case; `sites`: who is asked, empty for all others; `epsilon`: hide the code by randomised
        response. Only codes leave the site.
        """
        is_one = isinstance(image, str | Path | bytes)
        images = [image] if isinstance(image, str | Path | bytes) else image
        pictures = [_picture(one) for one in images]
        if not pictures:
            return []
        found = control_client.query(
            self.home,
            pictures,
            k,
            filters,
            radius=radius,
            one_per_patient=one_per_patient,
            sites=[sites] if isinstance(sites, str) else sites,
            epsilon=epsilon,
        )
        answers = [read_answer(one) for one in found.get("queries", [found])]
        return answers[0] if is_one else answers

    def consult(self, hit: Hit, note: str) -> ConsultRequest:
        """Ask the people of a hit's site about it: they see which case it is, and `note`, and answer yes or no."""
        return read_consult(control_client.consult(self.home, hit.token, note, hit.site))

    def consults(self) -> Consults:
        """The requests sent and received; asks the other sites for their answers first."""
        found: dict[str, Any] = control_client.consults(self.home)
        return Consults(tuple(read_consult(one) for one in found["consults"]), found["note"])

    def answer_consult(self, request: ConsultRequest | str, *, yes: bool, text: str = "") -> ConsultRequest:
        """Say yes or no to a request, or to its id; it cannot be taken back."""
        id_ = request if isinstance(request, str) else request.id
        return read_consult(control_client.answer_consult(self.home, id_, "yes" if yes else "no", text))

    def status(self) -> Status:
        """Whether the site is connected, what it does, and what its gallery holds."""
        return cast(Status, control_client.status(self.home))

    def index(self) -> dict[str, int]:
        """Bring the gallery up to date with the manifest: `cases`, and how many were `encoded`."""
        return control_client.index(self.home)

    def forget(self, patient: str) -> "Receipt":
        """Take a patient out of gallery and training, for good; the receipt."""
        return cast("Receipt", control_client.forget(self.home, patient))


def _picture(image: Image) -> Picture:
    return Picture("", image) if isinstance(image, bytes) else control_client.read_picture(Path(image))
