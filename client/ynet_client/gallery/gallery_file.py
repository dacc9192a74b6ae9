"""The SQLite file of a gallery: its tables, and durable writes.

One process at a time opens the file (locking mode EXCLUSIVE), with one connection. A commit returns when the data is on
disk (write-ahead log, synchronous FULL).
"""

import contextlib
import hashlib
import hmac
import secrets
import sqlite3
from collections.abc import Iterator
from contextlib import contextmanager, suppress
from pathlib import Path

from ynet.errors import UserError
from ynet_client.gallery import gallery_upgrade

SCHEMA_VERSION = 4
SCHEMA = """
CREATE TABLE site (secret_check BLOB NOT NULL, salt BLOB NOT NULL) STRICT;
CREATE TABLE descriptions (             -- what many cases share
  number INTEGER PRIMARY KEY,
  label TEXT NOT NULL,
  split TEXT NOT NULL,
  attributes TEXT NOT NULL,
  UNIQUE (label, split, attributes)
) STRICT;
CREATE TABLE patients (pseudonym BLOB PRIMARY KEY, number INTEGER NOT NULL) STRICT, WITHOUT ROWID;
CREATE TABLE forgotten (pseudonym BLOB PRIMARY KEY, at TEXT NOT NULL) STRICT, WITHOUT ROWID;
CREATE TABLE cases (
  id INTEGER PRIMARY KEY AUTOINCREMENT,  -- never given twice: a late code finds no other case
  image TEXT NOT NULL,
  digest BLOB NOT NULL,                  -- of the image file: the first half of its SHA-256
  description INTEGER NOT NULL,
  patient INTEGER NOT NULL
) STRICT;
CREATE INDEX cases_by_digest ON cases (substr(digest, 1, 3));  -- finds a few cases, among which to look
CREATE TABLE facts (chunk INTEGER PRIMARY KEY, checksum INTEGER NOT NULL, data BLOB NOT NULL) STRICT;
CREATE TABLE models (
  number INTEGER PRIMARY KEY,
  id TEXT NOT NULL UNIQUE,
  code_bytes INTEGER NOT NULL DEFAULT 0, -- known from the first code on
  activation INTEGER NOT NULL DEFAULT 0  -- the greatest is in use, 0 never was
) STRICT;
CREATE TABLE segments (
  model INTEGER NOT NULL,
  number INTEGER NOT NULL,
  cases INTEGER NOT NULL,
  checksum INTEGER NOT NULL,
  codes BLOB NOT NULL,
  ids BLOB NOT NULL,
  PRIMARY KEY (model, number)
) STRICT;
CREATE TABLE tail (                      -- codes that are in no segment yet, or newer than the one that is
  model INTEGER NOT NULL,
  case_id INTEGER NOT NULL,
  code BLOB NOT NULL,
  checksum INTEGER NOT NULL,
  PRIMARY KEY (model, case_id)
) STRICT, WITHOUT ROWID;
CREATE TABLE dead (case_id INTEGER PRIMARY KEY) STRICT;  -- gone since the segments were written
"""
BUSY_S = 2.0  # time for another process to end
REBUILD = "move it away and restart the site: it is rebuilt from the images"


def open_file(path: Path, secret: bytes) -> sqlite3.Connection:
    """Open the file at `path`; create it when it is missing.

    Raises UserError when the file is in use, is no gallery, or has another version or another secret.
    """
    secret_check = hmac.new(secret, b"check\0", hashlib.sha256).digest()[:16]
    what = f"the gallery {path} cannot be opened"
    with suppress(OSError):  # SQLite reports it better
        path.touch(mode=0o600)
    try:
        database = sqlite3.connect(path, timeout=BUSY_S, isolation_level=None, check_same_thread=False)
    except sqlite3.Error as error:
        raise UserError(what, str(error), "check the folder and its permissions") from None
    try:
        _configure(database)
        _prepare(database, what, secret_check)
    except sqlite3.OperationalError as error:
        database.close()
        in_use = _primary(error) in (sqlite3.SQLITE_BUSY, sqlite3.SQLITE_LOCKED)
        why = "another process has it" if in_use else str(error)
        raise UserError(what, why, "stop the other ynet-client" if in_use else "check the disk") from None
    except sqlite3.DatabaseError as error:
        database.close()
        raise UserError(what, str(error), REBUILD) from None
    except UserError:
        database.close()
        raise
    return database


@contextmanager
def transaction(database: sqlite3.Connection) -> Iterator[None]:
    """Write atomically: everything is on disk at the end, or nothing. Raises UserError when the disk fails."""
    try:
        database.execute("BEGIN IMMEDIATE")
        yield
        database.execute("COMMIT")
    except sqlite3.OperationalError as error:
        if _primary(error) not in (sqlite3.SQLITE_FULL, sqlite3.SQLITE_IOERR, sqlite3.SQLITE_READONLY):
            raise
        do = "make sure that its disk has room and is writable, then repeat the command"
        raise UserError("the gallery could not be written", str(error), do) from None
    finally:
        if database.in_transaction:
            database.execute("ROLLBACK")


def check_integrity(database: sqlite3.Connection) -> None:
    """Let SQLite check every page. Raises UserError when the file is broken."""
    what = "the gallery is broken"
    try:
        (result,) = database.execute("PRAGMA integrity_check(1)").fetchone()
    except sqlite3.DatabaseError as error:
        raise UserError(what, str(error), REBUILD) from None
    if result != "ok":
        raise UserError(what, str(result), REBUILD)


def let_go_of_pages(database: sqlite3.Connection) -> None:
    """Drop cached pages, so that later reads come from the disk."""
    empty_log(database)
    database.execute("PRAGMA shrink_memory")


def give_back_pages(database: sqlite3.Connection) -> None:
    """Return free pages of the file to the disk: sorting the tail leaves as many as it had."""
    with contextlib.suppress(sqlite3.OperationalError):  # a full disk: the pages are reused later
        database.executescript("PRAGMA incremental_vacuum")  # `execute` would stop after the first page


def empty_log(database: sqlite3.Connection) -> None:
    """Move the write-ahead log into the file and truncate it: it held deleted data."""
    database.execute("PRAGMA wal_checkpoint(TRUNCATE)").fetchall()


def _configure(database: sqlite3.Connection) -> None:
    """Set exclusive locking and durable commits."""
    database.execute("PRAGMA locking_mode = EXCLUSIVE")
    database.execute("PRAGMA auto_vacuum = INCREMENTAL")  # applies to a new file
    database.execute("PRAGMA journal_mode = WAL")
    database.execute("PRAGMA synchronous = FULL")
    database.execute("PRAGMA secure_delete = ON")  # free pages must not hold forgotten data


def _prepare(database: sqlite3.Connection, what: str, secret_check: bytes) -> None:
    """Create the tables of a new file, or check that an old one is this site's. Raises UserError."""
    database.execute("BEGIN IMMEDIATE")
    (version,) = database.execute("PRAGMA user_version").fetchone()
    (tables,) = database.execute("SELECT count(*) FROM sqlite_master").fetchone()
    if version == 0 and tables == 0:
        for statement in SCHEMA.split(";"):
            database.execute(statement)
        database.execute("INSERT INTO site VALUES (?, ?)", (secret_check, secrets.token_bytes(16)))
        database.execute(f"PRAGMA user_version = {SCHEMA_VERSION}")
    elif version not in (SCHEMA_VERSION, gallery_upgrade.FROM):
        why = f"its format has the number {version}, this ynet reads {SCHEMA_VERSION}"
        raise UserError(what, why, f"use the ynet that wrote it, or {REBUILD}")
    elif database.execute("SELECT secret_check FROM site").fetchone() != (secret_check,):
        raise UserError(what, "it was made with another secret", f"put gallery.secret back, or {REBUILD}")
    elif version == gallery_upgrade.FROM:
        gallery_upgrade.upgrade(database)
        database.execute(f"PRAGMA user_version = {SCHEMA_VERSION}")
    database.execute("COMMIT")


def _primary(error: sqlite3.Error) -> int:
    """Return SQLite's primary result code."""
    return error.sqlite_errorcode & 0xFF
