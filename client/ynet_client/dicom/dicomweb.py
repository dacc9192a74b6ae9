"""A DICOMweb client: search a PACS (QIDO-RS), fetch an object (WADO-RS), store one (STOW-RS)."""

import difflib
import re
import secrets
import time
from collections.abc import Callable, Iterator, Mapping
from pathlib import Path
from types import TracebackType
from typing import NamedTuple
from urllib.parse import parse_qsl

from pydicom._dicom_dict import DicomDictionary
from pydicom.datadict import tag_for_keyword

from ynet.data.limits import MAX_FILE_BYTES
from ynet.errors import UserError
from ynet_client.dicom.dicom_json import (
    CLASS,
    DATE,
    INSTANCE,
    INSTANCES_IN_SERIES,
    MODALITY,
    PATIENT_ID,
    SERIES,
    SERIES_IN_STUDY,
    STUDY,
    UID,
    count_of,
    days_of,
    key_of,
    text_of,
    uid_of,
)
from ynet_client.dicom.dicomweb_answers import listed, only_file, receipt
from ynet_client.dicom.pacs_connection import Connection
from ynet_client.dicom.whole_lists import Doubt, Item, Listing, Page, Span, partial, read

PAGE = 500
DRAWINGS = {"SEG": "1.2.840.10008.5.1.4.1.1.66.4", "RTSTRUCT": "1.2.840.10008.5.1.4.1.1.481.3"}
"""Modalities of drawings, each with the SOP class to assume where a PACS does not give one."""
MAX_LIST_BYTES = 64 << 20
_DICOM, _JSON = 'multipart/related; type="application/dicom"', "application/dicom+json"
_FILES = (f"{_DICOM}; transfer-syntax=*", _DICOM, "application/dicom")
_LISTS = (_JSON, "application/json")
_OF_SERIES = [("includefield", tag) for tag in (PATIENT_ID, DATE, MODALITY, SERIES_IN_STUDY, INSTANCES_IN_SERIES)]


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
    expected: int | None  # number of instances by the PACS's own count; None if it gives none
    sop_class: str = ""  # of its objects, if known


class DicomWeb:
    """A connection to a PACS, used in a `with` block. Every method raises UserError, RefusedError or UnreachableError.

    No message repeats the query, since it may hold a patient's name.
    """

    def __init__(
        self, url: str, headers: Mapping[str, str], ca: Path | None, sleep: Callable[[float], None] = time.sleep
    ) -> None:
        """`url` is the root of the DICOMweb services; `ca` holds the certificates to trust instead of the system's."""
        self._connection = Connection(url, headers, ca, sleep)
        self._most = dict[str, int]()  # longest page seen, by level: the PACS's own limit is at least that

    def __enter__(self) -> "DicomWeb":
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        self._connection.close()

    def find(self, query: str) -> Iterator[Listed]:
        """Yield the objects of the series that a query matches, by study, and all drawings of their patients.

        For a study without a patient id, the drawings of the study. A list that may be truncated is requested again in
        smaller parts. Raises UserError if the parts may be truncated too.
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
        """Return the object with this SOP instance UID."""
        if not UID.fullmatch(instance):
            raise UserError(
                "the image cannot be requested", "its SOP instance UID is not valid", "give digits and dots"
            )
        for expected in (1, None):  # a PACS that ignores the UID lists other objects too
            listing = self._list("/instances", [("SOPInstanceUID", instance)], expected)
            for one in listing.found.values():
                study, series = (uid_of(one, tag) for tag in (STUDY, SERIES))
                if uid_of(one, INSTANCE) == instance and study and series:
                    return Listed(
                        text_of(one, PATIENT_ID),
                        study,
                        series,
                        instance,
                        text_of(one, CLASS),
                    )
            if listing.doubt:
                raise partial(listing.doubt)
        raise UserError("the image was not found", "the PACS has no object with this SOP instance UID", "check the UID")

    def fetch(self, one: Listed) -> bytes:
        """Fetch an object's DICOM file, of at most MAX_FILE_BYTES."""
        path = f"/studies/{one.study}/series/{one.series}/instances/{one.instance}"
        answer = self._connection.get(path, [], _FILES, MAX_FILE_BYTES + (64 << 10))
        if answer.is_cut:
            raise UserError("the PACS sent only a part of the file", "it answered 206", "ask its admin why")
        return only_file(answer.body, answer.kind, one.instance)

    def store(self, file: bytes) -> str:
        """Store a DICOM file in the PACS. Returns the warnings of its answer; empty where it has none."""
        boundary = secrets.token_hex(16)
        head = f"--{boundary}\r\nContent-Type: application/dicom\r\n\r\n".encode()
        content = head + file + f"\r\n--{boundary}--\r\n".encode()
        headers = {"content-type": f"{_DICOM}; boundary={boundary}", "accept": _JSON}
        return receipt(*self._connection.post("/studies", headers, content, MAX_LIST_BYTES))

    # --- lists

    def _matching(self, asked: list[tuple[str, str]]) -> Mapping[str, Item]:
        """Return all series that a query matches; split by study date where the answer may be truncated."""
        listing = self._list("/series", [*asked, *_OF_SERIES])
        return listing.found if listing.doubt is None else self._by_date(asked, listing)

    def _by_date(self, asked: list[tuple[str, str]], whole: Listing) -> Mapping[str, Item]:
        """Search in spans of study dates. Raises UserError when the answer for a single day may be truncated too."""
        others = [(name, value) for name, value in asked if name.lower() not in ("studydate", DATE)]
        given = [value for name, value in asked if (name, value) not in others]
        span = Span.of(given[0] if given else "-") if len(given) < 2 else None
        days = days_of(whole.found.values())
        spans = span.split(days) if span and days else []
        if not spans:
            return self._unsplit(asked, whole)
        found: dict[str, Item] = {}
        for smaller in spans:
            part = [*others, ("StudyDate", smaller.text())]
            found |= (listing := self._list("/series", [*part, *_OF_SERIES])).found
            days = days_of(listing.found.values())
            if days is None or not all(map(smaller.holds, days)):
                raise partial(Doubt.OTHERS)
            if listing.doubt:
                found |= self._by_date(part, listing)
        if whole.found.keys() - found.keys():
            raise partial(whole.doubt or Doubt.FEWER)
        return found

    def _unsplit(self, asked: list[tuple[str, str]], whole: Listing) -> Mapping[str, Item]:
        """Accept a list that cannot be split, if the PACS returns a longer page for a wider query. Raises UserError."""
        if whole.doubt is Doubt.REPEATED and asked and len(self._page("/series", _OF_SERIES, 0).items) > whole.longest:
            return whole.found
        undated = whole.doubt is not Doubt.REPEATED and days_of(whole.found.values()) is None
        raise partial(Doubt.UNDATED if undated else whole.doubt or Doubt.FEWER)

    def _in_study(self, study: str, patient: str) -> Iterator[_Series]:
        """Yield the series of a study that hold drawings: DICOM SEGs and RT structure sets."""
        listing = self._list(f"/studies/{study}/series", _OF_SERIES)
        expected = max((count_of(one, SERIES_IN_STUDY) or 0 for one in listing.found.values()), default=0)
        if listing.doubt and not 0 < expected <= len(listing.found):
            raise partial(listing.doubt)
        if expected > len(listing.found):
            raise partial(Doubt.FEWER)
        for one in listing.found.values():
            if sop_class := DRAWINGS.get(text_of(one, MODALITY)):
                yield _series({**one, STUDY: {"Value": [study]}})._replace(patient=patient, sop_class=sop_class)

    def _of_patient(self, patient: str) -> Iterator[_Series]:
        """Yield the series of drawings in all studies of a patient; other results are skipped."""
        for modality, sop_class in DRAWINGS.items():
            for one in self._matching([("PatientID", patient), ("Modality", modality)]).values():
                if text_of(one, PATIENT_ID) in ("", patient) and text_of(one, MODALITY) in ("", modality):
                    yield _series(one)._replace(patient=patient, sop_class=sop_class)

    def _instances(self, series: _Series) -> Iterator[Listed]:
        path = f"/studies/{series.study}/series/{series.series}"
        listing = self._list(f"{path}/instances", [("includefield", CLASS)], expected=series.expected or None)
        found = listing.found
        is_complete = all(uid_of(one, INSTANCE) and (text_of(one, CLASS) or series.sop_class) for one in found.values())
        if listing.doubt or not is_complete or len(found) < (1 if series.expected is None else series.expected):
            found = self._in_metadata(path, series.expected, listing)
        for one in found.values():
            if not (sop_class := text_of(one, CLASS) or series.sop_class):
                raise _unnamed("SOP class")
            yield Listed(series.patient, series.study, series.series, uid_of(one, INSTANCE), sop_class)

    def _in_metadata(self, path: str, expected: int | None, listing: Listing) -> Mapping[str, Item]:
        """List a series' instances by WADO-RS, where no QIDO-RS limit applies. Raises UserError when it has no more."""
        doubt = listing.doubt or Doubt.FEWER
        try:
            answer = self._connection.get(f"{path}/metadata", [], _LISTS, MAX_LIST_BYTES)
            instances = {uid_of(one, INSTANCE): one for one in listed(answer.body)}
        except UserError:
            raise partial(doubt) from None
        known = {uid_of(one, INSTANCE) for one in listing.found.values()}
        if answer.is_cut or known - instances.keys() or len(instances) < (expected or 1) or "" in instances:
            raise partial(doubt)
        if doubt is Doubt.CUT and len(instances) == len(known) != expected:
            raise partial(doubt)  # it announces more instances and lists none
        return instances

    def _list(self, path: str, asked: list[tuple[str, str]], expected: int | None = None) -> Listing:
        """Return all results of a search, or those received and the reason why there may be more."""
        listing = read(lambda offset: self._page(path, asked, offset), key_of, expected)
        level = path.rsplit("/", 1)[-1]
        most = self._most.get(level, 1)
        self._most[level] = max(most, listing.longest)
        is_below = len(listing.found) <= 1 or listing.longest < most  # the PACS has sent longer pages than that
        return listing._replace(doubt=None) if listing.doubt is Doubt.REPEATED and is_below else listing

    def _page(self, path: str, asked: list[tuple[str, str]], offset: int) -> Page:
        page = [("limit", str(PAGE)), ("offset", str(offset))]
        answer = self._connection.get(path, [*asked, *page], _LISTS, MAX_LIST_BYTES)
        return Page(listed(answer.body), answer.is_cut)


def read_query(query: str) -> list[tuple[str, str]]:
    """Parse `Modality=MR&StudyDate=20240101-` into pairs. Raises UserError for a name that is not a DICOM attribute."""
    what = "the query cannot be sent"
    try:
        pairs = parse_qsl(query, keep_blank_values=True, strict_parsing=bool(query))
    except ValueError:
        raise UserError(what, "it is not NAME=VALUE, joined by &", 'write "Modality=MR&StudyDate=20240101-"') from None
    for name, _ in pairs:
        if tag_for_keyword(name) is None and not re.fullmatch(r"[0-9A-Fa-f]{8}", name):
            near = difflib.get_close_matches(name, [entry[4] for entry in DicomDictionary.values()], n=1)
            do = f"did you mean {near[0]}?" if near else "use DICOM attribute names, e.g. Modality"
            raise UserError(what, "one of its names is not a DICOM attribute", do)
    return pairs


def _series(one: Item) -> _Series:
    """Read a series from a search result. Raises UserError where it has no UID, since skipping it would lose data."""
    study, series = uid_of(one, STUDY), uid_of(one, SERIES)
    if not study or not series:
        raise _unnamed("UID")
    return _Series(
        text_of(one, PATIENT_ID),
        study,
        series,
        count_of(one, INSTANCES_IN_SERIES),
    )


def _unnamed(what: str) -> UserError:
    why, do = f"one of its results has no valid {what}", "ask by another query, or ask its admin"
    return UserError("an answer of the PACS cannot be read", why, do)
