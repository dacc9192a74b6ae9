"""The hospital's side. `Site` is the Python API (docs/reference/python-api.md)."""

from ynet.errors import RefusedError, UnreachableError, UserError
from ynet_client.gallery.filters import Filters
from ynet_client.retrieval.results import Answer, ConsultRequest, Consults, Hit, Outcome
from ynet_client.site import Site

__all__ = [
    "Answer",
    "ConsultRequest",
    "Consults",
    "Filters",
    "Hit",
    "Outcome",
    "RefusedError",
    "Site",
    "UnreachableError",
    "UserError",
]
