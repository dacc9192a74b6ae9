"""Lines that can be cut: TCP proxies between sites and their server, one for each site, in a thread of their own."""

import asyncio
import contextlib
import threading
from collections.abc import Awaitable, Callable
from types import TracebackType
from typing import TypeVar

T = TypeVar("T")
PIECE_BYTES = 1 << 16


class Line:
    """One site's way to the server. Its methods may be called from any thread."""

    def __init__(self, loop: asyncio.AbstractEventLoop, to_port: int) -> None:
        self._loop, self._to_port = loop, to_port
        self._writers = set[asyncio.StreamWriter]()
        self._is_away, self._delay_s = False, 0.0
        self.port = 0

    async def open(self) -> None:
        """Listen on a free port."""
        self._server = await asyncio.start_server(self._carry, "127.0.0.1", 0)
        self.port = self._server.sockets[0].getsockname()[1]

    def cut(self) -> None:
        """Every connection breaks; new ones are let through."""
        self._loop.call_soon_threadsafe(self._break)

    def away(self, *, is_away: bool) -> None:
        """Whether no connection is let through."""
        self._is_away = is_away
        if is_away:
            self.cut()

    def slow(self, delay_s: float) -> None:
        """Each piece of up to 64 KiB waits so long."""
        self._delay_s = delay_s

    async def close(self) -> None:
        """Let nothing through any more."""
        self._server.close()
        self._break()

    def _break(self) -> None:
        for writer in self._writers:
            writer.transport.abort()

    async def _carry(self, reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        if self._is_away:
            writer.transport.abort()
            return
        try:
            far_reader, far_writer = await asyncio.open_connection("127.0.0.1", self._to_port)
        except OSError:
            writer.transport.abort()
            return
        ends = {writer, far_writer}
        self._writers |= ends
        there = asyncio.ensure_future(self._pass_on(reader, far_writer))
        back = asyncio.ensure_future(self._pass_on(far_reader, writer))
        await asyncio.wait([there, back], return_when=asyncio.FIRST_COMPLETED)
        for end in ends:
            end.transport.abort()
        await asyncio.wait([there, back])
        self._writers -= ends

    async def _pass_on(self, reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        with contextlib.suppress(OSError):
            while data := await reader.read(PIECE_BYTES):
                if self._delay_s:
                    await asyncio.sleep(self._delay_s)
                writer.write(data)
                await writer.drain()


class Lines:
    """The thread in which all lines live; used with `with`."""

    def __enter__(self) -> "Lines":
        self._loop, self._lines = asyncio.new_event_loop(), list[Line]()
        self._thread = threading.Thread(target=self._loop.run_forever, name="lines", daemon=True)
        self._thread.start()
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        for line in self._lines:
            self._do(line.close)
        self._do(_settle)
        self._loop.call_soon_threadsafe(self._loop.stop)
        self._thread.join()
        self._loop.close()

    def to(self, port: int) -> Line:
        """A new line to a port of this machine."""
        line = Line(self._loop, port)
        self._do(line.open)
        self._lines.append(line)
        return line

    def _do(self, what: Callable[[], Awaitable[T]]) -> T:
        async def run() -> T:
            return await what()

        return asyncio.run_coroutine_threadsafe(run(), self._loop).result(10)


async def _settle() -> None:
    """Every connection's tasks have ended."""
    others = asyncio.all_tasks() - {asyncio.current_task()}
    if others:
        await asyncio.wait(others, timeout=5)
