"""Decoding of DICOM texts by their character sets, so that equal names compare equal in any encoding."""

import contextlib
import re
import unicodedata

from pydicom import charset

_ESCAPE = b"\x1b"
_PARTS = re.compile(rb"^[^\x1b]+|\x1b[^\x1b]*")
_SPELLED = re.compile(r"^ISO[ _-]?(2022[ _-]?)?IR[ _-]?")
_ALONE = ("ISO_IR 192", "GB18030", "GBK")
_ENDS = re.compile(r"^[\s\0]+|[\s\0]+$")


def plain_text(text: str) -> str:
    """Return a text in the form in which texts are compared: without padding, in Unicode's NFC."""
    return _ENDS.sub("", unicodedata.normalize("NFC", text))


def character_sets(named: bytes) -> list[str]:
    """Return the character sets that an element names, in DICOM's spelling, without unknown ones.

    The first may be empty, for ASCII, where others follow by ISO 2022.
    """
    names = [
        _SPELLED.sub(_spelled, one.strip("\0 \t\r\n").upper()) for one in named.decode("ascii", "replace").split("\\")
    ]
    known = [one if one in charset.python_encoding else "" for one in names]
    if not any(known):
        return []
    return known[:1] if known[0] in _ALONE else [known[0], *filter(lambda one: one and one not in _ALONE, known[1:])]


def _spelled(found: re.Match[str]) -> str:
    return "ISO 2022 IR " if found[1] else "ISO_IR "


def decoded(value: bytes, character_sets: list[str]) -> str:
    """Decode a value; bytes that do not fit the named character set are decoded by another one.

    No character is replaced: two patients must not become one because neither name could be decoded.
    """
    if value.isascii() and _ESCAPE not in value:
        return value.decode("ascii")
    first = charset.python_encoding[character_sets[0] if character_sets else ""]
    ways = [first] if first != charset.default_encoding and _ESCAPE not in value else []
    for codec in (*ways, "", "utf-8", "cp1252", "latin-1"):
        with contextlib.suppress(ValueError, LookupError):
            if codec:
                return value.decode(codec)
            if _ESCAPE in value:
                return _by_escapes(value, first)
    raise AssertionError


def _by_escapes(value: bytes, first: str) -> str:
    """Decode a text with escape sequences that switch between character sets (ISO 2022). Raises ValueError."""
    made = []
    for part in _PARTS.findall(value):
        codec = first
        if part.startswith(_ESCAPE):
            size = 4 if part[1:3] in (b"$(", b"$)") else 3
            if part[:size] not in charset.CODES_TO_ENCODINGS:
                raise ValueError
            codec = charset.CODES_TO_ENCODINGS[part[:size]]
            part = part if codec.startswith("iso2022") else part[size:]
        made.append(part.decode(codec))
    return "".join(made)
