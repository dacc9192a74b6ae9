"""Concatenate several sites' cases into one source."""

from collections.abc import Sequence

import torch
from jaxtyping import Int64
from torch import Tensor

from ynet.data.batch import SITE_STEP, Batch, CaseSource


class Concat:
    """The cases of all sources, in the order of the sources."""

    def __init__(self, sources: Sequence[CaseSource]) -> None:
        self._sources = tuple(sources)
        sizes = torch.tensor([len(source) for source in self._sources], dtype=torch.int64)
        self._starts = torch.cumsum(sizes, 0) - sizes
        self.label: Int64[Tensor, " cases"] = torch.cat([source.label for source in self._sources])
        self.patient: Int64[Tensor, " cases"] = torch.cat(
            [source.patient + number * SITE_STEP for number, source in enumerate(self._sources)]
        )

    def __len__(self) -> int:
        return len(self.label)

    def batch(self, positions: Int64[Tensor, " batch"]) -> Batch:
        """Return the cases at `positions`, in that order.

        Raises:
            IndexError: A position is out of range.
        """
        if ((positions < 0) | (positions >= len(self))).any():
            raise IndexError(f"a position outside the {len(self)} cases")
        owner = torch.searchsorted(self._starts, positions, right=True) - 1
        order, parts = [], []
        for number, source in enumerate(self._sources):
            mine = torch.nonzero(owner == number).flatten()
            if len(mine):
                order.append(mine)
                parts.append(source.batch(positions[mine] - self._starts[number]))
        back = torch.argsort(torch.cat(order))
        return Batch(*(torch.cat(tensors)[back] for tensors in zip(*parts, strict=True)))
