"""Parsing of DICOMweb answers: lists, files and receipts. A truncated answer is refused."""

import datetime as dt
import json
import re
from email.utils import parsedate_to_datetime
from itertools import pairwise
from typing import Any

import httpx

from ynet.data.dicom import elements
from ynet.data.dicom.elements import is_dicom
from ynet.data.dicom.faults import UnfitError
from ynet.errors import RefusedError, UserError

MOST_WAIT_S = 60.0
_UNREADABLE = "an answer of the PACS cannot be read"
_FAILED, _REFERENCED, _WARNING = "00081198", "00081199", "00081196"
_WARNINGS = {
    0xB000: "it changed data elements",
    0xB006: "it left out data elements",
    0xB007: "it says that the object does not match its SOP class",
}


def bounded(response: httpx.Response, most: int) -> bytes:
    """Read at most `most` bytes of body after decompression. Raises UserError, or httpx's errors if it is truncated."""
    parts, size = [], 0
    for part in response.iter_bytes(1 << 16):
        size += len(part)
        if size > most:
            why = f"it has more than the {most >> 20} MiB allowed"
            raise UserError("an answer of the PACS is too large", why, "ask for less, or export the image smaller")
        parts.append(part)
    return b"".join(parts)


def is_cut(response: httpx.Response) -> bool:
    """Return whether a search's answer says that results may be missing.

    A warning about fuzzy matching does not count, since no query requests it.
    """
    warnings = [text for text in response.headers.get_list("warning") if "fuzzymatching" not in text.lower()]
    return response.status_code == 206 or bool(warnings)


def wait_s(response: httpx.Response, otherwise_s: float) -> float:
    """Return the seconds to wait by the PACS's Retry-After header, which holds seconds or a time by its own clock."""
    header = response.headers.get("retry-after", "").strip()
    if header.isascii() and header.isdigit():
        return min(MOST_WAIT_S, float(header))
    until, now = _time(header), _time(response.headers.get("date", ""))
    return min(MOST_WAIT_S, max(0.0, (until - now).total_seconds())) if until and now else otherwise_s


def _time(text: str) -> dt.datetime | None:
    try:
        found = parsedate_to_datetime(text)
    except (ValueError, TypeError):
        return None
    return found if found.tzinfo else found.replace(tzinfo=dt.UTC)


def listed(body: bytes) -> list[dict[str, Any]]:
    """Parse the results of a search. Raises UserError."""
    try:
        found = json.loads(body or b"[]")
    except (ValueError, RecursionError):
        found = None
    if not isinstance(found, list) or not all(isinstance(one, dict) for one in found):
        raise UserError(_UNREADABLE, "it is not a JSON list", "check the URL")
    return found


def only_file(body: bytes, kind: str, instance: str) -> bytes:
    """Return the file with this SOP instance UID: the only part of a multipart body, or the matching one of several.

    A PACS may also send the file without multipart. Raises UserError if the file is missing or truncated.
    """
    files = _parts(body, kind) if kind.lower().startswith("multipart/") else [body]
    if len(files) > 1:
        files = [file for file in files if _instance(file) == instance]
    if len(files) != 1 or not files[0]:
        why = "its answer does not hold the one requested object"
        raise UserError("the PACS sent no file", why, "ask its admin why, with the object's UID")
    if _instance(files[0]) not in ("", instance):
        raise UserError("the PACS sent another file", "it has another SOP instance UID", "ask its admin why")
    return files[0]


def _parts(body: bytes, kind: str) -> list[bytes]:
    """Split a multipart body into its parts without headers. Raises UserError if the closing boundary is missing."""
    found = re.search(r'boundary=(?:"([^"]+)"|([^";\s]+))', kind, re.IGNORECASE)
    sections = []
    if found:
        mark = b"\r\n--" + (found[1] or found[2]).encode()
        whole = b"\r\n" + body
        cuts = list(re.finditer(re.escape(mark) + rb"(?:--|[ \t]*\r\n)", whole))
        if cuts and cuts[-1][0].endswith(b"--"):
            # the line break that ends a boundary begins the headers of its part
            sections = [b"\r\n" + whole[here.end() : following.start()] for here, following in pairwise(cuts)]
    if not sections or any(b"\r\n\r\n" not in section for section in sections):
        why = "it is not a multipart message, or it is truncated"
        raise UserError(_UNREADABLE, why, "try again; if it happens again, ask its admin")
    return [section.split(b"\r\n\r\n", 1)[1] for section in sections]


def _instance(file: bytes) -> str:
    """Return the SOP instance UID of a DICOM file; empty where it cannot be read."""
    if not is_dicom(file):
        return ""
    try:
        return str(elements.read(file, ("SOPInstanceUID",)).dataset.get("SOPInstanceUID") or "").strip()
    except UnfitError:
        return ""


def receipt(status: int, answer: bytes) -> str:
    """Return the warnings in the PACS's answer to a stored object; empty where there are none.

    Raises RefusedError where the answer reports a failure, or a partial success without saying which object was stored.
    """
    try:
        found = json.loads(answer)
    except (ValueError, RecursionError):
        found = None
    failed, referenced = (_items(found, tag) for tag in (_FAILED, _REFERENCED))
    if failed or (found is None and (b"FailedSOPSequence" in answer or _FAILED.encode() in answer)):
        raise RefusedError("the PACS did not store the object", "its answer lists it as failed", "ask its admin why")
    if status != 200 and not referenced:
        why = f"it answered {status} and does not say what it stored"
        raise RefusedError("the PACS may not have stored the object", why, "search for it there, or ask its admin")
    codes = {_number(one) for one in referenced} - {0}
    return "; ".join(_WARNINGS.get(code, f"it gives the warning {code:04X}") for code in sorted(codes))


def _items(found: Any, tag: str) -> list[Any]:
    values = (found.get(tag) or {}).get("Value") if isinstance(found, dict) else None
    return values if isinstance(values, list) else []


def _number(one: Any) -> int:
    values = _items(one, _WARNING)
    return values[0] if values and isinstance(values[0], int) else 0
