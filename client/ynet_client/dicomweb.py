"""A PACS spoken to by DICOMweb: what it holds (QIDO-RS), one of its objects (WADO-RS), one more for it (STOW-RS)."""

import base64
import difflib
import json
import os
import re
import secrets
import ssl
import time
from collections.abc import Callable, Iterator, Mapping
from pathlib import Path
from types import TracebackType
from typing import Any, NamedTuple
from urllib.parse import parse_qsl

import httpx
from pydicom._dicom_dict import DicomDictionary
from pydicom.datadict import tag_for_keyword

from ynet import hidden_words
from ynet.address import is_loopback
from ynet.data.limits import MAX_FILE_BYTES
from ynet.errors import RefusedError, UnreachableError, UserError

USER, PASSWORD, TOKEN = "YNET_DICOMWEB_USER", "YNET_DICOMWEB_PASSWORD", "YNET_DICOMWEB_TOKEN"
PAGE = 500
TRIES = 4
MAX_LIST_BYTES = 64 << 20
TIMEOUT = httpx.Timeout(60.0, connect=10.0)
_UID = re.compile(r"[0-9]+(\.[0-9]+)*")
_DICOM = 'multipart/related; type="application/dicom"'
_AGAIN = (429, 500, 502, 503, 504)


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

    No message names what was asked for: a query may hold a patient's name. A PACS is asked directly, whatever proxy
    the environment names, and redirects are not followed: the credentials go nowhere else.
    """

    def __init__(
        self, url: str, headers: Mapping[str, str], ca: Path | None, sleep: Callable[[float], None] = time.sleep
    ) -> None:
        """`url`: the root of the DICOMweb services. `ca`: certificates that are trusted in place of the system's."""
        self._where, self._sleep = _checked(url, is_secret=bool(headers)), sleep
        self._client = httpx.Client(
            headers=dict(headers), verify=_trust(ca), timeout=TIMEOUT, trust_env=False, follow_redirects=False
        )

    def __enter__(self) -> "DicomWeb":
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        self._client.close()

    def find(self, query: str) -> Iterator[Listed]:
        """The objects of the series that a query finds, and those of all DICOM SEGs in their studies, by study."""
        asked, by_study = read_query(query), dict[str, dict[str, _Series]]()
        for one in self._series("/series", asked):
            by_study.setdefault(one.study, {})[one.series] = one
        for study, found in by_study.items():
            patient = next(iter(found.values())).patient
            for seg in self._series(f"/studies/{study}/series", [("Modality", "SEG")]):
                found.setdefault(seg.series, _Series(patient, study, seg.series))
            for series in found.values():
                yield from self._instances(series)

    def instance(self, instance: str) -> Listed:
        """The object of this SOP instance UID."""
        if not _UID.fullmatch(instance):
            raise UserError("the image cannot be asked for", "its SOP instance UID is none", "give digits and dots")
        for one in self._pages("/instances", [("SOPInstanceUID", instance)]):
            study, series = (_value(one, tag) for tag in ("0020000D", "0020000E"))
            if _UID.fullmatch(study) and _UID.fullmatch(series):
                return Listed(_value(one, "00100020"), study, series, instance, _value(one, "00080016"))
        raise UserError("the image is not there", "the PACS knows no such SOP instance UID", "check the UID")

    def fetch(self, one: Listed) -> bytes:
        """An object's DICOM file, at most MAX_FILE_BYTES."""
        path = f"/studies/{one.study}/series/{one.series}/instances/{one.instance}"
        accept = f"{_DICOM}; transfer-syntax=*"
        body, kind = self._get(path, [], accept, MAX_FILE_BYTES + (64 << 10))
        return _only_part(body, kind)

    def store(self, file: bytes) -> None:
        """Give the PACS a DICOM file."""
        boundary = secrets.token_hex(16)
        head = f"--{boundary}\r\nContent-Type: application/dicom\r\n\r\n".encode()
        content = head + file + f"\r\n--{boundary}--\r\n".encode()
        headers = {"content-type": f"{_DICOM}; boundary={boundary}", "accept": "application/dicom+json"}
        with self._asked("POST", "/studies", headers=headers, content=content) as response:
            answer = _bounded(response, MAX_LIST_BYTES)
            if response.status_code not in (200, 202):
                raise self._refused(response.status_code)
        if _has_failed(answer):
            raise RefusedError("the PACS did not keep the object", "its answer names it as failed", "ask its admin why")

    # --- within

    def _series(self, path: str, asked: list[tuple[str, str]]) -> Iterator[_Series]:
        fields = [("includefield", "00100020")]
        for one in self._pages(path, [*asked, *fields]):
            study = _value(one, "0020000D") or (path.split("/")[2] if path.startswith("/studies/") else "")
            series = _value(one, "0020000E")
            if _UID.fullmatch(study) and _UID.fullmatch(series):
                yield _Series(_value(one, "00100020"), study, series)

    def _instances(self, series: _Series) -> Iterator[Listed]:
        path = f"/studies/{series.study}/series/{series.series}/instances"
        for one in self._pages(path, [("includefield", "00080016")]):
            instance = _value(one, "00080018")
            if _UID.fullmatch(instance):
                yield Listed(*series, instance, _value(one, "00080016"))

    def _pages(self, path: str, asked: list[tuple[str, str]]) -> Iterator[dict[str, Any]]:
        """All that is found, in pages; a PACS that pays no heed to the offset says the same again, and is done."""
        seen: set[str] = set()
        while True:
            page = [("limit", str(PAGE)), ("offset", str(len(seen)))]
            body, _ = self._get(path, [*asked, *page], "application/dicom+json", MAX_LIST_BYTES)
            new = {_key(one): one for one in _listed(body)}
            yield from (one for key, one in new.items() if key not in seen)
            if not new.keys() - seen:
                return
            seen |= new.keys()

    def _get(self, path: str, asked: list[tuple[str, str]], accept: str, most: int) -> tuple[bytes, str]:
        """A body, and its type. Asked again after a fault that may pass."""
        for left in reversed(range(TRIES)):
            wait_s = min(30.0, 0.5 * 4 ** (TRIES - 1 - left))
            try:
                with self._asked("GET", path, params=asked, headers={"accept": accept}) as response:
                    if response.status_code == 204:
                        return b"[]", ""
                    if response.status_code == 200:
                        return _bounded(response, most), response.headers.get("content-type", "")
                    if left == 0 or response.status_code not in _AGAIN:
                        raise self._refused(response.status_code)
                    wait_s = _wait_s(response, wait_s)
            except UnreachableError:
                if left == 0:
                    raise
            self._sleep(wait_s)
        raise AssertionError

    def _asked(self, method: str, path: str, **request: Any) -> "_Response":
        return _Response(self._client, self._client.build_request(method, self._where + path, **request))

    def _refused(self, status: int) -> UserError:
        if status in (401, 403):
            do = f"set {TOKEN}, or {USER} and {PASSWORD}, or give --credentials FILE"
            return RefusedError("the PACS refused", f"it answered {status}: the credentials are missing or wrong", do)
        if status == 404:
            return UserError("the PACS has no such thing", "it answered 404", "check the URL of its DICOMweb services")
        if 300 <= status < 400:
            return UserError("the PACS sends elsewhere", f"it answered {status}", "give the URL that it sends to")
        return UnreachableError("the PACS did not do it", f"it answered {status}", "ask its admin, or try again later")


class _Response:
    """A streamed response whose faults of transport are errors of the user."""

    def __init__(self, client: httpx.Client, request: httpx.Request) -> None:
        self._client, self._request = client, request

    def __enter__(self) -> httpx.Response:
        try:
            self._response = self._client.send(self._request, stream=True)
        except httpx.HTTPError as error:
            raise _unreachable(error) from None
        return self._response

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        self._response.close()
        if isinstance(error, httpx.HTTPError):
            raise _unreachable(error) from None


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


def _checked(url: str, *, is_secret: bool) -> str:
    what = "the PACS cannot be asked"
    try:
        parsed = httpx.URL(url)
    except httpx.InvalidURL:
        parsed = httpx.URL("")
    if parsed.scheme not in ("http", "https") or not parsed.host or parsed.query or parsed.fragment:
        raise UserError(what, "its URL is none", "give the root of its DICOMweb services: https://HOST/dicom-web")
    if parsed.userinfo:
        raise UserError(what, "its URL holds credentials, which other users see", "give --credentials FILE")
    if is_secret and parsed.scheme == "http" and not is_loopback(parsed.host):
        raise UserError(what, "credentials would go over the line in the clear", "give an https:// URL")
    return str(parsed).rstrip("/")


def _trust(ca: Path | None) -> ssl.SSLContext:
    try:
        return ssl.create_default_context(cafile=None if ca is None else str(ca))
    except OSError:
        do = "give the PEM file of the authority that signed the PACS's certificate"
        raise UserError(f"the certificates {ca} cannot be used", "the file is no PEM, or cannot be read", do) from None


def _unreachable(error: httpx.HTTPError) -> UnreachableError:
    if "CERTIFICATE_VERIFY_FAILED" in str(error):
        do = "give --ca FILE with the hospital's authority, or the name that stands in the certificate"
        return UnreachableError("the PACS is not trusted", "its certificate is of no known authority or name", do)
    why = "it took too long" if isinstance(error, httpx.TimeoutException) else "no connection, or one that broke off"
    return UnreachableError("the PACS did not answer", why, "check the URL, and whether this machine may reach it")


def _wait_s(response: httpx.Response, otherwise_s: float) -> float:
    told = response.headers.get("retry-after", "")
    return min(60.0, float(told)) if told.isdigit() else otherwise_s


def _bounded(response: httpx.Response, most: int) -> bytes:
    parts, size = [], 0
    for part in response.iter_bytes(1 << 16):
        size += len(part)
        if size > most:
            why = f"it has more than the {most >> 20} MiB allowed"
            raise UserError("an answer of the PACS is too large", why, "ask for less, or export the image smaller")
        parts.append(part)
    return b"".join(parts)


def _only_part(body: bytes, kind: str) -> bytes:
    """The one part of a multipart body; a PACS may send the file bare."""
    if not kind.startswith("multipart/"):
        return body
    boundary = re.search(r'boundary="?([^";]+)', kind)
    start = body.find(b"\r\n\r\n")
    end = body.rfind(b"\r\n--" + boundary[1].encode()) if boundary else -1
    if start < 0 or end < start:
        raise UserError("an answer of the PACS cannot be read", "it is no multipart message", "ask its admin")
    return body[start + 4 : end]


def _listed(body: bytes) -> list[dict[str, Any]]:
    try:
        found = json.loads(body or b"[]")
    except (ValueError, RecursionError):
        found = None
    if not isinstance(found, list) or not all(isinstance(one, dict) for one in found):
        raise UserError("an answer of the PACS cannot be read", "it is no list in JSON", "check the URL")
    return found


def _key(one: dict[str, Any]) -> str:
    return "/".join(_value(one, tag) for tag in ("0020000D", "0020000E", "00080018"))


def _value(one: dict[str, Any], tag: str) -> str:
    """The first value of an attribute, as text; empty where there is none."""
    found = one.get(tag)
    values = found.get("Value") if isinstance(found, dict) else None
    return str(values[0]).strip() if isinstance(values, list) and values else ""


def _has_failed(answer: bytes) -> bool:
    """Whether a STOW-RS answer has a Failed SOP Sequence with something in it."""
    try:
        found = json.loads(answer)
    except (ValueError, RecursionError):
        return False
    return isinstance(found, dict) and bool((found.get("00081198") or {}).get("Value"))


def environment() -> Mapping[str, str]:
    """Where credentials are looked for."""
    return os.environ
