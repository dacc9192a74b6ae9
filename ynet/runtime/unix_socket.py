"""The socket in a home folder, by which commands reach the process that runs there, and whose process is at an end.

A connection carries the user id of the process at either end, and the system vouches for it: unix(7), SO_PEERCRED.
"""

import os
import socket
import struct
import time
from collections.abc import Iterator
from contextlib import contextmanager, suppress
from pathlib import Path

from ynet.errors import RefusedError, UserError
from ynet.runtime.home import not_yours

NAME = "control.sock"
BACKLOG = 128
_CREDENTIALS = struct.Struct("iII")  # struct ucred: pid, uid, gid
_RETRY_S = 0.05


def listen(home: Path) -> socket.socket:
    """Listen in `home`, for its owner alone; in the place of what a process that was killed has left there.

    Whoever calls holds the folder's lock. Raises UserError where the file system has no sockets.
    """
    listening = socket.socket(socket.AF_UNIX, socket.SOCK_STREAM)
    try:
        with _opened(home) as (folder, _):
            partial = folder / f"{NAME}.partial"
            partial.unlink(missing_ok=True)
            listening.bind(str(partial))
            partial.chmod(0o600)  # nobody can connect before `listen`, whatever the umask
            listening.listen(BACKLOG)
            partial.replace(folder / NAME)
    except OSError as error:
        listening.close()
        do = "choose another --home, on a disk of this machine"
        why = f"no socket can be made in it: {error.strerror}"
        raise UserError(f"the home folder {home} cannot be used", why, do) from None
    return listening


def remove(home: Path) -> None:
    """Take the socket away; for the process that listens on it."""
    with suppress(OSError):
        (home / NAME).unlink()


def connect(home: Path, timeout_s: float) -> socket.socket:
    """Connect to the process that listens in `home`; every call on the connection may then take `timeout_s`.

    Raises OSError where none listens, UserError where the folder is another user's, RefusedError where the process is.
    """
    try:
        with _opened(home) as (folder, owner):
            if not may_tell(os.geteuid(), owner):
                raise not_yours(home)
            connection = _connect(folder / NAME, timeout_s)
    except PermissionError:
        raise not_yours(home) from None
    uid = peer(connection)
    if not may_tell(uid, owner):
        connection.close()
        why = f"in {home} a process of another user listens, of uid {uid}"
        do = f"find out whose it is: ss -xlp | grep {NAME}; and make the folder yours alone: chmod 700 {home}"
        raise RefusedError("the command was not carried out", why, do)
    return connection


def peer(connection: socket.socket) -> int:
    """The user id of the process at the other end, as it was when that connected, or began to listen."""
    found = connection.getsockopt(socket.SOL_SOCKET, socket.SO_PEERCRED, _CREDENTIALS.size)
    return int(_CREDENTIALS.unpack(found)[1])


def may_tell(uid: int, owner: int) -> bool:
    """Whether user `uid` has a say over what is `owner`'s: themselves and root, who can do everything anyway."""
    return uid in (0, owner)


@contextmanager
def _opened(home: Path) -> Iterator[tuple[Path, int]]:
    """The folder and its owner; by a path that is short however long its own is: a socket's has 107 bytes at most."""
    folder = os.open(home, os.O_PATH | os.O_DIRECTORY)
    try:
        yield Path(f"/proc/self/fd/{folder}"), os.fstat(folder).st_uid
    finally:
        os.close(folder)


def _connect(path: Path, timeout_s: float) -> socket.socket:
    connection = socket.socket(socket.AF_UNIX, socket.SOCK_STREAM)
    connection.settimeout(timeout_s)
    until = time.monotonic() + timeout_s
    try:
        while True:
            try:
                connection.connect(str(path))
            except BlockingIOError:  # as many wait as may: a connection with a timeout does not wait for its turn
                if time.monotonic() > until:
                    raise TimeoutError from None
                time.sleep(_RETRY_S)
            else:
                return connection
    except BaseException:
        connection.close()
        raise
