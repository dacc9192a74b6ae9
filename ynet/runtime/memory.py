"""Return freed memory to the system. Otherwise the C library keeps it, in a pool per thread."""

import ctypes
import sys


def give_back() -> None:
    """Return freed memory to the system, such as large buffers after a round."""
    if _trim is not None:
        _trim(0)


def _find_trim() -> "ctypes._NamedFuncPointer | None":
    if not sys.platform.startswith("linux"):
        return None
    return getattr(ctypes.CDLL(None), "malloc_trim", None)  # only glibc has and needs it


_trim = _find_trim()
