"""What a DICOM file says of how its grey values are shown: tables, rescale, window. PS3.3, C.11.1 and C.11.2.

All of it is optional. What cannot be used is passed over, the next rule is taken, and its keyword is remembered.
"""

from collections.abc import Iterator
from dataclasses import dataclass, field
from typing import NamedTuple

import numpy as np
from jaxtyping import Float64, Shaped
from pydicom.dataset import Dataset

from ynet.data.dicom.elements import DAMAGED, items
from ynet.data.dicom.values import code, numbers, raw, words

ELEMENTS = (
    *("RescaleIntercept", "RescaleSlope", "ModalityLUTSequence"),
    *("WindowCenter", "WindowWidth", "VOILUTFunction", "VOILUTSequence"),
    *("SharedFunctionalGroupsSequence", "PerFrameFunctionalGroupsSequence"),
)
FUNCTIONS = ("LINEAR", "LINEAR_EXACT", "SIGMOID")
_GROUPS = ("PixelValueTransformationSequence", "FrameVOILUTSequence")


class Window(NamedTuple):
    """What part of the values is shown between black and white, in the image's own unit."""

    center: float
    width: float


class Rescale(NamedTuple):
    """A line from stored values to those of the modality."""

    slope: float = 1.0
    intercept: float = 0.0


class Table(NamedTuple):
    """A table of values; what lies before its first or after its last entry is as these are."""

    first: int  # the value that its first entry is for
    entries: Float64[np.ndarray, " n"]

    def of(self, values: Shaped[np.ndarray, "*shape"]) -> Float64[np.ndarray, "*shape"]:
        """The entry of each value."""
        last = len(self.entries) - 1
        found: np.ndarray = self.entries[np.clip(np.rint(values) - self.first, 0, last).astype(np.intp)]
        return found


@dataclass(frozen=True)
class Tones:
    """How a frame's values are shown."""

    modality: Table | Rescale = field(default_factory=Rescale)
    interest: Table | Window | None = None  # None: from the least to the greatest value
    function: str = "LINEAR"  # of a window
    ignored: tuple[str, ...] = ()  # keywords of what could not be used

    def in_unit(self, levels: Shaped[np.ndarray, "*shape"]) -> Float64[np.ndarray, "*shape"]:
        """Stored values in the modality's unit, Hounsfield's for example."""
        if isinstance(self.modality, Table):
            return self.modality.of(levels)
        if self.modality == Rescale():
            return levels.astype(np.float64)
        return levels * self.modality.slope + self.modality.intercept

    def shares(self, values: Float64[np.ndarray, "*shape"], low: float, high: float) -> Float64[np.ndarray, "*shape"]:
        """Values as shares of white. `low`, `high`: the range that is shown where neither table nor window says."""
        if isinstance(self.interest, Table):
            return self.interest.of(values) / _white(self.interest.entries)
        if self.interest is not None:
            return _windowed(values, self.interest, self.function)
        return np.clip((values - low) / (high - low or 1.0), 0, 1)


def read(dataset: Dataset, frame: int, *, is_signed: bool, bits: int) -> Tones:
    """How a frame, from 1, is shown: by what is said of it, of all frames, or of the file. Never raises for it."""
    sources, ignored = list(_sources(dataset, frame)), set[str]()
    lowest = -(1 << bits - 1) if is_signed else 0
    modality = next((one for source in sources if (one := _modality(source, lowest, ignored)) is not None), Rescale())
    ends = np.asarray([lowest, lowest + (1 << bits) - 1])
    least = float(Tones(modality).in_unit(ends).min())
    for source in sources:
        interest = _table(source, "VOILUTSequence", least, ignored) or _window(source, ignored)
        if interest is not None:
            return Tones(modality, interest, _function(source, ignored), tuple(sorted(ignored)))
    return Tones(modality, ignored=tuple(sorted(ignored)))


def _sources(dataset: Dataset, frame: int) -> Iterator[Dataset]:
    """What speaks of a frame: the frame's own groups, those that all share, the file."""
    shared, per_frame = (_items(dataset, f"{which}FunctionalGroupsSequence") for which in ("Shared", "PerFrame"))
    for group in [*per_frame[frame - 1 : frame], *shared[:1]]:
        for keyword in _GROUPS:
            yield from _items(group, keyword)
    yield dataset


def _items(dataset: Dataset, keyword: str) -> list[Dataset]:
    try:
        return list(items(dataset, keyword))
    except DAMAGED:
        return []


def _modality(source: Dataset, lowest: float, ignored: set[str]) -> Table | Rescale | None:
    table = _table(source, "ModalityLUTSequence", lowest, ignored)
    if table is not None:
        return table
    slope, intercept = (_first(source, f"Rescale{name}", ignored) for name in ("Slope", "Intercept"))
    if slope == 0:
        ignored.add("RescaleSlope")
        slope = None
    if slope is None and intercept is None:
        return None
    return Rescale(1.0 if slope is None else slope, intercept or 0.0)


def _first(source: Dataset, keyword: str, ignored: set[str]) -> float | None:
    """The first number of an element; None where it is missing, empty or none."""
    first = next(iter(numbers(source, keyword)), None)
    if first is None and _says(source, keyword):
        ignored.add(keyword)
    return first


def _says(source: Dataset, keyword: str) -> bool:
    found = raw(source, keyword)
    return found is not None and bool(found.value.strip(b"\0 "))


def _window(source: Dataset, ignored: set[str]) -> Window | None:
    """The first window that can be used, of those in the file."""
    centers, widths = numbers(source, "WindowCenter"), numbers(source, "WindowWidth")
    pairs = list(zip(centers, widths, strict=False))
    for place, (center, width) in enumerate(pairs):
        if center is not None and width is not None and width > 0:
            if place:
                ignored.update(("WindowCenter", "WindowWidth"))
            return Window(center, width)
    ignored.update(keyword for keyword in ("WindowCenter", "WindowWidth") if _says(source, keyword))
    return None


def _function(source: Dataset, ignored: set[str]) -> str:
    said = code(source, "VOILUTFunction")
    if said and said not in FUNCTIONS:
        ignored.add("VOILUTFunction")
    return said if said in FUNCTIONS else "LINEAR"


def _table(source: Dataset, keyword: str, least: float, ignored: set[str]) -> Table | None:
    """The first table of a sequence that can be used. `least`: of the values that are looked up in it."""
    if keyword not in source:
        return None
    for item in _items(source, keyword):
        if (table := table_of(item, least)) is not None:
            return table
        ignored.add(keyword)
    return None


def table_of(item: Dataset, least: float) -> Table | None:
    """A table in whatever VR and byte order it is stored; None where it holds no two different values.

    Its descriptor is three words, of which US and SS are often mistaken for each other: so the first value is signed
    where values below 0 are looked up. Its entries are bytes where there is but one for each.
    """
    descriptor = words(item, "LUTDescriptor")
    data = raw(item, "LUTData")
    if len(descriptor) < 3 or data is None:
        return None
    count, first = int(descriptor[0]) or 1 << 16, int(descriptor[1])
    if least < 0 and first >= 1 << 15:
        first -= 1 << 16
    entries = words(item, "LUTData")
    if len(data.value) in (count, count + 1) and len(entries) < count:
        packed = entries.astype("<u2").view(np.uint8)  # the first in a word's low byte
        entries = np.frombuffer(data.value, np.uint8) if data.vr == "OB" or len(packed) < count else packed
    entries = entries[:count].astype(np.float64)
    return None if len(entries) < 2 or entries.min() == entries.max() else Table(first, entries)


def _white(entries: Float64[np.ndarray, " n"]) -> float:
    """What a table shows as white: the greatest number of as many bits as its greatest entry has.

    What the descriptor says is often more: 16 for a table of 12 bit.
    """
    return float((1 << int(entries.max()).bit_length()) - 1)


def _windowed(values: Float64[np.ndarray, "*shape"], window: Window, function: str) -> Float64[np.ndarray, "*shape"]:
    """PS3.3, C.11.2.1.2 and C.11.2.1.3. A linear window of less than 1, which is not allowed, is an exact one."""
    center, width = window
    if function == "SIGMOID":
        return 1 / (1 + np.exp(np.clip(-4 * (values - center) / width, -700, 700)))
    if function == "LINEAR" and width >= 1:
        center, width = center - 0.5, width - 1
    if width == 0:
        return (values > center).astype(np.float64)
    return np.clip((values - center) / width + 0.5, 0, 1)
