"""The home folder of a server or a site: its keys, settings, databases and models."""

import contextlib
import fcntl
import getpass
import os
from collections.abc import Iterator
from pathlib import Path
from types import TracebackType

from platformdirs import user_data_path

from ynet.errors import UserError
from ynet.runtime import private_files

LOCK = "lock"
_HOMELESS = ("home directory", "getpwuid")
RESTORING = "restoring.partial"
"""A folder in a home while a backup is being restored."""


def default_home(part: str) -> Path:
    """Return `YNET_HOME` if it is set, else the folder `part` of the user's data directory.

    Raises:
        UserError: The user has no home directory.
    """
    chosen = os.environ.get("YNET_HOME")
    if chosen:
        return Path(chosen)
    with needs_a_home():
        return user_data_path("ynet", appauthor=False) / part


@contextlib.contextmanager
def needs_a_home() -> Iterator[None]:
    """Turn the error of a user without a home directory, as in many containers, into a UserError."""
    try:
        yield
    except (RuntimeError, KeyError) as error:
        if (found := homeless(error)) is None:
            raise
        raise found from None


def homeless(error: Exception) -> UserError | None:
    """Convert an error of pathlib, platformdirs or getpwuid about a missing home directory; None for other errors."""
    if isinstance(error, RuntimeError | KeyError) and any(part in str(error).lower() for part in _HOMELESS):
        why = f"HOME is not set, and the system has no user with the id {os.getuid()}"
        do = "export HOME=DIR, a folder that this user may write to; ynet's own folder alone: --home, or YNET_HOME"
        return UserError("this user has no home directory", why, do)
    return None


def user_name() -> str:
    """Return the user of this process for the audit log: the login name, or else the user id."""
    try:
        return getpass.getuser()
    except (KeyError, OSError):
        return f"uid {os.getuid()}"


def home_source(given: Path | None) -> str:
    """Return how the home folder was chosen."""
    if given:
        return "--home"
    return "environment: YNET_HOME" if os.environ.get("YNET_HOME") else "default"


def prepare(home: Path) -> Path:
    """Make the home folder, for its owner only.

    Raises:
        UserError: It cannot be made, or a restore in it was interrupted.
    """
    try:
        private_files.own_folder(home)
    except OSError as error:
        raise UserError(
            f"the home folder {home} cannot be used", error.strerror or "", "choose another --home"
        ) from None
    if (home / RESTORING).exists():
        do = "empty the folder, and restore the backup again"
        raise UserError(f"the home folder {home} cannot be used", "a restore in it was interrupted", do)
    return home


def entered(home: Path) -> Path:
    """Return the folder, whether it exists or not.

    Raises:
        UserError: This user may not enter it.
    """
    try:
        (home / LOCK).exists()
    except PermissionError:
        raise not_yours(home) from None
    return home


def not_yours(home: Path) -> UserError:
    """Return the error for a folder that belongs to another user."""
    return UserError(
        f"the home folder {home} cannot be entered",
        "it is another user's, or lies in a folder of another's",
        "give the command as the user whose process runs there (sudo -u NAME), or name your own --home",
    )


def write_private(path: Path, data: bytes) -> None:
    """Write a file that only its owner can read, atomically and durably."""
    private_files.write(path, data, is_synced=True)


def is_held(home: Path) -> bool:
    """Return whether a process holds the folder's lock."""
    try:
        with (home / LOCK).open("rb") as file:
            fcntl.flock(file, fcntl.LOCK_SH | fcntl.LOCK_NB)
    except BlockingIOError:
        return True
    except OSError:
        return False
    return False


class Lock:
    """The lock of a home folder: one process at a time. The system releases it when the process dies."""

    def __init__(self, home: Path, what: str) -> None:
        self._path, self._what = home / LOCK, what

    def __enter__(self) -> "Lock":
        self._file = self._path.open("a")
        try:
            fcntl.flock(self._file, fcntl.LOCK_EX | fcntl.LOCK_NB)
        except OSError:
            self._file.close()
            raise UserError(
                f"{self._what} is running already",
                f"another process holds the home folder {self._path.parent}",
                "stop that process, or choose another --home",
            ) from None
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        self._file.close()
