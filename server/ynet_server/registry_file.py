"""The registry's SQLite file: its schema, one connection, one writer at a time."""

import sqlite3
import threading
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any

from ynet.errors import UserError
from ynet.runtime import disk_faults

SCHEMA_VERSION = 3
SCHEMA = """
CREATE TABLE invitations (
  site TEXT PRIMARY KEY, verifier BLOB NOT NULL, expires REAL NOT NULL, certificate BLOB);
CREATE TABLE sites (
  name TEXT PRIMARY KEY, serial TEXT NOT NULL, enrolled REAL NOT NULL, last_seen REAL, version TEXT, cases INTEGER);
CREATE TABLE plans (id TEXT PRIMARY KEY, name TEXT NOT NULL, canonical TEXT NOT NULL, frozen REAL NOT NULL);
CREATE TABLE runs (
  id INTEGER PRIMARY KEY, plan TEXT NOT NULL REFERENCES plans, status TEXT NOT NULL, started REAL NOT NULL,
  ended REAL, reason TEXT NOT NULL DEFAULT '', model TEXT);
CREATE TABLE models (
  id TEXT PRIMARY KEY, run INTEGER NOT NULL REFERENCES runs, card TEXT NOT NULL, published REAL NOT NULL);
"""
SINCE_VERSION_1 = """
CREATE TABLE ledgers (site TEXT PRIMARY KEY, number INTEGER NOT NULL, digest TEXT NOT NULL);
"""
SINCE_VERSION_2 = """
CREATE TABLE certificates (
  site TEXT NOT NULL, serial TEXT NOT NULL, standing TEXT NOT NULL, certificate BLOB, ends REAL, changed REAL NOT NULL,
  PRIMARY KEY (site, serial));
INSERT INTO certificates SELECT name, serial, 'current', NULL, NULL, enrolled FROM sites;
"""

BUSY_S = 0.25
"""How long to wait for a lock of another process; the event loop is blocked during that time."""


class RegistryFile:
    """The open file. Safe to use from several threads."""

    def __init__(self, path: Path) -> None:
        """Open the file, or make it, and migrate it to this version. Raises UserError."""
        self._lock = threading.RLock()
        path.touch(mode=0o600)
        self._db = sqlite3.connect(path, timeout=BUSY_S, check_same_thread=False, isolation_level=None)
        try:
            self._db.execute("PRAGMA journal_mode=WAL")
        except sqlite3.DatabaseError as error:
            self._db.close()
            if disk_faults.is_of_disk(error):
                raise
            do = "restore it from a backup; without one, every site must be invited again"
            raise UserError(f"the registry {path} cannot be read", str(error), do) from None
        self._db.execute("PRAGMA synchronous=FULL")
        self._db.execute("PRAGMA foreign_keys=ON")
        version = self._db.execute("PRAGMA user_version").fetchone()[0]
        if version == 0:
            self._migrate(SCHEMA + SINCE_VERSION_1 + SINCE_VERSION_2)
        elif version == 1:
            self._migrate(SINCE_VERSION_1 + SINCE_VERSION_2)
        elif version == 2:
            self._migrate(SINCE_VERSION_2)
        elif version != SCHEMA_VERSION:
            raise UserError(
                f"the registry {path} is of another ynet version",
                f"it has schema {version}, this ynet reads {SCHEMA_VERSION}",
                "install the ynet that wrote it, or the newest",
            )

    def _migrate(self, tables: str) -> None:
        self._db.executescript(f"BEGIN; {tables} PRAGMA user_version={SCHEMA_VERSION}; COMMIT;")

    def close(self) -> None:
        """Close the file."""
        with self._lock:
            self._db.close()

    @contextmanager
    def transaction(self) -> Iterator[sqlite3.Connection]:
        """A transaction that is committed at the end, and rolled back when the block raises."""
        with self._lock:
            self._db.execute("BEGIN IMMEDIATE")
            try:
                yield self._db
                self._db.execute("COMMIT")
            finally:
                if self._db.in_transaction:  # on a full disk SQLite has rolled it back already
                    self._db.execute("ROLLBACK")

    def rows(self, query: str, *values: object) -> list[Any]:
        """The rows that a query selects."""
        with self._lock:
            return self._db.execute(query, values).fetchall()
