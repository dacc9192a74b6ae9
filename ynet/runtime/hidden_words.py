"""Words that other users of the machine must not read: they stand in no command line, which `ps` shows to everybody."""

import stat
import sys
from pathlib import Path

import typer

from ynet.errors import UserError

STDIN, AT_FILE = "-", "@"
MOST_BYTES = 64 << 10


def secret(given: str, what: str) -> str:
    """The value of an option: `-` is what comes on stdin (unseen, where it is typed), `@FILE` what a file says.

    Anything else is the value itself. `what`: "the invitation". Raises UserError.
    """
    if given == STDIN:
        return _piped() if not sys.stdin.isatty() else str(typer.prompt(what, hide_input=True, err=True)).strip()
    return of_file(Path(given[1:]), f"{what} in {given[1:]}").strip() if given.startswith(AT_FILE) else given


def stands_in_the_open(given: str) -> bool:
    """Whether the value of an option is in the list of processes."""
    return bool(given) and given != STDIN and not given.startswith(AT_FILE)


def text(given: str, what: str) -> str:
    """The value of an option: `-` is what comes on stdin, anything else the value itself."""
    if given != STDIN:
        return given
    return _piped() if not sys.stdin.isatty() else str(typer.prompt(what, err=True)).strip()


def of_file(file: Path, what: str) -> str:
    """What a file says that is its owner's alone. Raises UserError."""
    fault = f"{what} cannot be used"
    try:
        found = file.stat()
        if stat.S_ISREG(found.st_mode) and found.st_mode & 0o077:
            raise UserError(fault, "other users of this machine may read it", f"chmod 600 {file}")
        with file.open("rb") as opened:
            data = opened.read(MOST_BYTES)
        return data.decode()
    except (OSError, UnicodeDecodeError) as error:
        why = getattr(error, "strerror", None) or "it is not UTF-8 text"
        raise UserError(fault, why, "check the path and its rights") from None


def _piped() -> str:
    return sys.stdin.read(MOST_BYTES).strip()
