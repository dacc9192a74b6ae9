"""Reading of selected elements of a DICOM file; all others are skipped without parsing.

Data about the patient therefore stay unparsed, and no parser message can repeat them. A file of millions of small
elements, or a deflated one that inflates to hundreds of megabytes, takes no memory.
"""

import logging
import struct
import warnings
import zlib
from collections.abc import Collection, Iterator
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
from ynet.data.dicom.faults import DamagedError, UnfitError, damaged, parsing
from ynet.data.limits import MAX_FILE_BYTES

PREAMBLE = 128
MAGIC = b"DICM"
STARTS_IN = PREAMBLE + len(MAGIC)
"""Bytes that `is_dicom` needs from the start of a file."""
MAX_ELEMENTS = 400_000
MAX_DEPTH = 16
PIXEL_DATA = 0x7FE00010

_UNDEFINED = 0xFFFFFFFF
_ITEM, _ITEM_END, _SEQUENCE_END = 0xFFFEE000, 0xFFFEE00D, 0xFFFEE0DD
_LONG = frozenset((b"OB", b"OD", b"OF", b"OL", b"OV", b"OW", b"SQ", b"SV", b"UC", b"UN", b"UR", b"UT", b"UV"))

_VRS = frozenset(vr.value.encode() for vr in VR if len(vr) == 2)
_PLAIN = (uid.ImplicitVRLittleEndian, uid.ExplicitVRLittleEndian, uid.ExplicitVRBigEndian)
_SYNTAX, _MEDIA_CLASS, _CHARACTER_SET = 0x00020010, 0x00020002, 0x00080005
_MOST_BARE = 1 << 16  # maximal size of the first elements of a file without meta information

# Set once at import. pydicom's messages quote invalid values, which may be a patient's name.
pydicom.config.settings.reading_validation_mode = pydicom.config.IGNORE
for _name in ("pydicom", "highdicom", "pylibjpeg"):
    logging.getLogger(_name).setLevel(logging.CRITICAL + 1)
warnings.filterwarnings("ignore", module=r"(pydicom|highdicom|pylibjpeg)\b")


class Elements(NamedTuple):
    """The requested elements of a file."""

    transfer_syntax: uid.UID
    dataset: Dataset


class _Head(NamedTuple):
    """The encoding of a data set, from the file meta information or its first element."""

    syntax: uid.UID  # the declared one, else the uncompressed one that fits
    start: int  # of the data set
    is_implicit: bool
    order: str  # "<" or ">"
    media_class: str  # the SOP class in the meta information


def is_dicom(start: bytes) -> bool:
    """Return whether a file is DICOM by its first bytes, with or without a preamble."""
    return start[PREAMBLE:STARTS_IN] == MAGIC or start[:4] == MAGIC or _is_bare(start[:STARTS_IN])


def starts_as_dicom(file: BinaryIO) -> bool:
    """Return whether a newly opened file is DICOM; reads its first bytes."""
    return is_dicom(file.read(STARTS_IN))


@parsing()
def is_directory(data: bytes) -> bool:
    """Return whether a file is a DICOMDIR, the index of a medium. Raises UnfitError."""
    return _head(data).media_class == uid.MediaStorageDirectoryStorage


@parsing()
def read(data: bytes, keywords: Collection[str], optional: Collection[str] = ()) -> Elements:
    """Read the elements with these keywords, sequences included. Raises UnfitError.

    Damaged sequences among `optional` are left out. The character set is added if it is known, for `values.text`.
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
    """Return the file with meta information, inflated, once it is within the bounds for parsing. Raises UnfitError."""
    inside, head = _opened(data)
    _Walk(inside, head.order, is_implicit=head.is_implicit).cut(head.start, None)
    if data[PREAMBLE:STARTS_IN] == MAGIC and inside is data:
        return data
    named = head.syntax.encode() + bytes(len(head.syntax) % 2)
    syntax = b"\x02\0\x10\0UI" + struct.pack("<H", len(named)) + named
    length = b"\x02\0\0\0UL\x04\0" + struct.pack("<I", len(syntax))
    return bytes(PREAMBLE) + MAGIC + length + syntax + inside[head.start :]


def _opened(data: bytes) -> tuple[bytes, _Head]:
    """Return a file's bytes, inflated if necessary, and their encoding."""
    head = _head(data)
    if head.syntax != uid.DeflatedExplicitVRLittleEndian:
        return data, head
    return _inflated(data[head.start :]), head._replace(syntax=uid.ExplicitVRLittleEndian, start=0)


def _head(data: bytes) -> _Head:
    """Read the file meta information. Raises UnfitError."""
    if not is_dicom(data[:STARTS_IN]):
        raise UnfitError("it is not a DICOM file", "export it from the PACS as DICOM")
    offset = STARTS_IN if data[PREAMBLE:STARTS_IN] == MAGIC else 4 if data[:4] == MAGIC else 0
    walk, named = _Walk(data, "<", is_implicit=False), {_SYNTAX: "", _MEDIA_CLASS: ""}
    while offset + 8 <= len(data) and data[offset : offset + 2] == b"\x02\x00":
        tag, _, length, body = walk.head(offset, is_implicit=data[offset + 4 : offset + 6] not in _VRS)
        offset = walk.end(body, length)
        if tag in named:
            named[tag] = data[body:offset].rstrip(b"\0 ").decode("ascii", "replace")
    syntax = uid.UID(named[_SYNTAX])
    if syntax == uid.DeflatedExplicitVRLittleEndian:
        return _Head(syntax, offset, False, "<", named[_MEDIA_CLASS])
    is_implicit, order = _encoding(data, offset, syntax)
    if syntax in _PLAIN or not syntax:
        syntax = _PLAIN[0] if is_implicit else _PLAIN[1] if order == "<" else _PLAIN[2]
    return _Head(syntax, offset, is_implicit, order, named[_MEDIA_CLASS])


def _encoding(data: bytes, offset: int, syntax: str) -> tuple[bool, str]:
    """Return whether VRs are implicit, and the byte order, by the first element rather than the transfer syntax."""
    if offset + 8 > len(data):
        return syntax == uid.ImplicitVRLittleEndian, ">" if syntax == uid.ExplicitVRBigEndian else "<"
    is_implicit = data[offset + 4 : offset + 6] not in _VRS
    is_swapped = not is_implicit and data[offset] == 0 and data[offset + 1] != 0  # group numbers are small
    return is_implicit, ">" if is_swapped else "<"


def _is_bare(start: bytes) -> bool:
    """Return whether bytes start with at least two elements of a data set or of meta information without preamble."""
    if start[:2] not in (b"\x02\0", b"\x08\0", b"\0\x08"):
        return False
    is_implicit, order = _encoding(start, 0, "")
    walk, offset, last, seen = _Walk(start, order, is_implicit=is_implicit), 0, -1, 0
    while offset + 12 <= len(start):
        tag, vr, length, body = walk.head(offset)
        if tag <= last or tag >> 16 > 0x20 or (not is_implicit and vr not in _VRS):
            return False
        if length == _UNDEFINED or (is_implicit and length > _MOST_BARE):
            return seen > 0
        offset, last, seen = body + length, tag, seen + 1
    return seen > 1 or (seen == 1 and not is_implicit)


def _inflated(deflated: bytes) -> bytes:
    opened = zlib.decompressobj(-zlib.MAX_WBITS)
    try:
        inside = opened.decompress(deflated, MAX_FILE_BYTES)
    except zlib.error:
        raise damaged() from None
    if opened.unconsumed_tail or (not opened.eof and len(inside) == MAX_FILE_BYTES):
        why = f"it is deflated and inflates to more than the {MAX_FILE_BYTES >> 20} MiB allowed"
        raise UnfitError(why, "export it smaller")
    return inside


class _Walk:
    """A cursor over a data set that moves element by element."""

    def __init__(self, data: bytes, order: str, *, is_implicit: bool) -> None:
        self._data, self._is_implicit, self._left, self.character_set = data, is_implicit, MAX_ELEMENTS, b""
        self._pair, self._long, self._short = (struct.Struct(order + kind) for kind in ("HH", "I", "H"))

    def cut(self, offset: int, wanted: frozenset[int] | None, spared: frozenset[int] = frozenset()) -> bytes:
        """Cut out the wanted elements of the outermost level; `wanted` None only counts all elements.

        Reading stops at the pixels, since only padding follows them. The character set is kept separately, because
        pydicom fails on unknown ones.
        """
        pieces, tag = [], 0
        while offset + 8 <= len(self._data) and (wanted is None or tag != PIXEL_DATA):
            start, (tag, vr, length, body) = offset, self.head(offset)
            is_wanted = wanted is None or tag in wanted
            try:
                offset = self._after(tag, vr, length, body, self._is_implicit, 0, is_counted=is_wanted)
            except DamagedError:
                if tag not in spared or length == _UNDEFINED:
                    raise
                offset, is_wanted = self.end(body, length), False
            if tag == _CHARACTER_SET:
                self.character_set = self._data[body:offset]
            elif wanted is not None and is_wanted:
                pieces.append(self._data[start:offset])
        return b"".join(pieces)

    def head(self, offset: int, is_implicit: bool | None = None) -> tuple[int, bytes, int, int]:
        """Return an element's tag, VR, length and the offset of its value."""
        self._left -= 1
        if self._left < 0:
            why = f"it has more than {MAX_ELEMENTS:,} elements"
            raise UnfitError(why, "export fewer frames in one file")
        implicit = self._is_implicit if is_implicit is None else is_implicit
        try:
            group, element = self._pair.unpack_from(self._data, offset)
            vr = b"" if implicit else self._data[offset + 4 : offset + 6]
            if implicit or group == 0xFFFE:
                return group << 16 | element, b"", self._long.unpack_from(self._data, offset + 4)[0], offset + 8
            if vr in _LONG:
                return group << 16 | element, vr, self._long.unpack_from(self._data, offset + 8)[0], offset + 12
            return group << 16 | element, vr, self._short.unpack_from(self._data, offset + 6)[0], offset + 8
        except struct.error:
            raise damaged() from None

    def end(self, body: int, length: int) -> int:
        """Return the end of a value of defined length. Raises DamagedError beyond the file."""
        if length == _UNDEFINED or body + length > len(self._data):
            raise damaged()
        return body + length

    def _after(
        self, tag: int, vr: bytes, length: int, body: int, is_implicit: bool, depth: int, *, is_counted: bool
    ) -> int:
        """Return the end of an element. Elements inside a sequence are counted if they will be parsed."""
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
        self, offset: int, end: int | None, is_implicit: bool, depth: int, *, is_opaque: bool, is_counted: bool
    ) -> int:
        """Return the end of a sequence or of encapsulated pixel data."""
        if depth > MAX_DEPTH:
            raise damaged()
        while end is None or offset < end:
            tag, _, length, body = self.head(offset, is_implicit)
            if tag == _SEQUENCE_END:
                return body
            if tag != _ITEM:
                raise damaged()
            if length != _UNDEFINED and (is_opaque or not is_counted):
                offset = self.end(body, length)
            else:
                inner = None if length == _UNDEFINED else self.end(body, length)
                offset = self._elements(body, inner, is_implicit, depth, is_counted=is_counted)
        return offset

    def _elements(self, offset: int, end: int | None, is_implicit: bool, depth: int, *, is_counted: bool) -> int:
        """Return the end of a sequence item."""
        while end is None or offset < end:
            tag, vr, length, body = self.head(offset, is_implicit)
            if tag == _ITEM_END:
                return body
            offset = self._after(tag, vr, length, body, is_implicit, depth, is_counted=is_counted)
        return offset


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
    """Yield the items of a sequence; none where it is missing or not a sequence."""
    found = dataset.get(keyword)
    yield from found if isinstance(found, pydicom.Sequence) else ()
