"""Quotas: the number of different codes that each site, and each of its users, has asked about today.

The counts are in a file and survive a restart. The same question on the same day spends nothing: its answer is the
same, as long as the gallery is.
"""

import datetime as dt
import hashlib
import threading
from collections.abc import Sequence
from pathlib import Path

from ynet_client.database import Database
from ynet_client.retrieval.wire import CodedQuery
from ynet_client.settings import Disclosure

FILE = "quotas.sqlite"
SCHEMA = """
CREATE TABLE asked (
  day TEXT NOT NULL,       -- UTC
  site TEXT NOT NULL,
  user TEXT NOT NULL,      -- pseudonym
  question BLOB NOT NULL,  -- digest of a code and how it was asked
  PRIMARY KEY (day, site, user, question)
) STRICT, WITHOUT ROWID
"""


class Quotas:
    """The questions of today. Any thread may call."""

    def __init__(self, home: Path) -> None:
        """Open the file. Raises UserError when it cannot be opened."""
        self._database = Database(home / FILE, SCHEMA, 1, is_synced=False)  # a power cut may lose a few
        self._lock = threading.Lock()
        self._day = ""
        self._of_site: dict[str, int] = {}
        self._of_user: dict[tuple[str, str], set[bytes]] = {}

    def close(self) -> None:
        """Close the file."""
        self._database.close()

    def spend(self, policy: Disclosure, site: str, user: str, questions: Sequence[bytes], now: float) -> bool:
        """Count the questions that are new today, all or none; return whether the quotas allow it. `now` in s."""
        with self._lock:
            self._begin_day(dt.datetime.fromtimestamp(now, dt.UTC).date().isoformat())
            of_user = self._of_user.get((site, user), set())
            new = set(questions) - of_user
            if not new:
                return True
            if self._of_site.get(site, 0) + len(new) > policy.queries_per_day_and_site:
                return False  # the same question of two users counts twice: users are named by the asking site
            if len(of_user) + len(new) > policy.queries_per_day_and_user:
                return False
            rows = [(self._day, site, user, question) for question in new]
            self._database.write("INSERT INTO asked VALUES (?, ?, ?, ?)", *rows)
            for question in new:
                self._count(site, user, question)
            return True

    def _begin_day(self, day: str) -> None:
        """Drop the days before; load the questions of this day from before a restart."""
        if day == self._day:
            return
        self._database.write("DELETE FROM asked WHERE day < ?", (day,))
        self._day, self._of_site, self._of_user = day, {}, {}
        for site, user, question in self._database.read("SELECT site, user, question FROM asked WHERE day = ?", day):
            self._count(site, user, question)

    def _count(self, site: str, user: str, question: bytes) -> None:
        self._of_site[site] = self._of_site.get(site, 0) + 1
        self._of_user.setdefault((site, user), set()).add(question)


def questions(coded: CodedQuery) -> list[bytes]:
    """Return a digest of each code with all that its answer depends on."""
    query = coded.query
    how = repr((coded.model_id, query.k, query.filters, query.radius, query.one_per_patient)).encode()
    return [hashlib.blake2b(b"\0".join((code.hex().encode(), how)), digest_size=16).digest() for code in coded.codes]
