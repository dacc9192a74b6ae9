"""Rate limits per name, and summaries of what they refused."""

import asyncio
import logging
import threading
from collections import Counter, OrderedDict
from collections.abc import Callable
from typing import NamedTuple

from ynet.errors import UserError

log = logging.getLogger("ynet.runtime.rates")
MOST_WATCHED = 4_096
"""Most names that are tracked. The least recently used one is dropped, which refills its bucket."""
FLUSH_EVERY_S = 60.0


class Rate(NamedTuple):
    """The size of a token bucket and its refill rate."""

    burst: float
    per_s: float


class Buckets:
    """One token bucket per name, in bounded memory. `now` is in seconds of a monotonic clock."""

    def __init__(self, rate: Rate) -> None:
        self._rate = rate
        self._left: OrderedDict[str, tuple[float, float]] = OrderedDict()  # name: tokens, and at what time

    def take(self, name: str, now: float) -> bool:
        """Take a token; return whether there was one."""
        left, since = self._left.pop(name, (self._rate.burst, now))
        left = min(self._rate.burst, left + (now - since) * self._rate.per_s)
        may = left >= 1
        self._left[name] = (left - may, now)
        if len(self._left) > MOST_WATCHED:
            self._left.popitem(last=False)
        return may


class Restraint:
    """A rate limit for each name and one for all names together, with reports of the refusals. Thread-safe."""

    def __init__(
        self,
        each: Rate,
        together: Rate,
        tell: Callable[[str, int], None],
        clock: Callable[[], float],
    ) -> None:
        """`tell` receives a name and its number of refusals since the last call; it may raise UserError."""
        self._each, self._together = Buckets(each), Buckets(together)
        self._tell, self._clock = tell, clock
        self._lock, self._refused = threading.Lock(), Counter[str]()

    def admits(self, name: str) -> bool:
        """Return whether the name is within its limits, and count a refusal. A refusal only costs a few bytes."""
        now = self._clock()
        with self._lock:
            if self._each.take(name, now) and self._together.take("", now):
                return True
            self.refused(name)
            return False

    def refused(self, name: str) -> None:
        """Count a refusal, by this limit or for another reason."""
        self._refused[name if name in self._refused or len(self._refused) < MOST_WATCHED else ""] += 1

    def flush(self) -> None:
        """Report the refusals, one report per name."""
        with self._lock:
            refused, self._refused = self._refused, Counter[str]()
        for name, count in sorted(refused.items()):
            try:
                self._tell(name, count)
            except UserError as error:  # the disk is full: report it later
                log.warning("refusals could not be logged: %s", error.why)
                with self._lock:
                    self._refused[name] += count

    async def keep_telling(self, every_s: float = FLUSH_EVERY_S) -> None:
        """Report the refusals every `every_s` seconds, forever."""
        while True:
            await asyncio.sleep(every_s)
            await asyncio.to_thread(self.flush)
