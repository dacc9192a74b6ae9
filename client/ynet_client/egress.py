"""What has left the site, by class: how often, how many bytes, when first and last. No patient, file or query is named.

Counted is what goes into messages to the server, before it is encrypted for the line: without the framing of TLS and
HTTP/2. What is sent again counts again. At most a second after it left, it is on the disk.
"""

import contextlib
import logging
import threading
import time
from collections.abc import Callable, Iterable
from pathlib import Path
from typing import Any, Literal, NamedTuple, TypeVar

from ynet.errors import UserError
from ynet.runtime.background_sync import BackgroundSync
from ynet_client.database import Database

log = logging.getLogger("ynet.egress")
FILE = "egress.sqlite"
_SCHEMA = "CREATE TABLE egress (class TEXT PRIMARY KEY, messages INTEGER, bytes INTEGER, first REAL, last REAL)"
_ADD = (
    "INSERT INTO egress VALUES (?, ?, ?, ?, ?) ON CONFLICT (class) DO UPDATE SET"
    " messages = messages + excluded.messages, bytes = bytes + excluded.bytes, last = max(last, excluded.last)"
)

Class = Literal[
    "initial weights",
    "updates",
    "figures",
    "secure sums",
    "task failures",
    "queries",
    "consults",
    "answers",
    "enrolment",
    "certificates",
    "greetings",
    "sealing keys",
    "audit heads",
    "requests",
]
"""What leaves. `requests`: for files, and how far an upload has come."""

T = TypeVar("T")
Count = Callable[[Class, int], None]
"""Told of each message, just before it leaves: its class and its size in bytes."""


class Row(NamedTuple):
    """One class."""

    name: str
    messages: int
    bytes: int
    first: float  # seconds since 1970
    last: float


def nowhere(_: Class, __: int) -> None:
    """Of a site that keeps no books."""


def counted(write: Callable[[T], bytes], of: Callable[[T], Class], count: Count) -> Callable[[T], bytes]:
    """A message's serializer that also counts what it makes."""

    def counting(message: T) -> bytes:
        data = write(message)
        count(of(message), len(data))
        return data

    return counting


class Egress:
    """The counts in a site's home folder. Several processes may add to them, and any may read."""

    def __init__(self, home: Path, now: Callable[[], float] = time.time) -> None:
        """Raises UserError when the file cannot be opened."""
        self._database = Database(home / FILE, _SCHEMA, 1, is_synced=True, is_shared=True)
        self._now, self._lock, self._new = now, threading.Lock(), dict[str, Row]()
        self._synced = BackgroundSync(self._sync, "egress")

    def count(self, name: Class, size_bytes: int) -> None:
        """One message of a class is about to leave."""
        now = self._now()
        with self._lock:
            self._add(Row(name, 1, size_bytes, now, now))
        self._synced.wrote()

    def close(self) -> None:
        """Everything is on the disk when this returns."""
        self._synced.close()
        self._database.close()

    def _sync(self) -> None:
        with self._lock:
            new, self._new = self._new, {}
        try:
            if new:
                self._database.write(_ADD, *new.values())
        except UserError as error:
            log.error("what left the site could not be written down: %s", error.why)
            with self._lock:
                for row in new.values():
                    self._add(row)
            self._synced.wrote()

    def _add(self, row: Row) -> None:
        before = self._new.get(row.name, row._replace(messages=0, bytes=0))
        first, last = min(before.first, row.first), max(before.last, row.last)
        self._new[row.name] = Row(row.name, before.messages + row.messages, before.bytes + row.bytes, first, last)


def read(home: Path) -> list[Row]:
    """The classes of which something has left, by name; of a site that is running or not. Raises UserError."""
    if not (home / FILE).exists():
        return []
    with contextlib.closing(Database(home / FILE, _SCHEMA, 1, is_synced=True, is_shared=True)) as database:
        return [
            Row(*row) for row in database.read("SELECT class, messages, bytes, first, last FROM egress ORDER BY class")
        ]


def to_json(rows: Iterable[Row]) -> dict[str, Any]:
    """As `ynet-client egress --json` shows it."""
    listed = list(rows)
    classes = [{"class": row.name, **{key: getattr(row, key) for key in Row._fields[1:]}} for row in listed]
    total = {key: sum(getattr(row, key) for row in listed) for key in ("messages", "bytes")}
    return {"classes": classes, **total}
