"""The form in which prepared cases reach the network."""

from typing import NamedTuple, Protocol, runtime_checkable

from jaxtyping import Bool, Float, Int64
from torch import Tensor


class Batch(NamedTuple):
    """Some cases, prepared: images standardised, masks 0 or 1, labels as positions in the plan's classes."""

    image: Float[Tensor, "batch channels size size"]
    mask: Float[Tensor, "batch 1 size size"]
    label: Int64[Tensor, " batch"]
    drawn: Bool[Tensor, " batch"]  # whether the mask is known; else it is 0 and takes no part


@runtime_checkable
class CaseSource(Protocol):
    """Prepared cases that can be asked for by position, as often as wanted and in any order."""

    @property
    def label(self) -> Int64[Tensor, " cases"]:
        """The label of every case, as a position in the plan's classes."""

    def __len__(self) -> int: ...

    def batch(self, positions: Int64[Tensor, " batch"]) -> Batch:
        """The cases at `positions`, in that order, on the CPU."""
