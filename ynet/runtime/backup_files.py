"""The files of a home folder that a backup contains, and copies of databases in use."""

import contextlib
import os
import sqlite3
from pathlib import Path, PurePath

from ynet.errors import UserError
from ynet.runtime import private_files
from ynet.runtime.home import RESTORING

ASIDE = "backup.partial"
"""A folder in a home while a backup is made: copies of files that must be consistent with each other."""
BUSY_S = 5.0
_OTHERS = {"spool", "reserve", "fixed", ASIDE, RESTORING}
_OF_A_PROCESS = ("*.partial", "*.lock", "lock", "control.sock", "control.json", "ledger.open")
_TRANSIENT = (*_OF_A_PROCESS, "*-wal", "*-shm", "*-journal", "*.log", "*.log.*")


def databases(home: Path) -> list[Path]:
    """Return the SQLite files of a home folder, as relative paths."""
    return [name for name in files(home) if name.suffix == ".sqlite"]


def lay_databases(home: Path, aside: Path) -> None:
    """Copy every database that is not yet in `aside`; other processes may have them open.

    Raises:
        UserError: A process locks a database.
    """
    for name in databases(home):
        if not (aside / name).exists():
            private_files.make_folder((aside / name).parent)
            copy_database(home / name, aside / name)


def copy_database(source: Path, target: Path) -> None:
    """Copy a consistent snapshot of a database.

    Raises:
        UserError: A process locks it.
    """
    try:
        target.touch(mode=0o600)
        with (
            contextlib.closing(sqlite3.connect(source, timeout=BUSY_S)) as opened,
            contextlib.closing(sqlite3.connect(target)) as copied,
        ):
            opened.backup(copied)
    except sqlite3.Error as error:
        do = "try again: its process may be starting or stopping"
        raise UserError(f"the database {source} cannot be copied", str(error), do) from None


def check_databases(home: Path) -> None:
    """Run SQLite's integrity check on every database.

    Raises:
        UserError: A database is broken.
    """
    for name in databases(home):
        try:
            with contextlib.closing(sqlite3.connect(home / name)) as opened:
                (said,) = opened.execute("PRAGMA integrity_check(1)").fetchone()
        except sqlite3.DatabaseError as error:
            said = str(error)
        if said != "ok":
            raise UserError("the backup was not restored", f"{name} is broken: {said}", "take an older backup")


def files(home: Path) -> list[Path]:
    """Return the files that a backup contains, as relative paths in the order of copying.

    Files of a running process (locks, sockets, spool) and diagnostic logs are left out.
    """
    found = []
    for folder, inner, names in os.walk(home):
        inner[:] = sorted(name for name in inner if name not in _OTHERS)
        found += [Path(folder, name).relative_to(home) for name in names]
    kept = [path for path in found if is_kept(path)]
    return sorted((path for path in kept if (home / path).is_file() and not (home / path).is_symlink()), key=turn)


def is_kept(path: PurePath) -> bool:
    """Return whether a backup contains this path."""
    return not any(path.match(one) for one in _TRANSIENT) and not set(path.parts) & _OTHERS


def turn(path: Path) -> tuple[int, str]:
    """Return the sort key of the copying order: files that refer to others first; logs, which only grow, last."""
    if path.suffix == ".sqlite":
        return 0, str(path)
    if path.suffix == ".head" or path.name.endswith(".signed.jsonl"):
        return 1, str(path)
    return (3 if path.suffix == ".jsonl" else 2), str(path)
