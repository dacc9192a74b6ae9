"""The control socket in a home folder, and the user at its other end.

The kernel reports the user id of the process at the other end of a connection: unix(7), SO_PEERCRED.
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
    """Listen in `home`, for its owner only; replace a socket that a killed process left.

    The caller holds the folder's lock.

    Raises:
        UserError: The file system has no sockets.
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
    """Remove the socket. Only the process that listens on it calls this."""
    with suppress(OSError):
        (home / NAME).unlink()


def connect(home: Path, timeout_s: float) -> socket.socket:
    """Connect to the process that listens in `home`; `timeout_s` is the timeout of each call on the connection.

    Raises:
        OSError: No process listens.
        UserError: The folder belongs to another user.
        RefusedError: The process belongs to another user.
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
        raise RefusedError("the command was not executed", why, do)
    return connection


def peer(connection: socket.socket) -> int:
    """Return the user id of the process at the other end, from when it connected or began to listen."""
    found = connection.getsockopt(socket.SOL_SOCKET, socket.SO_PEERCRED, _CREDENTIALS.size)
    return int(_CREDENTIALS.unpack(found)[1])


def may_tell(uid: int, owner: int) -> bool:
    """Return whether user `uid` may give commands to a process of `owner`: the owner and root may."""
    return uid in (0, owner)


@contextmanager
def _opened(home: Path) -> Iterator[tuple[Path, int]]:
    """Yield a short path of the folder, and its owner. A socket's path has at most 107 bytes."""
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
            except BlockingIOError:  # the backlog is full: a connection with a timeout does not wait
                if time.monotonic() > until:
                    raise TimeoutError from None
                time.sleep(_RETRY_S)
            else:
                return connection
    except BaseException:
        connection.close()
        raise
