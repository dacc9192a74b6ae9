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
from pydicom.valuerep import VR

from ynet.data.dicom.character_sets import character_sets
from ynet.data.limits import MAX_FILE_BYTES

PREAMBLE = 128
MAGIC = b"DICM"
STARTS_IN = PREAMBLE + len(MAGIC)
"""Bytes of a file by which `is_dicom` knows it."""
MAX_ELEMENTS = 400_000
MAX_DEPTH = 16
PIXEL_DATA = 0x7FE00010

_UNDEFINED = 0xFFFFFFFF
_ITEM, _ITEM_END, _SEQUENCE_END = 0xFFFEE000, 0xFFFEE00D, 0xFFFEE0DD
_LONG = frozenset((b"OB", b"OD", b"OF", b"OL", b"OV", b"OW", b"SQ", b"SV", b"UC", b"UN", b"UR", b"UT", b"UV"))

_VRS = frozenset(vr.value.encode() for vr in VR if len(vr) == 2)
_PLAIN = (uid.ImplicitVRLittleEndian, uid.ExplicitVRLittleEndian, uid.ExplicitVRBigEndian)
_SYNTAX, _MEDIA_CLASS, _CHARACTER_SET = 0x00020010, 0x00020002, 0x00080005
_MOST_BARE = 1 << 16  # bytes of one of the first elements of a file without a head

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


class _Head(NamedTuple):
    """What stands before a data set, or is seen at its first element."""

    syntax: uid.UID  # what the file says; without that, of the uncompressed ones the one that it is in
    start: int  # of the data set
    is_implicit: bool
    order: str  # "<" or ">"
    media_class: str  # the SOP class that the head names


class DamagedError(UnfitError):
    """A DICOM file that is not whole, or not DICOM inside."""


def damaged() -> DamagedError:
    """The file is not whole, or not DICOM inside."""
    return DamagedError("its data are damaged or cut short", "copy or export it again")


DAMAGED = (  # what parsers and decoders raise
    *(OSError, ValueError, TypeError, LookupError, ArithmeticError, AttributeError, EOFError, RuntimeError),
    *(MemoryError, struct.error, Warning),
)


@contextmanager
def parsing() -> Iterator[None]:
    """What parsers and decoders raise on a damaged file, said without what stood in it: an UnfitError."""
    try:
        yield
    except DAMAGED:
        raise damaged() from None


def is_dicom(start: bytes) -> bool:
    """Whether a file that begins so is a DICOM file, with or without its preamble."""
    return start[PREAMBLE:STARTS_IN] == MAGIC or start[:4] == MAGIC or _is_bare(start[:STARTS_IN])


def starts_as_dicom(file: BinaryIO) -> bool:
    """Whether a file that was just opened is a DICOM file; its beginning has been read then."""
    return is_dicom(file.read(STARTS_IN))


@parsing()
def is_directory(data: bytes) -> bool:
    """Whether a file is a DICOMDIR, the index of a medium. Raises UnfitError."""
    return _head(data).media_class == uid.MediaStorageDirectoryStorage


@parsing()
def read(data: bytes, keywords: Collection[str], optional: Collection[str] = ()) -> Elements:
    """The elements of a file's bytes that have these keywords; sequences whole. Raises UnfitError.

    `optional`: those of them that are left out where what is inside them is damaged. The character set comes with
    them as far as it is known, for `dicom_values.text`.
    """
    data, head = _opened(data)
    walk = _Walk(data, head.order, is_implicit=head.is_implicit)
    wanted, spared = (frozenset(map(_tag, names)) for names in (keywords, optional))
    cut = walk.cut(head.start, wanted, spared)
    found = read_dataset(BytesIO(cut), head.is_implicit, head.order == "<")
    if sets := character_sets(walk.character_set):
        found.SpecificCharacterSet = sets
    found.file_meta = FileMetaDataset()
    found.file_meta.TransferSyntaxUID = head.syntax
    return Elements(head.syntax, found)


@parsing()
def plain(data: bytes) -> bytes:
    """The same file with a head, inflated where it is deflated, not too much in it to be parsed. Raises UnfitError."""
    inside, head = _opened(data)
    _Walk(inside, head.order, is_implicit=head.is_implicit).cut(head.start, None)
    if data[PREAMBLE:STARTS_IN] == MAGIC and inside is data:
        return data
    named = head.syntax.encode() + bytes(len(head.syntax) % 2)
    syntax = b"\x02\0\x10\0UI" + struct.pack("<H", len(named)) + named
    length = b"\x02\0\0\0UL\x04\0" + struct.pack("<I", len(syntax))
    return bytes(PREAMBLE) + MAGIC + length + syntax + inside[head.start :]


def _opened(data: bytes) -> tuple[bytes, _Head]:
    """A file's bytes, inflated where they are deflated, and what its head says of them."""
    head = _head(data)
    if head.syntax != uid.DeflatedExplicitVRLittleEndian:
        return data, head
    return _inflated(data[head.start :]), head._replace(syntax=uid.ExplicitVRLittleEndian, start=0)


def _head(data: bytes) -> _Head:
    """What stands before the data set. Raises UnfitError."""
    if not is_dicom(data[:STARTS_IN]):
        raise UnfitError("it is no DICOM file", "export it from the PACS as DICOM")
    place = STARTS_IN if data[PREAMBLE:STARTS_IN] == MAGIC else 4 if data[:4] == MAGIC else 0
    walk, named = _Walk(data, "<", is_implicit=False), {_SYNTAX: "", _MEDIA_CLASS: ""}
    while place + 8 <= len(data) and data[place : place + 2] == b"\x02\x00":
        tag, _, length, body = walk.head(place, is_implicit=data[place + 4 : place + 6] not in _VRS)
        place = walk.end(body, length)
        if tag in named:
            named[tag] = data[body:place].rstrip(b"\0 ").decode("ascii", "replace")
    syntax = uid.UID(named[_SYNTAX])
    if syntax == uid.DeflatedExplicitVRLittleEndian:
        return _Head(syntax, place, False, "<", named[_MEDIA_CLASS])
    is_implicit, order = _encoding(data, place, syntax)
    if syntax in _PLAIN or not syntax:
        syntax = _PLAIN[0] if is_implicit else _PLAIN[1] if order == "<" else _PLAIN[2]
    return _Head(syntax, place, is_implicit, order, named[_MEDIA_CLASS])


def _encoding(data: bytes, place: int, syntax: str) -> tuple[bool, str]:
    """Whether VRs are left out, and the byte order: as the first element has it, whatever the head says."""
    if place + 8 > len(data):
        return syntax == uid.ImplicitVRLittleEndian, ">" if syntax == uid.ExplicitVRBigEndian else "<"
    is_implicit = data[place + 4 : place + 6] not in _VRS
    is_swapped = not is_implicit and data[place] == 0 and data[place + 1] != 0  # groups have small numbers
    return is_implicit, ">" if is_swapped else "<"


def _is_bare(start: bytes) -> bool:
    """Whether bytes are the first elements of a data set, or of a head without its preamble; two at the least."""
    if start[:2] not in (b"\x02\0", b"\x08\0", b"\0\x08"):
        return False
    is_implicit, order = _encoding(start, 0, "")
    walk, place, last, seen = _Walk(start, order, is_implicit=is_implicit), 0, -1, 0
    while place + 12 <= len(start):
        tag, vr, length, body = walk.head(place)
        if tag <= last or tag >> 16 > 0x20 or (not is_implicit and vr not in _VRS):
            return False
        if length == _UNDEFINED or (is_implicit and length > _MOST_BARE):
            return seen > 0
        place, last, seen = body + length, tag, seen + 1
    return seen > 1 or (seen == 1 and not is_implicit)


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
        self._data, self._is_implicit, self._left, self.character_set = data, is_implicit, MAX_ELEMENTS, b""
        self._pair, self._long, self._short = (struct.Struct(order + kind) for kind in ("HH", "I", "H"))

    def cut(self, place: int, wanted: frozenset[int] | None, spared: frozenset[int] = frozenset()) -> bytes:
        """The wanted elements of the outermost level, as they stand; None: nothing, but all are counted.

        What comes after the pixels is not looked at: nothing that is wanted, but padding. The character set is put
        aside: pydicom would go by one that it does not know.
        """
        pieces, tag = [], 0
        while place + 8 <= len(self._data) and (wanted is None or tag != PIXEL_DATA):
            start, (tag, vr, length, body) = place, self.head(place)
            is_wanted = wanted is None or tag in wanted
            try:
                place = self._after(tag, vr, length, body, self._is_implicit, 0, is_counted=is_wanted)
            except DamagedError:
                if tag not in spared or length == _UNDEFINED:
                    raise
                place, is_wanted = self.end(body, length), False
            if tag == _CHARACTER_SET:
                self.character_set = self._data[body:place]
            elif wanted is not None and is_wanted:
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
