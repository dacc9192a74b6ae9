"""Compare DICOM files of public packages as decoded here and by pydicom."""

import importlib.util
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import NamedTuple

import numpy as np
from pydicom import Dataset, dcmread
from pydicom.pixels import apply_color_lut, apply_modality_lut, apply_voi_lut

from ynet.data.dicom import elements
from ynet.data.dicom import frame as dicom_frame
from ynet.data.dicom.faults import UnfitError

GREY_APART, COLOUR_APART = 2e-3, 1
"""The greatest difference of equal pictures, as a share of white and in steps of 255."""
OTHERWISE = {
    "OBXXXX1A_expb.dcm": "pydicom reads the words of a palette in big endian in the wrong order",
    "OBXXXX1A_expb_2frame.dcm": "the same",
}
"""Files shown differently from pydicom, and why that is right."""


class Compared(NamedTuple):
    """A file, and its result here and in pydicom."""

    name: str
    outcome: str  # agree, differ, refused by both, refused here, refused by pydicom
    here: str  # reason of the refusal
    there: str
    apart: float | None = None


def files() -> Iterator[Path]:
    """Return the files of the installed packages."""
    for package in ("pydicom", "highdicom", "data_store"):
        found = importlib.util.find_spec(package)
        for folder in (found.submodule_search_locations or ()) if found else ():
            yield from in_folder(Path(folder))


def in_folder(folder: Path) -> Iterator[Path]:
    """Return the DICOM files of a folder, found by their preamble."""
    for path in sorted(folder.rglob("*")):
        if path.is_file() and path.suffix not in (".py", ".pyc", ".so"):
            with path.open("rb") as file:
                if path.suffix == ".dcm" or elements.starts_as_dicom(file):
                    yield path


def compare(path: Path) -> Compared:
    """Compare the first, middle and last frame of a file; pydicom is forced to read any header."""
    here, why_here = _tried(lambda: ours(path))
    there, why_there = _tried(lambda: pydicoms(path))
    if here is None or there is None:
        outcome = "refused by both" if here is there else "refused here" if here is None else "refused by pydicom"
        return Compared(path.name, outcome, why_here, why_there)
    apart = max(_apart(one, other) for one, other in zip(here, there, strict=True))
    return Compared(path.name, "agree" if apart <= 1 else "differ", "", "", round(apart, 3))


def ours(path: Path) -> list[np.ndarray]:
    data = path.read_bytes()
    count = dicom_frame.frames(data)
    return [dicom_frame.decode(data, frame if count > 1 else None) for frame in _chosen(count)]


def pydicoms(path: Path) -> list[np.ndarray]:
    """Return pydicom's picture: grey as a share of white, colour in 255 steps."""
    dataset = dcmread(path, force=True)
    pixels, count = dataset.pixel_array, int(dataset.get("NumberOfFrames") or 1)
    frames = [pixels] if count == 1 else [pixels[frame - 1] for frame in _chosen(count)]
    if dataset.PhotometricInterpretation == "PALETTE COLOR":
        return [_bytes(apply_color_lut(frame, dataset)[..., :3]) for frame in frames]
    if dataset.get("SamplesPerPixel", 1) > 1:
        return [_bytes(frame, int(dataset.BitsStored)) for frame in frames]
    return [_grey(frame, _of_frame(dataset, number)) for frame, number in zip(frames, _chosen(count), strict=True)]


def _of_frame(dataset: Dataset, number: int) -> Dataset:
    """Add a frame's functional groups, which pydicom's functions do not read."""
    groups = [*dataset.get("SharedFunctionalGroupsSequence", [])[:1]]
    groups += dataset.get("PerFrameFunctionalGroupsSequence", [])[number - 1 : number]
    for group in groups:
        for keyword in ("PixelValueTransformationSequence", "FrameVOILUTSequence"):
            for item in group.get(keyword, []):
                dataset.update(item)
    return dataset


def _chosen(count: int) -> list[int]:
    return sorted({1, (count + 1) // 2, count})


def _bytes(pixels: np.ndarray, bits: int | None = None) -> np.ndarray:
    return np.asarray(pixels, np.float64) * (255 / ((1 << (bits or 8 * pixels.dtype.itemsize)) - 1))


def _grey(stored: np.ndarray, dataset: Dataset) -> np.ndarray:
    values = apply_modality_lut(stored, dataset)
    if dataset.get("VOILUTSequence") or dataset.get("WindowCenter") is not None:
        seen = apply_voi_lut(values, dataset)
        low, high = _range(dataset)
    else:
        seen = np.asarray(values, np.float64)
        kept = seen[stored != dataset.PixelPaddingValue] if "PixelPaddingValue" in dataset else seen
        low, high = float(kept.min(initial=np.inf)), float(kept.max(initial=-np.inf))
    shares = np.clip((seen - low) / ((high - low) or 1), 0, 1)
    if dataset.PhotometricInterpretation == "MONOCHROME1":
        shares = 1 - shares
    if "PixelPaddingValue" in dataset:
        shares = np.where(stored == dataset.PixelPaddingValue, 0, shares)
    return shares


def _range(dataset: Dataset) -> tuple[float, float]:
    """Return pydicom's black and white: those of a table, or the range of stored values."""
    if dataset.get("VOILUTSequence"):
        table = dataset.VOILUTSequence[0].LUTData
        return 0, (1 << int(np.max(table)).bit_length()) - 1
    bits = int(dataset.BitsStored)
    if dataset.get("ModalityLUTSequence"):
        return 0, (1 << int(dataset.ModalityLUTSequence[0].LUTDescriptor[2])) - 1
    first = -(1 << bits - 1) if dataset.PixelRepresentation else 0
    slope, intercept = (float(dataset.get(f"Rescale{name}", other)) for name, other in (("Slope", 1), ("Intercept", 0)))
    return first * slope + intercept, (first + (1 << bits) - 1) * slope + intercept


def _tried(decode: Callable[[], list[np.ndarray]]) -> tuple[list[np.ndarray] | None, str]:
    try:
        return decode(), ""
    except UnfitError as error:
        return None, error.why
    except Exception as error:  # noqa: BLE001 (pydicom raises what it likes)
        return None, f"{type(error).__name__}: {error}".splitlines()[0][:160]


def _apart(here: np.ndarray, there: np.ndarray) -> float:
    """Return the greatest difference in units of the allowed one."""
    if here.shape != there.shape:
        return float("inf")
    allowed = COLOUR_APART if here.ndim == 3 else GREY_APART
    return float(np.abs(here.astype(np.float64) - there).max()) / allowed
