"""The failures that are the user's to mend, each with what happened, why, and what to do."""

from typing import ClassVar

EXIT_OUR_FAULT = 1
EXIT_YOURS = 2
EXIT_REFUSED = 3
EXIT_UNREACHABLE = 4
MOST_SHOWN = 1_000
"""Characters of each of an error's lines."""


class UserError(Exception):
    """Something the user can mend. Shown as three lines; exit code 2, no traceback.

    `what` happened, in one clause; `why`, the cause found; `do`, a command or an edit that mends it.
    """

    exit_code: ClassVar[int] = EXIT_YOURS

    def __init__(self, what: str, why: str, do: str) -> None:
        super().__init__(what, why, do)
        self.what, self.why, self.do = what, why, do

    def __str__(self) -> str:
        return f"error: {_line(self.what)}\n  why: {_line(self.why)}\n   do: {_line(self.do)}"


def _line(text: str) -> str:
    """One line of a terminal: what stands in others' files is shown without its control characters, and not all."""
    shown = text if len(text) <= MOST_SHOWN else f"{text[:MOST_SHOWN]}..."
    return "".join(c if c.isprintable() else " " for c in shown)


class RefusedError(UserError):
    """A policy, a plan or the other side said no; exit code 3."""

    exit_code: ClassVar[int] = EXIT_REFUSED


class UnreachableError(UserError):
    """The other side could not be reached; exit code 4."""

    exit_code: ClassVar[int] = EXIT_UNREACHABLE


class PassingError(UserError):
    """What may succeed when it is tried again, without anybody's help: a disk that is full, a share that is away."""
