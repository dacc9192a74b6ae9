"""The small SQLite files of a site's home, each used by one process and any of its threads."""

import contextlib
import sqlite3
import threading
import weakref
from pathlib import Path
from typing import Any

from ynet.errors import UserError

COPY_PAGES = 256  # per step of a copy, between which writers may run
BUSY_S = 2.0  # time for another process to end


class Database:
    """One open file with one table. A commit survives a killed process."""

    def __init__(self, path: Path, schema: str, version: int, *, is_synced: bool, is_shared: bool = False) -> None:
        """Open the file; create it when it is missing.

        Args:
            path: the file.
            schema: creates the table.
            version: the number of the schema.
            is_synced: a commit survives a power cut too, which takes about half a millisecond.
            is_shared: other processes may open the file too.

        Raises:
            UserError: the file is in use, broken, or of another version.
        """
        self._lock, self.path = threading.Lock(), path
        path.touch(mode=0o600)
        self._connection = sqlite3.connect(path, timeout=BUSY_S, isolation_level=None, check_same_thread=False)
        try:
            self._open(schema, version, is_synced, is_shared)
        except sqlite3.Error as error:
            self._connection.close()
            do = "stop the other ynet-client, or restore the file from a backup"
            raise UserError(f"the file {path} cannot be opened", str(error), do) from None
        _OPEN.add(self)

    def copy_to(self, folder: Path) -> None:
        """Copy a consistent state of the file into a folder."""
        copy(self._connection, folder / self.path.name)

    def close(self) -> None:
        """Close the file."""
        _OPEN.discard(self)
        with self._lock:
            self._connection.close()

    def read(self, query: str, *values: object) -> list[tuple[Any, ...]]:
        """Return the rows of a query."""
        with self._lock:
            return self._connection.execute(query, values).fetchall()

    def write(self, statement: str, *rows: tuple[object, ...]) -> int:
        """Execute a statement for each row, atomically; return how many rows changed. Raises UserError."""
        with self._lock:
            try:
                if len(rows) == 1:
                    return self._connection.execute(statement, rows[0]).rowcount
                self._connection.execute("BEGIN IMMEDIATE")
                changed = self._connection.executemany(statement, rows).rowcount
                self._connection.execute("COMMIT")
            except sqlite3.OperationalError as error:
                raise UserError("the site's records could not be written", str(error), "check the disk") from None
            finally:
                if self._connection.in_transaction:
                    self._connection.execute("ROLLBACK")
        return changed

    def _open(self, schema: str, version: int, is_synced: bool, is_shared: bool) -> None:
        run = self._connection.execute
        run(f"PRAGMA locking_mode = {'NORMAL' if is_shared else 'EXCLUSIVE'}")
        run("PRAGMA journal_mode = WAL")
        run(f"PRAGMA synchronous = {'FULL' if is_synced else 'NORMAL'}")
        run("BEGIN IMMEDIATE")
        (found,) = run("PRAGMA user_version").fetchone()
        if found == 0:
            run(schema)
            run(f"PRAGMA user_version = {version}")
        elif found != version:
            raise sqlite3.DatabaseError(f"its format has the number {found}, this ynet reads {version}")
        run("COMMIT")


_OPEN: "weakref.WeakSet[Database]" = weakref.WeakSet()


def copy(database: sqlite3.Connection, path: Path) -> None:
    """Copy a consistent state of a database to `path`; readers and writers continue during the copy."""
    path.touch(mode=0o600)
    with contextlib.closing(sqlite3.connect(path)) as copied:
        database.backup(copied, pages=COPY_PAGES)


def copy_open(aside: Path) -> None:
    """Copy the open databases of the home folder that contains `aside` into `aside`. Raises UserError."""
    for database in list(_OPEN):
        if database.path.parent == aside.parent:
            database.copy_to(aside)
