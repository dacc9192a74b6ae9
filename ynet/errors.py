"""Errors that the user can fix: what happened, why, and what to do."""

from typing import ClassVar

EXIT_OUR_FAULT = 1
EXIT_YOURS = 2
EXIT_REFUSED = 3
EXIT_UNREACHABLE = 4
MOST_SHOWN = 1_000
"""Most characters per line of an error."""


class UserError(Exception):
    """An error that the user can fix, shown as three lines without a traceback. Exit code 2.

    `what` happened, in one clause; `why`, the cause; `do`, a command or an edit that fixes it.
    """

    exit_code: ClassVar[int] = EXIT_YOURS

    def __init__(self, what: str, why: str, do: str) -> None:
        super().__init__(what, why, do)
        self.what, self.why, self.do = what, why, do

    def __str__(self) -> str:
        return f"error: {_line(self.what)}\n  why: {_line(self.why)}\n   do: {_line(self.do)}"


def _line(text: str) -> str:
    """Make a text safe for a terminal: without control characters, and not too long."""
    shown = text if len(text) <= MOST_SHOWN else f"{text[:MOST_SHOWN]}..."
    return "".join(c if c.isprintable() else " " for c in shown)


class RefusedError(UserError):
    """A policy, a plan or the other side refused. Exit code 3."""

    exit_code: ClassVar[int] = EXIT_REFUSED


class UnreachableError(UserError):
    """The other side could not be reached. Exit code 4."""

    exit_code: ClassVar[int] = EXIT_UNREACHABLE


class PassingError(UserError):
    """A failure that may pass without help, such as a full disk or an absent network share."""
