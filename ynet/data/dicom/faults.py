"""The errors of DICOM files that cannot be used."""

import struct
from collections.abc import Iterator
from contextlib import contextmanager


class UnfitError(Exception):
    """A DICOM file cannot be used; `why` and `do` hold nothing of its content."""

    def __init__(self, why: str, do: str) -> None:
        super().__init__(why)
        self.why, self.do = why, do


class DamagedError(UnfitError):
    """A DICOM file is truncated or invalid."""


def damaged() -> DamagedError:
    """Return the error for a truncated or invalid file."""
    return DamagedError("its data are damaged or cut short", "copy or export it again")


DAMAGED = (  # what parsers and decoders raise
    *(OSError, ValueError, TypeError, LookupError, ArithmeticError, AttributeError, EOFError, RuntimeError),
    *(MemoryError, struct.error, Warning),
)


@contextmanager
def parsing() -> Iterator[None]:
    """Turn the exceptions of parsers and decoders into an UnfitError, which quotes nothing of the file."""
    try:
        yield
    except DAMAGED:
        raise damaged() from None
