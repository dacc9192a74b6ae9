"""Texts are decoded by their character set and compare equal in all encodings."""

import unicodedata

import pytest
from dicoms import dataset, to_bytes
from hypothesis import given
from hypothesis import strategies as some
from pydicom import uid

from ynet.data.dicom import elements
from ynet.data.dicom.character_sets import plain_text
from ynet.data.dicom.values import text

NAMES = [
    ("ISO_IR 192", "utf-8", "Müller-2"),
    ("ISO_IR 100", "latin-1", "Müller-2"),
    ("ISO_IR 101", "iso8859-2", "Łódź-7"),
    ("ISO_IR 144", "iso8859-5", "Люкceмбypг"),
    ("ISO_IR 126", "iso8859-7", "Διονυσιος"),
    ("ISO_IR 127", "iso8859-6", "قباني"),
    ("ISO_IR 138", "iso8859-8", "שרון"),
    ("ISO_IR 148", "iso8859-9", "Çavuşoğlu"),
    ("ISO_IR 166", "tis-620", "นามสกุล"),
    ("ISO_IR 13", "shift_jis", "ﾔﾏﾀﾞ"),
    ("GB18030", "gb18030", "王小东"),
    ("GBK", "gbk", "王小东"),
    ("\\ISO 2022 IR 87", "iso2022_jp", "山田-3"),
    ("ISO 2022 IR 100\\ISO 2022 IR 87", "iso2022_jp", "山田-3"),
    ("ISO 2022 IR 6\\ISO 2022 IR 100", "latin-1", "Müller-2"),
    ("ISO-IR 192", "utf-8", "Müller-2"),
    ("", "utf-8", "Müller-2"),
    ("", "latin-1", "Müller-2"),
    ("ISO_IR 6", "utf-8", "Müller-2"),
    ("ISO_IR 192", "latin-1", "Müller-2"),
    ("ISO_IR 999", "utf-8", "Müller-2"),
    ("iso_ir 192\\ISO_IR 100", "utf-8", "Müller-2"),
    ("\\ISO 2022 IR 58", "utf-8", "Müller-2"),
]


def patient(raw: bytes, charset: str = "", syntax: str = uid.ExplicitVRLittleEndian) -> str:
    """The PatientID read from a file that stores these bytes."""
    placeholder = "x" * (len(raw) + len(raw) % 2)
    made = dataset(None, syntax, PatientID=placeholder)
    data = to_bytes(made)
    assert data.count(placeholder.encode()) == 1
    data = data.replace(placeholder.encode(), raw + b" " * (len(raw) % 2))
    named = charset.encode() + b" " * (len(charset) % 2)
    start = elements._head(data).start
    little = b"\x08\0\x05\0" if syntax != uid.ExplicitVRBigEndian else b"\0\x08\0\x05"
    order = "little" if syntax != uid.ExplicitVRBigEndian else "big"
    if syntax == uid.ImplicitVRLittleEndian:
        element = little + len(named).to_bytes(4, order) + named
    else:
        element = little + b"CS" + len(named).to_bytes(2, order) + named
    read = elements.read(data[:start] + element + data[start:], ("PatientID",))
    return text(read.dataset, "PatientID")


@pytest.mark.parametrize(("charset", "codec", "name"), NAMES)
def test_text_is_decoded_by_character_set(charset: str, codec: str, name: str) -> None:
    assert patient(name.encode(codec), charset) == unicodedata.normalize("NFC", name)


def test_korean_of_iso_2022_is_read() -> None:
    raw = "\\ISO 2022 IR 149"
    assert patient(b"\x1b$)C" + "김희중".encode("euc_kr"), raw) == "김희중"


@pytest.mark.parametrize("syntax", [uid.ImplicitVRLittleEndian, uid.ExplicitVRBigEndian])
def test_text_is_read_in_every_transfer_syntax(syntax: str) -> None:
    assert patient("Müller-2".encode(), "ISO_IR 192", syntax) == "Müller-2"


@pytest.mark.parametrize("form", ["NFC", "NFD"])
@pytest.mark.parametrize("ends", [("", ""), ("", " "), ("  ", "\0"), ("", "\0\0 \0"), ("\t", "\r\n")])
def test_text_is_equal_in_any_unicode_form_and_padding(form: str, ends: tuple[str, str]) -> None:
    raw = ends[0] + unicodedata.normalize(form, "Müller-2") + ends[1]
    assert patient(raw.encode(), "ISO_IR 192") == "Müller-2"


@pytest.mark.parametrize("charset", ["ISO_IR 192", "", "GB18030", "ISO_IR 13", "\\ISO 2022 IR 87", "rot13", "hex"])
def test_undecodable_bytes_stay_distinct(charset: str) -> None:
    raws = [b"P\xfc1", b"P\xf61", b"P\xff1", b"P\x811", b"P\x821", b"P?1", b"\x1b(Zx", b"\x1b(Zy"]
    assert len({patient(raw, charset) for raw in raws}) == len(raws)


@given(some.text(max_size=40))
def test_plain_text_is_idempotent(text: str) -> None:
    assert plain_text(plain_text(text)) == plain_text(text) == plain_text(f" \0{unicodedata.normalize('NFD', text)}\0 ")
