"""A query: what somebody asks about images. Commands, page, Python API and control socket share it and its JSON."""

import json
from dataclasses import asdict, dataclass
from typing import ClassVar

from ynet.errors import RefusedError, UserError
from ynet_client.gallery import filters as filters_
from ynet_client.gallery.filters import Filters

MAX_K = 100
MAX_RADIUS = 256
_WHAT = "the query cannot be asked"


@dataclass(frozen=True)
class Query:
    """Ask which cases are nearest to an image; of several images, the same of each.

    Raises UserError where a value has no meaning, RefusedError where it asks for too many hits.
    """

    __pydantic_config__: ClassVar[dict[str, str]] = {"extra": "forbid"}

    k: int = 10  # hits for each image
    filters: Filters = Filters()  # noqa: RUF009 (frozen)
    radius: int | None = None  # no case farther than this, in bits
    one_per_patient: bool = False  # of each patient the nearest case
    sites: tuple[str, ...] = ()  # the sites that are asked; empty: all others
    epsilon: float | None = None  # of randomised response; None: the true code is sent

    def __post_init__(self) -> None:
        if not 1 <= self.k <= MAX_K:
            why = f"it asks for {self.k} hits, not for 1 to {MAX_K}"
            raise RefusedError("a query was refused", why, f"ask for at most {MAX_K}")
        if self.radius is not None and not 0 <= self.radius <= MAX_RADIUS:
            raise UserError(_WHAT, f"the radius is {self.radius}", f"say it in bits, 0 to {MAX_RADIUS}")
        if self.epsilon is not None and not self.epsilon > 0:
            raise UserError("the query cannot be noised", f"epsilon is {self.epsilon}", "say more than 0; 6 is a start")
        if self.sites:
            _check_sites(self.sites)
        filters_.check(self.filters)
        if not all(name for name, _ in self.filters.attributes):
            raise UserError("the filter cannot be used", "an attribute has no name", "correct it")

    def to_json(self) -> str:
        """Return the query as JSON, for `read_query`."""
        return json.dumps(asdict(self))


def read_query(text: str) -> Query:
    """Read a query from JSON; a missing key has its default. Raises UserError, RefusedError."""
    from ynet import config  # pydantic: 0.1 s that help and completion need not wait

    try:
        values = json.loads(text)
    except (ValueError, RecursionError):
        values = None
    if not isinstance(values, dict):
        raise UserError(_WHAT, "it is not a JSON object", "update ynet on both sides")
    return config.parse(Query, values, "the query")


def _check_sites(sites: tuple[str, ...]) -> None:
    from ynet.trust.identity import SITE_NAME  # cryptography: not for help and completion

    for site in sites:
        if not SITE_NAME.match(site):
            raise UserError(_WHAT, f"{site[:40]!r} names no site", "say --sites A,B")
