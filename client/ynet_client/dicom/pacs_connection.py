"""HTTP requests to a PACS, with credentials and retries after transient faults."""

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
"""Statuses with which a PACS may refuse the requested media type."""


class PacsResponse(NamedTuple):
    """A PACS's answer to a request."""

    body: bytes
    kind: str  # its content type
    is_cut: bool  # results may be missing


class Connection:
    """An HTTP connection to a PACS.

    Proxies of the environment are ignored. Redirects are not followed, so that the credentials reach no other host.
    """

    def __init__(self, url: str, headers: Mapping[str, str], ca: Path | None, sleep: Callable[[float], None]) -> None:
        """`url` is the root of the DICOMweb services; `ca` holds the certificates to trust instead of the system's."""
        self._where, self._sleep = _checked(url, is_secret=bool(headers)), sleep
        self._client = httpx.Client(
            headers=dict(headers), verify=_trust(ca), timeout=TIMEOUT, trust_env=False, follow_redirects=False
        )
        self._forms = dict[tuple[str, ...], tuple[str, ...]]()  # media types, those first that the PACS accepts

    def close(self) -> None:
        """Close the connection."""
        self._client.close()

    def get(self, path: str, asked: list[tuple[str, str]], forms: tuple[str, ...], most: int) -> PacsResponse:
        """Get a body of at most `most` bytes; retry transient faults, and try the next media type if one is refused."""
        status = 0
        for form in (usual := self._forms.get(forms, forms)):
            answer = self._in_form(path, asked, form, most)
            if isinstance(answer, PacsResponse):
                self._forms[forms] = (form, *(one for one in usual if one != form))
                return answer
            status = answer
        raise _refused(status)

    def post(self, path: str, headers: Mapping[str, str], content: bytes, most: int) -> tuple[int, bytes]:
        """Post `content`. Returns the status, 200 or 202, and the body."""
        with self._asked("POST", path, headers=headers, content=content) as response:
            if response.status_code not in (200, 202):
                raise _refused(response.status_code)
            return response.status_code, bounded(response, most)

    def _in_form(self, path: str, asked: list[tuple[str, str]], form: str, most: int) -> PacsResponse | int:
        """Get a body of this media type, or the status with which the PACS refuses the media type."""
        for left in reversed(range(TRIES)):
            otherwise_s = min(30.0, 0.5 * 4 ** (TRIES - 1 - left))
            try:
                with self._asked("GET", path, params=asked, headers={"accept": form}) as response:
                    status = response.status_code
                    if status in _OTHER_FORM:
                        return status
                    if status in (200, 204, 206):
                        body = b"" if status == 204 else bounded(response, most)
                        return PacsResponse(body, response.headers.get("content-type", ""), is_cut(response))
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
    """A streamed response whose transport errors become UserErrors."""

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
        return UserError("the PACS did not answer", "it answered 413: the query matches too much", do)
    if status == 404:
        return UserError("the PACS has no such resource", "it answered 404", "check the URL of its DICOMweb services")
    if 300 <= status < 400:
        return UserError(
            "the PACS redirects to another URL", f"it answered {status}", "give the URL that it redirects to"
        )
    return UnreachableError("the PACS failed", f"it answered {status}", "ask its admin, or try again later")


def _checked(url: str, *, is_secret: bool) -> str:
    what = "the PACS cannot be queried"
    try:
        parsed = httpx.URL(url)
    except httpx.InvalidURL:
        parsed = httpx.URL("")
    if parsed.scheme not in ("http", "https") or not parsed.host or parsed.query or parsed.fragment:
        raise UserError(what, "its URL is not valid", "give the root of its DICOMweb services: https://HOST/dicom-web")
    if parsed.userinfo:
        raise UserError(what, "its URL holds credentials, which other users can see", "give --credentials FILE")
    if is_secret and parsed.scheme == "http" and not is_loopback(parsed.host):
        raise UserError(what, "credentials would be sent unencrypted", "give an https:// URL")
    return str(parsed).rstrip("/")


def _trust(ca: Path | None) -> ssl.SSLContext:
    try:
        return ssl.create_default_context(cafile=None if ca is None else str(ca))
    except OSError:
        do = "give the PEM file of the authority that signed the PACS's certificate"
        raise UserError(f"the certificates {ca} cannot be used", "the file is not PEM, or cannot be read", do) from None


def _unreachable(error: httpx.HTTPError) -> UnreachableError:
    if "CERTIFICATE_VERIFY_FAILED" in str(error):
        do = "give --ca FILE with the hospital's authority, or use the host name in the certificate"
        return UnreachableError("the PACS is not trusted", "its certificate has an unknown authority or host name", do)
    why = "it took too long" if isinstance(error, httpx.TimeoutException) else "the connection failed or broke off"
    return UnreachableError("the PACS did not answer", why, "check the URL, and whether this machine can reach it")
