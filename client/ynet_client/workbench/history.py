"""The history of each account's queries: visible to that account, bounded, deletable, never sent."""

import json
import math
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

from ynet.web.accounts import Account
from ynet_client.database import Database

FILE = "workbench.sqlite"
SCHEMA = """
CREATE TABLE asked (
  id INTEGER PRIMARY KEY AUTOINCREMENT,
  account TEXT NOT NULL,
  time REAL NOT NULL,        -- seconds since 1970
  name TEXT NOT NULL,        -- of the file
  own_case TEXT NOT NULL,    -- its path in the manifest, where an own case was asked about
  thumbnail BLOB NOT NULL,   -- JPEG, at most 96 pixels a side, of a file that was dropped
  summary TEXT NOT NULL      -- JSON: what was asked for, and how many hits each site gave
) STRICT
"""
MOST_OF_ONE = 200
LONGEST_S = 90 * 86_400.0
MAX_NAME = 200


class History:
    """The entries of all accounts. Any thread may call."""

    def __init__(self, home: Path) -> None:
        """Open the file. Raises UserError when it cannot be opened."""
        self._database = Database(home / FILE, SCHEMA, 1, is_synced=False)

    def close(self) -> None:
        """Close the file."""
        self._database.close()

    def add(
        self, account: str, now: float, name: str, own_case: str, thumbnail: bytes, summary: dict[str, Any]
    ) -> None:
        """Add an entry; drop what is too old or too much. An own case has no thumbnail: it may be forgotten."""
        row = (account, now, name[:MAX_NAME], own_case, b"" if own_case else thumbnail, json.dumps(summary))
        self._database.write(
            "INSERT INTO asked (account, time, name, own_case, thumbnail, summary) VALUES (?, ?, ?, ?, ?, ?)", row
        )
        self._database.write("DELETE FROM asked WHERE time < ?", (now - LONGEST_S,))
        self._database.write(
            "DELETE FROM asked WHERE account = ? AND id NOT IN"
            " (SELECT id FROM asked WHERE account = ? ORDER BY id DESC LIMIT ?)",
            (account, account, MOST_OF_ONE),
        )

    def listed(self, account: str) -> list[dict[str, Any]]:
        """Return an account's own entries, the newest first."""
        rows = self._database.read(
            "SELECT id, time, name, own_case, length(thumbnail), summary FROM asked WHERE account = ? ORDER BY id DESC",
            account,
        )
        return [
            {
                "id": number,
                "time": time,
                "name": name,
                "case": case,
                "has_thumbnail": bool(size),
                **json.loads(summary),
            }
            for number, time, name, case, size, summary in rows
        ]

    def thumbnail(self, account: str, number: int) -> bytes:
        """Return the thumbnail of one of an account's own entries; empty where there is none."""
        rows = self._database.read("SELECT thumbnail FROM asked WHERE account = ? AND id = ?", account, number)
        return bytes(rows[0][0]) if rows else b""

    def forget(self, images: Sequence[str]) -> None:
        """Delete all entries about these own cases."""
        self._database.write("DELETE FROM asked WHERE own_case = ?", *((image,) for image in images))

    def tidy(self, accounts: Mapping[str, Account]) -> None:
        """Delete the entries of removed accounts: a new account of the same name is another person's."""
        for (name,) in self._database.read("SELECT DISTINCT account FROM asked"):
            since = accounts[name].made if name in accounts else math.inf
            self._database.write("DELETE FROM asked WHERE account = ? AND time < ?", (name, since))

    def delete(self, account: str, number: int | None = None) -> int:
        """Delete one of an account's own entries, or all; return how many."""
        if number is None:
            return self._database.write("DELETE FROM asked WHERE account = ?", (account,))
        return self._database.write("DELETE FROM asked WHERE account = ? AND id = ?", (account, number))
