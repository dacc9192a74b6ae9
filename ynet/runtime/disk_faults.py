"""Faults of a disk, a network share or a database. The user can fix them; many are temporary."""

import errno
import sqlite3
from collections.abc import Iterator
from pathlib import Path

from ynet.errors import PassingError, UserError

FULL = {errno.ENOSPC, errno.EDQUOT}
AWAY = {
    errno.ESTALE,  # NFS: the server was restarted, or exports another file system
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
"""Errors of a share whose server cannot be reached."""
DISK = {*FULL, *AWAY, errno.EIO, errno.EROFS}
HELD = {sqlite3.SQLITE_BUSY, sqlite3.SQLITE_LOCKED}
_FULL = {sqlite3.SQLITE_FULL, sqlite3.SQLITE_IOERR, sqlite3.SQLITE_READONLY, sqlite3.SQLITE_CANTOPEN}
WHAT = "nothing was done"


def is_of_disk(error: BaseException) -> bool:
    """Return whether a disk is full or broken, a share is away, or a database is locked: a retry may succeed."""
    if isinstance(error, sqlite3.Error):
        return _code(error) in _FULL | HELD
    return isinstance(error, OSError) and error.errno in DISK


def may_pass(error: BaseException) -> bool:
    """Return whether a retry may succeed: a fault of a disk or a share is the error or one of its causes.

    A missing file may come back if its whole folder is missing or empty, as after the loss of a mount.
    """
    return any(_passes(one) for one in _with_causes(error))


def in_words(error: BaseException) -> UserError | None:
    """Convert such a fault to a UserError, without a path; None for any other error."""
    if not is_of_disk(error):
        return None
    if isinstance(error, sqlite3.Error):
        if _code(error) in HELD:
            do = "end the process that locks it (an sqlite3 shell, a copy), and repeat the command"
            return UserError(WHAT, f"another process holds a database of this folder: {error}", do)
        why = f"a database of this folder cannot be written: {error}"
    elif isinstance(error, OSError) and error.errno in AWAY:
        do = "check that the share is mounted and its server can be reached, and repeat the command"
        return UserError(WHAT, f"a disk or share is away: {error.strerror}", do)
    else:
        why = f"the disk takes no more: {error.strerror}" if isinstance(error, OSError) else ""
    return UserError(WHAT, why, "check that the disk has space and can be written to, and repeat the command")


def _passes(error: BaseException) -> bool:
    if isinstance(error, FileNotFoundError | NotADirectoryError):
        return isinstance(error.filename, str | Path) and _may_return(Path(error.filename))
    return isinstance(error, PassingError) or is_of_disk(error)


def _may_return(path: Path) -> bool:
    """Return whether a missing file exists now, or its folder is missing or empty."""
    try:
        return path.exists() or not any(path.parent.iterdir())
    except OSError:
        return True


def _with_causes(error: BaseException) -> Iterator[BaseException]:
    """Yield an error and its causes. `raise ... from None` hides a cause from tracebacks only."""
    seen = set[int]()
    cause: BaseException | None = error
    while cause is not None and id(cause) not in seen:
        seen.add(id(cause))
        yield cause
        cause = cause.__cause__ or cause.__context__


def _code(error: sqlite3.Error) -> int:
    """Return SQLite's primary result code; 0 for an error of Python's module."""
    return getattr(error, "sqlite_errorcode", 0) & 0xFF
