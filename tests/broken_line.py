"""TCP proxies between sites and a hub that are slow and cut repeatedly."""

import asyncio
import contextlib
from collections.abc import AsyncIterator
from contextlib import asynccontextmanager

PART_BYTES = 16 << 10


class Line:
    """A TCP proxy that counts bytes in both directions and cuts all connections on request or periodically."""

    def __init__(self, port: int, bytes_per_s: float | None, cut_every_s: float | None) -> None:
        self._port, self.bytes_per_s, self._cut_every_s = port, bytes_per_s, cut_every_s
        self._open: set[asyncio.StreamWriter] = set()
        self._passing: set[asyncio.Task[None]] = set()
        self.up_bytes = self.down_bytes = self.cuts = 0
        self.is_cut = False  # new connections are refused until it is False again

    @property
    def address(self) -> str:
        """Return the address on which the proxy listens."""
        return f"127.0.0.1:{self._server.sockets[0].getsockname()[1]}"

    def cut(self) -> None:
        """Reset every connection, as a firewall does."""
        self.cuts += bool(self._open)
        for writer in list(self._open):
            writer.transport.abort()

    async def start(self) -> None:
        self._server = await asyncio.start_server(self._connected, "127.0.0.1", 0, limit=PART_BYTES)
        self._cutting = asyncio.create_task(self._cut_again_and_again())

    async def stop(self) -> None:
        self._cutting.cancel()
        self._server.close()
        self.cut()
        for task in self._passing:
            task.cancel()
        await asyncio.gather(*self._passing, return_exceptions=True)

    async def _cut_again_and_again(self) -> None:
        while self._cut_every_s:
            await asyncio.sleep(self._cut_every_s)
            self.cut()

    async def _connected(self, reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        task = asyncio.current_task()
        assert task
        self._passing.add(task)
        task.add_done_callback(self._passing.discard)
        if self.is_cut:
            writer.transport.abort()
            return
        with contextlib.suppress(OSError, asyncio.CancelledError), contextlib.ExitStack() as ending:
            ending.callback(writer.transport.abort)  # even when the other end is closed
            other_reader, other_writer = await asyncio.open_connection("127.0.0.1", self._port, limit=PART_BYTES)
            both = {writer, other_writer}
            self._open |= both
            try:
                async with asyncio.TaskGroup() as group:
                    group.create_task(self._pass(reader, other_writer, is_up=True))
                    group.create_task(self._pass(other_reader, writer, is_up=False))
            except* OSError:
                pass
            finally:
                self._open -= both
                for one in both:
                    one.transport.abort()

    async def _pass(self, reader: asyncio.StreamReader, writer: asyncio.StreamWriter, *, is_up: bool) -> None:
        due = asyncio.get_running_loop().time()
        while data := await reader.read(PART_BYTES):
            if self.bytes_per_s:
                now = asyncio.get_running_loop().time()
                due = max(due, now - 0.05) + len(data) / self.bytes_per_s
                await asyncio.sleep(max(0.0, due - now))
            writer.write(data)
            await writer.drain()
            if is_up:
                self.up_bytes += len(data)
            else:
                self.down_bytes += len(data)
        raise ConnectionResetError


@asynccontextmanager
async def line_to(port: int, bytes_per_s: float | None = None, cut_every_s: float | None = None) -> AsyncIterator[Line]:
    """Open a line to a local port with this bandwidth in each direction, cut at this interval."""
    line = Line(port, bytes_per_s, cut_every_s)
    await line.start()
    try:
        yield line
    finally:
        await line.stop()
