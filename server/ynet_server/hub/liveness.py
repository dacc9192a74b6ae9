"""Whether the process at the other end of a site's stream still answers: asked before another may take its place.

A site has one process. A second one that comes with the same identity is a copy of its folder, or the same site that
has restarted behind a line that broke without a word. The first answers at once, the second never: that tells them
apart, within seconds, where pings of an idle line need half a minute.
"""

import asyncio
from collections.abc import Callable

ANSWER_WITHIN_S = 8.0


class Liveness:
    """Of one stream. Lives in one event loop; many may ask at once."""

    def __init__(self) -> None:
        self._asked: asyncio.Future[bool] | None = None

    async def answers(self, ask: Callable[[], bool], within_s: float) -> bool:
        """Whether an answer comes in time. `ask` sends the question; whether it could."""
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
        """The answer has come, or none ever will: the stream has ended."""
        if self._asked is not None and not self._asked.done():
            self._asked.set_result(is_alive)
        self._asked = None
