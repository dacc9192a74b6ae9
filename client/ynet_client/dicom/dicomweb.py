"""A PACS spoken to by DICOMweb: what it holds (QIDO-RS), one of its objects (WADO-RS), one more for it (STOW-RS)."""

import base64
import datetime as dt
import difflib
import json
import os
import re
import secrets
import time
from collections.abc import Callable, Iterable, Iterator, Mapping
from pathlib import Path
from types import TracebackType
from typing import Any, NamedTuple
from urllib.parse import parse_qsl

from pydicom._dicom_dict import DicomDictionary
from pydicom.datadict import tag_for_keyword

from ynet.data.dicom.character_sets import plain_text
from ynet.data.limits import MAX_FILE_BYTES
from ynet.errors import UserError
from ynet.runtime import hidden_words
from ynet_client.dicom.dicomweb_answers import listed, only_file, receipt
from ynet_client.dicom.pacs_connection import PASSWORD, TOKEN, USER, Connection
from ynet_client.dicom.whole_lists import Doubt, Item, Listing, Page, Span, day, partial, read

PAGE = 500
DRAWINGS = {"SEG": "1.2.840.10008.5.1.4.1.1.66.4", "RTSTRUCT": "1.2.840.10008.5.1.4.1.1.481.3"}
"""Modalities of drawings, and the SOP class of those of which a PACS does not say it."""
MAX_LIST_BYTES = 64 << 20
_UID = re.compile(r"[0-9]+(\.[0-9]+)*")
_DICOM, _JSON = 'multipart/related; type="application/dicom"', "application/dicom+json"
_FILES = (f"{_DICOM}; transfer-syntax=*", _DICOM, "application/dicom")
_LISTS = (_JSON, "application/json")
_STUDY, _SERIES, _INSTANCE, _CLASS, _DATE = "0020000D", "0020000E", "00080018", "00080016", "00080020"
_OF_SERIES = [("includefield", tag) for tag in ("00100020", _DATE, "00080060", "00201206", "00201209")]


class Listed(NamedTuple):
    """An object that the PACS holds."""

    patient: str
    study: str
    series: str
    instance: str
    sop_class: str


class _Series(NamedTuple):
    patient: str
    study: str
    series: str
    said: int | None  # instances that the PACS counts; None where it does not
    sop_class: str = ""  # of its objects, where it is known


def read_credentials(environ: Mapping[str, str], file: Path | None) -> dict[str, str]:
    """The header that proves who asks, from the environment or a file; empty where neither says anything.

    The file has one line: a bearer token, or USER:PASSWORD. Raises UserError when others may read it.
    """
    if file is not None:
        return _of_line(_private_line(file))
    if environ.get(TOKEN):
        return {"authorization": f"Bearer {environ[TOKEN]}"}
    if environ.get(USER):
        return _of_line(f"{environ[USER]}:{environ.get(PASSWORD, '')}")
    return {}


def _private_line(file: Path) -> str:
    what = f"the credentials {file}"
    (line, *more) = hidden_words.of_file(file, what).strip().splitlines() or [""]
    if more or not line.isprintable() or not line:
        raise UserError(f"{what} cannot be used", "it has not one line", "write a token, or USER:PASSWORD")
    return line


def _of_line(line: str) -> dict[str, str]:
    if ":" not in line:
        return {"authorization": f"Bearer {line}"}
    return {"authorization": f"Basic {base64.b64encode(line.encode()).decode()}"}


class DicomWeb:
    """A connection, open from `with` to its end. Every method raises UserError, RefusedError or UnreachableError.

    No message names what was asked for: a query may hold a patient's name.
    """

    def __init__(
        self, url: str, headers: Mapping[str, str], ca: Path | None, sleep: Callable[[float], None] = time.sleep
    ) -> None:
        """`url`: the root of the DICOMweb services. `ca`: certificates that are trusted in place of the system's."""
        self._line = Connection(url, headers, ca, sleep)
        self._most = dict[str, int]()  # results that it has told at once, by level: a limit of its own is no lower

    def __enter__(self) -> "DicomWeb":
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        self._line.close()

    def find(self, query: str) -> Iterator[Listed]:
        """The objects of the series that a query finds, by study, and all drawings of their patients.

        Of a study that names no patient: those of the study. A list that may be cut off is asked for in smaller
        questions. Where these do not help either, a UserError.
        """
        by_study, patients = dict[str, dict[str, _Series]](), set[str]()
        for one in map(_series, self._matching(read_query(query)).values()):
            by_study.setdefault(one.study, {})[one.series] = one
        listed = {series for found in by_study.values() for series in found}
        for study, found in by_study.items():
            patient = next(iter(found.values())).patient
            drawn = list(self._in_study(study, patient))
            if patient and patient not in patients:
                drawn += self._of_patient(patient)
            patients.add(patient)
            found |= {one.series: one for one in drawn if one.series in found or one.series not in listed}
            listed |= found.keys()
            for series in found.values():
                yield from self._instances(series)

    def instance(self, instance: str) -> Listed:
        """The object of this SOP instance UID."""
        if not _UID.fullmatch(instance):
            raise UserError("the image cannot be asked for", "its SOP instance UID is none", "give digits and dots")
        for said in (1, None):  # a PACS that pays no heed to the UID tells of others, too
            listing = self._list("/instances", [("SOPInstanceUID", instance)], said)
            for one in listing.found.values():
                study, series = (_uid(one, tag) for tag in (_STUDY, _SERIES))
                if _uid(one, _INSTANCE) == instance and study and series:
                    return Listed(_value(one, "00100020"), study, series, instance, _value(one, _CLASS))
            if listing.doubt:
                raise partial(listing.doubt)
        raise UserError("the image is not there", "the PACS knows no such SOP instance UID", "check the UID")

    def fetch(self, one: Listed) -> bytes:
        """An object's DICOM file, at most MAX_FILE_BYTES."""
        path = f"/studies/{one.study}/series/{one.series}/instances/{one.instance}"
        answer = self._line.get(path, [], _FILES, MAX_FILE_BYTES + (64 << 10))
        if answer.is_cut:
            raise UserError("the PACS gave a part of the file", "it answered 206", "ask its admin why")
        return only_file(answer.body, answer.kind, one.instance)

    def store(self, file: bytes) -> str:
        """Give the PACS a DICOM file; what it warns of, having kept it, or nothing."""
        boundary = secrets.token_hex(16)
        head = f"--{boundary}\r\nContent-Type: application/dicom\r\n\r\n".encode()
        content = head + file + f"\r\n--{boundary}--\r\n".encode()
        headers = {"content-type": f"{_DICOM}; boundary={boundary}", "accept": _JSON}
        return receipt(*self._line.post("/studies", headers, content, MAX_LIST_BYTES))

    # --- within: lists

    def _matching(self, asked: list[tuple[str, str]]) -> Mapping[str, Item]:
        """All series that a query finds; in smaller questions, by the studies' dates, where the answer may be cut."""
        listing = self._list("/series", [*asked, *_OF_SERIES])
        return listing.found if listing.doubt is None else self._by_date(asked, listing)

    def _by_date(self, asked: list[tuple[str, str]], whole: Listing) -> Mapping[str, Item]:
        """The same, as the union of spans of days. Raises UserError when a single day's answer may be cut, too."""
        others = [(name, value) for name, value in asked if name.lower() not in ("studydate", _DATE)]
        given = [value for name, value in asked if (name, value) not in others]
        span = Span.of(given[0] if given else "-") if len(given) < 2 else None
        days = _days(whole.found.values())
        spans = span.split(days) if span and days else []
        if not spans:
            return self._unsplit(asked, whole)
        found: dict[str, Item] = {}
        for smaller in spans:
            part = [*others, ("StudyDate", smaller.text())]
            found |= (listing := self._list("/series", [*part, *_OF_SERIES])).found
            days = _days(listing.found.values())
            if days is None or not all(map(smaller.holds, days)):
                raise partial(Doubt.OTHERS)
            if listing.doubt:
                found |= self._by_date(part, listing)
        if whole.found.keys() - found.keys():
            raise partial(whole.doubt or Doubt.FEWER)
        return found

    def _unsplit(self, asked: list[tuple[str, str]], whole: Listing) -> Mapping[str, Item]:
        """What cannot be asked for in smaller questions: whole if the PACS, asked for more, tells more at once."""
        if whole.doubt is Doubt.REPEATED and asked and len(self._page("/series", _OF_SERIES, 0).items) > whole.longest:
            return whole.found
        undated = whole.doubt is not Doubt.REPEATED and _days(whole.found.values()) is None
        raise partial(Doubt.UNDATED if undated else whole.doubt or Doubt.FEWER)

    def _in_study(self, study: str, patient: str) -> Iterator[_Series]:
        """The series of a study that hold drawings: DICOM SEGs and RT structure sets."""
        listing = self._list(f"/studies/{study}/series", _OF_SERIES)
        said = max((_number(one, "00201206") or 0 for one in listing.found.values()), default=0)
        if listing.doubt and not 0 < said <= len(listing.found):
            raise partial(listing.doubt)
        if said > len(listing.found):
            raise partial(Doubt.FEWER)
        for one in listing.found.values():
            if sop_class := DRAWINGS.get(_value(one, "00080060")):
                yield _series({**one, _STUDY: {"Value": [study]}})._replace(patient=patient, sop_class=sop_class)

    def _of_patient(self, patient: str) -> Iterator[_Series]:
        """The series of drawings in all studies of a patient; others that a PACS adds are passed over."""
        for modality, sop_class in DRAWINGS.items():
            for one in self._matching([("PatientID", patient), ("Modality", modality)]).values():
                if _value(one, "00100020") in ("", patient) and _value(one, "00080060") in ("", modality):
                    yield _series(one)._replace(patient=patient, sop_class=sop_class)

    def _instances(self, series: _Series) -> Iterator[Listed]:
        path = f"/studies/{series.study}/series/{series.series}"
        listing = self._list(f"{path}/instances", [("includefield", _CLASS)], said=series.said or None)
        found = listing.found
        is_told = all(_uid(one, _INSTANCE) and (_value(one, _CLASS) or series.sop_class) for one in found.values())
        if listing.doubt or not is_told or len(found) < (1 if series.said is None else series.said):
            found = self._in_metadata(path, series.said, listing)
        for one in found.values():
            if not (sop_class := _value(one, _CLASS) or series.sop_class):
                raise _unnamed("SOP class")
            yield Listed(series.patient, series.study, series.series, _uid(one, _INSTANCE), sop_class)

    def _in_metadata(self, path: str, said: int | None, listing: Listing) -> Mapping[str, Item]:
        """A series' instances by WADO-RS, which no limit of QIDO-RS cuts. Raises UserError when it tells no more."""
        doubt = listing.doubt or Doubt.FEWER
        try:
            answer = self._line.get(f"{path}/metadata", [], _LISTS, MAX_LIST_BYTES)
            told = {_uid(one, _INSTANCE): one for one in listed(answer.body)}
        except UserError:
            raise partial(doubt) from None
        known = {_uid(one, _INSTANCE) for one in listing.found.values()}
        if answer.is_cut or known - told.keys() or len(told) < (said or 1) or "" in told:
            raise partial(doubt)
        if doubt is Doubt.CUT and len(told) == len(known) != said:
            raise partial(doubt)  # it says that there are more, and tells no more
        return told

    def _list(self, path: str, asked: list[tuple[str, str]], said: int | None = None) -> Listing:
        """All that a search finds, or what of it was told, and why there may be more."""
        listing = read(lambda offset: self._page(path, asked, offset), _key, said)
        level = path.rsplit("/", 1)[-1]
        most = self._most.get(level, 1)
        self._most[level] = max(most, listing.longest)
        is_below = len(listing.found) <= 1 or listing.longest < most  # the PACS has told more than that at once
        return listing._replace(doubt=None) if listing.doubt is Doubt.REPEATED and is_below else listing

    def _page(self, path: str, asked: list[tuple[str, str]], offset: int) -> Page:
        page = [("limit", str(PAGE)), ("offset", str(offset))]
        answer = self._line.get(path, [*asked, *page], _LISTS, MAX_LIST_BYTES)
        return Page(listed(answer.body), answer.is_cut)


def read_query(query: str) -> list[tuple[str, str]]:
    """`Modality=MR&StudyDate=20240101-` as pairs. Raises UserError at what is no attribute of DICOM."""
    what = "the query cannot be asked"
    try:
        pairs = parse_qsl(query, keep_blank_values=True, strict_parsing=bool(query))
    except ValueError:
        raise UserError(what, "it is not NAME=VALUE, joined by &", 'write "Modality=MR&StudyDate=20240101-"') from None
    for name, _ in pairs:
        if tag_for_keyword(name) is None and not re.fullmatch(r"[0-9A-Fa-f]{8}", name):
            near = difflib.get_close_matches(name, [entry[4] for entry in DicomDictionary.values()], n=1)
            do = f"did you mean {near[0]}?" if near else "name attributes as DICOM does, e.g. Modality"
            raise UserError(what, "one of its names is no attribute of DICOM", do)
    return pairs


def _key(one: Item) -> str:
    """What is told once: a result without identifiers counts as itself."""
    found = "/".join(_value(one, tag) for tag in (_STUDY, _SERIES, _INSTANCE))
    return found if found.strip("/") else json.dumps(one, sort_keys=True)


def _value(one: dict[str, Any], tag: str) -> str:
    """The first value of an attribute, as text; empty where there is none."""
    found = one.get(tag)
    values = found.get("Value") if isinstance(found, dict) else None
    return plain_text(str(values[0])) if isinstance(values, list) and values else ""


def _uid(one: Item, tag: str) -> str:
    found = _value(one, tag).strip("\0 ")
    return found if _UID.fullmatch(found) else ""


def _number(one: Item, tag: str) -> int | None:
    """A count; None where the PACS says none."""
    found = _value(one, tag)
    return int(found) if found.isascii() and found.isdigit() else None


def _series(one: Item) -> _Series:
    """A series by its UIDs. Raises UserError where it has none: to pass over it would be to lose it."""
    study, series = _uid(one, _STUDY), _uid(one, _SERIES)
    if not study or not series:
        raise _unnamed("UID")
    return _Series(_value(one, "00100020"), study, series, _number(one, "00201209"))


def _unnamed(what: str) -> UserError:
    why, do = f"one of its results has no valid {what}", "ask by another query, or ask its admin"
    return UserError("an answer of the PACS cannot be read", why, do)


def _days(items: Iterable[Item]) -> list[dt.date] | None:
    """The studies' days; None where one has none."""
    try:
        return [day(_value(one, _DATE)) for one in items]
    except ValueError:
        return None


def environment() -> Mapping[str, str]:
    """Where credentials are looked for."""
    return os.environ
