"""Secret values of options, kept out of the command line, which `ps` shows to every user of the machine."""

import stat
import sys
from pathlib import Path

import typer

from ynet.errors import UserError

STDIN, AT_FILE = "-", "@"
MOST_BYTES = 64 << 10


def secret(given: str, what: str) -> str:
    """Resolve an option's value: `-` reads stdin (hidden input on a terminal), `@FILE` reads a file, else the value.

    `what` names the value in prompts and errors, such as "the invitation".

    Raises:
        UserError: The file cannot be read, or other users can read it.
    """
    if given == STDIN:
        return _piped() if not sys.stdin.isatty() else str(typer.prompt(what, hide_input=True, err=True)).strip()
    return of_file(Path(given[1:]), f"{what} in {given[1:]}").strip() if given.startswith(AT_FILE) else given


def stands_in_the_open(given: str) -> bool:
    """Return whether an option's value is visible in the list of processes."""
    return bool(given) and given != STDIN and not given.startswith(AT_FILE)


def text(given: str, what: str) -> str:
    """Resolve an option's value: `-` reads stdin, anything else is the value."""
    if given != STDIN:
        return given
    return _piped() if not sys.stdin.isatty() else str(typer.prompt(what, err=True)).strip()


def of_file(file: Path, what: str) -> str:
    """Read a private file.

    Raises:
        UserError: It cannot be read, or other users can read it.
    """
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
