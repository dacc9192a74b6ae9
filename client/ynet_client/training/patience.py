"""Waits for faults that pass by themselves, a share that is away or a full disk, and tries again."""

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
"""Of the time that a task has: what succeeds later than that has no time left for its work."""

Pause = Callable[[float], Awaitable[None]]
"""Waits so many seconds; ends early, by an exception, when nobody wants the result any more."""


class Patience:
    """One site's. A fault is waited out once: the time begins when it is first seen, and ends with a success.

    A site whose data stay away does not keep every round waiting: after the first it says so at once.
    """

    def __init__(self, say: Callable[[str], None]) -> None:
        self._say = say
        self._since: float | None = None  # when the fault of the moment was first seen, in the monotonic clock's time

    async def keep(self, work: Callable[[], Awaitable[T]], within_s: float, pause: Pause = asyncio.sleep) -> T:
        """What `work` makes; tried again while it fails of what may pass, for SHARE of `within_s` since it first did.

        At most LONGEST_S. The tries are spaced exponentially, with jitter. Raises what `work` raises when it cannot
        pass, or the time is over.
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
    return f"{found.what}: {found.why}" if found else f"what is needed cannot be read: {type(error).__name__}"
