"""Count what has left the site, by class: messages, bytes, first and last time. No patient, file or query is named.

A message to the server counts with its size before encryption, without the framing of TLS and HTTP/2. A message that is
sent again counts again. The counts are on the disk within a second.
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
    "moments",
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
"""The classes. `requests`: for files, and for the progress of an upload."""

T = TypeVar("T")
Count = Callable[[Class, int], None]
"""Called with the class and the size in bytes of each message, just before it is sent."""


class ClassTotals(NamedTuple):
    """The totals of one class."""

    name: str
    messages: int
    bytes: int
    first: float  # seconds since 1970
    last: float


def nowhere(_: Class, __: int) -> None:
    """Count nothing."""


def counted(write: Callable[[T], bytes], of: Callable[[T], Class], count: Count) -> Callable[[T], bytes]:
    """Return a message's serializer that also counts each message."""

    def counting(message: T) -> bytes:
        data = write(message)
        count(of(message), len(data))
        return data

    return counting


class Egress:
    """The counts in a site's home folder. Several processes may add to them and read them."""

    def __init__(self, home: Path, now: Callable[[], float] = time.time) -> None:
        """Open the file. Raises UserError when it cannot be opened."""
        self._database = Database(home / FILE, _SCHEMA, 1, is_synced=True, is_shared=True)
        self._now, self._lock, self._new = now, threading.Lock(), dict[str, ClassTotals]()
        self._synced = BackgroundSync(self._sync, "egress")

    def count(self, name: Class, size_bytes: int) -> None:
        """Count a message that is about to be sent."""
        now = self._now()
        with self._lock:
            self._add(ClassTotals(name, 1, size_bytes, now, now))
        self._synced.wrote()

    def close(self) -> None:
        """Write the counts to the disk and close the file."""
        self._synced.close()
        self._database.close()

    def _sync(self) -> None:
        with self._lock:
            new, self._new = self._new, {}
        try:
            if new:
                self._database.write(_ADD, *new.values())
        except UserError as error:
            log.error("the counts of sent messages could not be written: %s", error.why)
            with self._lock:
                for row in new.values():
                    self._add(row)
            self._synced.wrote()

    def _add(self, row: ClassTotals) -> None:
        before = self._new.get(row.name, row._replace(messages=0, bytes=0))
        first, last = min(before.first, row.first), max(before.last, row.last)
        self._new[row.name] = ClassTotals(
            row.name, before.messages + row.messages, before.bytes + row.bytes, first, last
        )


def read(home: Path) -> list[ClassTotals]:
    """Return the totals of each class that was sent, by name; the client need not run. Raises UserError."""
    if not (home / FILE).exists():
        return []
    with contextlib.closing(Database(home / FILE, _SCHEMA, 1, is_synced=True, is_shared=True)) as database:
        return [
            ClassTotals(*row)
            for row in database.read("SELECT class, messages, bytes, first, last FROM egress ORDER BY class")
        ]


def to_json(rows: Iterable[ClassTotals]) -> dict[str, Any]:
    """Return the rows as `ynet-client egress --json` prints them."""
    listed = list(rows)
    classes = [{"class": row.name, **{key: getattr(row, key) for key in ClassTotals._fields[1:]}} for row in listed]
    total = {key: sum(getattr(row, key) for row in listed) for key in ("messages", "bytes")}
    return {"classes": classes, **total}
