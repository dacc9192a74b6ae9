"""Display of grey values: modality lookup table or rescale, VOI lookup table or window (PS3.3, C.11.1 and C.11.2).

All of these are optional. One that cannot be used is skipped in favour of the next rule, and its keyword is reported.
"""

from collections.abc import Iterator
from dataclasses import dataclass, field
from typing import NamedTuple

import numpy as np
from jaxtyping import Float64, Shaped
from pydicom.dataset import Dataset

from ynet.data.dicom.elements import items
from ynet.data.dicom.faults import DAMAGED
from ynet.data.dicom.values import code, numbers, raw, words

ELEMENTS = (
    *("RescaleIntercept", "RescaleSlope", "ModalityLUTSequence"),
    *("WindowCenter", "WindowWidth", "VOILUTFunction", "VOILUTSequence"),
    *("SharedFunctionalGroupsSequence", "PerFrameFunctionalGroupsSequence"),
)
FUNCTIONS = ("LINEAR", "LINEAR_EXACT", "SIGMOID")
_GROUPS = ("PixelValueTransformationSequence", "FrameVOILUTSequence")


class DisplayWindow(NamedTuple):
    """A VOI window: the range of values between black and white, in the modality's unit."""

    center: float
    width: float


class Rescale(NamedTuple):
    """The linear map from stored values to the modality's unit."""

    slope: float = 1.0
    intercept: float = 0.0


class LookupTable(NamedTuple):
    """A lookup table; values outside it map to its first or last entry."""

    first: int  # the value of its first entry
    entries: Float64[np.ndarray, " n"]

    def of(self, values: Shaped[np.ndarray, "*shape"]) -> Float64[np.ndarray, "*shape"]:
        """Look up each value."""
        last = len(self.entries) - 1
        found: np.ndarray = self.entries[np.clip(np.rint(values) - self.first, 0, last).astype(np.intp)]
        return found


@dataclass(frozen=True)
class Tones:
    """How a frame's grey values are displayed."""

    modality: LookupTable | Rescale = field(default_factory=Rescale)
    interest: LookupTable | DisplayWindow | None = None  # None: from minimum to maximum
    function: str = "LINEAR"  # of the window
    ignored: tuple[str, ...] = ()  # keywords of skipped elements

    def in_unit(self, levels: Shaped[np.ndarray, "*shape"]) -> Float64[np.ndarray, "*shape"]:
        """Convert stored values to the modality's unit, for example Hounsfield units."""
        if isinstance(self.modality, LookupTable):
            return self.modality.of(levels)
        if self.modality == Rescale():
            return levels.astype(np.float64)
        return levels * self.modality.slope + self.modality.intercept

    def shares(self, values: Float64[np.ndarray, "*shape"], low: float, high: float) -> Float64[np.ndarray, "*shape"]:
        """Convert values to [0, 1]; `low` and `high` are the range to show without a table or window."""
        if isinstance(self.interest, LookupTable):
            return self.interest.of(values) / _white(self.interest.entries)
        if self.interest is not None:
            return _windowed(values, self.interest, self.function)
        return np.clip((values - low) / (high - low or 1.0), 0, 1)


def read(dataset: Dataset, frame: int, *, is_signed: bool, bits: int) -> Tones:
    """Read how a frame, from 1, is displayed: by its own groups, the shared ones or the file. Never raises."""
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
    """Yield the sources for a frame: its own functional groups, the shared ones, the file."""
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


def _modality(source: Dataset, lowest: float, ignored: set[str]) -> LookupTable | Rescale | None:
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
    """Return the first number of an element; None where it is missing, empty or not a number."""
    first = next(iter(numbers(source, keyword)), None)
    if first is None and _has_value(source, keyword):
        ignored.add(keyword)
    return first


def _has_value(source: Dataset, keyword: str) -> bool:
    found = raw(source, keyword)
    return found is not None and bool(found.value.strip(b"\0 "))


def _window(source: Dataset, ignored: set[str]) -> DisplayWindow | None:
    """Return the first usable window of the file."""
    centers, widths = numbers(source, "WindowCenter"), numbers(source, "WindowWidth")
    pairs = list(zip(centers, widths, strict=False))
    for number, (center, width) in enumerate(pairs):
        if center is not None and width is not None and width > 0:
            if number:
                ignored.update(("WindowCenter", "WindowWidth"))
            return DisplayWindow(center, width)
    ignored.update(keyword for keyword in ("WindowCenter", "WindowWidth") if _has_value(source, keyword))
    return None


def _function(source: Dataset, ignored: set[str]) -> str:
    declared = code(source, "VOILUTFunction")
    if declared and declared not in FUNCTIONS:
        ignored.add("VOILUTFunction")
    return declared if declared in FUNCTIONS else "LINEAR"


def _table(source: Dataset, keyword: str, least: float, ignored: set[str]) -> LookupTable | None:
    """Return the first usable table of a sequence; `least` is the minimum of the values to look up."""
    if keyword not in source:
        return None
    for item in _items(source, keyword):
        if (table := table_of(item, least)) is not None:
            return table
        ignored.add(keyword)
    return None


def table_of(item: Dataset, least: float) -> LookupTable | None:
    """Read a lookup table in any VR and byte order; None where it is constant or missing.

    The descriptor has three words. Files confuse their VRs US and SS, so the first value counts as signed if values
    below 0 are looked up. Entries are bytes if there is one byte per entry.
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
        packed = entries.astype("<u2").view(np.uint8)  # the first entry is in the low byte
        entries = np.frombuffer(data.value, np.uint8) if data.vr == "OB" or len(packed) < count else packed
    entries = entries[:count].astype(np.float64)
    return None if len(entries) < 2 or entries.min() == entries.max() else LookupTable(first, entries)


def _white(entries: Float64[np.ndarray, " n"]) -> float:
    """Return a table's white: the maximal number with as many bits as its maximal entry.

    The descriptor often declares more bits, such as 16 for a 12-bit table.
    """
    return float((1 << int(entries.max()).bit_length()) - 1)


def _windowed(
    values: Float64[np.ndarray, "*shape"], window: DisplayWindow, function: str
) -> Float64[np.ndarray, "*shape"]:
    """Apply a window (PS3.3, C.11.2.1.2 and C.11.2.1.3). A linear width below 1, which is invalid, counts as exact."""
    center, width = window
    if function == "SIGMOID":
        return 1 / (1 + np.exp(np.clip(-4 * (values - center) / width, -700, 700)))
    if function == "LINEAR" and width >= 1:
        center, width = center - 0.5, width - 1
    if width == 0:
        return (values > center).astype(np.float64)
    return np.clip((values - center) / width + 0.5, 0, 1)
