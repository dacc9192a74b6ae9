"""A hit: one case that is like a query. The same value in the site that has the case and in the site that asks."""

from collections.abc import Mapping
from typing import Any, NamedTuple


class Hit(NamedTuple):
    """A case like a query. Its own site fills the first four fields and sends no others; the asking site adds the rest.

    `token` names the case to its own site alone. `rank` counts from 1 over the hits of all sites.
    """

    distance: int  # Hamming, in bits; coarse where a site coarsens its distances
    token: bytes
    label: str | None  # None where the site does not share it; empty where nobody has labelled the case
    ties: int  # cases of that site at this distance, this one included
    site: str = ""  # the site that has the case
    rank: int | None = None  # None for a hit that is not among the first k
    image: str | None = None  # path in the manifest; of the asking site's own cases only

    def to_json(self) -> dict[str, Any]:
        """Return the hit as a JSON object; an `image` only where there is one."""
        shown = {
            "rank": self.rank,
            "site": self.site,
            "distance": self.distance,
            "label": self.label,
            "ties": self.ties,
            "token": self.token.hex(),
        }
        return shown if self.image is None else {**shown, "image": self.image}

    @property
    def label_words(self) -> str:
        """The label for people: an unlabelled case differs from a label that is not shared."""
        return "label not shared" if self.label is None else self.label or "no label"

    @classmethod
    def from_json(cls, shown: Mapping[str, Any]) -> "Hit":
        """Read what `to_json` wrote."""
        return cls(**{**shown, "token": bytes.fromhex(shown["token"])})
