"""The attributes of one search result of a PACS, in the DICOM JSON model (PS3.18, F.2)."""

import datetime as dt
import json
import re
from collections.abc import Iterable

from ynet.data.dicom.character_sets import plain_text
from ynet_client.dicom.whole_lists import Item, day

PATIENT_ID, MODALITY, DATE = "00100020", "00080060", "00080020"
STUDY, SERIES, INSTANCE, CLASS = "0020000D", "0020000E", "00080018", "00080016"
SERIES_IN_STUDY, INSTANCES_IN_SERIES = "00201206", "00201209"
UID = re.compile(r"[0-9]+(\.[0-9]+)*")


def key_of(one: Item) -> str:
    """Return a result's identifiers joined, or the whole result as text where it has none."""
    found = "/".join(text_of(one, tag) for tag in (STUDY, SERIES, INSTANCE))
    return found if found.strip("/") else json.dumps(one, sort_keys=True)


def text_of(one: Item, tag: str) -> str:
    """Return the first value of an attribute as text; empty where there is none."""
    found = one.get(tag)
    values = found.get("Value") if isinstance(found, dict) else None
    return plain_text(str(values[0])) if isinstance(values, list) and values else ""


def uid_of(one: Item, tag: str) -> str:
    """Return an attribute that is a valid UID; else an empty text."""
    found = text_of(one, tag).strip("\0 ")
    return found if UID.fullmatch(found) else ""


def count_of(one: Item, tag: str) -> int | None:
    """Return a count; None where the PACS gives none."""
    found = text_of(one, tag)
    return int(found) if found.isascii() and found.isdigit() else None


def days_of(results: Iterable[Item]) -> list[dt.date] | None:
    """Return the study dates of results; None where one has no date."""
    try:
        return [day(text_of(one, DATE)) for one in results]
    except ValueError:
        return None
