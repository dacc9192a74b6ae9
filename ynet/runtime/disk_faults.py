"""Faults of a disk, a share or a database: the user's to mend, and many pass by themselves."""

import errno
import sqlite3
from collections.abc import Iterator
from pathlib import Path

from ynet.errors import PassingError, UserError

FULL = {errno.ENOSPC, errno.EDQUOT}
AWAY = {
    errno.ESTALE,  # NFS: the server was started anew, or exports another file system
    errno.ENOTCONN,  # FUSE: the process behind the mount has ended
    errno.ETIMEDOUT,
    errno.EHOSTDOWN,
    errno.EHOSTUNREACH,
    errno.ENETUNREACH,
    errno.ENETDOWN,
    errno.ECONNRESET,
    errno.ENODEV,
    errno.ENXIO,
}
"""What a share answers while its server, or the way there, is gone."""
DISK = {*FULL, *AWAY, errno.EIO, errno.EROFS}
HELD = {sqlite3.SQLITE_BUSY, sqlite3.SQLITE_LOCKED}
_FULL = {sqlite3.SQLITE_FULL, sqlite3.SQLITE_IOERR, sqlite3.SQLITE_READONLY, sqlite3.SQLITE_CANTOPEN}
WHAT = "nothing was done"


def is_of_disk(error: BaseException) -> bool:
    """Whether a disk is full or broken, a share away, or a database held: what failed can be done again."""
    if isinstance(error, sqlite3.Error):
        return _code(error) in _FULL | HELD
    return isinstance(error, OSError) and error.errno in DISK


def may_pass(error: BaseException) -> bool:
    """Whether what failed may succeed when it is tried again: a fault of a disk or a share caused it.

    The causes are looked at as well: a UserError that was made of such a fault may pass like the fault. A missing file
    may come back where its whole folder is gone or empty, as an unmounted share leaves it; or it is back already.
    """
    return any(_passes(one) for one in _with_causes(error))


def in_words(error: BaseException) -> UserError | None:
    """Such a fault in three lines; None of any other. No path is in it."""
    if not is_of_disk(error):
        return None
    if isinstance(error, sqlite3.Error):
        if _code(error) in HELD:
            do = "end what holds it (an sqlite3 shell, a copy that is being made), and repeat the command"
            return UserError(WHAT, f"another process holds a database of this folder: {error}", do)
        why = f"a database of this folder cannot be written: {error}"
    elif isinstance(error, OSError) and error.errno in AWAY:
        do = "see that the share is mounted and its server can be reached, and repeat the command"
        return UserError(WHAT, f"a disk or share is away: {error.strerror}", do)
    else:
        why = f"the disk takes no more: {error.strerror}" if isinstance(error, OSError) else ""
    return UserError(WHAT, why, "see that the disk has room and can be written to, and repeat the command")


def _passes(error: BaseException) -> bool:
    if isinstance(error, FileNotFoundError | NotADirectoryError):
        return isinstance(error.filename, str | Path) and _may_return(Path(error.filename))
    return isinstance(error, PassingError) or is_of_disk(error)


def _may_return(path: Path) -> bool:
    """Whether a file that was not there is there now, or its folder is gone or empty."""
    try:
        return path.exists() or not any(path.parent.iterdir())
    except OSError:
        return True


def _with_causes(error: BaseException) -> Iterator[BaseException]:
    """An error, what it was made of, and so on. `raise ... from None` hides a cause from tracebacks only."""
    seen = set[int]()
    cause: BaseException | None = error
    while cause is not None and id(cause) not in seen:
        seen.add(id(cause))
        yield cause
        cause = cause.__cause__ or cause.__context__


def _code(error: sqlite3.Error) -> int:
    """SQLite's result code without its details; 0 of an error of the module's own."""
    return getattr(error, "sqlite_errorcode", 0) & 0xFF
