"""Lines that synchronous tests can cut: one for each site, in a thread."""

import asyncio
import threading
from collections.abc import Awaitable, Callable
from types import TracebackType
from typing import TypeVar

import broken_line

T = TypeVar("T")
SLOW_BYTES_PER_S = 200_000.0


class Line:
    """One site's connection to the server. Any thread may call."""

    def __init__(self, loop: asyncio.AbstractEventLoop, line: broken_line.Line) -> None:
        self._loop, self._line = loop, line
        self.address = line.address

    def cut(self) -> None:
        """Break every connection; new ones pass."""
        self._loop.call_soon_threadsafe(self._line.cut)

    def away(self, *, is_away: bool) -> None:
        """Set whether all connections are blocked."""
        self._line.is_cut = is_away
        if is_away:
            self.cut()

    def slow(self, *, is_slow: bool) -> None:
        """Set whether it carries only SLOW_BYTES_PER_S, in each direction."""
        self._line.bytes_per_s = SLOW_BYTES_PER_S if is_slow else None


class Lines:
    """The thread of all lines; a context manager."""

    def __enter__(self) -> "Lines":
        self._loop, self._lines = asyncio.new_event_loop(), list[broken_line.Line]()
        self._thread = threading.Thread(target=self._loop.run_forever, name="lines", daemon=True)
        self._thread.start()
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        for line in self._lines:
            self._do(line.stop)
        self._do(_settled)
        self._loop.call_soon_threadsafe(self._loop.stop)
        self._thread.join()
        self._loop.close()

    def to(self, port: int) -> Line:
        """Open a new line to a local port."""
        line = broken_line.Line(port, None, None)
        self._do(line.start)
        self._lines.append(line)
        return Line(self._loop, line)

    def _do(self, what: Callable[[], Awaitable[T]]) -> T:
        async def run() -> T:
            return await what()

        return asyncio.run_coroutine_threadsafe(run(), self._loop).result(10)


async def _settled() -> None:
    """Wait until the reset connections are closed, which takes the loop another iteration or two."""
    await asyncio.sleep(0.1)
