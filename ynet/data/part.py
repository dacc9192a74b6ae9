"""Some of a source's cases as a source of their own."""

from jaxtyping import Int64
from torch import Tensor

from ynet.data.batch import Batch, CaseSource


class Part:
    """The cases of `source` at `positions`, in that order."""

    def __init__(self, source: CaseSource, positions: Int64[Tensor, " cases"]) -> None:
        self._source, self._positions = source, positions
        self.label: Int64[Tensor, " cases"] = source.label[positions]

    def __len__(self) -> int:
        return len(self._positions)

    def batch(self, positions: Int64[Tensor, " batch"]) -> Batch:
        """The cases at `positions` of the part. Raises IndexError."""
        return self._source.batch(self._positions[positions])
