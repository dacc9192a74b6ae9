"""The maps of a frozen encoder, computed once for each case and for its mirror image, and kept in memory.

A plan with `training.trained: heads` never changes its encoder, so the maps of an image change only with its
augmentation. A map passes through half precision whether it is cached or not (`YNet.maps`), so the cache changes no
value. Nothing is written to disk.
"""

import hashlib
from collections.abc import Callable, Iterable, Iterator, Sequence
from typing import NamedTuple, Protocol, runtime_checkable

import torch
from jaxtyping import Bool, Float16, Int64, UInt8
from torch import Tensor, nn

from ynet.data.batch import Batch, CaseSource
from ynet.learning.model import YNet

CHUNK = 16
"""Images that the encoder computes at a time: more are no faster on a CPU."""


class Seen(NamedTuple):
    """A batch, and the encoder's maps of its images where they are known.

    A batch that comes with maps has images without channels, of shape (batch, 0, size, size).
    """

    batch: Batch
    maps: tuple[Tensor, ...]  # the largest first, each (batch, channels, h, w); empty: to be computed


Reader = Callable[[Int64[Tensor, " batch"], Bool[Tensor, " batch"]], Seen]
"""Returns the cases at some positions with the maps of each image, or of its mirror image where the second says so.

Everything is on the network's device. Masks are mirrored, too.
"""


@runtime_checkable
class MappedSource(CaseSource, Protocol):
    """A source that keeps the maps of its cases."""

    def reader(self, net: YNet) -> Reader:
        """Return what reads the maps of `net`, a network with a frozen encoder.

        It is valid until the encoder's weights change. Call it once for each round or evaluation.
        """


class _Store(NamedTuple):
    """Maps and masks of the first cases of a source."""

    shapes: tuple[torch.Size, ...]  # of each map
    maps: Float16[Tensor, "rows values"]  # two rows for each case where the plan flips: the image, its mirror image
    masks: UInt8[Tensor, "room regions size size"]
    drawn: Bool[Tensor, "room regions"]
    held: Bool[Tensor, " allrows"]  # of all cases, those without room as well


class _Computed(NamedTuple):
    """Some cases' maps, one case a row, and the other parts of their batch."""

    maps: Float16[Tensor, "batch values"]
    masks: UInt8[Tensor, "batch regions size size"]
    drawn: Bool[Tensor, "batch regions"]


class MapCache:
    """A source of cases that also keeps the maps of one frozen encoder, up to a limit.

    The first cases are kept, as in `CaseCache`; the others are computed on each access. Maps are kept as long as the
    encoder's weights stay the same, whatever plan or round they are asked for. One thread at a time reads maps.
    """

    def __init__(self, source: CaseSource, memory_limit_bytes: int, *, is_mirrored: bool) -> None:
        """Prepare the cache without computing; `is_mirrored`: maps of mirror images are asked for, too."""
        self._source, self._limit_bytes, self._sides = source, memory_limit_bytes, 2 if is_mirrored else 1
        self._digest = b""
        self._store: _Store | None = None

    @property
    def label(self) -> Int64[Tensor, " cases"]:
        """The label of every case."""
        return self._source.label

    @property
    def patient(self) -> Int64[Tensor, " cases"]:
        """The patient of every case."""
        return self._source.patient

    def __len__(self) -> int:
        return len(self._source)

    @property
    def nbytes(self) -> int:
        """Bytes of the maps that are kept and of their masks; never above the limit."""
        if self._store is None:
            return 0
        maps, masks = self._store.maps, self._store.masks
        cases = self._store.held.view(-1, self._sides).any(1).sum()
        return int(self._store.held.sum()) * maps[:1].nbytes + int(cases) * masks[:1].nbytes

    def batch(self, positions: Int64[Tensor, " batch"]) -> Batch:
        """Return the cases at `positions`, with their images."""
        return self._source.batch(positions)

    def reader(self, net: YNet) -> Reader:
        """Return what reads the maps of `net`; maps of another encoder are dropped.

        Raises:
            ValueError: The encoder is trained.
        """
        if not net.is_frozen:
            raise ValueError("maps of an encoder that is trained are not kept")
        digest = encoder_digest(net)
        if digest != self._digest:
            self._digest, self._store = digest, None
        return lambda positions, mirrored: self._seen(net, positions, mirrored)

    def _seen(self, net: YNet, positions: Tensor, mirrored: Tensor) -> Seen:
        rows = positions * self._sides + mirrored.long()
        if self._store is None:
            self._store = self._allocated(net)
        store, is_held = self._store, self._store.held[rows]
        if is_held.all():
            found = _Computed(store.maps[rows], store.masks[positions], store.drawn[positions])
        else:
            found = self._completed(net, store, positions, mirrored)
        device = next(net.parameters()).device
        masks = found.masks.float()
        masks = torch.where(mirrored.view(-1, 1, 1, 1), masks.flip(-1), masks).to(device)
        image = masks.new_empty(len(positions), 0, *masks.shape[-2:])
        maps = _unpacked(found.maps.to(device).float(), store.shapes)
        return Seen(Batch(image, masks, self.label[positions].to(device), found.drawn.to(device)), maps)

    def _completed(self, net: YNet, store: _Store, positions: Tensor, mirrored: Tensor) -> _Computed:
        """Return a batch some of whose cases are not held; hold those that have room."""
        rows = positions * self._sides + mirrored.long()
        is_held = store.held[rows]
        maps = store.maps.new_empty(len(rows), store.maps.shape[1])
        masks = store.masks.new_empty(len(rows), *store.masks.shape[1:])
        drawn = store.drawn.new_zeros(len(rows), *store.drawn.shape[1:])
        known, missing = is_held.nonzero().flatten(), (~is_held).nonzero().flatten()
        maps[known], masks[known] = store.maps[rows[known]], store.masks[positions[known]]
        drawn[known] = store.drawn[positions[known]]
        for part in torch.split(missing, CHUNK):
            maps[part], masks[part], drawn[part] = self._computed(net, positions[part], mirrored[part])
        kept = missing[positions[missing] < len(store.masks)]
        store.maps[rows[kept]], store.masks[positions[kept]] = maps[kept], masks[kept]
        store.drawn[positions[kept]], store.held[rows[kept]] = drawn[kept], True
        return _Computed(maps, masks, drawn)

    def _computed(self, net: YNet, positions: Tensor, mirrored: Tensor) -> _Computed:
        batch, device = self._source.batch(positions), next(net.parameters()).device
        image = torch.where(mirrored.view(-1, 1, 1, 1), batch.image.flip(-1), batch.image)
        maps = torch.cat([h.half().flatten(1).cpu() for h in net.maps(image.to(device))], 1)
        return _Computed(maps, batch.mask.byte(), batch.drawn)

    def _allocated(self, net: YNet) -> _Store:
        """Allocate memory for as many cases as fit; the OS gives it only when a case is written to it."""
        batch = self._source.batch(torch.zeros(1, dtype=torch.int64))
        shapes = tuple(h.shape[1:] for h in net.maps(batch.image.to(next(net.parameters()).device)))
        values, (_, regions, _, size) = sum(shape.numel() for shape in shapes), batch.mask.shape
        bytes_per_case = 2 * self._sides * values + regions * size * size
        room = min(len(self), max(0, self._limit_bytes) // bytes_per_case)
        return _Store(
            shapes,
            torch.empty(room * self._sides, values, dtype=torch.float16),
            torch.empty(room, regions, size, size, dtype=torch.uint8),
            torch.zeros(room, *batch.drawn.shape[1:], dtype=torch.bool),
            torch.zeros(len(self) * self._sides, dtype=torch.bool),
        )


def encoder_digest(net: YNet) -> bytes:
    """Return the SHA-256 of everything that an encoder's maps depend on, except the image."""
    modules: Sequence[nn.Module] = [net.stem, net.stages] if net.encoder is None else [net.encoder]
    return digest_of(named for module in modules for named in _arrays(module))


def digest_of(arrays: Iterable[tuple[str, Tensor]]) -> bytes:
    """Return the SHA-256 of arrays with their names, shapes and types."""
    digest = hashlib.sha256()
    for name, value in arrays:
        digest.update(f"{name} {tuple(value.shape)} {value.dtype};".encode())
        digest.update(value.detach().cpu().contiguous().numpy().data)
    return digest.digest()


def _arrays(module: nn.Module) -> Iterator[tuple[str, Tensor]]:
    """Yield parameters and buffers, those of the normalisation as well, which are not in the state."""
    yield from module.named_parameters()
    yield from module.named_buffers()


def _unpacked(flat: Tensor, shapes: Sequence[torch.Size]) -> tuple[Tensor, ...]:
    parts = torch.split(flat, [shape.numel() for shape in shapes], dim=1)
    return tuple(part.view(len(flat), *shape) for part, shape in zip(parts, shapes, strict=True))
