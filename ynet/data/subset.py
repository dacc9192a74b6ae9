"""A subset of a source's cases."""

from jaxtyping import Int64
from torch import Tensor

from ynet.data.batch import Batch, CaseSource


class Subset:
    """The cases of `source` at `positions`, in that order.

    It is to `CaseSource` what `torch.utils.data.Subset` is to a `Dataset`. Training needs whole batches and the
    labels of all cases, and torch's class provides neither.
    """

    def __init__(self, source: CaseSource, positions: Int64[Tensor, " cases"]) -> None:
        self._source, self._positions = source, positions
        self.label: Int64[Tensor, " cases"] = source.label[positions]
        self.patient: Int64[Tensor, " cases"] = source.patient[positions]

    def __len__(self) -> int:
        return len(self._positions)

    def batch(self, positions: Int64[Tensor, " batch"]) -> Batch:
        """Return the cases at `positions` of the subset. Raises IndexError."""
        return self._source.batch(self._positions[positions])
