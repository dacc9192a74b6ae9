"""The elements of a DICOM file that are asked for, cut out of it; the others are stepped over and never parsed.

So what a file holds of its patient is not in memory but as bytes, no message of a parser can repeat it, and a file of
millions of small elements, or a deflated one that opens into hundreds of megabytes, takes no memory.
"""

import logging
import struct
import warnings
import zlib
from collections.abc import Collection, Iterator
from contextlib import contextmanager
from functools import cache
from io import BytesIO
from typing import BinaryIO, NamedTuple

import pydicom
from pydicom import uid
from pydicom.datadict import dictionary_VR
from pydicom.dataset import Dataset, FileMetaDataset
from pydicom.filereader import read_dataset

from ynet.data.limits import MAX_FILE_BYTES

PREAMBLE = 128
MAGIC = b"DICM"
MAX_ELEMENTS = 400_000
MAX_DEPTH = 16
PIXEL_DATA = 0x7FE00010

_UNDEFINED = 0xFFFFFFFF
_ITEM, _ITEM_END, _SEQUENCE_END = 0xFFFEE000, 0xFFFEE00D, 0xFFFEE0DD
_LONG = frozenset((b"OB", b"OD", b"OF", b"OL", b"OV", b"OW", b"SQ", b"SV", b"UC", b"UN", b"UR", b"UT", b"UV"))

_PLAIN = b"\x02\0\x10\0UI\x14\0" + uid.ExplicitVRLittleEndian.encode() + b"\0"  # a file's head, no more than it needs

# For good, at import. What pydicom says of an odd value quotes it, and it may be a patient's name.
pydicom.config.settings.reading_validation_mode = pydicom.config.IGNORE
for _name in ("pydicom", "highdicom", "pylibjpeg"):
    logging.getLogger(_name).setLevel(logging.CRITICAL + 1)
warnings.filterwarnings("ignore", module=r"(pydicom|highdicom|pylibjpeg)\b")


class UnfitError(Exception):
    """A DICOM file that cannot be used: why, and what to do. Neither holds anything that stood in the file."""

    def __init__(self, why: str, do: str) -> None:
        super().__init__(why)
        self.why, self.do = why, do


class Elements(NamedTuple):
    """What was asked for of a file."""

    transfer_syntax: uid.UID
    dataset: Dataset


def damaged() -> UnfitError:
    """The file is not whole, or not DICOM inside."""
    return UnfitError("its data are damaged or cut short", "copy or export it again")


_DAMAGED = (
    *(OSError, ValueError, TypeError, LookupError, ArithmeticError, AttributeError, EOFError, RuntimeError),
    *(MemoryError, struct.error, Warning),
)


@contextmanager
def parsing() -> Iterator[None]:
    """What parsers and decoders raise on a damaged file, said without what stood in it: an UnfitError."""
    try:
        yield
    except _DAMAGED:
        raise damaged() from None


def is_dicom(start: bytes) -> bool:
    """Whether a file that begins so is a DICOM file."""
    return start[PREAMBLE : PREAMBLE + 4] == MAGIC


def starts_as_dicom(file: BinaryIO) -> bool:
    """Whether a file that was just opened is a DICOM file; its beginning has been read then."""
    return is_dicom(file.read(PREAMBLE + len(MAGIC)))


@parsing()
def read(data: bytes, keywords: Collection[str]) -> Elements:
    """The elements of a file's bytes that have these keywords; sequences whole. Raises UnfitError."""
    syntax, start = _syntax(data)
    if syntax == uid.DeflatedExplicitVRLittleEndian:
        data, start = _inflated(data[start:]), 0
    order = ">" if syntax == uid.ExplicitVRBigEndian else "<"
    walk = _Walk(data, order, is_implicit=syntax == uid.ImplicitVRLittleEndian)
    cut = walk.cut(start, frozenset(_tag(keyword) for keyword in keywords))
    found = read_dataset(BytesIO(cut), syntax == uid.ImplicitVRLittleEndian, order == "<")
    found.file_meta = FileMetaDataset()
    found.file_meta.TransferSyntaxUID = syntax
    return Elements(syntax, found)


@parsing()
def plain(data: bytes) -> bytes:
    """The same file, inflated where it is deflated, with not too much in it to be parsed whole. Raises UnfitError."""
    syntax, start = _syntax(data)
    if syntax == uid.DeflatedExplicitVRLittleEndian:
        syntax, inside, start = uid.ExplicitVRLittleEndian, _inflated(data[start:]), PREAMBLE + len(MAGIC) + len(_PLAIN)
        data = bytes(PREAMBLE) + MAGIC + _PLAIN + inside
    order = ">" if syntax == uid.ExplicitVRBigEndian else "<"
    _Walk(data, order, is_implicit=syntax == uid.ImplicitVRLittleEndian).cut(start, None)
    return data


def _syntax(data: bytes) -> tuple[uid.UID, int]:
    """The transfer syntax that the file's head names, and where its data set begins."""
    if not is_dicom(data):
        raise UnfitError("it is no DICOM file", "export it from the PACS as DICOM")
    walk, syntax, place = _Walk(data, "<", is_implicit=False), None, PREAMBLE + 4
    while place + 8 <= len(data) and data[place : place + 2] == b"\x02\x00":
        tag, _, length, body = walk.head(place)
        place = walk.end(body, length)
        if tag == 0x00020010:
            syntax = uid.UID(data[body:place].rstrip(b"\0 ").decode("ascii", "replace"))
    if syntax is None or not syntax.is_transfer_syntax:
        raise damaged()
    return syntax, place


def _inflated(deflated: bytes) -> bytes:
    opened = zlib.decompressobj(-zlib.MAX_WBITS)
    try:
        inside = opened.decompress(deflated, MAX_FILE_BYTES)
    except zlib.error:
        raise damaged() from None
    if opened.unconsumed_tail or (not opened.eof and len(inside) == MAX_FILE_BYTES):
        why = f"it is deflated and opens into more than the {MAX_FILE_BYTES >> 20} MiB allowed"
        raise UnfitError(why, "export it smaller")
    return inside


class _Walk:
    """Steps over a data set, element by element."""

    def __init__(self, data: bytes, order: str, *, is_implicit: bool) -> None:
        self._data, self._is_implicit, self._left = data, is_implicit, MAX_ELEMENTS
        self._pair, self._long, self._short = (struct.Struct(order + kind) for kind in ("HH", "I", "H"))

    def cut(self, place: int, wanted: frozenset[int] | None) -> bytes:
        """The wanted elements of the outermost level, as they stand; None: nothing, but all are counted."""
        pieces = []
        while place + 8 <= len(self._data):
            start, (tag, vr, length, body) = place, self.head(place)
            is_wanted = wanted is None or tag in wanted
            place = self._after(tag, vr, length, body, self._is_implicit, 0, is_counted=is_wanted)
            if wanted is not None and is_wanted:
                pieces.append(self._data[start:place])
        return b"".join(pieces)

    def head(self, place: int, is_implicit: bool | None = None) -> tuple[int, bytes, int, int]:
        """Tag, VR, length of an element, and where its value begins."""
        self._left -= 1
        if self._left < 0:
            why = f"it has more than {MAX_ELEMENTS:,} elements"
            raise UnfitError(why, "export fewer frames in one file")
        implicit = self._is_implicit if is_implicit is None else is_implicit
        try:
            group, element = self._pair.unpack_from(self._data, place)
            vr = b"" if implicit else self._data[place + 4 : place + 6]
            if implicit or group == 0xFFFE:
                return group << 16 | element, b"", self._long.unpack_from(self._data, place + 4)[0], place + 8
            if vr in _LONG:
                return group << 16 | element, vr, self._long.unpack_from(self._data, place + 8)[0], place + 12
            return group << 16 | element, vr, self._short.unpack_from(self._data, place + 6)[0], place + 8
        except struct.error:
            raise damaged() from None

    def end(self, body: int, length: int) -> int:
        """Where a value of defined length ends; inside the file."""
        if length == _UNDEFINED or body + length > len(self._data):
            raise damaged()
        return body + length

    def _after(
        self, tag: int, vr: bytes, length: int, body: int, is_implicit: bool, depth: int, *, is_counted: bool
    ) -> int:
        """Where an element ends. The elements inside a sequence are counted where somebody will parse them."""
        if length == _UNDEFINED:
            is_opaque = tag == PIXEL_DATA and depth == 0
            return self._items(
                body, None, is_implicit or vr == b"UN", depth + 1, is_opaque=is_opaque, is_counted=is_counted
            )
        end = self.end(body, length)
        if is_counted and (vr == b"SQ" or (is_implicit and _is_sequence(tag))):
            self._items(body, end, is_implicit, depth + 1, is_opaque=False, is_counted=True)
        return end

    def _items(
        self, place: int, end: int | None, is_implicit: bool, depth: int, *, is_opaque: bool, is_counted: bool
    ) -> int:
        """Where a sequence, or what encapsulates pixel data, ends."""
        if depth > MAX_DEPTH:
            raise damaged()
        while end is None or place < end:
            tag, _, length, body = self.head(place, is_implicit)
            if tag == _SEQUENCE_END:
                return body
            if tag != _ITEM:
                raise damaged()
            if length != _UNDEFINED and (is_opaque or not is_counted):
                place = self.end(body, length)
            else:
                inner = None if length == _UNDEFINED else self.end(body, length)
                place = self._elements(body, inner, is_implicit, depth, is_counted=is_counted)
        return place

    def _elements(self, place: int, end: int | None, is_implicit: bool, depth: int, *, is_counted: bool) -> int:
        """Where an item of a sequence ends."""
        while end is None or place < end:
            tag, vr, length, body = self.head(place, is_implicit)
            if tag == _ITEM_END:
                return body
            place = self._after(tag, vr, length, body, is_implicit, depth, is_counted=is_counted)
        return place


@cache
def _tag(keyword: str) -> int:
    tag = pydicom.datadict.tag_for_keyword(keyword)
    if tag is None:
        raise LookupError(keyword)
    return tag


@cache
def _is_sequence(tag: int) -> bool:
    try:
        return dictionary_VR(tag) == "SQ"
    except KeyError:
        return False


def items(dataset: Dataset, keyword: str) -> Iterator[Dataset]:
    """The items of a sequence; none where it is missing or something else."""
    found = dataset.get(keyword)
    yield from found if isinstance(found, pydicom.Sequence) else ()
