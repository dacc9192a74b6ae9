"""The batch that the network takes, and the protocol of its sources."""

from typing import NamedTuple, Protocol, runtime_checkable

from jaxtyping import Bool, Float, Int64
from torch import Tensor

UNLABELLED = -1
"""The label of a case that nobody has labelled."""
SITE_STEP = 1 << 32
"""Where sources of several sites are joined, the numbers of the k-th site's patients begin at k times this."""


class Batch(NamedTuple):
    """Prepared cases: standardised images, masks of 0 and 1, labels as indices into the plan's classes or UNLABELLED.

    Masks have a channel for each region of the plan, one where the plan names none.
    """

    image: Float[Tensor, "batch channels size size"]
    mask: Float[Tensor, "batch regions size size"]
    label: Int64[Tensor, " batch"]
    drawn: Bool[Tensor, "batch regions"]  # whether the mask is known; if not, it is 0 and excluded from loss and scores


@runtime_checkable
class CaseSource(Protocol):
    """Prepared cases with random access by position."""

    @property
    def label(self) -> Int64[Tensor, " cases"]:
        """The label of every case, as an index into the plan's classes; UNLABELLED where it has none."""

    @property
    def patient(self) -> Int64[Tensor, " cases"]:
        """The patient of every case, as a number that sources of the same site share. It never leaves the site."""

    def __len__(self) -> int: ...

    def batch(self, positions: Int64[Tensor, " batch"]) -> Batch:
        """Return the cases at `positions`, in that order, on the CPU."""
