"""Values of DICOM elements, read from their bytes; an invalid value is None or empty, never an error."""

import re
from typing import NamedTuple

import numpy as np
from jaxtyping import Int64
from pydicom.datadict import dictionary_VR
from pydicom.dataelem import RawDataElement
from pydicom.dataset import Dataset

from ynet.data.dicom.character_sets import character_sets, decoded, plain_text

_NUMBER = re.compile(r"[+-]?(\d+([.,]\d*)?|[.,]\d+)([eE][+-]?\d+)?")
_BINARY = {"US": "u2", "SS": "i2", "UL": "u4", "SL": "i4", "FL": "f4", "FD": "f8", "UV": "u8", "SV": "i8"}
_PADDING = "\0 \t\r\n"
_MOST = 1e30  # greater numbers are not measurements, and overflow in arithmetic


class Raw(NamedTuple):
    """An element's unparsed value."""

    vr: str
    value: bytes
    order: str  # "<" or ">"


def raw(dataset: Dataset, keyword: str) -> Raw | None:
    """Return an element's bytes; None where it is missing. An implicit VR comes from the dictionary."""
    if keyword not in dataset:
        return None
    found = dataset.get_item(keyword)
    if isinstance(found, RawDataElement):
        vr = found.VR if found.VR not in (None, "UN") else dictionary_VR(found.tag)[:2]
        return Raw(vr, found.value or b"", "<" if found.is_little_endian else ">")
    if isinstance(found.value, bytes):
        return Raw(found.VR, found.value, "<")
    values = found.value if hasattr(found.value, "append") else [found.value]
    return Raw("LO", "\\".join("" if one is None else str(one) for one in values).encode(), "<")


def numbers(dataset: Dataset, keyword: str) -> list[float | None]:
    """Return the numbers of an element, with None for each value that is empty or not a number.

    A comma counts as a decimal point: it is invalid in DICOM, but some systems write it.
    """
    found = raw(dataset, keyword)
    if found is None or not found.value.strip(b"\0 "):
        return [] if found is None or found.vr not in _BINARY else _binary(found)
    if found.vr in _BINARY:
        return _binary(found)
    return [_number(one) for one in found.value.decode("ascii", "replace").split("\\")]


def _binary(found: Raw) -> list[float | None]:
    kind = np.dtype(_BINARY[found.vr]).newbyteorder(found.order)  # type: ignore[arg-type]
    whole = len(found.value) // kind.itemsize * kind.itemsize
    return [_measured(float(one)) for one in np.frombuffer(found.value[:whole], kind)]


def _number(text: str) -> float | None:
    stripped = text.strip(_PADDING)
    if not _NUMBER.fullmatch(stripped):
        return None
    return _measured(float(stripped.replace(",", ".")))


def _measured(value: float) -> float | None:
    return value if abs(value) < _MOST else None


def integer(dataset: Dataset, keyword: str, default: int = 0) -> int:
    """Return the first number of an element as an integer; `default` where there is none."""
    first = next(iter(numbers(dataset, keyword)), None)
    return default if first is None else int(first)


def words(dataset: Dataset, keyword: str) -> Int64[np.ndarray, " n"]:
    """Return the 16-bit words of an element as unsigned numbers, whatever its VR is."""
    found = raw(dataset, keyword)
    if found is None:
        return np.zeros(0, np.int64)
    if found.vr == "LO":
        return np.asarray([int(one or 0) & 0xFFFF for one in numbers(dataset, keyword)], np.int64)
    return np.frombuffer(found.value[: len(found.value) // 2 * 2], f"{found.order}u2").astype(np.int64)


def code(dataset: Dataset, keyword: str) -> str:
    """Return the first value of an element with a coded term, in capitals, without padding."""
    found = raw(dataset, keyword)
    value = b"" if found is None else found.value.split(b"\\")[0]
    return value.decode("ascii", "replace").strip(_PADDING).upper()


def text(dataset: Dataset, keyword: str) -> str:
    """Return an element's text in the form of `plain_text`; empty where there is none."""
    found = raw(dataset, keyword)
    named = raw(dataset, "SpecificCharacterSet")
    return "" if found is None else plain_text(decoded(found.value, character_sets(named.value if named else b"")))
