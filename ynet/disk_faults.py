"""What a disk or a database does not take, as the user's to mend: it is full, or another process holds it."""

import errno
import sqlite3

from ynet.errors import UserError

DISK = {errno.ENOSPC, errno.EDQUOT, errno.EIO, errno.EROFS}
HELD = {sqlite3.SQLITE_BUSY, sqlite3.SQLITE_LOCKED}
_FULL = {sqlite3.SQLITE_FULL, sqlite3.SQLITE_IOERR, sqlite3.SQLITE_READONLY, sqlite3.SQLITE_CANTOPEN}
WHAT = "nothing was done"


def is_of_disk(error: BaseException) -> bool:
    """Whether a disk is full or broken, or a database is held by another process: what failed can be done again."""
    if isinstance(error, sqlite3.Error):
        return _code(error) in _FULL | HELD
    return isinstance(error, OSError) and error.errno in DISK


def in_words(error: BaseException) -> UserError | None:
    """Such a fault in three lines; None of any other. No path is in it."""
    if not is_of_disk(error):
        return None
    if isinstance(error, sqlite3.Error):
        if _code(error) in HELD:
            do = "end what holds it (an sqlite3 shell, a copy that is being made), and repeat the command"
            return UserError(WHAT, f"another process holds a database of this folder: {error}", do)
        why = f"a database of this folder cannot be written: {error}"
    else:
        why = f"the disk takes no more: {error.strerror}" if isinstance(error, OSError) else ""
    return UserError(WHAT, why, "see that the disk has room and can be written to, and repeat the command")


def _code(error: sqlite3.Error) -> int:
    """SQLite's result code without its details; 0 of an error of the module's own."""
    return getattr(error, "sqlite_errorcode", 0) & 0xFF
