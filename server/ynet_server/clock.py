"""The server's wall clock."""

import time


def now() -> float:
    """Seconds since 1970."""
    return time.time()
