"""Retries for transient faults, such as an unavailable network share or a full disk."""

import asyncio
import random
import time
from collections.abc import Awaitable, Callable
from typing import TypeVar

from ynet.errors import UserError
from ynet.runtime import disk_faults

T = TypeVar("T")
FIRST_WAIT_S, LAST_WAIT_S = 0.5, 30.0
LONGEST_S = 3_600.0
SHARE = 0.9
"""The share of a task's time that retries may use; the rest is for the work itself."""

Pause = Callable[[float], Awaitable[None]]
"""Waits so many seconds. Raises an exception when the result is no longer wanted."""


class Patience:
    """Retries work until it succeeds or a time limit ends. The limit starts at the first fault, and resets on success.

    So a site whose data stay unavailable delays one round only: later calls fail at once.
    """

    def __init__(self, say: Callable[[str], None]) -> None:
        self._say = say
        self._since: float | None = None  # when the current fault was first seen, monotonic

    async def keep(self, work: Callable[[], Awaitable[T]], within_s: float, pause: Pause = asyncio.sleep) -> T:
        """Return the result of `work`, retried with exponential backoff and jitter while its faults are transient.

        Args:
            work: is called for each attempt.
            within_s: the time of the task; retries end after SHARE of it, at most LONGEST_S.
            pause: waits between attempts.

        Raises:
            Exception: the last one of `work`, when it is not transient or the time is over.
        """
        wait_s = FIRST_WAIT_S
        while True:
            try:
                done = await work()
            except Exception as error:
                left_s = self._left_s(within_s) if disk_faults.may_pass(error) else 0
                if left_s <= 0:
                    raise
                if wait_s == FIRST_WAIT_S:
                    self._say(f"{_in_words(error)}; tried again for {left_s:.0f} s")
            else:
                self._since = None
                return done
            await pause(min(left_s, wait_s * random.uniform(0.5, 1.5)))  # noqa: S311 (spreads the tries)
            wait_s = min(LAST_WAIT_S, 2 * wait_s)

    def _left_s(self, within_s: float) -> float:
        now = time.monotonic()
        if self._since is None:
            self._since = now
        return self._since + SHARE * min(within_s, LONGEST_S) - now


def _in_words(error: Exception) -> str:
    found = error if isinstance(error, UserError) else disk_faults.in_words(error)
    return f"{found.what}: {found.why}" if found else f"a file cannot be read: {type(error).__name__}"
