"""A site's cases, prepared for the network and cached in memory up to a limit."""

import threading
from collections.abc import Sequence
from functools import cached_property

import numpy as np
import torch
from jaxtyping import Float16, Int64, UInt8
from torch import Tensor

from ynet.data import images
from ynet.data import regions as region_masks
from ynet.data.batch import UNLABELLED, Batch
from ynet.data.manifest import Case, Manifest
from ynet.data.prepare import prepare, prepare_mask
from ynet.errors import UserError
from ynet.plan_sections import Image, Regions

ONE_REGION = Regions()


class CaseCache:
    """Cases by position; those that fit under the limit are decoded once, the others on each access.

    The cache holds a fixed set of cases, the first ones, and never evicts: training reads every case once per epoch in
    random order, where no eviction policy beats a fixed set. Cached or not, images pass through float16 and masks
    through bytes, so the limit changes no value. Thread-safe.
    """

    def __init__(
        self,
        manifest: Manifest,
        cases: Sequence[Case],
        image: Image,
        classes: Sequence[str],
        memory_limit_bytes: int,
        regions: Regions = ONE_REGION,
    ) -> None:
        """Prepare the cache without decoding.

        Raises UserError when a label is not in `classes`, or the manifest lacks the column of a region.
        """
        self._manifest, self._cases, self._image, self._regions = manifest, tuple(cases), image, regions
        region_masks.refuse_missing(self._cases, regions)
        self.label: Int64[Tensor, " cases"] = torch.tensor(
            [_position(case, classes) for case in self._cases], dtype=torch.int64
        )
        drawn = [[one.is_drawn for one in region_masks.sources(case, regions)] for case in self._cases]
        self._drawn = torch.tensor(drawn, dtype=torch.bool).view(len(drawn), regions.count)
        area = image.size * image.size
        self._bytes_per_case = 2 * image.channels * area + regions.count * area
        room = min(len(self._cases), max(0, memory_limit_bytes) // self._bytes_per_case)
        # The OS allocates these pages only when a case is written to them.
        self._images = torch.empty(room, image.channels, image.size, image.size, dtype=torch.float16)
        self._masks = torch.empty(room, regions.count, image.size, image.size, dtype=torch.uint8)
        self._held = torch.zeros(len(self._cases), dtype=torch.bool)
        self._held_count = 0
        self._lock = threading.Lock()

    @cached_property
    def patient(self) -> Int64[Tensor, " cases"]:
        """The patient of every case: the manifest's row in which the patient first occurs."""
        first: dict[str, int] = {}
        for case in self._manifest.cases:
            first.setdefault(case.patient, case.row)
        return torch.tensor([first[case.patient] for case in self._cases], dtype=torch.int64)

    def __len__(self) -> int:
        return len(self._cases)

    @property
    def nbytes(self) -> int:
        """Bytes of the cached images and masks; never above the limit."""
        return self._held_count * self._bytes_per_case

    def batch(self, positions: Int64[Tensor, " batch"]) -> Batch:
        """Return the cases at `positions`, in that order. Raises UserError when a file cannot be used, IndexError."""
        label, drawn = self.label.index_select(0, positions), self._drawn.index_select(0, positions)
        if self._held_count < len(self._cases):
            missing = positions[~self._held.index_select(0, positions)]
            decoded = {position: self._prepare(position) for position in set(missing.tolist())}
            if any(position >= len(self._images) for position in decoded):
                return Batch(*self._assembled(positions, decoded), label, drawn)
        image = self._images.index_select(0, positions).float()
        return Batch(image, self._masks.index_select(0, positions).float(), label, drawn)

    def _assembled(self, positions: Tensor, decoded: dict[int, tuple[Tensor, Tensor]]) -> tuple[Tensor, Tensor]:
        """Assemble the images and masks of a batch with cases beyond the limit."""
        pairs = [
            decoded[position] if position in decoded else (self._images[position], self._masks[position])
            for position in positions.tolist()
        ]
        image = torch.stack([image for image, _ in pairs]).float()
        return image, torch.stack([mask for _, mask in pairs]).float()

    def _prepare(
        self, position: int
    ) -> tuple[Float16[Tensor, "channels size size"], UInt8[Tensor, "regions size size"]]:
        """Decode one case, and cache it if there is room."""
        image, mask = _decode(self._manifest, self._cases[position], self._image, self._regions)
        with self._lock:
            if position < len(self._images) and not self._held[position]:
                self._images[position], self._masks[position] = image, mask
                self._held[position] = True  # after the pixels: other threads read without the lock
                self._held_count += 1
        return image, mask


def _position(case: Case, classes: Sequence[str]) -> int:
    if not case.label:
        return UNLABELLED
    if case.label not in classes:
        raise UserError(
            f"row {case.row} of the manifest cannot be used",
            f"its label {case.label!r} is not one of the plan's classes ({', '.join(classes)})",
            "correct the label, remove the row, or ask the coordinator for a plan with that class",
        )
    return classes.index(case.label)


def _decode(manifest: Manifest, case: Case, settings: Image, regions: Regions) -> tuple[Tensor, Tensor]:
    pixels = images.decode(manifest.path_of(case.image), settings.channels)
    image, shown = prepare(pixels, settings)
    masks = np.zeros((regions.count, settings.size, settings.size), np.uint8)
    for place, drawn in enumerate(region_masks.decode(manifest, case, regions, pixels.shape[1:])):
        if drawn.any():
            masks[place] = prepare_mask(drawn, shown, settings.size)[0]
    return torch.from_numpy(image).half(), torch.from_numpy(masks)
