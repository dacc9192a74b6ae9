"""Concatenate several sites' cases into one source."""

from collections.abc import Callable, Sequence

import torch
from jaxtyping import Bool, Int64
from torch import Tensor

from ynet.data.batch import SITE_STEP, Batch, CaseSource
from ynet.learning.map_cache import MappedSource, Reader, Seen
from ynet.learning.model import YNet

_Read = Callable[[int, Tensor, Tensor], Sequence[Tensor]]
"""Takes a source's number, positions in it, and their places in the batch."""


def concat(sources: Sequence[CaseSource]) -> CaseSource:
    """Concatenate sources; where all of them keep the maps of a frozen encoder, so does the result."""
    mapped = [source for source in sources if isinstance(source, MappedSource)]
    return MappedConcat(mapped) if len(mapped) == len(sources) else Concat(sources)


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
        return Batch(*self.gather(positions, lambda number, inner, _: self._sources[number].batch(inner)))

    def gather(self, positions: Int64[Tensor, " batch"], read: _Read) -> tuple[Tensor, ...]:
        """Concatenate what `read` returns for each source, in the order of `positions`.

        Raises:
            IndexError: A position is out of range.
        """
        if ((positions < 0) | (positions >= len(self))).any():
            raise IndexError(f"a position outside the {len(self)} cases")
        owner = torch.searchsorted(self._starts, positions, right=True) - 1
        order, parts = [], []
        for number in range(len(self._sources)):
            mine = torch.nonzero(owner == number).flatten()
            if len(mine):
                order.append(mine)
                parts.append(read(number, positions[mine] - self._starts[number], mine))
        back = torch.argsort(torch.cat(order))
        return tuple(torch.cat(tensors)[back.to(tensors[0].device)] for tensors in zip(*parts, strict=True))


class MappedConcat:
    """The cases of all sources, in the order of the sources, with the maps that each source keeps."""

    def __init__(self, sources: Sequence[MappedSource]) -> None:
        self._sources, self._cases = tuple(sources), Concat(sources)
        self.label: Int64[Tensor, " cases"] = self._cases.label
        self.patient: Int64[Tensor, " cases"] = self._cases.patient

    def __len__(self) -> int:
        return len(self._cases)

    def batch(self, positions: Int64[Tensor, " batch"]) -> Batch:
        """Return the cases at `positions`, in that order. Raises IndexError."""
        return self._cases.batch(positions)

    def reader(self, net: YNet) -> Reader:
        """Return what reads the maps of `net` from all sources."""
        readers = [source.reader(net) for source in self._sources]

        def read(positions: Int64[Tensor, " batch"], mirrored: Bool[Tensor, " batch"]) -> Seen:
            def tensors(number: int, inner: Tensor, places: Tensor) -> Sequence[Tensor]:
                batch, maps = readers[number](inner, mirrored[places])
                return (*batch, *maps)

            found, fields = self._cases.gather(positions, tensors), len(Batch._fields)
            return Seen(Batch(*found[:fields]), found[fields:])

        return read
