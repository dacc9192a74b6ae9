"""Frames inside encapsulated pixel data, found even with missing or wrong offset tables (PS3.5, A.4)."""

import struct
from collections.abc import Iterator, Sequence
from typing import NamedTuple

from ynet.data.dicom.faults import damaged

_ITEM, _END = b"\xfe\xff\x00\xe0", b"\xfe\xff\xdd\xe0"
_STARTS = (b"\xff\xd8\xff", b"\xff\x4f\xff\x51", b"\x00\x00\x00\x0cjP  ")


class _Fragment(NamedTuple):
    offset: int  # of its item, relative to the first fragment
    value: bytes


def is_encapsulated(pixel_data: bytes) -> bool:
    """Return whether pixel data start with an offset table's item and end as encapsulated data do."""
    return pixel_data[:4] == _ITEM and (_END in pixel_data[-10:] or _is_items(pixel_data))


def _is_items(pixel_data: bytes) -> bool:
    try:
        return len(list(_items(pixel_data))) > 1
    except struct.error:
        return False


def frames_at(pixel_data: bytes, number: int, count: int, extended: bytes) -> Iterator[bytes]:
    """Yield candidates for the frame with a number, from 1, the most likely first; tables may be missing or wrong.

    `extended` is the extended offset table, empty where there is none. Raises UnfitError where there is no such frame.
    """
    try:
        table, *others = _items(pixel_data)
    except (struct.error, ValueError):
        raise damaged() from None
    fragments = [one for one in others if one.value]
    if count == 1:
        yield b"".join(one.value for one in fragments)
    if len(fragments) == count:
        yield fragments[number - 1].value
    for offsets in (_offsets(extended, "Q"), _offsets(table.value, "I")):
        if len(offsets) == count and set(offsets) <= {one.offset for one in fragments}:
            yield _between(fragments, offsets, number)
    begun = [one.offset for one in fragments if one.value.startswith(_STARTS)]
    if len(begun) == count:
        yield _between(fragments, begun, number)


def _items(pixel_data: bytes) -> Iterator[_Fragment]:
    """Yield the offset table, then the fragments; the end mark may be missing."""
    offset, first = 0, None
    while offset + 8 <= len(pixel_data) and pixel_data[offset : offset + 4] == _ITEM:
        (length,) = struct.unpack_from("<I", pixel_data, offset + 4)
        end = offset + 8 + length
        if end > len(pixel_data):
            raise struct.error
        yield _Fragment(offset - (first or 0), pixel_data[offset + 8 : end])
        first, offset = (end if first is None else first), end


def _offsets(table: bytes, kind: str) -> list[int]:
    return [
        one
        for (one,) in struct.iter_unpack(
            f"<{kind}", table[: len(table) // struct.calcsize(kind) * struct.calcsize(kind)]
        )
    ]


def _between(fragments: Sequence[_Fragment], starts: Sequence[int], number: int) -> bytes:
    """Join the fragments from a frame's start to the next frame's."""
    start = starts[number - 1]
    end = min((one for one in starts if one > start), default=1 << 63)
    return b"".join(one.value for one in fragments if start <= one.offset < end)
