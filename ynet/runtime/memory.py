"""Giving freed memory back to the system, which the C library otherwise keeps, a pool for each thread."""

import ctypes
import sys


def give_back() -> None:
    """Return freed memory to the system: between two rounds, where large buffers have come and gone."""
    if _trim is not None:
        _trim(0)


def _find_trim() -> "ctypes._NamedFuncPointer | None":
    if not sys.platform.startswith("linux"):
        return None
    return getattr(ctypes.CDLL(None), "malloc_trim", None)  # glibc has it, musl does not need it


_trim = _find_trim()
