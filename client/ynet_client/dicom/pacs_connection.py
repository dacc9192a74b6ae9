"""A connection to a PACS by DICOMweb: requests with their credentials, tried again where a fault may pass."""

import ssl
from collections.abc import Callable, Mapping
from pathlib import Path
from types import TracebackType
from typing import Any, NamedTuple

import httpx

from ynet.errors import RefusedError, UnreachableError, UserError
from ynet.runtime.address import is_loopback
from ynet_client.dicom.dicomweb_answers import bounded, is_cut, wait_s

USER, PASSWORD, TOKEN = "YNET_DICOMWEB_USER", "YNET_DICOMWEB_PASSWORD", "YNET_DICOMWEB_TOKEN"
TRIES = 4
TIMEOUT = httpx.Timeout(60.0, connect=10.0)
_AGAIN = (429, 500, 502, 503, 504)
_OTHER_FORM = (400, 406, 415, 501)
"""With these a PACS may refuse the form that an answer is wanted in."""


class Answer(NamedTuple):
    """What a PACS answered."""

    body: bytes
    kind: str  # its content type
    is_cut: bool  # there may be more


class Connection:
    """Open from `with` to its end. A PACS is asked directly, whatever proxy the environment names.

    Redirects are not followed: the credentials go nowhere else.
    """

    def __init__(self, url: str, headers: Mapping[str, str], ca: Path | None, sleep: Callable[[float], None]) -> None:
        """`url`: the root of the DICOMweb services. `ca`: certificates that are trusted in place of the system's."""
        self._where, self._sleep = _checked(url, is_secret=bool(headers)), sleep
        self._client = httpx.Client(
            headers=dict(headers), verify=_trust(ca), timeout=TIMEOUT, trust_env=False, follow_redirects=False
        )
        self._forms = dict[tuple[str, ...], tuple[str, ...]]()  # of an answer, the one first that the PACS knows

    def close(self) -> None:
        """No request is made after it."""
        self._client.close()

    def get(self, path: str, asked: list[tuple[str, str]], forms: tuple[str, ...], most: int) -> Answer:
        """A body of at most so many bytes. Asked again after a fault that may pass, in another form where refused."""
        status = 0
        for form in (usual := self._forms.get(forms, forms)):
            answer = self._in_form(path, asked, form, most)
            if isinstance(answer, Answer):
                self._forms[forms] = (form, *(one for one in usual if one != form))
                return answer
            status = answer
        raise _refused(status)

    def post(self, path: str, headers: Mapping[str, str], content: bytes, most: int) -> tuple[int, bytes]:
        """The status, 200 or 202, and the body."""
        with self._asked("POST", path, headers=headers, content=content) as response:
            if response.status_code not in (200, 202):
                raise _refused(response.status_code)
            return response.status_code, bounded(response, most)

    def _in_form(self, path: str, asked: list[tuple[str, str]], form: str, most: int) -> Answer | int:
        """A body in this form, or the status with which the PACS refuses the form."""
        for left in reversed(range(TRIES)):
            otherwise_s = min(30.0, 0.5 * 4 ** (TRIES - 1 - left))
            try:
                with self._asked("GET", path, params=asked, headers={"accept": form}) as response:
                    status = response.status_code
                    if status in _OTHER_FORM:
                        return status
                    if status in (200, 204, 206):
                        body = b"" if status == 204 else bounded(response, most)
                        return Answer(body, response.headers.get("content-type", ""), is_cut(response))
                    if left == 0 or status not in _AGAIN:
                        raise _refused(status)
                    otherwise_s = wait_s(response, otherwise_s)
            except UnreachableError:
                if left == 0:
                    raise
            self._sleep(otherwise_s)
        raise AssertionError

    def _asked(self, method: str, path: str, **request: Any) -> "_Response":
        return _Response(self._client, self._client.build_request(method, self._where + path, **request))


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


def _refused(status: int) -> UserError:
    if status in (401, 403):
        do = f"set {TOKEN}, or {USER} and {PASSWORD}, or give --credentials FILE"
        return RefusedError("the PACS refused", f"it answered {status}: the credentials are missing or wrong", do)
    if status == 413:
        do = "narrow the query (--query ...&StudyDate=20240101-20240131)"
        return UserError("the PACS did not answer", "it answered 413: it would find too much", do)
    if status == 404:
        return UserError("the PACS has no such thing", "it answered 404", "check the URL of its DICOMweb services")
    if 300 <= status < 400:
        return UserError("the PACS sends elsewhere", f"it answered {status}", "give the URL that it sends to")
    return UnreachableError("the PACS did not do it", f"it answered {status}", "ask its admin, or try again later")


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
