"""How often somebody may do something, and what is counted, in one line, of those who do it more often."""

import asyncio
import logging
import threading
from collections import Counter, OrderedDict
from collections.abc import Callable
from typing import NamedTuple

from ynet.errors import UserError

log = logging.getLogger("ynet.runtime.rates")
MOST_WATCHED = 4_096
"""Names that are told apart at a time: who has not come for the longest is forgotten, which fills his bucket."""
FLUSH_EVERY_S = 60.0


class Rate(NamedTuple):
    """A token bucket: so many at once, and so many a second in the long run."""

    burst: float
    per_s: float


class Buckets:
    """One bucket for each name, in bounded memory. `now` is in seconds of a clock that never goes back."""

    def __init__(self, rate: Rate) -> None:
        self._rate = rate
        self._left: OrderedDict[str, tuple[float, float]] = OrderedDict()  # name: tokens, and when that was so

    def take(self, name: str, now: float) -> bool:
        """Whether there is a token, which is then taken."""
        left, since = self._left.pop(name, (self._rate.burst, now))
        left = min(self._rate.burst, left + (now - since) * self._rate.per_s)
        may = left >= 1
        self._left[name] = (left - may, now)
        if len(self._left) > MOST_WATCHED:
            self._left.popitem(last=False)
        return may


class Restraint:
    """Lets each name do something at its rate, and all together at theirs; tells how often it did not. Thread-safe."""

    def __init__(
        self,
        each: Rate,
        together: Rate,
        tell: Callable[[str, int], None],
        clock: Callable[[], float],
    ) -> None:
        """`tell` is given a name and how often it was refused since it was last told of; it may raise UserError."""
        self._each, self._together = Buckets(each), Buckets(together)
        self._tell, self._clock = tell, clock
        self._lock, self._refused = threading.Lock(), Counter[str]()

    def admits(self, name: str) -> bool:
        """Whether it may be done now. A no costs a few bytes of memory, and nothing else."""
        now = self._clock()
        with self._lock:
            if self._each.take(name, now) and self._together.take("", now):
                return True
            self.refused(name)
            return False

    def refused(self, name: str) -> None:
        """Count one more that was refused, here or for another reason."""
        self._refused[name if name in self._refused or len(self._refused) < MOST_WATCHED else ""] += 1

    def flush(self) -> None:
        """Tell of those that were refused: once of each name, however often it was."""
        with self._lock:
            refused, self._refused = self._refused, Counter[str]()
        for name, count in sorted(refused.items()):
            try:
                self._tell(name, count)
            except UserError as error:  # the disk is full: it is told when it is not
                log.warning("what was refused could not be written down: %s", error.why)
                with self._lock:
                    self._refused[name] += count

    async def keep_telling(self, every_s: float = FLUSH_EVERY_S) -> None:
        """Tell of them now and then; for ever."""
        while True:
            await asyncio.sleep(every_s)
            await asyncio.to_thread(self.flush)
