"""Checks whether the process behind a site's stream still answers, before another process may replace it.

A site has one process. A second process with the same identity is either a copy of its folder, or the same site after a
restart whose old connection broke unnoticed. In the first case the old process answers at once, in the second never.
This takes seconds; pings on an idle connection need half a minute.
"""

import asyncio
from collections.abc import Callable

ANSWER_WITHIN_S = 8.0


class Liveness:
    """The liveness of one stream. Lives in one event loop; several callers may ask at once."""

    def __init__(self) -> None:
        self._asked: asyncio.Future[bool] | None = None

    async def answers(self, ask: Callable[[], bool], within_s: float) -> bool:
        """Return whether an answer comes in time. `ask` sends the question and returns whether it was sent."""
        if self._asked is None:
            self._asked = asyncio.get_running_loop().create_future()
            if not ask():
                self.settle(is_alive=False)
                return False
        try:
            return await asyncio.wait_for(asyncio.shield(self._asked), within_s)
        except TimeoutError:
            return False

    def settle(self, *, is_alive: bool) -> None:
        """Note that the answer has come, or that the stream has ended without one."""
        if self._asked is not None and not self._asked.done():
            self._asked.set_result(is_alive)
        self._asked = None
